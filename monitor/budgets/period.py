"""Days and months by the clock of a time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from monitor.budgets.config import Period


def around(now: datetime, period: Period, timezone: str) -> tuple[datetime, datetime]:
    """First instant of the period that holds `now`, and first instant after it.

    Days are as long as they are there: 23 or 25 hours when the clock is changed.

    >>> start, end = around(datetime(2026, 3, 29, 12, tzinfo=UTC), "day", "Europe/Berlin")
    >>> start.isoformat(), (end - start).total_seconds() / 3600
    ('2026-03-28T23:00:00+00:00', 23.0)
    >>> [one.isoformat() for one in around(datetime(2026, 12, 31, 23, tzinfo=UTC), "month", "UTC")]
    ['2026-12-01T00:00:00+00:00', '2027-01-01T00:00:00+00:00']
    """
    zone = ZoneInfo(timezone)
    first = now.astimezone(zone).date()
    if period == "month":
        first = first.replace(day=1)
        after = (first + timedelta(days=31)).replace(day=1)
    else:
        after = first + timedelta(days=1)
    start, end = (datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC) for day in (first, after))
    return start, end
