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
from dataclasses import dataclass
from datetime import datetime

from monitor import log
from monitor.blocks import Opened
from monitor.child import Child, OutOfMemory
from monitor.clock import Clock
from monitor.config import Config
from monitor.errors import ChildAway, ChildFailed, StoreUnavailable
from monitor.masking.masking import Masking
from monitor.masking.policy import Count
from monitor.opener import Body, Features, Opener, Request, limit_seconds
from monitor.records import Reject

TARGET = "monitor.opener:helper"
PATIENCE = 10.0
"""Times the processor seconds that a body may take: who has not answered by then hangs, and is killed. So much, because a process
that gets a tenth of a processor is as good as any other, and so is the body in its hand."""
HANGING_SHARE = 0.25  # of the processor seconds: from then on others are not left to wait for it
LOOK_SECONDS = 0.5
DEATHS = 3  # failures with the same body in hand: then it is the body
SUSPECTS = 1000


def processes(asked: int | None) -> int:
    """How many to have: as asked for, else one for each two processors, from two to four. With a single one it stands idle while
    the owner takes what it has made and hands it the next body. (One processor: one.)"""
    there = len(os.sched_getaffinity(0))
    return asked if asked is not None else min(there, max(2, min(4, there // 2)))


@dataclass(frozen=True, slots=True)
class Generation:
    """What bodies are opened by: of one config. A body keeps that which there was when it came, whatever is loaded meanwhile."""

    number: int
    config: Config
    opener: Opener
    """The owner's own."""
    uncounted: Masking
    """For what is masked once more, as it was counted the first time."""


class Intake:
    """Any thread may call it."""

    def __init__(
        self,
        children: Sequence[Child],
        features: Callable[[], Features],
        count: Count,
        *,
        clock: Clock,
        spare: Callable[[], Child] | None = None,
    ) -> None:
        """`features`: by model, those that have a column; another object whenever they change. `count`: told what was masked.
        `spare`: starts one more process, for when all of them hang."""
        self._features = features
        self._count = count
        self._clock = clock
        self._spare = spare
        self._children = list(children)
        self._free: queue.Queue[Child] = queue.Queue()
        for child in children:
            self._free.put(child)
        self._hangs_from: dict[str, float] = {}  # by name, when what it has in hand is taken for something that hangs it
        self._told: dict[str, tuple[int | None, tuple[int, int]]] = {}  # by name, which process knows what
        self._known: tuple[int, Features] = (0, {})
        self._configured = 0
        self._lock = threading.Lock()
        self._suspects: OrderedDict[bytes, tuple[int, bool]] = OrderedDict()  # bodies by hash; see `_deaths`

    def configure(self, config: Config) -> Generation:
        """What bodies that come from now on are to be opened by."""
        lean = config.model_copy(update={"checks": (), "sources": ()})  # which may be of plug-ins that nobody needs there
        opener = Opener(config, lambda model: self._features().get(model, {}), self._count)
        self._configured += 1
        self._suspects = OrderedDict()  # what else is recognised now may be what they failed on
        return Generation(self._configured, lean, opener, Masking(config, lambda kind, many: None))

    def open(self, generation: Generation, body: Body, model: str | None, arrived_at: datetime) -> Opened:
        """
        Raises:
            StoreUnavailable: the process died of it or with it, or had not enough memory; nothing was taken.
        """
        if not self._children:
            return generation.opener.open(body, model, arrived_at)
        deaths, short = self._deaths(body)
        if deaths >= DEATHS:
            return _fatal(body, arrived_at, deaths, short)
        child = self._process()
        self._hangs_from[child.name] = self._clock.monotonic() + limit_seconds(len(body.data)) * HANGING_SHARE
        try:
            opened = self._ask(child, generation, body, model, arrived_at)
        except ChildAway as exc:
            if deaths:
                raise StoreUnavailable(f"{exc}; a process failed on this body, send it again") from exc
            return generation.opener.open(body, model, arrived_at)
        except (ChildFailed, OutOfMemory) as exc:
            self._suspect(body, short=isinstance(exc, OutOfMemory))
            raise StoreUnavailable(f"{exc}; nothing was taken, send it again") from exc
        finally:
            self._hangs_from.pop(child.name, None)
            self._free.put(child)
        if deaths:
            with self._lock:
                self._suspects.pop(_digest(body), None)
        for kind, many in opened.masked.items():
            self._count(kind, many)
        return opened

    def _process(self) -> Child:
        """One that has nothing to do."""
        while True:
            try:
                return self._free.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                self._relieve()

    def _relieve(self) -> None:
        """Start the spare process, once, where all others have had their body in hand for too long."""
        with self._lock:
            if self._spare is None or len(self._hangs_from) < len(self._children):
                return
            if self._clock.monotonic() < max(self._hangs_from.copy().values(), default=float("inf")):
                return
            start, self._spare = self._spare, None
            child = start()
            self._children.append(child)
        log.warning("the processes that open bodies hang; one more is started", processes=len(self._children))
        self._free.put(child)

    def _ask(self, child: Child, generation: Generation, body: Body, model: str | None, arrived_at: datetime) -> Opened:
        with self._lock:  # two senders at once must not give one number to two things
            features = self._features()
            if features is not self._known[1]:
                self._known = (self._known[0] + 1, features)
            known = self._known
        numbers = (generation.number, known[0])
        whole = Request(body, model, arrived_at, numbers, generation.config, known[1])
        process, limit = child.pid, limit_seconds(len(body.data)) * PATIENCE
        opened: Opened | None = None
        if self._told.get(child.name) == (process, numbers):
            opened = child.call(Request(body, model, arrived_at, numbers), limit)
        if opened is None:  # it was never told, or is another process by now
            opened = child.call(whole, limit)
            self._told[child.name] = (process, numbers)
        return opened

    def _deaths(self, body: Body) -> tuple[int, bool]:
        """How many processes failed on this body, and whether the last of them for want of memory."""
        return self._suspects.get(_digest(body), (0, False)) if self._suspects else (0, False)

    def _suspect(self, body: Body, *, short: bool) -> None:
        digest = _digest(body)
        with self._lock:
            deaths = self._suspects.pop(digest, (0, False))[0] + 1
            self._suspects[digest] = deaths, short
            while len(self._suspects) > SUSPECTS:
                self._suspects.popitem(last=False)
        if deaths == DEATHS:
            log.error("a body is refused, as processes failed on it", kind=body.kind, bytes=len(body.data), processes=deaths)


def _digest(body: Body) -> bytes:
    return hashlib.sha256(f"{body.kind} {body.content_type}\n".encode(errors="surrogatepass") + body.data).digest()


def _fatal(body: Body, arrived_at: datetime, deaths: int, short: bool) -> Opened:
    """Nobody looks into it any more, so it cannot be masked either, and none of it may be kept."""
    status, reason = (413, "too_large") if short else (400, "undecodable")
    message = f"{deaths} processes failed on this body, of {len(body.data)} bytes"
    message += " and too little memory for it; send smaller batches" if short else "; send its records in smaller batches"
    reject = Reject(0, reason, message, None, None, len(body.data))
    return Opened(body.kind, arrived_at, 1, {}, [reject], failed=(status, reason, message))
