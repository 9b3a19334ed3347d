"""One transaction of the writer: what several jobs want stored, put down together with one sync."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa

from monitor import log
from monitor.arrays import rows
from monitor.keys import KeyIndex, place_hash
from monitor.reader import Reader
from monitor.schema import ARROW, FEATURE, FEATURE_TYPE, KINDS, create_table, quote, table_name

if TYPE_CHECKING:
    from monitor.store import Store

LogKey = tuple[str, str]  # kind, model


class Transaction:
    """Lives on the writer thread from BEGIN to COMMIT. Nothing it changed in memory outlives a rollback."""

    def __init__(self, store: Store, connection: duckdb.DuckDBPyConnection, now: datetime) -> None:
        self._store = store
        self._connection = connection
        self.now = now
        self._pending: dict[LogKey, list[pa.Table]] = {}
        self._inserts: dict[str, list[pa.Table]] = {}  # by state table
        self._deletes: dict[tuple[str, str], set[Any]] = {}
        self._keyed: dict[str, tuple[Sequence[str], dict[tuple[Any, ...], Mapping[str, Any] | None]]] = {}  # by state table
        self._last: dict[LogKey, int] = {}
        self._put: list[tuple[KeyIndex, list[int]]] = []
        self._new_columns: dict[str, dict[str, str]] = {}
        self._watermarks: dict[str, datetime] = {}
        self._after: list[Callable[[], None]] = []
        self._answered: list[Callable[[], None]] = []
        self._undo: list[Callable[[], Any]] = []

    def append(self, kind: str, model: str, columns: Mapping[str, Any]) -> int:
        """Add rows to a log and return the `seq` of the first.

        `columns` maps names to arrays of one length; a scalar stands for every row and a column left out is null. `model`
        and `seq` are filled in here.
        """
        size = next(len(v) for v in columns.values() if _is_column(v))
        last = self._last.get((kind, model), self._store.last_seq(kind, model))
        self._last[kind, model] = last + size
        arrays: dict[str, pa.Array] = {}
        for column in KINDS[kind].columns:
            if column.name == "seq":
                arrays["seq"] = pa.array(np.arange(last + 1, last + 1 + size))
                continue
            value = model if column.name == "model" else columns.get(column.name)
            arrays[column.name] = _array(value, ARROW[column.type], size)
        arrays |= {name: value for name, value in columns.items() if name.startswith(FEATURE)}
        self._pending.setdefault((kind, model), []).append(pa.table(arrays))
        return last + 1

    def add_features(self, model: str, features: Mapping[str, str]) -> None:
        """Give each feature (name -> kind) its column, where it has none."""
        known = self._store.feature_columns(model)
        new = self._new_columns.setdefault(model, {})
        fresh = {f: k for f, k in features.items() if f not in known and f not in new}
        if not fresh:
            return
        self.flush()
        self._connection.execute(create_table("predictions", model))
        for feature, kind in fresh.items():
            self._connection.execute(
                f"ALTER TABLE {table_name('predictions', model)} ADD COLUMN {quote(FEATURE + feature)} {FEATURE_TYPE[kind]}"
            )
            self._connection.execute("INSERT INTO features VALUES (?, ?, ?, ?)", [model, feature, kind, self.now])
        new.update(fresh)

    def feature_columns(self, model: str) -> Mapping[str, str]:
        """Features that have a column, those added in this transaction included: name -> kind."""
        return {**self._store.feature_columns(model), **self._new_columns.get(model, {})}

    def find(self, kind: str, model: str, keys: Sequence[int]) -> list[tuple[int, int] | None]:
        """(content hash, seq) of each key that is stored, or about to be in this transaction."""
        return self._store.keys(kind, model).find(keys)

    def put_keys(self, kind: str, model: str, keys: Sequence[int], contents: Sequence[int], first_seq: int) -> None:
        index = self._store.keys(kind, model)
        for i, (key, content) in enumerate(zip(keys, contents, strict=True)):
            index.put(key, content, first_seq + i)
        self._put.append((index, list(keys)))

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> None:
        self.flush()
        self._connection.execute(sql, dict(params) if isinstance(params, Mapping) else list(params))

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        self.flush()
        return rows(self._connection.sql(sql, params=list(params)).to_arrow_table())

    def reader(self) -> Reader:
        """A look at the store that includes what was put down here so far."""
        self.flush()
        return Reader(self._connection, self._store.root, self._store.places)

    def insert(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add rows to a state table. What is executed or asked later in this transaction sees them."""
        if table in self._keyed:
            self.flush()
        for (name, column), gone in self._deletes.items():
            if name == table and not gone.isdisjoint(columns[column]):  # what was there before goes first
                self.flush()
                break
        self._inserts.setdefault(table, []).append(pa.table({name: _column(values) for name, values in columns.items()}))

    def delete(self, table: str, column: str, values: Sequence[Any]) -> None:
        """Take rows out of a state table, those that were inserted here before included. What is executed or asked later in
        this transaction no longer sees them."""
        if table in self._keyed:
            self.flush()
        self._deletes.setdefault((table, column), set()).update(values)

    def put(self, table: str, keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Have these rows in a state table, in place of those with equal `keys`; all of one table by the same keys and with the
        same columns. Those of several jobs are put down together."""
        if rows:
            self._of_keys(table, keys).update({tuple(row[key] for key in keys): row for row in rows})

    def remove(self, table: str, keys: Sequence[str], values: Sequence[tuple[Any, ...]]) -> None:
        """Take the rows with these keys out of a state table, likewise."""
        if values:
            self._of_keys(table, keys).update(dict.fromkeys(values))

    def _of_keys(self, table: str, keys: Sequence[str]) -> dict[tuple[Any, ...], Mapping[str, Any] | None]:
        if table in self._inserts or any(name == table for name, _ in self._deletes):
            self.flush()
        return self._keyed.setdefault(table, (keys, {}))[1]

    def advance_watermark(self, model: str, when: datetime) -> None:
        last = self._watermarks.get(model) or self._store.watermark(model)
        if last is None or when > last:
            self._watermarks[model] = when

    def scored_input(self, model: str, record_id: str) -> tuple[int, int | None]:
        """Of a generation: its latest input revision, and the seq of its first passage. Reads the segments that hold any."""
        reader = self.reader()
        revisions = [1]
        for kind in ("scores", "contexts"):
            source = reader.source(kind, model, places=reader.places("records", kind, model, [place_hash(record_id)]))
            found = reader.query(f"SELECT max(revision) AS r, min(seq) AS seq FROM {source} WHERE record_id = ?", [record_id])[0]
            revisions.append(found["r"] or 1)
        return max(revisions), found["seq"]

    def on_commit(self, action: Callable[[], None]) -> None:
        """Run `action` on the writer thread once the commit stands. If it fails, the writer dies."""
        self._after.append(action)

    def count_on_commit(self, action: Callable[[], None]) -> None:
        """As `on_commit`, for what only counts: should it fail, a metric is wrong and nothing else."""

        self._after.append(_counting(action))

    def count_on_answer(self, action: Callable[[], None]) -> None:
        """As `count_on_commit`, but only once it is synced: for what would be counted again when the sender, who has not heard of
        it, sends it again."""
        self._answered.append(_counting(action))

    def on_rollback(self, action: Callable[[], Any]) -> None:
        """Run `action` on the writer thread if nothing of this is stored."""
        self._undo.append(action)

    def execute_over(self, rows: pa.Table, sql: str, params: Sequence[Any] = ()) -> None:
        """A statement that reads `rows` as the table `given`."""
        self.flush()
        self._with("given", rows, sql, params)

    def query_over(self, rows: pa.Table, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """As `execute_over`, for one that has a result."""
        self.flush()
        self._connection.register("given", rows)
        try:
            return self.query(sql, params)
        finally:
            with contextlib.suppress(duckdb.Error):
                self._connection.unregister("given")

    def flush(self) -> None:
        pending, self._pending = self._pending, {}
        for (kind, model), tables in pending.items():
            if kind == "predictions" and not self._store.feature_columns(model) and not self._new_columns.get(model):
                self._connection.execute(create_table(kind, model))
            self._insert(table_name(kind, model), tables)
        inserts, self._inserts = self._inserts, {}
        for table, tables in inserts.items():
            self._insert(quote(table), tables)
        deletes, self._deletes = self._deletes, {}
        for (table, column), values in deletes.items():
            gone = pa.table({"gone": pa.array(sorted(values))})
            self._with("given", gone, f"DELETE FROM {quote(table)} WHERE {quote(column)} IN (SELECT gone FROM given)")
        keyed, self._keyed = self._keyed, {}
        for table, (keys, rows_of) in keyed.items():
            listed = ", ".join(map(quote, keys))
            outgoing = pa.table({key: pa.array([values[i] for values in rows_of]) for i, key in enumerate(keys)})  # noqa: F841
            # Found by its name, as in `_insert`.
            self._connection.execute(f"DELETE FROM {quote(table)} WHERE ({listed}) IN (SELECT {listed} FROM outgoing)")
            if new := [dict(row) for row in rows_of.values() if row is not None]:
                self._insert(quote(table), [pa.Table.from_pylist(new)])

    def finish(self) -> None:
        """The last writes before COMMIT."""
        self.flush()
        for model, when in self._watermarks.items():
            known = self._store.watermark(model) is not None
            sql = (
                "UPDATE watermarks SET watermark = ? WHERE model = ?"
                if known
                else "INSERT INTO watermarks (watermark, model) VALUES (?, ?)"
            )
            self._connection.execute(sql, [when, model])

    def committed(self) -> None:
        self._store.advance(self._last, self._new_columns, self._watermarks)
        for action in self._after:
            action()

    def answered(self) -> None:
        """What was committed is on the disk, and the senders will hear of it."""
        for action in self._answered:
            action()

    def rolled_back(self) -> None:
        for action in reversed(self._undo):
            action()
        for index, keys in self._put:
            index.drop(keys)

    def _insert(self, table: str, parts: Sequence[pa.Table]) -> None:
        # Found by its name among the variables here: registering it would make and drop a view, a third of a small insert.
        incoming = pa.concat_tables(parts, promote_options="default")  # noqa: F841
        self._connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")

    def _with(self, name: str, rows: pa.Table, sql: str, params: Sequence[Any] = ()) -> None:
        self._connection.register(name, rows)
        try:
            self._connection.execute(sql, list(params))
        finally:
            with contextlib.suppress(duckdb.Error):  # in an aborted transaction, where it would hide what went wrong
                self._connection.unregister(name)


def _counting(action: Callable[[], None]) -> Callable[[], None]:
    def counted() -> None:
        try:
            action()
        except Exception as exc:
            log.error("what was stored could not be counted; the metrics are wrong from now on, the store is not", exc)

    return counted


def _column(values: Any) -> pa.Array | pa.ChunkedArray:
    return values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)


def _is_column(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray, pa.Array, pa.ChunkedArray))


def _array(value: Any, kind: pa.DataType, size: int) -> pa.Array | pa.ChunkedArray:
    if value is None:
        return pa.nulls(size, kind)
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return value if value.type == kind else value.cast(kind)
    if _is_column(value):
        return pa.array(value, kind)
    return pa.repeat(pa.scalar(value, kind), size)
