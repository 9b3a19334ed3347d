"""How often a check rings although nothing moved: real streams, cut into blocks that are put into another order.

After that no time differs from any other, whatever the seasons were, but rows within a block depend on each other as they did.
The first half is the reference and calibrates; windows are whole blocks of the second half, which took no part in it. Four
windows are drawn of each order, so that few share a reference and the exact binomial interval holds. Beside them, on the same
windows, Evidently's default rule as `policy: evidently` has it: `python -m tests.bench parity` holds its values to Evidently's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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

Columns = Mapping[str, NDArray[Any]]
WINDOWS_AN_ORDER = 4


@dataclass(frozen=True, slots=True)
class Stream:
    """`block_rows` stay together; a window is `window_rows` of them."""

    file: str
    columns: tuple[str, ...]
    block_rows: int
    window_rows: int

    def read(self, folder: Path) -> dict[str, NDArray[Any]]:
        table = pq.read_table(folder / self.file, columns=list(self.columns))
        return {name: table[name].to_numpy() for name in self.columns}


STREAMS = {
    # Not vicprice and transfer: they stand still for a third of the days, so that a window of seven has one of few values.
    "electricity, days": Stream("tabular_elec2/stream_first_half.parquet", ("nswprice", "nswdemand"), 48, 336),
    "bike sharing, days": Stream("tabular_bike_sharing/stream.parquet", ("temp", "hum", "windspeed", "prediction"), 24, 168),
    "employment, rows": Stream(
        "tabular_employment/reference.parquet", ("AGEP", "SCHL", "MAR", "RELP", "SEX", "RAC1P", "predicted_probability"), 1, 200
    ),
}


FAR = "electricity, days"
"""Where the far tail is looked at."""


def shuffled(columns: Columns, block_rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """The same rows, whole blocks of them in another order; what is left at the end is left out."""
    rows = len(next(iter(columns.values())))
    blocks = np.random.default_rng(seed).permutation(rows // block_rows)
    order = (blocks[:, None] * block_rows + np.arange(block_rows)).ravel()
    return {name: values[order] for name, values in columns.items()}


def windows(columns: Columns, block_rows: int, window_rows: int, count: int) -> Iterator[tuple[Frame, Frame]]:
    """(reference, window), `count` of them."""
    given, seed = 0, 0
    while given < count:
        mixed = shuffled(columns, block_rows, seed)
        rows = len(next(iter(mixed.values())))
        half = rows // 2 // block_rows * block_rows
        reference = Frame({name: values[:half] for name, values in mixed.items()})
        starts = range(half, rows - window_rows + 1, window_rows)
        chosen = np.random.default_rng([1, seed]).choice(len(starts), min(WINDOWS_AN_ORDER, len(starts)), replace=False)
        for place in sorted(chosen.tolist())[: count - given]:
            start = starts[place]
            yield reference, Frame({name: values[start : start + window_rows] for name, values in mixed.items()})
            given += 1
        seed += 1


@dataclass(slots=True)
class Count:
    """Of one stream: p-values of windows, and how many windows Evidently's rule flags."""

    p_values: dict[str, list[float]]
    any_feature: int = 0
    dataset: int = 0
    windows: int = 0
    uncalibrated: int = 0


def count(
    columns: Columns, stream: Stream, number: int, *, peers: bool = True, multivariate: bool = True, block_rows: int | None = None
) -> Count:
    """`block_rows`: the setting of the detectors; by default they find it by the reference's autocorrelation."""
    ours: dict[str, DataDrift | MultivariateDrift] = {"data_drift": DataDrift(DataDrift.Config(block_rows=block_rows))}
    if multivariate:
        ours["multivariate_drift"] = MultivariateDrift(MultivariateDrift.Config(block_rows=block_rows))
    found = Count({name: [] for name in ours})
    theirs = DataDrift(DataDrift.Config(policy="evidently"))
    for reference, window in windows(columns, stream.block_rows, stream.window_rows, number):
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


def section(path: Path, number: int = 2_000, far: int = 20_000) -> str:
    """The section of RESULTS.md. `path` lies in a folder beside those of the data. `number` windows at 0.05 and 0.01, and of one
    stream `far` at 0.001."""
    folder, rows = path.parents[1], ""
    for name, stream in STREAMS.items():
        columns = stream.read(folder)
        found = count(columns, stream, number)
        for detector, p_values in found.p_values.items():
            tried = {0.05: p_values, 0.01: p_values}
            if detector == "data_drift" and name == FAR:
                tried[0.001] = count(columns, stream, far, peers=False, multivariate=False).p_values[detector]
            for alpha, values in tried.items():
                rows += _row(f"{name}: {detector}, p <= {alpha:g}", sum(p <= alpha for p in values), len(values), alpha)
        rows += _row(f"{name}: Evidently's rule, any feature", found.any_feature, found.windows, None)
        rows += _row(f"{name}: Evidently's rule, half of the features", found.dataset, found.windows, None)
    return (
        "## Quality: false alarms\n\n"
        "Windows of real streams in which nothing moved: blocks in another order, the first half as the reference, windows of "
        "the second.\n\n"
        f"`python -m tests.bench.quality false_alarms --data DIR` · {datetime.now(UTC):%Y-%m-%d}\n\n"
        "| | rang | of | share (95 %) | expected | inside |\n| --- | --- | --- | --- | --- | --- |\n" + rows
    )


def _row(name: str, hits: int, n: int, alpha: float | None) -> str:
    if not n:
        return f"| {name} | | 0 | cannot be calibrated | | |\n"
    low, high = exact_interval(hits, n)
    share = f"{hits / n:.4f} ({low:.4f}-{high:.4f})"
    if alpha is None:
        return f"| {name} | {hits:,} | {n:,} | {share} | | |\n"
    least, most = expected_hits(n, alpha)
    return f"| {name} | {hits:,} | {n:,} | {share} | {least:,}-{most:,} | {'yes' if least <= hits <= most else 'no'} |\n"
