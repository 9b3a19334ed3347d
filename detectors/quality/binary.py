"""Two classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import xlogy
from scipy.stats import rankdata

from detectors.contract import FloatArray, Part
from detectors.intervals import (
    Interval,
    Uncertainty,
    around,
    bootstrap_counts,
    bootstrap_rows,
    mean_loss_interval,
    share_interval,
    within,
)
from detectors.quality import BoolArray
from detectors.quality.calibration import ece, ece_interval


@dataclass(frozen=True, slots=True)
class Binary:
    """Rows of two classes. `probability` is that of the positive class, NaN where there is none within 0..1."""

    label: BoolArray
    prediction: BoolArray
    probability: FloatArray
    coverage: Mapping[str, float] = field(default_factory=dict)
    min_probable: int = 2
    bins: int = 10

    @property
    def rows(self) -> int:
        return len(self.label)

    @property
    def probable(self) -> tuple[BoolArray, FloatArray] | None:
        """Label and probability of the rows that have one; None where those are too few."""
        there = ~np.isnan(self.probability)
        return (self.label[there], self.probability[there]) if there.sum() >= self.min_probable else None

    def metrics(self) -> dict[str, float | None]:
        confusion = Confusion.of(self.label, self.prediction)
        found: dict[str, float | None] = {name: of(confusion) for name, of in OF_CONFUSION.items()}
        if self.probable is not None:
            label, probability = self.probable
            found["roc_auc"] = roc_auc(label, probability)
            found["pr_auc"] = pr_auc(label, probability)
            found["log_loss"] = float(log_losses(label, probability).mean())
            found["brier"] = float(brier_losses(label, probability).mean())
            found["ece"] = ece(label, probability, self.bins)
        return {**found, **{name: float(count) for name, count in confusion._asdict().items()}}

    def interval(self, metric: str, sure: Uncertainty) -> Interval | None:
        confusion = Confusion.of(self.label, self.prediction)
        tp, fp, fn, tn = confusion
        match metric, self.probable:
            case "accuracy", _:
                return share_interval(tp + tn, self.rows, sure.confidence)
            case "precision", _:
                return share_interval(tp, tp + fp, sure.confidence)
            case "recall", _:
                return share_interval(tp, tp + fn, sure.confidence)
            case "specificity", _:
                return share_interval(tn, tn + fp, sure.confidence)
            case ("balanced_accuracy" | "f1") as name, _:
                return bootstrap_counts(lambda counts: OF_CONFUSION[name](Confusion(*counts.tolist())), confusion, sure)
            case "roc_auc", (label, probability):
                return roc_auc_interval(label, probability, sure.confidence)
            case "pr_auc", (label, probability):
                order = np.argsort(-probability, kind="stable")
                return bootstrap_rows(partial(weighted_pr_auc, label[order], probability[order]), len(label), sure)
            case "log_loss", (label, probability):
                return mean_loss_interval(log_losses(label, probability), sure.confidence)
            case "brier", (label, probability):
                return mean_loss_interval(brier_losses(label, probability), sure.confidence)
            case "ece", (label, probability):
                return ece_interval(label, probability, self.bins, sure)
        return None

    def parts(self) -> tuple[Part, ...]:
        return ()


class Confusion(NamedTuple):
    """How many rows were predicted right (t) and wrong (f), by the predicted class (p: positive, n: negative)."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, label: BoolArray, prediction: BoolArray) -> Confusion:
        sides: Sequence[BoolArray] = (label & prediction, ~label & prediction, label & ~prediction, ~label & ~prediction)
        return cls(*(int(np.count_nonzero(side)) for side in sides))


def accuracy(c: Confusion) -> float | None:
    return share(c.tp + c.tn, sum(c))


def precision(c: Confusion) -> float | None:
    """Of those predicted positive, the share that is. None where none was."""
    return share(c.tp, c.tp + c.fp)


def recall(c: Confusion) -> float | None:
    """Of the positive ones, the share predicted so. None where there are none."""
    return share(c.tp, c.tp + c.fn)


def specificity(c: Confusion) -> float | None:
    """Of the negative ones, the share predicted so. None where there are none."""
    return share(c.tn, c.tn + c.fp)


def balanced_accuracy(c: Confusion) -> float | None:
    """Mean of the recalls of both classes. None where the labels are of one class."""
    positive, negative = recall(c), specificity(c)
    return None if positive is None or negative is None else (positive + negative) / 2


def f1(c: Confusion) -> float | None:
    """Harmonic mean of precision and recall. None where neither label nor prediction is ever positive."""
    return share(2 * c.tp, 2 * c.tp + c.fp + c.fn)


def share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


OF_CONFUSION = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "precision": precision,
    "recall": recall,
    "specificity": specificity,
    "f1": f1,
}


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
    """Normal theory with the variance of DeLong et al., Biometrics 44 (1988). None with fewer than two rows of a class."""
    found = placements(label, probability)
    if found is None:
        return None
    of_positives, of_negatives = found
    error = math.sqrt(of_positives.var(ddof=1) / len(of_positives) + of_negatives.var(ddof=1) / len(of_negatives))
    return within(around(float(of_positives.mean()), error, confidence))


def placements(label: BoolArray, probability: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """For each positive row, then for each negative one, the share of the other class that it is ordered rightly against. By
    midranks, as in Sun and Xu, IEEE SPL 21 (2014). None with fewer than two rows of a class."""
    m = int(np.count_nonzero(label))
    n = len(label) - m
    if min(m, n) < 2:
        return None
    ranks = rankdata(probability)
    of_positives = (ranks[label] - rankdata(probability[label])) / n
    of_negatives = 1 - (ranks[~label] - rankdata(probability[~label])) / m
    return np.asarray(of_positives, dtype=np.float64), np.asarray(of_negatives, dtype=np.float64)


def pr_auc(label: BoolArray, probability: FloatArray) -> float | None:
    """Average precision: over the thresholds, precision weighted by the recall it adds. None without a positive row."""
    order = np.argsort(-probability, kind="stable")
    return weighted_pr_auc(label[order], probability[order], np.ones(len(label)))


def weighted_pr_auc(label: BoolArray, probability: FloatArray, weights: FloatArray) -> float | None:
    """The same of rows in falling order of probability; `weights` is how often each row counts."""
    hits = np.cumsum(weights * label)
    if not len(hits) or hits[-1] == 0:
        return None
    ends = np.append(np.flatnonzero(np.diff(probability)), len(label) - 1)  # rows of one probability come all at once
    counted = np.cumsum(weights)[ends]
    reached = hits[ends]
    gained = np.diff(reached, prepend=0.0)
    return float((gained * reached / np.maximum(counted, 1e-300)).sum() / hits[-1])


def log_losses(label: BoolArray, probability: FloatArray) -> FloatArray:
    """-ln of the probability given to what happened, for each row; their mean is the log loss. A probability of 0 or 1
    counts as 2e-16 away from it."""
    epsilon = np.finfo(np.float64).eps
    p = np.clip(probability, epsilon, 1 - epsilon)
    return np.asarray(-(xlogy(label, p) + xlogy(~label, 1 - p)), dtype=np.float64)


def brier_losses(label: BoolArray, probability: FloatArray) -> FloatArray:
    """Squared distance of the probability from what happened, for each row; their mean is the Brier score."""
    return np.asarray((probability - label) ** 2, dtype=np.float64)
