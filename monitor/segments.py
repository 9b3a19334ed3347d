"""The sealed tier: immutable Parquet segments, named by the manifest and by nothing else.

Protocol, so that a kill at any point loses and doubles nothing: write `*.tmp`, sync it (DuckDB's COPY does not), rename,
sync the folder; then one transaction adds the manifest row and deletes the hot rows. At start `*.tmp` and files that neither
the manifest names nor its history, as waiting to be deleted, are removed.

Beside a segment lie its index files, one for each way its rows are looked for (`indexes`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from monitor import log
from monitor.clock import Clock
from monitor.errors import StoreError
from monitor.faultpoints import point
from monitor.hashfile import HashFile, KeyFile, UInt64Array
from monitor.metrics import Metrics
from monitor.reader import Reader, literal
from monitor.schema import KINDS, quote, table_name

if TYPE_CHECKING:
    from monitor.store import Store
    from monitor.transaction import Transaction

FOLDER = "segments"
ROW_GROUP = 8_192


BY_RECORD = frozenset({"labels", "contexts", "scores", "rule_matches"})  # looked for by record, which their key is not of alone


def indexes(kind: str) -> dict[str, str]:
    """The index files of a segment: suffix -> SQL of the columns. A row whose hash, the first one, is null is in none."""
    columns = {c.name for c in KINDS[kind].columns}
    found = {}
    if "key_hash" in columns:
        found["keys"] = "key_hash, content_hash, seq"
    if kind in BY_RECORD:
        found["records"] = "md5_number_lower(record_id), seq"
    if "trace_hash" in columns:
        found["traces"] = "trace_hash, seq"
    return found


def index_file(segment: str, suffix: str) -> str:
    return segment.removesuffix("parquet") + suffix


def open_index(path: Path, mend: Callable[[Path, str], bool] | None = None) -> HashFile:
    """
    Raises:
        hashfile.Damaged: it is not what was written, and there is no `mend`.
    """
    return KeyFile(path, mend) if path.suffix == ".keys" else HashFile(path, mend)


def index_rows(reader: Reader, kind: str, suffix: str, rows: str) -> list[UInt64Array]:
    """The columns of an index of `rows`, which is what follows FROM, in the order of seq."""
    columns = indexes(kind)[suffix]
    found = reader.table(f"SELECT {columns} FROM {rows} ORDER BY seq")
    found = found.filter(found.column(0).is_valid())
    return [column.to_numpy().astype(np.uint64) for column in found.columns]


def write_index(path: Path, columns: Sequence[UInt64Array]) -> None:
    """Whole and synced, or not there."""
    temporary = path.with_name(path.name + ".tmp")
    HashFile.write_rows(temporary, *columns)
    sync_file(temporary)
    temporary.rename(path)


def remake_index(reader: Reader, root: Path, path: Path, problem: str) -> bool:
    """Make an index file anew from its segment; False where that is damaged as well."""
    segment = path.with_suffix(".parquet")
    name = segment.relative_to(root).as_posix()
    found = reader.query("SELECT kind, bytes, sha256, quarantined FROM hot.manifest WHERE file = ?", [name])
    if not found:
        return False  # replaced meanwhile
    row = found[0]
    if wrong := row["quarantined"] or damage(segment, row["bytes"], row["sha256"]):
        log.error(
            "an index and its segment are damaged: what the segment held is not recognised when it is sent again; put whole "
            "copies of both back from a backup, and they are taken within a day or at the next start",
            index=path.relative_to(root), problem=problem, segment=wrong,
        )  # fmt: skip
        return False
    write_index(path, index_rows(reader, row["kind"], path.suffix[1:], _as_now(row["kind"], segment)))
    sync_folder(path.parent)
    log.warning("an index was made anew from its segment", index=path.relative_to(root), problem=problem)
    return True


def damage(path: Path, size: int, digest: str | None) -> str | None:
    """What is wrong with a segment, None when nothing is. One without a hash was sealed by an earlier version."""
    try:
        found = path.stat().st_size
        if found != size:
            return f"{found} bytes, {size} were sealed"
        if digest is not None and (other := sha256(path)) != digest:
            return f"its SHA-256 is {other}, {digest} was sealed"
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_way_to(folder: Path, root: Path) -> None:
    """Each folder on the way from the store's own may be new."""
    while folder != root:
        sync_folder(folder)
        folder = folder.parent
    sync_folder(root)


def recover(root: Path, reader: Reader) -> None:
    """Remove what a killed seal or compaction left behind.

    Raises:
        StoreError: a segment that the manifest names is gone.
    """
    keep: set[Path] = set()
    for row in reader.query("SELECT kind, file, quarantined IS NOT NULL AS aside FROM manifest ORDER BY file"):
        segment = root / row["file"]
        if not row["aside"] and not segment.exists():  # else it is perhaps there: a copy that somebody brought back
            raise StoreError(
                f"{segment}: the manifest names this segment and it is gone; restore it from a backup; an empty file in its "
                "place is set aside, and the rest goes on"
            )
        keep |= {segment, *(root / index_file(row["file"], s) for s in indexes(row["kind"]))}
    for row in reader.query("SELECT kind, file FROM manifest_history WHERE deleted_at IS NULL"):
        keep |= {root / row["file"], *(root / index_file(row["file"], s) for s in indexes(row["kind"]))}
    for path in (root / FOLDER).rglob("*"):
        if path.is_file() and path not in keep:
            log.warning("removed what an interrupted seal left behind", file=path.relative_to(root))
            path.unlink()


def _as_now(kind: str, segment: Path) -> str:
    """A segment with the columns of today, null where it is older."""
    columns = ", ".join(f"NULL::{c.type} AS {quote(c.name)}" for c in KINDS[kind].columns)
    return f"(SELECT {columns} WHERE false UNION ALL BY NAME SELECT * FROM read_parquet({literal(str(segment))}))"


class Sealer:
    """Moves rows from the hot file into segments once they are old or many. Called by one thread."""

    def __init__(self, store: Store, *, clock: Clock, metrics: Metrics, seal_seconds: int, seal_rows: int) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._seconds = seal_seconds
        self._rows = seal_rows
        self._since: dict[tuple[str, str], float] = {}

    def seal_due(self, *, everything: bool = False) -> int:
        """Seal each log whose oldest unsealed row has waited `seal_seconds`, or that has `seal_rows` of them; return how
        many segments were written. A row is thus sealed within twice `seal_seconds` at most."""
        count = 0
        for kind, model in self._store.logs():
            # What comes while this runs is for the next round: a busy log must not keep the others waiting.
            last = self._store.last_seq(kind, model)
            waiting = last - self._store.sealed_seq(kind, model)
            if not waiting:
                self._since.pop((kind, model), None)
                continue
            since = self._since.setdefault((kind, model), self._clock.monotonic())
            old = self._clock.monotonic() - since >= self._seconds
            while waiting > 0 and (everything or old or waiting >= self._rows):
                self.seal(kind, model)
                count += 1
                self._since[kind, model] = self._clock.monotonic()
                waiting = last - self._store.sealed_seq(kind, model)
                old = False
        if count:
            self._store.trim()
        return count

    def seal(self, kind: str, model: str) -> str:
        """Write one segment of the oldest unsealed rows, at most `seal_rows`, and return its name."""
        started = self._clock.monotonic()
        store, first = self._store, self._store.sealed_seq(kind, model) + 1
        last = min(store.last_seq(kind, model), first + self._rows - 1)
        now = self._clock.now()
        # A model's name starts with a letter or digit, so "_" cannot be one.
        name = f"{FOLDER}/{kind}/{model or '_'}/{now:%Y-%m-%d/%H}/{first:012d}-{last:012d}.parquet"
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".parquet.tmp")
        rows = f"{table_name(kind, model)} WHERE seq BETWEEN {first} AND {last}"
        if kind != "predictions":
            rows += f" AND model = {literal(model)}"
        facts, found = self._copy(kind, rows, first, last, temporary)
        point("seal.written")
        if facts["n"] != last - first + 1:
            raise StoreError(f"{kind} of {model!r}: {facts['n']} rows for seq {first}..{last}; the log has a gap")
        self._publish(path, temporary, found)
        digest = sha256(path)
        files = {suffix: open_index(store.root / index_file(name, suffix)) for suffix in found}

        def commit(transaction: Transaction) -> None:
            transaction.insert(
                "manifest",
                {
                    "kind": [kind], "model": [model], "file": [name], "first_seq": [first], "last_seq": [last],
                    "rows": [facts["n"]], "bytes": [path.stat().st_size], "min_time": [facts["low"]],
                    "max_time": [facts["high"]], "max_received": [facts["received"]], "sealed_at": [now],
                    "sha256": [digest], "level": ["minute"],
                },
            )  # fmt: skip
            transaction.execute(f"DELETE FROM {rows}")
            transaction.on_commit(lambda: store.sealed(kind, model, last, files))
            point("seal.manifest")

        store.run(commit)
        point("seal.committed")
        self._metrics.seals.labels(kind).inc()
        self._metrics.seal_duration.observe(self._clock.monotonic() - started)
        self._metrics.seal_last_success.set(self._clock.now().timestamp())
        return name

    def _copy(
        self, kind: str, rows: str, first: int, last: int, path: Path
    ) -> tuple[dict[str, Any], dict[str, list[UInt64Array]]]:
        table = KINDS[kind]
        with self._store.read() as reader:
            facts = reader.query(
                f"SELECT count(*) AS n, min({quote(table.time)}) AS low, max({quote(table.time)}) AS high, "
                f"max(received_at) AS received FROM {rows}"
            )[0]
            found = {suffix: index_rows(reader, kind, suffix, rows) for suffix in indexes(kind)}
            # A row group at a time: DuckDB's own COPY sorts the whole of it in memory, 400 MB for 50,000 spans.
            writer = None
            for low in range(first, last + 1, ROW_GROUP):
                piece = reader.table(f"SELECT * FROM {rows} AND seq < {low + ROW_GROUP} AND seq >= {low} ORDER BY seq")
                if writer is None:
                    # As compaction writes them: DuckDB's readers see what DuckDB would have written.
                    writer = pq.ParquetWriter(path, piece.schema, compression="zstd", compression_level=3, store_schema=False)
                writer.write_table(piece, row_group_size=ROW_GROUP)
            assert writer is not None
            writer.close()
        return facts, found

    def _publish(self, path: Path, temporary: Path, found: Mapping[str, Sequence[UInt64Array]]) -> None:
        sync_file(temporary)
        point("seal.synced")
        for suffix, columns in found.items():
            write_index(path.with_name(index_file(path.name, suffix)), columns)
            point("seal.keys_renamed")
        temporary.rename(path)
        point("seal.renamed")
        sync_way_to(path.parent, self._store.root)
        point("seal.folder_synced")
