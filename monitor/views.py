"""The catalogue that `audit.duckdb` stands for: views over named files, each with the comments that say what it is.

It is written whole, by a process of its own: the engine reads the end of each file for a view, and has a statement for each
comment, which together took the owner half a second of processor for fifty models, at the cost of those who wait for an answer.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from monitor import said
from monitor.reader import literal
from monitor.schema import FEATURE, KINDS, quote

TARGET = "monitor.views:helper"
NICE = 5
"""Of that process: behind whoever answers, and still through in a few seconds where every processor is wanted."""


@dataclass(frozen=True, slots=True)
class Files:
    """What holds the rows of one log: segments up to `sealed_seq`, and the tail from there on."""

    segments: tuple[str, ...]
    tail: tuple[str, ...]
    sealed_seq: int

    def sql(self) -> str:
        parts = []
        if self.segments:
            parts.append(f"SELECT * FROM {_read(self.segments)}")
        if self.tail:
            # The oldest tail file may reach below what has been sealed since it was written.
            parts.append(f"SELECT * FROM {_read(self.tail)} WHERE seq > {self.sealed_seq}")
        return " UNION ALL BY NAME ".join(parts)

    @classmethod
    def named(cls, sql: str, kind: str, model: str) -> Files:
        """Those of one log that the text of a view names: the engine keeps it, and says it in words of its own."""
        of_log = f"{kind}/{model or '_'}/"
        paths = [path.replace("''", "'") for path in re.findall(r"'((?:[^']|'')*\.parquet)'", sql)]
        tail = tuple(path for path in paths if path.startswith(f"tail/{of_log}"))
        sealed = re.search(re.escape(literal(tail[-1])) + r".*?seq > (\d+)", sql, re.DOTALL) if tail else None
        segments = tuple(path for path in paths if path.startswith(f"segments/{of_log}"))
        return cls(segments, tail, int(sealed[1]) if sealed else 0)


def _read(paths: Sequence[str]) -> str:
    return f"read_parquet([{', '.join(literal(p) for p in paths)}], union_by_name = true)"


@dataclass(frozen=True, slots=True)
class Request:
    """Write the catalogue of `files`, whose paths are relative to `root`, at `path`."""

    path: Path
    root: Path
    files: Mapping[tuple[str, str], Files]


def helper(setup: None) -> Callable[[Request], None]:
    """What runs inside the process."""
    return write


def write(request: Request) -> None:
    """Make the file, in a folder of its own. It is not synced yet, and may be written to.

    Raises:
        duckdb.Error: a file that a view is of cannot be read.
        OSError: the folder cannot be made.
    """
    shutil.rmtree(request.path.parent, ignore_errors=True)  # what was begun before and could not be ended
    request.path.parent.mkdir(parents=True)
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        # Binding a view reads its files, and the paths are relative to the store, so that a copy opens elsewhere.
        connection.execute(f"SET file_search_path = {literal(str(request.root))}")
        connection.execute(f"ATTACH {literal(str(request.path))} AS audit (STORAGE_VERSION 'v1.5.0')")
        connection.execute("USE audit")
        connection.execute("BEGIN TRANSACTION")  # else each of four hundred statements is a commit with a sync of its own
        for statement in views(request.files):
            connection.execute(statement)
        silent = "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'audit' AND comment IS NULL"
        for view, column in connection.execute(silent).fetchall():
            connection.execute(f"COMMENT ON COLUMN {quote(view)}.{quote(column)} IS {literal(_about(column))}")
        connection.execute("COMMIT")
        connection.execute("USE memory")
        connection.execute("DETACH audit")


def views(files: Mapping[tuple[str, str], Files]) -> list[str]:
    """The statements that make the catalogue. A view is there from the first day, without rows where there are none."""
    statements = []
    for kind, table in KINDS.items():
        columns = ", ".join(quote(c.name) for c in table.columns)
        nothing = ", ".join(f"NULL::{c.type} AS {quote(c.name)}" for c in table.columns)
        parts = []
        for (_, model), found in ((k, f) for k, f in files.items() if k[0] == kind):
            # Files of an earlier version may lack a column.
            parts.append(f"SELECT {columns} FROM (SELECT {nothing} WHERE false UNION ALL BY NAME {found.sql()})")
            if kind == "predictions":
                # Its columns are described once the view is there: only the files know the features.
                name = quote(f"predictions_{model}")
                statements.append(f"CREATE VIEW {name} AS {found.sql()}")
                statements.append(f"COMMENT ON VIEW {name} IS {literal(f'Predictions of {model} with their features.')}")
        if not parts:
            parts = [f"SELECT {nothing} WHERE false"]
        statements.append(f"CREATE VIEW {kind} AS {' UNION ALL '.join(parts)}")
        statements.append(f"COMMENT ON VIEW {kind} IS {literal(table.about)}")
        statements += [f"COMMENT ON COLUMN {kind}.{quote(c.name)} IS {literal(c.about)}" for c in table.columns]
    about = "Generations with the texts that came apart from their span, as log records, where the span has none."
    statements.append(f"CREATE VIEW answers AS FROM {said.filled('generations', 'contents', by='model, record_id')}")
    statements.append(f"COMMENT ON VIEW answers IS {literal(about)}")
    statements += [f"COMMENT ON COLUMN answers.{quote(c.name)} IS {literal(c.about)}" for c in KINDS["generations"].columns]
    return statements


def _about(column: str) -> str:
    """What a column of the predictions of one model is."""
    known = {c.name: c.about for c in KINDS["predictions"].columns}
    return known.get(column) or f"feature {column.removeprefix(FEATURE)}"
