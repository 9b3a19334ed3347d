"""The sealed tier: immutable Parquet segments, named by the manifest and by nothing else.

Protocol, so that a kill at any point loses and doubles nothing: write `*.tmp`, sync it (DuckDB's COPY does not), rename,
sync the folder; then one transaction adds the manifest row and deletes the hot rows. At start `*.tmp` and files that no
manifest row names are removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monitor import log
from monitor.clock import Clock
from monitor.errors import StoreError
from monitor.faultpoints import point
from monitor.keys import KeyFile
from monitor.metrics import Metrics
from monitor.reader import literal
from monitor.schema import KINDS, quote, table_name

if TYPE_CHECKING:
    from monitor.store import Store
    from monitor.transaction import Transaction

FOLDER = "segments"
ROW_GROUP = 8_192


def key_file(segment: str) -> str:
    return segment.removesuffix(".parquet") + ".keys"


def has_keys(kind: str) -> bool:
    return any(c.name == "key_hash" for c in KINDS[kind].columns)


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


def recover(root: Path, manifest: Iterable[dict[str, Any]]) -> None:
    """Remove what a killed seal left behind.

    Raises:
        StoreError: a segment that the manifest names is gone.
    """
    keep: set[Path] = set()
    for row in sorted(manifest, key=lambda row: row["file"]):
        files = [row["file"], key_file(row["file"])] if has_keys(row["kind"]) else [row["file"]]
        for path in (root / file for file in files):
            if not path.exists():
                raise StoreError(f"{path}: the manifest names this segment and it is gone; restore it from a backup")
            keep.add(path)
    for path in (root / FOLDER).rglob("*"):
        if path.is_file() and path not in keep:
            log.warning("removed what an interrupted seal left behind", file=path.relative_to(root))
            path.unlink()


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
        facts, keys = self._copy(kind, rows, temporary)
        point("seal.written")
        if facts["n"] != last - first + 1:
            raise StoreError(f"{kind} of {model!r}: {facts['n']} rows for seq {first}..{last}; the log has a gap")
        self._publish(path, temporary, keys)

        def commit(transaction: Transaction) -> None:
            transaction.insert(
                "manifest",
                {
                    "kind": [kind], "model": [model], "file": [name], "first_seq": [first], "last_seq": [last],
                    "rows": [facts["n"]], "bytes": [path.stat().st_size], "min_time": [facts["low"]],
                    "max_time": [facts["high"]], "max_received": [facts["received"]], "sealed_at": [now],
                },
            )  # fmt: skip
            transaction.execute(f"DELETE FROM {rows}")
            index = KeyFile(store.root / key_file(name)) if keys is not None else None
            transaction.on_commit(lambda: store.sealed(kind, model, last, index))
            point("seal.manifest")

        store.run(commit)
        point("seal.committed")
        self._metrics.seals.labels(kind).inc()
        self._metrics.seal_duration.observe(self._clock.monotonic() - started)
        self._metrics.seal_last_success.set(self._clock.now().timestamp())
        return name

    def _copy(self, kind: str, rows: str, path: Path) -> tuple[dict[str, Any], Any]:
        table = KINDS[kind]
        with self._store.read() as reader:
            facts = reader.query(
                f"SELECT count(*) AS n, min({quote(table.time)}) AS low, max({quote(table.time)}) AS high, "
                f"max(received_at) AS received FROM {rows}"
            )[0]
            keys = None
            if has_keys(kind):
                columns = reader.table(f"SELECT key_hash, content_hash, seq FROM {rows} AND key_hash IS NOT NULL")
                keys = [columns[c].to_numpy().astype(np.uint64) for c in ("key_hash", "content_hash", "seq")]
            reader.execute(
                f"COPY (SELECT * FROM {rows} ORDER BY seq) TO {literal(str(path))} "
                f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
            )
        return facts, keys

    @staticmethod
    def _publish(path: Path, temporary: Path, keys: Any) -> None:
        sync_file(temporary)
        point("seal.synced")
        if keys is not None:
            target = path.with_name(key_file(path.name))
            KeyFile.write(target.with_suffix(".keys.tmp"), *keys)
            sync_file(target.with_suffix(".keys.tmp"))
            target.with_suffix(".keys.tmp").rename(target)
            point("seal.keys_renamed")
        temporary.rename(path)
        point("seal.renamed")
        sync_folder(path.parent)
        for parent in list(path.parents)[1:6]:  # each folder on the way from the store's own may be new as well
            sync_folder(parent)
        point("seal.folder_synced")
