"""Exports as they come over the wire: protobuf and JSON, good and bad."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from monitor.errors import BodyRejected
from monitor.otlp.spans import LogRecord, Span, plain, revive
from monitor.otlp.wire import JSON, PROTOBUF, decode_logs, decode_traces, inflate
from monitor.records import REASONS, Reject

TRACE, SPAN, PARENT = bytes(range(16)), bytes(range(1, 9)), bytes(range(8, 16))


def an_export() -> ExportTraceServiceRequest:
    """One span with everything OTLP can say of it."""
    export = ExportTraceServiceRequest()
    of_resource = export.resource_spans.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "bot"
    of_scope = of_resource.scope_spans.add()
    of_scope.scope.name, of_scope.scope.version = "instrumentation", "1.2"
    span = of_scope.spans.add(
        trace_id=TRACE, span_id=SPAN, parent_span_id=PARENT, name="chat", kind=3,
        start_time_unix_nano=1_700_000_000_123_456_789, end_time_unix_nano=1_700_000_001_123_456_789,
    )  # fmt: skip
    span.status.code = Status.STATUS_CODE_ERROR
    span.status.message = "timed out"
    span.attributes.add(key="text").value.string_value = "Füße 🦶"
    span.attributes.add(key="empty").value.string_value = ""
    span.attributes.add(key="tokens").value.int_value = 2**53 + 1
    span.attributes.add(key="none of them").value.int_value = 0
    span.attributes.add(key="below").value.int_value = -(2**63)
    span.attributes.add(key="temperature").value.double_value = 0.5
    span.attributes.add(key="stream").value.bool_value = False
    span.attributes.add(key="blob").value.bytes_value = b"\x00\xff"
    span.attributes.add(key="nothing")
    messages = span.attributes.add(key="messages").value.array_value.values.add().kvlist_value.values
    messages.add(key="role").value.string_value = "user"
    messages.add(key="parts").value.array_value.values.add().int_value = 3
    event = span.events.add(name="gen_ai.choice", time_unix_nano=1_700_000_000_500_000_000)
    event.attributes.add(key="index").value.int_value = 0
    link = span.links.add(trace_id=TRACE[::-1], span_id=PARENT)
    link.attributes.add(key="why").value.string_value = "retry"
    return export


def a_log_export() -> ExportLogsServiceRequest:
    export = ExportLogsServiceRequest()
    of_resource = export.resource_logs.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "bot"
    of_scope = of_resource.scope_logs.add()
    of_scope.scope.name = "events"
    record = of_scope.log_records.add(
        trace_id=TRACE, span_id=SPAN, time_unix_nano=5, observed_time_unix_nano=6, severity_number=9,
        event_name="gen_ai.evaluation.result",
    )  # fmt: skip
    record.body.kvlist_value.values.add(key="content").value.string_value = "x" * 300
    record.attributes.add(key="gen_ai.evaluation.name").value.string_value = "relevance"
    of_scope.log_records.add(observed_time_unix_nano=7).body.string_value = "no trace"
    return export


def as_json(export: Any, **changes: Any) -> bytes:
    """OTLP's JSON of it: protobuf's own, with the ids in hex."""

    def in_hex(value: Any) -> Any:
        if isinstance(value, list):
            return [in_hex(one) for one in value]
        if isinstance(value, dict):
            return {k: base64.b64decode(v).hex() if k in IDS else in_hex(v) for k, v in value.items()}
        return value

    return json.dumps(in_hex(MessageToDict(export, **changes))).encode()


IDS = ("traceId", "spanId", "parentSpanId")

THE_SPAN = Span(
    trace_id=TRACE.hex(),
    span_id=SPAN.hex(),
    parent_id=PARENT.hex(),
    name="chat",
    kind="client",
    start_ns=1_700_000_000_123_456_789,
    end_ns=1_700_000_001_123_456_789,
    status="error",
    status_message="timed out",
    attributes={
        "text": "Füße 🦶", "empty": "", "tokens": 2**53 + 1, "none of them": 0, "below": -(2**63), "temperature": 0.5,
        "stream": False, "blob": "AP8=", "nothing": None, "messages": [{"role": "user", "parts": [3]}],
    },
    events=[],
    links=[],
    resource={"service.name": "bot"},
    scope="instrumentation",
    scope_version="1.2",
)  # fmt: skip


FORMS: dict[str, Callable[[Any], tuple[bytes, str]]] = {
    "protobuf": lambda export: (export.SerializeToString(), PROTOBUF),
    "JSON with enums as names and integers as text": lambda export: (as_json(export), JSON),
    "JSON with enums as numbers": lambda export: (as_json(export, use_integers_for_enums=True), f"{JSON}; charset=utf-8"),
    "JSON with integers as numbers": lambda export: (numbers_bare(as_json(export)), JSON),
    "JSON with ids in capitals": lambda export: (capitals(as_json(export)), JSON),
}


def numbers_bare(body: bytes) -> bytes:
    def bare(value: Any, name: str = "") -> Any:
        if isinstance(value, list):
            return [bare(one) for one in value]
        if isinstance(value, dict):
            return {k: bare(v, k) for k, v in value.items()}
        return int(value) if name.endswith("UnixNano") or name == "intValue" else value

    return json.dumps(bare(json.loads(body))).encode()


def capitals(body: bytes) -> bytes:
    for one in (TRACE, SPAN, PARENT, TRACE[::-1]):
        body = body.replace(one.hex().encode(), one.hex().upper().encode())
    return body


@pytest.mark.parametrize("form", FORMS)
def test_a_span_is_the_same_span_in_every_encoding(form: str) -> None:
    (found,) = decode_traces(*FORMS[form](an_export()))
    assert isinstance(found, Span)
    (event,), (link,) = found.events, found.links
    assert asdict(event) == {"name": "gen_ai.choice", "time_ns": 1_700_000_000_500_000_000, "attributes": {"index": 0}}
    assert asdict(link) == {"trace_id": TRACE[::-1].hex(), "span_id": PARENT.hex(), "attributes": {"why": "retry"}}
    found.events, found.links = [], []
    assert found == THE_SPAN


@pytest.mark.parametrize("form", FORMS)
def test_a_log_record_is_the_same_in_every_encoding(form: str) -> None:
    first, second = decode_logs(*FORMS[form](a_log_export()))
    assert first == LogRecord(
        time_ns=5,
        trace_id=TRACE.hex(),
        span_id=SPAN.hex(),
        event_name="gen_ai.evaluation.result",
        severity="INFO",
        body={"content": "x" * 300},
        attributes={"gen_ai.evaluation.name": "relevance"},
        resource={"service.name": "bot"},
        scope="events",
        scope_version=None,
    )
    assert isinstance(second, LogRecord)
    assert (second.time_ns, second.trace_id, second.span_id, second.severity, second.body) == (7, None, None, None, "no trace")


def test_an_event_named_by_an_attribute_as_it_was_once_done_keeps_its_name() -> None:
    export = ExportLogsServiceRequest()
    record = export.resource_logs.add().scope_logs.add().log_records.add()
    record.attributes.add(key="event.name").value.string_value = "gen_ai.choice"
    for form in FORMS.values():
        (found,) = decode_logs(*form(export))
        assert isinstance(found, LogRecord)
        assert found.event_name == "gen_ai.choice"


NO_SPANS: dict[str, tuple[str, Any, str, str]] = {
    # name: (field, value, reason, part of the message)
    "no trace id": ("trace_id", b"", "bad_trace_id", "traceId: is missing"),
    "a trace id of zeros": ("trace_id", bytes(16), "bad_trace_id", "traceId"),
    "a trace id of 8 bytes": ("trace_id", TRACE[:8], "bad_trace_id", "16 bytes"),
    "no span id": ("span_id", b"", "bad_span_id", "spanId: is missing"),
    "a span id of zeros": ("span_id", bytes(8), "bad_span_id", "spanId"),
    "a span id of 16 bytes": ("span_id", TRACE, "bad_span_id", "8 bytes"),
    "a parent id of 16 bytes": ("parent_span_id", TRACE, "bad_span_id", "parentSpanId"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NO_SPANS)
def test_a_span_with_wrong_ids_is_rejected_and_the_others_are_taken(name: str, form: str) -> None:
    field, value, reason, message = NO_SPANS[name]
    export = an_export()
    spans = export.resource_spans[0].scope_spans[0].spans
    spans.add().CopyFrom(spans[0])
    spans.add().CopyFrom(spans[0])
    setattr(spans[1], field, value)
    first, wrong, last = decode_traces(*FORMS[form](export))
    assert isinstance(first, Span)
    assert isinstance(last, Span)
    assert isinstance(wrong, Reject)
    assert (wrong.index, wrong.reason) == (1, reason)
    assert reason in REASONS
    assert message in wrong.message
    assert b"F\\u00fc\\u00dfe" in json.dumps(wrong.payload).encode()  # all of it is kept for the dead letter


def test_a_parent_id_of_zeros_is_no_parent() -> None:
    export = an_export()
    export.resource_spans[0].scope_spans[0].spans[0].parent_span_id = bytes(8)
    for form in FORMS.values():
        (found,) = decode_traces(*form(export))
        assert isinstance(found, Span)
        assert found.parent_id is None


def test_log_records_sent_to_the_path_of_the_traces_are_rejected_one_by_one() -> None:
    body = a_log_export().SerializeToString()
    with pytest.raises(Exception, match="UTF-8"):
        ExportTraceServiceRequest.FromString(body)  # protobuf alone would refuse all that came with them
    found = decode_traces(body)
    assert [type(one) for one in found] == [Reject, Reject]
    spans = an_export().SerializeToString()  # two exports one after the other are one export
    with_spans = decode_traces(spans + body + spans)
    assert [type(one) for one in with_spans] == [Span, Reject, Reject, Span]
    assert [one.index for one in with_spans if isinstance(one, Reject)] == [1, 2]


def test_another_signal_in_json_is_rejected_record_by_record() -> None:
    body = orjson.dumps({**orjson.loads(as_json(an_export())), **orjson.loads(as_json(a_log_export()))})
    span, log = decode_traces(body, JSON)
    assert isinstance(span, Span)
    assert isinstance(log, Reject)
    assert (log.index, log.reason) == (1, "wrong_signal")
    assert "/v1/logs" in log.message


def test_a_text_that_is_not_utf8_costs_only_its_span() -> None:
    spans = an_export()
    both = spans.resource_spans[0].scope_spans[0].spans
    both.add().CopyFrom(both[0])
    both[1].name = "BROKEN"
    body = spans.SerializeToString().replace(b"BROKEN", b"BR\xff\xfeEN")
    first, second = decode_traces(body)
    assert isinstance(first, Span)
    assert (first.resource, first.scope) == ({"service.name": "bot"}, "instrumentation")
    assert isinstance(second, Reject)
    assert (second.index, second.reason) == (1, "undecodable")
    assert "Füße" in second.payload  # as text, where masking finds it

    as_text = as_json(spans).replace(b"BROKEN", b"BR\xff\xfeEN")
    first, second = decode_traces(as_text, JSON)
    assert isinstance(first, Span)
    assert isinstance(second, Reject)
    assert (second.reason, second.record_id) == ("invalid_utf8", f"{TRACE.hex()}-{SPAN.hex()}")


def test_a_resource_that_cannot_be_read_costs_its_attributes_and_no_span() -> None:
    body = an_export().SerializeToString().replace(b"bot", b"b\xfft")
    (found,) = decode_traces(body)
    assert isinstance(found, Span)
    assert found.resource == {}


BAD_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "a time in words": ({"startTimeUnixNano": "noon"}, "bad_timestamp"),
    "a time before 1970": ({"endTimeUnixNano": -1}, "bad_timestamp"),
    "a time beyond 64 bits": ({"endTimeUnixNano": str(2**64)}, "bad_timestamp"),
    "ids that are numbers": ({"traceId": 12}, "bad_trace_id"),
    "ids that are not hex": ({"spanId": "xyzxyzxyzxyzxyzx"}, "bad_span_id"),
    "ids in base64, as protobuf's own JSON has them": ({"traceId": base64.b64encode(TRACE).decode()}, "bad_trace_id"),
    "a name that is a number": ({"name": 3}, "wrong_type"),
    "attributes that are an object": ({"attributes": {"a": 1}}, "wrong_type"),
    "a bare value": ({"attributes": [{"key": "a", "value": 1}]}, "wrong_type"),
    "a text that is a number": ({"attributes": [{"key": "a", "value": {"stringValue": 1}}]}, "wrong_type"),
    "an integer beyond 64 bits": ({"attributes": [{"key": "a", "value": {"intValue": str(2**63)}}]}, "wrong_type"),
    "an integer with a fraction": ({"attributes": [{"key": "a", "value": {"intValue": 1.5}}]}, "wrong_type"),
    "an integer in words": ({"attributes": [{"key": "a", "value": {"intValue": "many"}}]}, "wrong_type"),
    "a double in words": ({"attributes": [{"key": "a", "value": {"doubleValue": "half"}}]}, "wrong_type"),
    "a boolean in words": ({"attributes": [{"key": "a", "value": {"boolValue": "yes"}}]}, "wrong_type"),
    "events that are an object": ({"events": {}, "links": {"a": 1}}, "wrong_type"),
    "a status in words": ({"status": "error"}, "wrong_type"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_bad_value_in_json_costs_only_its_span(name: str) -> None:
    change, reason = BAD_VALUES[name]
    export = orjson.loads(as_json(an_export()))
    spans = export["resourceSpans"][0]["scopeSpans"][0]["spans"]
    spans.append({**spans[0], **change})
    spans.append("text")
    good, bad, text = decode_traces(orjson.dumps(export), JSON)
    assert isinstance(good, Span)
    assert isinstance(bad, Reject)
    assert (bad.index, bad.reason) == (1, reason)
    assert isinstance(text, Reject)
    assert (text.index, text.reason) == (2, "not_an_object")


def test_a_value_nested_without_end_costs_only_its_span() -> None:
    export = orjson.loads(as_json(an_export()))
    spans = export["resourceSpans"][0]["scopeSpans"][0]["spans"]
    for depth, stays in ((60, True), (70, False)):
        value: dict[str, Any] = {"stringValue": "deep"}
        for _ in range(depth):
            value = {"arrayValue": {"values": [value]}}
        found = decode_traces(orjson.dumps(at(export, {**spans[0], "attributes": [{"key": "a", "value": value}]})), JSON)
        assert isinstance(found[0], Span)
        assert isinstance(found[1], Span) is stays
    body = json.dumps(at(export, {**spans[0], "name": "HERE"})).encode().replace(b'"HERE"', b"[" * 5000 + b"]" * 5000)
    with pytest.raises(BodyRejected) as refused:
        decode_traces(body, JSON)
    assert refused.value.status == 400


def at(export: dict[str, Any], span: dict[str, Any]) -> dict[str, Any]:
    of_resource = export["resourceSpans"][0]
    of_scope = of_resource["scopeSpans"][0]
    return {"resourceSpans": [{**of_resource, "scopeSpans": [{**of_scope, "spans": [of_scope["spans"][0], span]}]}]}


def test_numbers_that_json_has_no_word_for_are_taken_as_text_and_as_literals() -> None:
    export = orjson.loads(as_json(an_export()))
    of_scope = export["resourceSpans"][0]["scopeSpans"][0]
    of_scope["spans"][0]["attributes"] = [{"key": "a", "value": {"doubleValue": "-Infinity"}}]
    (found,) = decode_traces(orjson.dumps(export), JSON)
    assert isinstance(found, Span)
    assert found.attributes == {"a": float("-inf")}
    (found,) = decode_traces(orjson.dumps(export).replace(b'"-Infinity"', b"NaN"), JSON)
    assert isinstance(found, Span)
    assert found.attributes["a"] != found.attributes["a"]


BAD_BODIES = {
    "text as protobuf": (b"hello, world", PROTOBUF, 400),
    "JSON as protobuf": (as_json(an_export()), PROTOBUF, 400),
    "protobuf as JSON": (an_export().SerializeToString(), JSON, 400),
    "half an export": (an_export().SerializeToString()[:-5], PROTOBUF, 400),
    "nothing as JSON": (b"", JSON, 400),
    "a list": (b"[]", JSON, 400),
    "resources that are text": (b'{"resourceSpans": "x"}', JSON, 400),
    "spans that are text": (b'{"resourceSpans": [{"scopeSpans": [{"spans": "x"}]}]}', JSON, 400),
    "no content type": (b"", "", 415),
    "a form": (b"", "application/x-www-form-urlencoded", 415),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_no_export_is_refused_as_a_whole(name: str) -> None:
    body, content_type, status = BAD_BODIES[name]
    with pytest.raises(BodyRejected) as refused:
        decode_traces(body, content_type)
    assert refused.value.status == status


def test_an_empty_export_is_no_fault() -> None:
    assert (
        decode_traces(b"") == decode_logs(b"") == decode_traces(b"{}", JSON) == decode_logs(b'{"resourceLogs": null}', JSON) == []
    )


@given(st.binary(max_size=300), st.sampled_from([PROTOBUF, JSON]))
def test_whatever_comes_is_decoded_or_refused(body: bytes, content_type: str) -> None:
    for decode in (decode_traces, decode_logs):
        refusal = None
        found: list[Any] = []
        try:
            found = decode(body, content_type)
        except BodyRejected as exc:
            refusal = exc.status
        assert refusal in (None, 400)
        assert all(not isinstance(one, Reject) or one.reason in REASONS for one in found)


@given(st.data())
def test_whatever_byte_is_damaged_each_span_is_kept_or_rejected_or_all_are_refused(data: st.DataObject) -> None:
    for body, content_type in (FORMS["protobuf"](an_export()), FORMS["JSON with enums as numbers"](an_export())):
        place = data.draw(st.integers(0, len(body) - 1))
        damaged = body[:place] + bytes([data.draw(st.integers(0, 255))]) + body[place + 1 :]
        try:
            found = decode_traces(damaged, content_type)
        except BodyRejected:
            continue
        for one in found:
            orjson.dumps(one.payload if isinstance(one, Reject) else one)  # the store can keep it


any_value = st.recursive(
    st.one_of(
        st.text(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=10,
)


def as_any_value(value: Any) -> AnyValue:
    made = AnyValue()
    match value:
        case str():
            made.string_value = value
        case bool():
            made.bool_value = value
        case int():
            made.int_value = value
        case float():
            made.double_value = value
        case list():
            made.array_value.values.extend(as_any_value(one) for one in value)
        case dict():
            for key, one in value.items():
                made.kvlist_value.values.add(key=key).value.CopyFrom(as_any_value(one))
    if isinstance(value, list):
        made.array_value.SetInParent()
    if isinstance(value, dict):
        made.kvlist_value.SetInParent()
    return made


@given(any_value)
def test_a_value_comes_back_as_it_was_sent(value: Any) -> None:
    export = an_export()
    span = export.resource_spans[0].scope_spans[0].spans[0]
    del span.attributes[:]
    span.attributes.add(key="value").value.CopyFrom(as_any_value(value))
    for form in FORMS.values():
        (found,) = decode_traces(*form(export))
        assert isinstance(found, Span)
        assert found.attributes == {"value": value}


def test_what_lies_in_the_dead_letter_can_be_sent_again() -> None:
    (span,) = decode_traces(an_export().SerializeToString())
    log, _ = decode_logs(a_log_export().SerializeToString())
    assert isinstance(span, Span)
    assert isinstance(log, LogRecord)
    assert revive("spans", orjson.loads(orjson.dumps(plain(span)))) == span
    assert revive("spans", orjson.loads(orjson.dumps(span))) == span
    assert revive("logs", orjson.loads(orjson.dumps(log))) == log
    for wrong in ({}, {**plain(span), "trace_id": ""}, {**plain(span), "events": [{}]}):
        with pytest.raises(ValueError, match=r"spans|traceId"):
            revive("spans", wrong)


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "none": bytes,
    "gzip": gzip.compress,
    "GZIP": lambda body: gzip.compress(body[:3]) + gzip.compress(body[3:]) + b"\0\0",  # members, and padding
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    " Deflate ": lambda body: (made := zlib.compressobj(wbits=-15)).compress(body) + made.flush(),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_undone_within_its_limit(encoding: str) -> None:
    body = b"0123456789" * 100
    sent = ENCODINGS[encoding](body)
    assert inflate(sent, encoding, 1000) == body
    with pytest.raises(BodyRejected) as refused:
        inflate(sent, encoding, 999)
    assert refused.value.status == 413


BROKEN: dict[str, tuple[bytes, str, int]] = {
    "no gzip": (b"plain", "gzip", 400),
    "half of it": (gzip.compress(b"x" * 1000)[:-9], "gzip", 400),
    "a wrong checksum": (gzip.compress(b"x" * 1000)[:-8] + bytes(8), "gzip", 400),
    "a second member that is none": (gzip.compress(b"x") + b"rest", "gzip", 400),
    "half a deflate": (zlib.compress(b"x" * 1000)[:-3], "deflate", 400),
    "another encoding": (b"", "br", 415),
    "two of them": (gzip.compress(gzip.compress(b"x")), "gzip, gzip", 415),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_body_that_cannot_be_inflated_is_refused(name: str) -> None:
    body, encoding, status = BROKEN[name]
    with pytest.raises(BodyRejected) as refused:
        inflate(body, encoding, 10_000)
    assert refused.value.status == status
