"""Which cell of a column a number falls into, for many numbers at once.

Looking each number up among 500 points by bisection takes 60 ns. Most of an even grid's squares hold one point or none, so one
multiplication and two comparisons say the same in 8 to 20 ns, whatever the shape of the column; only numbers in squares that
hold several points, or beyond the grid, are looked up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.contract import FloatArray

Codes = NDArray[np.int32]

SQUARES = 16_384
TRIMS = (0.0, 0.002, 0.01, 0.02, 0.05, 0.1)
"""Shares of the points at either end that the grid may leave out: a heavy tail would have nearly all points in one square."""

AT_ONCE = 32_768
"""Numbers worked on at a time, so that all of it stays in the processor's cache."""


class Coder:
    """Cells of `points` (p,), ascending and finite, perhaps none: 2 i + 1 is the i-th point itself, 2 i what lies before it, 2 p
    what lies behind the last, and 2 p + 1 a number that is missing or infinite."""

    def __init__(self, points: FloatArray) -> None:
        self.points = points
        self.size = 2 * len(points) + 1
        if not len(points):
            return
        self._low, self._scale, squares = self._grid()
        held = np.bincount(squares, minlength=SQUARES + 2)
        self._base = (2 * (np.cumsum(held) - held)).astype(np.int32)
        self._point = np.full(SQUARES + 2, np.inf)
        alone = held[squares] == 1
        self._point[squares[alone]] = points[alone]
        self._several = held > 1
        # What lies beyond the grid has not been measured by it.
        self._several[[0, -1]] |= held[[0, -1]] > 0

    def codes(self, values: FloatArray) -> Codes:
        """int32 (n,)."""
        if not len(self.points):
            return np.where(np.isfinite(values), np.int32(0), np.int32(1))
        found = np.empty(len(values), dtype=np.int32)
        for start in range(0, len(values), AT_ONCE):
            self._code(values[start : start + AT_ONCE], found[start : start + AT_ONCE])
        return found

    def _code(self, values: FloatArray, found: Codes) -> None:
        there = np.isfinite(values)
        all_there = bool(there.all())
        if not all_there:
            values = np.where(there, values, self._low)
        squares = self._squares(values)
        point = self._point[squares]
        np.add(self._base[squares], values >= point, out=found)
        found += values > point
        if (look := np.flatnonzero(self._several[squares])).size:
            among = values[look]
            found[look] = np.searchsorted(self.points, among, "left") + np.searchsorted(self.points, among, "right")
        if not all_there:
            found[~there] = self.size

    def _squares(self, values: FloatArray) -> NDArray[np.int32]:
        """Larger numbers are in the same square or a later one, rounding included, so a square decides what is before it."""
        if self._scale == 0:
            return np.zeros(len(values), dtype=np.int32)
        with np.errstate(over="ignore"):
            at = (values - self._low) * self._scale
        np.clip(at, -1, SQUARES, out=at)
        at += 1
        return at.astype(np.int32)

    def _grid(self) -> tuple[float, float, NDArray[np.int32]]:
        """Where the grid begins, squares a unit, and the square of each point: the grid that leaves fewest points together."""
        points = self.points
        best: tuple[int, float, float, NDArray[np.int32]] | None = None
        for trim in TRIMS:
            out = int(trim * len(points))
            low, high = float(points[out]), float(points[len(points) - 1 - out])
            with np.errstate(over="ignore", divide="ignore"):
                scale = np.float64(SQUARES) / (np.float64(high) - np.float64(low))
            if not np.isfinite(scale) or scale == 0:
                scale = np.float64(0.0)  # one point, or numbers beyond what can be divided evenly: all are looked up
            self._low, self._scale = low, float(scale)
            squares = self._squares(points)
            together = int((np.bincount(squares, minlength=SQUARES + 2) > 1)[squares].sum())
            if best is None or together < best[0]:
                best = together, low, float(scale), squares
        assert best is not None
        return best[1:]
