"""Confidence intervals: of shares, of means, and of anything else by the bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from detectors.contract import FloatArray

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How sure an interval is to be, and how a bootstrap is drawn."""

    confidence: float = 0.95
    resamples: int = 200
    seed: int = 0


def wilson(hits: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for hits out of n (n >= 1), within 0..1. Wilson, JASA 22 (1927).

    >>> [round(x, 4) for x in wilson(5, 100)]
    [0.0215, 0.1118]
    """
    z = float(ndtri(0.5 + confidence / 2))
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(max(0.0, share * (1 - share)) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the two terms cancel exactly, which floating point does not know.
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == n else centre + half)


def share_interval(hits: int, n: int, confidence: float) -> Interval | None:
    """Wilson's, or None where there is nothing to have a share of."""
    return wilson(hits, n, confidence) if n else None


def wilson_difference(one: tuple[float, float], other: tuple[float, float], confidence: float = 0.95) -> Interval:
    """Interval for the difference of two independent shares, each given as (hits, n). Newcombe, Statistics in Medicine 17 (1998),
    method 10.

    >>> [round(x, 4) for x in wilson_difference((56, 70), (48, 80))]
    [0.0524, 0.3339]
    """
    (p, (p_low, p_high)), (q, (q_low, q_high)) = ((hits / n, wilson(hits, n, confidence)) for hits, n in (one, other))
    return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def mean_loss_interval(losses: FloatArray, confidence: float) -> Interval | None:
    """For the mean loss (0 or more) of the population these rows are drawn from, by normal theory. None for one row."""
    found = mean_interval(losses, confidence)
    return found and (max(0.0, found[0]), found[1])


def mean_interval(values: FloatArray, confidence: float) -> Interval | None:
    """The same for values of either sign."""
    if len(values) < 2:
        return None
    return around(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), confidence)


def around(value: float, standard_error: float, confidence: float) -> Interval:
    half = float(ndtri(0.5 + confidence / 2)) * standard_error
    return value - half, value + half


def within(interval: Interval, lowest: float = 0.0, highest: float = 1.0) -> Interval:
    return max(lowest, interval[0]), min(highest, interval[1])


def standard_error(interval: Interval, confidence: float) -> float:
    """What a normal interval of this width would come from."""
    return (interval[1] - interval[0]) / (2 * float(ndtri(0.5 + confidence / 2)))


def bootstrap_counts(
    metric: Callable[[NDArray[np.int64]], float | None], counts: Sequence[int] | NDArray[np.int64], sure: Uncertainty
) -> Interval | None:
    """Percentile bootstrap over rows of which only counts matter, such as those of a confusion matrix: so the counts are drawn.
    `metric` is given counts in the shape of `counts`."""
    cells = np.asarray(counts, dtype=np.int64)
    total = int(cells.sum())
    draws = np.random.default_rng(sure.seed).multinomial(total, (cells / total).ravel(), size=sure.resamples)
    return percentiles([metric(draw.reshape(cells.shape)) for draw in draws], sure.confidence)


def bootstrap_rows(metric: Callable[[FloatArray], float | None], rows: int, sure: Uncertainty) -> Interval | None:
    """Percentile bootstrap over rows, of a metric of how often each row counts. Efron and Tibshirani (1993), chapter 13."""
    rng = np.random.default_rng(sure.seed)
    counted = (np.bincount(rng.integers(0, rows, rows), minlength=rows) for _ in range(sure.resamples))
    return percentiles([metric(counts.astype(np.float64)) for counts in counted], sure.confidence)


def percentiles(values: list[float | None], confidence: float) -> Interval | None:
    """The middle `confidence` of the values. None where the metric was undefined in more than a twentieth of them."""
    defined = [v for v in values if v is not None and math.isfinite(v)]
    if len(defined) < 0.95 * len(values):
        return None
    lower, upper = np.quantile(defined, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(lower), float(upper)
