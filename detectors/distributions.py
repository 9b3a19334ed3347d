"""How one column is distributed on two sides, in cells that a reader can look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.contract import ColumnKind, FloatArray, Window, text_of_number
from detectors.sides import finite

MOST_VALUES = 20
"""Numbers with no more distinct values than this are shown one by one."""

MOST_CATEGORIES = 12

SHOWN = 0.99
"""The bins span this middle part of both sides; what lies outside is counted in the first and the last, and said."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Shares of the values of either side, both (cells,). `edges` (cells + 1,) are those of bins of equal width; None where each
    cell is one of `labels`. `beyond` says of how many values (reference, current) lie outside the edges: they are in the outer
    bins."""

    labels: tuple[str, ...]
    edges: FloatArray | None
    reference: FloatArray
    current: FloatArray
    n: tuple[int, int]
    beyond: tuple[int, int] = (0, 0)


def distribution(kind: ColumnKind, reference: Window, current: Window, name: str, bins: int = 30) -> Distribution | None:
    """None where a side has no value.

    Raises:
        NotEvaluable: not_numeric, missing_column.
    """
    if kind == "number":
        return _of_numbers(finite(reference.numbers(name)), finite(current.numbers(name)), bins)
    sides = reference.categories(name), current.categories(name)
    if not all((side.codes >= 0).any() for side in sides):
        return None
    found = [np.bincount(side.codes[side.codes >= 0], minlength=len(side.names)) for side in sides]
    counts = [dict(zip(side.names, one.tolist(), strict=True)) for side, one in zip(sides, found, strict=True)]
    totals = [sum(one.values()) for one in counts]
    shares = {
        text: tuple(float(one.get(text, 0) / total) for one, total in zip(counts, totals, strict=True))
        for text in {**counts[0], **counts[1]}
    }
    order = sorted(shares, key=lambda text: (-max(shares[text]), text))
    kept, rest = order[:MOST_CATEGORIES], order[MOST_CATEGORIES:]
    labels = [*kept, *([f"{len(rest)} more"] if rest else [])]
    columns = [[shares[text][i] for text in kept] + ([sum(shares[text][i] for text in rest)] if rest else []) for i in (0, 1)]
    return Distribution(tuple(labels), None, np.array(columns[0]), np.array(columns[1]), (int(totals[0]), int(totals[1])))


def _of_numbers(reference: FloatArray, current: FloatArray, bins: int) -> Distribution | None:
    n = len(reference), len(current)
    if not all(n):
        return None
    values = [np.unique(side) for side in (reference, current)]
    distinct = np.unique(np.concatenate(values))
    if len(distinct) <= MOST_VALUES:
        counts = [np.bincount(np.searchsorted(distinct, side), minlength=len(distinct)) for side in (reference, current)]
        labels = tuple(text_of_number(value) for value in distinct.tolist())
        return Distribution(labels, None, counts[0] / n[0], counts[1] / n[1], n)
    tails = ((1 - SHOWN) / 2, (1 + SHOWN) / 2)
    ends = [np.quantile(side, tails) for side in (reference, current)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.linspace(low, high, bins + 1)
    if not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        return None  # too wide, or too narrow, for bins of equal width
    found = [np.histogram(np.clip(side, low, high), edges)[0] / len(side) for side in (reference, current)]
    beyond = [int(((side < low) | (side > high)).sum()) for side in (reference, current)]
    return Distribution((), edges, found[0], found[1], n, (beyond[0], beyond[1]))
