"""Data drift of one window of 100,000 rows against a reference of as many, beside Evidently's preset on the same frame.

20 numbers and 5 categories, some of them moved. Each side runs in a process of its own that has read the frame already: time
is that of the comparison alone, memory the peak of the process. The values must agree to 1e-9 in every column, or the
benchmark fails.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.daemon import ROOT
from tests.bench.harness import Options, Row, each, measured

NUMBERS, CATEGORIES = 20, 5
TOLERANCE = 1e-9
# Evidently's choice for windows of this size comes first.
METHODS = {
    "wasserstein": "wasserstein and jensenshannon, its choice at this size",
    "ks": "ks and chisquare",
    "psi": "psi",
}


@dataclass(frozen=True, slots=True)
class Side:
    """What one process reported. `values` is what judges the drift of each column: a distance or a p-value."""

    seconds: float
    peak: float
    before: float
    values: dict[str, float]


def run(options: Options) -> list[Row]:
    rows = options.pick(100_000, 100_000, 2_000)
    methods = {m: about for m, about in METHODS.items() if options.size == "full" or m == "wasserstein"}
    frames = [write(options.folder / f"{name}.parquet", rows, seed, moved) for name, seed, moved in SIDES]
    found: dict[tuple[str, str], list[Side]] = {(side, m): [] for m in methods for side in ("ours", "evidently")}
    turns = list(found) * options.pick(5, 3, 1)
    for turn, result in zip(turns, each(options, turns, "drift", lambda turn: compared(*turn, frames)), strict=True):
        found[turn].append(result)
    table: list[Row] = []
    for method, about in methods.items():
        ours, theirs = found["ours", method], found["evidently", method]
        largest = difference(ours[0].values, theirs[0].values)
        size = f"{rows:,} rows a side, {NUMBERS + CATEGORIES} columns"
        table += [
            measured(f"data_drift, {about}", [s.seconds for s in ours], "s", size),
            measured("- peak memory", [s.peak for s in ours], "MiB", f"{ours[0].before:,.0f} with the frame read"),
            measured(f"DataDriftPreset, {about.partition(',')[0]}", [s.seconds for s in theirs], "s"),
            measured("- peak memory", [s.peak for s in theirs], "MiB", f"{theirs[0].before:,.0f} with the frame read"),
            Row("- Evidently's time to ours", middle(theirs) / middle(ours), "x", "of medians"),
            Row("- largest difference of a value", largest, "", f"over all columns; above {TOLERANCE:g} fails the benchmark"),
        ]
    return table


SIDES = (("reference", 0, False), ("current", 1, True))


def write(path: Path, rows: int, seed: int, moved: bool) -> Path:
    """Columns of several shapes; in the current window one in four has moved."""
    rng = np.random.default_rng(seed)
    columns: dict[str, object] = {}
    for i in range(NUMBERS):
        shape = i % 3
        values = (
            rng.normal(size=rows) if shape == 0 else rng.exponential(size=rows) if shape == 1 else rng.standard_t(3, size=rows)
        )
        columns[f"number_{i:02d}"] = values + (0.2 if moved and i % 4 == 0 else 0.0)
    for i in range(CATEGORIES):
        names = np.array([f"name_{n:02d}" for n in range(3 + 4 * i)])
        weights = 1 / (1 + np.arange(len(names))) ** (1.3 if moved and i == 0 else 1.0)
        columns[f"category_{i}"] = rng.choice(names, size=rows, p=weights / weights.sum())
    pq.write_table(pa.table(columns), path)
    return path


def compared(side: str, method: str, frames: list[Path]) -> Side:
    command = [sys.executable, "-m", "tests.bench.drift_side", side, method, *map(str, frames)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side}, {method}: {done.stderr.decode()[-2000:]}")
    return Side(**orjson.loads(done.stdout.splitlines()[-1]))


def difference(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """The largest over the columns, which both sides must all have."""
    if ours.keys() != theirs.keys() or len(ours) != NUMBERS + CATEGORIES:
        raise RuntimeError(f"columns compared: {sorted(ours)} here, {sorted(theirs)} by Evidently")
    largest = max(abs(ours[name] - theirs[name]) for name in ours)
    if largest > TOLERANCE:
        raise RuntimeError(f"values differ by up to {largest:g}: {ours} here, {theirs} by Evidently")
    return largest


def middle(sides: list[Side]) -> float:
    return statistics.median(s.seconds for s in sides)
