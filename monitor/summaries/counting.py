"""Rows into sums, by hour. SQL says which rows, and streams them by column; what falls where is counted here.

DuckDB's own `histogram` over 1,000 edges takes 90 ns of processor time a number, bisection in numpy 60, the grid of
`detectors.binning` 8 to 20.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from detectors.contract import FloatArray
from monitor.reader import Reader
from monitor.schema import FEATURE, quote
from monitor.summaries import sketch
from monitor.summaries.basis import Basis, CategoryEdges, NumberEdges
from monitor.summaries.sketch import Sketch
from monitor.summaries.sums import Sum, nothing, total
from monitor.windows import TableWindow

BATCH_ROWS = 131_072
HOUR_US = 3_600_000_000

Hour = int
"""Hours since 1970, UTC."""

Sums = dict[str, Sum]
"""By feature."""


class Stretches(NamedTuple):
    """Where the rows of each hour begin in a batch that is ordered by hour."""

    hours: list[Hour]
    starts: NDArray[np.int64]
    place: NDArray[np.int64]
    """Of each row, the number of its hour in `hours`."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.diff(self.starts, append=len(self.place))


def count(
    reader: Reader,
    model: str,
    basis: Basis,
    start: datetime,
    end: datetime,
    *,
    after_seq: int = 0,
    until_seq: int | None = None,
    where: str = "true",
) -> dict[Hour, Sums]:
    """The predictions with event time in [start, end) and seq in (after_seq, until_seq], for which the SQL condition `where`
    holds; hours without one are left out."""
    columns = ", ".join(quote(FEATURE + name) for name in basis.columns)
    there = reader.source("predictions", model, since=start, until=end, after_seq=after_seq)
    sql = (
        f"SELECT epoch_us(event_time) // {HOUR_US} AS at{', ' * bool(columns)}{columns} FROM {there} "
        f"WHERE event_time >= ? AND event_time < ? AND seq > ? AND (? IS NULL OR seq <= ?) AND ({where})"
    )
    return counted(reader.batches(sql, [start, end, after_seq, until_seq, until_seq], BATCH_ROWS), basis)


def counted(batches: Iterator[pa.RecordBatch], basis: Basis) -> dict[Hour, Sums]:
    """Of batches with the column `at`, in hours since 1970, and the features under their column names."""
    parts: dict[Hour, dict[str, list[Sum]]] = {}
    for batch in batches:
        if not batch.num_rows:
            continue
        at = batch.column("at").to_numpy(zero_copy_only=False)
        if (np.diff(at) < 0).any():
            order = np.argsort(at, kind="stable")
            batch, at = batch.take(pa.array(order)), at[order]
        starts = np.flatnonzero(np.diff(at, prepend=at[0] - 1))
        stretches = Stretches(at[starts].tolist(), starts, np.cumsum(np.diff(at, prepend=at[0]) != 0))
        for name, edges in basis.columns.items():
            column = batch.column(FEATURE + name)
            sums = numbers(column, edges, stretches) if isinstance(edges, NumberEdges) else names(column, edges, stretches)
            for hour, one in zip(stretches.hours, sums, strict=True):
                parts.setdefault(hour, {}).setdefault(name, []).append(one)
    return {hour: {name: total(found, basis.columns[name]) for name, found in by.items()} for hour, by in sorted(parts.items())}


def of_window(window: TableWindow, basis: Basis) -> Sums:
    """Of rows that are in memory."""
    rows = window.rows
    columns = {FEATURE + name: window.table[name] if window.has(name) else pa.nulls(rows, pa.float64()) for name in basis.columns}
    table = pa.table({"at": pa.array(np.zeros(rows, dtype=np.int64)), **columns})
    found = counted(iter(table.to_batches(BATCH_ROWS)), basis)
    return found.get(0) or {name: nothing(edges) for name, edges in basis.columns.items()}


def numbers(column: pa.Array, edges: NumberEdges, stretches: Stretches) -> list[Sum]:
    values: FloatArray = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    starts, place, sizes, size = stretches.starts, stretches.place, stretches.sizes, edges.size
    codes = edges.coder.codes(values)
    there = codes < size
    whole = bool(there.all())
    present = values if whole else np.where(there, values, 0.0)
    counts = _by_stretch(codes, stretches, size + 1)[:, :size]
    n = counts.sum(axis=1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(present, starts) / n
        apart = present - mean[place]
        if not whole:
            apart[~there] = 0.0
        m2 = np.add.reduceat(apart * apart, starts)
    low = np.minimum.reduceat(present if whole else np.where(there, values, np.inf), starts)
    high = np.maximum.reduceat(present if whole else np.where(there, values, -np.inf), starts)
    infinite = np.zeros(len(starts), dtype=np.int64) if whole else np.add.reduceat(np.isinf(values).astype(np.int64), starts)
    below, above = (_tail(present, codes == cell, starts) for cell in (0, size - 1))
    hashes = sketch.of_numbers(present)
    chosen = (hashes < edges.share * sketch.WHOLE) & there
    picked = np.split(hashes[chosen], np.searchsorted(np.flatnonzero(chosen), starts[1:]))
    sums = []
    for i, found in enumerate(n.tolist()):
        shape = (low[i], high[i], mean[i], m2[i]) if found else (np.nan,) * 4
        smallest, largest, middle, squares = map(float, shape)
        sums.append(
            Sum(
                counts[i],
                int(sizes[i] - found - infinite[i]),
                int(infinite[i]),
                smallest,
                largest,
                middle,
                squares,
                float(below[i]),
                float(above[i]),
                Sketch.of(picked[i], edges.share),
            )
        )
    return sums


def names(column: pa.Array, edges: CategoryEdges, stretches: Stretches) -> list[Sum]:
    size = edges.size
    found = pc.index_in(column, value_set=edges.set)
    codes = found.fill_null(size - 1).to_numpy(zero_copy_only=False)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    counts = _by_stretch(np.where(missing, size, codes), stretches, size + 1)
    sums = []
    for i, (start, rows) in enumerate(zip(stretches.starts.tolist(), stretches.sizes.tolist(), strict=True)):
        others = EMPTY_NAMES
        if counts[i, size - 1]:
            other = codes[start : start + rows] == size - 1
            others = column.slice(start, rows).filter(pa.array(other)).drop_null().unique().to_pylist()
        kept = Sketch.of(sketch.of_texts(others)) if others else sketch.EMPTY
        sums.append(Sum(counts[i, :size], int(counts[i, size]), sketch=kept))
    return sums


EMPTY_NAMES: list[str] = []


def _by_stretch(codes: NDArray[np.integer], stretches: Stretches, size: int) -> NDArray[np.int64]:
    """(stretches, size)."""
    number = len(stretches.starts)
    if number == 1:
        return np.bincount(codes, minlength=size)[None]
    return np.bincount(stretches.place * size + codes, minlength=number * size).reshape(number, size)


def _tail(values: FloatArray, inside: NDArray[np.bool_], starts: NDArray[np.int64]) -> FloatArray:
    if not inside.any():
        return np.zeros(len(starts))
    with np.errstate(over="ignore"):
        found: FloatArray = np.add.reduceat(np.where(inside, values, 0.0), starts)
    return found


def added(one: Mapping[Hour, Sums], other: Mapping[Hour, Sums], basis: Basis) -> dict[Hour, Sums]:
    """Of disjoint rows."""
    return {
        hour: {
            name: total([sums[name] for sums in (one.get(hour), other.get(hour)) if sums is not None], edges)
            for name, edges in basis.columns.items()
        }
        for hour in sorted({*one, *other})
    }
