"""How good a row detector's values are on labelled rows: ranking, decisions at a threshold, calibration, each with its interval.

The intervals are percentiles of a bootstrap over rows (Efron and Tibshirani, 1993), drawn within groups, so that the macro
mean and the groups share their draws. All figures of a draw come from one sort of the rows and cumulative sums. Expected
calibration error: Naeini et al., AAAI 2015, ten bins of equal width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.contract import FloatArray, Worse

BINS = 10
FIGURES = ("auroc", "average_precision", "f1", "balanced_accuracy", "tpr", "fpr", "ece")
CONFIDENCE = 0.95


class NotMeasurable(ValueError):
    """The labelled rows cannot tell how good a detector is. The message says why."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and its interval; None where it is not defined (a group with one label only has no AUROC)."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of some rows. `bad` of the `rows` are labelled 1."""

    rows: int
    bad: int
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All rows together, each group, and the mean over those groups in which a figure is defined."""

    pooled: Measured
    groups: dict[str, Measured]
    macro: dict[str, Figure]


def evaluate(
    label: NDArray[np.bool_],
    value: FloatArray,
    *,
    worse: Worse,
    flag: float,
    groups: Sequence[str] | None = None,
    resamples: int = 1_000,
    seed: int = 0,
) -> Evaluation:
    """Figures of the values, (n,), for labels (n,), True for the bad case. At or beyond `flag`, towards `worse`, is a yes.

    Raises:
        NotMeasurable: there are no rows, or all have one label.
    """
    if not len(label):
        raise NotMeasurable("no row has a value")
    if label.all() or not label.any():
        raise NotMeasurable(f"all {len(label)} rows that have a value are labelled {int(label[0])}; both labels are needed")
    names, member = np.unique(np.asarray(groups if groups is not None else [""] * len(label)), return_inverse=True)
    places = [np.flatnonzero(member == g) for g in range(len(names))]
    together = Ranked.of(label, value, worse, flag)
    apart = [Ranked.of(label[place], value[place], worse, flag) for place in places] if groups is not None else []
    pooled = np.empty((resamples + 1, len(FIGURES)))
    grouped = np.empty((len(apart), resamples + 1, len(FIGURES)))
    rng = np.random.default_rng(seed)
    counts = np.ones(len(label))  # how often each row is in; at first the rows as they are
    for i in range(resamples + 1):
        pooled[i] = together.figures(counts)
        for g, one in enumerate(apart):
            grouped[g, i] = one.figures(counts[places[g]])
        for place in places:
            counts[place] = np.bincount(rng.integers(len(place), size=len(place)), minlength=len(place))
    defined = ~np.isnan(grouped)
    mean = np.where(defined, grouped, 0).sum(axis=0) / np.where(defined.any(axis=0), defined.sum(axis=0), np.nan)
    return Evaluation(
        Measured(len(label), int(label.sum()), _summarised(pooled)),
        {
            str(name): Measured(len(place), int(label[place].sum()), _summarised(draws))
            for name, place, draws in zip(names, places, grouped, strict=False)
        },
        _summarised(mean) if groups is not None else {},
    )


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows from the worst value to the best, ready to be counted in any number."""

    order: NDArray[np.int64]
    positive: NDArray[np.bool_]
    last: NDArray[np.int64]  # where a run of equal values ends
    said: NDArray[np.bool_]
    probability: FloatArray  # of the bad case
    bins: NDArray[np.int64]
    calibrated: bool  # the values lie in 0..1

    @classmethod
    def of(cls, label: NDArray[np.bool_], value: FloatArray, worse: Worse, flag: float) -> Ranked:
        score = value if worse == "higher" else -value
        order = np.argsort(-score, kind="stable")
        score = score[order]
        probability = value[order] if worse == "higher" else 1 - value[order]
        return cls(
            order,
            label[order],
            np.flatnonzero(np.append(score[1:] != score[:-1], True)),
            score >= (flag if worse == "higher" else -flag),
            probability,
            np.minimum((np.clip(probability, 0, 1) * BINS).astype(np.int64), BINS - 1),
            bool(((probability >= 0) & (probability <= 1)).all()),
        )

    def figures(self, counts: FloatArray) -> list[float]:
        """In the order of `FIGURES`, with each row counted so often, (rows,); NaN where one is not defined."""
        weight = counts[self.order]
        bad, fine = weight * self.positive, weight * ~self.positive
        hits, misses = np.cumsum(bad)[self.last], np.cumsum(fine)[self.last]
        n, m = float(hits[-1]), float(misses[-1])
        true, false = float(bad @ self.said), float(fine @ self.said)
        tpr, fpr = true / n if n else math.nan, false / m if m else math.nan
        # Trapezoids over the runs: of pairs with equal values half count.
        auroc = float(np.trapezoid(np.append(0, hits), np.append(0, misses))) / (n * m) if n and m else math.nan
        precision = hits / np.maximum(hits + misses, 1)
        average = float(np.diff(hits, prepend=0) @ precision) / n if n else math.nan
        f1 = 2 * true / (true + false + n) if n else math.nan
        gaps = np.bincount(self.bins, weight * self.probability - bad, BINS)
        ece = float(np.abs(gaps).sum() / (n + m)) if self.calibrated else math.nan
        return [auroc, average, f1, (tpr + 1 - fpr) / 2, tpr, fpr, ece]


def _summarised(draws: FloatArray) -> dict[str, Figure]:
    found = {}
    tail = 100 * (1 - CONFIDENCE) / 2
    for j, name in enumerate(FIGURES):
        value, drawn = float(draws[0, j]), draws[1:, j]
        drawn = drawn[~np.isnan(drawn)]
        if math.isnan(value):
            found[name] = Figure(None)
        elif not len(drawn):
            found[name] = Figure(value)
        else:
            low, high = np.percentile(drawn, [tail, 100 - tail])
            found[name] = Figure(value, float(low), float(high))
    return found
