"""An application that somebody has: an OpenAI client, an instrumentation, and the OpenTelemetry SDK set up by its environment.

`python -m tests.e2e.application INSTRUMENTATION LLM_URL`, in a process of its own: instrumentations patch modules for good.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import openai
from opentelemetry import _logs, trace
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

QUESTION = "Can I return my order?"
SYSTEM = "You are the support of a shop."
PASSAGES = ("Goods may be returned within 14 days.", "Sale items cannot be returned.")
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "order_status",
            "description": "Where an order is",
            "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}},
        },
    }
]


def instrument(name: str) -> None:
    made: Any
    match name:
        case "openinference":
            from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference

            made = OpenInference()
        case "traceloop":
            from opentelemetry.instrumentation.openai import OpenAIInstrumentor as Traceloop

            made = Traceloop()
        case "genai":
            from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor as GenAi

            made = GenAi()  # type: ignore[no-untyped-call]
        case _:
            raise SystemExit(f"no instrumentation {name!r}")
    made.instrument()


def chat(client: openai.OpenAI) -> None:
    client.chat.completions.create(model="tiny-chat", messages=asked(), temperature=0.5)


def stream(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="tiny-chat", messages=asked(), stream=True, stream_options={"include_usage": True}
    )
    for _ in chunks:
        pass


def tools(client: openai.OpenAI) -> None:
    """The model asks for a tool, and answers once it has its result."""
    messages = asked()
    answer = client.chat.completions.create(model="tiny-chat", messages=messages, tools=TOOLS).choices[0].message
    assert answer.tool_calls
    messages.append({"role": "assistant", "tool_calls": [call.model_dump() for call in answer.tool_calls]})
    messages.append({"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "on its way"})
    client.chat.completions.create(model="tiny-chat", messages=messages, tools=TOOLS)


def embeddings(client: openai.OpenAI) -> None:
    client.embeddings.create(model="tiny-embed", input=[QUESTION])


def error(client: openai.OpenAI) -> None:
    try:
        client.chat.completions.create(model="nowhere", messages=asked())
    except openai.NotFoundError:
        return
    raise SystemExit("the error did not come")


def retrieval(client: openai.OpenAI) -> None:
    """Passages are looked up by a function of the application, which makes its own span as OpenInference says."""
    tracer = trace.get_tracer("shop")
    with tracer.start_as_current_span("retrieval", attributes={"openinference.span.kind": "CHAIN"}):
        with tracer.start_as_current_span("lookup") as span:
            span.set_attribute("openinference.span.kind", "RETRIEVER")
            span.set_attribute("input.value", QUESTION)
            for i, text in enumerate(PASSAGES):
                span.set_attribute(f"retrieval.documents.{i}.document.id", f"d{i}")
                span.set_attribute(f"retrieval.documents.{i}.document.content", text)
                span.set_attribute(f"retrieval.documents.{i}.document.score", 0.75 - i / 4)
                span.set_attribute(f"retrieval.documents.{i}.document.metadata", json.dumps({"page": i}))
        client.chat.completions.create(model="tiny-chat", messages=asked())


def asked() -> list[Any]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]


SCENARIOS: tuple[Callable[[openai.OpenAI], None], ...] = (chat, stream, tools, embeddings, error, retrieval)


def main(instrumentation: str, url: str) -> None:
    grpc = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc"
    spans, logs = TracerProvider(), LoggerProvider()
    spans.add_span_processor(BatchSpanProcessor(GrpcSpanExporter() if grpc else HttpSpanExporter()))
    logs.add_log_record_processor(BatchLogRecordProcessor(GrpcLogExporter() if grpc else HttpLogExporter()))
    trace.set_tracer_provider(spans)
    _logs.set_logger_provider(logs)
    instrument(instrumentation)
    tracer = trace.get_tracer("shop")
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        for scenario in SCENARIOS:
            # A trace for each, by whose root the tests know it.
            with tracer.start_as_current_span(scenario.__name__):
                scenario(client)
    spans.shutdown()
    logs.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
