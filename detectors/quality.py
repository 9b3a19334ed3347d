"""How good were these predictions? Metrics and their intervals as functions of arrays, the maths of `performance`.

Values equal scikit-learn's of the same names. Where scikit-learn answers an undefined metric with a warning and 0 or 1, the
answer here is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, xlogy
from scipy.stats import rankdata

from detectors.contract import FloatArray

BoolArray = NDArray[np.bool_]
Interval = tuple[float, float]


# --- two classes -----------------------------------------------------------------------------------------------------


class Confusion(NamedTuple):
    """How many rows were predicted right (t) and wrong (f), by the predicted class (p: positive, n: negative)."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, label: BoolArray, prediction: BoolArray) -> Confusion:
        sides = (label & prediction, ~label & prediction, label & ~prediction, ~label & ~prediction)
        return cls(*(int(np.count_nonzero(side)) for side in sides))


def accuracy(c: Confusion) -> float | None:
    return share(c.tp + c.tn, sum(c))


def precision(c: Confusion) -> float | None:
    """Of those predicted positive, the share that is. None where none was."""
    return share(c.tp, c.tp + c.fp)


def recall(c: Confusion) -> float | None:
    """Of the positive ones, the share predicted so. None where there are none."""
    return share(c.tp, c.tp + c.fn)


def balanced_accuracy(c: Confusion) -> float | None:
    """Mean of the recalls of both classes. None where the labels are of one class."""
    positive, negative = recall(c), share(c.tn, c.tn + c.fp)
    return None if positive is None or negative is None else (positive + negative) / 2


def f1(c: Confusion) -> float | None:
    """Harmonic mean of precision and recall. None where neither label nor prediction is ever positive."""
    return share(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def roc_auc(label: BoolArray, probability: FloatArray) -> float | None:
    """Probability that a positive row has the higher probability of the two, ties counting half. None for one class.

    From midranks: Hanley and McNeil, "The meaning and use of the area under a ROC curve", Radiology 143 (1982).
    """
    positives = int(np.count_nonzero(label))
    pairs = positives * (len(label) - positives)
    if not pairs:
        return None
    return float((rankdata(probability)[label].sum() - positives * (positives + 1) / 2) / pairs)


def roc_auc_interval(label: BoolArray, probability: FloatArray, confidence: float) -> Interval | None:
    """Normal theory with the variance of DeLong et al., Biometrics 44 (1988), by midranks as in Sun and Xu, IEEE SPL 21
    (2014). None with fewer than two rows of a class."""
    m = int(np.count_nonzero(label))
    n = len(label) - m
    if min(m, n) < 2:
        return None
    ranks = rankdata(probability)
    # For each row, the share of the other class that it is ordered rightly against.
    of_positives = (ranks[label] - rankdata(probability[label])) / n
    of_negatives = 1 - (ranks[~label] - rankdata(probability[~label])) / m
    error = math.sqrt(of_positives.var(ddof=1) / m + of_negatives.var(ddof=1) / n)
    lower, upper = around(float(of_positives.mean()), error, confidence)
    return max(0.0, lower), min(1.0, upper)


def log_losses(label: BoolArray, probability: FloatArray) -> FloatArray:
    """-ln of the probability given to what happened, for each row; their mean is the log loss. A probability of 0 or 1
    counts as 2e-16 away from it."""
    epsilon = np.finfo(np.float64).eps
    p = np.clip(probability, epsilon, 1 - epsilon)
    return np.asarray(-(xlogy(label, p) + xlogy(~label, 1 - p)), dtype=np.float64)


def brier_losses(label: BoolArray, probability: FloatArray) -> FloatArray:
    """Squared distance of the probability from what happened, for each row; their mean is the Brier score."""
    return np.asarray((probability - label) ** 2, dtype=np.float64)


# --- numbers ---------------------------------------------------------------------------------------------------------


def relative_errors(label: FloatArray, prediction: FloatArray) -> FloatArray:
    """|prediction - label| / |label|, for the rows whose label is not 0; their mean is the MAPE (0.1 is ten percent)."""
    there = label != 0
    return np.asarray(np.abs((prediction[there] - label[there]) / label[there]), dtype=np.float64)


def r2(label: FloatArray, prediction: FloatArray, weights: FloatArray | None = None) -> float | None:
    """Share of the labels' variance that the predictions explain: at most 1, 0 for predicting the mean. None for constant
    labels. `weights` is how often each row counts."""
    w = np.ones(len(label)) if weights is None else weights
    counted = label[w > 0]
    # Not by a variance of 0: the mean of equal numbers need not be that number, to the last bit.
    if not len(counted) or counted.min() == counted.max():
        return None
    total = float(w @ (label - np.average(label, weights=w)) ** 2)
    return 1 - float(w @ (label - prediction) ** 2) / total if total > 0 else None


# --- intervals -------------------------------------------------------------------------------------------------------


def mean_loss_interval(losses: FloatArray, confidence: float) -> Interval | None:
    """For the mean loss (0 or more) of the population these rows are drawn from, by normal theory. None for one row."""
    if len(losses) < 2:
        return None
    error = float(losses.std(ddof=1)) / math.sqrt(len(losses))
    lower, upper = around(float(losses.mean()), error, confidence)
    return max(0.0, lower), upper


def around(value: float, standard_error: float, confidence: float) -> Interval:
    half = float(ndtri(0.5 + confidence / 2)) * standard_error
    return value - half, value + half


def bootstrap_counts(
    metric: Callable[[Confusion], float | None], counts: Confusion, confidence: float, resamples: int, seed: int
) -> Interval | None:
    """Percentile bootstrap over rows: of the rows only these four counts matter, so the counts are drawn."""
    n = sum(counts)
    draws = np.random.default_rng(seed).multinomial(n, np.array(counts) / n, size=resamples)
    return percentiles([metric(Confusion(*draw)) for draw in draws.tolist()], confidence)


def bootstrap_rows(
    metric: Callable[[FloatArray], float | None], rows: int, confidence: float, resamples: int, seed: int
) -> Interval | None:
    """Percentile bootstrap over rows, of a metric of how often each row counts. Efron and Tibshirani (1993), chapter 13."""
    rng = np.random.default_rng(seed)
    counted = (np.bincount(rng.integers(0, rows, rows), minlength=rows) for _ in range(resamples))
    return percentiles([metric(counts.astype(np.float64)) for counts in counted], confidence)


def percentiles(values: list[float | None], confidence: float) -> Interval | None:
    """The middle `confidence` of the values. None where the metric was undefined in more than a twentieth of them."""
    defined = [v for v in values if v is not None and math.isfinite(v)]
    if len(defined) < 0.95 * len(values):
        return None
    lower, upper = np.quantile(defined, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(lower), float(upper)
