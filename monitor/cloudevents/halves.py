"""Halves that wait for their other: rows of the table `halves`, and the same in memory.

Asking the store for each event took 6 ms of processor time, nearly all of it for one statement after the other. What waits
is known here, so an event costs none, and what a transaction adds and takes away goes into one statement each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from monitor.keys import hash64
from monitor.store import Store
from monitor.transaction import Transaction

MEMORY_BYTES = 64 * 2**20  # of payloads; what is beyond is looked up
OTHER = {"request": "response", "response": "request"}


@dataclass(slots=True)
class Half:
    """One event: what it gives to each prediction of the pair."""

    index: int  # place in the request
    event: str  # what both halves have in common
    half: str
    model: str
    record_id: str
    records: list[dict[str, Any]]  # masked


@dataclass(frozen=True, slots=True)
class _Kept:
    model: str
    payload: bytes | None  # None: in the store alone


class Halves:
    """Used on the writer thread, inside a transaction; what it changes is undone when that fails."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[int, _Kept] = {}
        self._bytes = 0
        self._opened = store.opened
        with store.read() as reader:
            self._fill(reader.query("SELECT event, half, model, payload FROM halves"))

    def other(self, transaction: Transaction, half: Half) -> Half | None:
        """The half that it waits for, where that is here."""
        kept = self._know(transaction).get(hash64(half.event, OTHER[half.half]))
        if kept is None:
            return None
        payload: Any = kept.payload
        if payload is None:
            found = transaction.query("SELECT payload FROM halves WHERE event = ? AND half = ?", [half.event, OTHER[half.half]])
            payload = found[0]["payload"]
        return Half(-1, half.event, OTHER[half.half], kept.model, "", orjson.loads(payload))

    def waits(self, transaction: Transaction, half: Half) -> bool:
        """Whether this very half is here."""
        return hash64(half.event, half.half) in self._know(transaction)

    def put(self, transaction: Transaction, halves: Sequence[Half]) -> None:
        if not halves:
            return
        payloads = [orjson.dumps(h.records) for h in halves]
        transaction.insert(
            "halves",
            {
                "event": [h.event for h in halves],
                "half": [h.half for h in halves],
                "model": [h.model for h in halves],
                "payload": [payload.decode() for payload in payloads],
                "received_at": [transaction.now] * len(halves),
            },
        )
        keys = [hash64(h.event, h.half) for h in halves]
        for key, half, payload in zip(keys, halves, payloads, strict=True):
            self._add(key, half.model, payload)
        transaction.on_rollback(lambda: [self._remove(key) for key in keys])

    def drop(self, transaction: Transaction, events: Sequence[str]) -> None:
        """Both halves of these, whichever there are."""
        if not events:
            return
        transaction.delete("halves", "event", events)
        keys = [hash64(event, half) for event in events for half in OTHER]
        gone = [(key, kept) for key in keys if (kept := self._remove(key)) is not None]

        def back() -> None:
            for key, kept in gone:
                self._add(key, kept.model, kept.payload)

        transaction.on_rollback(back)

    def _know(self, transaction: Transaction) -> dict[int, _Kept]:
        if self._opened != self._store.opened:  # whether the last commit before stands, only the store can say
            self._opened = self._store.opened
            self._kept, self._bytes = {}, 0
            self._fill(transaction.query("SELECT event, half, model, payload FROM halves"))
        return self._kept

    def _fill(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            self._add(hash64(row["event"], row["half"]), row["model"], row["payload"].encode())

    def _add(self, key: int, model: str, payload: bytes | None) -> None:
        if payload is not None and self._bytes + len(payload) > MEMORY_BYTES:
            payload = None
        self._kept[key] = _Kept(model, payload)
        self._bytes += len(payload or b"")

    def _remove(self, key: int) -> _Kept | None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= len(kept.payload or b"")
        return kept
