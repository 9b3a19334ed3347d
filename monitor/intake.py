"""Processes that open bodies for the owner, so that one interpreter's lock is not the limit of what comes in.

The owner keeps what may be there once: limits, tokens, the key index, the transaction and the answer. A body that is being
opened is nowhere acknowledged yet, so a process that dies loses nothing: its sender is told to send again. While it is being
restarted the owner opens bodies itself, as it does where there are no such processes.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from datetime import datetime

from monitor.blocks import Opened
from monitor.child import Child
from monitor.config import Config
from monitor.errors import ChildAway, ChildFailed, StoreUnavailable
from monitor.masking.policy import Count
from monitor.opener import Body, Features, Opener, Request

TARGET = "monitor.opener:helper"
TIMEOUT_SECONDS = 60.0  # the longest body takes two; who takes longer than this hangs


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

    def configure(self, config: Config) -> Opener:
        """Open what comes by this config from now on. Gives the owner's own opener."""
        lean = config.model_copy(update={"checks": (), "sources": ()})  # which may be of plug-ins that nobody needs there
        number = self._current[0] + 1 if self._current else 0
        opener = Opener(config, lambda model: self._features().get(model, {}), self._count)
        self._current = (number, lean, opener)
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
        child = self._free.get()
        try:
            opened = self._ask(child, body, model, arrived_at)
        except ChildAway:
            return opener.open(body, model, arrived_at)
        except ChildFailed as exc:
            raise StoreUnavailable(f"{exc}; nothing was taken, send it again") from exc
        finally:
            self._free.put(child)
        for kind, many in opened.masked.items():
            self._count(kind, many)
        return opened

    def _ask(self, child: Child, body: Body, model: str | None, arrived_at: datetime) -> Opened:
        assert self._current is not None
        number, config, _ = self._current
        features = self._features()
        if features is not self._known[1]:
            self._known = (self._known[0] + 1, features)
        numbers = (number, self._known[0])
        whole = Request(body, model, arrived_at, numbers, config, self._known[1])
        process = child.pid
        opened: Opened | None = None
        if self._told.get(child.name) == (process, numbers):
            opened = child.call(Request(body, model, arrived_at, numbers), TIMEOUT_SECONDS)
        if opened is None:  # it was never told, or is another process by now
            opened = child.call(whole, TIMEOUT_SECONDS)
            self._told[child.name] = (process, numbers)
        return opened
