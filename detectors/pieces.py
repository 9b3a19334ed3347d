"""Parts of the traffic that account for a change: bins and categories of features, alone and crossed in pairs.

They are searched on one half of the rows and believed where the other half confirms them: Holm, "A simple sequentially rejective
multiple test procedure", Scand. J. Stat. 6 (1979). The halves are runs of rows in turn, so that each has all of the time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from detectors.contract import ColumnKind, FloatArray, Window
from detectors.reconstruction import LARGEST

BoolArray = NDArray[np.bool_]
Rows = Sequence[NDArray[np.int64]]

BINS = 4
"""Numbers are cut at the quartiles of both sides together; of up to so many distinct values each is a bin."""

NAMES = 10
"""Categories with a bin of their own, the most frequent; the others share one."""

RUNS = 40
"""Into so many runs of rows a side is cut; the even ones are searched, the odd ones confirm."""

STANDS_OUT = 2.0
"""Of standard errors: what adds less on the searched half is not worth a test on the other."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the traffic and its share in the change beyond the pieces before it, as the confirming half has it.

    `conditions` all hold: (feature, bin). `n_reference` and `n_current` count rows of both halves.
    """

    conditions: tuple[tuple[str, str], ...]
    contribution: float
    share: float
    p_value: float
    n_reference: int
    n_current: int
    mean_reference: float | None
    mean_current: float | None

    @property
    def name(self) -> str:
        return " and ".join(text for _, text in self.conditions)


@dataclass(frozen=True, slots=True)
class Bins:
    """`indicators` bool (rows, bins), the reference's rows first; `labels` (feature, text) of each bin."""

    indicators: BoolArray
    labels: list[tuple[str, str]]

    def of(self, feature: str) -> BoolArray:
        """(rows, bins of the feature)."""
        return self.indicators[:, [i for i, (name, _) in enumerate(self.labels) if name == feature]]


def cut(features: Sequence[tuple[str, ColumnKind]], reference: Window, current: Window, rows: Rows) -> Bins:
    """The bins of these features; `rows`: which rows of either window."""
    blocks, labels = [], []
    for name, kind in features:
        found, texts = (_numbers if kind == "number" else _names)(name, reference, current, rows)
        blocks.append(found)
        labels += [(name, text) for text in texts]
    return Bins(np.hstack(blocks), labels)


def _numbers(name: str, reference: Window, current: Window, rows: Rows) -> tuple[BoolArray, list[str]]:
    values = np.concatenate([w.numbers(name)[r] for w, r in zip((reference, current), rows, strict=True)])
    there = np.abs(values) <= LARGEST
    distinct = np.unique(values[there])
    found: list[BoolArray] = []
    texts: list[str] = []
    if len(distinct) <= BINS:
        found = [values == one for one in distinct]
        texts = [f"{name} = {one:.6g}" for one in distinct]
    else:
        edges = np.unique(np.quantile(values[there], np.arange(1, BINS) / BINS))
        edges = edges[edges > distinct[0]]
        codes = np.where(there, np.searchsorted(edges, values, "right"), -1)
        found = [codes == i for i in range(len(edges) + 1)]
        texts = [f"{name} < {edges[0]:.6g}"]
        texts += [f"{low:.6g} <= {name} < {high:.6g}" for low, high in itertools.pairwise(edges)]
        texts += [f"{name} >= {edges[-1]:.6g}"]
    if not there.all():
        found.append(~there)
        texts.append(f"{name} missing")
    return np.stack(found, axis=1), texts


def _names(name: str, reference: Window, current: Window, rows: Rows) -> tuple[BoolArray, list[str]]:
    columns = [w.categories(name) for w in (reference, current)]
    every = sorted({*columns[0].names, *columns[1].names})
    place = {text: i for i, text in enumerate(every)}
    parts = []
    for column, chosen in zip(columns, rows, strict=True):
        codes = np.array([*(place[text] for text in column.names), -1])
        parts.append(codes[column.codes[chosen]])
    codes = np.concatenate(parts)
    counts = np.bincount(codes[codes >= 0], minlength=len(every))
    kept = [i for i in np.lexsort((np.arange(len(counts)), -counts))[:NAMES].tolist() if counts[i]]
    found, texts = [codes == i for i in kept], [f"{name} = {every[i]}" for i in kept]
    other = (codes >= 0) & ~np.isin(codes, kept)
    for rest, text in ((other, f"{name} is another"), (codes < 0, f"{name} missing")):
        if rest.any():
            found.append(rest)
            texts.append(text)
    return np.stack(found, axis=1), texts


def find(bins: Bins, values: FloatArray, n: int, *, min_rows: int, most: int, alpha: float) -> tuple[tuple[Piece, ...], int]:
    """Parts of the traffic that account for a change of the mean of `values`, of which the first `n` are the reference's: those
    that the other half confirms, the strongest evidence first; and how many were looked at. Each is looked for in what those
    before it leave unexplained, so that their shares add up and a part is not named again as one that holds it.

    `min_rows`: of a part, on one side. `most`: so many are handed to the other half. `alpha`: that any is confirmed by chance.
    """
    half = halves(n, len(values) - n)
    first, second = (_Half(bins, values, n, half == one) for one in (0, 1))
    chosen, searched = _candidates(bins, first, min_rows, most)
    found = []
    for pair in chosen:
        found.append((pair, *second.confirmed(pair, first.sign)))
        second.explain(pair)
    pieces = []
    for rank, at in enumerate(sorted(range(len(found)), key=lambda at: found[at][2])):
        pair, contribution, p_value = found[at]
        # Holm: as soon as one is not believed, none after it is.
        adjusted = p_value * (len(found) - rank)
        if adjusted > alpha or second.change * first.sign <= 0:
            break
        inside: BoolArray = bins.indicators[:, list(pair)].all(axis=1, out=np.empty(len(values), dtype=bool))
        before, after = values[:n][inside[:n]], values[n:][inside[n:]]
        piece = Piece(
            tuple(bins.labels[i] for i in pair),
            contribution,
            contribution / second.change,
            min(adjusted, 1.0),
            len(before),
            len(after),
            float(before.mean()) if len(before) else None,
            float(after.mean()) if len(after) else None,
        )
        pieces.append((at, piece))
    return tuple(piece for _, piece in sorted(pieces, key=lambda one: one[0])), searched


def halves(n: int, m: int) -> NDArray[np.int64]:
    """Of each of n and then m rows: 0 where it is searched, 1 where it confirms."""
    return np.concatenate([np.arange(side) * RUNS // side % 2 for side in (n, m)])


class _Half:
    """One half of the rows. What a part of the traffic adds to the change is q (mean now - base) - p (mean before - base), with
    its shares p and q, and the reference's mean as the base: 0 for one that is as all are, however much it grew, and parts
    that make up the whole add up to the change."""

    def __init__(self, bins: Bins, values: FloatArray, n: int, chosen: BoolArray) -> None:
        rows = np.flatnonzero(chosen)
        rows_of = rows[rows < n], rows[rows >= n]
        base = float(values[rows_of[0]].mean())
        self.bins = tuple(bins.indicators[side] for side in rows_of)
        self.values = tuple(values[side] - base for side in rows_of)
        self.change = float(self.values[1].mean() - self.values[0].mean())
        self.sign = 1.0 if self.change >= 0 else -1.0

    def crossed(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of all pairs of bins (the diagonal: a bin alone): what they add, the standard error of that, and rows on the side that
        has more of them. (bins, bins) each."""
        added, variance, most = [], np.zeros(()), np.zeros(())
        for bins, values in zip(self.bins, self.values, strict=True):
            b, rows = bins.astype(np.float64), len(values)
            mean = b.T @ (b * values[:, None]) / rows
            square = b.T @ (b * (values**2)[:, None]) / rows
            added.append(mean)
            variance = variance + np.maximum(square - mean**2, 0) / rows
            most = np.maximum(most, b.T @ b)
        return added[1] - added[0], np.sqrt(variance), most

    def explain(self, pair: tuple[int, ...]) -> None:
        """Leave out what a part adds."""
        for bins, values in zip(self.bins, self.values, strict=True):
            values[bins[:, list(pair)].all(axis=1)] = 0.0

    def confirmed(self, pair: tuple[int, ...], sign: float) -> tuple[float, float]:
        """What a part adds, and the one-sided p-value that it adds in that direction."""
        means, errors, freedom = [], [], []
        for bins, values in zip(self.bins, self.values, strict=True):
            mean, error, batches = mean_error(bins[:, list(pair)].all(axis=1) * values)
            means.append(mean)
            errors.append(error**2)
            freedom.append(batches - 1)
        added, variance = means[1] - means[0], sum(errors)
        if variance == 0:
            return added, 1.0
        # Welch and Satterthwaite.
        df = variance**2 / sum(e**2 / f for e, f in zip(errors, freedom, strict=True))
        return added, float(student.sf(sign * added / math.sqrt(variance), df))


def _candidates(bins: Bins, half: _Half, min_rows: int, most: int) -> tuple[list[tuple[int, ...]], int]:
    """The parts that stand out most, each in what those before it leave; and how many there are."""
    features = np.array([name for name, _ in bins.labels])
    possible = (features[:, None] != features[None, :]) | np.eye(len(features), dtype=bool)
    possible &= np.tri(len(features), dtype=bool)
    chosen: list[tuple[int, ...]] = []
    searched = 0
    while len(chosen) < most:
        added, error, rows = half.crossed()
        there = possible & (rows >= min_rows / 2)
        searched = searched or int(there.sum())
        there &= error > 0
        z = np.where(there, half.sign * added / np.where(there, error, 1.0), -np.inf)
        best = float(z.max())
        if best <= STANDS_OUT:
            break
        # Of parts that say the same, such as one inside another with nothing between them, the smallest.
        i, j = divmod(int(np.argmin(np.where(z >= best * (1 - 1e-9), rows, np.inf))), len(features))
        chosen.append((i,) if i == j else (j, i))
        half.explain(chosen[-1])
    return chosen, searched


def mean_error(values: FloatArray) -> tuple[float, float, int]:
    """Mean, its standard error by means of batches of neighbours, and how many batches: rows that depend on those before them
    count for less. Flegal and Jones, Ann. Stat. 38 (2010): batches of the root of the length."""
    size = max(math.isqrt(len(values)), 1)
    batches = len(values) // size
    means = values[: batches * size].reshape(batches, size).mean(axis=1)
    return float(values.mean()), float(means.std(ddof=1)) / math.sqrt(batches), batches
