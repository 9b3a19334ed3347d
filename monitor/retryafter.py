"""The header Retry-After (RFC 9110, section 10.2.3): when somebody who did not take a thing wants to be asked again."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def seconds(header: str | None, now: datetime) -> float | None:
    """From `now` on, never below 0; None where it is not there, or is neither a number of seconds nor a date.

    >>> seconds("120", datetime(2026, 1, 1, tzinfo=UTC)), seconds("soon", datetime(2026, 1, 1, tzinfo=UTC))
    (120.0, None)
    >>> seconds("Thu, 01 Jan 2026 00:01:00 GMT", datetime(2026, 1, 1, tzinfo=UTC))
    60.0
    """
    told = (header or "").strip()
    if told.isascii() and told.isdecimal():
        return float(told)
    try:
        at = parsedate_to_datetime(told)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() - now.timestamp())
