"""Summaries of one day on disk: a Parquet file with the sums of each hour, and of the day.

Counts are stored sparse, as pairs of cell and count. `through` is the last seq that was read: the file counts all rows of its day
up to there. It is written whole beside its name and renamed, and has checksums, so it is there or not; and what is not there
is counted again from the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monitor import segments
from monitor.summaries.basis import Basis
from monitor.summaries.counting import Hour, Sums
from monitor.summaries.sketch import Sketch
from monitor.summaries.sums import Sum, total

DAY = -1
"""Stands where the hour would, in the rows that are of the whole day."""

SCHEMA = pa.schema(
    [
        ("hour", pa.int32()),  # since 1970
        ("feature", pa.string()),
        ("cells", pa.list_(pa.int32())),
        ("counts", pa.list_(pa.int64())),
        ("missing", pa.int64()),
        ("infinite", pa.int64()),
        ("minimum", pa.float64()),
        ("maximum", pa.float64()),
        ("mean", pa.float64()),
        ("m2", pa.float64()),
        ("below", pa.float64()),
        ("above", pa.float64()),
        ("hashes", pa.list_(pa.uint32())),
        ("hashes_share", pa.float64()),
    ]
)
FACTS = ("missing", "infinite", "minimum", "maximum", "mean", "m2", "below", "above")
ENCODINGS = {"cells.list.element": "DELTA_BINARY_PACKED", "counts.list.element": "DELTA_BINARY_PACKED"}
THROUGH = b"modelwatch.through"


@dataclass(frozen=True)
class DayFile:
    """One that is there and whole."""

    path: Path
    basis: Basis
    through: int

    @classmethod
    def open(cls, path: Path, basis: Basis) -> DayFile | None:
        """None, where there is none or it cannot be read."""
        try:
            metadata = pq.read_schema(path).metadata or {}
            return cls(path, basis, int(metadata[THROUGH]))
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return None

    @classmethod
    def write(cls, path: Path, basis: Basis, hours: Mapping[Hour, Sums], through: int) -> DayFile:
        of_day = {name: total([sums[name] for sums in hours.values()], edges) for name, edges in basis.columns.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        schema = SCHEMA.with_metadata({THROUGH: str(through).encode()})
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=["feature"], column_encoding=ENCODINGS, write_page_checksum=True
        ) as writer:
            writer.write_table(_table({DAY: of_day}, schema))
            if hours:
                writer.write_table(_table(hours, schema))
        segments.sync_file(temporary)
        temporary.rename(path)
        segments.sync_folder(path.parent)
        return cls(path, basis, through)

    def day(self) -> Sums:
        """
        Raises:
            OSError, pa.ArrowException: it is damaged, or no longer what was opened.
        """
        return self._read([0])[DAY]

    def hours(self) -> dict[Hour, Sums]:
        """Those that have rows. Raises as `day`."""
        with pq.ParquetFile(self.path) as file:
            groups = file.metadata.num_row_groups
        return self._read(list(range(1, groups))) if groups > 1 else {}

    def _read(self, groups: Sequence[int]) -> dict[Hour, Sums]:
        with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            if int((file.schema_arrow.metadata or {}).get(THROUGH, -1)) != self.through:
                raise OSError("another has written it meanwhile")
            table = file.read_row_groups(list(groups))
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        lists = {name: _pieces(columns[name]) for name in ("cells", "counts", "hashes")}
        plain: dict[str, Any] = {name: columns[name].to_pylist() for name in columns if name not in lists}
        found: dict[Hour, Sums] = {}
        for i, (hour, name) in enumerate(zip(plain["hour"], plain["feature"], strict=True)):
            counts = np.zeros(self.basis.columns[name].size, dtype=np.int64)
            counts[lists["cells"][i]] = lists["counts"][i]
            facts = {field: plain[field][i] for field in FACTS}
            found.setdefault(hour, {})[name] = Sum(counts, **facts, sketch=Sketch(lists["hashes"][i], plain["hashes_share"][i]))
        return found


def _pieces(column: pa.ListArray) -> list[Any]:
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.split(values, column.offsets.to_numpy()[1:-1] - column.offsets[0].as_py())


def _table(hours: Mapping[Hour, Sums], schema: pa.Schema) -> pa.Table:
    rows = [(hour, name, one) for hour, sums in hours.items() for name, one in sums.items()]
    cells = [np.flatnonzero(one.counts) for _, _, one in rows]
    columns: dict[str, list[Any]] = {
        "hour": [hour for hour, _, _ in rows],
        "feature": [name for _, name, _ in rows],
        "cells": [c.astype(np.int32) for c in cells],
        "counts": [one.counts[c] for c, (_, _, one) in zip(cells, rows, strict=True)],
        "hashes": [one.sketch.hashes for _, _, one in rows],
        "hashes_share": [one.sketch.share for _, _, one in rows],
    }
    for field in FACTS:
        columns[field] = [getattr(one, field) for _, _, one in rows]
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema)
