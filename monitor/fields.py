"""Single values of a record, checked: each is returned in the form it is stored in, or refused with a reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from monitor.genai.values import MAX_AMOUNT
from monitor.keys import hash64

EARLIEST, LATEST = datetime(1000, 1, 1, tzinfo=UTC), datetime(5000, 1, 1, tzinfo=UTC)  # windows around it must have dates too
SAFE_INTEGER = 2**53
MAX_FEATURE_NAME = 128


class Rejected(Exception):
    """One record cannot be taken. `message` names field, value and remedy."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def content_hash(item: Mapping[str, Any]) -> int:
    """Hash of the whole record, whatever the order of its keys."""
    return hash64(json_text(item))


def json_text(item: Mapping[str, Any]) -> str:
    """With sorted keys."""
    try:
        return orjson.dumps(item, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError as exc:
        reason = "invalid_utf8" if "UTF-8" in str(exc) else "too_large"
        raise Rejected(reason, f"the record is nested too deep, or holds what JSON cannot say: {exc}; send flat records") from exc


def timestamp(value: Any, received_at: datetime) -> datetime:
    if value is None:
        return received_at
    try:
        if isinstance(value, str):
            when = datetime.fromisoformat(value)
            if when.tzinfo is None:
                raise Rejected("bad_timestamp", f"timestamp: {shown(value)} has no time zone; end it with Z or an offset")
            if not EARLIEST <= when < LATEST:
                raise Rejected(
                    "bad_timestamp", f"timestamp: {shown(value)} is outside the years {EARLIEST.year} to {LATEST.year}"
                )
            return when.astimezone(UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < LATEST.timestamp():
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value)
    except (ValueError, OverflowError) as exc:
        raise Rejected("bad_timestamp", f"timestamp: {shown(value)} is no RFC 3339 time ({exc})") from exc
    raise Rejected("bad_timestamp", f"timestamp: {shown(value)} is neither an RFC 3339 time nor seconds since 1970")


def finite(value: float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Rejected("not_finite", f"{where}: {shown(value)} is not finite; leave it out or send null where it is missing")
    return number


def optional_number(item: Mapping[str, Any], name: str) -> float | None:
    value = item.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Rejected("wrong_type", f"{name}: {shown(value)} is not a number")
    return finite(value, name)


def amount(item: Mapping[str, Any], name: str) -> float | None:
    """Of money or seconds: what is added up, in counters that cannot go down and lose all else to one absurd number."""
    value = optional_number(item, name)
    if value is not None and not 0 <= value <= MAX_AMOUNT:
        raise Rejected("wrong_type", f"{name}: {shown(item[name])} is not a number from 0 to {MAX_AMOUNT:.0e}")
    return value


def whole(item: Mapping[str, Any], name: str, most: int = SAFE_INTEGER) -> int | None:
    value = optional_number(item, name)
    if value is None:
        return None
    if value != int(value) or not 0 <= value <= most:
        raise Rejected("wrong_type", f"{name}: {shown(item[name])} is not a whole number from 0 to {most}")
    return int(value)


def columnable(feature: str) -> bool:
    """Whether a feature of this name can have a column."""
    return 0 < len(feature) <= MAX_FEATURE_NAME and feature.isprintable()


def last_user_text(messages: Iterable[Any]) -> str | None:
    texts = [m["content"] for m in messages if isinstance(m, dict) and m.get("role") == "user" and "content" in m]
    return texts[-1] if texts and isinstance(texts[-1], str) else None


def shown(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = "what is nested too deep to be shown"
    return text if len(text) <= 80 else text[:77] + "..."
