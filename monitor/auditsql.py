"""SQL over `audit.duckdb` in a process of its own: reads the segments and the tail, and can touch nothing else."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import duckdb
import orjson
import pandas

from monitor.audit import FILE
from monitor.errors import StoreError
from monitor.reader import literal
from monitor.terminal import harmless


def connect(store: Path) -> duckdb.DuckDBPyConnection:
    """A read-only look at the store's views. Changes the process's folder to the store's.

    Raises:
        StoreError: there is no store there, or it has shown nothing yet.
    """
    path = store.resolve() / FILE
    if not path.exists():
        raise StoreError(f"{path}: not there; is {store} the store of a daemon that has run? See store.path in its config")
    # The views name files relative to the store. The engine's own search path would do, but not together with the lock.
    os.chdir(path.parent)
    connection = duckdb.connect(":memory:")
    connection.execute(f"ATTACH {literal(str(path))} AS audit (READ_ONLY)")
    connection.execute("USE audit")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET allowed_directories = [{literal(str(path.parent))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def ask(store: Path, query: str, form: str, out: TextIO) -> None:
    """Run one query and print its rows as a table, JSON lines or CSV.

    Raises:
        StoreError: see `connect`; or the query would do more than read.
        duckdb.Error: what the engine says of the query.
    """
    with connect(store) as connection:
        must_only_read(connection, query)
        rows = connection.sql(query).to_arrow_table()
        if form == "table":
            # As objects, so that a column of whole numbers stays one where some are null.
            cells = zip(*([_cell(v) for v in column.to_pylist()] for column in rows.columns), strict=True)
            table = pandas.DataFrame(list(cells), columns=rows.column_names, dtype=object)
            print("no rows" if table.empty else table.to_string(index=False, max_colwidth=80), file=out)
            return
        if form == "csv":
            writer = csv.writer(out)
            writer.writerow(rows.column_names)
            writer.writerows(zip(*(column.to_pylist() for column in rows.columns), strict=True))
            return
        for row in rows.to_pylist():
            print(orjson.dumps(row, default=str).decode(), file=out)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return harmless(value)
    return "" if value is None else value


def must_only_read(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """A folder that may be read may be written to as well, and a COPY can hide in the WITH of a SELECT: so the plan is asked."""
    statements = connection.extract_statements(query)
    if [s.type for s in statements] != [duckdb.StatementType.SELECT]:
        raise StoreError("one SELECT is taken here (or FROM, VALUES, SHOW, DESCRIBE, SUMMARIZE), and nothing that writes")
    plan = connection.execute(f"EXPLAIN (FORMAT json) {statements[0].query}").fetchall()
    if any("COPY" in name for _, text in plan for name in _operators(orjson.loads(text))):
        raise StoreError("the query writes a file; only reading is allowed here")


def _operators(plan: Any) -> Iterator[str]:
    for node in plan if isinstance(plan, list) else [plan]:
        yield node["name"]
        yield from _operators(node.get("children", []))
