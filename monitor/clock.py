"""What time it is, as a parameter: wall clock for records and slots, a steady clock for waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    def now(self) -> datetime:
        """Aware, UTC."""
        ...

    def monotonic(self) -> float: ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def floor_to(when: datetime, seconds: int) -> datetime:
    """The last multiple of `seconds` since the epoch that is not after `when`.

    >>> floor_to(datetime(2026, 3, 1, 10, 7, tzinfo=UTC), 900).isoformat()
    '2026-03-01T10:00:00+00:00'
    """
    step = seconds * 1_000_000
    return EPOCH + ((when - EPOCH) // MICROSECOND // step * step) * MICROSECOND
