"""Processes that open bodies for the owner, so that one interpreter's lock is not the limit of what comes in.

The owner keeps what may be there once: limits, tokens, the key index, the transaction and the answer. A body that is being
opened is nowhere acknowledged yet, so a process that dies loses nothing: its sender is told to send again. While it is being
restarted the owner opens bodies itself, as it does where there are no such processes; but none that a process has died with,
which might kill the owner too. One that several have died with is refused for good.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime

from monitor import log
from monitor.blocks import Opened
from monitor.child import Child
from monitor.config import Config
from monitor.errors import ChildAway, ChildFailed, StoreUnavailable
from monitor.masking.policy import Count
from monitor.opener import Body, Features, Opener, Request
from monitor.records import Reject

TARGET = "monitor.opener:helper"
TIMEOUT_SECONDS = 60.0  # the longest body takes two; who takes longer than this hangs
DEATHS = 3  # with the same body in hand: then it is the body
SUSPECTS = 1000


def processes(asked: int | None) -> int:
    """How many to have: as asked for, else one for each two processors, and four at most."""
    return asked if asked is not None else max(1, min(4, len(os.sched_getaffinity(0)) // 2))


class Intake:
    """Any thread may call it."""

    def __init__(self, children: Sequence[Child], features: Callable[[], Features], count: Count) -> None:
        """`features`: by model, those that have a column; another object whenever they change. `count`: told what was masked."""
        self._features = features
        self._count = count
        self._free: queue.Queue[Child] = queue.Queue()
        for child in children:
            self._free.put(child)
        self._there = bool(children)
        self._told: dict[str, tuple[int | None, tuple[int, int]]] = {}  # by name, which process knows what
        self._known: tuple[int, Features] = (0, {})
        self._current: tuple[int, Config, Opener] | None = None
        self._lock = threading.Lock()
        self._suspects: OrderedDict[bytes, int] = OrderedDict()  # bodies by hash, and how many processes died with each

    def configure(self, config: Config) -> Opener:
        """Open what comes by this config from now on. Gives the owner's own opener."""
        lean = config.model_copy(update={"checks": (), "sources": ()})  # which may be of plug-ins that nobody needs there
        number = self._current[0] + 1 if self._current else 0
        opener = Opener(config, lambda model: self._features().get(model, {}), self._count)
        self._current = (number, lean, opener)
        self._suspects = OrderedDict()  # what else is recognised now may be what they died of
        return opener

    def open(self, body: Body, model: str | None, arrived_at: datetime) -> Opened:
        """
        Raises:
            StoreUnavailable: the process died of it or with it; nothing was taken.
        """
        assert self._current is not None
        opener = self._current[2]
        if not self._there:
            return opener.open(body, model, arrived_at)
        deaths = self._deaths(body)
        if deaths >= DEATHS:
            return _fatal(body, arrived_at, deaths)
        child = self._free.get()
        try:
            opened = self._ask(child, body, model, arrived_at)
        except ChildAway as exc:
            if deaths:
                raise StoreUnavailable(f"{exc}; a process died with this body, send it again") from exc
            return opener.open(body, model, arrived_at)
        except ChildFailed as exc:
            self._suspect(body)
            raise StoreUnavailable(f"{exc}; nothing was taken, send it again") from exc
        finally:
            self._free.put(child)
        if deaths:
            with self._lock:
                self._suspects.pop(_digest(body), None)
        for kind, many in opened.masked.items():
            self._count(kind, many)
        return opened

    def _ask(self, child: Child, body: Body, model: str | None, arrived_at: datetime) -> Opened:
        assert self._current is not None
        number, config, _ = self._current
        with self._lock:  # two senders at once must not give one number to two things
            features = self._features()
            if features is not self._known[1]:
                self._known = (self._known[0] + 1, features)
            known = self._known
        numbers = (number, known[0])
        whole = Request(body, model, arrived_at, numbers, config, known[1])
        process = child.pid
        opened: Opened | None = None
        if self._told.get(child.name) == (process, numbers):
            opened = child.call(Request(body, model, arrived_at, numbers), TIMEOUT_SECONDS)
        if opened is None:  # it was never told, or is another process by now
            opened = child.call(whole, TIMEOUT_SECONDS)
            self._told[child.name] = (process, numbers)
        return opened

    def _deaths(self, body: Body) -> int:
        """How many processes died with this body in hand."""
        return self._suspects.get(_digest(body), 0) if self._suspects else 0

    def _suspect(self, body: Body) -> None:
        digest = _digest(body)
        with self._lock:
            deaths = self._suspects[digest] = self._suspects.pop(digest, 0) + 1
            while len(self._suspects) > SUSPECTS:
                self._suspects.popitem(last=False)
        if deaths == DEATHS:
            log.error("a body is refused, as processes died with it", kind=body.kind, bytes=len(body.data), processes=deaths)


def _digest(body: Body) -> bytes:
    return hashlib.sha256(f"{body.kind} {body.content_type}\n".encode(errors="surrogatepass") + body.data).digest()


def _fatal(body: Body, arrived_at: datetime, deaths: int) -> Opened:
    """Nobody looks into it any more, so it cannot be masked either, and none of it may be kept."""
    message = f"{deaths} processes died with this body in hand, of {len(body.data)} bytes; send its records in smaller batches"
    reject = Reject(0, "undecodable", message, None, None, len(body.data))
    return Opened(body.kind, arrived_at, 1, {}, [reject], failed=(400, "undecodable", message))
