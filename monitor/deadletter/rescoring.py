"""Scoring that failed, asked for again: the generation is queued under its next input revision, as if it had changed.

The failed outcome of the last revision stands: one outcome per record, revision, detector, version and settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from monitor.keys import hash64
from monitor.transaction import Transaction


def queue_again(transaction: Transaction, letters: Sequence[Mapping[str, Any]]) -> set[int]:
    """Have the generations of these dead letters scored again; the `seq` of the letters whose generation is in the store."""
    waiting = {(row["model"], row["record_id"]) for row in transaction.query("SELECT model, record_id FROM work")}
    queued: set[int] = set()
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for letter in letters:
        if letter["monitored_model"] and letter["record_id"]:
            by_model.setdefault(letter["monitored_model"], []).append(letter)
    for model, group in by_model.items():
        places = transaction.find("generations", model, [hash64(one["record_id"]) for one in group])
        wanted: dict[str, int] = {}
        for letter, place in zip(group, places, strict=True):
            if place is not None:
                queued.add(letter["seq"])
                # One waits already where another detector failed on it too, or a passage came since.
                if (model, letter["record_id"]) not in waiting:
                    wanted[letter["record_id"]] = place[1]
        if wanted:
            _queue(transaction, model, wanted)
    return queued


def _queue(transaction: Transaction, model: str, wanted: Mapping[str, int]) -> None:
    """`wanted`: record id -> seq of the generation."""
    reader = transaction.reader()
    ids = list(wanted)
    marks = ", ".join("?" * len(ids))
    found = {
        kind: {
            row["record_id"]: row
            for row in reader.query(
                f"SELECT record_id, max(revision) AS revision, min(seq) AS first FROM {reader.source(kind, model)} "
                f"WHERE record_id IN ({marks}) GROUP BY record_id",
                ids,
            )
        }
        for kind in ("scores", "contexts")
    }
    seqs = ", ".join(str(seq) for seq in wanted.values())
    source = reader.source("generations", model, after_seq=min(wanted.values()) - 1)
    times = {row["seq"]: row["event_time"] for row in reader.query(f"SELECT seq, event_time FROM {source} WHERE seq IN ({seqs})")}
    none: dict[str, Any] = {"revision": 1, "first": None}
    last = [max(found[kind].get(one, none)["revision"] for kind in found) for one in ids]
    transaction.insert(
        "work",
        {
            "model": [model] * len(ids),
            "record_id": ids,
            "seq": list(wanted.values()),
            "revision": [revision + 1 for revision in last],
            "input": [0] * len(ids),
            "attempts": [0] * len(ids),
            "contexts_from": pa.array([found["contexts"].get(one, none)["first"] for one in ids], pa.int64()),
            "due_at": [transaction.now] * len(ids),
            "event_time": [times[seq] for seq in wanted.values()],
        },
    )
