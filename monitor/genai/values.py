"""Values of attributes, each read in the form a column wants; None where the value is of another form."""

from __future__ import annotations

import math
from typing import Any

MAX_NAME = 1024  # of a name or an id; the rest of a longer one is cut off
MAX_COUNT = 2**53
MAX_AMOUNT = 1e12  # of money or of seconds

FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def as_is(value: Any) -> Any:
    return value if value not in ("", None) else None


def name(value: Any) -> str | None:
    """A short text; the first of a list; out of its JSON quotes, which MLflow writes around every value.

    >>> name('"LLM"'), name(["stop"]), name(" "), name(3)
    ('LLM', 'stop', None, '3')
    """
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 1 and text[0] == '"' == text[-1]:
            text = text[1:-1]
        if not text or "base64," in text:  # bytes are no name
            return None
        return text[:MAX_NAME]
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else None
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
        return name(value[0])
    return None


def count(value: Any) -> int | None:
    """A whole number from 0 to 2^53; a text of digits counts, since JSON carries large integers so.

    >>> count("12"), count(3.0), count(-1), count(True), count("1e3")
    (12, 3, None, None, None)
    """
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit()) or len(value) > 16:
            return None
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
        return None
    return int(value) if 0 <= value <= MAX_COUNT else None


def number(value: Any) -> float | None:
    """A finite number; text of one counts."""
    if isinstance(value, str):
        if len(value) > 32:
            return None
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e308:
        return None
    return float(value)


def amount(value: Any) -> float | None:
    """A number from 0 to the largest that is no mistake, of money or of seconds."""
    found = number(value)
    return found if found is not None and 0 <= found <= MAX_AMOUNT else None


def flag(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return FLAGS.get(value.strip().lower())
    if isinstance(value, (int, float)):
        return value != 0
    return None
