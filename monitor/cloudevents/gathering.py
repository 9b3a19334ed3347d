"""What several senders sent at about the same time, gathered for one piece of work.

Loggers send each event by itself, and a transaction of one event costs as much as one of fifty. While a group is worked on the
next one gathers, so the busier it is the larger they are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from monitor.cloudevents.halves import Half
from monitor.errors import StoreUnavailable
from monitor.records import Reject

GROUP_EVENTS = 1_000


@dataclass(slots=True)
class Entry:
    """One sender's events, on their way."""

    halves: list[Half]
    rejects: list[Reject]  # events that are no good
    model: str | None  # for services that are none
    size: int
    waiting: int = 0
    duplicates: int = 0
    pairs: list[tuple[Half, Half, int]] = field(default_factory=list)  # request, response, place of the later one
    done: Future[Any] = field(default_factory=Future)


class Gathering:
    """One thread, from the first entry on."""

    def __init__(self, work: Callable[[Sequence[Entry]], None]) -> None:
        """`work` sees to it that each entry is `done`, then or later; what it raises is the answer to all of them."""
        self._work = work
        self._queue: deque[Entry] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="pairing", daemon=True)

    def add(self, entry: Entry) -> Future[Any]:
        entry.done.set_running_or_notify_cancel()  # a client that goes away must not cancel what is being stored
        with self._wake:
            if self._closing:
                raise StoreUnavailable("shutting down; send it again")
            if self._thread.ident is None:
                self._thread.start()
            self._queue.append(entry)
            self._wake.notify()
        return entry.done

    def stop(self) -> None:
        """Work off what was added."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while group := self._next():
            try:
                self._work(group)
            except Exception as exc:
                for entry in group:
                    if not entry.done.done():
                        entry.done.set_exception(exc)

    def _next(self) -> list[Entry]:
        with self._wake:
            while not self._queue and not self._closing:
                self._wake.wait()
            group: list[Entry] = []
            events = 0
            while self._queue and (not group or events + len(self._queue[0].halves) <= GROUP_EVENTS):
                group.append(self._queue.popleft())
                events += len(group[-1].halves)
            return group
