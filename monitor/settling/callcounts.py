"""Rows of `calls`, and what the LLM metrics count of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from monitor.genai.errorclass import CLASSES, ErrorClass, class_of
from monitor.metrics import Metrics, exemplar
from monitor.settling.calls import COST, EMBEDDINGS, TOKENS, plain

UNKNOWN = "unknown"  # the label of an LLM that nobody named

TIMES = ("duration_seconds", "time_to_first_token_seconds")


def alone(columns: Mapping[str, Sequence[Any]], received_at: datetime) -> dict[str, Any]:
    """Columns of `calls` for generations without a trace: each is a request of its own. `columns`: those of `generations`."""
    size = len(columns["record_id"])

    def column(name: str) -> Sequence[Any]:
        return columns.get(name) or [None] * size

    values = [plain(dict(zip((*TOKENS, *COST), row, strict=True))) for row in zip(*map(column, (*TOKENS, *COST)), strict=True)]
    return {
        "record_id": columns["record_id"],
        "event_time": columns["event_time"],
        "revision": 1,
        "counted": [True] * size,
        "request_id": columns["record_id"],
        "attempt": [n or 0 for n in column("retry")],
        "fallback": [bool(f) for f in column("fallback")],
        "failed": [e is not None for e in column("error_type")],
        "llm_model": [a or b for a, b in zip(column("llm_model"), column("request_model"), strict=True)],
        **{name: [v[name] for v in values] for name in (*TOKENS, *COST)},
        **{name: column(name) for name in TIMES},
        "input_revision": [None if o == EMBEDDINGS else 1 for o in column("operation")],
        "passages": 0,
        "contents": 0,
        "received_at": received_at,
    }


Key = tuple[str, str]  # provider and LLM
SEEN = ("provider", "error_type", "finish_reason", "context_window")  # of a generation: what its call does not repeat


@dataclass(slots=True)
class Tally:
    """Of one LLM of one provider, what requests, calls and tokens add up to."""

    numbers: list[float] = field(default_factory=lambda: [0.0] * 9)
    """Requests, retries, tokens in, out, from and to the cache, of reasoning, cost, calls without a cost."""
    errors: dict[ErrorClass, float] = field(default_factory=dict)
    # Each observation with its trace.
    durations: list[tuple[float, str | None]] = field(default_factory=list)
    first_tokens: list[tuple[float, str | None]] = field(default_factory=list)
    per_token: list[tuple[float, str | None]] = field(default_factory=list)
    context: list[tuple[float, str | None]] = field(default_factory=list)

    def add(self, call: Mapping[str, Any], sign: int = 1) -> None:
        """A counted row of `calls`."""
        numbers = self.numbers
        numbers[1] += sign * (call["attempt"] > 0)
        for i, name in enumerate(TOKENS, 2):
            numbers[i] += sign * (call[name] or 0)
        cost = call["cost_usd"]
        numbers[7] += sign * (cost or 0.0)
        numbers[8] += sign * (cost is None and (call["input_tokens"] is not None or call["output_tokens"] is not None))

    def request(self, failed: ErrorClass | None, sign: int = 1) -> None:
        self.numbers[0] += sign
        if failed is not None:
            self.errors[failed] = self.errors.get(failed, 0.0) + sign

    def observe(
        self,
        trace_id: str | None,
        seconds: float | None,
        first: float | None,
        given: int | None,
        answered: int | None,
        window: int | None,
    ) -> None:
        if seconds is not None:
            self.durations.append((seconds, trace_id))
        if first is not None:
            self.first_tokens.append((first, trace_id))
            if seconds is not None and answered is not None and answered > 1 and seconds >= first:
                self.per_token.append(((seconds - first) / (answered - 1), trace_id))
        if given is not None and window:
            self.context.append((given / window, trace_id))


class Tallies:
    """By provider and LLM. What is taken back later than it was counted is not: counters only go up."""

    def __init__(self) -> None:
        self.by_llm: dict[Key, Tally] = {}

    def of(self, key: Key) -> Tally:
        found = self.by_llm.get(key)
        if found is None:
            found = self.by_llm[key] = Tally()
        return found

    def singles(self, calls: Mapping[str, Sequence[Any]], generations: Mapping[str, Sequence[Any]]) -> None:
        """Columns of calls each of which is a request of its own, and new, with what `SEEN` names of their generations."""
        names = ("llm_model", "failed", "attempt", *TOKENS, "cost_usd", *TIMES, "trace_id")
        size = len(calls["llm_model"])
        columns = [calls.get(name) or [None] * size for name in names]
        columns += [generations.get(name) or [None] * size for name in SEEN]
        for (
            llm, failed, attempt, went_in, out, read, written, reasoning, cost, seconds, first, trace_id,
            provider, error, finish, window,
        ) in zip(*columns, strict=True):  # fmt: skip
            tally = self.of((provider or UNKNOWN, llm or UNKNOWN))
            tally.request(class_of(error, finish) if failed else None)
            numbers = tally.numbers
            if attempt:
                numbers[1] += 1
            numbers[2] += went_in or 0
            numbers[3] += out or 0
            if read:
                numbers[4] += read
            if written:
                numbers[5] += written
            if reasoning:
                numbers[6] += reasoning
            if cost is not None:
                numbers[7] += cost
            elif went_in is not None or out is not None:
                numbers[8] += 1
            tally.observe(trace_id, seconds, first, went_in, out, window)

    def restated(
        self,
        before: Sequence[Mapping[str, Any]],
        after: Sequence[Mapping[str, Any]],
        generations: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """The calls of one trace: what was counted of it, and what is now. `generations`: what `SEEN` names, by record."""
        found: dict[Key, Tally] = {}
        known = {call["record_id"] for call in before if call["counted"]}

        def key(call: Mapping[str, Any]) -> Key:
            return _seen(generations, call)["provider"] or UNKNOWN, call["llm_model"] or UNKNOWN

        for calls, sign in ((before, -1), (after, 1)):
            requests: dict[str, Mapping[str, Any]] = {}
            for call in calls:
                if call["counted"]:
                    found.setdefault(key(call), Tally()).add(call, sign)
                    last = requests.get(call["request_id"])
                    if last is None or call["attempt"] >= last["attempt"]:
                        requests[call["request_id"]] = call
            for call in requests.values():
                seen = _seen(generations, call)
                found[key(call)].request(
                    (class_of(seen["error_type"], seen["finish_reason"]) or "other") if call["failed"] else None, sign
                )
        for one, tally in found.items():
            total = self.of(one)
            total.numbers = [a + max(0.0, b) for a, b in zip(total.numbers, tally.numbers, strict=True)]
            for name, count in tally.errors.items():
                total.errors[name] = total.errors.get(name, 0.0) + max(0.0, count)
        for call in after:
            if call["counted"] and call["record_id"] not in known:
                self.of(key(call)).observe(
                    call["trace_id"], call["duration_seconds"], call["time_to_first_token_seconds"], call["input_tokens"],
                    call["output_tokens"], _seen(generations, call)["context_window"],
                )  # fmt: skip

    def count(self, metrics: Metrics, model: str) -> None:
        counters = (
            metrics.llm_requests, metrics.llm_retries, metrics.llm_input, metrics.llm_output, metrics.llm_cache_read,
            metrics.llm_cache_write, metrics.llm_reasoning, metrics.llm_cost, metrics.llm_unpriced,
        )  # fmt: skip
        for key, tally in self.by_llm.items():
            for counter, number in zip(counters, tally.numbers, strict=True):
                counter.labels(model, *key).inc(number)
            for name in CLASSES:  # each from 0 on, so that the first error is an increase
                metrics.llm_errors.labels(model, *key, name).inc(tally.errors.get(name, 0.0))
            for histogram, held in (
                (metrics.llm_duration, tally.durations),
                (metrics.llm_first_token, tally.first_tokens),
                (metrics.llm_per_token, tally.per_token),
                (metrics.llm_context, tally.context),
            ):
                if held:
                    child = histogram.labels(model, *key)
                    for value, _ in held[1:]:
                        child.observe(value)
                    child.observe(held[0][0], exemplar({"trace_id": held[0][1]}))  # one of them is enough to look at


def _seen(generations: Mapping[str, Mapping[str, Any]], call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a call whose generation cannot be read any more nothing is known."""
    return generations.get(call["record_id"]) or dict.fromkeys(SEEN)
