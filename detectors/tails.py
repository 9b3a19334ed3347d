"""The far end of a null distribution: what a few hundred of the largest resampled values say of those that were not drawn.

Knijnenburg et al., "Fewer permutations, more accurate P-values", Bioinformatics 25 (2009), has a generalised Pareto tail. It is
right in the limit, and a distance of many cells is far from its limit: its square is about a sum of squares of normal numbers,
whose hazard still grows where a thousand resamples end, so that a straight line from there rings three times too seldom at 1 in
10,000. So where the upper half of the values falls off faster than an exponential, by more than is not known of it, the tail is
that of the gamma distribution whose upper half does so as well (Winkler et al., "Faster permutation inference in brain imaging",
NeuroImage 141 (2016), fits one to all of the values).
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc, gammainccinv

from detectors.contract import FloatArray

FIT_LIMIT = 0.85
"""Anderson-Darling's A2 of a tail that fits: 95 % of 250 exceedances of a true one are below (2,000 simulated, shapes -0.2 to
0.2)."""

MOST_SQUARED = 1e150
"""What is larger has no square that a float can hold."""

EXCEEDING = (250, 200, 150, 100, 75, 50)

LEAST_GAMMA, MOST_GAMMA = 1.0, 200.0
"""Shapes of a gamma distribution: an exponential, and one that is as good as normal."""


class Tail(NamedTuple):
    """P(value > x) of x above `start`, which `share` of the values are. With y = (x - start) / scale it is

        share * (1 + shape * y) ** (-1 / shape)      a generalised Pareto distribution, or
        Q(gamma, z + y)                              where `gamma` is given: Q is the upper incomplete gamma function, Q(gamma, z)
                                                     is share

    It is of the square of x and of the value where `squared`. Of values that come in steps it is P(value >= x): they begin
    `half_step` before x."""

    start: float
    share: float
    scale: float
    shape: float
    squared: bool = False
    half_step: float = 0.0
    gamma: float | None = None

    def of(self, value: float) -> float:
        return value * value if self.squared else value

    def beyond(self, value: float) -> float:
        return self._beyond(self.of(value) - self.half_step)

    def _beyond(self, place: float) -> float:
        y = (place - self.start) / self.scale
        if self.gamma is not None:
            return float(gammaincc(self.gamma, max(self._begins + y, 0.0)))
        if abs(self.shape) < 1e-9:
            return self.share * math.exp(-y)
        inside = 1 + self.shape * y
        return self.share * inside ** (-1 / self.shape) if inside > 0 else 0.0

    def value_at(self, p_value: float) -> float:
        ratio = p_value / self.share
        if self.gamma is not None:
            y = float(gammainccinv(self.gamma, p_value)) - self._begins
        else:
            y = -math.log(ratio) if abs(self.shape) < 1e-9 else (ratio**-self.shape - 1) / self.shape
        found = self.start + self.scale * y + self.half_step
        return math.sqrt(found) if self.squared else found

    @property
    def _begins(self) -> float:
        return float(gammainccinv(self.gamma, self.share))

    def scaled(self, factor: float) -> Tail:
        """Of the value times `factor`."""
        times = self.of(factor)
        return self._replace(start=self.start * times, scale=self.scale * times, half_step=self.half_step * times)


def fitted_tail(ordered: FloatArray, order: int | None = None) -> Tail | None:
    """Of the largest quarter of the sorted values or fewer; None where none fits. `order` is 2 of what is about a sum of squares
    of normal numbers, and 1 of the root of such a sum, whose tail is that of its square: a root's own ends sooner."""
    size, squared = len(ordered), order == 1
    if squared:
        if not ordered[-1] < MOST_SQUARED:
            return None
        ordered = ordered * ordered
    if size // 4 < EXCEEDING[-1]:
        return None
    ordered, steps = _spread(ordered)
    gamma = _gamma(ordered) if order is not None else None
    for exceeding in EXCEEDING:
        if exceeding > size // 4:
            continue
        start = float(ordered[size - exceeding - 1] + ordered[size - exceeding]) / 2
        y = ordered[size - exceeding :] - start
        share = exceeding / size
        # Of values in steps, how far apart they are up there.
        half_step = float(y[-1]) / max(int(steps[-1] - steps[size - exceeding]), 1) / 2 if steps[-1] < size - 1 else 0.0
        tail = _pareto(y, start, share)
        if tail is not None and tail.shape < 0:
            # A tail that seems to end soon is often one that happened to: claiming its end rings five times too often at 1 in
            # 10,000. An exponential one of the same mean is the careful choice, unless more than the tail says otherwise.
            mean = float(y.mean())
            tail = Tail(start, share, mean, 0.0) if gamma is None else _of_gamma(gamma, start, share, mean)
        if tail is not None and _misfit(tail, y) <= FIT_LIMIT:
            return tail._replace(squared=squared, half_step=half_step)
    return None


def _spread(ordered: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """Equal values spread evenly over the room between their neighbours, as if what they count had no steps; and for each value
    how many different ones are below."""
    different, first, counts = np.unique(ordered, return_index=True, return_counts=True)
    which: NDArray[np.int64] = np.repeat(np.arange(len(different)), counts)
    if len(different) == len(ordered) or len(different) < 2:
        return ordered, which
    between = (different[1:] + different[:-1]) / 2
    edges = np.concatenate([[2 * different[0] - between[0]], between, [2 * different[-1] - between[-1]]])
    within = (np.arange(len(ordered)) - first[which] + 0.5) / counts[which]
    return edges[which] + (edges[which + 1] - edges[which]) * within, which


def _pareto(y: FloatArray, start: float, share: float) -> Tail | None:
    """By probability-weighted moments: Hosking and Wallis, Technometrics 29 (1987). `y` are sorted exceedances."""
    exceeding = len(y)
    mean, weighted = float(y.mean()), float((y * (1 - (np.arange(exceeding) + 0.65) / exceeding)).mean())
    if not mean > 2 * weighted > 0:
        return None
    shape = 2 - mean / (mean - 2 * weighted)
    if not -0.5 < shape < 0.5:  # outside, these moments say nothing
        return None
    return Tail(start, share, 2 * mean * weighted / (mean - 2 * weighted), shape)


def _misfit(tail: Tail, y: FloatArray) -> float:
    """Anderson and Darling's A2 of sorted exceedances."""
    exceeding = len(y)
    if tail.gamma is not None:
        beyond = gammaincc(tail.gamma, tail._begins + y / tail.scale) / tail.share
    elif abs(tail.shape) < 1e-9:
        beyond = np.exp(-y / tail.scale)
    else:
        beyond = np.maximum(1 + tail.shape * y / tail.scale, 1e-300) ** (-1 / tail.shape)
    under = np.clip(1 - beyond, 1e-12, 1 - 1e-12)
    ranks = np.arange(1, exceeding + 1)
    return float(-exceeding - np.mean((2 * ranks - 1) * (np.log(under) + np.log(1 - under[::-1]))))


# --- gamma ---------------------------------------------------------------------------------------------------------------


def _of_gamma(gamma: float, start: float, share: float, mean: float) -> Tail:
    """With exceedances of this mean."""
    z = float(gammainccinv(gamma, share))
    excess = gamma * float(gammaincc(gamma + 1, z)) / share - z  # of a scale of one
    return Tail(start, share, mean / excess, -1.0, gamma=gamma)


def _gamma(ordered: FloatArray) -> float | None:
    """The shape of the gamma distribution whose upper half is as even as that of the values; None where it is no more so than an
    exponential's, by as much as its standard error."""
    half = len(ordered) // 2
    y = ordered[-half:] - (ordered[-half - 1] + ordered[-half]) / 2
    if not y.mean() > 0:
        return None
    ranks = (np.arange(half) + 0.5) / half
    # L-moments (Hosking, J. R. Stat. Soc. B 52 (1990)); the variance is that of exponential numbers. What is not known of the
    # shape would ring too often if it were left out, so it goes to the careful side.
    evenness = float((y * (2 * ranks - 1)).mean() / y.mean()) * half / (half - 1) + 1 / math.sqrt(12 * half)
    shapes, told = _evennesses()
    # The careful end where it is beyond the last.
    return None if evenness >= told[0] else float(np.exp(np.interp(-evenness, -told, shapes)))


@cache
def _evennesses() -> tuple[FloatArray, FloatArray]:
    """Logarithms of shapes, and the evenness of each: it falls as the shape grows. An equation to solve would take 3 ms a fit."""
    shapes = np.linspace(math.log(LEAST_GAMMA), math.log(MOST_GAMMA), 200)
    return shapes, np.array([_evenness(math.exp(shape)) for shape in shapes])


def _evenness(gamma: float) -> float:
    """L-CV of the exceedances of a gamma distribution over its median: 0.5 for an exponential one, 0.414 for half of a normal.

    It is 1 - E(the smaller of two) / E(one), and these are integrals of the survival function squared, and of itself.
    """
    middle = float(gammainccinv(gamma, 0.5))
    grid = np.linspace(0.0, float(gammainccinv(gamma, 1e-9)) - middle, 2_001)
    survival = 2 * gammaincc(gamma, middle + grid)
    return 1 - float(np.trapezoid(survival**2, grid) / np.trapezoid(survival, grid))
