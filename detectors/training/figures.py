"""The figures of the card: AUROC with its interval, calibration, thresholds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.training.bands import auroc, macro_auroc
from detectors.training.table import FloatArray, Table, balance


def figures(table: Table, score: FloatArray, bootstraps: int, seed: int) -> dict[str, Any]:
    """AUROC pooled, and its mean within sources, with bootstrap 95 % intervals over groups."""
    found = []
    for rows in draws(table, bootstraps, seed):
        again = replace(table, source=table.source[rows], supported=table.supported[rows])
        found.append((auroc(again.supported, score[rows]), macro(again, score[rows])))
    # A source with one label only in a draw gives NaN; leave that draw out.
    low, high = np.nanpercentile(np.array(found), [2.5, 97.5], axis=0)
    return {
        "pooled": rounded(auroc(table.supported, score)),
        "pooled_95": [rounded(low[0]), rounded(high[0])],
        "macro": rounded(macro(table, score)),
        "macro_95": [rounded(low[1]), rounded(high[1])],
        **by_source(table, score),
    }


def draws(table: Table, count: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Rows of `count` resamples of whole groups."""
    rng = np.random.default_rng(seed)
    groups, member = np.unique(table.group, return_inverse=True)
    rows_of = [np.flatnonzero(member == g) for g in range(len(groups))]
    for _ in range(count):
        yield np.concatenate([rows_of[g] for g in rng.integers(len(groups), size=len(groups))])


def interval(table: Table, score: FloatArray, bootstraps: int, seed: int) -> list[float]:
    """AUROC and its bootstrap 95 % interval over groups."""
    found = [auroc(table.supported[rows], score[rows]) for rows in draws(table, bootstraps, seed)]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return [rounded(auroc(table.supported, score)), rounded(low), rounded(high)]


def lead(table: Table, score: FloatArray, rule: FloatArray, bootstraps: int, seed: int = 0) -> list[float]:
    """How much higher the macro AUROC of `score` is than that of `rule`, and the interval of a paired bootstrap."""
    found = []
    for rows in draws(table, bootstraps, seed):
        again = replace(table, source=table.source[rows], supported=table.supported[rows])
        found.append(macro(again, score[rows]) - macro(again, rule[rows]))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return [rounded(macro(table, score) - macro(table, rule)), rounded(low), rounded(high)]


def reliability(table: Table, score: FloatArray) -> list[dict[str, float]]:
    """For each tenth of the scale that holds answers: how many, their mean value and the share supported, weighed."""
    weights = balance(table)
    tenth = np.minimum((score * 10).astype(int), 9)
    found = []
    for k in np.unique(tenth):
        here = tenth == k
        total = weights[here].sum()
        found.append(
            {
                "answers": int(here.sum()),
                "value": rounded(float(weights[here] @ score[here] / total)),
                "supported": rounded(float(weights[here] @ table.supported[here] / total)),
            }
        )
    return found


def by_source(table: Table, score: FloatArray) -> dict[str, float]:
    masks = {str(s): table.source == s for s in np.unique(table.source)}
    return {s: rounded(auroc(table.supported[mask], score[mask])) for s, mask in masks.items()}


def macro(table: Table, score: FloatArray) -> float:
    return macro_auroc(table.supported, table.source, score)


def calibration_error(table: Table, score: FloatArray) -> float:
    """Mean distance, over tenths of the scale, between the value and the share of supported answers (ECE; Naeini et al. 2015).

    The sources and labels weigh equally, as in training: where most answers are supported, values are too low.
    """
    weights = balance(table) / balance(table).sum()
    tenth = np.minimum((score * 10).astype(int), 9)
    gaps = np.bincount(tenth, weights * (score - table.supported), 10)
    return float(np.abs(gaps).sum())


def best_threshold(table: Table, score: FloatArray) -> float:
    """Where balanced accuracy is highest, to two digits."""
    weights = balance(table)
    grid = np.arange(0.05, 0.96, 0.01)
    hits = [float(weights @ ((score >= t) == table.supported)) for t in grid]
    return rounded(float(grid[int(np.argmax(hits))]), 2)


def flag_at(table: Table, score: FloatArray, false_flags: float) -> float:
    """The highest score, to two digits, at or below which at most a share `false_flags` of the supported answers lie."""
    weights = balance(table) * table.supported
    grid = np.arange(0.0, 1.0, 0.01)
    fine = [t for t in grid if weights @ (score <= t) <= false_flags * weights.sum()]
    return rounded(float(max(fine)), 2)


def rounded(value: float, digits: int = 3) -> float:
    return round(float(value), digits)
