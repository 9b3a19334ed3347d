"""`audit.duckdb`: views only, over the segments and a tail of what is still hot, for any number of readers and any tool.

The live file is locked by its owner, so readers get files nobody changes: segments named by the manifest (never a glob: a
seal that was interrupted would show twice), and increments of the hot rows written every few seconds. The views are
written as a new file each time, and the name `audit.duckdb` is a link that is turned from one to the next under the readers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from monitor import said, segments
from monitor.clock import Clock
from monitor.faultpoints import point
from monitor.metrics import Metrics
from monitor.reader import Reader, literal
from monitor.schema import FEATURE, KINDS, quote, table_name
from monitor.store import Store

FILE = "audit.duckdb"
FOLDER = "tail"
VIEWS = "views"
GRACE_SECONDS = 120.0  # a reader that opened the old views may still be at its files


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


def _read(paths: Sequence[str]) -> str:
    return f"read_parquet([{', '.join(literal(p) for p in paths)}], union_by_name = true)"


class Audit:
    """Brings the views up to date. Called by one thread."""

    def __init__(self, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._tail: dict[tuple[str, str], list[tuple[int, Path]]] = {}  # last seq and file, oldest first
        self._dropped: list[tuple[float, Path]] = []
        self._shown: dict[tuple[str, str], Files] | None = None
        self.shown_at = float("-inf")  # on the steady clock: the views name the files of then or later
        # Of an earlier run, whose views stand until the first refresh; the rows are in the hot file.
        self._earlier = set((store.root / FOLDER).rglob("*.parquet*"))
        numbers = [int(p.name) for p in (store.root / VIEWS).glob("*") if p.name.isdigit()]
        self._earlier |= {store.root / VIEWS / f"{n:09d}" / FILE for n in numbers}
        self._number = max(numbers, default=0)

    def refresh(self) -> bool:
        """Write what is new and replace the views; False when nothing was new."""
        looked_at = self._clock.monotonic()
        logs = self._store.logs()  # before the look: what is named here is in there
        with self._store.read() as reader:
            sealed = {
                (row["kind"], row["model"]): row["last"]
                for row in reader.query("SELECT kind, model, max(last_seq) AS last FROM manifest GROUP BY ALL")
            }
            for kind, model in logs:
                self._extend(reader, kind, model, sealed.get((kind, model), 0))
            files = self._files(reader, sealed)
        changed = files != self._shown
        if changed:
            self._replace(files)
            self._shown = files
        else:
            os.utime(self._store.root / FILE)  # which says how old the view is, and now it is not
        self.shown_at = looked_at
        kept = {path for tail in self._tail.values() for _, path in tail}
        kept.add(self._views())
        self._dropped += [(self._clock.monotonic(), path) for path in self._earlier - kept]
        self._earlier.clear()
        self._clean()
        self._metrics.audit_last_success.set(self._clock.now().timestamp())
        return changed

    def _extend(self, reader: Reader, kind: str, model: str, sealed: int) -> None:
        tail = self._tail.setdefault((kind, model), [])
        while tail and tail[0][0] <= sealed:
            self._dropped.append((self._clock.monotonic(), tail.pop(0)[1]))
        after = max(sealed, tail[-1][0] if tail else 0)
        where = f"{table_name(kind, model)} WHERE seq > {after}"
        if kind != "predictions":
            where += f" AND model = {literal(model)}"
        last = reader.query(f"SELECT max(seq) AS last FROM {where}")[0]["last"]
        if last is None:
            return
        path = self._store.root / FOLDER / kind / (model or "_") / f"{after + 1:012d}-{last:012d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".parquet.tmp")
        reader.execute(f"COPY (SELECT * FROM {where} ORDER BY seq) TO {literal(str(temporary))} (FORMAT parquet)")
        point("audit.tail_written")
        temporary.rename(path)
        tail.append((last, path))

    def _files(self, reader: Reader, sealed: dict[tuple[str, str], int]) -> dict[tuple[str, str], Files]:
        named: dict[tuple[str, str], list[str]] = {}
        whole = "SELECT kind, model, file FROM manifest WHERE quarantined IS NULL ORDER BY kind, model, first_seq"
        for row in reader.query(whole):
            named.setdefault((row["kind"], row["model"]), []).append(row["file"])
        tails = {k: [str(p.relative_to(self._store.root)) for _, p in tail] for k, tail in self._tail.items()}
        return {
            key: Files(tuple(named.get(key, ())), tuple(tails.get(key, ())), sealed.get(key, 0))
            for key in sorted({*named, *(k for k, t in tails.items() if t)})
        }

    def _views(self) -> Path:
        """The file that the name stands for, or will once it is written."""
        return self._store.root / VIEWS / f"{self._number:09d}" / FILE

    def _replace(self, files: Mapping[tuple[str, str], Files]) -> None:
        before = self._views()
        self._number += 1
        try:
            self._write(self._views(), files)
            point("audit.synced")
            publish(self._store.root / FILE, self._views())
        except BaseException:
            self._number -= 1
            raise
        self._dropped.append((self._clock.monotonic(), before))

    def _write(self, path: Path, files: Mapping[tuple[str, str], Files]) -> None:
        shutil.rmtree(path.parent, ignore_errors=True)  # what was begun before and could not be ended
        path.parent.mkdir(parents=True)
        with duckdb.connect(":memory:", config={"threads": 1}) as connection:
            # Binding a view reads its files, and the paths are relative to the store, so that a copy opens elsewhere.
            connection.execute(f"SET file_search_path = {literal(str(self._store.root))}")
            connection.execute(f"ATTACH {literal(str(path))} AS audit (STORAGE_VERSION 'v1.5.0')")
            connection.execute("USE audit")
            connection.execute("BEGIN TRANSACTION")  # else each of four hundred statements is a commit with a sync of its own
            for statement in views(files):
                connection.execute(statement)
            silent = "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'audit' AND comment IS NULL"
            for view, column in connection.execute(silent).fetchall():
                connection.execute(f"COMMENT ON COLUMN {quote(view)}.{quote(column)} IS {literal(_about(column))}")
            connection.execute("COMMIT")
            connection.execute("USE memory")
            connection.execute("DETACH audit")
        point("audit.written")
        path.chmod(0o444)
        segments.sync_file(path)
        segments.sync_way_to(path.parent, self._store.root)

    def _clean(self) -> None:
        now = self._clock.monotonic()
        for at, path in [d for d in self._dropped if now - d[0] > GRACE_SECONDS]:
            if path.name == FILE:
                shutil.rmtree(path.parent, ignore_errors=True)
            path.unlink(missing_ok=True)
            self._dropped.remove((at, path))


def publish(name: Path, target: Path) -> None:
    """Have `name` stand for `target`, a file beside or below it, from one moment to the next.

    A symbolic link, because the engine opens a database twice by its name: header and rest would be of two files where one is
    renamed over the other in between ("No more data remaining in MetadataReader", in 1 of 50 attempts under a thousand renames
    a second). A link it resolves once, and then keeps to the file.
    """
    temporary = name.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.relative_to(name.parent))
    os.replace(temporary, name)
    point("audit.replaced")
    segments.sync_folder(name.parent)


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
