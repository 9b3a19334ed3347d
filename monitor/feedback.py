"""Feedback: what a human, a user or another tool says of a record, pushed or found in a span.

It joins to its record by `model` and `record_id`; what is about a whole trace, by `trace_id`. One who changes their mind sends a
higher `revision`; the highest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson

from monitor.fields import Rejected, finite, json_text, shown, timestamp, whole
from monitor.keys import hash64

Text = Callable[[dict[str, Any], str], str | None]
"""(record, field) -> its text, checked; raises `Rejected`."""

Keyed = tuple[int, int, dict[str, Any]]
"""Key hash, content hash, columns."""

MAX_REVISION = 2**31 - 1
MAX_SHORT = 256
_SHORT = ("feedback_id", "name", "source", "rater", "trace_id", "span_id")
_FIELDS = frozenset({*_SHORT, "record_id", "model", "timestamp", "value", "label", "comment", "revision"})


def read(item: dict[str, Any], record_id: str | None, received_at: datetime, text: Text) -> Keyed:
    """One that was pushed; `record_id` is the checked one, if it has any.

    Raises:
        Rejected: it cannot be taken.
    """
    short = {name: text(item, name) for name in _SHORT}
    for name, one in short.items():
        if one is not None and len(one) > MAX_SHORT:
            raise Rejected("too_large", f"{name}: {len(one)} characters; the limit is {MAX_SHORT}")
    # As OpenTelemetry writes ids, so that they join.
    trace_id, span_id = ((short[name] or "").lower() or None for name in ("trace_id", "span_id"))
    record_id = record_id or (f"{trace_id}-{span_id}" if trace_id and span_id else None)
    if record_id is None and trace_id is None:
        raise Rejected("missing_id", "neither record_id nor trace_id; say which record or trace it is about")
    if not short["name"]:
        raise Rejected("missing_field", "name is missing; say what is judged, such as helpfulness")
    label, comment = text(item, "label"), text(item, "comment")
    value = _number(item.get("value"))
    if value is None and label is None and comment is None:
        raise Rejected("missing_field", "neither value, label nor comment; send at least one")
    revision = whole(item, "revision", MAX_REVISION) or 0
    extra = {k: v for k, v in item.items() if k not in _FIELDS}
    values: dict[str, Any] = {
        **short,
        "record_id": record_id,
        "trace_id": trace_id,
        "span_id": span_id,
        "source": (short["source"] or "user").lower(),
        "value": value,
        "label": label,
        "comment": comment,
        "revision": revision,
        "event_time": timestamp(item.get("timestamp"), received_at),
        "attributes": json_text(extra) if extra else None,
    }
    return _key(values), _content(values), values


def inline(record_id: str, trace_id: str, span_id: str, score: Mapping[str, Any], at: datetime) -> Keyed | None:
    """A score that a span carries: `name`, `value`, `label`, `comment`, `source`, `rater`. None when nothing is left of it
    once what has the wrong shape is left out; the span's attributes have it still."""
    value = score.get("value")
    try:
        number = _number(value)
    except Rejected:
        number = None
    words = {name: score.get(name) for name in ("name", "label", "comment", "source", "rater", "feedback_id")}
    texts = {name: one if isinstance(one, str) and one else None for name, one in words.items()}
    if isinstance(value, str):
        texts["label"] = texts["label"] or value or None
    if not texts["name"] or (number is None and texts["label"] is None and texts["comment"] is None):
        return None
    for name in ("name", "source", "rater", "feedback_id"):
        texts[name] = texts[name] and str(texts[name])[:MAX_SHORT]
    extra = {k: v for k, v in score.items() if k not in words and k != "value" and v is not None}
    values: dict[str, Any] = {
        **texts,
        "record_id": record_id,
        "trace_id": trace_id,
        "span_id": span_id,
        "source": (texts["source"] or "tool").lower(),
        "value": number,
        "revision": 0,
        "event_time": at,
        "attributes": _json(extra) if extra else None,
    }
    content = _content(values)
    if values["feedback_id"] is None:
        # A span can be scored twice under one name, and nothing but what they say tells the two apart.
        return _key(values, f"{content:016x}"), content, values
    return _key(values), content, values


def _key(values: Mapping[str, Any], unnamed: str = "") -> int:
    about = values["record_id"] or values["trace_id"]
    who = [values[name] or "" for name in ("name", "source", "rater")]
    return hash64(about, *who, values["feedback_id"] or unnamed, str(values["revision"]))


def _content(values: Mapping[str, Any]) -> int:
    # The time is not part of what is said, as with labels.
    return hash64(*(repr(values[name]) for name in ("value", "label", "comment")))


def _json(values: Mapping[str, Any]) -> str | None:
    try:
        return orjson.dumps(values, default=str).decode()
    except TypeError:  # numbers beyond 64 bits, or nested too deep
        return None


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, (int, float)):
        return finite(value, "value")
    raise Rejected("wrong_type", f"value: {shown(value)} is neither a number nor true or false; words go into label")
