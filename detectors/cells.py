"""Columns counted in cells that the reference alone decides, and distances between two sides that are such counts.

Counts add up, so a thousand resamples of a column cost a thousand rows of counts, and windows whose rows are long gone can
still be compared. Every distance here takes shares of many windows at once: `p` of the reference's side and `q` of the window's,
both (windows, cells), and gives (windows,). They grow with drift, also those that stand for a test of significance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.binning import Coder
from detectors.contract import Categories, FloatArray
from detectors.distances import BINNED_ABOVE, Counts
from detectors.summary import CategorySummary, NumberSummary

POINTS = 500
"""Most points of a column of numbers. Between those that are quantiles of the reference lies 1/500 of it each: that is how far
ks can be from its value on rows."""

BINS = 10
"""Shares of numbers with more than 20 distinct values are taken over this many quantile bins of the reference."""

NAMES = 500
"""Most categories with a cell of their own, the most frequent ones; the others and those never seen share one."""

Distance = Callable[["Cells", FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class Cells:
    """The cells of one column. `places` has the number that stands for each cell, None for categories.

    Numbers have 2 * points + 1 cells: each point, which is a value of the reference, and what lies before, between and after.
    """

    size: int
    points: FloatArray | None = None
    names: tuple[str, ...] = ()
    places: FloatArray | None = None
    reference: FloatArray | None = None
    """Share of the reference in each cell."""

    @classmethod
    def of_numbers(cls, reference: FloatArray) -> Cells:
        """`reference` is finite and not empty."""
        return cls.on(points_of(reference)).counting(reference)

    @classmethod
    def of_categories(cls, reference: Categories) -> Cells:
        found = cls.named(names_of(reference))
        return found.shared(found.count(found.codes_of(reference)))

    @classmethod
    def of_summary(cls, reference: NumberSummary | CategorySummary) -> Cells:
        if isinstance(reference, CategorySummary):
            return cls.named(reference.names).shared(reference.counts)
        return cls.on(reference.points).shared(reference.counts, reference.sums)

    @classmethod
    def on(cls, points: FloatArray) -> Cells:
        """Of numbers, before anything is counted."""
        return cls(2 * len(points) + 1, points)

    @classmethod
    def named(cls, names: tuple[str, ...]) -> Cells:
        return cls(len(names) + 1, names=names)

    def counting(self, reference: FloatArray) -> Cells:
        """With the shares and places of these numbers, which are finite."""
        return self.shared(*self._counts_and_sums(reference))

    def shared(self, counts: NDArray[Any], sums: FloatArray | None = None) -> Cells:
        """With the shares of a reference that is such counts, and the places that its sums make."""
        shares = counts / max(counts.sum(), 1)
        places = None if sums is None else self._places(counts, sums)
        return Cells(self.size, self.points, self.names, places, shares)

    @cached_property
    def _coder(self) -> Coder:
        assert self.points is not None
        return Coder(self.points)

    def codes(self, values: FloatArray) -> NDArray[np.int32]:
        """The cell of each number, `size` for one that is missing or infinite."""
        return self._coder.codes(values)

    def codes_of(self, column: Categories) -> NDArray[np.int32]:
        """The cell of each category, `size` for a missing one."""
        place = {name: i for i, name in enumerate(self.names)}
        cells = np.array([*(place.get(name, len(self.names)) for name in column.names), self.size], dtype=np.int32)
        return cells[column.codes]

    def count(self, codes: NDArray[np.integer[Any]]) -> Counts:
        """(size,), without the missing ones."""
        return np.bincount(codes, minlength=self.size + 1)[: self.size]

    def with_places_of(self, current: FloatArray) -> Cells:
        """The same cells, with a window's numbers counting where each lies: one beyond the reference is as far as it is."""
        return self.with_places(*self._counts_and_sums(current))

    def with_places(self, counts: NDArray[Any], sums: FloatArray) -> Cells:
        """The same of a window that is counts and sums."""
        assert self.reference is not None
        assert self.places is not None
        weights = self.reference * max(float(counts.sum()), 1.0)  # as if both sides had as many values
        both = np.where(weights > 0, weights * self.places, 0.0) + sums
        return Cells(self.size, self.points, (), self._places(weights + counts, both), self.reference)

    def _counts_and_sums(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        codes = self.codes(values)
        counts = np.bincount(codes, minlength=self.size)[: self.size].astype(np.float64)
        return counts, np.bincount(codes, weights=values, minlength=self.size)[: self.size].astype(np.float64)

    def _places(self, counts: FloatArray, sums: FloatArray) -> FloatArray:
        assert self.points is not None
        before = np.concatenate([self.points[:1], self.points])
        places = np.empty(self.size)
        places[1::2] = self.points
        gaps = counts[::2] > 0
        places[::2] = np.where(gaps, sums[::2] / np.where(gaps, counts[::2], 1.0), before)
        return np.maximum.accumulate(places)  # rounding of a mean must not turn the order round

    @cached_property
    def bins(self) -> NDArray[np.int64] | None:
        """Where each coarse bin begins, None where each cell is one."""
        if self.points is None or len(self.points) <= BINNED_ABOVE:
            return None
        assert self.reference is not None
        middle = np.cumsum(self.reference) - self.reference / 2
        bins = np.minimum((BINS * middle).astype(np.int64), BINS - 1)
        return np.flatnonzero(np.diff(bins, prepend=-1))

    def coarse(self, shares: FloatArray) -> FloatArray:
        return shares if self.bins is None else np.add.reduceat(shares, self.bins, axis=1)

    @cached_property
    def deviation(self) -> float:
        """Standard deviation of the reference, 0.001 at least, as `distances.wasserstein` has it."""
        assert self.places is not None
        assert self.reference is not None
        mean = self.reference @ self.places
        return max(float(np.sqrt(self.reference @ (self.places - mean) ** 2)), 0.001)

    @cached_property
    def gaps(self) -> FloatArray:
        assert self.places is not None
        return np.diff(self.places)

    @cached_property
    def kernel(self) -> FloatArray:
        """Gaussian, of the median distance in the reference, (size, size)."""
        assert self.places is not None
        assert self.points is not None
        squared = (self.places[:, None] - self.places[None, :]) ** 2
        width = float(np.median((self.points[:, None] - self.points[None, :]) ** 2)) / 2
        return np.exp(-squared / (2 * (width if width > 0 else 0.5)))

    @cached_property
    def waves(self) -> tuple[FloatArray, FloatArray]:
        """Epps and Singleton's four functions at each cell, (size, 4), and the inverse of their covariance in the reference."""
        assert self.places is not None
        assert self.reference is not None
        at = np.searchsorted(np.cumsum(self.reference), (0.25, 0.75))
        half = float(np.diff(self.places[at])[0]) / 2 or self.deviation
        turns = np.outer(self.places / half, (0.4, 0.8))
        waves = np.hstack([np.cos(turns), np.sin(turns)])
        centred = waves - self.reference @ waves
        return waves, np.linalg.pinv(centred.T @ (centred * self.reference[:, None]), rcond=1e-8)


def points_of(reference: FloatArray) -> FloatArray:
    """The points of a column that has these numbers, which are finite and not none."""
    ordered = reference if (reference[:-1] <= reference[1:]).all() else np.sort(reference)
    if np.count_nonzero(np.diff(ordered)) < POINTS:
        return np.unique(ordered)
    at = np.ceil(np.linspace(0, 1, POINTS) * len(ordered)).astype(np.int64) - 1
    return np.unique(ordered[np.maximum(at, 0)])


def names_of(reference: Categories) -> tuple[str, ...]:
    """The names of a column that has these categories."""
    counts = np.bincount(reference.codes[reference.codes >= 0], minlength=len(reference.names))
    order = np.lexsort((np.arange(len(counts)), -counts))[:NAMES]
    return tuple(reference.names[i] for i in sorted(order.tolist()) if counts[i])


def ks(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    found: FloatArray = np.abs(np.cumsum(p - q, axis=1)).max(axis=1)
    return found


def wasserstein(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    """In standard deviations of the reference."""
    return np.abs(np.cumsum(p - q, axis=1)[:, :-1]) @ cells.gaps / cells.deviation


def energy(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    return np.sqrt(2 * (np.cumsum(p - q, axis=1)[:, :-1] ** 2 @ cells.gaps))


def cramer_von_mises(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    """Mean squared gap between the distribution functions, over the reference."""
    found: FloatArray = np.einsum("ij,ij->i", np.cumsum(p - q, axis=1) ** 2, p)
    return found


def anderson(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    """The same with each squared gap divided by its variance, so that the tails count; over both sides."""
    both = (p + q) / 2
    under = np.cumsum(both, axis=1)
    variance = under * (1 - under)
    there = variance > 1e-9
    gaps = np.cumsum(p - q, axis=1) ** 2 * both
    found: FloatArray = np.where(there, gaps / np.where(there, variance, 1.0), 0.0).sum(axis=1)
    return found


def cohens_d(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    """Difference of the means in standard deviations of the reference, as a size."""
    assert cells.places is not None
    return np.abs((p - q) @ cells.places) / cells.deviation


def cliffs_delta(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    """How much likelier one side's value is above the other's than below, as a size: Mann and Whitney's U between 0 and 1."""
    found: FloatArray = np.abs(2 * np.einsum("ij,ij->i", q, np.cumsum(p, axis=1) - p / 2) - 1)
    return found


def mmd(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    gap = p - q
    found: FloatArray = np.maximum(np.einsum("ij,ij->i", gap @ cells.kernel, gap), 0.0)
    return found


def epps_singleton(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    waves, inverse = cells.waves
    gap = (p - q) @ waves
    found: FloatArray = np.maximum(np.einsum("ij,ij->i", gap @ inverse, gap), 0.0)
    return found


def psi(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    p, q = (_filled(cells.coarse(side)) for side in (p, q))
    found: FloatArray = np.sum((p - q) * np.log(p / q), axis=1)
    return found


def kl(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    p, q = (_filled(cells.coarse(side)) for side in (p, q))
    p, q = (side / side.sum(axis=1, keepdims=True) for side in (p, q))
    found: FloatArray = np.maximum(np.sum(p * np.log(p / q), axis=1), 0.0)
    return found


def jensenshannon(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    p, q = cells.coarse(p), cells.coarse(q)
    middle = (p + q) / 2

    def divergence(side: FloatArray) -> FloatArray:
        ratio = np.divide(side, middle, out=np.ones_like(side), where=side > 0)
        found: FloatArray = np.sum(side * np.log(ratio), axis=1)
        return found

    return np.sqrt(np.maximum((divergence(p) + divergence(q)) / 2, 0.0))


def hellinger(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    affinity = np.sqrt(cells.coarse(p) * cells.coarse(q)).sum(axis=1)
    found: FloatArray = np.sqrt(np.clip(1 - affinity, 0.0, 1.0))
    return found


def total_variation(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    found: FloatArray = np.abs(cells.coarse(p) - cells.coarse(q)).sum(axis=1) / 2
    return found


def phi(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    """Root of the sum of (p - q)^2 / (p + q), 0 for equal shares and 1.4142 for none in common: chi-square without the sizes."""
    both = p + q
    found: FloatArray = np.sqrt(np.divide((p - q) ** 2, both, out=np.zeros_like(both), where=both > 0).sum(axis=1))
    return found


def share_of_first(cells: Cells, p: FloatArray, q: FloatArray) -> FloatArray:
    return np.abs(p[:, 0] - q[:, 0])


def _filled(shares: FloatArray) -> FloatArray:
    """`distances.fill_zeros`, row by row."""
    smallest = np.where(shares > 0, shares, np.inf).min(axis=1, keepdims=True)
    return np.where(shares > 0, shares, np.where(smallest <= 0.0001, smallest / 1e6, 0.0001))
