"""What row detectors read of an answer: its texts and the passages in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectors.contract import NotEvaluable
from monitor import exchange, said
from monitor.keys import place_hash
from monitor.reader import Reader

OF_A_GENERATION = ("seq", "record_id", "event_time", "received_at", "trace_id", "trace_hash", "question", "system", "response")


def inputs(
    reader: Reader, model: str, work: Sequence[Mapping[str, Any]], wanted: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """What the detectors read, in the order of `work`; passages in the order they came. `wanted`: the keys that they name; what
    only few of them read is only read where it is among these (`exchange.NAMES`).

    Raises:
        NotEvaluable: rows_unavailable, when some of it lies in a damaged segment.
    """
    seqs = [w["seq"] for w in work]
    marks = ", ".join(str(int(s)) for s in seqs)
    more = [*exchange.COLUMNS] if wanted & exchange.NAMES else []
    # The last row before the first wanted one lies in an earlier segment, which need not be opened.
    generations = {
        row["seq"]: row
        for row in reader.query(
            f"SELECT {', '.join([*OF_A_GENERATION, *more])} "
            f"FROM {reader.source('generations', model, after_seq=min(seqs) - 1)} WHERE seq IN ({marks})"
        )
    }
    _fill(reader, model, list(generations.values()), ("messages",) if more else ())
    if more:
        exchange.fill(reader, model, list(generations.values()), wanted)
    contexts: dict[str, list[dict[str, Any]]] = {}
    if firsts := [w["contexts_from"] for w in work if w["contexts_from"] is not None]:
        ids = [w["record_id"] for w in work]
        slots = ", ".join("?" * len(ids))
        places = reader.places("records", "contexts", model, [place_hash(record_id) for record_id in ids])
        with reader.whole():
            passages = reader.source("contexts", model, after_seq=min(firsts) - 1, places=places)
        for passage in reader.query(
            f"SELECT seq, record_id, revision, text, retrieval_id FROM {passages} WHERE record_id IN ({slots}) ORDER BY seq",
            ids,
        ):
            contexts.setdefault(passage["record_id"], []).append(passage)
    rows = []
    for one in work:
        row = generations.get(one["seq"])
        if row is None:
            raise NotEvaluable("rows_unavailable", f"{one['record_id']} lies in a segment that is damaged")
        given = in_force(contexts.get(one["record_id"], []), one["revision"])
        rows.append(
            {
                **{name: value for name, value in row.items() if name != "trace_hash"},
                "revision": one["revision"],
                "contexts": [c["text"] for c in given],
                "context_seqs": [c["seq"] for c in given],
            }
        )
    return rows


def in_force(passages: Sequence[Mapping[str, Any]], revision: int) -> list[Mapping[str, Any]]:
    """Those of one generation that count at an input revision: what its sender gave, else what was joined to it last."""
    here = [p for p in passages if p["revision"] <= revision]
    if given := [p for p in here if p["retrieval_id"] is None]:
        return given
    latest = max((p["revision"] for p in here), default=0)
    return [p for p in here if p["revision"] == latest]


def _fill(reader: Reader, model: str, generations: Sequence[dict[str, Any]], more: tuple[str, ...]) -> None:
    """Put in the texts that came as log records, and `more` of those. What the span says itself stands."""
    names = ("question", "system", "response", *more)
    lacking = {
        row["record_id"]: row
        for row in generations
        if row["trace_hash"] is not None and any(row[name] is None for name in ("question", "response", *more))
    }
    if not lacking:
        return
    places = reader.places("traces", "contents", model, [row["trace_hash"] for row in lacking.values()])
    marks = ", ".join("?" * len(lacking))
    contents = f"{reader.source('contents', model, places=places)} WHERE record_id IN ({marks})"
    for texts in reader.query(said.in_logs(contents, names), list(lacking)):
        row = lacking[texts["record_id"]]
        row.update({name: texts[name] for name in names if row[name] is None})
