"""Columns that come as counts: the values of rows within the stated error, and a calibration by blocks of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from detectors import cells
from detectors.cells import Cells
from detectors.contract import ColumnKind, FloatArray, Frame, NotEnoughData, Outcome, Reading, Window
from detectors.data_drift import DataDrift
from detectors.sides import finite
from detectors.summary import Blocks, CategorySummary, NumberSummary
from detectors.univariate import CALIBRATED

DATA = Path(__file__).parents[1] / "data"
NUMBER_METHODS = [name for name, kinds in CALIBRATED.items() if "number" in kinds]
CATEGORY_METHODS = [name for name, kinds in CALIBRATED.items() if "category" in kinds]
BY_PLACE = {"ed": 0.02, "empirical_mmd": 0.1, "es": 0.15}
"""Which ask where in a cell the numbers lie, without a simple bound: how far they are off at most on these columns."""


class Counts:
    """A window of which only counts are left, on the cells of `basis`; by blocks of so many rows where it is asked for."""

    def __init__(self, frame: Frame, basis: Frame, block_rows: int | None = None) -> None:
        self._frame, self._basis, self._block_rows = frame, basis, block_rows
        self.rows, self.features = frame.rows, frame.features
        self.asked_for_rows: list[str] = []
        self._known: dict[tuple[str, str], Any] = {}

    def has(self, column: str) -> bool:
        return self._frame.has(column)

    def numbers(self, column: str) -> FloatArray:
        self.asked_for_rows.append(column)
        return self._frame.numbers(column)

    def categories(self, column: str) -> Any:
        self.asked_for_rows.append(column)
        return self._frame.categories(column)

    def summary(self, column: str) -> NumberSummary | CategorySummary:
        if ("whole", column) not in self._known:
            self._known["whole", column] = self._of(column, slice(None))
        found: NumberSummary | CategorySummary = self._known["whole", column]
        return found

    def blocks(self, column: str) -> Blocks | None:
        if self._block_rows is None:
            return None
        if ("blocks", column) not in self._known:
            starts = range(0, self.rows, self._block_rows)
            counts = [self._of(column, slice(start, start + self._block_rows)).counts for start in starts]
            self._known["blocks", column] = Blocks(self.summary(column), np.stack(counts))
        found: Blocks = self._known["blocks", column]
        return found

    def _of(self, column: str, rows: slice) -> NumberSummary | CategorySummary:
        if self.features[column] == "category":
            names = self._on(column)
            codes = Cells.named(names).codes_of(self._frame.categories(column))[rows]
            found = np.bincount(codes, minlength=len(names) + 2)
            return CategorySummary(names, found[:-1], int(found[-1]))
        points, places = self._on(column)
        values = self._frame.numbers(column)[rows]
        codes = Cells.on(points).codes(values)
        found = np.bincount(codes, minlength=2 * len(points) + 2)
        places = places.copy()
        for cell in (0, 2 * len(points)):  # the tails' means are kept
            if found[cell]:
                places[cell] = values[codes == cell].mean()
        return NumberSummary(points, places, found[:-1], int(np.isnan(values).sum()))

    def _on(self, column: str) -> Any:
        if ("on", column) not in self._known:
            if self.features[column] == "category":
                self._known["on", column] = cells.names_of(self._basis.categories(column))
            else:
                found = Cells.of_numbers(finite(self._basis.numbers(column)))
                self._known["on", column] = found.points, found.places
        return self._known["on", column]


def widths(reference: FloatArray, current: FloatArray) -> float:
    """The error that a value by places may have: the window's share in each cell times its width, in deviations."""
    reference, current = finite(reference), finite(current)
    found = Cells.of_numbers(reference)
    assert found.points is not None
    shares = found.count(found.codes(current)) / len(current)
    return float((shares[2:-1:2] * np.diff(found.points)).sum() / found.deviation)


def read(reference: Window, current: Window, **settings: Any) -> Reading:
    return DataDrift(DataDrift.Config.model_validate({"resamples": 100, **settings})).compare(reference, current)


def real() -> dict[str, tuple[Frame, Frame]]:
    """Columns of the bike rentals and the census, an early and a late part."""
    found = {}
    for name in ("bike_sharing_sample", "employment_sample"):
        table = pq.read_table(DATA / f"{name}.parquet").to_pandas()
        table = table[[c for c in table.columns if table[c].nunique() > 1 and table[c].dtype.kind in "iufO"]]
        half = len(table) // 2
        sides = [{c: side[c].to_numpy() for c in table.columns} for side in (table[:half], table[half:])]
        found[name] = (Frame(sides[0]), Frame(sides[1]))
    return found


@pytest.mark.parametrize("data", ("bike_sharing_sample", "employment_sample"))
@pytest.mark.parametrize("kind", ("number", "category"))
def test_values_of_real_columns_from_counts_are_those_of_rows(data: str, kind: ColumnKind) -> None:
    reference, current = real()[data]
    features = [name for name, k in reference.features.items() if k == kind][:6]
    compared = 0
    for method in NUMBER_METHODS if kind == "number" else CATEGORY_METHODS:
        settings: dict[str, Any] = {"method": method, "features": features, "block_rows": 1, "max_distinct_share": 1.0}
        if not features:
            continue
        rows = {part.name: part for part in read(reference, current, **settings).parts}
        counts = Counts(current, reference)
        for part in read(reference, counts, **settings).parts:
            exact = rows[part.name]
            assert (part.outcome, part.n_current, part.basis) == (exact.outcome, exact.n_current, "summary")
            if part.outcome is not Outcome.OK:
                continue
            compared += 1
            assert part.value is not None
            assert exact.value is not None
            if method in ("wasserstein", "t_test"):
                assert abs(part.value - exact.value) <= widths(reference.numbers(part.name), current.numbers(part.name)) + 1e-12
            elif method in BY_PLACE:
                assert part.value == pytest.approx(exact.value, rel=BY_PLACE[method], abs=0.001)
            else:
                assert part.value == exact.value
                assert (part.p_value, part.flagged) == (exact.p_value, exact.flagged)
        assert counts.asked_for_rows == []
    assert compared or kind == "category"


def drifting(rows: int = 50_000, seed: int = 0, shift: float = 0.0) -> Frame:
    rng = np.random.default_rng(seed)
    return Frame(
        {
            "moved": rng.normal(shift, 1, rows),
            "heavy": rng.standard_cauchy(rows),
            "name": np.array(["a", "b", "c"])[rng.choice(3, rows, p=[0.5, 0.3, 0.2])],
        }
    )


def test_a_reference_that_is_counts_by_the_hour_is_calibrated_by_its_hours() -> None:
    reference, current = drifting(), drifting(2_000, 1, 0.3)
    reading = read(Counts(reference, reference, block_rows=1000), Counts(current, reference), alpha=0.01, resamples=1000)
    assert [(part.name, part.flagged, part.basis) for part in reading.parts if part.flagged] == [("moved", True, "summary")]
    assert (reading.metrics["block_hours"], reading.metrics["resampled_hours"]) == (1, 2)
    assert reading.value == pytest.approx(1 / 3)


def test_hours_that_differ_by_more_than_chance_widen_what_chance_explains() -> None:
    """An hour of 1,000 rows off by a tenth of a deviation is rare by chance, and ordinary where every hour is off so far."""
    rng = np.random.default_rng(2)
    offsets = np.repeat(rng.normal(0, 0.1, 200), 1000)
    unsteady = Frame({"x": rng.normal(size=200_000) + offsets})
    steady = Frame({"x": rng.normal(size=200_000)})
    current = Frame({"x": stats.norm.ppf(np.linspace(0, 1, 1002)[1:-1]) + 0.15})
    found = {
        name: read(Counts(frame, steady, block_rows=1000), Counts(current, steady), method="ks").parts[0].p_value
        for name, frame in (("steady", steady), ("unsteady", unsteady))
    }
    assert found["steady"] is not None
    assert found["unsteady"] is not None
    assert found["steady"] < 0.01 < 0.05 < found["unsteady"], found


def test_what_did_not_move_is_flagged_as_seldom_by_hours_as_was_asked_for() -> None:
    reference = drifting(100_000, 3)
    detector = DataDrift(DataDrift.Config(resamples=400, alpha=0.05))
    counted = Counts(reference, reference, block_rows=1000)
    flagged = 0
    for seed in range(60):
        current = drifting(1000, 100 + seed)
        flagged += detector.compare(counted, Counts(current, reference)).metrics["drifted_features"] > 0
    assert flagged <= 8  # 0.05 of 60 are 3; more than 8 has a probability of 0.3 %


def test_a_window_with_few_rows_is_judged_by_a_wider_null() -> None:
    reference = drifting(100_000, 4)
    counted = Counts(reference, reference, block_rows=1000)
    thresholds = [
        next(p.threshold for p in read(counted, Counts(drifting(rows, 5), reference)).parts if p.name == "moved")
        for rows in (150, 1000)
    ]
    assert thresholds[0] is not None
    assert thresholds[1] is not None
    assert thresholds[0] > 2 * thresholds[1]


def test_a_reference_without_hours_cannot_be_calibrated_and_does_not_fire() -> None:
    reference, current = drifting(), drifting(1000, 1, 3.0)
    with pytest.raises(NotEnoughData, match="cannot be calibrated"):
        read(Counts(reference, reference), current)
    with pytest.raises(NotEnoughData, match=r"19 hours .* take a longer one"):
        read(Counts(drifting(19_000), reference, block_rows=1000), current)


def test_a_window_of_rows_is_counted_in_the_cells_of_a_reference_that_is_counts() -> None:
    reference, current = drifting(), drifting(1000, 6, 0.5)
    counted = Counts(reference, reference, block_rows=1000)
    of_rows, of_counts = read(counted, current), read(counted, Counts(current, reference))
    assert [p.value for p in of_rows.parts if p.name != "heavy"] == [p.value for p in of_counts.parts if p.name != "heavy"]


def test_counts_on_other_cells_are_not_used() -> None:
    reference, current, other = drifting(), drifting(1000, 7), drifting(1000, 8)
    counted = Counts(current, other)
    read(Counts(reference, reference, block_rows=1000), counted, features=["moved"])
    assert counted.asked_for_rows == ["moved"]


def test_a_far_tail_is_as_far_as_it_is() -> None:
    reference, current = drifting(), drifting(1000, 9)
    far = np.where(np.arange(1000) < 10, 1e6, current.numbers("moved"))
    counted = Counts(Frame({"moved": far}), reference)
    (part,) = read(reference, counted, method="wasserstein", features=["moved"]).parts
    assert part.value == pytest.approx(1e4, rel=0.01)
    assert part.flagged


def test_nothing_but_missing_values_is_not_enough_data() -> None:
    reference, nothing = drifting(), Frame({"moved": np.full(1000, np.nan)})
    with pytest.raises(NotEnoughData, match="0 values in the current window"):
        read(reference, Counts(nothing, reference), features=["moved"])
