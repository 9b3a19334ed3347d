"""How often a check rings although nothing moved: real streams, cut into blocks that are put into another order, and stretches
of them as they are.

In another order no time differs from any other, whatever the seasons were, but rows within a block depend on each other as they
did. The first half is the reference and calibrates; windows lie in the second, which took no part in it, and begin anywhere: no
clock says where a block does. Four windows are drawn of each order, so that few share a reference and the exact binomial interval
holds; for the far tail more, where even perfect likeness of those of one order would widen the interval by little: at 0.001 a
reference rings 32 times in a row for no reason only if its level is off by hundreds.

As they are, windows side by side are each compared with all else but their neighbours. Seasons and weather are in there: it is
as near to nothing as time comes, and windows are few.

Beside them, on the same windows, Evidently's default rule as `policy: evidently` has it: `python -m tests.bench parity` holds its
values to Evidently's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from detectors.contract import Frame, NotEnoughData
from detectors.data_drift import DataDrift
from detectors.false_alarms import exact_interval, expected_hits
from detectors.multivariate_drift import MultivariateDrift
from tests.bench.quality.plots import rates

Columns = Mapping[str, NDArray[Any]]
WINDOWS_AN_ORDER = 4
FAR_AN_ORDER = 32
PLOT = Path(__file__).parents[1] / "plots" / "false_alarms.svg"


@dataclass(frozen=True, slots=True)
class Stream:
    """`block_rows` stay together; a window is `window_rows` of them. `components` of its features are kept by the reconstruction,
    or that share of their variance."""

    file: str
    columns: tuple[str, ...]
    block_rows: int
    window_rows: int
    components: float = 0.65

    def read(self, folder: Path) -> dict[str, NDArray[Any]]:
        table = pq.read_table(folder / self.file, columns=list(self.columns))
        return {name: table[name].to_numpy() for name in self.columns}


STREAMS = {
    # Not vicprice and transfer: they stand still for a third of the days, so that a window of seven has one of few values.
    "electricity, days": Stream("tabular_elec2/stream_first_half.parquet", ("nswprice", "nswdemand"), 48, 336, 1),
    "bike sharing, days": Stream("tabular_bike_sharing/stream.parquet", ("temp", "hum", "windspeed", "prediction"), 24, 168),
    "employment, rows": Stream(
        "tabular_employment/reference.parquet", ("AGEP", "SCHL", "MAR", "RELP", "SEX", "RAC1P", "predicted_probability"), 1, 200
    ),
}


def shuffled(columns: Columns, block_rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """The same rows, whole blocks of them in another order; what is left at the end is left out."""
    rows = len(next(iter(columns.values())))
    blocks = np.random.default_rng(seed).permutation(rows // block_rows)
    order = (blocks[:, None] * block_rows + np.arange(block_rows)).ravel()
    return {name: values[order] for name, values in columns.items()}


def windows(
    columns: Columns, block_rows: int, window_rows: int, count: int, an_order: int = WINDOWS_AN_ORDER
) -> Iterator[tuple[Frame, Frame]]:
    """(reference, window), `count` of them, `an_order` with one reference."""
    given, seed = 0, 0
    while given < count:
        mixed = shuffled(columns, block_rows, seed)
        rows = len(next(iter(mixed.values())))
        half = rows // 2 // block_rows * block_rows
        reference = Frame({name: values[:half] for name, values in mixed.items()})
        rng = np.random.default_rng([1, seed])
        first = half + int(rng.integers(0, min(window_rows, rows - half - window_rows + 1)))
        starts = range(first, rows - window_rows + 1, window_rows)
        chosen = rng.choice(len(starts), min(an_order, len(starts)), replace=False)
        for place in sorted(chosen.tolist())[: count - given]:
            yield reference, _rows(mixed, starts[place], starts[place] + window_rows)
            given += 1
        seed += 1


def stretches(columns: Columns, window_rows: int) -> Iterator[tuple[Frame, Frame]]:
    """(reference, window) of windows side by side as they are, each with all rows but its own and those of its neighbours."""
    rows = len(next(iter(columns.values())))
    for start in range(0, rows - window_rows + 1, window_rows):
        sides = slice(0, max(start - window_rows, 0)), slice(start + 2 * window_rows, rows)
        rest = {name: np.concatenate([values[side] for side in sides]) for name, values in columns.items()}
        yield Frame(rest), _rows(columns, start, start + window_rows)


def _rows(columns: Columns, start: int, end: int) -> Frame:
    return Frame({name: values[start:end] for name, values in columns.items()})


@dataclass(slots=True)
class Count:
    """Of one stream: p-values of windows, and how many windows Evidently's rule flags."""

    p_values: dict[str, list[float]] = field(default_factory=dict)
    any_feature: int = 0
    dataset: int = 0
    windows: int = 0
    uncalibrated: int = 0


def count(
    columns: Columns, stream: Stream, number: int, *, peers: bool = True, multivariate: bool = True, block_rows: int | None = None
) -> Count:
    """`block_rows`: the setting of the detectors; by default they find it by the reference's autocorrelation."""
    pairs = windows(columns, stream.block_rows, stream.window_rows, number)
    components = stream.components if multivariate else None
    return counted(pairs, peers=peers, components=components, block_rows=block_rows)


def counted(
    pairs: Iterable[tuple[Frame, Frame]], *, peers: bool = True, components: float | None = None, block_rows: int | None = None
) -> Count:
    """`components`: of the reconstruction, none: without it."""
    ours: dict[str, DataDrift | MultivariateDrift] = {"data_drift": DataDrift(DataDrift.Config(block_rows=block_rows))}
    if components is not None:
        config = MultivariateDrift.Config(n_components=components, block_rows=block_rows)
        ours["multivariate_drift"] = MultivariateDrift(config)
    found = Count({name: [] for name in ours})
    theirs = DataDrift(DataDrift.Config(policy="evidently"))
    for reference, window in pairs:
        found.windows += 1
        for name, detector in ours.items():
            try:
                found.p_values[name].append(detector.compare(reference, window).metrics["p_value"])
            except NotEnoughData:
                found.uncalibrated += 1
        if peers:
            reading = theirs.compare(reference, window)
            found.any_feature += any(part.flagged for part in reading.parts)
            found.dataset += reading.metrics["dataset_drift"] == 1
    return found


@dataclass(slots=True)
class Replay:
    """Of one stream: in another order, the same further out, and as it is."""

    near: Count
    far: Count
    still: Count


def replay(folder: Path, name: str, number: int, far: int) -> Replay:
    stream = STREAMS[name]
    columns = stream.read(folder)
    tail = windows(columns, stream.block_rows, stream.window_rows, far, FAR_AN_ORDER)
    return Replay(
        count(columns, stream, number),
        counted(tail, peers=False),
        counted(stretches(columns, stream.window_rows), components=stream.components),
    )


def section(path: Path, number: int = 2_000, far: int = 20_000) -> str:
    """The section of RESULTS.md, and its plot. `path` lies in a folder beside those of the data. Of each stream `number` windows
    at 0.05 and 0.01, and `far` at 0.001."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = {name: pool.submit(replay, path.parents[1], name, number, far) for name in STREAMS}
        return written({name: one.result() for name, one in done.items()})


def written(found: Mapping[str, Replay]) -> str:
    PLOT.parent.mkdir(exist_ok=True)
    curves = {name: np.array(one.far.p_values["data_drift"]) for name, one in found.items()}
    PLOT.write_text(rates(curves, "Windows that rang by chance, against the level they were told"), encoding="utf-8")
    rows = "".join(row for name, one in found.items() for row in _rows_of(name, one))
    return (
        "## Quality: false_alarms\n\n"
        "Windows of real streams in which nothing moved: blocks in another order, the first half as the reference, windows of "
        "the second that begin anywhere; and windows side by side as they are, each against all else but its neighbours, in "
        "which the seasons are still. `expected` is where the count lies 95 times in 100 if the level is kept.\n\n"
        f"`python -m tests.bench.quality false_alarms --data DIR` · {datetime.now(UTC):%Y-%m-%d}\n\n"
        "| | rang | of | share (95 %) | expected | inside |\n| --- | --- | --- | --- | --- | --- |\n" + rows + "\n"
        f"![Windows that rang by chance, against the level]({PLOT.relative_to(PLOT.parents[1])})\n"
    )


def _rows_of(name: str, found: Replay) -> Iterator[str]:
    for detector, p_values in found.near.p_values.items():
        for alpha in (0.05, 0.01):
            yield _row(f"{name}: {detector}, p <= {alpha:g}", sum(p <= alpha for p in p_values), len(p_values), alpha)
    p_values = found.far.p_values["data_drift"]
    yield _row(f"{name}: data_drift, p <= 0.001", sum(p <= 0.001 for p in p_values), len(p_values), 0.001)
    yield _row(f"{name}: Evidently's rule, any feature", found.near.any_feature, found.near.windows, None)
    yield _row(f"{name}: Evidently's rule, half of the features", found.near.dataset, found.near.windows, None)
    for detector, p_values in found.still.p_values.items():
        for alpha in (0.05, 0.01):
            hits = sum(p <= alpha for p in p_values)
            yield _row(f"{name}, as they are: {detector}, p <= {alpha:g}", hits, len(p_values), alpha)
    yield _row(f"{name}, as they are: Evidently's rule, any feature", found.still.any_feature, found.still.windows, None)
    yield _row(f"{name}, as they are: Evidently's rule, half of the features", found.still.dataset, found.still.windows, None)


def _row(name: str, hits: int, n: int, alpha: float | None) -> str:
    if not n:
        return f"| {name} | | 0 | cannot be calibrated | | |\n"
    low, high = exact_interval(hits, n)
    share = f"{hits / n:.4f} ({low:.4f}-{high:.4f})"
    if alpha is None:
        return f"| {name} | {hits:,} | {n:,} | {share} | | |\n"
    least, most = expected_hits(n, alpha)
    return f"| {name} | {hits:,} | {n:,} | {share} | {least:,}-{most:,} | {'yes' if least <= hits <= most else 'no'} |\n"
