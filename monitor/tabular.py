"""Files and queries as tables that are read one column at a time: what `modelwatch compare` and `modelwatch estimate` look at.

Parquet stays where it is. CSV, JSON lines and the answers of queries are read once, into a scratch database beside the
temporary files, so that 10 million rows cost the memory of a column and not of a table.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from copy import copy
from pathlib import Path
from types import TracebackType

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from detectors.chunks import Times
from detectors.contract import Categories, FloatArray, NotEvaluable, encode_categories
from detectors.tables import ColumnType, Family, as_times, renamed
from monitor.audit import FILE
from monitor.auditsql import must_only_read
from monitor.errors import ModelwatchError
from monitor.reader import literal
from monitor.schema import quote

SQL = "sql:"
SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
COMPRESSED = (".gz", ".zst")
MISSING = ("", "NA", "NaN", "nan", "null", "NULL")
"""Cells of CSV without a value, as pandas has them, but for words that are words."""

LOCAL_TIME = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?"
ZONE = r" ?([Zz]|[+-]\d\d(:?\d\d)?)"

MEMORY_LIMIT = "2GB"  # of the engine; what is larger goes to the scratch folder

FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL"), "number"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT", "BIGNUM"), "number"),
    **dict.fromkeys(("VARCHAR", "UUID", "ENUM"), "text"),
    **dict.fromkeys(("DATE", "TIME", "TIME WITH TIME ZONE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "INTERVAL"), "time"),
    **dict.fromkeys(("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIME_NS"), "time"),
    "BOOLEAN": "boolean",
    '"NULL"': "empty",
}


class Unusable(ModelwatchError):
    """What was named cannot be read as a table. The message says what it is, what is wrong, and what to do."""


class Tables:
    """Opens what `--reference` and the like name. A context manager: on leaving, the scratch folder goes.

    `database` is what `sql:` asks: a DuckDB file, or the folder of a store. `order_by` is a column by which rows are sorted.
    """

    def __init__(self, database: Path | None = None, order_by: str | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="modelwatch-"))
        self._order_by = order_by
        self._connection = duckdb.connect(str(self._folder / "scratch.duckdb"))
        self._connection.execute(f"SET memory_limit = {literal(MEMORY_LIMIT)}")
        self._connection.execute(f"SET temp_directory = {literal(str(self._folder))}")
        self._connection.execute("SET TimeZone = 'UTC'")
        self._number = 0
        self._database = database
        if database is not None:
            try:
                self._attach(database)
            except BaseException:
                self.__exit__(None, None, None)
                raise

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def open(self, name: str, texts: Collection[str] = ()) -> DuckTable:
        """A table by what the user wrote: files (a name, a pattern or a folder) or `sql:` with a query, a table or a view.
        `texts` are columns of CSV that are texts although they may look like numbers.

        Raises:
            Unusable: see there.
        """
        self._number += 1
        view = f"t{self._number}"
        try:
            if name.startswith(SQL):
                self._ask(view, name)
            else:
                self._read(view, name, texts)
            table = DuckTable(self._connection.cursor(), view, name)
        except duckdb.Error as exc:
            raise Unusable(f"{name}: {_said(exc)}") from exc
        if not table.types:
            raise Unusable(f"{name}: no columns; is the file empty?")
        return table

    def _attach(self, database: Path) -> None:
        path = database / FILE if database.is_dir() else database
        if not path.exists():
            hint = "; a store's folder has one once its daemon has run" if database.is_dir() else ""
            raise Unusable(f"{path}: not there{hint}; see --database")
        try:
            # A store's views name their files relative to it.
            self._connection.execute(f"SET file_search_path = {literal(str(path.parent.resolve()))}")
            self._connection.execute(f"ATTACH {literal(str(path.resolve()))} AS asked (READ_ONLY)")
        except duckdb.Error as exc:
            raise Unusable(f"{path}: {_said(exc)}; is it a DuckDB database that no other program is writing to?") from exc

    def _ask(self, view: str, name: str) -> None:
        query = name.removeprefix(SQL).strip().rstrip(";")
        if not query:
            raise Unusable(f"{name}: a query, or the name of a table or view, is missing after {SQL}")
        if self._database is not None:
            self._connection.execute("USE asked")
        try:
            # One word is the name of a table; a FROM in front makes a query of it.
            if len(query.split()) == 1 and not query.startswith('"'):
                query = query if re.fullmatch(r"[\w.]+", query) else quote(query)
            query = query if len(query.split()) > 1 else f"FROM {query}"
            must_only_read(self._connection, query)
            self._store(view, f"SELECT * FROM ({query})")
        except ModelwatchError as exc:
            raise Unusable(f"{name}: {exc}") from exc
        finally:
            self._connection.execute("USE scratch")

    def _read(self, view: str, name: str, texts: Collection[str]) -> None:
        files = _files(name)
        form = {_form(file) for file in files}
        if None in form:
            known = ", ".join(SUFFIXES)
            raise Unusable(f"{name}: what kind of file it is cannot be told; names end in {known}, or that and .gz or .zst")
        if len(form) > 1:
            kinds = ", ".join(sorted(map(str, form)))
            raise Unusable(f"{name}: files of more than one kind ({kinds}); name one kind, such as *.parquet")
        listed = f"[{', '.join(literal(file) for file in files)}]"
        if form == {"parquet"} and self._order_by is None:
            self._connection.execute(f"CREATE VIEW {view} AS SELECT * FROM read_parquet({listed}, union_by_name = true)")
            return
        match form.pop():
            case "parquet":
                source = f"read_parquet({listed}, union_by_name = true)"
            case "jsonl":
                source = f"read_json({listed}, format = 'newline_delimited', union_by_name = true, sample_size = -1)"
            case _:
                source = self._csv(files, listed, texts)
        self._store(view, f"SELECT * FROM {source}")
        self._times(view)

    def _csv(self, files: list[str], listed: str, texts: Collection[str]) -> str:
        missing = f"[{', '.join(map(literal, MISSING))}]"
        shape = f"header = true, delim = {literal(_delimiter(files[0]))}, quote = '\"', escape = '\"', nullstr = {missing}"
        source = f"read_csv({listed}, {shape}, skip = 0, sample_size = -1, union_by_name = true"
        header = [str(row[0]) for row in self._connection.execute(f"DESCRIBE SELECT * FROM {source})").fetchall()]
        asked = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in header if column in texts)
        return f"{source}, types = {{{asked}}})" if asked else f"{source})"

    def _times(self, view: str) -> None:
        """Texts that are all times, written as RFC 3339 has them, become times: of these the engine knows only some by itself."""
        described = self._connection.execute(f"DESCRIBE {view}").fetchall()
        for name in (str(row[0]) for row in described if row[1] == "VARCHAR"):
            column = quote(name)
            asked = f"coalesce(bool_and(regexp_full_match({column}, ?)), false)"
            for pattern, kind in ((LOCAL_TIME, "TIMESTAMP"), (LOCAL_TIME + ZONE, "TIMESTAMPTZ")):
                if self._connection.execute(f"SELECT {asked} FROM {view}", [pattern]).fetchall()[0][0]:
                    cast = f"try_cast({column} AS {kind})"
                    self._connection.execute(f"ALTER TABLE {view} ALTER {column} TYPE {kind} USING {cast}")
                    break

    def _store(self, view: str, query: str) -> None:
        if self._order_by is None:
            self._connection.execute(f"CREATE TABLE scratch.main.{view} AS {query}")
            return
        # Rows of one instant stay as they came, which the engine's sort alone does not promise.
        self._connection.execute(f"CREATE TABLE scratch.main.{view}_raw AS {query}")
        self._connection.execute(
            f"CREATE TABLE scratch.main.{view} AS FROM scratch.main.{view}_raw ORDER BY {quote(self._order_by)}, rowid"
        )
        self._connection.execute(f"DROP TABLE scratch.main.{view}_raw")


def _files(name: str) -> list[str]:
    path = Path(name)
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        found = sorted(str(file) for file in inside if _form(str(file)))
        if not found:
            raise Unusable(f"{name}: a folder without files that end in {', '.join(SUFFIXES)}")
        return found
    if path.is_file():
        return [name]
    if found := sorted(file for file in glob.glob(name, recursive=True) if os.path.isfile(file)):
        return found
    if glob.has_magic(name):
        raise Unusable(f"{name}: no file has such a name")
    raise Unusable(f"{name}: no such file; a query begins with {SQL}")


def _form(name: str) -> str | None:
    name = name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return SUFFIXES.get(Path(name).suffix)


def _delimiter(file: str) -> str:
    """The sign that stands most often in the first line: what the engine guesses on its own may be any sign, or none."""
    if ".tsv" in file.lower():
        return "\t"
    try:
        with pa.input_stream(file, compression="detect") as stream:
            first = stream.read(64 * 1024).partition(b"\n")[0].decode("utf-8-sig", "replace")
    except OSError as exc:
        raise Unusable(f"{file}: cannot be read: {exc.strerror or exc}") from exc
    if not first.strip():
        raise Unusable(f"{file}: the file is empty; it needs a first line with the names of its columns")
    return max(",;\t|", key=first.count)


def _said(exc: duckdb.Error) -> str:
    """The engine's first words and, where it names a line of the file, that line."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    words = [line for line in lines[1:] if line.startswith(("Line:", "CSV Error", "Original Line", "Could not convert"))]
    if any("dialect" in line for line in lines[:3]):
        return "cannot be read as CSV: lines have more or fewer cells than the first line has names, or quotes that do not end"
    return " ".join([lines[0].removeprefix("IO Error: ").removeprefix("Invalid Input Error: "), *words[:2]])[:600]


class DuckTable:
    """A `detectors.tables.Table` over a table or view of the scratch database."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, view: str, name: str) -> None:
        self._cursor = cursor
        self._cursor.execute("USE scratch")
        self._view = view
        self.name = name
        described = self._cursor.execute(f"DESCRIBE {view}").fetchall()
        self._types = {str(row[0]): str(row[1]) for row in described}
        counted = ", ".join(f"count({quote(column)})" for column in self._types)
        found = self._cursor.execute(f"SELECT count(*){', ' + counted if counted else ''} FROM {view}").fetchall()[0]
        self.rows = int(found[0])
        self.types: Mapping[str, ColumnType] = {
            column: ColumnType(_family(called, there), called)
            for (column, called), there in zip(self._types.items(), found[1:], strict=True)
        }

    def without(self, columns: Collection[str]) -> DuckTable:
        """The same rows, with these columns out of sight."""
        made = copy(self)
        made.types = {name: found for name, found in self.types.items() if name not in columns}
        return made

    def arrow(self, expression: str) -> pa.ChunkedArray:
        """One value a row, in the order of the rows."""
        return self._cursor.sql(f"SELECT {expression} AS found FROM {self._view}").to_arrow_table()["found"]

    def numbers(self, name: str) -> FloatArray:
        column, kind = quote(name), self.types[name].family
        if kind == "text":
            bad = f"{column} IS NOT NULL AND try_cast({column} AS DOUBLE) IS NULL"
            one = self._cursor.execute(f"SELECT {column} FROM {self._view} WHERE {bad} LIMIT 1").fetchall()
            if one:
                raise NotEvaluable("not_numeric", f"column {name!r} has {str(one[0][0])[:40]!r}")
        elif kind not in ("number", "boolean", "empty"):
            raise NotEvaluable("not_numeric", f"column {name!r} is {self._types[name]}")
        return np.asarray(self.arrow(f"try_cast({column} AS DOUBLE)").to_numpy(zero_copy_only=False), dtype=np.float64)

    def categories(self, name: str) -> Categories:
        # Whole numbers keep all their digits: they may be ids.
        if self.types[name].family == "number" and not self._types[name].endswith(("INT", "INTEGER", "BIGNUM")):
            return encode_categories(self.numbers(name))
        encoded = pc.dictionary_encode(self.arrow(f"{quote(name)}::VARCHAR").combine_chunks())
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return renamed(codes, encoded.dictionary.to_pylist())

    def times(self, name: str) -> Times:
        called = self._types[name]
        if not called.startswith(("TIMESTAMP", "DATE")):
            return as_times(name, self.arrow(quote(name)).to_pandas())
        micros = self.arrow(f"epoch_us({quote(name)})").to_numpy(zero_copy_only=False)
        there = ~np.isnan(micros) if micros.dtype.kind == "f" else np.ones(len(micros), dtype=bool)
        found = np.full(len(micros), np.datetime64("NaT", "us"))
        found[there] = micros[there].astype(np.int64).astype("datetime64[us]")
        return Times(found, called == "TIMESTAMP WITH TIME ZONE")


def _family(called: str, values: int) -> Family:
    found = family_of(called)
    return found if values or found in ("time", "nested") else "empty"


def family_of(called: str) -> Family:
    """
    >>> family_of("DECIMAL(10,2)"), family_of("ENUM('a', 'b')"), family_of("STRUCT(x INTEGER)"), family_of("INTEGER[]")
    ('number', 'text', 'nested', 'nested')
    """
    if called.endswith("]"):
        return "nested"
    return FAMILIES.get(called, FAMILIES.get(called.partition("(")[0], "nested"))
