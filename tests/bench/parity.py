"""Every test that Evidently registers against ours, by the largest difference; and how often either policy rings.

Differences are of the number that Evidently compares with its threshold, over samples that are normal, skewed, heavy-tailed,
discrete, constant, tiny, with missing values, with unseen categories, and over columns of real predictions; with --data DIR, a
folder with the tabular data sets, over theirs, too. Then the share of windows in which a feature is flagged that did not move, or
by 0.2 standard deviations. Evidently's values are computed beside ours in the same process, so its times are not measured.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detectors import cells, distances, text_drift
from detectors.calibration import Calibration, Column, plan
from detectors.cells import Cells
from detectors.contract import ColumnKind, FloatArray, Frame, NotEnoughData, NotEvaluable, Part, encode_categories
from detectors.data_drift import DataDrift
from detectors.stattests import STATTESTS
from tests.bench.harness import Options, Row, each

Values = NDArray[Any]
BY_PERMUTATION = {"TVD", "empirical_mmd"}
MOST_ROWS = {"empirical_mmd": 300, "TVD": 300}
"""Theirs takes seconds for each column of more."""

SAMPLES = Path(__file__).parents[1] / "data"
TABLES = {
    "employment": (
        "tabular_employment/reference.parquet",
        "tabular_employment/analysis.parquet",
        ("AGEP", "predicted_probability"),
    ),
    "bike sharing": ("tabular_bike_sharing/stream.parquet", None, ("temp", "hum", "windspeed", "hr", "weathersit", "prediction")),
    "electricity": ("tabular_elec2/stream_first_half.parquet", None, ("nswprice", "nswdemand", "vicprice", "transfer")),
}
CATEGORIES = ("SCHL", "MAR", "RELP", "SEX", "RAC1P", "DIS")


@dataclass(frozen=True, slots=True)
class Pair:
    name: str
    kind: ColumnKind
    reference: Values
    current: Values


def run(options: Options) -> list[Row]:
    quietly()
    pairs = [*made(), *sampled(), *(tables(options.data) if options.data else ())]
    if options.size == "smoke":
        pairs = [pair for pair in pairs if len(pair.reference) <= 10]
    tests = sorted(test.name for test in STATTESTS.values() if test.evidently)
    rows = each(options, [*tests, *text_drift.TEXT_TESTS], "parity", lambda name: compared(name, pairs))
    runs = options.pick(300, 100, 4)
    reference_rows = options.pick(50_000, 20_000, 400)
    cases = [case for case in CASES if options.size != "smoke" or case.rows == 100]
    rates = each(options, cases, "rates", lambda case: rung(case, runs, reference_rows))
    return [*rows, *(row for several in rates for row in several), calibration_time(options)]


def quietly() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)


# --- values ------------------------------------------------------------------------------------------------------------


def made() -> Iterator[Pair]:
    rng = np.random.default_rng(0)
    sizes = ((400, 300), (1500, 200), (300, 300), (10, 10))
    shapes: dict[str, Callable[[int, float], Values]] = {
        "normal": lambda n, by: rng.normal(by, 1, n),
        "skewed": lambda n, by: rng.lognormal(by, 1, n),
        "heavy-tailed": lambda n, by: rng.standard_t(1.5, n) + by,
        "discrete": lambda n, by: rng.integers(0, 12, n) + np.round(by),
        "few values": lambda n, by: rng.choice([0.0, 1.0, 2.5], n, p=[0.5 - by / 4, 0.3, 0.2 + by / 4]),
        "missing": lambda n, by: np.where(rng.random(n) < 0.3, np.nan, rng.normal(by, 1, n)),
    }
    for name, draw in shapes.items():
        for n, m in sizes:
            for by in (0.0, 0.2, 1.0):
                yield Pair(f"{name}{', tiny' if n == 10 else ''}", "number", draw(n, 0.0), draw(m, by))
    yield Pair("constant", "number", np.full(300, 3.0), np.full(200, 3.0))
    yield Pair("constant that moved", "number", np.full(300, 3.0), np.full(200, 3.5))
    for count in (2, 3, 30):
        names = np.array([f"c{i}" for i in range(count)], dtype=object)
        for n, m in sizes:
            for by in (0.0, 0.3):
                p, q = (np.arange(1, count + 1.0) ** -e for e in (1.0, 1.0 + by))
                sides = rng.choice(names, n, p=p / p.sum()), rng.choice(names, m, p=q / q.sum())
                yield Pair(f"{count} categories{', tiny' if n == 10 else ''}", "category", *sides)
                holes, new = sides[1].copy(), sides[1].copy()
                holes[::4], new[::5] = None, "new"
                yield Pair(f"{count} categories, missing", "category", sides[0], holes)
                yield Pair(f"{count} categories, unseen", "category", sides[0], new)


def sampled() -> Iterator[Pair]:
    """Columns of the predictions that are kept beside the tests."""
    table = pd.read_parquet(SAMPLES / "employment_sample.parquet")
    reference, current = (table[table["year"] == year] for year in (2015, 2018))
    yield from columns_of(reference, current, ("AGEP", "predicted_probability"))


def tables(folder: Path) -> Iterator[Pair]:
    for first, second, numbers in TABLES.values():
        if second is not None:
            yield from columns_of(pd.read_parquet(folder / first), pd.read_parquet(folder / second), numbers)
            continue
        stream = pd.read_parquet(folder / first)
        early = stream["period"] == "reference"
        yield from columns_of(stream[early], stream[~early], numbers)


def columns_of(reference: pd.DataFrame, current: pd.DataFrame, numbers: tuple[str, ...]) -> Iterator[Pair]:
    for name in numbers:
        yield Pair(name, "number", *(side[name].to_numpy(dtype=float)[:20_000] for side in (reference, current)))
    for name in CATEGORIES:
        if name in reference:
            yield Pair(name, "category", *(side[name].to_numpy(dtype=object)[:20_000] for side in (reference, current)))


@cache
def evidently() -> tuple[Any, Any, Any]:
    from evidently.legacy.calculations.stattests.registry import _registered_stat_tests
    from evidently.legacy.core import ColumnType

    return _registered_stat_tests, ColumnType.Numerical, ColumnType.Categorical


def compared(name: str, pairs: list[Pair]) -> Row:
    """The largest difference over the pairs that the test is for."""
    if name in text_drift.TEXT_TESTS:
        return compared_texts(name)
    largest, where, both, refused, differ = 0.0, "", 0, 0, 0
    for pair in pairs:
        if pair.kind not in STATTESTS[name].kinds or max(len(pair.reference), len(pair.current)) > MOST_ROWS.get(name, 10**9):
            continue
        theirs, ours = their(name, pair), our(name, pair)
        if ours is None or theirs is None:
            refused += 1  # not defined on these: theirs raises or gives NaN, ours says why
            continue
        both += 1
        differ += theirs[1] != ours[1]
        if abs(theirs[0] - ours[0]) > largest:
            largest, where = abs(theirs[0] - ours[0]), pair.name
    note = f"over {both} columns, largest on {where}" if where else f"over {both} columns"
    note += f"; another word on {differ}" if differ else "; the same word on each"
    note += f"; {refused} where one of the two is not defined" if refused else ""
    return Row(f"{name}: largest difference", largest, "", note + ("; p-value by permutation" if name in BY_PERMUTATION else ""))


def their(name: str, pair: Pair) -> tuple[float, bool] | None:
    registered, number, category = evidently()
    kind = number if pair.kind == "number" else category
    sides = [pd.Series(side).replace([-np.inf, np.inf], np.nan).dropna() for side in (pair.reference, pair.current)]
    state = np.random.get_state()  # several of theirs seed the global generator
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = next(iter(registered[name].values()))(*sides, kind, None)
    except Exception:  # whatever theirs raises, it has no value
        return None
    finally:
        np.random.set_state(state)
    return (float(found.drift_score), bool(found.drifted)) if np.isfinite(found.drift_score) else None


def our(name: str, pair: Pair) -> tuple[float, bool] | None:
    test = STATTESTS[name]
    try:
        with np.errstate(all="ignore"):
            if pair.kind == "number":
                assert test.numbers is not None
                found = test.numbers(*(side[np.isfinite(side)] for side in (pair.reference, pair.current)))
            else:
                assert test.counts is not None
                found = test.counts(*distances.category_counts(*map(encode_categories, (pair.reference, pair.current))))
    except (NotEvaluable, NotEnoughData):
        return None
    judged = test.judged(found)
    return (judged, test.drifted(found)) if np.isfinite(judged) else None


def compared_texts(name: str) -> Row:
    rng = np.random.default_rng(1)
    words = np.array([f"word{i}" for i in range(60)])
    largest, differ, shifts = 0.0, 0, (0.0, 0.1, 0.5)
    registered, *_ = evidently()
    from evidently.legacy.core import ColumnType

    for by in shifts:
        sides = [
            np.array([" ".join(rng.choice(words[first:], 8)) for _ in range(n)], dtype=object)
            for first, n in ((0, 300), (int(60 * by), 200))
        ]
        state = np.random.get_state()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = next(iter(registered[name].values()))(*map(pd.Series, sides), ColumnType.Text, None)
        np.random.set_state(state)
        part = text_drift.part(Part("x", name), name, *map(encode_categories, sides), threshold=None, calibrated=False)
        assert part.value is not None
        largest = max(largest, abs(part.value - float(found.drift_score)))
        differ += part.flagged != bool(found.drifted)
    word = f"another word on {differ}" if differ else "the same word on each"
    return Row(f"{name}: largest difference", largest, "", f"over {len(shifts)} pairs of texts; {word}")


# --- false alarms and power ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    rows: int
    draw: Callable[[np.random.Generator, int, float], Values]
    methods: tuple[str, ...]
    moves: bool = True


def normal(rng: np.random.Generator, rows: int, by: float) -> Values:
    return rng.normal(by, 1, rows)


def skewed(rng: np.random.Generator, rows: int, by: float) -> Values:
    return rng.lognormal(0, 1, rows) + by * 0.93  # in halves of the range that holds the middle 68 %


def hundred(rng: np.random.Generator, rows: int, by: float) -> Values:
    return rng.choice(np.array([f"v{i:02d}" for i in range(100)], dtype=object), rows)


CASES = (
    Case("normal", 100, normal, ("auto", "wasserstein", "psi", "jensenshannon")),
    Case("normal", 1000, normal, ("auto", "wasserstein", "psi", "jensenshannon")),
    Case("log-normal", 200, skewed, ("auto", "psi")),
    Case("100 categories", 1000, hundred, ("auto", "psi"), moves=False),
)


def rung(case: Case, runs: int, reference_rows: int) -> list[Row]:
    """Share of the windows in which the one feature is flagged, by policy and method; three references take turns."""
    rng = np.random.default_rng(2)
    references = [Frame({"x": case.draw(rng, reference_rows, 0.0)}) for _ in range(3)]
    detectors = {
        (policy, method): DataDrift(DataDrift.Config.model_validate({"policy": policy, "method": method}))
        for method in case.methods
        for policy in ("evidently", "calibrated")
    }
    found = []
    for by in (0.0, 0.2) if case.moves else (0.0,):
        hits = dict.fromkeys(detectors, 0)
        for i in range(runs):
            window = Frame({"x": case.draw(rng, case.rows, by)})
            for key, detector in detectors.items():
                hits[key] += detector.compare(references[i % 3], window).value > 0
        what = "shifted by 0.2" if by else "unmoved"
        for (policy, method), count in hits.items():
            name = f"{case.name}, {case.rows:,} rows, {what}: {policy}, {method}"
            found.append(Row(name, 100 * count / runs, "% flagged", f"{runs} windows, reference {reference_rows:,} rows"))
    return found


def calibration_time(options: Options) -> Row:
    rows, window = options.pick((100_000, 10_000), (100_000, 10_000), (1000, 100))
    rng = np.random.default_rng(3)
    columns: dict[str, Column] = {}
    for i in range(25):
        values: FloatArray = rng.normal(size=rows)
        found = Cells.of_numbers(values)
        columns[f"x{i}"] = Column(found, found.codes(values), cells.anderson, 2)
    started = time.perf_counter()
    Calibration(plan(rows, window, 1, 1000, 0), columns)
    seconds = time.perf_counter() - started
    return Row("calibration, 25 features, 1,000 joint resamples", seconds, "s", f"reference {rows:,} rows, window {window:,}")
