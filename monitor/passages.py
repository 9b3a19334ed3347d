"""Passages and the generations they belong to, in whichever order they come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from monitor.keys import hash64
from monitor.settling.traces import Traces
from monitor.store import Store
from monitor.transaction import Transaction


class Passages:
    """Used on the writer thread, inside a transaction."""

    def __init__(self, store: Store) -> None:
        with store.read() as reader:
            early = reader.query("SELECT model, record_id FROM work WHERE due_at IS NULL")
        # Generations that have not come yet, or whose trace has not settled, and whose passages are here.
        self._early = {(row["model"], row["record_id"]) for row in early}

    def waiting(self, model: str, record_id: str) -> bool:
        """Whether passages of this generation may be here already."""
        return (model, record_id) in self._early

    def adopt(self, transaction: Transaction, model: str, record_id: str) -> int | None:
        """The seq of the first passage that came before its generation."""
        where = "WHERE model = ? AND record_id = ? AND due_at IS NULL"
        found = transaction.query(f"SELECT contexts_from FROM work {where}", [model, record_id])
        transaction.execute(f"DELETE FROM work {where}", [model, record_id])
        transaction.on_commit(lambda: self._early.discard((model, record_id)))
        return found[0]["contexts_from"] if found else None

    def keep(
        self, transaction: Transaction, model: str, passages: list[dict[str, Any]], received_at: datetime, batch_id: str
    ) -> bool:
        """Passages of a generation that may be waiting, scored already, or not here yet. False when all were known."""
        fresh = self.fresh(transaction, model, passages)
        if not fresh:
            return False
        record_id = fresh[0]["record_id"]
        waiting = transaction.query("SELECT revision FROM work WHERE model = ? AND record_id = ?", [model, record_id])
        if waiting:
            first = self.append(transaction, model, fresh, waiting[0]["revision"], received_at, batch_id)
            # Whoever is scoring it right now sees by `input` that what was read is no longer all there is.
            transaction.execute(
                "UPDATE work SET input = input + 1, contexts_from = coalesce(contexts_from, ?) WHERE model = ? AND record_id = ?",
                [first, model, record_id],
            )
            return True
        generation = transaction.find("generations", model, [hash64(record_id)])[0]
        trace_hash = None if generation is None else self._trace_of(transaction, model, record_id, generation[1])
        if generation is None or (trace_hash is not None and Traces.waiting(transaction, model, [trace_hash])):
            first = self.append(transaction, model, fresh, 1, received_at, batch_id)
            self.early(transaction, model, record_id, first, fresh[0]["event_time"])
            return True
        revision, earliest = transaction.scored_input(model, record_id)
        first = self.append(transaction, model, fresh, revision + 1, received_at, batch_id)
        transaction.insert(
            "work",
            {
                "model": [model],
                "record_id": [record_id],
                "seq": [generation[1]],
                "revision": [revision + 1],
                "input": [0],
                "attempts": [0],
                "contexts_from": [earliest or first],
                "due_at": [received_at],
                "event_time": [fresh[0]["event_time"]],
            },
        )
        return True

    def early(self, transaction: Transaction, model: str, record_id: str, first: int, event_time: datetime) -> None:
        """Keep in mind where the passages begin of a generation that cannot be scored yet."""
        if (model, record_id) in self._early:
            return
        self._early.add((model, record_id))
        transaction.on_rollback(lambda: self._early.discard((model, record_id)))
        transaction.insert(
            "work",
            {
                "model": [model],
                "record_id": [record_id],
                "seq": pa.array([None], pa.int64()),
                "revision": [1],
                "input": [0],
                "attempts": [0],
                "contexts_from": [first],
                "due_at": pa.array([None], pa.timestamp("us", tz="UTC")),
                "event_time": [event_time],
            },
        )

    def _trace_of(self, transaction: Transaction, model: str, record_id: str, seq: int) -> int | None:
        reader = transaction.reader()
        places = reader.places("keys", "generations", model, [hash64(record_id)])
        rows = reader.query(f"SELECT trace_hash FROM {reader.source('generations', model, places=places)} WHERE seq = ?", [seq])
        return rows[0]["trace_hash"] if rows else None

    @staticmethod
    def fresh(transaction: Transaction, model: str, passages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that are not stored yet, each once."""
        found = transaction.find("contexts", model, [p["key_hash"] for p in passages])
        once: dict[int, dict[str, Any]] = {}
        for passage, known in zip(passages, found, strict=True):
            if known is None:
                once.setdefault(passage["key_hash"], passage)
        return list(once.values())

    @staticmethod
    def append(
        transaction: Transaction,
        model: str,
        passages: list[dict[str, Any]],
        revision: int,
        received_at: datetime,
        batch_id: str,
    ) -> int:
        columns: dict[str, Any] = {name: [p[name] for p in passages] for name in passages[0]}
        columns |= {"revision": revision, "received_at": received_at, "batch_id": batch_id}
        first = transaction.append("contexts", model, columns)
        transaction.put_keys("contexts", model, columns["key_hash"], columns["content_hash"], first)
        return first
