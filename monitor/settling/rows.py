"""The rows of one trace, and what settling makes of them: `calls` on values as the store gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monitor import log
from monitor.settling.callcounts import TIMES
from monitor.settling.calls import (
    COST,
    EMBEDDINGS,
    TOKENS,
    Call,
    Generation,
    Passage,
    Place,
    Retrieval,
    Retrieved,
    decide,
    plain,
    untangled,
)

_COMPARED = (
    "counted", "request_id", "attempt", "fallback", "failed", "llm_model", "input_revision", "passages", "contents", *TOKENS,
    *COST,
)  # fmt: skip


@dataclass(slots=True)
class Trace:
    """All there is of one trace, each list in any order."""

    spans: list[dict[str, Any]] = field(default_factory=list)
    generations: list[dict[str, Any]] = field(default_factory=list)
    retrievals: list[dict[str, Any]] = field(default_factory=list)
    contents: dict[str, int] = field(default_factory=dict)  # log records with texts, by record
    before: dict[str, dict[str, Any]] = field(default_factory=dict)  # the latest rows of calls, by record


@dataclass(slots=True)
class Known:
    """Passages and scores of a record that are stored."""

    revision: int = 1  # the highest of any
    first: int | None = None  # seq of the first
    joined: list[int] = field(default_factory=list)  # content hashes of those joined last
    _joined_revision: int = 0

    def add(self, seq: int, revision: int, retrieval_id: str | None, content_hash: int) -> None:
        """In the order of seq."""
        self.revision = max(self.revision, revision)
        self.first = seq if self.first is None else self.first
        if retrieval_id is not None:
            if revision > self._joined_revision:
                self._joined_revision, self.joined = revision, []
            self.joined.append(content_hash)


@dataclass(slots=True)
class Row:
    """A row of `calls` to be, and what it sets off."""

    call: dict[str, Any]
    seq: int  # of the generation
    differs: bool  # from what is stored
    first: bool  # nothing was stored
    renewed: bool = False  # its input is new, so it is to be scored
    rejoined: bool = False  # with these passages
    passages: list[Passage] = field(default_factory=list)
    contexts_from: int | None = None


def settled(trace: Trace, known: Mapping[str, Known]) -> tuple[list[Row], bool]:
    """A row for each generation, and whether all went as it should."""
    places = {
        s["span_id"]: Place(s["record_id"], s["parent_id"], s["start"], s["ended"], s["type"] == "tool") for s in trace.spans
    }
    generations = []
    for row in trace.generations:
        span_id = row["span_id"] or row["record_id"]
        if span_id not in places:
            places[span_id] = _pushed(row)
        generations.append((span_id, row))
    try:
        untangled(places)
        calls = decide(places, [_generation(places[span_id], span_id, row) for span_id, row in generations])
        retrieved = Retrieved(places, [_retrieval(row) for row in trace.retrievals])
        return [
            _row(trace, known, retrieved, places[span_id].start, row, calls[row["record_id"]]) for span_id, row in generations
        ], True
    except Exception as exc:  # a fault of ours in one trace must not keep all others from settling
        log.error("a trace could not be settled; each of its calls counts by itself", exc, trace=trace.generations[0]["trace_id"])
        nothing = Retrieved({}, ())
        alone = [
            (row, Call(True, row["record_id"], row["retry"] or 0, bool(row["fallback"]), plain(row))) for _, row in generations
        ]
        return [_row(trace, known, nothing, 0, row, call) for row, call in alone], False


def _row(trace: Trace, known: Mapping[str, Known], retrieved: Retrieved, start: int, row: Mapping[str, Any], call: Call) -> Row:
    record_id = row["record_id"]
    before = trace.before.get(record_id)
    scored = call.counted and row["operation"] != EMBEDDINGS
    passages = retrieved.before(start) if scored else []
    contents = trace.contents.get(record_id, 0)
    after: dict[str, Any] = {
        "record_id": record_id,
        "revision": 1 if before is None else before["revision"] + 1,
        "event_time": row["event_time"],
        "trace_id": row["trace_id"],
        "trace_hash": row["trace_hash"],
        "counted": call.counted,
        "request_id": call.request_id,
        "attempt": call.attempt,
        "fallback": call.fallback,
        "failed": row["failed"],
        "llm_model": row["llm_model"],
        **call.values,
        **{name: row[name] for name in TIMES},
        "input_revision": None,
        "passages": len(passages),
        "contents": contents,
    }
    found = Row(after, row["seq"], True, before is None, passages=passages)
    if scored:
        if before is None or before["input_revision"] is None:
            found.renewed, found.rejoined = True, bool(passages)
            after["input_revision"] = 1
        else:
            held = known.get(record_id) or Known()
            found.contexts_from = held.first
            found.rejoined = [p.content for p in passages] != held.joined if trace.retrievals else False
            found.renewed = found.rejoined or contents != before["contents"]
            after["input_revision"] = (
                max(before["input_revision"], held.revision) + 1 if found.renewed else before["input_revision"]
            )
    found.differs = before is None or any(before[name] != after[name] for name in _COMPARED)
    return found


def _generation(place: Place, span_id: str, row: Mapping[str, Any]) -> Generation:
    return Generation(
        place,
        span_id,
        "embedding" if row["operation"] == EMBEDDINGS else "llm",
        row["failed"],
        row["llm_model"],
        row,
        row["asked"],
        row["retry"],
        row["fallback"],
    )


def _pushed(row: Mapping[str, Any]) -> Place:
    end = int(row["event_time"].timestamp() * 1_000_000)
    return Place(row["record_id"], row["parent_id"], end - int((row["duration_seconds"] or 0.0) * 1_000_000), end)


def _retrieval(row: Mapping[str, Any]) -> Retrieval:
    place = Place(row["record_id"], row["parent_id"], row["start"], row["ended"])
    return Retrieval(place, row["span_id"], row["type"] == "reranker", row["documents"])
