"""An OTLP export on its way in, whichever transport brought it: decoded, handed to the inbox, answered.

What cannot be stored comes back as partial success, with the number of records and why; the sender must not send it again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from monitor import receiving
from monitor.errors import BodyRejected
from monitor.inbox import Answer, Batch
from monitor.otlp.wire import JSON, decode_logs, decode_traces, encoding_of
from monitor.receiving import Inbox

REASONS_SHOWN = 3

Put = tuple[Future[Answer] | None, BodyRejected | None]
"""The answer to come, None for a signal whose records are discarded; and, where the body as a whole cannot be read, why."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One kind of export. `kind` is the inbox's name for its records, None where they are discarded."""

    path: str
    service: str
    kind: str | None
    decode: Callable[[bytes, str], list[Any]] | None
    response: Callable[[], Message]
    rejected: str  # where the response counts


SIGNALS = (
    Signal(
        "/v1/traces",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "spans",
        decode_traces,
        ExportTraceServiceResponse,
        "rejected_spans",
    ),
    Signal(
        "/v1/logs",
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        "logs",
        decode_logs,
        ExportLogsServiceResponse,
        "rejected_log_records",
    ),
    # Instrumentations send them whether asked to or not; an error would fill their logs.
    Signal(
        "/v1/metrics",
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        None,
        None,
        ExportMetricsServiceResponse,
        "rejected_data_points",
    ),
)


def put(inbox: Inbox, signal: Signal, body: bytes, content_type: str, *, source: str) -> Put:
    """Of a body that cannot be read as a whole, the beginning goes to the dead letter.

    Raises:
        InboxFull, StoreUnavailable: nothing was taken.
        BodyRejected: 415.
    """
    encoding = encoding_of(content_type)
    if signal.decode is None or signal.kind is None:
        return None, None
    failed = None
    try:
        items = signal.decode(body, content_type)
    except BodyRejected as exc:
        failed = exc
        items = receiving.unreadable(body, "bad_json" if encoding == JSON else "undecodable", exc)
    return inbox.put(Batch(signal.kind, items, source, size=len(body))), failed


async def answer(signal: Signal, taken: Put) -> Message:
    """Empty where everything was taken.

    Raises:
        BodyRejected: the body could not be read; what there was to keep of it is durable.
        StoreUnavailable: nothing was stored.
    """
    done, failed = taken
    made = signal.response()
    if done is None:
        return made
    answer = await asyncio.wrap_future(done)
    if failed:
        raise failed
    if answer.rejects:
        partial: Any = made.partial_success  # type: ignore[attr-defined]
        setattr(partial, signal.rejected, len(answer.rejects))
        partial.error_message = _why(answer)
    return made


def _why(answer: Answer) -> str:
    counts = Counter(reject.reason for reject in answer.rejects)
    first = {reject.reason: reject for reject in sorted(answer.rejects, key=lambda r: -r.index)}
    shown = [
        f"{count} {reason} (record {first[reason].index}: {first[reason].message})"
        for reason, count in counts.most_common(REASONS_SHOWN)
    ]
    rest = len(counts) - len(shown)
    return "; ".join(shown) + (f"; {rest} other reasons" if rest else "")
