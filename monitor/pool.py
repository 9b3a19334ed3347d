"""Rows of one model and window, read once for all checks that look at them.

Ten checks on one model are due in the same second, and each reads some columns of the same rows. What is read here has the
columns of all of them; it is used again as long as the logs say that nothing has come since.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from detectors.contract import ColumnKind
from monitor import windows
from monitor.reader import Reader, literal
from monitor.schema import table_name
from monitor.windows import LABELLED, TableWindow

KEPT = 16
KEPT_BYTES = 128 * 2**20
LARGEST_BYTES = 64 * 2**20  # a larger one is read by each check, as before: it would push out all others

Key = tuple[Any, ...]


class Pool:
    """Any thread may ask; those who want the same rows at once wait for the first of them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, tuple[tuple[int, ...], TableWindow]] = OrderedDict()
        self._locks: dict[Key, threading.Lock] = {}
        self._lock = threading.Lock()

    def predictions(
        self,
        reader: Reader,
        model: str,
        start: datetime,
        end: datetime,
        features: Mapping[str, ColumnKind],
        inputs: frozenset[str],
        of_all: frozenset[str],
    ) -> TableWindow:
        """As `windows.predictions`. `of_all`: what the checks that share these rows read, `inputs` among it."""
        # A feature that is called like a field is one thing for a check that reads the field, and another for one that does not.
        if of_all == inputs or any(name in features for name in (*LABELLED, windows.SENT_VECTOR)):
            return windows.predictions(reader, model, start, end, features, inputs)
        key = (model, start, end, of_all, tuple(features.items()))
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            state = _state(reader, model, labels="label" in of_all)
            found = self._find(key, state)
            if found is None:
                found = windows.predictions(reader, model, start, end, features, of_all)
                self._keep(key, state, found)
        return windows.narrowed(found, features, inputs)

    def _find(self, key: Key, state: tuple[int, ...]) -> TableWindow | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept[0] != state:
                return None
            self._kept.move_to_end(key)
            return kept[1]

    def _keep(self, key: Key, state: tuple[int, ...], found: TableWindow) -> None:
        with self._lock:
            self._kept.pop(key, None)
            if found.table.nbytes <= LARGEST_BYTES:
                self._kept[key] = state, found
            while len(self._kept) > KEPT or sum(window.table.nbytes for _, window in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
            self._locks = {k: lock for k, lock in self._locks.items() if k in self._kept or lock.locked()}


def _state(reader: Reader, model: str, *, labels: bool) -> tuple[int, ...]:
    """What decides which rows this look at the store has: logs only grow, and a segment may be set aside."""
    name = table_name("predictions", model)
    hot = {"predictions": f"(SELECT max(seq) FROM {name})" if reader.has_table(model) else "0"}
    if labels:
        hot["labels"] = f"(SELECT max(seq) FROM labels WHERE model = {literal(model)})"
    columns = [
        f"greatest(coalesce(max(last_seq) FILTER (kind = {literal(kind)}), 0), coalesce({last}, 0)) AS {kind}"
        for kind, last in hot.items()
    ]
    row = reader.query(
        f"SELECT {', '.join(columns)}, bit_xor(hash(file)) FILTER (quarantined IS NOT NULL) AS aside "
        "FROM manifest WHERE model = ?",
        [model],
    )[0]
    return tuple(int(value or 0) for value in row.values())
