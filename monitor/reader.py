"""One consistent look at the store: hot rows and sealed segments together, as of one instant."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from detectors.contract import NotEvaluable
from monitor.arrays import rows
from monitor.hashfile import UInt64Array
from monitor.keys import Places
from monitor.schema import KINDS, table_name

Find = Callable[[str, str, str, "Collection[int] | UInt64Array"], Places]


class Reader:
    """Runs inside one read transaction, so a row that is being sealed is seen once: hot or sealed, never both."""

    def __init__(
        self, cursor: duckdb.DuckDBPyConnection, root: Path, find: Find | None = None, tables: Collection[str] = ()
    ) -> None:
        """`tables`: models that are known to have a table, of all that this look sees or of some."""
        self._cursor = cursor
        self._root = root
        self._find = find
        self._whole = False
        self._tables = tables

    def places(self, index: str, kind: str, model: str, hashes: Collection[int] | UInt64Array) -> Places | None:
        """Where the rows of these hashes lie, for `source`; `index` is a suffix of `segments.indexes`. None: not known."""
        return self._find(index, kind, model, hashes) if self._find is not None else None

    def table(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> pa.Table:
        """`params`: by place, or by name where the query has names."""
        return self._cursor.sql(sql, params=dict(params) if isinstance(params, Mapping) else list(params)).to_arrow_table()

    def batches(self, sql: str, params: Sequence[Any] = (), rows: int = 131_072) -> Iterator[pa.RecordBatch]:
        """The rows of a query, so many at a time. Read them to the end before the next question: they hold the connection."""
        yield from self._cursor.sql(sql, params=list(params)).to_arrow_reader(rows)

    def query(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        return rows(self.table(sql, params))

    def give(self, name: str, rows: pa.Table) -> None:
        """Have `rows` be a table of this name for the queries that follow."""
        self._cursor.register(name, rows)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, `source` refuses rows of which some lie in a damaged segment: a number made of the others would look like
        any other.

        Raises:
            NotEvaluable: rows_unavailable.
        """
        before, self._whole = self._whole, True
        try:
            yield
        finally:
            self._whole = before

    def execute(self, sql: str) -> None:
        """For COPY out of the store; the transaction can read only what it sees."""
        self._cursor.execute(sql)

    def source(
        self,
        kind: str,
        model: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        received_since: datetime | None = None,
        after_seq: int = 0,
        places: Places | None = None,
    ) -> str:
        """SQL of a subquery with all rows of one log. The bounds and `places` only leave out what cannot match: the caller's
        WHERE decides on rows."""
        files = self.query(
            "SELECT file, first_seq, last_seq, quarantined IS NOT NULL AS aside FROM manifest WHERE kind = ? AND model = ? "
            "AND last_seq > ? AND (? IS NULL OR max_time >= ?) AND (? IS NULL OR min_time < ?) "
            "AND (? IS NULL OR max_received >= ?) ORDER BY first_seq",
            [kind, model, after_seq, since, since, until, until, received_since, received_since],
        )
        if places is not None:
            files = [f for f in files if f["last_seq"] > places.known_to or places.may_lie_in(f["first_seq"], f["last_seq"])]
        if self._whole and (aside := [f["file"] for f in files if f["aside"]]):
            more = f" and {len(aside) - 1} others" if len(aside) > 1 else ""
            raise NotEvaluable("rows_unavailable", f"{aside[0]}{more} is damaged; put a whole copy back")
        files = [f for f in files if not f["aside"]]
        known: list[dict[str, Any]] = []
        if places is not None:
            known = [f for f in files if f["last_seq"] <= places.known_to]
            files = [f for f in files if f["last_seq"] > places.known_to]
        parts = []
        if kind != "predictions" or self.has_table(model):
            shared = "" if kind == "predictions" else f" WHERE model = {literal(model)}"
            parts.append(f"SELECT * FROM {table_name(kind, model)}{shared}")
        if files:
            paths = ", ".join(literal(str(self._root / row["file"])) for row in files)
            parts.append(f"SELECT * FROM read_parquet([{paths}], union_by_name = true)")
        if known and places is not None:
            paths = ", ".join(literal(str(self._root / row["file"])) for row in known)
            parts.append(f"SELECT * FROM read_parquet([{paths}], union_by_name = true) WHERE {places.sql()}")
        if not parts:
            columns = ", ".join(f'NULL::{c.type} AS "{c.name}"' for c in KINDS[kind].columns)
            parts.append(f"SELECT {columns} WHERE false")
        return f"({' UNION ALL BY NAME '.join(parts)})"

    def last_seq(self, kind: str, model: str) -> int:
        """The last seq of a log that this look sees; 0 where it has no rows."""
        sealed = "SELECT max(last_seq) FROM manifest WHERE kind = $kind AND model = $model"
        hot = "SELECT NULL"
        if kind != "predictions":
            hot = f"SELECT max(seq) FROM {table_name(kind, model)} WHERE model = $model"
        elif self.has_table(model):
            hot = f"SELECT max(seq) FROM {table_name(kind, model)}"
        # Parameters by name: the second part may use one of them or none.
        found = self._cursor.sql(f"SELECT greatest(({sealed}), ({hot}))", params={"kind": kind, "model": model}).fetchall()
        return found[0][0] or 0

    def has_table(self, model: str) -> bool:
        if model in self._tables:  # asking the engine takes as long as many a query of rows
            return True
        name = table_name("predictions", model).strip('"')
        return bool(self.query("SELECT 1 FROM duckdb_tables() WHERE database_name = 'hot' AND table_name = ?", [name]))


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
