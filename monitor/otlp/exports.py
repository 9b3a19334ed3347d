"""An OTLP export on its way in, whichever transport brought it: handed to the inbox, answered.

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

from monitor.inbox import Answer, Batch
from monitor.opener import Body
from monitor.otlp.wire import encoding_of
from monitor.receiving import Inbox

REASONS_SHOWN = 3

Put = Future[Answer] | None
"""The answer to come, None for a signal whose records are discarded."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One kind of export. `kind` is the inbox's name for its records, None where they are discarded."""

    path: str
    service: str
    kind: str | None
    response: Callable[[], Message]
    rejected: str  # where the response counts


SIGNALS = (
    Signal(
        "/v1/traces",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        "spans",
        ExportTraceServiceResponse,
        "rejected_spans",
    ),
    Signal(
        "/v1/logs",
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        "logs",
        ExportLogsServiceResponse,
        "rejected_log_records",
    ),
    # Instrumentations send them whether asked to or not; an error would fill their logs.
    Signal(
        "/v1/metrics",
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        None,
        ExportMetricsServiceResponse,
        "rejected_data_points",
    ),
)


def put(inbox: Inbox, signal: Signal, body: bytes, content_type: str, *, source: str) -> Put:
    """
    Raises:
        InboxFull, StoreUnavailable: nothing was taken.
        BodyRejected: 415.
    """
    encoding_of(content_type)
    if signal.kind is None:
        return None
    return inbox.put(Batch(signal.kind, Body(signal.kind, body, content_type), source, size=len(body)))


async def answer(signal: Signal, taken: Put) -> Message:
    """Empty where everything was taken.

    Raises:
        BodyRejected: the body could not be read; what there was to keep of it is durable.
        StoreUnavailable: nothing was stored.
    """
    made = signal.response()
    if taken is None:
        return made
    answer = await asyncio.wrap_future(taken)
    if answer.failed:
        raise answer.failed
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
