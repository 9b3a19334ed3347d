"""OTLP in JSON. Protobuf's own JSON parser would take the hex ids for base64 and make wrong bytes of them in silence.

Field names are those of the specification (lowerCamelCase); unknown ones are passed over, null is as good as absent.
64-bit integers come as text or as numbers, enums as numbers or names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from monitor.decode import BOM, few_enough
from monitor.errors import BodyRejected
from monitor.fields import Rejected, shown
from monitor.otlp.spans import Event, Link, LogRecord, Span, wrong_ids
from monitor.records import Reject

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
STATUSES = {1: "ok", 2: "error"}
SEVERITIES = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")  # four numbers each, from 1
MAX_DEPTH = 64
MAX_NANOSECONDS = 2**64
SIGNALS = {"resourceSpans": "/v1/traces", "resourceLogs": "/v1/logs", "resourceMetrics": "/v1/metrics"}

Origin = tuple[dict[str, Any], str | None, str | None]


def decode_traces(body: bytes) -> list[Span | Reject]:
    """
    Raises:
        BodyRejected: 400, when the body is not JSON or not shaped like an export.
    """
    return _decode(body, "resourceSpans", "scopeSpans", "spans", _span)


def decode_logs(body: bytes) -> list[LogRecord | Reject]:
    return _decode(body, "resourceLogs", "scopeLogs", "logRecords", _log)


def _decode(body: bytes, resources: str, scopes: str, records: str, read: Callable[[dict[str, Any], Origin], Any]) -> list[Any]:
    export, lenient = _parse(body)
    items: list[Any] = []
    try:
        for item, origin in _walk(export, resources, scopes, records):
            items.append(_one(item, origin, len(items), read, lenient))
            few_enough(len(items))
        for other, path in SIGNALS.items():
            if other != resources and export.get(other):
                message = f"{other}: another signal; send it to {path}"
                items += [Reject(len(items) + i, "wrong_signal", message, None, one) for i, one in enumerate(export[other])]
    except (_Misshapen, TypeError) as exc:
        raise BodyRejected(400, "bad_json", f"the body is no OTLP export: {exc}") from exc
    return items


class _Misshapen(Exception):
    """A part of the export that holds records is not what it must be."""


def _parse(body: bytes) -> tuple[dict[str, Any], bool]:
    """The export, and whether only the lenient parser took it (then texts may hold what UTF-8 cannot say)."""
    lenient = False
    body = body.removeprefix(BOM)
    try:
        export = orjson.loads(body)
    except orjson.JSONDecodeError:
        lenient = True
        try:
            export = json.loads(body.decode(errors="surrogateescape"))
        except RecursionError as exc:
            raise BodyRejected(400, "bad_json", "the body is nested too deep") from exc
        except ValueError as exc:
            raise BodyRejected(400, "bad_json", f"the body is not JSON: {exc}") from exc
    if not isinstance(export, dict):
        raise BodyRejected(400, "bad_json", f"the body is no OTLP export: {shown(export)} is not an object")
    return export, lenient


def _walk(export: dict[str, Any], resources: str, scopes: str, records: str) -> Iterator[tuple[Any, Origin | Rejected]]:
    for of_resource in _objects(export, resources):
        attributes: dict[str, Any] | Rejected
        try:
            attributes = _attributes((_object(of_resource, "resource")).get("attributes"), "resource.attributes")
        except Rejected as exc:
            attributes = exc
        for of_scope in _objects(of_resource, scopes):
            scope = _object(of_scope, "scope")
            name, version = (v if isinstance(v, str) and v else None for v in (scope.get("name"), scope.get("version")))
            origin = attributes if isinstance(attributes, Rejected) else (attributes, name, version)
            found = of_scope.get(records) or []
            if not isinstance(found, list):
                raise _Misshapen(f"{records}: {shown(found)} is not a list")
            yield from ((one, origin) for one in found)


def _one(item: Any, origin: Origin | Rejected, index: int, read: Callable[[dict[str, Any], Origin], Any], lenient: bool) -> Any:
    try:
        if isinstance(origin, Rejected):
            raise origin
        if not isinstance(item, dict):
            raise Rejected("not_an_object", f"{shown(item)} is not an object")
        found = read(item, origin)
        if wrong := wrong_ids(found):
            raise Rejected(*wrong)
        if lenient:
            _speakable(found)
    except Rejected as exc:
        ids = [item.get(name) for name in ("traceId", "spanId")] if isinstance(item, dict) else []
        both = "-".join(i.lower() for i in ids if isinstance(i, str) and i) if ids else ""
        return Reject(index, exc.reason, str(exc), both[:256] or None, _escaped(item) if lenient else item)
    return found


def _escaped(item: Any) -> str:
    try:
        return json.dumps(item)
    except RecursionError:
        return "nested too deep to be shown"


def _speakable(found: Any) -> None:
    try:
        orjson.dumps(found)
    except TypeError as exc:
        raise Rejected("invalid_utf8", "it holds text that is not UTF-8; send UTF-8") from exc


def _span(item: dict[str, Any], origin: Origin) -> Span:
    status = item.get("status") or {}
    if not isinstance(status, dict):
        raise Rejected("wrong_type", f"status: {shown(status)} is not an object")
    return Span(
        _id(item, "traceId") or "",
        _id(item, "spanId") or "",
        _id(item, "parentSpanId"),
        _text(item, "name") or "",
        KINDS.get(_enum(item.get("kind"), "SPAN_KIND_", KINDS), "unspecified"),
        _time(item, "startTimeUnixNano"),
        _time(item, "endTimeUnixNano"),
        STATUSES.get(_enum(status.get("code"), "STATUS_CODE_", STATUSES), "unset"),
        _text(status, "message") or None,
        _attributes(item.get("attributes"), "attributes"),
        [
            Event(_text(e, "name") or "", _time(e, "timeUnixNano"), _attributes(e.get("attributes"), "events.attributes"))
            for e in _members(item, "events")
        ],
        [
            Link(_id(k, "traceId") or "", _id(k, "spanId") or "", _attributes(k.get("attributes"), "links.attributes"))
            for k in _members(item, "links")
        ],
        *origin,
    )


def _log(item: dict[str, Any], origin: Origin) -> LogRecord:
    attributes = _attributes(item.get("attributes"), "attributes")
    number = item.get("severityNumber")
    if isinstance(number, str):  # SEVERITY_NUMBER_WARN2
        name = number.removeprefix("SEVERITY_NUMBER_").rstrip("234")
        level = name if name in SEVERITIES else None
    else:
        level = severity(number) if isinstance(number, int) else None
    return LogRecord(
        _time(item, "timeUnixNano") or _time(item, "observedTimeUnixNano"),
        _id(item, "traceId"),
        _id(item, "spanId"),
        _text(item, "eventName") or old_event_name(attributes),
        _text(item, "severityText") or level,
        None if item.get("body") is None else _value(item["body"], "body"),
        attributes,
        *origin,
    )


def severity(number: int) -> str | None:
    """
    >>> severity(9), severity(0)
    ('INFO', None)
    """
    return SEVERITIES[(number - 1) // 4] if 1 <= number <= 24 else None


def old_event_name(attributes: dict[str, Any]) -> str | None:
    """Before log records had a field for it, an event's name was an attribute."""
    name = attributes.get("event.name")
    return name if isinstance(name, str) and name else None


def _objects(parent: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = parent.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise _Misshapen(f"{name} is not a list of objects")
    return found


def _object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    found = parent.get(name) or {}
    if not isinstance(found, dict):
        raise _Misshapen(f"{name}: {shown(found)} is not an object")
    return found


def _members(item: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = item.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Rejected("wrong_type", f"{name}: {shown(found)} is not a list of objects")
    return found


def _id(item: dict[str, Any], name: str) -> str | None:
    value = item.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        reason = "bad_trace_id" if name == "traceId" else "bad_span_id"
        raise Rejected(reason, f"{name}: {shown(value)} is not text in hex digits")
    # Nothing but zeros is the protocol's way to say none; whoever needs one will miss it.
    return value.lower() if value.strip("0") else None


def _text(item: dict[str, Any], name: str) -> str | None:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise Rejected("wrong_type", f"{name}: {shown(value)} is not text")
    return value


def _time(item: dict[str, Any], name: str) -> int:
    value = item.get(name)
    if value is None or value == "":
        return 0
    try:
        when = int(value) if not isinstance(value, bool) else -1
    except (TypeError, ValueError, OverflowError):
        when = -1
    if not 0 <= when < MAX_NANOSECONDS:
        raise Rejected("bad_timestamp", f"{name}: {shown(value)} is no time in nanoseconds since 1970")
    return when


def _enum(value: Any, prefix: str, names: dict[int, str]) -> int:
    if isinstance(value, str):
        name = value.removeprefix(prefix).lower()
        return next((number for number, one in names.items() if one == name or value == str(number)), 0)
    return value if isinstance(value, int) else 0


def _attributes(pairs: Any, where: str, depth: int = 0) -> dict[str, Any]:
    if pairs is None:
        return {}
    if not isinstance(pairs, list):
        raise Rejected("wrong_type", f"{where}: {shown(pairs)} is not a list of key and value")
    found = {}
    for pair in pairs:
        if not isinstance(pair, dict) or not isinstance(key := pair.get("key", ""), str):
            raise Rejected("wrong_type", f"{where}: {shown(pair)} is not an object of key and value")
        value = pair.get("value")
        found[key] = None if value is None else _value(value, f"{where}.{key}", depth)
    return found


def _value(value: Any, where: str, depth: int = 0) -> Any:
    """An AnyValue: an object with one key that says what it is."""
    if depth > MAX_DEPTH:
        raise Rejected("too_large", f"{where}: nested too deep; {MAX_DEPTH} levels are taken")
    if isinstance(value, dict):
        for name, one in value.items():
            if (take := _TAKE.get(name)) is not None:
                return None if one is None else take(one, where, depth)
        return None
    raise Rejected("wrong_type", f"{where}: {shown(value)} is not an object like {{'stringValue': ...}}")


def _string(value: Any, where: str, depth: int) -> str:
    if not isinstance(value, str):
        raise Rejected("wrong_type", f"{where}: {shown(value)} is not text")
    return value


def _int(value: Any, where: str, depth: int) -> int:
    number = None
    if isinstance(value, (int, str)) or (isinstance(value, float) and value.is_integer()):
        try:
            number = None if isinstance(value, bool) else int(value)
        except ValueError:
            pass
    if number is None:
        raise Rejected("wrong_type", f"{where}: {shown(value)} is not a whole number")
    if not -(2**63) <= number < 2**63:
        raise Rejected("wrong_type", f"{where}: {shown(value)} does not fit 64 bits")
    return number


def _double(value: Any, where: str, depth: int) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Rejected("wrong_type", f"{where}: {shown(value)} is not a number")
    try:
        return float(value)  # NaN and Infinity come as text
    except (ValueError, OverflowError) as exc:
        raise Rejected("wrong_type", f"{where}: {shown(value)} is not a number") from exc


def _bool(value: Any, where: str, depth: int) -> bool:
    if not isinstance(value, bool):
        raise Rejected("wrong_type", f"{where}: {shown(value)} is neither true nor false")
    return value


def _list(value: Any, where: str, depth: int) -> list[Any]:
    values = value.get("values") or [] if isinstance(value, dict) else value
    if not isinstance(values, list):
        raise Rejected("wrong_type", f"{where}: {shown(value)} is not an object with values")
    return [None if one is None else _value(one, where, depth + 1) for one in values]


def _pairs(value: Any, where: str, depth: int) -> dict[str, Any]:
    values = value.get("values") or [] if isinstance(value, dict) else value
    return _attributes(values, where, depth + 1)


_TAKE: dict[str, Callable[[Any, str, int], Any]] = {
    "stringValue": _string,
    "intValue": _int,
    "doubleValue": _double,
    "boolValue": _bool,
    "arrayValue": _list,
    "kvlistValue": _pairs,
    "bytesValue": _string,  # base64, as it stays
}
