"""Data quality: is the data whole, in its range, of its kind, and not the same rows again?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import betaincinv

from detectors.contract import (
    Categories,
    ColumnKind,
    DetectorConfig,
    FloatArray,
    NotEnoughData,
    NotEvaluable,
    Part,
    Reading,
    Window,
    Worse,
)
from detectors.intervals import wilson

Metric = Literal[
    "problem_share", "missing_share", "infinite_share", "out_of_range_share", "new_category_share", "duplicate_share",
    "constant_features", "type_changes", "missing_features", "new_features",
]  # fmt: skip
SHARES = ("missing_share", "infinite_share", "out_of_range_share", "new_category_share")
COUNTED: dict[str, Metric] = {
    "constant": "constant_features",
    "type_changed": "type_changes",
    "missing_feature": "missing_features",
    "new_feature": "new_features",
}


class DataQuality:
    """How much of a window is missing, infinite, out of the reference's range or categories, repeated, or of another schema.

    Reads:  features.
    Gives:  the setting `metric` as the reading, all of them in `metrics`. Shares are of a feature's values, and a metric is the
            worst feature's; Wilson's interval goes with it. `duplicate_share` is of the rows, those that equal an earlier one in
            every feature. The others count features: constant now and not in the reference, of another kind (or text where
            numbers were), missing, and new: not in the reference, or without a value in all of it. `problem_share` is the share
            of the features that have any of these problems.
            Parts name feature and problem, the flagged ones first, then by size. A share is flagged where its interval lies
            above what the reference lets expect by more than `tolerance`: the upper end of the interval of its own share; for
            values out of its range, what chance leaves there; for new categories, the share of those that came once.
    Costs:  a pass over each column, and a sort of the rows' hashes.
    Raises: NotEnoughData, when either side has fewer than `min_rows` rows.
            NotEvaluable, when there is no reference or no feature.

    A feature that one window has and the other has not, or has as text where it was numbers, is a problem and not a failure.
    """

    name: ClassVar[str] = "data_quality"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"features"})
    worse: ClassVar[Worse] = "higher"

    class Config(DetectorConfig):
        metric: Metric = Field("problem_share", description="the reading")
        tolerance: float = Field(0.01, ge=0, lt=1, description="by how much a share may exceed the reference's")
        min_rows: int = Field(30, ge=1, description="on either side")
        confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals")
        features: tuple[str, ...] | None = Field(None, min_length=1, description="none: all features of the model")

    def __init__(self, config: Config) -> None:
        self.config = config

    def compare(self, reference: Window | None, current: Window) -> Reading:
        if reference is None:
            raise NotEvaluable("no_reference", "data_quality compares with one")
        names = self.config.features or tuple(dict.fromkeys((*reference.features, *current.features)))
        if not names:
            raise NotEvaluable("no_features")
        if (fewest := min(reference.rows, current.rows)) < self.config.min_rows:
            raise NotEnoughData(f"data_quality: {fewest} rows, min_rows is {self.config.min_rows}")
        found = [one for name in names for one in self._feature(name, reference, current)]
        again = repeated(reference), repeated(current)
        duplicates = self._share("(rows)", "duplicate_share", *again, reference.rows, current.rows)
        metrics: dict[str, float] = dict.fromkeys((*SHARES, *COUNTED.values()), 0.0)
        bounds: dict[str, tuple[float, float]] = {}
        for part, bound in (*found, duplicates):
            assert part.value is not None
            if part.statistic in COUNTED:
                metrics[COUNTED[part.statistic]] += part.value
            elif part.statistic not in bounds or part.value > metrics[part.statistic]:
                metrics[part.statistic], bounds[part.statistic] = part.value, bound
        troubled = {part.name for part, _ in found if part.flagged}
        metrics["problem_share"] = len(troubled) / len(names)
        lower, upper = bounds.get(self.config.metric, (None, None))
        parts = sorted((part for part, _ in (*found, duplicates)), key=rank)
        return Reading(
            metrics[self.config.metric],
            self.config.metric,
            n_current=current.rows,
            n_reference=reference.rows,
            lower=lower,
            upper=upper,
            parts=tuple(parts),
            metrics={**metrics, "features": len(names)},
        )

    def _feature(self, name: str, reference: Window, current: Window) -> Iterator[tuple[Part, tuple[float, float]]]:
        """A part for each thing that can be said of the feature, with the interval of those that are shares."""
        before = column_of(reference, name)
        now = column_of(current, name)
        n, m = reference.rows, current.rows

        def problem(statistic: str) -> tuple[Part, tuple[float, float]]:
            return Part(name, statistic, value=1.0, flagged=True, n_reference=n, n_current=m), (1.0, 1.0)

        if before is None or now is None:
            if before is not None or now is not None:
                yield problem("new_feature" if before is None else "missing_feature")
            elif self.config.features is not None:
                yield problem("missing_feature")
            return
        yield self._share(name, "missing_share", before.missing, now.missing, n, m)
        if before.missing == n and self._share(name, "missing_share", 0, m - now.missing, n, m)[0].flagged:
            # A table has the column for all times, also for those before anybody sent it.
            yield problem("new_feature")
            return
        if before.kind != now.kind:
            yield problem("type_changed")
            return
        if isinstance(before.values, Categories):
            assert isinstance(now.values, Categories)
            there, new = int((now.values.codes >= 0).sum()), unseen(before.values, now.values)
            if there and before.missing < n:
                yield self._share(name, "new_category_share", singletons(before.values), new, n - before.missing, there)
            constant = one_category(now.values) and not one_category(before.values)
        else:
            assert not isinstance(now.values, Categories)
            x, y = before.values, now.values
            yield self._share(name, "infinite_share", int(np.isinf(x).sum()), int(np.isinf(y).sum()), n, m)
            x, y = x[np.isfinite(x)], y[np.isfinite(y)]
            if len(x) and len(y):
                yield self._share(name, "out_of_range_share", 0, int(((y < x.min()) | (y > x.max())).sum()), len(x), len(y))
            constant = len(y) > 1 and bool((y == y[0]).all()) and not (len(x) > 0 and bool((x == x[0]).all()))
        if constant:
            yield problem("constant")

    def _share(self, name: str, statistic: str, before: float, now: int, n: int, m: int) -> tuple[Part, tuple[float, float]]:
        """`before` of n is what the reference has, or lets expect: a bound on it, plus the tolerance, is the threshold."""
        lower, upper = wilson(now, m, self.config.confidence)
        if statistic == "out_of_range_share":
            # Of any distribution, what lies beyond the smallest and largest of n values is a Beta(2, n - 1) variable.
            usual = float(betaincinv(2, max(n - 1, 1), 0.5 + self.config.confidence / 2))
        else:
            usual = wilson(before, n, self.config.confidence)[1]
        threshold = min(usual + self.config.tolerance, 1.0)
        part = Part(name, statistic, value=now / m, threshold=threshold, n_reference=n, n_current=m)
        return replace(part, flagged=lower > threshold), (lower, upper)


def rank(part: Part) -> tuple[bool, float, str, str]:
    """Sorts the flagged ones first, then the largest."""
    return not part.flagged, -(part.value or 0.0), part.name, part.statistic


@dataclass(frozen=True, slots=True)
class Found:
    """A column as it is, whatever the schema says."""

    kind: ColumnKind
    values: FloatArray | Categories
    missing: int


def column_of(window: Window, name: str) -> Found | None:
    """None, where the window has no such feature. A feature declared as numbers that holds text is a category."""
    if name not in window.features or not window.has(name):
        return None
    if window.features[name] == "number":
        try:
            numbers = window.numbers(name)
            return Found("number", numbers, int(np.isnan(numbers).sum()))
        except NotEvaluable:
            pass
    categories = window.categories(name)
    return Found("category", categories, int((categories.codes < 0).sum()))


def unseen(reference: Categories, current: Categories) -> int:
    """How many values of `current` are none of the reference's categories."""
    seen = {reference.names[code] for code in np.unique(reference.codes[reference.codes >= 0])}
    new = np.array([*(name not in seen for name in current.names), False])
    return int(new[current.codes].sum())


def singletons(column: Categories) -> int:
    """How many categories came once. Their share estimates that of all never seen: Good, Biometrika 40 (1953)."""
    return int((np.bincount(column.codes[column.codes >= 0], minlength=1) == 1).sum())


def one_category(column: Categories) -> bool:
    there = column.codes[column.codes >= 0]
    return len(there) > 1 and bool((there == there[0]).all())


def repeated(window: Window) -> int:
    """Rows that equal an earlier one in every feature, missing values being equal. 64-bit hashes decide."""
    mixed = np.zeros(window.rows, dtype=np.uint64)
    for name in sorted(window.features):
        if (found := column_of(window, name)) is None:
            continue
        bits: NDArray[np.uint64]
        if isinstance(found.values, Categories):
            bits = (found.values.codes.astype(np.int64) + 1).astype(np.uint64)
        else:
            whole = np.where(np.isnan(found.values), math.nan, found.values + 0.0)  # one NaN, and no -0
            bits = np.ascontiguousarray(whole).view(np.uint64)
        mixed = _mixed(mixed ^ _mixed(bits + np.uint64(0x9E3779B97F4A7C15)))
    return window.rows - len(np.unique(mixed))


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: NDArray[np.uint64] = bits ^ (bits >> np.uint64(31))
    return found
