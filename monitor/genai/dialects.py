"""Dialects: one span or log record in, its canonical form out. A pure function of its input; the names are in dialects.yaml.

JSON is parsed only for the source that is used, and once. A value of the wrong shape is passed over: the raw attributes are kept
elsewhere, and nothing here may lose a span.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from monitor.genai import errorclass, inlinescores, messagetrees, retrieval, values
from monitor.genai.canonical import Canonical as Canonical
from monitor.genai.canonical import Document as Document
from monitor.genai.dialecttable import FILE, LATER, WITHIN, Reading, Table
from monitor.genai.fingerprint import Fingerprints
from monitor.genai.generation import complete, fill
from monitor.genai.media import lean, lean_text
from monitor.genai.messages import Message, dumped, messages, parsed, parts, text_message
from monitor.otlp.spans import LogRecord, Span

JUDGE = "modelwatch.judge"  # true on a span or its resource: our own judge's traffic
HTTP_STATUS = ("http.response.status_code", "http.status_code")
DAY = 86_400
NO_CONTENT = frozenset({"retriever", "reranker", "tool"})  # their input and output are no messages
_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
OPERATIONS = {"llm": "chat", "embedding": "embeddings"}


class Dialects:
    """One instance serves all threads. Raises what `Table` raises."""

    def __init__(self, file: Path = FILE) -> None:
        self.table = Table(file)
        raw = self.table.raw
        self.finish_reasons: dict[str, str] = raw["finish_reasons"]
        self.fingerprints = Fingerprints(raw["variable_sections"])
        self._resource: tuple[Mapping[str, Any], dict[str, str]] = ({}, {})

    def read(self, span: Span) -> Canonical:
        """The canonical form of a span. Never raises for what a sender wrote."""
        reading, found = Reading(), Canonical("other")
        self.table.collect(span.attributes, reading)
        if span.events:
            self._events(span, reading, found)
        if reading.objects:
            self.table.unfold(reading)
        found.type = self._type(span, reading)
        found.own = bool(reading.values.get("own")) or bool(values.flag(span.resource.get(JUDGE)))
        self._columns(span, found, reading)
        self._feedback(span, found, reading)
        if found.type not in NO_CONTENT:
            self._messages(found, reading)
        elif found.type == "tool":
            self._tool(found, reading)
        else:
            self._retrieval(span, found, reading)
        return found

    def read_log(self, record: LogRecord) -> Canonical | None:
        """Content and scores that come as log events; None for every other log."""
        attributes = record.attributes
        name = record.event_name or values.name(attributes.get("event.name"))
        purpose, role = self.table.events.get(name or "", ("", ""))
        if not purpose or purpose not in ("evaluation", "details", "messages", "choice"):
            return None
        body = parsed(record.body)
        body = {k: v for k, v in body.items() if isinstance(k, str)} if isinstance(body, dict) else {}
        if purpose == "details":
            found = self.read(_as_span(record, {**body, **attributes}))
            if found.type == "other":
                found.type = "llm"
            return found
        found = Canonical("evaluator" if purpose == "evaluation" else "llm")
        found.own = any(values.flag(where.get(JUDGE)) for where in (attributes, record.resource))
        if purpose == "evaluation":
            if one := inlinescores.evaluation({**body, **attributes}):
                one["trace_id"], one["span_id"] = record.trace_id, record.span_id
                one["response_id"] = values.name(attributes.get("gen_ai.response.id"))
                found.feedback.append(one)
            return found
        if one := messagetrees.of_event(body, attributes, role or "assistant"):
            (found.output_messages if purpose == "choice" else found.input_messages).append(one)
        reading = Reading()
        self.table.collect(attributes, reading)
        self._columns(_as_span(record, attributes), found, reading)
        fill(found, [], None, self.finish_reasons, self.fingerprints)
        return found

    def complete(self, found: Canonical, later: list[Canonical]) -> Canonical:
        """A generation with what came as logs of the same span; see generation.complete."""
        return complete(found, later, self.finish_reasons, self.fingerprints)

    # ---- what it is ---------------------------------------------------------------------------------------------------

    def _type(self, span: Span, reading: Reading) -> str:
        attributes = span.attributes
        for key, kinds in self.table.types:
            value = attributes.get(key)
            if isinstance(value, str):
                word = value.strip('" ').lower()
                kind = kinds.get(word) or kinds.get(f"{word.partition('.')[0]}.*")
                if kind is not None:
                    return kind
        if "retrieval.system" in reading.values and self._system(span, reading):
            return "retriever" if self._reads(span, reading) else "other"
        for kind, keys, prefixes in self.table.presence:
            if not keys.isdisjoint(attributes) or any(p in reading.trees for p in prefixes):
                return kind
        return "other"

    def _system(self, span: Span, reading: Reading) -> str | None:
        """The vector database, by its own attribute, else by the scope's or the span's name."""
        systems: dict[str, str] = self.table.raw["retrieval"]["systems"]
        said = reading.values.get("retrieval.system")
        if isinstance(said, str):
            return systems.get(said.lower())
        for text in (span.scope, span.name):
            for name, ours in systems.items():
                if text and name in text.lower():
                    return ours
        return None

    def _reads(self, span: Span, reading: Reading) -> bool:
        operation = reading.values.get("retrieval.operation")
        if not isinstance(operation, str):
            operation = span.name.rpartition(".")[2]  # Traceloop's Qdrant and Pinecone spans: `qdrant.query_points`
        return operation in self.table.raw["retrieval"]["reads"]

    # ---- columns ------------------------------------------------------------------------------------------------------

    def _columns(self, span: Span, found: Canonical, reading: Reading) -> None:
        said, fields, raw = reading.values, found.fields, self.table.raw
        columns = self.table.columns
        fields |= {name: value for name, value in said.items() if name in columns}
        fields.update(self._of_resource(span.resource))
        for name in raw["resource"]:
            if name in said:
                fields[name] = said[name]
        if "provider" in fields:
            fields["provider"] = raw["providers"].get(fields["provider"], fields["provider"])
        if "finish_reason" in fields:
            fields["finish_reason"] = self.finish_reasons.get(fields["finish_reason"], fields["finish_reason"])
        told = next((o for p, o in raw["operation_by_prefix"].items() if p in reading.trees), None)
        operation = fields.get("operation") or told or OPERATIONS.get(found.type)
        if operation:
            by_scope = raw["operation_by_scope"].get(span.scope, {})
            fields["operation"] = by_scope.get(operation) or raw["operations"].get(operation, operation)
        self._tokens(fields, reading)
        if "cost_usd" in said:
            fields["cost_usd"], fields["cost_source"] = said["cost_usd"], "reported"
        if (first := _first_token(span, said)) is not None:
            fields["time_to_first_token_seconds"] = first
        self._error(span, fields, said)
        entity = values.name(span.attributes.get("traceloop.entity.name"))
        if entity and "agent" not in fields and span.attributes.get("traceloop.span.kind") == "agent":
            fields["agent"] = entity
        if gateway := said.get("gateway") or self._gateway(span, said):
            fields["gateway"] = gateway
        for name in ("route", "retry", "fallback"):
            if name in said and (name != "route" or gateway):
                fields[name] = said[name]

    def _tokens(self, fields: dict[str, Any], reading: Reading) -> None:
        """Input includes what was cached, output what was reasoned; senders who leave them out are put right."""
        said = reading.values
        given, answered, total = said.get("input_tokens"), said.get("output_tokens"), said.get("total_tokens")
        read, written, reasoned = said.get("cache_read_tokens"), said.get("cache_write_tokens"), said.get("reasoning_tokens")
        cached = (read or 0) + (written or 0)
        if given is not None and cached:
            # Where it is left out (Anthropic's own way of counting) it shows: more was cached than given, or the total adds up
            # only with it; and some are known to.
            outside = cached > given or (total is not None and total == given + (answered or 0) + cached)
            inside = total is not None and total == given + (answered or 0)
            if not outside and not inside and reading.ranks["input_tokens"] == WITHIN:
                outside = any(
                    rule["key"] in reading.usage and rule["inside"] == reading.usage[rule["key"]]
                    for rule in self.table.raw["cached_outside_input"]
                )
            if outside:
                given += cached
        if answered is not None and reasoned and reasoned > answered:
            answered += reasoned  # Gemini counts its thoughts apart
        if total is not None and given is None and answered is not None and total >= answered:
            given = total - answered
        elif total is not None and answered is None and given is not None and total > given:
            answered = total - given
        counts = zip(_COUNTS, (given, answered, read, written, reasoned), strict=True)
        fields |= {name: value for name, value in counts if value is not None}

    def _error(self, span: Span, fields: dict[str, Any], said: Mapping[str, Any]) -> None:
        kind = said.get("error_type")
        if kind is None and (span.status == "error" or said.get("level") == "ERROR"):
            kind = errorclass.OTHER_ERROR
        if kind is not None:
            last = kind.rpartition(".")[2]
            kind = last if last.isidentifier() else kind  # openai.RateLimitError and RateLimitError are one
            status = next((s for key in HTTP_STATUS if (s := values.count(span.attributes.get(key))) is not None), None)
            fields["error_type"] = errorclass.named(kind, status, span.status_message)

    def _gateway(self, span: Span, said: Mapping[str, Any]) -> str | None:
        raw = self.table.raw
        for key, ours in raw["gateway_keys"].items():
            if key in span.attributes:
                return str(ours)
        for text, known in ((span.scope, raw["gateway_scopes"]), (said.get("address"), raw["gateway_hosts"])):
            for name, ours in known.items():
                if text and name in text:
                    return str(ours)
        return None

    def _of_resource(self, resource: Mapping[str, Any]) -> dict[str, str]:
        known, found = self._resource  # the spans of one export share their resource: read it once
        if known is not resource:
            found = {}
            for name, keys in self.table.raw["resource"].items():
                for key in keys:
                    value = values.name(resource.get(key)) if key in resource else None
                    if value is not None and not value.startswith("unknown_service"):  # what an SDK says when nobody told it
                        found[name] = value
                        break
            self._resource = (resource, found)
        return found

    # ---- content ------------------------------------------------------------------------------------------------------

    def _events(self, span: Span, reading: Reading, found: Canonical) -> None:
        given: list[Message] = []
        answered: list[Message] = []
        for event in span.events:
            purpose, detail = self.table.events.get(event.name, ("", ""))
            attributes = event.attributes
            if purpose == "details":
                self.table.collect(attributes, reading, LATER)
            elif purpose in ("messages", "choice"):
                if message := messagetrees.of_event(attributes, attributes, detail or "assistant"):
                    (answered if purpose == "choice" else given).append(message)
            elif purpose == "prompt":
                given += messages(attributes.get(detail), "user")
            elif purpose == "completion":
                answered += messages(attributes.get(detail), "assistant")
            elif purpose == "exception":
                # The first is what went wrong, those after it what was made of it.
                reading.put("error_type", LATER, values.name(attributes.get("exception.type")))
            elif purpose == "first_chunk" and 0 < span.start_ns <= event.time_ns:
                reading.put("first_chunk_event", LATER, (event.time_ns - span.start_ns) / 1e9)
            elif purpose == "evaluation" and (score := inlinescores.evaluation(attributes)):
                found.feedback.append(score)
            elif purpose == "document" and (document := retrieval.of_event(event.name, attributes)):
                found.documents.append(document)
        ranks = self.table.event_ranks
        if given:
            reading.input.append((ranks["input"], "<events", given))
        if answered:
            reading.output.append((ranks["output"], "<events", answered))

    def _messages(self, found: Canonical, reading: Reading) -> None:
        said = reading.values
        found.input_messages = self._side(reading.input, "user", reading)
        if found.type != "embedding":  # its answer is vectors
            found.output_messages = self._side(reading.output, "assistant", reading)
        system = parts(parsed(said["system_parts"])) if "system_parts" in said else []
        if found.input_messages or found.output_messages or system:
            fill(found, system, said.get("template"), self.finish_reasons, self.fingerprints)

    def _side(self, sources: list[tuple[int, str, Any]], role: str, reading: Reading) -> list[Message]:
        """Messages of the first source that has any."""
        said = reading.values
        if len(sources) > 1:
            sources.sort(key=_rank)
        for _, key, value in sources:
            form = self.table.forms.get(key)
            if key == "<events":
                found = list(value)
            elif key in self.table.prefixes:
                found = messagetrees.of_trees(value, role)
            elif form == "parts":
                found = [{"role": role, "parts": one}] if (one := parts(parsed(value))) else []
            elif form == "text" or (key == "input.value" and said.get("input.mime_type") == "text/plain"):
                found = text_message(value, role)
                for beside in self.table.beside.get(key, ()) if found else ():
                    found[0]["parts"] += parts(parsed(said.get(beside)))
            else:
                found = messages(reading.parsed.get(key, value), role)
            if found:
                return found
        return []

    def _tool(self, found: Canonical, reading: Reading) -> None:
        names = ("id", "name", "arguments", "result")
        call = {n: lean(parsed(reading.values[f"tool.{n}"])) for n in names if f"tool.{n}" in reading.values}
        if call and (text := dumped([call])):
            found.fields["tool_calls"] = text

    def _retrieval(self, span: Span, found: Canonical, reading: Reading) -> None:
        said, out, raw = reading.values, found.retrieval, self.table.raw["retrieval"]
        if query := _query(said.get("retrieval.query")):
            out["query"] = query
        if collection := values.name(said.get("retrieval.collection")):
            out["collection"] = collection
        if (top_k := values.count(said.get("retrieval.top_k"))) is not None:
            out["top_k"] = top_k
        if system := self._system(span, reading) or values.name(said.get("retrieval.system")):
            out["system"] = system.lower()
        told = found.documents
        for prefix in raw["document_prefixes"]:
            if prefix in reading.trees:
                told = retrieval.join(retrieval.tree(reading.trees[prefix]), told)
                break
        for name in ("retrieval.document_keys", "retrieval.output_keys"):
            # Documents are often told without their text, which then stands in the output.
            if name in said and (not told or any(d.text is None for d in told)):
                others = retrieval.documents(said[name])
                told = retrieval.join(told, others) if told else others
        found.documents = told
        hits = values.count(said.get("retrieval.hits"))
        if hits is not None or told:
            out["hits"] = len(told) if hits is None else hits

    def _feedback(self, span: Span, found: Canonical, reading: Reading) -> None:
        if reading.trees:
            for prefix, scope in self.table.raw["annotation_prefixes"].items():
                if prefix in reading.trees:
                    found.feedback += inlinescores.indexed(reading.trees[prefix], scope)
        if "gen_ai.evaluation.name" in reading.values and (one := inlinescores.evaluation(span.attributes)):
            found.feedback.append(one)
        # A score stands for its own span; on an evaluator's span with one link, for the span it links to.
        link = span.links[0] if found.type == "evaluator" and len(span.links) == 1 else span
        for one in found.feedback:
            one["trace_id"], one["span_id"] = link.trace_id, link.span_id if one["scope"] == "span" else None


def _rank(source: tuple[int, str, Any]) -> int:
    return source[0]


def _first_token(span: Span, said: Mapping[str, Any]) -> float | None:
    if "first_chunk_seconds" in said:
        return float(said["first_chunk_seconds"])
    if "first_chunk_milliseconds" in said:
        return float(said["first_chunk_milliseconds"]) / 1000
    when = said.get("first_chunk_time")
    if when and span.start_ns:
        try:
            seconds = datetime.fromisoformat(when).timestamp() - span.start_ns / 1e9
        except (ValueError, OverflowError, OSError):
            seconds = -1.0
        if 0 <= seconds < DAY:
            return round(seconds, 6)
    return said.get("first_chunk_event")


def _query(value: Any) -> str | None:
    whole = parsed(value)
    if isinstance(whole, dict):
        names = ("query", "input", "question", "text", "query_str")
        whole = next((whole[n] for n in names if isinstance(whole.get(n), str)), value)
    return lean_text(whole) if isinstance(whole, str) and whole else None


def _as_span(record: LogRecord, attributes: dict[str, Any]) -> Span:
    return Span(
        record.trace_id or "", record.span_id or "", None, record.event_name or "", "internal", 0, record.time_ns, "unset", None,
        attributes, [], [], record.resource, record.scope, record.scope_version,
    )  # fmt: skip
