"""`audit.duckdb`: views only, over the segments and a tail of what is still hot, for any number of readers and any tool.

The live file is locked by its owner, so readers get files nobody changes: segments named by the manifest (never a glob: a
seal that was interrupted would show twice), and increments of the hot rows written every few seconds. The views are
written as a new file each time, and the name `audit.duckdb` is a link that is turned from one to the next under the readers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from monitor import segments
from monitor.child import Child, Remote
from monitor.clock import Clock
from monitor.errors import ChildAway, ChildFailed
from monitor.faultpoints import point
from monitor.metrics import Metrics
from monitor.reader import Reader, literal
from monitor.schema import table_name
from monitor.store import Store
from monitor.views import Files, Request, write

FILE = "audit.duckdb"
FOLDER = "tail"
VIEWS = "views"
WRITE_SECONDS = 60.0  # for the process that writes the views; then it is killed
GRACE_SECONDS = 120.0  # a reader that opened the old views may still be at its files


class Audit:
    """Brings the views up to date. Called by one thread. `writer`: the helper of `views.TARGET`; while it is away, or without
    one, the thread writes them itself."""

    def __init__(self, store: Store, *, clock: Clock, metrics: Metrics, writer: Child | None = None) -> None:
        self._store = store
        self._writer = writer
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
        # Before the look: what is named here is in there.
        logs = {(kind, model): self._store.last_seq(kind, model) for kind, model in self._store.logs()}
        with self._store.read() as reader:
            sealed = {
                (row["kind"], row["model"]): row["last"]
                for row in reader.query("SELECT kind, model, max(last_seq) AS last FROM manifest GROUP BY ALL")
            }
            for (kind, model), last in logs.items():
                self._extend(reader, kind, model, sealed.get((kind, model), 0), last)
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

    def _extend(self, reader: Reader, kind: str, model: str, sealed: int, last: int) -> None:
        """Put the rows up to `last` that are in no file yet into one more."""
        tail = self._tail.setdefault((kind, model), [])
        while tail and tail[0][0] <= sealed:
            self._dropped.append((self._clock.monotonic(), tail.pop(0)[1]))
        after = max(sealed, tail[-1][0] if tail else 0)
        if last <= after:
            return  # without a question: most logs have nothing new
        where = f"{table_name(kind, model)} WHERE seq > {after} AND seq <= {last}"
        if kind != "predictions":
            where += f" AND model = {literal(model)}"
        path = self._store.root / FOLDER / kind / (model or "_") / f"{after + 1:012d}-{last:012d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".parquet.tmp")
        # As they lie, which is in the order they came: a sort would take twice the time, and have all of them in memory.
        reader.execute(
            f"COPY (SELECT * FROM {where}) TO {literal(str(temporary))} (FORMAT parquet, ROW_GROUP_SIZE {segments.ROW_GROUP})"
        )
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
        request = Request(path, self._store.root, files)
        try:
            if self._writer is None:
                write(request)
            else:
                self._writer.call(request, WRITE_SECONDS)
        except (ChildAway, ChildFailed, Remote):
            write(request)  # the view must not grow old for that; and what is wrong with a file is known here
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
