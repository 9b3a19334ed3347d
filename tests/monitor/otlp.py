"""What the tests of the OTLP receivers share: a witness before the inbox, and exports to send."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry._logs import LogRecord as SdkRecord
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from monitor.inbox import Answer, Batch
from monitor.otlp.spans import LogRecord
from tests.monitor.support import Held, World


class Witness:
    """Stands before a world's inbox and sees what comes. Before each batch the next of `faults` is raised, where there is one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._held: Held | None = None
        self.batches: list[Batch] = []
        self.faults: list[Exception] = []
        self.seen = 0

    def put(self, batch: Batch, /) -> Future[Answer]:
        self.seen += 1
        if self.faults:
            raise self.faults.pop(0)
        self.batches.append(batch)
        return self._world.inbox.put(batch)

    def hold(self) -> None:
        """Nobody is answered until `release`."""
        self._held = Held(self._world.store)

    def release(self) -> None:
        assert self._held
        self._held.release()

    def names(self) -> list[str]:
        """Of the spans that are stored."""
        return [row["name"] for row in self._world.rows("spans", "bot", "name")]

    def bodies(self) -> list[Any]:
        """Of the log records that came."""
        return [one.body for batch in self.batches if batch.kind == "logs" for one in batch.items if isinstance(one, LogRecord)]


def export(*names: str, size: int = 0) -> ExportTraceServiceRequest:
    """Spans of these names, each with a text of `size` characters."""
    made = ExportTraceServiceRequest()
    of_resource = made.resource_spans.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "bot"
    of_scope = of_resource.scope_spans.add()
    for name in names:
        span = of_scope.spans.add(
            trace_id=os.urandom(16), span_id=os.urandom(8), name=name, kind=3,
            start_time_unix_nano=1_772_366_400_000_000_000, end_time_unix_nano=1_772_366_401_000_000_000,
        )  # fmt: skip
        span.attributes.add(key="gen_ai.operation.name").value.string_value = "chat"
        if size:
            span.attributes.add(key="text").value.string_value = "x" * size
    return made


def log_export(*bodies: str) -> ExportLogsServiceRequest:
    made = ExportLogsServiceRequest()
    of_resource = made.resource_logs.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "bot"
    of_scope = of_resource.scope_logs.add()
    for body in bodies:
        of_scope.log_records.add(trace_id=os.urandom(16), span_id=os.urandom(8), time_unix_nano=1).body.string_value = body
    return made


def of_size(size: int) -> ExportTraceServiceRequest:
    """An export of so many bytes, in spans none of whose texts is too long to be stored."""
    made = export(*(f"span {n}" for n in range(20)), size=(size - 10_000) // 20)
    text = made.resource_spans[0].scope_spans[0].spans[0].attributes[1].value
    while lacking := size - made.ByteSize():
        text.string_value += "x" * max(1, lacking)
    return made


IDS = ("traceId", "spanId", "parentSpanId")


def as_json(message: Any, **changes: Any) -> bytes:
    """OTLP's JSON of an export: protobuf's own, with the ids in hex."""

    def in_hex(value: Any) -> Any:
        if isinstance(value, list):
            return [in_hex(one) for one in value]
        if isinstance(value, dict):
            return {k: base64.b64decode(v).hex() if k in IDS else in_hex(v) for k, v in value.items()}
        return value

    return json.dumps(in_hex(MessageToDict(message, **changes))).encode()


def finished(*names: str) -> Sequence[ReadableSpan]:
    """Spans as the SDK hands them to an exporter."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("tests")
    for name in names:
        tracer.start_span(name).end()
    provider.shutdown()
    return kept.get_finished_spans()


def logged(*bodies: str) -> Sequence[ReadableLogRecord]:
    """The same for log records."""
    kept = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    logger = provider.get_logger("tests")
    for body in bodies:
        logger.emit(SdkRecord(body=body, event_name="gen_ai.choice"))
    provider.shutdown()
    return kept.get_finished_logs()
