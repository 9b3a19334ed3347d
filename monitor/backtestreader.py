"""The store as its audit files show it, read as the daemon reads its own: for whoever replays the past. Beside a running daemon,
or without one; nothing here can write to the store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

import duckdb

from detectors.contract import ColumnKind
from monitor.audit import FILE
from monitor.errors import StoreError
from monitor.hashfile import UInt64Array
from monitor.keys import Places
from monitor.quarantine import FOLDER as QUARANTINE
from monitor.reader import Reader, literal
from monitor.schema import FEATURE, KINDS, quote
from monitor.views import Files

AHEAD = timedelta(minutes=5)
"""Event times further ahead of their arrival do not move the watermark."""


@dataclass(frozen=True, slots=True)
class File:
    """`low` and `high` are the times of its rows, None where the file does not say."""

    path: str
    last_seq: int
    low: datetime | None
    high: datetime | None


class Shown:
    """What `audit.duckdb` shows. Files are deleted two minutes after a newer one no longer names them, so ask for a reader a
    window. One thread."""

    def __init__(self, root: Path, scratch: Path, *, memory_bytes: int | None = None) -> None:
        """`scratch` is a folder for what does not fit into memory.

        Raises:
            StoreError: there is no store there, or it has shown nothing yet.
        """
        self._name = root / FILE
        if not self._name.exists():
            raise StoreError(
                f"{self._name}: not there; is {root} the store of a daemon that has run? See store.path in its config"
            )
        self.root = root
        config: dict[str, str | bool | int | float | list[str]] = {"temp_directory": str(scratch)}
        if memory_bytes is not None:
            config["memory_limit"] = f"{memory_bytes // 2**20}MiB"
        self._connection = duckdb.connect(":memory:", config=config)
        self._connection.execute(f"SET file_search_path = {literal(str(root))}")
        self._connection.execute("SET TimeZone = 'UTC'")
        self._shown: Path | None = None
        self._reader: ShownReader | None = None
        self._known: dict[str, File] = {}

    def reader(self) -> ShownReader:
        """All that is shown now."""
        now = self._name.resolve()
        if self._reader is None or now != self._shown:
            if self._reader is not None:
                self._connection.execute("USE memory; DETACH audit")
            self._connection.execute(f"ATTACH {literal(str(now))} AS audit (READ_ONLY)")
            self._connection.execute("USE audit")
            views = self._connection.sql("SELECT view_name, sql FROM duckdb_views() WHERE database_name = 'audit'").fetchall()
            self._reader, self._shown = ShownReader(self._connection, self.root, dict(views), self._known), now
        return self._reader

    def close(self) -> None:
        self._connection.close()

    def aside(self, model: str) -> list[str]:
        """Damaged segments of a model, whose rows no view shows."""
        folder = self.root / QUARANTINE
        return sorted(str(path.relative_to(folder)) for path in folder.glob(f"segments/*/{model}/**/*.parquet"))


class ShownReader(Reader):
    """A look at what one `audit.duckdb` names."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, root: Path, views: Mapping[str, str], known: dict[str, File]
    ) -> None:
        """`views`: their SQL, by name. `known`: what is known of files, by path, which never change; for others to keep."""
        super().__init__(connection, root)
        self.root = root
        self._views = views
        self._known = known
        self._files: dict[tuple[str, str], tuple[list[File], Files]] = {}
        self._columns: dict[str, list[tuple[str, str]]] = {}

    def places(self, index: str, kind: str, model: str, hashes: Collection[int] | UInt64Array) -> Places | None:
        return None  # the indexes are the daemon's: all files are looked into that can hold such rows

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
        sealed, files = self._of(kind, model)
        chosen = [
            one.path
            for one in sealed
            if one.last_seq > after_seq
            and (since is None or one.high is None or one.high >= since)
            and (until is None or one.low is None or one.low < until)
        ]
        empty = ", ".join(f"NULL::{type_} AS {quote(name)}" for name, type_ in self._columns_of(kind, model))
        parts = [f"SELECT {empty} WHERE false"]
        if chosen:
            parts.append(f"SELECT * FROM {_read(chosen)}")
        if files.tail:
            parts.append(f"SELECT * FROM {_read(files.tail)} WHERE seq > {files.sealed_seq}")
        return f"({' UNION ALL BY NAME '.join(parts)})"

    def last_seq(self, kind: str, model: str) -> int:
        sealed, files = self._of(kind, model)
        return max([one.last_seq for one in sealed] + [_last_seq(path) for path in files.tail], default=0)

    def has_table(self, model: str) -> bool:
        return f"predictions_{model}" in self._views

    def features(self, model: str) -> dict[str, ColumnKind]:
        """Of a model: those that have a column."""
        found = self._columns_of("predictions", model)
        return {
            name.removeprefix(FEATURE): "number" if type_ == "DOUBLE" else "category"
            for name, type_ in found
            if name.startswith(FEATURE)
        }

    def span(self, kind: str, model: str, where: str = "true") -> tuple[datetime | None, datetime | None, int]:
        """The first and the last event time of a log, times from the future left out, and how many rows it has."""
        row = self.query(
            "SELECT min(event_time) AS low, max(event_time) FILTER (event_time <= received_at + $1) AS high, count(*) AS n "
            f"FROM {self.source(kind, model)} WHERE {where}",
            [AHEAD],
        )[0]
        return row["low"], row["high"], row["n"]

    def _of(self, kind: str, model: str) -> tuple[list[File], Files]:
        key = kind, model
        if key not in self._files:
            files = Files.named(self._views.get(kind, ""), kind, model)
            unknown = [path for path in files.segments if path not in self._known]
            if unknown:
                self._known |= {one.path: one for one in self._look(kind, unknown)}
            self._files[key] = [self._known[path] for path in files.segments], files
        return self._files[key]

    def _look(self, kind: str, paths: list[str]) -> list[File]:
        """By the statistics at the end of each file, without its rows."""
        rows = self.query(
            "SELECT file_name AS path, min(stats_min_value)::TIMESTAMPTZ AS low, max(stats_max_value)::TIMESTAMPTZ AS high, "
            "bool_or(stats_min_value IS NULL OR stats_max_value IS NULL) AS open "
            f"FROM parquet_metadata([{', '.join(literal(str(self._root / path)) for path in paths)}]) "
            "WHERE path_in_schema = ? GROUP BY ALL",
            [KINDS[kind].time],
        )
        told = {str(PurePosixPath(row["path"]).relative_to(self._root)): row for row in rows if not row["open"]}
        known = ((path, told.get(path, {"low": None, "high": None})) for path in paths)
        return [File(path, _last_seq(path), row["low"], row["high"]) for path, row in known]

    def _columns_of(self, kind: str, model: str) -> list[tuple[str, str]]:
        view = f"predictions_{model}" if kind == "predictions" and self.has_table(model) else None
        if view is None:
            return [(column.name, column.type) for column in KINDS[kind].columns]
        if view not in self._columns:
            self._columns[view] = [(row[0], row[1]) for row in self._cursor.sql(f"DESCRIBE {quote(view)}").fetchall()]
        return self._columns[view]


def _read(paths: Collection[str]) -> str:
    return f"read_parquet([{', '.join(map(literal, paths))}], union_by_name = true)"


def _last_seq(path: str) -> int:
    """Which the name of each segment and tail file says."""
    return int(PurePosixPath(path).stem.rpartition("-")[2])
