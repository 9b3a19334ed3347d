"""Chooses where a cascade's first stage is unsure: the narrowest band around the flag in which the loss stays within bounds.

The loss is full model less cascade in AUROC, on the same resampled rows (a paired bootstrap over groups), once as the mean
within sources and once pooled. The mean of the draws has to keep to the bound, of both; its interval stands in the card.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.cascade import Band

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]
Names = NDArray[np.str_]

STEP = 0.01
SEED = 0


class Loss(NamedTuple):
    """AUROC lost: lower end, mean and upper end of the 95 % interval. Below zero: gained."""

    macro: tuple[float, float, float]
    pooled: tuple[float, float, float]


class Chosen(NamedTuple):
    width: float
    band: Band
    share: float
    """Of the rows, that go on."""
    loss: Loss


def choose(
    positive: Mask,
    source: Names,
    group: Names,
    *,
    first: FloatArray,
    second: FloatArray,
    full: FloatArray,
    flag: float,
    most_loss: float = 0.01,
    draws: int = 400,
) -> Chosen:
    """`first` is the first stage's value of each row, `second` the one it has if it goes on, `full` that of the full model.

    Raises: ValueError, when even with all rows going on more is lost.
    """
    for width in np.round(np.arange(0.0, 1.0 + STEP / 2, STEP), 2):
        inside = np.abs(first - flag) <= width if width else np.zeros(len(first), dtype=bool)
        loss = losses(positive, source, group, full, np.where(inside, second, first), draws=draws)
        if max(loss.macro[1], loss.pooled[1]) <= most_loss:
            band = Band.around(flag, float(width))
            return Chosen(float(width), band, float(inside.mean()), loss)
    raise ValueError(f"more than {most_loss} AUROC is lost even where every row goes on: {loss}")


def losses(positive: Mask, source: Names, group: Names, full: FloatArray, cascade: FloatArray, *, draws: int = 400) -> Loss:
    rng = np.random.default_rng(SEED)
    names, member = np.unique(group, return_inverse=True)
    rows_of = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    found = []
    for _ in range(draws):
        rows = np.concatenate([rows_of[g] for g in rng.integers(len(names), size=len(names))])
        y, s = positive[rows], source[rows]
        found.append(
            (
                macro_auroc(y, s, full[rows]) - macro_auroc(y, s, cascade[rows]),
                auroc(y, full[rows]) - auroc(y, cascade[rows]),
            )
        )
    # A source with one label only in a draw gives NaN; leave that draw out.
    values = np.array(found)
    low, high = np.nanpercentile(values, [2.5, 97.5], axis=0)
    mean = np.nanmean(values, axis=0)
    macro, pooled = ((float(low[i]), float(mean[i]), float(high[i])) for i in range(2))
    return Loss(macro, pooled)


def macro_auroc(positive: Mask, source: Names, score: FloatArray) -> float:
    """Mean of the sources' AUROCs: what a source gains by being easy to tell from another does not count."""
    masks = [source == s for s in np.unique(source)]
    return float(np.mean([auroc(positive[mask], score[mask]) for mask in masks]))


def auroc(positive: Mask, score: FloatArray) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann-Whitney)."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))
