"""Data drift: which features are distributed otherwise than in the reference?

Each feature is compared alone, by one of the methods below; the maths is in `detectors.distances` and gives Evidently
0.7.23's values. The reading is the share of features that drifted.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from detectors import distances
from detectors.contract import (
    ColumnKind,
    DetectorConfig,
    FloatArray,
    NotEnoughData,
    NotEvaluable,
    Outcome,
    Part,
    Reading,
    Window,
    Worse,
)
from detectors.distances import Counts, Finding

MethodName = Literal["ks", "psi", "jensenshannon", "wasserstein", "chisquare"]
Asked = Literal["auto"] | MethodName


@dataclass(frozen=True, slots=True)
class Method:
    """What a method applies to and when it flags a feature. Bounds and usual thresholds are Evidently's."""

    kinds: frozenset[ColumnKind]
    threshold: float
    judges: Literal["p_value", "value"]
    beyond: Callable[[float, float], bool]


NUMBER: frozenset[ColumnKind] = frozenset({"number"})
CATEGORY: frozenset[ColumnKind] = frozenset({"category"})

METHODS: dict[MethodName, Method] = {
    "ks": Method(NUMBER, 0.05, "p_value", operator.le),
    "wasserstein": Method(NUMBER, 0.1, "value", operator.ge),
    "psi": Method(NUMBER | CATEGORY, 0.1, "value", operator.ge),
    "jensenshannon": Method(NUMBER | CATEGORY, 0.1, "value", operator.ge),
    "chisquare": Method(CATEGORY, 0.05, "p_value", operator.lt),
}

CHANCE_SHARE = 0.7
"""`auto` compares categories by jensenshannon while chance alone stays below this share of its threshold."""


class DataDrift:
    """Share of the features whose distribution moved, between the reference and the current window.

    Reads:  features. Infinities and missing values are left out, on both sides.
    Gives:  `share_of_drifted_features`, 0..1, over the features that could be evaluated; `metrics` count them. One part for
            each feature, the largest contribution first: value / threshold, or ln(p) / ln(threshold) where the p-value
            judges, so that 1 is the threshold. What a part's `value` is:

                ks              D, 0..1; flagged by the p-value
                chisquare       Cramér's V, 0..1; flagged by the p-value
                wasserstein     distance in standard deviations of the reference
                psi             0 or more
                jensenshannon   0..0.8326

    Costs:  a sort of both columns for each number; less for categories. See `distances` for the formulas.
    Raises: NotEnoughData, when either side has fewer than `min_rows` rows, or no feature has enough values.
            NotEvaluable, when there is no reference or no feature that can be evaluated.

    A feature that cannot be evaluated keeps its part, with outcome and reason, and does not touch the others: too few values
    (not_enough_data), no such column (missing_column), another kind than in the reference (type_changed), text in a column
    of numbers (not_numeric), one category only under chisquare (constant), identifiers or free text in the reference, or a
    method that is not for this kind (wrong_type).
    """

    name: ClassVar[str] = "data_drift"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"features"})
    worse: ClassVar[Worse] = "higher"

    class Config(DetectorConfig):
        """`auto` is chosen for few false alarms at any size of window.

        Numbers: ks, which flags 5 % of unmoved features whatever the sizes; wasserstein and psi at their usual thresholds
        flag 68 % and 77 % of them when the window has 100 rows. On large windows ks also flags moves too small to matter:
        name wasserstein or psi where that is so.

        Categories: jensenshannon where chance alone stays below 0.7 of its threshold; else chisquare, where the reference
        has at least as many rows as the window has, times the categories, so that it may be taken as exact; else there is
        not enough data to tell. Unmoved categories were flagged in at most 11 % of windows of 100 to 50,000 rows with 2
        to 100 categories; by jensenshannon or chisquare alone in up to 100 %.
        """

        method: Asked = Field("auto", description="for every feature that `methods` does not name")
        methods: dict[str, MethodName] = Field(default_factory=dict, description="by feature")
        features: tuple[str, ...] | None = Field(None, min_length=1, description="none: all features of the model")
        feature_threshold: float | None = Field(
            None, gt=0, description="threshold of `method`, a p-value or a distance; none: the method's usual one"
        )
        min_rows: int = Field(100, ge=2, description="on either side, and of values of a feature")
        max_distinct_share: float = Field(
            0.5, gt=0, le=1, description="a category with more distinct values per value is an identifier or a text"
        )

        @model_validator(mode="after")
        def _settings_belong_together(self) -> DataDrift.Config:
            if self.feature_threshold is not None:
                if self.method == "auto":
                    raise ValueError(
                        f"feature_threshold ({self.feature_threshold}) would be a p-value for some features and a distance "
                        "for others under method auto; name a method"
                    )
                if METHODS[self.method].judges == "p_value" and self.feature_threshold >= 1:
                    raise ValueError(f"feature_threshold ({self.feature_threshold}) is a p-value for {self.method}: below 1")
            if self.features is not None and (unknown := sorted(set(self.methods) - set(self.features))):
                raise ValueError(f"methods names {', '.join(unknown)}, which features leaves out")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def compare(self, reference: Window | None, current: Window) -> Reading:
        if reference is None:
            raise NotEvaluable("no_reference", "data_drift compares with one")
        names = self.config.features or tuple(dict.fromkeys((*reference.features, *current.features)))
        if not names:
            raise NotEvaluable("no_features")
        if (fewest := min(reference.rows, current.rows)) < self.config.min_rows:
            raise NotEnoughData(f"data_drift: {fewest} rows, min_rows is {self.config.min_rows}")
        parts = sorted((self._part(name, reference, current) for name in names), key=rank)
        evaluated = [part for part in parts if part.outcome is Outcome.OK]
        if not evaluated:
            if any(part.outcome is Outcome.NOT_ENOUGH_DATA for part in parts):
                raise NotEnoughData(f"data_drift: no feature has enough values; {parts[0].name}: {parts[0].reason}")
            raise NotEvaluable("no_features", ", ".join(f"{part.name}: {part.reason}" for part in parts[:5]))
        drifted = sum(part.flagged for part in evaluated)
        return Reading(
            drifted / len(evaluated),
            "share_of_drifted_features",
            n_current=current.rows,
            n_reference=reference.rows,
            parts=tuple(parts),
            metrics={"features": len(parts), "evaluated_features": len(evaluated), "drifted_features": drifted},
        )

    def _part(self, name: str, reference: Window, current: Window) -> Part:
        """The feature's part, whatever state its column is in."""
        asked = self.config.methods.get(name, self.config.method)
        part = Part(name, statistic=asked)
        measure: Callable[[], tuple[MethodName, Finding]]
        try:
            if self._kind(name, reference, current) == "number":
                x, y = (finite(window.numbers(name)) for window in (reference, current))
                n, m, measure = len(x), len(y), partial(self._numbers, asked, x, y)
            else:
                p, q = distances.category_counts(reference.categories(name), current.categories(name))
                n, m, measure = int(p.sum()), int(q.sum()), partial(self._categories, asked, p, q)
            part = replace(part, n_reference=n, n_current=m)
            if min(n, m) < self.config.min_rows:
                side = "reference" if n < m else "current window"
                raise NotEnoughData(f"{min(n, m)} values in the {side}, min_rows is {self.config.min_rows}")
            with np.errstate(over="ignore", invalid="ignore"):
                method, found = measure()
            if not math.isfinite(found.value):
                raise OverflowError
        except NotEnoughData as exc:
            return replace(part, outcome=Outcome.NOT_ENOUGH_DATA, reason=str(exc))
        except NotEvaluable as exc:
            return replace(part, outcome=Outcome.NOT_EVALUABLE, reason=exc.reason)
        except OverflowError:
            return replace(part, outcome=Outcome.FAILED, reason="overflow")
        return self._judged(part, method, found)

    def _kind(self, name: str, reference: Window, current: Window) -> ColumnKind:
        for window, side in ((reference, "reference"), (current, "current window")):
            if name not in window.features or not window.has(name):
                raise NotEvaluable("missing_column", f"no {name!r} in the {side}")
        kind = reference.features[name]
        if current.features[name] != kind:
            raise NotEvaluable("type_changed", f"{name!r} is a {current.features[name]} and was a {kind}")
        method = self.config.methods.get(name, self.config.method)
        if method != "auto" and kind not in METHODS[method].kinds:
            raise NotEvaluable("wrong_type", f"{method} is not for a {kind}")
        return kind

    def _numbers(self, asked: Asked, x: FloatArray, y: FloatArray) -> tuple[MethodName, Finding]:
        match asked:
            case "wasserstein":
                return asked, Finding(distances.wasserstein(x, y))
            case "psi":
                return asked, Finding(distances.psi(*distances.shares(x, y)))
            case "jensenshannon":
                return asked, Finding(distances.jensenshannon(*distances.shares(x, y)))
            case _:
                return "ks", distances.ks(x, y)

    def _categories(self, asked: Asked, p: Counts, q: Counts) -> tuple[MethodName, Finding]:
        n, m = int(p.sum()), int(q.sum())
        # Only the reference says what the column is: a current window full of new categories is drift.
        distinct = int(np.count_nonzero(p))
        if distinct > self.config.max_distinct_share * n:
            raise NotEvaluable("wrong_type", f"{distinct} distinct values among {n}: an identifier or a text")
        match categories_method(distinct, n, m) if asked == "auto" else asked:
            case "chisquare":
                if len(p) < 2:
                    raise NotEvaluable("constant", "chisquare needs two categories")
                return "chisquare", distances.chisquare(p, q)
            case "psi":
                return "psi", Finding(distances.psi(p / n, q / m))
            case _:
                return "jensenshannon", Finding(distances.jensenshannon(p / n, q / m))

    def _judged(self, part: Part, name: MethodName, found: Finding) -> Part:
        method = METHODS[name]
        own = self.config.feature_threshold if part.name not in self.config.methods else None
        threshold = method.threshold if own is None else own
        judged = found.value if found.p_value is None else found.p_value
        return replace(
            part,
            statistic=name,
            value=found.value,
            p_value=found.p_value,
            threshold=threshold,
            flagged=method.beyond(judged, threshold),
        )


def categories_method(categories: int, n_reference: int, n_current: int) -> MethodName:
    """What `auto` compares categories by. The rule and its reason stand in the settings.

    Raises:
        NotEnoughData: no method could tell drift from chance.
    """
    chance = distances.jensenshannon_by_chance(categories, n_reference, n_current)
    if chance <= CHANCE_SHARE * METHODS["jensenshannon"].threshold:
        return "jensenshannon"
    if n_reference >= n_current * categories:
        return "chisquare"
    raise NotEnoughData(f"{n_current} values against {n_reference} in the reference cannot tell {categories} categories")


def contribution(part: Part) -> float:
    """How far a part is beyond its threshold: 1 at the threshold, 0 for no difference, and -1 where it has no value."""
    if part.value is None or part.threshold is None:
        return -1.0
    if part.p_value is None:
        return part.value / part.threshold
    return math.log(part.p_value) / math.log(part.threshold) if part.p_value > 0 else math.inf


def rank(part: Part) -> tuple[float, float, str]:
    """Sorts by contribution, the largest first; p-values of 0 among themselves by value."""
    return -contribution(part), -(part.value or 0.0), part.name


def finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]
