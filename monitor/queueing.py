"""What a stored generation sets off: with a trace, that its trace is settled; without, its call and its work at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from monitor.blocks import Columns
from monitor.metrics import Metrics
from monitor.passages import Passages
from monitor.settling import callcounts
from monitor.settling.calls import EMBEDDINGS
from monitor.settling.traces import Noted, Traces
from monitor.store import Store
from monitor.transaction import Transaction


class Queueing:
    """Used on the writer thread, inside a transaction."""

    def __init__(self, store: Store, passages: Passages, traces: Traces, metrics: Metrics) -> None:
        self._passages = passages
        self._traces = traces
        self._metrics = metrics

    def note(
        self,
        transaction: Transaction,
        kind: str,
        model: str,
        columns: Mapping[str, Sequence[Any]],
        now: datetime,
        settle: timedelta,
    ) -> None:
        """Rows of `spans` or `contents` that are new: their traces are settled, again if need be."""
        noted = Noted()
        if kind == "spans":
            for trace_hash, parent, sort, own, at in zip(
                *(columns[name] for name in ("trace_hash", "parent_id", "type", "own", "event_time")), strict=True
            ):
                called = at if sort == "llm" and not own else None
                noted.add(trace_hash, root=parent is None, generation=called)
        else:
            for trace_hash in columns["trace_hash"]:
                noted.add(trace_hash)
        self._traces.note(transaction, model, noted, now, settle)

    def pushed(
        self,
        transaction: Transaction,
        model: str,
        columns: Columns,
        first: int,
        passages: Sequence[dict[str, Any]],
        batch_id: str,
        now: datetime,
        settle: timedelta,
    ) -> None:
        """Generations from seq `first` on, that came by push. One with its passages need not wait for any."""
        begun = self._begin_passages(transaction, model, passages, batch_id, now)
        traced: list[int] = []
        alone: list[int] = []
        for place, trace_id in enumerate(columns["trace_id"]):
            (alone if trace_id is None else traced).append(place)
        if traced:
            noted = Noted()
            for place in traced:
                record_id = columns["record_id"][place]
                if record_id in begun:
                    self._passages.early(transaction, model, record_id, begun[record_id], columns["event_time"][place])
                noted.add(columns["trace_hash"][place], root=record_id in begun, generation=columns["event_time"][place])
            self._traces.note(transaction, model, noted, now, settle)
        if alone:
            chosen = columns.take(alone) if traced else columns
            self._at_once(transaction, model, chosen, [first + p for p in alone], begun, now, settle)

    def _begin_passages(
        self, transaction: Transaction, model: str, passages: Sequence[dict[str, Any]], batch_id: str, now: datetime
    ) -> dict[str, int]:
        """Store what is not stored yet; by record the seq of its first one."""
        begun: dict[str, int] = {}
        if fresh := self._passages.fresh(transaction, model, passages):
            seq = self._passages.append(transaction, model, fresh, 1, now, batch_id)
            for offset, passage in enumerate(fresh):
                begun.setdefault(passage["record_id"], seq + offset)
        return begun

    def _at_once(
        self,
        transaction: Transaction,
        model: str,
        columns: Mapping[str, Sequence[Any]],
        seqs: Sequence[int],
        begun: Mapping[str, int],
        now: datetime,
        settle: timedelta,
    ) -> None:
        calls = callcounts.alone(columns, now)
        transaction.append("calls", model, calls)
        tallies = callcounts.Tallies()
        tallies.singles(calls, columns)
        transaction.count_on_commit(lambda: tallies.count(self._metrics, model))
        operations = columns.get("operation") or [None] * len(seqs)
        places = [p for p, operation in enumerate(operations) if operation != EMBEDDINGS]
        if not places:
            return
        ids = [columns["record_id"][p] for p in places]
        firsts = [begun.get(record_id) for record_id in ids]
        for place, record_id in enumerate(ids):
            if self._passages.waiting(model, record_id):
                firsts[place] = self._passages.adopt(transaction, model, record_id) or firsts[place]
        transaction.insert(
            "work",
            {
                "model": [model] * len(ids),
                "record_id": ids,
                "seq": [seqs[p] for p in places],
                "revision": [1] * len(ids),
                "input": [0] * len(ids),
                "attempts": [0] * len(ids),
                "contexts_from": pa.array(firsts, pa.int64()),
                "due_at": [now if f is not None else now + settle for f in firsts],
                "event_time": [columns["event_time"][p] for p in places],
            },
        )
