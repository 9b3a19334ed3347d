"""Traces that wait to be settled: noted with the rows that came of them, taken off in the transaction that settles them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pyarrow as pa

from monitor.schema import ARROW
from monitor.store import Store
from monitor.transaction import Transaction

GRACE = timedelta(seconds=1.5)  # after its root: the rest of the trace is often in the next export


@dataclass(slots=True)
class Noted:
    """What a batch brought of the traces of one model: for each whether its root came, and the earliest generation."""

    roots: set[int] = field(default_factory=set)
    generations: dict[int, datetime | None] = field(default_factory=dict)  # by trace hash, of every trace

    def add(self, trace_hash: int, *, root: bool = False, generation: datetime | None = None) -> None:
        if root:
            self.roots.add(trace_hash)
        known = self.generations.setdefault(trace_hash, generation)
        if generation is not None and (known is None or generation < known):
            self.generations[trace_hash] = generation


class Traces:
    """Used on the writer thread, inside a transaction."""

    def __init__(self, store: Store) -> None:
        with store.read() as reader:
            last = reader.query("SELECT max(entry) AS last FROM traces")[0]["last"]
        self._entry = last or 0

    def note(self, transaction: Transaction, model: str, noted: Noted, now: datetime, settle: timedelta) -> None:
        """Have them settled: soon where the root has come, else once nothing more can be expected."""
        hashes = list(noted.generations)
        if not hashes:
            return
        # One entry for all: it tells what was there when somebody looked from what came after.
        self._entry += 1
        soon, later = now + GRACE, now + settle
        transaction.insert(
            "traces",
            {
                "model": pa.repeat(model, len(hashes)),
                "trace_hash": pa.array(hashes, ARROW["UBIGINT"]),
                "entry": pa.repeat(self._entry, len(hashes)),
                "due_at": [min(soon, later) if h in noted.roots else later for h in hashes],
                "event_time": pa.array(list(noted.generations.values()), ARROW["TIMESTAMPTZ"]),
            },
        )

    @staticmethod
    def waiting(transaction: Transaction, model: str, trace_hashes: Sequence[int]) -> set[int]:
        """Those of them that have not settled."""
        marks = ", ".join("?" * len(trace_hashes))
        found = transaction.query(
            f"SELECT DISTINCT trace_hash FROM traces WHERE model = ? AND trace_hash IN ({marks})", [model, *trace_hashes]
        )
        return {row["trace_hash"] for row in found}
