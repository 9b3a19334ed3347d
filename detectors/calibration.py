"""What a statistic comes to by chance: its null distribution for windows of one size, from the reference alone.

The reference is split again and again into a pseudo-window and the held-out rest, all columns by the same rows, so that features
that go together stay together. Rows are taken to be in the order of time, and whole blocks of them are drawn, so that
autocorrelation counts: Politis and Romano, "A circular block-resampling procedure", 1992; block length by Politis and White,
Econometric Reviews 23 (2004), corrected by Patton, 28 (2009). What goes together across the seams of blocks is lost, and a
window moves further by chance than such a null says. So it is widened by how much further whole stretches of the reference, as
long as a window, are from the rest (subsampling, as Politis, Romano and Wolf have it for the variance, 1999, chapter 3), and by
what is not known of that. Beyond what the resamples resolve a fitted tail goes on, where one fits (`detectors.tails`).

Nothing here draws from a clock or a global generator: equal references, sizes and settings give equal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.cells import Cells, Distance
from detectors.contract import FloatArray, NotEnoughData
from detectors.summary import Blocks, content_seed
from detectors.tails import Tail, fitted_tail

Rows = NDArray[np.int64]

MOST_WINDOW_ROWS = 10_000
"""Larger windows are calibrated at this size, and the null scaled to theirs."""

MOST_FOR_DEPENDENCE = 2**20
"""Rows, the last of the reference, that say how far they depend on each other: enough for the longest blocks there are."""

MIN_BLOCKS = 20
"""With fewer in the reference there are too few windows to learn from."""

DRAWN_BLOCKS = 4
"""A window is put together of so many blocks at least: of one or two there are few that differ..."""

ENOUGH_BLOCKS = 500
"""...but where the reference has so many, they may be as long as they like."""

MOST_STRETCHES = 200
"""So many stretches of the reference, overlapping by three quarters, say how far it is from itself."""

RESOLVED = 10
"""Of the largest resampled values so many are beyond what counting resolves."""

EXTRAPOLATED = 100.0
"""How far beyond its smallest countable p-value a fitted tail is believed."""


@dataclass(frozen=True)
class Null:
    """The distribution of a statistic under no drift, for windows of one size. The statistic grows with drift.

    `values` are resampled ones, sorted. `floor` is the smallest p-value that can be told; nothing below is ever claimed.
    """

    values: FloatArray
    floor: float
    tail: Tail | None = None

    @classmethod
    def of(cls, values: FloatArray, smallest: float = 0.0, order: int | None = None) -> Null:
        """`smallest` is a bound on the floor for another reason, such as how many splits there are at all. `order`, where it is
        known, says of what family they are: that of a `Column`, or see `fitted_tail`."""
        ordered = np.sort(values)
        counted = max(1 / (len(ordered) + 1), smallest)
        tail = fitted_tail(ordered, order)
        return cls(ordered, counted if tail is None else counted / EXTRAPOLATED, tail)

    def p_value(self, value: float) -> float:
        """Probability of a value as large or larger, at least `floor`."""
        size = len(self.values)
        reached = size - int(np.searchsorted(self.values, value, "left"))
        counted = (reached + 1) / (size + 1)
        if reached < RESOLVED and self.tail is not None and self.tail.of(value) > self.tail.start:
            counted = min(self.tail.beyond(value), (RESOLVED + 1) / (size + 1))
        return min(max(counted, self.floor), 1.0)

    def quantile(self, alpha: float) -> float:
        """The value from where on the p-value is at most `alpha`; inf, where `alpha` is below the floor."""
        size = len(self.values)
        if alpha >= 1:
            return float(self.values[0])
        if alpha < self.floor:
            return math.inf
        reached = math.floor(alpha * (size + 1) * (1 + 1e-12)) - 1
        if reached >= RESOLVED or self.tail is None:
            return float(np.nextafter(self.values[size - 1 - reached], np.inf)) if reached >= 0 else math.inf
        return max(self.tail.value_at(alpha), float(np.nextafter(self.values[size - RESOLVED], np.inf)))

    def scaled(self, factor: float) -> Null:
        """The null of the statistic times `factor`."""
        return replace(self, values=self.values * factor, tail=self.tail and self.tail.scaled(factor))


# --- which rows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """How a reference of `rows` rows is split: `blocks` blocks of `block_rows` are the pseudo-window, the rest is held out."""

    rows: int
    blocks: int
    block_rows: int
    resamples: int
    seed: int = 0

    @property
    def window_rows(self) -> int:
        return self.blocks * self.block_rows

    @property
    def smallest(self) -> float:
        """One of so many splits: no p-value can be below."""
        return 1 / math.comb(self.rows // self.block_rows, self.blocks)

    @property
    def seamed(self) -> bool:
        """Whether the rows depend on each other, and pseudo-windows are put together of several blocks."""
        return 1 < self.block_rows < self.window_rows

    @property
    def stretch_rows(self) -> int:
        """Of a stretch: a window's, or fewer where that would leave fewer than 20; never fewer than a block's."""
        return max(min(self.window_rows, self.rows // MIN_BLOCKS), self.block_rows)

    def stretches(self, at_once: int = 50) -> Iterator[Rows]:
        """The row numbers of whole stretches, (up to `at_once`, stretch_rows) each time, evenly over the reference."""
        length = self.stretch_rows
        count = min(4 * self.rows // length, MOST_STRETCHES)
        starts = np.arange(count) * (self.rows - length) // max(count - 1, 1)
        for first in range(0, count, at_once):
            yield starts[first : first + at_once, None] + np.arange(length)

    def widening(self, drawn: FloatArray, whole: FloatArray) -> FloatArray:
        """By what factor the variance of each pseudo-window is to be larger, (len(drawn),). `drawn` and `whole` (stretches,) are
        squares of the statistic, for sides of the same size.

        The ratio of their means is an estimate. As the mean of so few stretches that do not overlap it is off like a variance of
        some degrees of freedom, and each pseudo-window has its own guess of it: Student's reason for a t in place of a z.
        """
        whole = whole[np.isfinite(whole)]
        mean = float(drawn[np.isfinite(drawn)].mean()) if np.isfinite(drawn).any() else 0.0
        if len(whole) < MIN_BLOCKS or not mean > 0 or not whole.mean() > 0:
            return np.ones(len(drawn))
        # Means over stretches that overlap are as sure as those over half as many more that do not.
        apart = min(1.5 * self.rows / self.stretch_rows, len(whole))
        unsure = float(np.nanvar(drawn)) / mean**2 / apart
        freedom = max(2 / unsure, 5.0) if unsure > 0 else math.inf
        guesses = np.ones(len(drawn))
        if math.isfinite(freedom):
            guesses = freedom / np.random.default_rng([self.seed, self.rows, len(drawn)]).chisquare(freedom, len(drawn))
        found: FloatArray = float(whole.mean()) / mean * guesses
        return found

    def draws(self, at_once: int = 50) -> Iterator[Rows]:
        """The row numbers of the pseudo-windows, (up to `at_once`, window_rows) each time, until all resamples are through."""
        rng = np.random.default_rng([self.seed, self.rows, self.window_rows, self.block_rows])
        there, within = self.rows // self.block_rows, np.arange(self.block_rows)
        for first in range(0, self.resamples, at_once):
            number = min(at_once, self.resamples - first)
            chosen = np.stack([rng.choice(there, self.blocks, replace=False, shuffle=False) for _ in range(number)])
            if self.block_rows == 1:
                yield chosen
                continue
            starts = chosen * self.block_rows + rng.integers(0, self.rows, (number, 1))
            yield ((starts[:, :, None] + within) % self.rows).reshape(number, -1)


def plan(rows: int, window_rows: int, block_rows: int | None, resamples: int, seed: int, what: str = "rows") -> Plan:
    """A plan for windows of about `window_rows` rows; of fewer where the reference is small or they are many. `block_rows` is
    what `dependence` said: None where the rows depend on each other further than can be told. `what` the rows are, for messages.

    Raises:
        NotEnoughData: the reference has too few rows, or too few that do not depend on each other.
    """
    most = max(min(window_rows, rows // 2, MOST_WINDOW_ROWS), 1)
    # Two digits of the size, so that windows of about one size share one null.
    size = most // (step := 10 ** max(0, len(str(most)) - 2)) * step
    # Where the dependence has no end that can be seen, such as a daily rhythm, whole windows still have it inside them.
    length = size if block_rows is None else min(block_rows, size)
    if block_rows is not None and (part := size // DRAWN_BLOCKS) > 1 and length > part and rows // length < ENOUGH_BLOCKS:
        length = part
    if rows // length < MIN_BLOCKS:
        how = "depend on each other further than can be told" if block_rows is None else f"depend on each other over {length}"
        remedy = ", or set block_rows: 1 where the order of its rows is not that of time" if what == "rows" else ""
        raise NotEnoughData(
            f"cannot be calibrated: a reference of {rows} {what} that {how} {what if block_rows is not None else ''}".rstrip()
            + f" has {rows // length} blocks of {length}, {MIN_BLOCKS} are needed; take a longer one{remedy}"
        )
    return Plan(rows, size // length, length, resamples, seed)


def dependence(columns: Iterable[FloatArray]) -> int | None:
    """Over how many rows the columns of a reference depend on themselves: the longest block length that one of them asks for;
    1 where there is no autocorrelation. None where one's autocorrelation does not end within a twentieth of the rows.

    NaN counts as a middling value.
    """
    lengths = [_block_rows(column) for column in columns if len(column)]
    return None if None in lengths else max((length for length in lengths if length is not None), default=1)


def _block_rows(column: FloatArray) -> int | None:
    column = column[-MOST_FOR_DEPENDENCE:]
    # By rank, since one outlier would hide all correlation; missing values in the middle.
    n = len(column)
    _, places = np.unique(column, return_inverse=True, equal_nan=True)
    ranks = np.cumsum(np.bincount(places))[places].astype(np.float64)
    there = ~np.isnan(column)
    if there.sum() < 2 or np.ptp(ranks[there]) == 0:
        return 1
    ranks = np.where(there, ranks - ranks[there].mean(), 0.0)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(ranks, size)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), size)[: n // MIN_BLOCKS * 2 + 20] / n
    correlation = covariance / covariance[0]
    limit, run = 2 * math.sqrt(math.log10(n) / n), max(5, math.ceil(math.sqrt(math.log10(n))))
    small = np.abs(correlation[1:]) < limit
    runs = np.convolve(small, np.ones(run, dtype=np.int64), "valid") == run
    if not runs.any() or (lag := int(np.argmax(runs))) > n // MIN_BLOCKS:
        return None
    if lag == 0:
        return 1
    lags = np.arange(1, 2 * lag + 1)
    window = np.clip(2 * (1 - lags / (2 * lag)), 0.0, 1.0)
    part = covariance[1 : 2 * lag + 1] * window
    slope, level = 2 * float((lags * part).sum()), covariance[0] + 2 * float(part.sum())
    if level <= 0:
        return 2 * lag
    found: int | None = max(
        1, min(math.ceil((2 * slope**2 / (4 / 3 * level**2)) ** (1 / 3) * n ** (1 / 3)), math.ceil(3 * math.sqrt(n)))
    )
    return found


# --- columns -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One column of a reference, counted: `codes` (rows,) as `cells` gives them, or, where the rows are gone, `blocks` (blocks,
    cells), its counts by stretch of time. `order` says how the distance shrinks with the sizes of the sides n and m: 1, as the
    root of 1/n + 1/m; 2, as 1/n + 1/m itself."""

    cells: Cells
    codes: NDArray[np.integer[Any]] | None
    distance: Distance
    order: int
    of_blocks: Blocks | None = None

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        return None if self.of_blocks is None else self.of_blocks.counts

    @cached_property
    def seed(self) -> int:
        if self.of_blocks is not None:
            return self.of_blocks.seed
        assert self.codes is not None
        return content_seed({"": self.codes})

    @cached_property
    def totals(self) -> NDArray[np.int64]:
        if self.blocks is not None:
            return np.asarray(self.blocks.sum(axis=0))
        assert self.codes is not None
        return self.cells.count(self.codes)

    @property
    def signal(self) -> FloatArray:
        """The reference as numbers in time: its cells, or how frequent each category is; the mean of a block."""
        assert self.cells.reference is not None
        of_cells = (
            self.cells.reference if self.cells.points is None else np.arange(self.cells.size, dtype=np.float64) / self.cells.size
        )
        if self.blocks is None:
            return np.append(of_cells, np.nan)[self.codes]
        rows = self.blocks.sum(axis=1)
        return np.where(rows > 0, self.blocks @ of_cells / np.maximum(rows, 1), np.nan)


class Calibration:
    """Null distributions of many columns by the same splits, for windows of about one size.

    Of rows, the null of another size is a factor away, since only chance makes a difference. Of blocks of time it is not: hours
    differ by more than chance, and that does not shrink with their rows. So it is that of the windows drawn, wider where the
    window has fewer rows than they.
    """

    def __init__(self, plan: Plan, columns: Mapping[str, Column]) -> None:
        """Costs about `resamples` * window rows * columns * 10 ns, or of blocks `resamples` * blocks * cells * columns * 1 ns."""
        self.plan = plan
        self._columns = dict(columns)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self._raw, self._noise = _distances(columns, plan.draws())
            if plan.seamed:
                self._widen(plan, *_distances(columns, plan.stretches()))
            # Shrunk to what they would be with one value on either side, so that any two sizes are a factor away.
            unit = {
                name: self._raw[name] / (1.0 if column.blocks is not None else self._noise[name] ** (column.order / 2))
                for name, column in columns.items()
            }
        for name, column in columns.items():
            # A stretch in which a column has no value at all says nothing of that column.
            nothing = ~np.isfinite(self._noise[name])
            if column.blocks is not None and nothing.sum() <= len(nothing) / 10:
                unit[name] = np.where(nothing, 0.0, unit[name])
        self._unit = {
            name: Null.of(values, plan.smallest, columns[name].order)
            for name, values in unit.items()
            if np.isfinite(values).all()
        }
        self._tails = {name: _self_p_values(unit[name], null) for name, null in self._unit.items()}

    def _widen(self, plan: Plan, whole: Mapping[str, FloatArray], noise: Mapping[str, FloatArray]) -> None:
        """Draw pseudo-windows as far from the rest as whole stretches of the reference are. `noise` is theirs."""
        for name, column in self._columns.items():
            one, other = self._noise[name], noise[name]
            if column.blocks is not None:  # their rows say little, see above: it is the number of blocks that counts
                one, other = (np.array(1 / size + 1 / (plan.rows - size)) for size in (plan.window_rows, plan.stretch_rows))
            drawn, there = self._raw[name] ** (2 / column.order) / one, whole[name] ** (2 / column.order) / other
            self._raw[name] = self._raw[name] * plan.widening(drawn, there) ** (column.order / 2)

    def null(self, name: str, n_reference: int, n_current: int) -> Null | None:
        """Of the column `name` with so many values on either side; None where chance alone makes it no number."""
        if name not in self._unit:
            return None
        column, noise = self._columns[name], 1 / n_reference + 1 / n_current
        if column.blocks is None:
            return self._unit[name].scaled(noise ** (column.order / 2))
        wider = np.maximum(noise / self._noise[name], 1.0) ** (column.order / 2)
        there = np.isfinite(self._raw[name]) & np.isfinite(wider)
        return Null.of(self._raw[name][there] * wider[there], self.plan.smallest, column.order)

    def window_p_value(self, p_values: Mapping[str, float]) -> float:
        """How likely it is by chance that the smallest of these columns' p-values is as small as this: one number for a window,
        right however the columns depend on each other."""
        smallest = np.min([self._tails[name] for name in p_values], axis=0)
        return min_p(np.sort(smallest), min(p_values.values()), len(p_values))


def _distances(columns: Mapping[str, Column], draws: Iterable[Rows]) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Of each column the distances of pseudo-windows to the rest, and 1/n + 1/m of the values on either side."""
    found: dict[str, list[FloatArray]] = {name: [] for name in columns}
    shares: dict[str, list[FloatArray]] = {name: [] for name in columns}
    for rows in draws:
        for name, column in columns.items():
            q = _drawn(column, rows)
            p = column.totals - q
            n, m = p.sum(axis=1, keepdims=True), q.sum(axis=1, keepdims=True)
            found[name].append(column.distance(column.cells, p / n, q / m))
            shares[name].append((1 / n + 1 / m)[:, 0])
    return _joined(found), _joined(shares)


def _joined(lists: Mapping[str, Sequence[FloatArray]]) -> dict[str, FloatArray]:
    return {name: np.concatenate(several) for name, several in lists.items()}


def _drawn(column: Column, rows: Rows) -> NDArray[np.int64]:
    """The counts of pseudo-windows of these rows or blocks, (windows, cells). `rows` is (windows, drawn)."""
    size = column.cells.size
    if column.blocks is not None:
        times = np.zeros((len(rows), len(column.blocks)))
        np.put_along_axis(times, rows, 1.0, axis=1)
        return np.rint(times @ column.blocks).astype(np.int64)
    assert column.codes is not None
    codes = column.codes[rows] + np.arange(len(rows))[:, None] * (size + 1)
    return np.bincount(codes.ravel(), minlength=len(rows) * (size + 1)).reshape(len(rows), -1)[:, :size]


def _self_p_values(values: FloatArray, null: Null) -> FloatArray:
    """The p-value of each resampled value among all, itself included, by counting."""
    reached = len(values) - np.searchsorted(null.values, values, "left")
    return reached / len(values)


def min_p(null: FloatArray, smallest: float, columns: int) -> float:
    """P(the smallest of `columns` p-values is at most `smallest`); `null` has its resampled values, sorted.

    Below what they resolve it falls as it did before, as a power, but never above Bonferroni's bound.
    """
    size = len(null)

    def counted(p: float) -> float:
        return (int(np.searchsorted(null, p, "right")) + 1) / (size + 1)

    low = max(20 / size, 1 / size)
    if smallest >= low:
        return min(counted(smallest), columns * smallest, 1.0)
    high = max(min(10 * low, 1.0), low * 2)
    power = math.log(counted(high) / counted(low)) / math.log(high / low) if counted(low) < 1 else 1.0
    power = min(max(power, 0.5), 1.0)
    found: float = min(counted(low) * (smallest / low) ** power, columns * smallest, 1.0)
    return found


def resampled(plan: Plan, statistic: Callable[[Rows, Rows], float]) -> Null:
    """The null of any statistic of (held-out rows, rows of the pseudo-window), one call a resample. For what cannot be counted in
    cells; the caller sees to the sizes."""
    values = []
    for drawn in plan.draws():
        for rows in drawn:
            out = np.ones(plan.rows, dtype=bool)
            out[rows] = False
            values.append(statistic(np.flatnonzero(out), rows))
    return Null.of(np.array(values), plan.smallest)


def benjamini_hochberg(p_values: Sequence[float], alpha: float) -> float:
    """The p-value up to which all are discoveries at a false discovery rate of `alpha`; where there are none, what the smallest
    would have had to be. Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995).

    >>> round(benjamini_hochberg([0.001, 0.02, 0.9, 0.03], 0.05), 4)
    0.0375
    >>> benjamini_hochberg([0.4, 0.02], 0.02)
    0.01
    """
    limits = alpha * np.arange(1, len(p_values) + 1) / len(p_values)
    below = np.flatnonzero(np.sort(p_values) <= limits)
    return float(limits[below[-1]] if len(below) else limits[0])
