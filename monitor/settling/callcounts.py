"""Rows of `calls`, and what the LLM metrics count of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

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


@dataclass(slots=True)
class Tally:
    """Of one LLM, what requests, calls and tokens add up to."""

    numbers: list[float] = field(default_factory=lambda: [0.0] * 10)
    """Requests, errors, retries, tokens in, out, from and to the cache, of reasoning, cost, calls without a cost."""
    durations: list[tuple[float, str | None]] = field(default_factory=list)  # seconds and trace
    first_tokens: list[tuple[float, str | None]] = field(default_factory=list)

    def add(self, call: Mapping[str, Any], sign: int = 1) -> None:
        """A counted row of `calls`."""
        numbers = self.numbers
        numbers[2] += sign * (call["attempt"] > 0)
        for i, name in enumerate(TOKENS, 3):
            numbers[i] += sign * (call[name] or 0)
        cost = call["cost_usd"]
        numbers[8] += sign * (cost or 0.0)
        numbers[9] += sign * (cost is None and (call["input_tokens"] is not None or call["output_tokens"] is not None))


class Tallies:
    """By LLM. What is taken back later than it was counted is not: counters only go up."""

    def __init__(self) -> None:
        self.by_llm: dict[str, Tally] = {}

    def of(self, llm_model: str | None) -> Tally:
        found = self.by_llm.get(llm_model or UNKNOWN)
        if found is None:
            found = self.by_llm[llm_model or UNKNOWN] = Tally()
        return found

    def singles(self, calls: Mapping[str, Sequence[Any]]) -> None:
        """Columns of calls each of which is a request of its own, and new."""
        names = ("llm_model", "failed", "attempt", *TOKENS, "cost_usd", *TIMES, "trace_id")
        size = len(calls["llm_model"])
        columns = [calls.get(name) or [None] * size for name in names]
        for llm, failed, attempt, went_in, out, read, written, reasoning, cost, seconds, first, trace_id in zip(
            *columns, strict=True
        ):
            tally = self.of(llm)
            numbers = tally.numbers
            numbers[0] += 1
            if failed:
                numbers[1] += 1
            if attempt:
                numbers[2] += 1
            numbers[3] += went_in or 0
            numbers[4] += out or 0
            if read:
                numbers[5] += read
            if written:
                numbers[6] += written
            if reasoning:
                numbers[7] += reasoning
            if cost is not None:
                numbers[8] += cost
            elif went_in is not None or out is not None:
                numbers[9] += 1
            if seconds is not None:
                tally.durations.append((seconds, trace_id))
            if first is not None:
                tally.first_tokens.append((first, trace_id))

    def restated(self, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> None:
        """The calls of one trace: what was counted of it, and what is now."""
        found: dict[str, Tally] = {}
        known = {call["record_id"] for call in before if call["counted"]}
        for calls, sign in ((before, -1), (after, 1)):
            requests: dict[str, Mapping[str, Any]] = {}
            for call in calls:
                if call["counted"]:
                    found.setdefault(call["llm_model"] or UNKNOWN, Tally()).add(call, sign)
                    last = requests.get(call["request_id"])
                    if last is None or call["attempt"] >= last["attempt"]:
                        requests[call["request_id"]] = call
            for call in requests.values():
                numbers = found[call["llm_model"] or UNKNOWN].numbers
                numbers[0] += sign
                numbers[1] += sign * bool(call["failed"])
        for llm, tally in found.items():
            total = self.of(llm)
            total.numbers = [a + max(0.0, b) for a, b in zip(total.numbers, tally.numbers, strict=True)]
        for call in after:
            if call["counted"] and call["record_id"] not in known:
                total = self.of(call["llm_model"])
                for name, held in zip(TIMES, (total.durations, total.first_tokens), strict=True):
                    if call[name] is not None:
                        held.append((call[name], call["trace_id"]))

    def count(self, metrics: Metrics, model: str) -> None:
        counters = (
            metrics.llm_requests, metrics.llm_errors, metrics.llm_retries, metrics.llm_input, metrics.llm_output,
            metrics.llm_cache_read, metrics.llm_cache_write, metrics.llm_reasoning, metrics.llm_cost, metrics.llm_unpriced,
        )  # fmt: skip
        for llm, tally in self.by_llm.items():
            for counter, number in zip(counters, tally.numbers, strict=True):
                counter.labels(model, llm).inc(number)
            for histogram, held in ((metrics.llm_duration, tally.durations), (metrics.llm_first_token, tally.first_tokens)):
                if held:
                    child = histogram.labels(model, llm)
                    for seconds, _ in held[1:]:
                        child.observe(seconds)
                    child.observe(held[0][0], exemplar({"trace_id": held[0][1]}))  # one of them is enough to look at
