"""Bodies of OTLP exports, encoded before the clock starts: spans of 2 KB, one model call each."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

SPAN_BYTES = 2_048
# Numbers whose eight bytes stand nowhere else, so that a request can be given times of its own by `bytes.replace`.
START, END = 0x7A2B4E1D3C5F6A71, 0x7A2B4E1D3C5F6A72
CALL_SECONDS = 1.5
REQUEST, SHORT = b"@request", b"@id@"


def export(service: str, count: int, seed: int, texts: Sequence[str]) -> bytes:
    """An ExportTraceServiceRequest with `count` spans, each the whole of its trace."""
    rng = random.Random(seed)
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.extend(keys({"service.name": service, "deployment.environment.name": "production"}))
    scope = group.scope_spans.add()
    scope.scope.name = "opentelemetry.instrumentation.openai_v2"
    scope.spans.extend(span(rng, number, texts) for number in range(count))
    return request.SerializeToString()


def span(rng: random.Random, number: int, texts: Sequence[str]) -> Span:
    found = Span(
        trace_id=REQUEST + b"%08d" % number,
        span_id=SHORT + b"%04d" % number,
        name="chat gpt-4o-mini",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=START,
        end_time_unix_nano=END,
        status=Status(code=Status.STATUS_CODE_OK),
    )
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.id": f"chatcmpl-{rng.getrandbits(120):030x}",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.request.temperature": 0.2,
        "gen_ai.request.max_tokens": 800,
        "gen_ai.usage.input_tokens": rng.randrange(200, 2000),
        "gen_ai.usage.output_tokens": rng.randrange(20, 500),
        "gen_ai.conversation.id": f"conversation-{rng.randrange(10_000)}",
        "server.address": "api.openai.com",
        "server.port": 443,
    }
    found.attributes.extend(keys(attributes))
    left = SPAN_BYTES - found.ByteSize() - 330  # of which the two messages' own keys and brackets take 330
    question, answer = cut(rng, texts, left * 2 // 3), cut(rng, texts, left // 3)
    instructions = [{"role": "system", "parts": [{"type": "text", "content": "Answer from the passages, in one paragraph."}]}]
    messages = [*instructions, {"role": "user", "parts": [{"type": "text", "content": question}]}]
    output = [{"role": "assistant", "parts": [{"type": "text", "content": answer}], "finish_reason": "stop"}]
    found.attributes.extend(
        keys({"gen_ai.input.messages": orjson.dumps(messages).decode(), "gen_ai.output.messages": orjson.dumps(output).decode()})
    )
    return found


def cut(rng: random.Random, texts: Sequence[str], size: int) -> str:
    found = ""
    while len(found) < size:
        found += rng.choice(texts) + " "
    return found[:size]


def keys(values: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=any_value(value)) for key, value in values.items()]


def any_value(value: Any) -> AnyValue:
    match value:
        case str():
            return AnyValue(string_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
    found = AnyValue()
    found.array_value.values.extend(any_value(one) for one in value)
    return found


def filled(body: bytes, request: int) -> bytes:
    """The export with ids and times of its own. An id of the same length keeps the encoding whole."""
    now = time.time_ns()
    start = (now - int(CALL_SECONDS * 1e9)).to_bytes(8, "little")
    return (
        body.replace(REQUEST, b"%08d" % request)
        .replace(SHORT, b"%04d" % (request % 10_000))
        .replace(START.to_bytes(8, "little"), start)
        .replace(END.to_bytes(8, "little"), now.to_bytes(8, "little"))
    )


def taken(answer: bytes, sent: int) -> int:
    """How many of the spans sent were taken, by the answer of any OTLP receiver."""
    response = ExportTraceServiceResponse()
    response.ParseFromString(answer)
    return int(sent - response.partial_success.rejected_spans)
