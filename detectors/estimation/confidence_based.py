"""Confidence-based performance estimation (CBPE): calibrated probabilities say how often a prediction will be right.

Bialek et al., "Estimating Model Performance Under Covariate Shift Without Labels" (2024), section 3; as in NannyML 0.13.1. It
holds while what the features mean for the label stays as it was in the reference (no concept drift).

With labels in the place of probabilities (1.0 or 0.0) the same functions give the metrics that came true.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from detectors.contract import FloatArray
from detectors.estimation.recalibration import Calibrate, fitted
from detectors.quality import BoolArray

EXPERIMENTS = 50
"""Resamples of the reference for the sampling error of the average precision."""

METRICS = ("accuracy", "roc_auc", "f1", "precision", "recall", "specificity", "pr_auc", "business_value")
"""Of several classes all but accuracy and business_value are means over the classes, each against the rest."""


@dataclass(frozen=True, slots=True)
class Expected:
    """How many rows are expected to be right (t) and wrong (f) by the predicted class (p, n): sums of probabilities."""

    tp: float
    fp: float
    fn: float
    tn: float

    @classmethod
    def of(cls, prediction: BoolArray, probability: FloatArray) -> Expected:
        """`probability`: calibrated, of the positive class."""
        yes, no = probability[prediction], probability[~prediction]
        return cls(float(yes.sum()), float((1 - yes).sum()), float(no.sum()), float((1 - no).sum()))


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


OF_EXPECTED: dict[str, Callable[[Expected], float | None]] = {
    "accuracy": lambda e: ratio(e.tp + e.tn, e.tp + e.fp + e.fn + e.tn),
    "f1": lambda e: ratio(e.tp, e.tp + (e.fp + e.fn) / 2),
    "precision": lambda e: ratio(e.tp, e.tp + e.fp),
    "recall": lambda e: ratio(e.tp, e.tp + e.fn),
    "specificity": lambda e: ratio(e.tn, e.tn + e.fp),
}


def expected_roc_auc(score: FloatArray, probability: FloatArray) -> float | None:
    """Area under the curve of expected rights and wrongs when rows are taken in falling order of `score`; ties share."""
    positive, negative = probability.sum(), (1 - probability).sum()
    if not positive > 0 or not negative > 0:
        return None
    order = np.argsort(-score, kind="stable")
    tie = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0)
    tp = np.add.reduceat(probability[order], tie)
    fp = np.add.reduceat(1 - probability[order], tie)
    return float((fp * (np.cumsum(tp) - tp / 2)).sum() / (positive * negative))


def expected_pr_auc(score: FloatArray, probability: FloatArray) -> float | None:
    """Average precision of expected rights, row by row in falling order of `score`."""
    if not probability.sum() > 0:
        return None
    p = probability[np.argsort(-score, kind="stable")]
    tp = np.cumsum(p)
    return float((p * tp / np.arange(1, len(p) + 1)).sum() / tp[-1])


# --- two classes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BinaryEstimator:
    """Fitted on a reference with labels. `errors` is, by metric, the sampling error of one row: divide by the root of the rows.

    `values` is what a row is worth by label (first) and prediction, negative class first, for business_value: its sum.
    """

    calibrate: Calibrate
    errors: dict[str, float]
    values: FloatArray | None = None

    @classmethod
    def fit(
        cls, label: BoolArray, prediction: BoolArray, score: FloatArray, values: FloatArray | None = None, seed: int = 0
    ) -> BinaryEstimator:
        errors = {name: _row_error(of, label, prediction) for name, of in _OBSERVED.items()}
        errors["roc_auc"] = math.sqrt(_roc_variance(label, score))
        errors["pr_auc"] = _pr_error(label, score, seed)
        if values is not None:
            errors["business_value"] = float(values[label.astype(int), prediction.astype(int)].std())
        return cls(fitted(score, label), errors, values)

    def measure(self, metric: str, prediction: BoolArray, score: FloatArray, probability: FloatArray) -> float | None:
        """The metric of rows whose label is positive with this (calibrated) probability, or is known: 0 or 1."""
        if metric == "roc_auc":
            return expected_roc_auc(score, probability)
        if metric == "pr_auc":
            return expected_pr_auc(score, probability)
        expected = Expected.of(prediction, probability)
        if metric != "business_value":
            return OF_EXPECTED[metric](expected)
        assert self.values is not None
        cells = np.array([[expected.tn, expected.fp], [expected.fn, expected.tp]])
        return float((self.values * cells).sum())

    def sampling_error(self, metric: str, rows: int) -> float:
        """Standard error of the metric of so many rows like those of the reference. NaN where the reference cannot say."""
        error = self.errors[metric] / math.sqrt(rows)
        return error * rows if metric == "business_value" else error


def _observed(hits: int, misses: int, rows: int, scale: float = 1.0) -> tuple[float, float]:
    """Variance of `hits` ones and `misses` zeros, times `scale` squared, and the share of the rows that those are."""
    n = hits + misses
    p = hits / n if n else math.nan
    return p * (1 - p) * scale**2, n / rows


def _f1(label: BoolArray, prediction: BoolArray) -> tuple[float, float]:
    hits, misses = int((label & prediction).sum()), int((label != prediction).sum())
    scale = (hits + misses) / (hits + misses / 2) if hits + misses else math.nan
    return _observed(hits, misses, len(label), scale)


_OBSERVED: dict[str, Callable[[BoolArray, BoolArray], tuple[float, float]]] = {
    "accuracy": lambda y, z: _observed(int((y == z).sum()), int((y != z).sum()), len(y)),
    "f1": _f1,
    "precision": lambda y, z: _observed(int((y & z).sum()), int((~y & z).sum()), len(y)),
    "recall": lambda y, z: _observed(int((y & z).sum()), int((y & ~z).sum()), len(y)),
    "specificity": lambda y, z: _observed(int((~y & ~z).sum()), int((~y & z).sum()), len(y)),
}


def _row_error(of: Callable[[BoolArray, BoolArray], tuple[float, float]], label: BoolArray, prediction: BoolArray) -> float:
    variance, share = of(label, prediction)
    return math.sqrt(variance / share) if share else math.nan


def _roc_variance(label: BoolArray, score: FloatArray) -> float:
    """Of one row: that of the rarer class' placements, over its share."""
    if label.mean() > 0.5:
        label, score = ~label, -score
    positives = int(label.sum())
    if not positives or positives == len(label):
        return math.nan
    placements = (rankdata(score)[label] - rankdata(score[label])) / (len(label) - positives)
    return float(placements.var() / label.mean())


def _pr_error(label: BoolArray, score: FloatArray, seed: int) -> float:
    """From resamples of half the reference. NannyML draws them from numpy's global generator, we from our own."""
    from detectors.quality.binary import pr_auc

    if not label.any() or len(label) < 4:
        return math.nan
    rng, rows = np.random.default_rng(seed), min(len(label) // 2, 50_000)
    drawn = [pr_auc(label[one], score[one]) for one in (rng.integers(0, len(label), rows) for _ in range(EXPERIMENTS))]
    defined = [value for value in drawn if value is not None]
    return float(np.std(defined)) * math.sqrt(rows) if defined else math.nan


# --- several classes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MulticlassEstimator:
    """The same for several classes. Predictions are indices of classes, scores float64 (rows, classes)."""

    calibrators: tuple[Calibrate, ...]
    errors: dict[str, float]
    values: FloatArray | None = None

    @classmethod
    def fit(
        cls,
        label: NDArray[np.int64],
        prediction: NDArray[np.int64],
        score: FloatArray,
        values: FloatArray | None = None,
        seed: int = 0,
    ) -> MulticlassEstimator:
        classes = range(score.shape[1])
        errors = {}
        for name in ("f1", "precision", "recall", "specificity"):
            of = _plain_f1 if name == "f1" else _OBSERVED[name]
            errors[name] = _combined([_over(*of(label == c, prediction == c)) for c in classes])
        # 1.2 is NannyML's: what the classes have in common makes the mean vary more than if they were independent.
        errors["roc_auc"] = 1.2 * _combined([_roc_variance(label == c, score[:, c]) for c in classes])
        errors["pr_auc"] = math.sqrt(np.mean([_pr_error(label == c, score[:, c], seed) ** 2 for c in classes]))
        errors["accuracy"] = float((label == prediction).std())
        if values is not None:
            errors["business_value"] = float(values[label, prediction].std(ddof=1))
        return cls(tuple(fitted(score[:, c], label == c) for c in classes), errors, values)

    def probabilities(self, score: FloatArray) -> FloatArray:
        """Calibrated class by class, then made to sum to one; where all are 0, the classes are equally likely."""
        found = np.column_stack([calibrate(score[:, c]) for c, calibrate in enumerate(self.calibrators)])
        total = found.sum(1, keepdims=True)
        uniform = np.full_like(found, 1 / found.shape[1])
        return np.asarray(np.divide(found, total, out=uniform, where=total != 0), dtype=np.float64)

    def measure(self, metric: str, prediction: NDArray[np.int64], score: FloatArray, probability: FloatArray) -> float | None:
        """The metric of rows whose labels have these (calibrated) probabilities, or are known: a 1 and zeros."""
        classes = range(score.shape[1])
        if metric == "accuracy":
            return float(probability[np.arange(len(prediction)), prediction].mean())
        if metric == "business_value":
            assert self.values is not None
            cells = np.array([probability[prediction == c].sum(0) for c in classes]).T
            return float((self.values * cells).sum())
        if metric in ("roc_auc", "pr_auc"):
            of = expected_roc_auc if metric == "roc_auc" else expected_pr_auc
            areas = [of(score[:, c], probability[:, c]) for c in classes]
            defined = [area for area in areas if area is not None]
            return float(np.mean(defined)) if len(defined) == len(areas) else None
        # A class that is never predicted counts as 0, as in NannyML: else a metric would rise when a class is forgotten.
        each = (OF_EXPECTED[metric](Expected.of(prediction == c, probability[:, c])) for c in classes)
        return float(np.mean([value or 0.0 for value in each]))

    def sampling_error(self, metric: str, rows: int) -> float:
        error = self.errors[metric] / math.sqrt(rows)
        return error * rows if metric == "business_value" else error


def _plain_f1(label: BoolArray, prediction: BoolArray) -> tuple[float, float]:
    """NannyML scales by the definition of F1 for two classes only."""
    return _observed(int((label & prediction).sum()), int((label != prediction).sum()), len(label))


def _over(variance: float, share: float) -> float:
    return variance / share if share else math.nan


def _combined(variances: list[float]) -> float:
    """Of one row, of the mean over the classes taken as independent."""
    return math.sqrt(sum(variances)) / len(variances)
