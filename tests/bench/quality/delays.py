"""How many windows pass before a shift is seen: a mean, a spread or a category of some features moves, at once or bit by bit.

Rows are drawn, with replacement, from a real table, so that nothing else moves. Half of the features are numbers and half are
categories; of the numbers each is drawn by itself, which the table has too few of. Beside ours, at levels that ring once in a
thousand and in twenty windows by chance, stand Evidently's default rule (`policy: evidently`) and NannyML's univariate drift as
it comes: any feature beyond its threshold. Who rings without a shift finds one soon; so that is counted as well.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from detectors.contract import Frame
from detectors.data_drift import DataDrift
from tests.bench.quality.plots import bars

NUMBERS = ("AGEP", "predicted_probability")
CATEGORIES = ("SCHL", "MAR", "RELP", "DIS", "ESP", "CIT", "MIG", "ANC", "SEX", "RAC1P")
EACH = len(CATEGORIES) // len(NUMBERS)
REFERENCE_ROWS, WINDOW_ROWS = 10_000, 500
WINDOWS, STILL, BIT_BY_BIT = 25, 25, 20
BLUR = 0.1
LEVELS = (0.001, 0.05)
DEVIATIONS, WIDER, SWAPPED = 0.3, 1.3, 0.15
SHARES = (0.05, 0.25, 0.5)
PEER = Path(__file__).with_name("delay_peer.py")
PLOT = Path(__file__).parents[1] / "plots" / "delays.svg"

Columns = dict[str, NDArray[Any]]
Rings = Callable[[Frame, Frame], bool]


@dataclass(frozen=True, slots=True)
class Shift:
    """`features` of them move: by 0.3 deviations (`mean`), to 1.3 times their spread (`variance`), or 15 % of the rows with the
    most frequent category to the second (`swap`)."""

    kind: str
    features: int
    gradual: bool

    def of(self, columns: Columns, reference: Columns, window: int, seed: int) -> Columns:
        """Window number `window` after the shift began."""
        by = min((window + 1) / BIT_BY_BIT, 1.0) if self.gradual else 1.0
        rng = np.random.default_rng([seed, window])
        moved = dict(columns)
        names = CATEGORIES if self.kind == "swap" else tuple(f"{name}_{i}" for i in range(EACH) for name in NUMBERS)
        for name in names[: self.features]:
            values = columns[name]
            if self.kind == "mean":
                moved[name] = values + DEVIATIONS * by * reference[name].std()
            elif self.kind == "variance":
                middle = reference[name].mean()
                moved[name] = middle + (values - middle) * (1 + (WIDER - 1) * by)
            else:
                found, counts = np.unique(reference[name], return_counts=True)
                first, second = found[np.argsort(-counts)[:2]]
                moved[name] = np.where((values == first) & (rng.random(len(values)) < SWAPPED * by), second, values)
        return moved


SHIFTS = tuple(
    Shift(kind, max(1, math.floor(share * 2 * len(CATEGORIES))), gradual)
    for kind in ("mean", "variance", "swap")
    for gradual in (False, True)
    for share in SHARES
)


def drawn(table: pa.Table, rows: int, rng: np.random.Generator) -> Columns:
    """Rows of the categories, and numbers each by themselves."""
    at = rng.integers(0, table.num_rows, rows)
    found: Columns = {name: table[name].to_numpy(zero_copy_only=False)[at] for name in CATEGORIES}
    for name in NUMBERS:
        values = table[name].to_numpy()
        # Blurred: a tiny shift of whole years, or of probabilities that many share, is seen as numbers that never were.
        blur = BLUR * values.std()
        chosen = ((f"{name}_{i}", values[rng.integers(0, len(values), rows)]) for i in range(EACH))
        found |= {called: drawn + blur * rng.normal(size=rows) for called, drawn in chosen}
    return found


@dataclass(slots=True)
class Found:
    """Of one tool: windows until it rang, by shift, None for never; and how many of the windows without a shift rang."""

    delays: dict[Shift, list[int | None]]
    still: int = 0


def ours(level: float) -> Rings:
    detector = DataDrift(DataDrift.Config())
    return lambda reference, window: detector.compare(reference, window).metrics["p_value"] <= level


def evidently(rule: Callable[[float], bool]) -> Rings:
    """`rule` says of the share of drifted features whether that is drift."""
    detector = DataDrift(DataDrift.Config(policy="evidently"))

    def rings(reference: Frame, window: Frame) -> bool:
        metrics = detector.compare(reference, window).metrics
        return rule(metrics["drifted_features"] / metrics["evaluated_features"])

    return rings


def followed(rings: Rings, repeats: Sequence[tuple[Columns, list[Columns], list[Columns]]]) -> Found:
    found = Found({shift: [] for shift in SHIFTS})
    for seed, (before, still, later) in enumerate(repeats):
        reference = Frame(before)
        found.still += sum(rings(reference, Frame(window)) for window in still)
        for shift in SHIFTS:
            moved = (Frame(shift.of(window, before, n, seed)) for n, window in enumerate(later))
            found.delays[shift].append(next((n for n, window in enumerate(moved, 1) if rings(reference, window)), None))
    return found


def of_nannyml(python: Path, repeats: Sequence[tuple[Columns, list[Columns], list[Columns]]]) -> tuple[str, Found]:
    """And its version."""
    found = Found({shift: [] for shift in SHIFTS})
    with tempfile.TemporaryDirectory() as folder:
        for seed, (before, still, later) in enumerate(repeats):
            shifted = [shift.of(window, before, n, seed) for shift in SHIFTS for n, window in enumerate(later)]
            pq.write_table(pa.table(before), Path(folder) / f"reference-{seed}.parquet")
            joined = {name: np.concatenate([window[name] for window in (*still, *shifted)]) for name in before}
            pq.write_table(pa.table(joined), Path(folder) / f"analysis-{seed}.parquet")
        done = subprocess.run([python, PEER, folder, str(WINDOW_ROWS)], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    for alerts in told["alerts"].values():
        found.still += sum(alerts[:STILL])
        for n, shift in enumerate(SHIFTS):
            rang = alerts[STILL + n * WINDOWS : STILL + (n + 1) * WINDOWS]
            found.delays[shift].append(rang.index(True) + 1 if True in rang else None)
    return told["version"], found


def drawn_repeats(path: Path, repeats: int) -> Iterator[tuple[Columns, list[Columns], list[Columns]]]:
    """Reference, windows without a shift, and those that will be shifted."""
    table = pq.read_table(path, columns=[*NUMBERS, *CATEGORIES])
    table = pa.table({name: table[name].cast(pa.string()) if name in CATEGORIES else table[name] for name in table.column_names})
    for seed in range(repeats):
        rng = np.random.default_rng([4, seed])
        sizes = (REFERENCE_ROWS, *[WINDOW_ROWS] * (STILL + WINDOWS))
        before, *windows = (drawn(table, rows, rng) for rows in sizes)
        yield before, windows[:STILL], windows[STILL:]


def measured(path: Path, repeats: int = 6, nannyml: Path | None = None) -> dict[str, Found]:
    """By tool. `path` is the table's, `nannyml` a Python that has it."""
    streams = list(drawn_repeats(path, repeats))
    found = {
        **{f"ours, p <= {level:g}": followed(ours(level), streams) for level in LEVELS},
        "Evidently, any feature": followed(evidently(lambda share: share > 0), streams),
        "Evidently, half of them": followed(evidently(lambda share: share >= 0.5), streams),
    }
    if nannyml is not None:
        version, theirs = of_nannyml(nannyml, streams)
        found[f"NannyML {version}"] = theirs
    return found


def section(path: Path, repeats: int = 6, nannyml: Path | None = None) -> str:
    """The section of RESULTS.md, and its plot. `path` lies in the folder of the table."""
    return written(measured(path.with_name("reference.parquet"), repeats, nannyml), repeats)


def written(found: dict[str, Found], repeats: int) -> str:
    tools = list(found)
    PLOT.parent.mkdir(exist_ok=True)
    sudden = [shift for shift in SHIFTS if not shift.gradual]
    values = {tool: [_middle(one.delays[shift]) for shift in sudden] for tool, one in found.items()}
    groups = [f"{shift.kind} {shift.features}/20" for shift in sudden]
    plot = bars(values, groups, WINDOWS, "Windows until a sudden shift is seen (median; pale: never)", "windows")
    PLOT.write_text(plot, encoding="utf-8")
    still = " | ".join(f"{one.still / (repeats * STILL):.1%}" for one in found.values())
    rows = "".join(
        f"| {shift.kind}, {shift.features} of 20, {'bit by bit' if shift.gradual else 'at once'} | "
        f"{' | '.join(_cell(one.delays[shift]) for one in found.values())} |\n"
        for shift in SHIFTS
    )
    return (
        "## Quality: delays\n\n"
        f"Windows of {WINDOW_ROWS} rows until a shift is seen, the first with it counting 1: the median of {repeats} streams of "
        f"20 features, where not all saw it in {WINDOWS} windows with how many did. `mean` moves by {DEVIATIONS:g} deviations, "
        f"`variance` to {WIDER:g} times the spread, `swap` sends {SWAPPED:.0%} of the most frequent category to the second; bit "
        f"by bit over {BIT_BY_BIT} windows. Who rings where nothing moved (first line) has found nothing.\n\n"
        f"`python -m tests.bench.quality delays --data DIR --peers FOLDER` · {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"| | {' | '.join(tools)} |\n| --- |{' --- |' * len(tools)}\n| windows without a shift that rang | {still} |\n{rows}\n"
        f"![Windows until a sudden shift is seen]({PLOT.relative_to(PLOT.parents[1])})\n"
    )


def _middle(delays: Sequence[int | None]) -> float | None:
    found = statistics.median(WINDOWS + 1 if one is None else one for one in delays)
    return found if found <= WINDOWS else None


def _cell(delays: Sequence[int | None]) -> str:
    seen, middle = sum(one is not None for one in delays), _middle(delays)
    told = "never" if not seen else f"over {WINDOWS}" if middle is None else f"{middle:g}"
    return told if seen in (0, len(delays)) else f"{told} ({seen} of {len(delays)})"
