"""What is counted of one feature in one stretch of time, and how two such counts make one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.contract import FloatArray
from detectors.summary import CategorySummary, NumberSummary
from monitor.summaries.basis import CategoryEdges, Edges, NumberEdges
from monitor.summaries.sketch import EMPTY, Sketch

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sum:
    """`counts` (cells,). `below` and `above` are the sums of the numbers in the first and the last cell; `minimum`, `maximum`,
    `mean` and `m2` are of the finite ones, NaN where there are none, as they are of categories."""

    counts: Counts
    missing: int = 0
    infinite: int = 0
    minimum: float = np.nan
    maximum: float = np.nan
    mean: float = np.nan
    m2: float = np.nan
    below: float = 0.0
    above: float = 0.0
    sketch: Sketch = EMPTY

    @property
    def rows(self) -> int:
        return int(self.counts.sum()) + self.missing + self.infinite

    def summary(self, edges: Edges) -> NumberSummary | CategorySummary:
        # A cell that has a number has one value at least.
        distinct = max(self.sketch.distinct, float(np.count_nonzero(self.counts)))
        if isinstance(edges, CategoryEdges):
            # The sketch is of those without a name; each of the others has a count.
            named = float(np.count_nonzero(self.counts[:-1]))
            return CategorySummary(edges.names, self.counts, self.missing, self.sketch.distinct + named)
        return NumberSummary(
            edges.points, self._places(edges), self.counts, self.missing, self.infinite,
            self.minimum, self.maximum, self.mean, self.m2, distinct,
        )  # fmt: skip

    def _places(self, edges: NumberEdges) -> FloatArray:
        """Those of the sample, moved inside their cells so that all numbers together have the mean that they have."""
        places = edges.places.copy()
        if self.counts[0]:
            places[0] = self.below / self.counts[0]
        if self.counts[-1]:
            places[-1] = self.above / self.counts[-1]
        between = self.counts[2:-1:2]
        if len(edges.points) > 1 and between.any() and np.isfinite(self.mean):
            with np.errstate(over="ignore", invalid="ignore"):
                counted, widths = self.counts > 0, np.diff(edges.points)
                off = (self.mean * self.counts.sum() - self.counts[counted] @ places[counted]) / (between @ widths)
                if np.isfinite(off):
                    places[2:-1:2] = np.clip(places[2:-1:2] + off * widths, edges.points[:-1], edges.points[1:])
        return places


def nothing(edges: Edges) -> Sum:
    return Sum(np.zeros(edges.size, dtype=np.int64))


def total(sums: Sequence[Sum], edges: Edges) -> Sum:
    """Of disjoint stretches, all on these edges. Means and squares by Chan, Golub and LeVeque, COMPSTAT 1982."""
    if len(sums) < 2:
        return sums[0] if sums else nothing(edges)
    counts = np.sum([s.counts for s in sums], axis=0)
    minimum = maximum = mean = m2 = np.nan
    count = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for s in sums if isinstance(edges, NumberEdges) else ():
            n = int(s.counts.sum())
            if not n:
                continue
            if not count:
                minimum, maximum, mean, m2 = s.minimum, s.maximum, s.mean, s.m2
            else:
                apart = s.mean - mean
                m2 += s.m2 + apart * apart * (count * n / (count + n))
                mean += apart * (n / (count + n))
                minimum, maximum = min(minimum, s.minimum), max(maximum, s.maximum)
            count += n
    return Sum(
        counts, sum(s.missing for s in sums), sum(s.infinite for s in sums), minimum, maximum, float(mean), float(m2),
        sum(s.below for s in sums), sum(s.above for s in sums), Sketch.total(s.sketch for s in sums),
    )  # fmt: skip


def matrix(sums: Iterable[Sum]) -> Counts:
    """(stretches, cells)."""
    return np.stack([s.counts for s in sums])
