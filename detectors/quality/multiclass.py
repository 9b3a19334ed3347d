"""Several classes, one for each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.contract import FloatArray, Part
from detectors.intervals import (
    Interval,
    Uncertainty,
    around,
    bootstrap_counts,
    bootstrap_rows,
    mean_loss_interval,
    wilson,
    within,
)
from detectors.quality import BoolArray
from detectors.quality.binary import placements, roc_auc, weighted_pr_auc
from detectors.quality.calibration import ece, ece_interval

MOST_CELLS = 50
"""Mistakes by class that are reported, the most frequent first: the square of many classes is too many numbers."""

Matrix = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Multiclass:
    """Rows of several classes. `label` and `prediction` are indices into `classes`. `probability` is float64 (rows, classes), NaN
    in the rows that have none that sum to one; or None."""

    classes: tuple[str, ...]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    probability: FloatArray | None = None
    coverage: Mapping[str, float] = field(default_factory=dict)
    min_probable: int = 2
    bins: int = 10

    @property
    def rows(self) -> int:
        return len(self.label)

    @property
    def confusion(self) -> Matrix:
        """How many rows, by label (first) and prediction: int64 (classes, classes)."""
        k = len(self.classes)
        return np.bincount(self.label * k + self.prediction, minlength=k * k).reshape(k, k)

    @property
    def probable(self) -> tuple[NDArray[np.int64], FloatArray] | None:
        if self.probability is None:
            return None
        there = ~np.isnan(self.probability[:, 0])
        return (self.label[there], self.probability[there]) if there.sum() >= self.min_probable else None

    def metrics(self) -> dict[str, float | None]:
        confusion = self.confusion
        found = {name: of(confusion) for name, of in OF_CONFUSION.items()}
        if self.probable is not None:
            label, probability = self.probable
            found["roc_auc_ovr"] = one_against_rest(label, probability)
            found["roc_auc_ovo"] = one_against_one(label, probability)
            found["pr_auc"] = pr_auc(label, probability, np.ones(len(label)))
            found["log_loss"] = float(log_losses(label, probability).mean())
            found["brier"] = float(brier_losses(label, probability).mean())
            found["ece"] = ece(*confidences(label, probability), self.bins)
        return {**found, **self._mistakes(confusion)}

    def interval(self, metric: str, sure: Uncertainty) -> Interval | None:
        match metric, self.probable:
            case (("accuracy" | "f1_micro"), _):
                return wilson(int(np.trace(self.confusion)), self.rows, sure.confidence)
            case name, _ if name in OF_CONFUSION:
                return bootstrap_counts(OF_CONFUSION[name], self.confusion, sure)
            case "roc_auc_ovr", (label, probability):
                return roc_interval(one_against_rest, label, probability, sure)
            case "roc_auc_ovo", (label, probability):
                return roc_interval(one_against_one, label, probability, sure)
            case "pr_auc", (label, probability):
                return bootstrap_rows(lambda weights: pr_auc(label, probability, weights), len(label), sure)
            case "log_loss", (label, probability):
                return mean_loss_interval(log_losses(label, probability), sure.confidence)
            case "brier", (label, probability):
                return mean_loss_interval(brier_losses(label, probability), sure.confidence)
            case "ece", (label, probability):
                return ece_interval(*confidences(label, probability), self.bins, sure)
        return None

    def parts(self) -> tuple[Part, ...]:
        """The F1 of each class that was there or predicted."""
        confusion = self.confusion
        there = np.flatnonzero(confusion.sum(0) + confusion.sum(1))
        scores = f1s(confusion)
        worst = sorted(there, key=lambda c: (scores[c], self.classes[c]))
        return tuple(Part(self.classes[c], "f1", value=float(scores[c]), n_current=int(confusion[c].sum())) for c in worst)

    def _mistakes(self, confusion: Matrix) -> dict[str, float]:
        """Counts by label and prediction: what was right, and the most frequent mistakes."""
        cells = [(-int(n), int(a), int(b)) for (a, b), n in np.ndenumerate(confusion) if n]
        return {f"confusion:{self.classes[a]}:{self.classes[b]}": float(-n) for n, a, b in sorted(cells)[:MOST_CELLS]}


# --- of the confusion matrix -----------------------------------------------------------------------------------------


def f1s(confusion: Matrix) -> FloatArray:
    """For each class; NaN for one that is neither label nor prediction."""
    return _divided(2.0 * np.diag(confusion), confusion.sum(0) + confusion.sum(1))


def accuracy(confusion: Matrix) -> float | None:
    return _mean(_divided(np.trace(confusion), confusion.sum()))


def recall_macro(confusion: Matrix) -> float | None:
    """Mean over the classes among the labels; this is also the balanced accuracy."""
    return _mean(_divided(np.diag(confusion), confusion.sum(1)))


def precision_macro(confusion: Matrix) -> float | None:
    """Mean over the classes among the predictions."""
    return _mean(_divided(np.diag(confusion), confusion.sum(0)))


def f1_macro(confusion: Matrix) -> float | None:
    return _mean(f1s(confusion))


def f1_weighted(confusion: Matrix) -> float | None:
    """Mean by how often each class is the label."""
    labels = confusion.sum(1)
    return float(np.nansum(f1s(confusion) * labels) / labels.sum()) if labels.any() else None


OF_CONFUSION: dict[str, Callable[[Matrix], float | None]] = {
    "accuracy": accuracy,
    "balanced_accuracy": recall_macro,
    "precision_macro": precision_macro,
    "recall_macro": recall_macro,
    "f1_macro": f1_macro,
    "f1_micro": accuracy,  # each mistake is one class too many and one too few
    "f1_weighted": f1_weighted,
}


def _divided(part: Any, whole: Any) -> FloatArray:
    whole = np.asarray(whole, dtype=np.float64)
    return np.asarray(part / np.where(whole > 0, whole, np.nan), dtype=np.float64)


def _mean(values: FloatArray) -> float | None:
    defined = values[~np.isnan(values)] if values.ndim else values.reshape(1)
    return float(defined.mean()) if len(defined) and not np.isnan(defined).any() else None


# --- of probabilities ------------------------------------------------------------------------------------------------

Sides = list[tuple[BoolArray, BoolArray, FloatArray]]
"""One comparison each: which rows take part, which of those are positive, and the score of those."""


def sides_of_rest(label: NDArray[np.int64], probability: FloatArray) -> Sides:
    every = np.ones(len(label), dtype=bool)
    return [(every, label == c, probability[:, c]) for c in np.unique(label)]


def sides_of_pairs(label: NDArray[np.int64], probability: FloatArray) -> Sides:
    found = []
    for a, b in permutations(np.unique(label), 2):
        rows = (label == a) | (label == b)
        found.append((rows, label[rows] == a, probability[rows, a]))
    return found


def one_against_rest(label: NDArray[np.int64], probability: FloatArray) -> float | None:
    """ROC AUC of each class among the labels against all others, and their mean. None for one class."""
    return _mean_auc(sides_of_rest(label, probability))


def one_against_one(label: NDArray[np.int64], probability: FloatArray) -> float | None:
    """Of each pair of classes both ways, and their mean: Hand and Till, Machine Learning 45 (2001). None for one class."""
    return _mean_auc(sides_of_pairs(label, probability))


def _mean_auc(sides: Sides) -> float | None:
    found = [roc_auc(positive, score) for _, positive, score in sides]
    defined = [value for value in found if value is not None]
    return sum(defined) / len(defined) if defined and len(defined) == len(found) else None


def roc_interval(
    of: Callable[[NDArray[np.int64], FloatArray], float | None],
    label: NDArray[np.int64],
    probability: FloatArray,
    sure: Uncertainty,
) -> Interval | None:
    """Normal theory with DeLong's placements: what each row contributes to the mean of the areas, added up over them, since the
    areas share rows. None where a class has fewer than two rows."""
    sides = sides_of_rest(label, probability) if of is one_against_rest else sides_of_pairs(label, probability)
    value = of(label, probability)
    influence = np.zeros(len(label))
    for rows, positive, score in sides:
        found = placements(positive, score)
        if found is None:
            return None
        of_positives, of_negatives = found
        area = float(of_positives.mean())
        part = np.empty(len(positive))
        part[positive] = (of_positives - area) * len(label) / len(of_positives)
        part[~positive] = (of_negatives - area) * len(label) / len(of_negatives)
        influence[rows] += part / len(sides)
    if value is None:
        return None
    return within(around(value, float(influence.std(ddof=1)) / math.sqrt(len(label)), sure.confidence))


def pr_auc(label: NDArray[np.int64], probability: FloatArray, weights: FloatArray) -> float | None:
    """Average precision of each class among the labels against all others, and their mean. `weights`: how often a row counts."""
    found = []
    for c in np.unique(label):
        order = np.argsort(-probability[:, c], kind="stable")
        found.append(weighted_pr_auc(label[order] == c, probability[order, c], weights[order]))
    defined = [value for value in found if value is not None]
    return sum(defined) / len(defined) if defined and len(defined) == len(found) else None


def log_losses(label: NDArray[np.int64], probability: FloatArray) -> FloatArray:
    """-ln of the probability given to the class that it was, for each row."""
    epsilon = np.finfo(np.float64).eps
    given = probability[np.arange(len(label)), label]
    return np.asarray(-np.log(np.clip(given, epsilon, 1.0)), dtype=np.float64)


def brier_losses(label: NDArray[np.int64], probability: FloatArray) -> FloatArray:
    """Sum over the classes of the squared distance of the probability from what happened, 0 to 2, for each row."""
    given = probability[np.arange(len(label)), label]
    return np.asarray((probability**2).sum(1) - given**2 + (1 - given) ** 2, dtype=np.float64)


def confidences(label: NDArray[np.int64], probability: FloatArray) -> tuple[BoolArray, FloatArray]:
    """Whether the most probable class was right, and its probability: what top-label calibration is about."""
    best = probability.argmax(1)
    return best == label, np.minimum(probability[np.arange(len(label)), best], 1.0)
