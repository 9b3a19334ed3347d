"""The same hours of earlier weeks, by the clock on a wall: what is usual on a Monday at nine.

Traffic follows people, and people follow local time. So a week is seven days of the calendar of a time zone, be it an hour
shorter or longer for a change of the clocks.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

Span = tuple[datetime, datetime]

WEEK = timedelta(days=7)
WEEK_SECONDS = 604_800
DAY = timedelta(days=1)
CHANGE = timedelta(hours=1)
"""No change of the clocks is larger."""


def weeks_before(start: datetime, end: datetime, weeks: int, zone: ZoneInfo) -> list[Span]:
    """[start, end) in each of so many weeks before, the earliest first. A week in which that hour was skipped is left out.

    Windows of a day and more begin and end by the clock; shorter ones keep their length.

    >>> berlin = ZoneInfo("Europe/Berlin")
    >>> nine = datetime(2026, 3, 30, 7, tzinfo=UTC)  # nine o'clock, the day after the clocks went forward
    >>> [when.isoformat() for when in weeks_before(nine, nine + timedelta(hours=1), 1, berlin)[0]]
    ['2026-03-23T08:00:00+00:00', '2026-03-23T09:00:00+00:00']
    """
    spans = []
    for week in range(weeks, 0, -1):
        first = _shifted(start, week, zone)
        last = _shifted(end, week, zone) if end - start >= DAY else first and first + (end - start)
        if first is not None and last is not None:
            spans.append((first, last))
    return spans


def _shifted(when: datetime, weeks: int, zone: ZoneInfo) -> datetime | None:
    """None for a time that the clocks skipped."""
    local = when.astimezone(zone)
    wall = local.replace(tzinfo=None) - weeks * WEEK
    found = wall.replace(tzinfo=zone, fold=local.fold).astimezone(UTC)
    return found if found.astimezone(zone).replace(tzinfo=None, fold=0) == wall else None
