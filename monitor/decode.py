"""Bytes to records: a JSON array, one JSON object, or NDJSON.

orjson does the work. It refuses a whole body for one NaN or one bad byte, so what it refuses goes through the slower
standard parser, which tells the bad records from the good ones.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

from monitor.errors import BodyRejected
from monitor.records import Reject

BOM = b"\xef\xbb\xbf"  # which Windows puts before UTF-8; JSON knows none
MOST_RECORDS = 100_000
"""In a body. A record that is refused takes a kilobyte of ours, whatever it took to send: two bytes in `[1,1,1]`."""

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


def decode(body: bytes, content_type: str = "application/json") -> list[Any]:
    """Records in order; a `Reject` stands where one could not be read.

    Raises:
        BodyRejected: 400, when the body as a whole is not JSON; 413, when it has more than `MOST_RECORDS`.
    """
    body = body.removeprefix(BOM)
    if content_type.partition(";")[0].strip().lower() in NDJSON:
        few_enough(body.count(b"\n"))
        return decode_lines(body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _lenient(body)
    records = value if isinstance(value, list) else [value]
    few_enough(len(records))
    return records


def few_enough(records: int) -> None:
    """Raises BodyRejected (413), where a body has more than `MOST_RECORDS`."""
    if records > MOST_RECORDS:
        raise BodyRejected(413, "too_large", f"the body has {records:,} records; send at most {MOST_RECORDS:,} at once")


def decode_lines(block: bytes) -> list[Any]:
    """One record a line; blank lines are skipped."""
    records: list[Any] = []
    for line in block.removeprefix(BOM).splitlines():
        if not line.strip():
            continue
        try:
            records.append(orjson.loads(line))
        except orjson.JSONDecodeError as exc:
            try:
                found = _checked(_parse(line), len(records))
            except (ValueError, RecursionError):
                message = f"line {len(records) + 1}: not JSON: {exc}; send one object per line"
                found = Reject(len(records), "bad_json", message, None, line)
            records.append(found)
    return records


def _lenient(body: bytes) -> Any:
    try:
        value = _parse(body)
    except RecursionError as exc:
        raise BodyRejected(400, "bad_json", "the body is nested too deep; send flat records") from exc
    except ValueError as exc:
        remedy = f"send an array of objects, or NDJSON with the Content-Type {NDJSON[0]}"
        raise BodyRejected(400, "bad_json", f"the body is not JSON: {exc}; {remedy}") from exc
    items = value if isinstance(value, list) else [value]
    return [_checked(item, index) for index, item in enumerate(items)]


def _parse(data: bytes) -> Any:
    # Bytes that are not UTF-8 become lone surrogates, which mark the record they stand in.
    return json.loads(data.decode(errors="surrogateescape"), parse_int=_integer)


def _integer(digits: str) -> float:
    # As orjson reads it, so that a record is the same record whichever way it was read.
    if len(digits) <= 20 and -(2**63) <= (value := int(digits)) < 2**64:
        return value
    return float(digits)


def _checked(item: Any, index: int) -> Any:
    """The item, or a `Reject` when it holds NaN, an infinity or bytes that are not UTF-8."""
    problem = _problem(item)
    if problem is None:
        return item
    record_id = item.get("record_id") if isinstance(item, dict) else None
    message = {
        "not_finite": "the record holds NaN or an infinity; leave it out or send null where a value is missing",
        "invalid_utf8": "the record holds bytes that are not UTF-8; send UTF-8",
    }[problem]
    shown = record_id if isinstance(record_id, str) and _problem(record_id) is None else None
    try:
        payload = json.dumps(item)  # which escapes what UTF-8 cannot say
    except RecursionError:
        payload = "nested too deep to be shown"
    return Reject(index, problem, message, shown, payload)


def _problem(value: Any) -> str | None:
    waiting = [value]  # not by recursion: how deep it goes is the sender's choice
    while waiting:
        one = waiting.pop()
        if isinstance(one, float) and not math.isfinite(one):
            return "not_finite"
        if isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError:
                return "invalid_utf8"
        elif isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
    return None
