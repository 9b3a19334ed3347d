"""Bytes to records: what is read, what is set aside, and what spoils the whole body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from monitor.decode import MOST_RECORDS, decode, decode_lines
from monitor.errors import BodyRejected
from monitor.otlp.wire import decode_traces
from monitor.records import REASONS, Reject

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
RECORDS = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), max_size=5)


def writable(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


@given(RECORDS.filter(writable))
def test_what_is_written_is_read_back_whichever_form_it_has(records: list[Any]) -> None:
    assert decode(orjson.dumps(records)) == records
    assert decode(json.dumps(records).encode()) == records
    lines = b"".join(orjson.dumps(r) + b"\n" for r in records)
    assert decode(lines, "application/x-ndjson; charset=utf-8") == decode_lines(lines) == records


@given(RECORDS.filter(writable))
def test_one_nan_costs_one_record(records: list[Any]) -> None:
    body = json.dumps([*records, {"record_id": "bad", "x": float("nan")}, *records])
    found = decode(body.encode())
    assert [*found[: len(records)], *found[len(records) + 1 :]] == records * 2
    assert isinstance(found[len(records)], Reject)
    assert (found[len(records)].reason, found[len(records)].record_id) == ("not_finite", "bad")


@given(st.binary(max_size=60))
def test_any_bytes_give_records_or_a_400(body: bytes) -> None:
    found = read(body)
    assert found == 400 or all(not isinstance(r, Reject) or r.reason in REASONS for r in found)
    assert all(not isinstance(r, Reject) or r.reason in REASONS for r in decode_lines(body))


def read(body: bytes) -> Any:
    try:
        return decode(body)
    except BodyRejected as exc:
        return exc.status


def test_one_object_is_a_batch_of_one() -> None:
    assert decode(b'{"a": 1}') == [{"a": 1}]


def test_blank_lines_and_both_line_ends_are_fine() -> None:
    assert decode_lines(b'{"a": 1}\r\n\r\n   \n{"b": 2}') == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("depth", (100, 500, 700, 2000, 100_000))
def test_nesting_however_deep_is_not_an_error_of_ours(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    for record in (b'{"a": ' + deep + b', "b": NaN}', b'{"a": ' + deep + b"}"):
        found = read(b"[" + record + b"]")
        assert found == 400 or len(found) == 1
        assert len(decode_lines(record + b"\n" + record)) == 2


@given(st.integers(-(2**70), 2**70))
def test_a_number_is_the_same_whichever_way_it_is_read(number: int) -> None:
    alone = decode(b'[{"a": %d}]' % number)
    assert decode(b'[{"a": %d}, {"b": NaN}]' % number)[:1] == alone
    assert type(decode(b'[{"a": %d}, {"b": NaN}]' % number)[0]["a"]) is type(alone[0]["a"])


def test_a_rejected_record_is_kept_in_a_form_that_can_be_stored() -> None:
    (found,) = decode(b'[{"record_id": "\xff", "x": Infinity}]')
    assert isinstance(found, Reject)
    assert found.record_id is None
    assert found.payload.encode()
    assert json.loads(found.payload)["x"] == float("inf")


def test_thousands_of_digits_are_a_number() -> None:
    assert decode(b'[{"a": ' + b"9" * 5000 + b'}, {"b": 1}]')[1] == {"b": 1}
    assert decode(b'[{"a": 123456789012345678901234567890}]') == [{"a": 1.2345678901234568e29}]


def test_lines_sent_as_json_are_told_their_content_type() -> None:
    with pytest.raises(BodyRejected, match="NDJSON with the Content-Type application/x-ndjson"):
        decode(b'{"record_id": "a"}\n{"record_id": "b"}\n', "application/json")


def test_a_byte_order_mark_before_the_body_is_skipped() -> None:
    mark = b"\xef\xbb\xbf"
    assert decode(mark + b'[{"a": 1}]') == [{"a": 1}]
    assert decode(mark + b'{"a": NaN}')[0].reason == "not_finite"
    assert decode_lines(mark + b'{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]
    assert decode_traces(mark + b'{"resourceSpans": []}', "application/json") == []


MANY = MOST_RECORDS + 1
TOO_MANY: dict[str, Callable[[], Any]] = {
    "an array": lambda: decode(b"[" + b"1," * MOST_RECORDS + b"1]"),
    "lines": lambda: decode(b"1\n" * MANY, "application/x-ndjson"),
    "spans": lambda: decode_traces(ExportTraceServiceRequest(resource_spans=[of_scopes()]).SerializeToString()),
    "spans as JSON": lambda: decode_traces(
        orjson.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{}] * MANY}]}]}), "application/json"
    ),
}


def of_scopes() -> ResourceSpans:
    spans = [Span()] * (MANY // 2 + 1)
    return ResourceSpans(scope_spans=[ScopeSpans(spans=spans), ScopeSpans(spans=spans)])


@pytest.mark.parametrize("name", TOO_MANY)
def test_a_body_of_more_records_than_memory_is_meant_for_is_refused_as_a_whole(name: str) -> None:
    with pytest.raises(BodyRejected, match="at most 100,000 at once") as caught:
        TOO_MANY[name]()
    assert (caught.value.status, caught.value.reason) == (413, "too_large")


def test_as_many_records_as_a_body_may_have_are_read() -> None:
    assert len(decode(b"[" + b"1," * (MOST_RECORDS - 1) + b"1]")) == MOST_RECORDS
