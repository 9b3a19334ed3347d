"""One segment in the making, out of several: its rows in the order of `seq`, its index files, its row of the manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monitor import segments
from monitor.errors import StoreError
from monitor.faultpoints import point
from monitor.hashfile import Damaged, HashFile
from monitor.store import Store

BATCH_ROWS = 4_096
GROUP_ROWS, GROUP_BYTES = 131_072, 32 * 2**20  # a row group of a merged segment is closed at either

Row = Mapping[str, Any]  # of the manifest


class BadSegment(StoreError):
    """A segment whose rows or bytes are not those the manifest has."""

    def __init__(self, file: str, what: str) -> None:
        super().__init__(f"{file}: {what}; restore it from a backup")
        self.file = file


class Merge:
    """One new segment in the making. Memory is that of a row group, whatever its size."""

    def __init__(self, store: Store, level: str, sources: Sequence[Row], *, started: float) -> None:
        first, last = sources[0], sources[-1]
        root = store.root
        self._mend = store.mend
        self.started = started
        self.sources = sources
        self._root = root
        self._level = level
        at = first["sealed_at"]
        folder = f"{at:%Y-%m-%d/%H}" if level == "hour" else f"{at:%Y-%m-%d}"
        name = f"{first['first_seq']:012d}-{last['last_seq']:012d}.parquet"
        self._name = f"{segments.FOLDER}/{first['kind']}/{first['model'] or '_'}/{folder}/{name}"
        self._path = root / self._name
        self._temporary = self._path.with_name(self._path.name + ".tmp")
        self._seq = first["first_seq"]
        self._held: list[pa.Table] = []
        self._held_rows = self._held_bytes = 0
        self._schema = self._unified()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Without Arrow's own schema: DuckDB's readers see what DuckDB would have written.
        self._writer = pq.ParquetWriter(
            self._temporary, self._schema, compression="zstd", compression_level=3, store_schema=False
        )
        self._batches = self._read()

    def copy(self, rows: int) -> bool:
        """Copy about so many rows; False when there are none left."""
        while rows > 0:
            if (batch := next(self._batches, None)) is None:
                return False
            rows -= batch.num_rows
            self._held.append(batch)
            self._held_rows += batch.num_rows
            self._held_bytes += batch.nbytes
            if self._held_rows >= GROUP_ROWS or self._held_bytes >= GROUP_BYTES:
                self._flush()
        return True

    def publish(self) -> tuple[dict[str, Any], dict[str, HashFile]]:
        """Give the files their names; return the manifest's row and the index files by suffix."""
        first, last = self.sources[0], self.sources[-1]
        if self._held:
            self._flush()
        self._writer.close()
        point("compact.written")
        segments.sync_file(self._temporary)
        point("compact.synced")
        files = {suffix: self._merged(suffix) for suffix in segments.indexes(first["kind"])}
        point("compact.indexed")
        digest = segments.sha256(self._temporary)
        self._temporary.rename(self._path)
        point("compact.renamed")
        segments.sync_way_to(self._path.parent, self._root)
        row = {
            "kind": first["kind"],
            "model": first["model"],
            "file": self._name,
            "first_seq": first["first_seq"],
            "last_seq": last["last_seq"],
            "rows": sum(s["rows"] for s in self.sources),
            "bytes": self._path.stat().st_size,
            "min_time": min((s["min_time"] for s in self.sources if s["min_time"] is not None), default=None),
            "max_time": max((s["max_time"] for s in self.sources if s["max_time"] is not None), default=None),
            "max_received": max((s["max_received"] for s in self.sources if s["max_received"] is not None), default=None),
            "sealed_at": last["sealed_at"],
            "sha256": digest,
            "level": self._level,
        }
        return row, files

    def abandon(self) -> None:
        """Best effort: what stays is removed at the next start, or written over."""
        with contextlib.suppress(Exception):
            self._writer.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _merged(self, suffix: str) -> HashFile:
        parts = [segments.open_index(self._root / segments.index_file(s["file"], suffix), self._mend) for s in self.sources]
        path = self._root / segments.index_file(self._name, suffix)
        temporary = path.with_name(path.name + ".tmp")
        for source, part in zip(self.sources, parts, strict=True):
            try:
                part.look()
            except Damaged as exc:
                raise BadSegment(source["file"], f"its index .{suffix} {exc}") from exc
        HashFile.merge(temporary, parts)
        segments.sync_file(temporary)
        temporary.rename(path)
        return segments.open_index(path)

    def _unified(self) -> pa.Schema:
        """The columns of all sources, as DuckDB's union by name has them: in the order in which they first appear."""
        schema = pa.schema([])
        for source in self.sources:
            try:
                there = pq.read_schema(self._root / source["file"]).remove_metadata()
                schema = pa.unify_schemas([schema, there], promote_options="permissive")
            except (pa.ArrowException, OSError) as exc:
                raise BadSegment(source["file"], f"its columns cannot be read or joined with the others': {exc}") from exc
        return pa.schema([pa.field(f.name, f.type) for f in schema])

    def _read(self) -> Iterator[pa.Table]:
        for source in self.sources:
            path = self._root / source["file"]
            if source["sha256"] is not None and segments.sha256(path) != source["sha256"]:
                # Else a flipped bit would become part of a new segment with a hash of its own.
                raise BadSegment(source["file"], "its bytes are not those that were sealed")
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
                batches = file.iter_batches(BATCH_ROWS, use_threads=False)
                while (batch := self._next(source, batches)) is not None:
                    yield self._fitted(batch)
            if self._seq != source["last_seq"] + 1:
                raise BadSegment(source["file"], f"it ends before seq {source['last_seq']}")

    def _next(self, source: Row, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as exc:
            raise BadSegment(source["file"], f"it cannot be read: {exc}") from exc
        if batch is not None:
            seq = batch.column("seq").to_numpy()
            if not np.array_equal(seq, np.arange(self._seq, self._seq + len(seq))):
                raise BadSegment(source["file"], f"its rows do not go on from seq {self._seq}")
            self._seq += len(seq)
        return batch

    def _fitted(self, batch: pa.RecordBatch) -> pa.Table:
        there = set(batch.schema.names)
        columns = [
            batch.column(f.name).cast(f.type) if f.name in there else pa.nulls(batch.num_rows, f.type) for f in self._schema
        ]
        return pa.table(columns, schema=self._schema)

    def _flush(self) -> None:
        table = pa.concat_tables(self._held)
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
