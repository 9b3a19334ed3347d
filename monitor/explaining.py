"""Whose turn it is to look into why something fired.

That takes seconds of a processor, and nobody is woken later for it: readings that are due come first. Fifty incidents of one hour
are explained one after the other, once that hour is read, and where windows are read without end in a tenth of the time.
"""

from __future__ import annotations

import threading

from monitor.clock import Clock

QUIET_SECONDS = 2.0  # since another check has last read a window: those of one slot follow each other more closely
PATIENCE_SECONDS = 60.0  # where there is never as much quiet
REST = 9.0  # times as long as the last one took, the next leaves the processor to windows that are being read


class Explaining:
    """Of all checks. Any thread may call it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._busy = False
        self._begun = 0.0
        self._rested = float("-inf")  # when the next may begin although others read
        self._read: dict[str, float] = {}
        self._asked: dict[str, float] = {}

    def read(self, check: str) -> None:
        """A check has read windows just now, or begins to."""
        with self._lock:
            self._read[check] = self._clock.monotonic()

    def begin(self, check: str) -> bool:
        """Whether it is the turn of this check, which then calls `end`."""
        now = self._clock.monotonic()
        with self._lock:
            since = self._asked.setdefault(check, now)
            if self._busy:
                return False
            others = max((at for other, at in self._read.items() if other != check), default=float("-inf"))
            if now - others < QUIET_SECONDS and (now - since < PATIENCE_SECONDS or now < self._rested):
                return False
            self._busy, self._begun = True, now
            del self._asked[check]
            return True

    def end(self) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._busy = False
            self._rested = now + REST * (now - self._begun)
