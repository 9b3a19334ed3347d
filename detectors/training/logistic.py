"""Logistic regression on few features, and the figures of a probability: for tables of which each row is one labelled answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from detectors.training.bands import auroc, macro_auroc

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Answers, one a row."""

    features: FloatArray  # (rows, features)
    source: NDArray[np.str_]
    group: NDArray[np.str_]  # rows of a group stay on one side of a split
    bad: NDArray[np.bool_]

    def where(self, keep: NDArray[Any]) -> Labelled:
        return replace(self, **{name: getattr(self, name)[keep] for name in self.__dataclass_fields__})

    def balance(self) -> FloatArray:
        """A weight for each row, 1 in sum: every label of every source weighs the same."""
        weights = np.zeros(len(self.bad))
        for source in np.unique(self.source):
            for label in (False, True):
                cell = (self.source == source) & (self.bad == label)
                weights[cell] = 1.0 / max(1, cell.sum())
        return np.asarray(weights / weights.sum())


class Fitted(NamedTuple):
    mean: FloatArray
    scale: FloatArray
    weights: FloatArray
    bias: float

    def probabilities(self, features: FloatArray) -> FloatArray:
        logits = ((features - self.mean) / self.scale * self.weights).sum(axis=1) + self.bias
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float64)


def fit(table: Labelled, signs: Sequence[int], l2: float) -> Fitted:
    """The probability that a row is bad, with each weight held to its sign (0: either); convex, so there is one answer.

    Little regularisation makes it the calibration, too (Platt scaling, over several values at once).
    """
    weight = table.balance()
    mean = weight @ table.features
    scale = np.sqrt(weight @ (table.features - mean) ** 2)
    scale[scale < 1e-6] = 1.0
    x = (table.features - mean) / scale
    sign = np.where(table.bad, 1.0, -1.0)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        margin = (x @ theta[1:] + theta[0]) * sign
        slope = -weight * sign * np.exp(-np.logaddexp(0.0, margin))
        value = weight @ np.logaddexp(0.0, -margin) + l2 * theta[1:] @ theta[1:]
        return float(value), np.concatenate([[slope.sum()], x.T @ slope + 2 * l2 * theta[1:]])

    bounds = [(None, None)] + [(0.0 if s > 0 else None, 0.0 if s < 0 else None) for s in signs]
    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 2_000})
    return Fitted(mean, scale, np.asarray(found.x[1:]), float(found.x[0]))


def out_of_fold(table: Labelled, folds: int, seed: int, fit_one: Callable[[Labelled], Fitted]) -> FloatArray:
    """The probability of each row by a model that saw none of its group."""
    groups, member = np.unique(table.group, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(groups))[member] % folds
    found = np.zeros(len(table.bad))
    for k in range(folds):
        found[fold == k] = fit_one(table.where(fold != k)).probabilities(table.features[fold == k])
    return found


def without_source(table: Labelled, fit_one: Callable[[Labelled], Fitted]) -> FloatArray:
    """The probability of each row by a model that saw nothing of its source."""
    found = np.zeros(len(table.bad))
    for source in np.unique(table.source):
        here = table.source == source
        found[here] = fit_one(table.where(~here)).probabilities(table.features[here])
    return found


def draws(group: NDArray[np.str_], many: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Rows of resampled groups."""
    rng = np.random.default_rng(seed)
    names, member = np.unique(group, return_inverse=True)
    rows_of = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    for _ in range(many):
        yield np.concatenate([rows_of[g] for g in rng.integers(len(names), size=len(names))])


def figures(table: Labelled, score: FloatArray, bootstraps: int, seed: int) -> dict[str, Any]:
    """AUROC pooled, and its mean within sources, with bootstrap 95 % intervals over groups; and by source."""
    bad, source = table.bad, table.source
    found = [(auroc(bad[r], score[r]), macro_auroc(bad[r], source[r], score[r])) for r in draws(table.group, bootstraps, seed)]
    # A source with one label only in a draw gives NaN; leave that draw out.
    low, high = np.nanpercentile(np.array(found), [2.5, 97.5], axis=0)
    return {
        "pooled": round(auroc(bad, score), 3),
        "pooled_95": [round(float(low[0]), 3), round(float(high[0]), 3)],
        "macro": round(macro_auroc(bad, source, score), 3),
        "macro_95": [round(float(low[1]), 3), round(float(high[1]), 3)],
        **{str(s): round(auroc(bad[source == s], score[source == s]), 3) for s in np.unique(source)},
    }


class Bin(NamedTuple):
    """A tenth of the scale: rows in it, their mean probability, and the share that is bad; sources and labels weigh equally."""

    rows: int
    said: float
    happened: float


def reliability(table: Labelled, probability: FloatArray) -> list[Bin]:
    """The reliability curve over tenths, those that have rows."""
    weights = table.balance()
    tenth = np.minimum((probability * 10).astype(int), 9)
    found = []
    for k in range(10):
        here = tenth == k
        if total := weights[here].sum():
            said, happened = weights[here] @ probability[here] / total, weights[here] @ table.bad[here] / total
            found.append(Bin(int(here.sum()), round(float(said), 3), round(float(happened), 3)))
    return found


def calibration_error(table: Labelled, probability: FloatArray) -> float:
    """Mean distance, over tenths of the scale, between the probability and the share of bad rows (ECE; Naeini et al. 2015)."""
    tenth = np.minimum((probability * 10).astype(int), 9)
    return float(np.abs(np.bincount(tenth, table.balance() * (probability - table.bad), 10)).sum())


def lowest_flag(table: Labelled, probability: FloatArray, false_flags: float) -> float:
    """The lowest value, to two digits, at or above which at most a share `false_flags` of the good rows lie."""
    weights = table.balance() * ~table.bad
    grid = np.round(np.arange(0.01, 1.0, 0.01), 2)
    return float(min(t for t in grid if weights @ (probability >= t) <= false_flags * weights.sum()))
