"""A stored score as OpenTelemetry says it: one log record with the event name `gen_ai.evaluation.result`.

Attributes are those of the semantic conventions for generative AI (docs/gen-ai/gen-ai-events.md of
semantic-conventions-genai); what they have no name for begins with `modelwatch.`. The event belongs to the span of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

import monitor
from monitor.clock import EPOCH, MICROSECOND
from monitor.genai.dialects import JUDGE
from monitor.keys import hash64
from monitor.reader import Reader

NAME = "gen_ai.evaluation.result"
SENT = ("ok", "failed")  # what does not apply to a record is no evaluation of it


def rows(reader: Reader, model: str, after: int, limit: int) -> list[dict[str, Any]]:
    """The next scores of a model by `seq`, whatever came of them, with `span_id` and `response_id` of what was scored."""
    scores = reader.query(
        "SELECT seq, record_id, revision, trace_id, detector, detector_version, settings_hash, outcome, reason, value, flagged, "
        f"stage, detail, received_at FROM {reader.source('scores', model, after_seq=after)} WHERE seq > ? ORDER BY seq "
        f"LIMIT {limit}",
        [after],
    )
    ids = sorted({row["record_id"] for row in scores if row["outcome"] in SENT})
    known: dict[str, dict[str, Any]] = {}
    if ids:
        marks = ", ".join("?" * len(ids))
        places = reader.places("keys", "generations", model, [hash64(one) for one in ids])
        for row in reader.query(
            "SELECT record_id, span_id, coalesce(json_extract_string(attributes, '$.\"gen_ai.response.id\"'), "
            f"json_extract_string(attributes, '$.response_id')) AS response_id FROM "
            f"{reader.source('generations', model, places=places)} WHERE record_id IN ({marks})",
            ids,
        ):
            known[row["record_id"]] = row
    nothing: dict[str, Any] = {"span_id": None, "response_id": None}
    return [{**nothing, **known.get(row["record_id"], {}), **row} for row in scores]


def request(model: str, scores: Iterable[Mapping[str, Any]], *, explanations: bool) -> ExportLogsServiceRequest:
    """Of rows as `rows` gives them: an event for each that has a score, or failed to give one."""
    resource = {
        "service.name": "modelwatch",
        "service.version": monitor.__version__,
        JUDGE: True,  # so that a modelwatch that gets them does not take them for somebody's opinion
    }
    records = [_event(model, row, explanations) for row in scores if row["outcome"] in SENT]
    scope = InstrumentationScope(name="modelwatch", version=monitor.__version__)
    return ExportLogsServiceRequest(
        resource_logs=[
            ResourceLogs(
                resource=Resource(attributes=_attributes(resource)), scope_logs=[ScopeLogs(scope=scope, log_records=records)]
            )
        ]
    )


def count(export: ExportLogsServiceRequest) -> int:
    return sum(len(scope.log_records) for one in export.resource_logs for scope in one.scope_logs)


def _event(model: str, row: Mapping[str, Any], explanations: bool) -> LogRecord:
    at, detail = _nanoseconds(row["received_at"]), _detail(row["detail"])
    said: dict[str, Any] = {
        # The same score has the same one whenever it is sent: a receiver can tell that it has it already.
        "log.record.uid": f"{model}/{row['record_id']}/{row['revision']}/{row['settings_hash']}",
        "gen_ai.evaluation.name": detail.get("metric") or row["detector"],  # a judge has several
        "gen_ai.response.id": row["response_id"],
        "modelwatch.model": model,
        "modelwatch.record_id": row["record_id"],
        "modelwatch.revision": row["revision"],
        "modelwatch.evaluator.id": row["detector"],
        "modelwatch.evaluator.version": row["detector_version"],
        "modelwatch.evaluator.settings_hash": row["settings_hash"],
        "modelwatch.evaluator.stage": row["stage"] or None,
    }
    if row["outcome"] == "ok":
        said["gen_ai.evaluation.score.value"] = row["value"]
        said["gen_ai.evaluation.score.label"] = {True: "flagged", False: "passed"}.get(row["flagged"])
        said["gen_ai.evaluation.explanation"] = detail.get("judge_reason") if explanations else None
    else:
        said["error.type"] = row["reason"] or "_OTHER"
    return LogRecord(
        time_unix_nano=at,
        observed_time_unix_nano=at,
        severity_number=SeverityNumber.SEVERITY_NUMBER_INFO,
        severity_text="INFO",
        event_name=NAME,
        attributes=_attributes(said),
        trace_id=_id(row["trace_id"], 16),
        span_id=_id(row["span_id"], 8),
    )


def _detail(text: str | None) -> dict[str, Any]:
    found = orjson.loads(text) if text else {}
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _attributes(values: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items() if value is not None]


def _value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    # A lone surrogate, which JSON can bring, is no UTF-8, and protobuf would refuse the whole batch for it.
    return AnyValue(string_value=str(value).encode("utf-8", "replace").decode())


def _id(text: str | None, size: int) -> bytes:
    """As bytes; empty, which OTLP takes for none, where it is not what an id has to be: pushed records may have any."""
    try:
        found = bytes.fromhex(text) if text and len(text) == 2 * size else b""
    except ValueError:
        return b""
    return found if any(found) else b""


def _nanoseconds(at: datetime) -> int:
    return (at - EPOCH) // MICROSECOND * 1000
