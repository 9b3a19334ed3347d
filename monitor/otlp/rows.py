"""Spans and log records as rows: each span is one of `spans`, and what it says of a model call or a retrieval one more.

The way from here to columns is taken for every span of the traffic: what can be worked out once for a resource or a trace is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson

from monitor import feedback
from monitor.fields import EARLIEST, LATEST, Rejected, shown
from monitor.genai.canonical import Canonical, Document
from monitor.genai.dialects import Dialects
from monitor.genai.errorclass import OTHER_ERROR
from monitor.genai.media import lean_text
from monitor.genai.prices import Prices
from monitor.keys import hash64
from monitor.otlp.routing import Router
from monitor.otlp.spans import LogRecord, Span
from monitor.records import MAX_REVISION, Parsed, Reject, Rows

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_NS, LAST_NS = (int((t - EPOCH).total_seconds()) * 10**9 for t in (EARLIEST, LATEST))
CALLS = ("llm", "embedding")
RETRIEVALS = ("retriever", "reranker")

_FROM_DIALECT = (
    "model_version", "provider", "llm_model", "operation", "question", "system", "response", "messages", "input_tokens",
    "output_tokens", "cost_usd", "time_to_first_token_seconds", "finish_reason", "conversation_id", "user_id", "prompt_name",
    "prompt_version", "request_model", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_source", "tool_calls",
    "agent", "workflow", "gateway", "route", "retry", "fallback", "fingerprint",
)  # fmt: skip
_CONTENTS = ("question", "system", "response", "messages", "tool_calls", "finish_reason")
_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


class SpanReader:
    """Safe to use from several threads."""

    def __init__(self, dialects: Dialects, router: Router, prices: Prices, *, max_text_bytes: int) -> None:
        self._dialects = dialects
        self._router = router
        self._prices = prices
        self._max_text = max_text_bytes

    def spans(self, items: Sequence[Span | Reject], *, model: str | None, received_at: datetime) -> Parsed:
        return _Batch(self, "spans", model, received_at).read(items)

    def logs(self, items: Sequence[LogRecord | Reject], *, model: str | None, received_at: datetime) -> Parsed:
        return _Batch(self, "logs", model, received_at).read(items)


class _Resource:
    """What all spans of one resource have in common."""

    def __init__(self, resource: Mapping[str, Any], router: Router, model: str | None) -> None:
        self.attributes = resource
        self.text = ""
        try:
            self.text = _checked_json(resource, "resource")
            self.model: str | Rejected = router.model_of({}, resource, model)
        except Rejected as exc:
            self.model = exc
        self.service = _text(resource.get("service.name"))
        self.release = _text(resource.get("service.version"))
        self.environment = _text(resource.get("deployment.environment.name") or resource.get("deployment.environment"))


class _Table:
    """Rows of one kind and model, all with the same columns in the same order. They become columns once all are there."""

    def __init__(self) -> None:
        self._index: list[int] = []
        self._key: list[int] = []
        self._content: list[int] = []
        self._names: tuple[str, ...] = ()
        self._values: list[Any] = []

    def add(self, index: int, key: int, content: int, values: dict[str, Any]) -> None:
        self._index.append(index)
        self._key.append(key)
        self._content.append(content)
        self._names = self._names or tuple(values)
        self._values.append(values.values())

    def rows(self) -> Rows:
        columns = map(list, zip(*self._values, strict=True))
        return Rows(self._index, self._key, self._content, dict(zip(self._names, columns, strict=True)))


class _Batch:
    def __init__(self, reader: SpanReader, kind: str, model: str | None, received_at: datetime) -> None:
        self._dialects, self._router, self._prices = reader._dialects, reader._router, reader._prices
        self._max_text = reader._max_text
        self._model = model
        self._received_at = received_at
        self._parsed = Parsed(kind, received_at)
        self._resources: dict[int, _Resource] = {}
        self._hashes: dict[str, int] = {}
        self._tables: dict[tuple[str, str], _Table] = {}

    def read(self, items: Sequence[Any]) -> Parsed:
        """`items` have valid ids: whoever made them of what came has seen to it."""
        parsed = self._parsed
        parsed.total = len(items)
        one = self._span if parsed.kind == "spans" else self._log
        for index, item in enumerate(items):
            if isinstance(item, Reject):
                parsed.rejects.append(item)
                continue
            try:
                one(index, item)
            except Rejected as exc:
                record_id = f"{item.trace_id}-{item.span_id}" if item.span_id else None
                parsed.rejects.append(Reject(index, exc.reason, str(exc), record_id, item))
        for place, table in self._tables.items():
            parsed.rows[place] = table.rows()
        return parsed

    def _span(self, index: int, span: Span) -> None:
        resource = self._resource(span)
        model = self._route(resource, span.attributes)
        texts = (span.name, span.kind, span.status, span.status_message, span.scope, span.scope_version)
        _speakable("name, kind, status, scope", *texts)
        trace_id, span_id = span.trace_id, span.span_id
        record_id = f"{trace_id}-{span_id}"
        end_ns = span.end_ns or span.start_ns
        ended = _time(end_ns) if end_ns else self._received_at
        started = _time(span.start_ns) if span.start_ns else ended
        seconds = max(0.0, (end_ns - span.start_ns) / 1e9) if span.start_ns and span.end_ns else None
        attributes = self._json(span.attributes, "attributes")
        events = self._json(span.events, "events") if span.events else None
        links = self._json(span.links, "links") if span.links else None
        key = hash64(record_id)
        # The resource is not part of it: a collector on one of two ways may add to it. JSON holds no line breaks, so that no
        # two spans are one text.
        content = hash64(
            f"{span.start_ns} {span.end_ns} {span.status} {span.parent_id}\n{attributes}\n{events}\n{links}\n{span.name}"
        )
        trace_hash = self._trace_hash(trace_id)
        canonical = self._dialects.read(span)
        self._rows("spans", model).add(
            index,
            key,
            content,
            {
                "record_id": record_id,
                "event_time": ended,
                "start_time": started,
                "trace_id": trace_id,
                "span_id": span_id,
                "parent_id": span.parent_id,
                "name": span.name,
                "span_kind": span.kind,
                "type": canonical.type,
                "duration_seconds": seconds,
                "status": span.status,
                "status_message": span.status_message,
                "service": resource.service,
                "environment": resource.environment,
                "release": resource.release,
                "scope": f"{span.scope}@{span.scope_version}" if span.scope and span.scope_version else span.scope,
                "own": canonical.own,
                "attributes": attributes,
                "events": events,
                "links": links,
                "resource": resource.text,
                "trace_hash": trace_hash,
            },
        )
        if canonical.own:
            return
        common = {
            "record_id": record_id,
            "event_time": ended,
            "trace_id": trace_id,
            "span_id": span_id,
            "parent_id": span.parent_id,
            "trace_hash": trace_hash,
        }
        if canonical.type in CALLS:
            values = self._generation(canonical, span.status == "error", seconds, resource)
            self._rows("generations", model).add(index, key, content, common | values)
        elif canonical.type in RETRIEVALS:
            values = self._retrieval(canonical, span.status == "error")
            values |= {"start_time": started, "duration_seconds": seconds}
            self._rows("retrievals", model).add(index, key, content, common | values)
        self._feedback(index, model, canonical, trace_id, span_id, ended)

    def _generation(self, canonical: Canonical, failed: bool, seconds: float | None, resource: _Resource) -> dict[str, Any]:
        fields = canonical.fields
        values = {name: fields.get(name) for name in _FROM_DIALECT}
        if canonical.type == "embedding":
            values["operation"] = "embeddings"
        if (values["retry"] or 0) > MAX_REVISION:  # no column takes it; the span has it still
            values["retry"] = None
        values["cost_usd"], values["cost_source"] = self._prices.cost_of(values)
        values["context_window"] = self._prices.window_of(values)
        values["error_type"] = fields.get("error_type") or (OTHER_ERROR if failed else None)
        duration = fields.get("duration_seconds")
        values["duration_seconds"] = seconds if duration is None else duration
        values["service"] = fields.get("service") or resource.service
        values["environment"] = fields.get("environment") or resource.environment
        values["release"] = fields.get("release") or resource.release
        return values

    def _retrieval(self, canonical: Canonical, failed: bool) -> dict[str, Any]:
        about = canonical.retrieval
        documents = canonical.documents
        hits = about.get("hits")
        return {
            "type": canonical.type,
            "system": about.get("system"),
            "collection": about.get("collection"),
            "query": about.get("query"),
            "top_k": about.get("top_k"),
            "hits": len(documents) if hits is None and documents else hits,
            "error_type": canonical.fields.get("error_type") or (OTHER_ERROR if failed else None),
            "documents": _json([_document(d) for d in documents]) if documents else None,
        }

    def _log(self, index: int, record: LogRecord) -> None:
        canonical = self._dialects.read_log(record)
        if canonical is None or canonical.own:
            self._parsed.ignored += 1
            return
        resource = self._resource(record)
        model = self._route(resource, record.attributes)
        _checked_json([record.attributes, record.body], "attributes or body")
        at = _time(record.time_ns) if record.time_ns else self._received_at
        trace_id, span_id = record.trace_id, record.span_id
        if canonical.feedback:
            self._feedback(index, model, canonical, trace_id, span_id, at)
            return
        found = {name: canonical.fields[name] for name in _CONTENTS if canonical.fields.get(name) is not None}
        if not found or trace_id is None or span_id is None:
            self._parsed.ignored += 1  # nothing of it can be joined
            return
        record_id = f"{trace_id}-{span_id}"
        content = hash64(*(str(part) for name in _CONTENTS for part in (name, found.get(name) or "")), str(record.time_ns))
        self._rows("contents", model).add(
            index,
            hash64(record_id, f"{content:016x}"),
            content,
            {
                "record_id": record_id,
                "event_time": at,
                "trace_id": trace_id,
                "span_id": span_id,
                "trace_hash": self._trace_hash(trace_id),
                **{name: found.get(name) for name in _CONTENTS},
            },
        )

    def _feedback(
        self,
        index: int,
        model: str,
        canonical: Canonical,
        trace_id: str | None,
        span_id: str | None,
        at: datetime,
    ) -> None:
        for score in canonical.feedback:
            # A score may be of another span, or of the trace as a whole.
            whole = score.get("scope") == "trace"
            of_trace = score.get("trace_id") or trace_id
            of_span = None if whole else score.get("span_id") or span_id
            about = f"{of_trace}-{of_span}" if of_trace and of_span else None
            said = {name: value for name, value in score.items() if name not in ("trace_id", "span_id")}
            keyed = feedback.inline(about or "", of_trace or "", of_span or "", said, at) if of_trace else None
            if keyed is not None:
                values = {name: value if value != "" else None for name, value in keyed[2].items()}
                self._rows("feedback", model).add(index, keyed[0], keyed[1], values)
            elif self._parsed.kind == "logs":
                self._parsed.ignored += 1

    def _rows(self, kind: str, model: str) -> _Table:
        table = self._tables.get((kind, model))
        if table is None:
            table = self._tables[kind, model] = _Table()
        return table

    def _resource(self, one: Span | LogRecord) -> _Resource:
        found = self._resources.get(id(one.resource))  # the items of the batch keep it from being another's id
        if found is None:
            found = self._resources[id(one.resource)] = _Resource(one.resource, self._router, self._model)
        return found

    def _route(self, resource: _Resource, attributes: Mapping[str, Any]) -> str:
        if not resource.text:  # it cannot be stored, whoever the model is
            raise cast(Rejected, resource.model)
        if self._router.per_span(attributes):
            return self._router.model_of(attributes, resource.attributes, self._model)
        if isinstance(resource.model, Rejected):
            raise resource.model
        return resource.model

    def _trace_hash(self, trace_id: str) -> int:
        found = self._hashes.get(trace_id)
        if found is None:
            found = self._hashes[trace_id] = hash64(trace_id)
        return found

    def _json(self, value: Any, where: str) -> str:
        return lean_text(_checked_json(value, where, self._max_text))


def _document(one: Document) -> dict[str, Any]:
    values: dict[str, Any] = {"id": one.id, "text": one.text, "score": one.score, "metadata": one.metadata}
    return {name: value for name, value in values.items() if value is not None}


def _json(value: Any) -> str:
    return orjson.dumps(value, option=_SORTED, default=str).decode()


def _checked_json(value: Any, where: str, limit: int | None = None) -> str:
    try:
        data = orjson.dumps(value, option=_SORTED)
    except TypeError as exc:
        reason = "invalid_utf8" if "UTF-8" in str(exc) else "too_large"
        raise Rejected(reason, f"{where}: nested too deep, or what JSON cannot say: {exc}") from exc
    if limit is not None and len(data) > limit:
        raise Rejected("too_large", f"{where}: {len(data)} bytes; server.max_text_bytes is {limit}")
    return data.decode()


def _speakable(where: str, *texts: str | None) -> None:
    try:
        for text in texts:
            if text is not None and not text.isascii():
                text.encode()
    except UnicodeEncodeError as exc:
        raise Rejected("invalid_utf8", f"{where}: not valid UTF-8") from exc


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(ns: int) -> datetime:
    if not FIRST_NS <= ns < LAST_NS:
        raise Rejected(
            "bad_timestamp", f"{shown(ns)} nanoseconds since 1970 are outside the years {EARLIEST.year} to {LATEST.year}"
        )
    return EPOCH + timedelta(microseconds=ns // 1000)
