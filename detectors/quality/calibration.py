"""Are probabilities what they say? The calibration curve, its error, and how the curve moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from detectors.contract import FloatArray
from detectors.intervals import Interval, Uncertainty
from detectors.quality import BoolArray

Strategy = Literal["uniform", "quantile"]


@dataclass(frozen=True, slots=True)
class Curve:
    """The bins that hold rows, in order: float64 (bins,) each. `edges` has one more, over all bins."""

    edges: FloatArray
    place: NDArray[np.int64]  # index of each bin among all of them
    rows: FloatArray
    predicted: FloatArray  # mean probability
    happened: FloatArray  # share of positive labels

    @property
    def ece(self) -> float:
        return float((self.rows * np.abs(self.predicted - self.happened)).sum() / self.rows.sum())


def bin_edges(probability: FloatArray, bins: int, strategy: Strategy) -> FloatArray:
    """`bins` of equal width, or with equally many rows (fewer bins where many are equal)."""
    if strategy == "uniform":
        return np.linspace(0.0, 1.0, bins + 1)
    inner = np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.concatenate([[0.0], inner[(inner > 0) & (inner < 1)], [1.0]])


def curve(label: BoolArray, probability: FloatArray, edges: FloatArray) -> Curve:
    """scikit-learn's `calibration_curve` on these edges; a probability on an edge belongs to the bin below it."""
    rows, p, y = _sums(probability, edges, np.ones(len(label)), probability, label.astype(np.float64))
    there = rows > 0
    return Curve(edges, np.flatnonzero(there).astype(np.int64), rows[there], p[there] / rows[there], y[there] / rows[there])


def _sums(probability: FloatArray, edges: FloatArray, *values: FloatArray) -> list[FloatArray]:
    """Of each of `values` the sums by bin."""
    place = np.searchsorted(edges[1:-1], probability)
    return [np.asarray(np.bincount(place, one, len(edges) - 1), dtype=np.float64) for one in values]


def ece(label: BoolArray, probability: FloatArray, bins: int, strategy: Strategy = "uniform") -> float:
    """Expected calibration error: mean distance of probability and outcome over the bins, by their rows. Naeini, Cooper and
    Hauskrecht, AAAI 2015. Even of calibrated probabilities it is above 0, and the more so the fewer the rows."""
    return curve(label, probability, bin_edges(probability, bins, strategy)).ece


def ece_interval(
    label: BoolArray, probability: FloatArray, bins: int, sure: Uncertainty, strategy: Strategy = "uniform"
) -> Interval | None:
    """By turning a test around: the errors that, with the noise of so many rows, would give one like ours. None for one row.

    A bootstrap would not do: noise only ever adds to the error, and that of a resample has it twice. The test takes the misses of
    the bins to be normal, of a size in proportion to their noise. Extended to hold the value itself. With 30 rows a bin it covers
    somewhat less often than it says (85 % for 90 %).
    """
    if len(label) < 2:
        return None
    share, miss, error = misses(label, probability, bin_edges(probability, bins, strategy))
    value = float(share @ np.abs(miss))
    noise = np.random.default_rng(sure.seed).normal(size=(5 * sure.resamples, len(error))) * error
    size = float(share @ error)
    if size == 0:
        return value, value

    def seen(true: float, quantile: float) -> float:
        return float(np.quantile(np.abs(true * error / size + noise) @ share, quantile))

    tail = 0.5 - sure.confidence / 2
    lower = 0.0 if seen(0.0, 1 - tail) >= value else _root(lambda true: seen(true, 1 - tail) - value)
    upper = _root(lambda true: seen(true, tail) - value)
    return min(value, lower), max(value, upper)


def misses(label: BoolArray, probability: FloatArray, edges: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of the bins that hold rows: their share of the rows, mean of label - probability, and its standard error."""
    off = np.asarray(label - probability, dtype=np.float64)
    rows, sums, squares = _sums(probability, edges, np.ones(len(off)), off, off**2)
    there = rows > 0
    n, mean = rows[there], sums[there] / rows[there]
    # One row more of the overall size: a bin of few rows says too little of its own variance.
    variance = (np.maximum(squares[there] - n * mean**2, 0.0) + float((off**2).mean())) / (n + 1)
    return n / n.sum(), mean, np.sqrt(variance / n)


def _root(of: Callable[[float], float]) -> float:
    """Where a rising function crosses 0 within 0..1."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if of(middle) < 0 else (low, middle)
    return (low + high) / 2


def recalibrated(one: tuple[BoolArray, FloatArray], other: tuple[BoolArray, FloatArray], edges: FloatArray) -> float | None:
    """p-value that outcomes miss the probabilities in the same way in both samples, each (label, probability).

    In each bin that both fill with five rows or more, the difference of the mean misses over its standard error is about
    normal; their squares add up to chi-square. Where rows have moved within a bin, that alone is no miss. None without a bin.
    """
    statistic, bins = 0.0, 0
    places = [np.searchsorted(edges[1:-1], p) for _, p in (one, other)]
    for bin_ in range(len(edges) - 1):
        misses = [(y - p)[place == bin_] for (y, p), place in zip((one, other), places, strict=True)]
        if min(map(len, misses)) < 5:
            continue
        variance = sum(float(m.var(ddof=1)) / len(m) for m in misses)
        if variance > 0:
            statistic += (float(misses[0].mean()) - float(misses[1].mean())) ** 2 / variance
            bins += 1
    return float(chdtrc(bins, statistic)) if bins else None
