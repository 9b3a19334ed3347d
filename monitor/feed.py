"""Follows logs of the store and makes messages for an outbox of what is new in them, each row once.

How far it has read is stored in the transaction that holds the messages, so nothing is told twice and nothing is left out,
whatever dies in between; and who writes those rows, on the hot path, knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from monitor import log
from monitor.outbox import Message, Outbox
from monitor.transaction import Transaction

ROWS_AT_ONCE = 500
CURSOR = ("check_name", "kind")

Make = Callable[[str, Mapping[str, Any]], Iterable[Message]]
"""(kind, row): what is to be told of a row; nothing of most."""


class Feed:
    """Belongs to its courier's thread. `kinds`: the logs it follows, of all models."""

    def __init__(self, box: Outbox, kinds: Collection[str], make: Make) -> None:
        self._box = box
        self._kinds = [*kinds]
        self._make = make
        self._cursors: dict[tuple[str, str], int] | None = None  # as stored; nobody else moves them...
        self._opened = 0  # ...but another file may have taken the store's place

    def begin(self) -> None:
        """Where this sink is new, leave out what there is: nobody wants to hear of last month's incidents. Before anything that
        writes is started.

        Raises:
            StoreError, duckdb.Error: the store is away.
        """
        cursors = self._known()
        if (self._name(""), "") in cursors:
            return
        first = {(self._name(""), ""): 0}
        first |= {(self._name(model), kind): self._last(kind, model) for kind, model in self._logs()}
        self._box.store.run(lambda t: self._note(t, first))
        self._cursors = first

    def step(self) -> int:
        """How many rows were read.

        Raises:
            StoreError, duckdb.Error: the store is away; the rows are read again.
        """
        count = 0
        for kind, model in self._logs():
            place = self._name(model), kind
            while self._last(kind, model) > (cursor := self._known().get(place, 0)):
                count += self._read(kind, model, place, cursor)
        return count

    def _read(self, kind: str, model: str, place: tuple[str, str], cursor: int) -> int:
        with self._box.store.read() as reader:
            rows = reader.query(
                f"SELECT * FROM {reader.source(kind, model, after_seq=cursor)} WHERE seq > ? ORDER BY seq LIMIT {ROWS_AT_ONCE}",
                [cursor],
            )
        # Rows that cannot be read, in a damaged segment, are passed by: they would hold up all that comes after them.
        last = rows[-1]["seq"] if rows else self._last(kind, model)
        messages = [message for row in rows for message in self._make(kind, row)]

        def keep(transaction: Transaction) -> None:
            self._box.put(transaction, messages)
            self._note(transaction, {place: last})

        self._box.store.run(keep)
        assert self._cursors is not None
        self._cursors[place] = last
        if missing := last - cursor - len(rows):
            self._box.metrics.outbox_failures.labels(self._box.sink, "unreadable").inc(missing)
            log.warning("rows are in a damaged segment and nobody is told of them", sink=self._box.sink, kind=kind, rows=missing)
        return len(rows)

    def _logs(self) -> list[tuple[str, str]]:
        return [(kind, model) for kind, model in self._box.store.logs() if kind in self._kinds]

    def _last(self, kind: str, model: str) -> int:
        return self._box.store.last_seq(kind, model)

    def _name(self, model: str) -> str:
        return f"outbox:{self._box.sink}/{model}"  # no check is called so

    def _known(self) -> dict[tuple[str, str], int]:
        if self._cursors is None or self._opened != self._box.store.opened:
            opened = self._box.store.opened
            with self._box.store.read() as reader:
                found = reader.query("SELECT * FROM check_cursors WHERE starts_with(check_name, ?)", [self._name("")])
            self._cursors = {(row["check_name"], row["kind"]): row["seq"] for row in found}
            self._opened = opened
        return self._cursors

    @staticmethod
    def _note(transaction: Transaction, cursors: Mapping[tuple[str, str], int]) -> None:
        rows = [{"check_name": name, "kind": kind, "seq": seq} for (name, kind), seq in cursors.items()]
        transaction.put("check_cursors", CURSOR, rows)
