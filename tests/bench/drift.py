"""Data drift of a window against a reference of as many rows: from rows beside Evidently's preset, and from summaries.

20 numbers and 5 categories, some of them moved. Each side runs in a process of its own that has read the frame already: time
is that of the comparison alone, memory the peak of the process from then on. What Evidently has must agree to 1e-9 in every
column, or the benchmark fails.

From summaries the rows lie in the daemon's tables or segments. `kept`: both windows are counted already, which is how a check
finds them; `window counted`: the window's hours are new; `both counted`: nothing was kept. With `--peers`, NannyML's univariate
drift on the same frames.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.daemon import ROOT
from tests.bench.harness import Options, Row, each, measured
from tests.bench.peers import NANNYML, environment

NUMBERS, CATEGORIES = 20, 5
TOLERANCE = 1e-9
# Evidently's choice for windows of this size comes first.
METHODS = {
    "wasserstein": "wasserstein and jensenshannon, its choice at this size",
    "ks": "ks and chisquare",
    "psi": "psi",
}
AT_MOST = 100_000
"""Rows a side of the other methods: at a million each takes Evidently minutes."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one process reported. `values` is what judges the drift of each column: a distance or a p-value."""

    seconds: float
    processor: float
    peak: float
    before: float
    values: dict[str, float]
    loading: float = 0.0


@dataclass(frozen=True, slots=True)
class Steps:
    """Seconds and processor seconds of each step of `drift_store`."""

    steps: dict[str, tuple[float, float]]
    peak: float
    values: dict[str, float]
    rows: list[int] = field(default_factory=list)

    def sum(self, *names: str, processor: bool = False) -> float:
        return sum(self.steps[name][processor] for name in names)


KEPT = ("again_reference", "again_window", "again_comparison")
WINDOW = ("again_reference", "window", "again_comparison")
BOTH = ("reference", "window", "again_comparison")


def run(options: Options) -> list[Row]:
    rows = options.pick(1_000_000, 100_000, 2_000)
    frames = [write(options.folder / f"{name}.parquet", rows, seed, moved) for name, seed, moved in SIDES]
    table, theirs = beside_evidently(options, "wasserstein", frames, rows)
    table += from_summaries(options, frames, rows, theirs)
    if options.peers is not None:
        table += beside_nannyml(options, frames, theirs)
    if options.size == "full":
        fewer = [write(options.folder / f"{name}-fewer.parquet", AT_MOST, seed, moved) for name, seed, moved in SIDES]
        for method in ("ks", "psi"):
            table += beside_evidently(options, method, fewer, AT_MOST)[0]
    return table


def beside_evidently(options: Options, method: str, frames: list[Path], rows: int) -> tuple[list[Row], list[Side]]:
    turns = ["ours"] * options.pick(3, 3, 1) + ["evidently"] * (1 if rows > AT_MOST else options.pick(3, 3, 1))
    found: dict[str, list[Side]] = {"ours": [], "evidently": []}
    for side, result in zip(turns, each(options, turns, "drift", lambda side: compared(side, method, frames)), strict=True):
        found[side].append(result)
    ours, theirs = found["ours"], found["evidently"]
    largest = difference(ours[0].values, theirs[0].values)
    about, size = METHODS[method], f"{rows:,} rows a side, {NUMBERS + CATEGORIES} columns"
    table = [
        measured(f"data_drift, {about}", [s.seconds for s in ours], "s", f"{size}; {processors(ours)}"),
        measured("- peak memory", [s.peak for s in ours], "MiB", f"{ours[0].before:,.0f} with the frame read"),
        measured(f"DataDriftPreset, {about.partition(',')[0]}", [s.seconds for s in theirs], "s", processors(theirs)),
        measured("- peak memory", [s.peak for s in theirs], "MiB", f"{theirs[0].before:,.0f} with the frame read"),
        Row("- Evidently's time to ours", middle(theirs) / middle(ours), "x", ratio_of_processor(theirs, ours)),
        Row(
            "- Evidently's time to ours, with loading",
            middle(theirs, loading=True) / middle(ours, loading=True),
            "x",
            "from Parquet, imports included",
        ),
        Row("- Evidently's peak memory to ours", theirs[0].peak / ours[0].peak, "x"),
        Row("- largest difference of a value", largest, "", f"over all columns; above {TOLERANCE:g} fails the benchmark"),
    ]
    return table, theirs


def from_summaries(options: Options, frames: list[Path], rows: int, theirs: list[Side]) -> list[Row]:
    large = options.pick(10_000_000, 1_000_000, 4_000)
    # So many that hours can be counted of them, and that the path of summaries is taken.
    if rows < 100_000:
        frames = [write(options.folder / f"{name}-more.parquet", 60_000, seed, moved) for name, seed, moved in SIDES]
    repeats, resamples = options.pick(3, 2, 1), options.pick(1_000, 1_000, 100)
    found = [
        Steps(**s)
        for s in each(options, ["windows"] * repeats, "summaries", lambda what: stored(options, what, resamples, frames))
    ]
    size = f"{found[0].rows[0]:,} and {found[0].rows[1]:,} rows, {NUMBERS + CATEGORIES} columns"
    table = []
    for name, steps in (("kept", KEPT), ("window counted", WINDOW), ("both counted", BOTH)):
        seconds, used = [s.sum(*steps) for s in found], [s.sum(*steps, processor=True) for s in found]
        note = f"{size}; {statistics.median(used):.3g} s of processor time"
        table += [
            measured(f"data_drift from summaries, {name}", seconds, "s", note),
            Row(
                "- Evidently's time to ours",
                middle(theirs) / statistics.median(seconds),
                "x",
                f"{theirs[0].processor / statistics.median(used):.0f} of processor time",
            ),
        ]
    first = [s.sum("comparison") - s.sum("again_comparison") for s in found]
    table.append(measured("- and once a day its calibration by hours", first, "s", f"{resamples:,} joint resamples"))
    apart = max(abs(found[0].values[name] - theirs[0].values[name]) for name in theirs[0].values)
    table.append(
        Row("- largest distance from Evidently's value", apart, "", "wasserstein and jensenshannon, both windows on cells")
    )
    (many,) = (Steps(**s) for s in each(options, ["segments"], "summaries", lambda what: stored(options, what, large, frames)))
    seconds = [many.sum(*WINDOW)]
    table += [
        measured(f"data_drift of {many.rows[1]:,} rows in sealed segments", seconds, "s", "counted for the first time"),
        Row("- peak memory", many.peak, "MiB"),
    ]
    for days in options.pick((30, 90), (30, 90), (2,)):
        runs = each(options, [f"hour-{days}"] * repeats, "summaries", lambda what: stored(options, what, 0, frames))
        alone, used = [r["alone"] for r in runs], [r["alone_processor"] for r in runs]
        ratio = statistics.median(r["processor"] for r in runs) / statistics.median(used)
        hour_rows = pq.read_metadata(frames[0]).num_rows
        table += [
            measured(f"a new hour in a window of {days} days", [r["seconds"] for r in runs], "s", f"{hour_rows:,} rows an hour"),
            Row("- to counting that hour alone", statistics.median(r["seconds"] for r in runs) / statistics.median(alone), "x",
                f"{ratio:.2f} of processor time"),
        ]  # fmt: skip
    table.append(Row("- kept of a model a month", runs[0]["bytes_a_month"] / 2**20, "MiB", "at so many rows an hour"))
    size_of_reference = options.pick(100_000, 100_000, 2_000)
    draws = each(options, ["calibration"] * repeats, "calibration", lambda what: stored(options, what, size_of_reference, frames))
    table.append(
        measured("calibration, 25 features, 1,000 joint resamples", [r["seconds"] for r in draws], "s",
                 f"windows of 10,000 rows; {statistics.median(r['processor'] for r in draws):.3g} s of processor time")
    )  # fmt: skip
    return table


def beside_nannyml(options: Options, frames: list[Path], theirs: list[Side]) -> list[Row]:
    assert options.peers is not None
    python = environment(options.peers, *NANNYML)
    script = Path(__file__).with_name("drift_peer.py")

    def peer(_: str) -> Side:
        return Side(**orjson.loads(output([str(python), str(script), *map(str, frames)]).splitlines()[-1]))

    found = each(options, ["nannyml"], "nannyml", peer)
    note = "wasserstein and jensen_shannon, one chunk"
    return [
        measured("NannyML's UnivariateDriftCalculator", [s.seconds for s in found], "s", f"{note}; {processors(found)}"),
        measured("- peak memory", [s.peak for s in found], "MiB"),
    ]


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
    return Side(**orjson.loads(output(command).splitlines()[-1]))


def stored(options: Options, what: str, rows: int, frames: list[Path]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        command = [sys.executable, "-m", "tests.bench.drift_store", what, folder, str(rows), *map(str, frames)]
        found: dict[str, Any] = orjson.loads(output(command).splitlines()[-1])
        return found


def output(command: list[str]) -> bytes:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()[-2000:]}")
    return done.stdout


def difference(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """The largest over the columns, which both sides must all have."""
    if ours.keys() != theirs.keys() or len(ours) != NUMBERS + CATEGORIES:
        raise RuntimeError(f"columns compared: {sorted(ours)} here, {sorted(theirs)} by Evidently")
    largest = max(abs(ours[name] - theirs[name]) for name in ours)
    if largest > TOLERANCE:
        raise RuntimeError(f"values differ by up to {largest:g}: {ours} here, {theirs} by Evidently")
    return largest


def middle(sides: list[Side], *, loading: bool = False) -> float:
    return statistics.median(s.seconds + (s.loading if loading else 0.0) for s in sides)


def processors(sides: list[Side]) -> str:
    return f"{statistics.median(s.processor for s in sides):.3g} s of processor time"


def ratio_of_processor(theirs: list[Side], ours: list[Side]) -> str:
    ratio = statistics.median(s.processor for s in theirs) / statistics.median(s.processor for s in ours)
    return f"of medians; {ratio:.1f} of processor time"
