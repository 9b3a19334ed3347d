"""What is sent, checked record by record: the good ones become columns, the others rejects with index and reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite
from typing import Any

import orjson

from detectors.contract import text_of_number
from detectors.ways import tokens_of
from monitor import deployments, feedback
from monitor.fields import Rejected, amount, content_hash, finite, last_user_text, optional_number, shown, timestamp, whole
from monitor.genai.prices import Prices
from monitor.keys import hash64

KINDS = ("predictions", "labels", "generations", "contexts", "feedback", "deployments")

FOR_ANY_TASK = ("feedback", "deployments")
REVISED = ("labels", "feedback")  # a correction has a higher revision
LATE = ("labels", "feedback", "deployments")  # what they are about was before, so their time says nothing of the traffic's

REASONS = frozenset(
    {
        "bad_json", "not_an_object", "missing_id", "missing_field", "missing_model", "unknown_model", "wrong_task",
        "wrong_type", "not_finite", "bad_timestamp", "too_large", "invalid_utf8", "conflict", "type_changed",
        "scoring_failed", "bad_trace_id", "bad_span_id", "undecodable", "wrong_signal", "unpaired",
    }
)  # fmt: skip
"""Why a record is in the dead letter. Closed: it is a label value."""

MAX_ID = 256
PICKLED_DEPTH = 100
MAX_REVISION = 2**31 - 1
MAX_LOGPROBS = 100_000  # tokens of an answer


@dataclass(frozen=True, slots=True)
class Reject:
    index: int
    reason: str
    message: str
    record_id: str | None
    payload: Any  # the record; text or bytes where it could not be read
    size: int | None = None  # bytes of the whole, where `payload` is its beginning

    def __reduce__(self) -> tuple[Any, ...]:
        rest = (self.index, self.reason, self.message, self.record_id)
        if not _deep(self.payload):
            return Reject, (*rest, self.payload, self.size)
        try:
            return _revived, (*rest, json.dumps(self.payload), self.size)
        except (TypeError, ValueError, RecursionError):
            return Reject, (*rest, "nested too deep to be shown", self.size)


def _revived(index: int, reason: str, message: str, record_id: str | None, payload: str, size: int | None) -> Reject:
    try:
        return Reject(index, reason, message, record_id, json.loads(payload), size)
    except RecursionError:
        return Reject(index, reason, message, record_id, "nested too deep to be shown", size)


def _deep(value: Any) -> bool:
    """Whether it is nested deeper than pickle is sure to go, which would fail the whole body for one record."""
    level = [value]
    for _ in range(PICKLED_DEPTH):
        level = [one for many in level for one in _parts(many) if isinstance(one, (dict, list))]
        if not level:
            return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


@dataclass(slots=True)
class Rows:
    """Good records of one kind and model, by column. All lists have the length of `index`."""

    index: list[int] = field(default_factory=list)  # place in the batch
    key: list[int] = field(default_factory=list)
    content: list[int] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    features: list[Mapping[str, Any]] = field(default_factory=list)
    kinds: set[tuple[str, str]] = field(default_factory=set)  # features and what they are taken for
    numbers: set[str] = field(default_factory=set)  # features that were numbers in an earlier record of the batch
    contexts: list[list[dict[str, Any]]] = field(default_factory=list)

    def take(self, places: Sequence[int]) -> Rows:
        """The rows in these places."""

        def chosen(values: list[Any]) -> list[Any]:
            return [values[i] for i in places] if values else []

        columns = {name: chosen(values) for name, values in self.columns.items()}
        lists = chosen(self.index), chosen(self.key), chosen(self.content)
        return Rows(*lists, columns, chosen(self.features), self.kinds, self.numbers, chosen(self.contexts))

    def add(self, index: int, key: int, content: int, values: Mapping[str, Any]) -> None:
        self.index.append(index)
        self.key.append(key)
        self.content.append(content)
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)


@dataclass(slots=True)
class Parsed:
    kind: str
    received_at: datetime
    total: int = 0
    rows: dict[tuple[str, str], Rows] = field(default_factory=dict)  # by kind and model
    rejects: list[Reject] = field(default_factory=list)
    ignored: int = 0  # taken, and nothing to be kept


KindOf = Callable[[str, str, str], str | None]
"""(model, feature, kind seen) -> the kind it has, or None where it gets no column."""


class Parser:
    """Checks records against the models that exist and the types their features have."""

    def __init__(self, tasks: Mapping[str, str], kind_of: KindOf, prices: Prices, *, max_text_bytes: int) -> None:
        """`tasks`: model -> regression, binary, multiclass, multilabel, ranking or llm."""
        self._tasks = tasks
        self._kind_of = kind_of
        self._prices = prices
        self._max_text = max_text_bytes

    def parse(self, kind: str, items: Sequence[Any], *, model: str | None, received_at: datetime) -> Parsed:
        """`items` are decoded JSON values, or a `Reject` where one could not be decoded. `model` stands in where a record
        names none."""
        one = getattr(self, f"_{kind}")
        parsed = Parsed(kind, received_at, total=len(items))
        for index, item in enumerate(items):
            if isinstance(item, Reject):
                parsed.rejects.append(item)
                continue
            try:
                if not isinstance(item, dict):
                    raise Rejected("not_an_object", f"{shown(item)} is not a JSON object; send one object per record")
                name = self._model(item, model, kind)
                one(parsed.rows.setdefault((kind, name), Rows()), index, name, item, received_at)
            except Rejected as exc:
                record_id = item.get("record_id") if isinstance(item, dict) else None
                shown_id = record_id[:MAX_ID] if isinstance(record_id, str) else None
                parsed.rejects.append(Reject(index, exc.reason, str(exc), shown_id, item))
        return parsed

    def _model(self, item: dict[str, Any], default: str | None, kind: str) -> str:
        name = item.get("model", default)
        if name is None:
            raise Rejected("missing_model", "the record names no model; set model in it, or ?model= for the batch")
        task = self._tasks.get(name) if isinstance(name, str) else None
        if task is None:
            known = ", ".join(sorted(self._tasks)) or "none"
            raise Rejected("unknown_model", f"model: {shown(name)} is not configured; there are {known}")
        if kind not in FOR_ANY_TASK and (kind in ("generations", "contexts")) != (task == "llm"):
            raise Rejected("wrong_task", f"model: {name} has task {task}, which takes no {kind}")
        return name  # type: ignore[no-any-return]

    def _predictions(self, rows: Rows, index: int, model: str, item: dict[str, Any], received_at: datetime) -> None:
        raw_features = item.get("features", {})
        if not isinstance(raw_features, dict):
            raise Rejected("wrong_type", f"features: {shown(raw_features)} is not an object of name: value")
        if not raw_features and item.get("prediction") is None:
            raise Rejected("missing_field", "neither features nor prediction; send at least one")
        features: dict[str, Any] = {}
        kinds: list[tuple[str, str]] = []  # taken over once the record is good: one that is not begins no column
        extra = {k: v for k, v in item.items() if k not in _PREDICTION_FIELDS}
        for name, value in raw_features.items():
            # Nearly every value of nearly every batch, so it is worth not asking again what the feature is.
            if type(value) is float and name in rows.numbers and isfinite(value):
                features[name] = value
                continue
            if value is None:
                continue
            kind = _KIND.get(type(value))
            has = self._kind_of(model, name, kind) if kind else None
            if has is None:
                extra.setdefault("features", {})[name] = value
                continue
            same_kind(name, value, kind, has)
            if kind == "number":
                value = finite(value, f"features.{name}")
            else:
                value = self._text(value if isinstance(value, str) else str(value).lower(), f"features.{name}")
            features[name] = value
            kinds.append((name, has))
        event_time = timestamp(item.get("timestamp"), received_at)
        content = content_hash(item)
        record_id = self._id(item, fallback=f"h-{content:016x}" if item.get("timestamp") is not None else None)
        number, text = self._answer(item.get("prediction"), "prediction", model)
        probability = optional_number(item, "probability")
        if probability is not None and not 0 <= probability <= 1:
            raise Rejected("wrong_type", f"probability: {probability} is not within 0..1")
        rows.add(
            index,
            hash64(record_id),
            content,
            {
                "record_id": record_id,
                "event_time": event_time,
                "model_version": self._optional_text(item, "model_version"),
                "prediction": number,
                "prediction_text": text,
                "probability": probability,
                "trace_id": self._optional_text(item, "trace_id"),
                "extra": orjson.dumps(extra).decode() if extra else None,
            },
        )
        rows.features.append(features)
        rows.kinds.update(kinds)
        rows.numbers.update(name for name, has in kinds if has == "number")

    def _labels(self, rows: Rows, index: int, model: str, item: dict[str, Any], received_at: datetime) -> None:
        record_id = self._id(item)
        if item.get("label") is None:
            raise Rejected("missing_field", "label is missing; send the true value")
        number, text = self._answer(item["label"], "label", model)
        revision = whole(item, "revision", MAX_REVISION) or 0
        rows.add(
            index,
            hash64(record_id, str(revision)),
            # Two senders may learn the same truth at different times: the time is not part of what a label says.
            hash64(repr(number), repr(text)),
            {
                "record_id": record_id,
                "revision": revision,
                "event_time": timestamp(item.get("timestamp"), received_at),
                "label": number,
                "label_text": text,
            },
        )

    def _generations(self, rows: Rows, index: int, model: str, item: dict[str, Any], received_at: datetime) -> None:
        event_time = timestamp(item.get("timestamp"), received_at)
        messages = item.get("messages")
        if messages is not None and not isinstance(messages, list):
            raise Rejected("wrong_type", f"messages: {shown(messages)} is not a list")
        body = {k: v for k, v in item.items() if k != "contexts"}
        content = content_hash(body)
        trace_id, span_id = self._optional_text(item, "trace_id"), self._optional_text(item, "span_id")
        fallback = f"{trace_id}-{span_id}" if trace_id and span_id else None
        if fallback is None and item.get("timestamp") is not None:
            fallback = f"h-{content:016x}"
        record_id = self._id(item, fallback=fallback)
        values: dict[str, Any] = {"record_id": record_id, "event_time": event_time}
        for name in _GENERATION_TEXTS:
            values[name] = self._optional_text(item, name)
        if values["question"] is None and messages:
            values["question"] = last_user_text(messages)
        for name in _GENERATION_COUNTS:
            values[name] = whole(item, name)
        values["retry"] = whole(item, "retry", MAX_REVISION)
        for name in ("cost_usd", "duration_seconds", "time_to_first_token_seconds"):
            values[name] = amount(item, name)
        extra = {k: v for k, v in body.items() if k not in _GENERATION_FIELDS}
        extra |= self._sampled(item)
        values["messages"] = orjson.dumps(messages).decode() if messages is not None else None
        values["attributes"] = orjson.dumps(extra).decode() if extra else None
        tool_calls = item.get("tool_calls")
        values["tool_calls"] = orjson.dumps(tool_calls).decode() if tool_calls is not None else None
        if not isinstance(item.get("fallback"), (bool, type(None))):
            raise Rejected("wrong_type", f"fallback: {shown(item['fallback'])} is neither true nor false")
        values["fallback"] = item.get("fallback")
        cost, source = self._prices.cost_of(values)
        values["cost_usd"], values["cost_source"] = cost, values["cost_source"] or source
        values["context_window"] = self._prices.window_of(values)
        values["trace_hash"] = None if trace_id is None else hash64(trace_id.lower())
        contexts = self._passages(item, record_id, event_time)
        rows.add(index, hash64(record_id), content, values)
        rows.contexts.append(contexts)

    def _sampled(self, item: dict[str, Any]) -> dict[str, Any]:
        """What a detector reads of how the LLM came to its answer, in one form: it stays among the attributes."""
        found: dict[str, Any] = {}
        if (samples := item.get("samples")) is not None:
            if not isinstance(samples, list) or not all(isinstance(one, str) for one in samples):
                raise Rejected(
                    "wrong_type", f"samples: {shown(samples)} is not a list of texts, other answers to the same prompt"
                )
            found["samples"] = [self._text(one, f"samples.{i}") for i, one in enumerate(samples)]
        if (logprobs := item.get("logprobs")) is not None:
            tokens = tokens_of(logprobs, MAX_LOGPROBS)
            if tokens is None:
                wanted = "an object with content as OpenAI sends it, or a list of numbers of at most 0"
                raise Rejected("wrong_type", f"logprobs: {shown(logprobs)} is not {wanted}")
            # Without the tokens: they are the answer once more, in pieces that no masking would recognise.
            found["logprobs"] = [{"logprob": t.logprob, "top_logprobs": [*t.alternatives]} for t in tokens[0]]
        return found

    def _contexts(self, rows: Rows, index: int, model: str, item: dict[str, Any], received_at: datetime) -> None:
        record_id = self._id(item)
        event_time = timestamp(item.get("timestamp"), received_at)
        passages = self._passages(item, record_id, event_time)
        if not passages:
            raise Rejected("missing_field", "contexts is missing or empty; send a list of passages")
        rows.add(index, hash64(record_id), content_hash(item), {"record_id": record_id})
        rows.contexts.append(passages)

    def _feedback(self, rows: Rows, index: int, model: str, item: dict[str, Any], received_at: datetime) -> None:
        about = None if item.get("record_id") is None else self._id(item)
        rows.add(index, *feedback.read(item, about, received_at, self._optional_text))

    def _deployments(self, rows: Rows, index: int, model: str, item: dict[str, Any], received_at: datetime) -> None:
        unnamed = f"h-{content_hash(item):016x}" if item.get("timestamp") is not None else None
        rows.add(index, *deployments.read(item, self._id(item, unnamed), received_at, self._optional_text))

    def _passages(self, item: dict[str, Any], record_id: str, event_time: datetime) -> list[dict[str, Any]]:
        raw = item.get("contexts")
        if raw is None:
            return []
        if not isinstance(raw, list):
            raise Rejected("wrong_type", f"contexts: {shown(raw)} is not a list of passages")
        found = []
        for position, one in enumerate(raw):
            where = f"contexts.{position}"
            passage = {"text": one} if isinstance(one, str) else one
            if not isinstance(passage, dict) or not isinstance(passage.get("text"), str):
                raise Rejected("wrong_type", f"{where}: {shown(one)} is neither text nor an object with text")
            text = self._text(passage["text"], where)
            document_id = self._optional_text(passage, "document_id")
            score = optional_number(passage, "score")
            found.append(
                {
                    "record_id": record_id,
                    "position": position,
                    "document_id": document_id,
                    "text": text,
                    "retrieval_score": score,
                    "event_time": event_time,
                    "key_hash": hash64(record_id, document_id or "", text),
                    "content_hash": hash64(text),
                }
            )
        return found

    def _id(self, item: dict[str, Any], fallback: str | None = None) -> str:
        value = item.get("record_id", fallback)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is None or value == "":
            raise Rejected("missing_id", "record_id is missing; send an id that stays the same when you send again")
        if not isinstance(value, str):
            raise Rejected("wrong_type", f"record_id: {shown(value)} is not text")
        if len(value) > MAX_ID:
            raise Rejected("too_large", f"record_id: {len(value)} characters; the limit is {MAX_ID}")
        return self._text(value, "record_id")

    def _answer(self, value: Any, where: str, model: str) -> tuple[float | None, str | None]:
        """A prediction or a label. A list of classes becomes JSON with the classes in order: equal sets are equal text."""
        if self._tasks[model] != "multilabel" or value is None:
            return self._number_or_text(value, where)
        if not isinstance(value, list) or not all(isinstance(one, (str, int, float, bool)) for one in value):
            raise Rejected("wrong_type", f"{where}: {shown(value)} is not a list of classes, as models of task multilabel have")
        return None, self._text(orjson.dumps(sorted({_class(one, where) for one in value})).decode(), where)

    def _number_or_text(self, value: Any, where: str) -> tuple[float | None, str | None]:
        if value is None:
            return None, None
        if isinstance(value, bool):
            return float(value), None
        if isinstance(value, (int, float)):
            return finite(value, where), None
        if isinstance(value, str):
            return None, self._text(value, where)
        raise Rejected("wrong_type", f"{where}: {shown(value)} is neither a number nor text")

    def _optional_text(self, item: dict[str, Any], name: str) -> str | None:
        value = item.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise Rejected("wrong_type", f"{name}: {shown(value)} is not text")
        return self._text(value, name)

    def _text(self, value: str, where: str) -> str:
        if len(value) * 4 > self._max_text or not value.isascii():
            try:
                size = len(value.encode())
            except UnicodeEncodeError as exc:  # half of a pair: neither a hash nor the store takes it
                raise Rejected("invalid_utf8", f"{where}: not valid UTF-8") from exc
            if size > self._max_text:
                raise Rejected("too_large", f"{where}: {size} bytes; server.max_text_bytes is {self._max_text}")
        return value


def _class(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else text_of_number(finite(value, where))


def same_kind(feature: str, value: Any, kind: str | None, has: str) -> None:
    if kind != has:
        raise Rejected("type_changed", f"features.{feature}: {shown(value)} is a {kind}; this feature is a {has} since it began")


_KIND = {int: "number", float: "number", str: "category", bool: "category"}
_PREDICTION_FIELDS = frozenset(
    {"record_id", "model", "timestamp", "features", "prediction", "probability", "model_version", "trace_id"}
)
_GENERATION_TEXTS = (
    "trace_id", "span_id", "model_version", "provider", "llm_model", "operation", "question", "system", "response",
    "finish_reason", "error_type", "conversation_id", "user_id", "prompt_name", "prompt_version", "request_model", "cost_source",
    "agent", "workflow", "service", "environment", "release", "gateway", "route", "fingerprint", "parent_id",
)  # fmt: skip
_GENERATION_COUNTS = (
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens",
)  # fmt: skip
_GENERATION_FIELDS = frozenset(
    {
        *_GENERATION_TEXTS, *_GENERATION_COUNTS, "record_id", "model", "timestamp", "messages", "contexts", "cost_usd",
        "duration_seconds", "time_to_first_token_seconds", "tool_calls", "fallback", "retry",
    }
)  # fmt: skip
