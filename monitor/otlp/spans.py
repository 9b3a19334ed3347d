"""A span and a log record as they came over OTLP, whichever transport and encoding brought them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

TRACE_ID, SPAN_ID = 32, 16  # hex digits
HEX = frozenset("0123456789abcdef")


@dataclass(slots=True)
class Event:
    name: str
    time_ns: int
    attributes: dict[str, Any]


@dataclass(slots=True)
class Link:
    trace_id: str
    span_id: str
    attributes: dict[str, Any]


@dataclass(slots=True)
class Span:
    """Attribute values are text, numbers, booleans, None, lists and dicts of them; bytes are text in base64."""

    trace_id: str  # 32 hex digits, lower case
    span_id: str  # 16
    parent_id: str | None
    name: str
    kind: str  # internal, server, client, producer, consumer, unspecified
    start_ns: int  # since 1970
    end_ns: int  # 0 where it was not set
    status: str  # unset, ok, error
    status_message: str | None
    attributes: dict[str, Any]
    events: list[Event]
    links: list[Link]
    resource: dict[str, Any]  # shared by the spans of one export: never change it
    scope: str | None
    scope_version: str | None


@dataclass(slots=True)
class LogRecord:
    time_ns: int  # since 1970; when it was observed where the event has no time, 0 where neither was set
    trace_id: str | None
    span_id: str | None
    event_name: str | None
    severity: str | None
    body: Any
    attributes: dict[str, Any]
    resource: dict[str, Any]  # shared, as above
    scope: str | None
    scope_version: str | None


def wrong_ids(one: Span | LogRecord) -> tuple[str, str] | None:
    """Reason and message where an id is not what it must be, else None."""
    own = isinstance(one, Span)
    if own or one.trace_id is not None:
        if not _is_id(one.trace_id, TRACE_ID):
            return "bad_trace_id", f"traceId: {_shown(one.trace_id)}; 16 bytes (32 hex digits), not all zero, are wanted"
        if (own or one.span_id is not None) and not _is_id(one.span_id, SPAN_ID):
            return "bad_span_id", f"spanId: {_shown(one.span_id)}; 8 bytes (16 hex digits), not all zero, are wanted"
    if isinstance(one, Span) and one.parent_id is not None and not _is_id(one.parent_id, SPAN_ID):
        return "bad_span_id", f"parentSpanId: {_shown(one.parent_id)}; 8 bytes (16 hex digits), or nothing, are wanted"
    return None


def plain(one: Span | LogRecord) -> dict[str, Any]:
    """As JSON says it, for the dead letter; `revive` takes it back."""
    return asdict(one)


def revive(kind: str, item: Mapping[str, Any]) -> Span | LogRecord:
    """What `plain`, or JSON of the dataclass itself, was made of. `kind`: spans or logs.

    Raises:
        ValueError: it is not that, or its ids are wrong.
    """
    made: type[Span] | type[LogRecord] = Span if kind == "spans" else LogRecord
    names = {f.name for f in fields(made)}
    if set(item) != names:
        raise ValueError(f"{kind}: the fields are {', '.join(sorted(map(str, item)))}; wanted are {', '.join(sorted(names))}")
    values = dict(item)
    if made is Span:
        try:
            values["events"] = [Event(**one) for one in values["events"]]
            values["links"] = [Link(**one) for one in values["links"]]
        except TypeError as exc:
            raise ValueError(f"{kind}: an event or link is not as it must be: {exc}") from exc
    one = made(**values)
    if wrong := wrong_ids(one):
        raise ValueError(wrong[1])
    return one


def _is_id(value: str | None, digits: int) -> bool:
    return isinstance(value, str) and len(value) == digits and HEX.issuperset(value) and value.strip("0") != ""


def _shown(value: Any) -> str:
    """Never what it is: the beginning of a key or an address says too much, and masking does not see what it is of."""
    return "is missing" if not value else f"{len(str(value))} characters"
