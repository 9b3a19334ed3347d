"""What the tests of the OTLP receivers share: an inbox that records, exports to send, and receivers to send them to."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry._logs import LogRecord
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from monitor.inbox import Answer, Batch
from monitor.records import Reject


class Recorder:
    """An inbox that keeps what it gets, in memory. Before each batch the next of `faults` is raised, where there is one."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.faults: list[Exception | None] = []
        self.seen = 0
        self._open = threading.Event()
        self._open.set()
        self._waiting: list[tuple[Future[Answer], Answer]] = []

    def put(self, batch: Batch, /) -> Future[Answer]:
        self.seen += 1
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault
        rejects = [one for one in batch.items if isinstance(one, Reject)]
        answer = Answer("b", rejects=rejects)
        answer.accepted_by["bot"] = len(batch.items) - len(rejects)
        future: Future[Answer] = Future()
        future.set_running_or_notify_cancel()  # as the store does: what is being stored cannot be called back
        self.batches.append(batch)
        if self._open.is_set():
            future.set_result(answer)
        else:
            self._waiting.append((future, answer))
        return future

    def hold(self) -> None:
        """Answer nobody until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()
        for future, answer in self._waiting:
            future.set_result(answer)
        self._waiting.clear()

    def items(self, kind: str = "spans") -> list[Any]:
        return [one for batch in self.batches if batch.kind == kind for one in batch.items]

    def names(self) -> list[str]:
        return [one.name for one in self.items() if not isinstance(one, Reject)]


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
        logger.emit(LogRecord(body=body, event_name="gen_ai.choice"))
    provider.shutdown()
    return kept.get_finished_logs()
