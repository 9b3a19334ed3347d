"""How far two samples of one column are apart: the maths of `data_drift`, as functions of arrays.

Values equal those of the tests of the same names in Evidently 0.7.23 (`evidently.legacy.calculations.stattests`), which is why
some choices below are not the ones we would make: bins over both samples, filled zeros, a natural logarithm. Numbers must be
finite and every sample must have at least one; nothing here looks for missing values. Numbers beyond about 1e150 overflow, and
then the result is inf, NaN or `OverflowError`.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, rel_entr
from scipy.stats import ks_2samp, kstwo

from detectors.contract import Categories, FloatArray

Counts = NDArray[np.int64]

BINNED_ABOVE = 20
"""Numbers with more distinct values than this in the reference are binned; with fewer, each value is a bin."""


EXACT_KS = 10_000
"""Up to so many values a side the p-value of `ks` is exact."""


class Finding(NamedTuple):
    """How far apart two samples are and, where it is a test of significance, how likely that is by chance."""

    value: float
    p_value: float | None = None


class Merged(NamedTuple):
    """Both samples of a column on one line: the distinct `values` in order, and by how much, from each of them on, the
    distribution function of the reference is above that of the current sample (`gaps`). Both are (distinct,)."""

    values: FloatArray
    gaps: FloatArray

    @classmethod
    def of(cls, reference: FloatArray, current: FloatArray) -> Merged:
        x, y = ordered(reference), ordered(current)
        n, m = len(x), len(y)
        # Where each value of y comes to lie tells where all of x do: one look-up of sorted numbers, and no sort of both.
        places = np.searchsorted(x, y, "right") + np.arange(m)
        of_current = np.zeros(n + m, dtype=bool)
        of_current[places] = True
        values = np.empty(n + m)
        values[of_current], values[~of_current] = y, x
        del places
        seen: Counts = np.cumsum(of_current)
        last = np.append(values[1:] != values[:-1], True)
        gaps: FloatArray = np.arange(1, n + m + 1, dtype=np.float64)
        if not last.all():
            values, seen, gaps = values[last], seen[last], gaps[last]
        # (of the reference) / n - (of the current) / m, in one array: a million rows on either side are 16 MB each time.
        gaps -= seen
        gaps /= n
        gaps -= seen / m
        return cls(values, gaps)

    def distance(self, power: int) -> float:
        """The integral of |gap| to this power."""
        widths = np.diff(self.values)
        return float(np.abs(self.gaps[:-1]) ** power @ widths) if power > 1 else float(np.abs(self.gaps[:-1]) @ widths)


def ordered(values: FloatArray) -> FloatArray:
    """Smallest first. What is sorted already costs a look."""
    return values if (values[:-1] <= values[1:]).all() else np.sort(values)


def _histogram(sorted_values: FloatArray, edges: FloatArray) -> Counts:
    """`numpy.histogram`, of sorted values: the last bin includes its right edge."""
    return np.diff(
        np.append(np.searchsorted(sorted_values, edges[:-1], "left"), np.searchsorted(sorted_values, edges[-1], "right"))
    )


# --- samples of numbers ----------------------------------------------------------------------------------------------


def ks(reference: FloatArray, current: FloatArray) -> Finding:
    """Kolmogorov-Smirnov D, the largest gap between the two distribution functions (0..1), and its two-sided p-value.

    Exact up to 10,000 values a side, asymptotic above (Hodges, Arkiv för Matematik 3 (1958)). Ties make it cautious.
    """
    n, m = len(reference), len(current)
    if max(n, m) > EXACT_KS:
        # The same as below, of sides that are sorted once and merged instead of sorted again and looked up four times.
        gap = float(np.abs(Merged.of(reference, current).gaps).max())
        size = round(max(n, m) * min(n, m) / (n + m))
        return Finding(gap, float(np.clip(kstwo.sf(gap, size), 0, 1)))
    with warnings.catch_warnings():
        # Where the exact p-value cannot be computed, such as for five equal values against four, the asymptotic one is given.
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
        result = ks_2samp(reference, current)
    return Finding(float(result.statistic), float(result.pvalue))


def wasserstein(reference: FloatArray, current: FloatArray) -> float:
    """First Wasserstein distance in standard deviations of the reference: 0 or more, and 1 for a shift by one deviation.

    The deviation counts as 0.001 at least, so a constant reference makes small moves look large.

    Raises:
        OverflowError: the deviation is beyond float64.
    """
    if not np.isfinite(deviation := float(np.std(reference))):
        raise OverflowError("the standard deviation of the reference")
    return Merged.of(reference, current).distance(1) / max(deviation, 0.001)


def energy(reference: FloatArray, current: FloatArray) -> float:
    """Energy distance in the unit of the column's root: 0 or more. Székely and Rizzo, J. Stat. Plan. Inference 143 (2013)."""
    return math.sqrt(2) * math.sqrt(Merged.of(reference, current).distance(2))


def hellinger_of_numbers(reference: FloatArray, current: FloatArray) -> float:
    """Hellinger distance (0..1) over equal-width bins whose number Sturges' rule takes from the *distinct* values of both."""
    x, y = ordered(reference), ordered(current)
    try:
        edges = np.histogram_bin_edges(Merged.of(x, y).values, bins="sturges")
    except ValueError as exc:
        raise OverflowError(str(exc)) from exc
    p, q = (_histogram(side, edges) / np.diff(edges) / len(side) for side in (x, y))
    width = (edges[-1] - edges[0]) / (len(edges) - 1)
    return _hellinger(float(np.sum(np.sqrt(p * q) * width)))


def shares(reference: FloatArray, current: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The share of each sample in each bin. Both are (bins,) and add up to 1.

    Equal-width bins over both samples together, as many as Sturges' rule says for their size ("The Choice of a Class
    Interval", JASA 21 (1926)), so one outlier on either side moves every edge; see `BINNED_ABOVE` for the other case.

    Raises:
        OverflowError: the range is too wide or too narrow for float64 to divide.
    """
    x, y = ordered(reference), ordered(current)
    both = np.concatenate([x, y])
    if np.count_nonzero(x[1:] != x[:-1]) < BINNED_ABOVE:
        _, bins = np.unique(both, return_inverse=True)
        size = int(bins.max()) + 1
        p = np.bincount(bins[: len(reference)], minlength=size)
        q = np.bincount(bins[len(reference) :], minlength=size)
    else:
        try:
            edges = np.histogram_bin_edges(both, bins="sturges")
        except ValueError as exc:
            raise OverflowError(str(exc)) from exc
        p, q = _histogram(x, edges), _histogram(y, edges)
    return p / len(reference), q / len(current)


# --- samples of categories -------------------------------------------------------------------------------------------


def category_counts(reference: Categories, current: Categories) -> tuple[Counts, Counts]:
    """How often each category occurs on either side, for the categories that occur at all. Both are (categories,).

    >>> a = Categories(np.array([0, 1, 1, -1], dtype=np.int32), ("x", "y"))
    >>> b = Categories(np.array([1, 0], dtype=np.int32), ("y", "z"))
    >>> [counts.tolist() for counts in category_counts(a, b)]
    [[1, 2, 0], [0, 1, 1]]
    """
    place = {name: i for i, name in enumerate(dict.fromkeys((*reference.names, *current.names)))}
    p, q = (_counts(side, place) for side in (reference, current))
    there = (p + q) > 0
    return p[there], q[there]


def _counts(side: Categories, place: dict[str, int]) -> Counts:
    counts = np.zeros(len(place), dtype=np.int64)
    counts[[place[name] for name in side.names]] = np.bincount(side.codes[side.codes >= 0], minlength=len(side.names))
    return counts


def chisquare(reference: Counts, current: Counts) -> Finding:
    """Cramér's V of the 2 x k table (0..1), and the p-value of Pearson's test that the current counts fit the reference.

    The p-value takes the shares of the reference as exact, as Evidently does: with a reference of the current window's size
    it alarms far too often (without any drift in 71 % of windows at 20 categories), and a category that the reference
    never saw makes it 0. V is the effect: it does not grow with the windows. Needs two categories.
    """
    expected = reference * (current.sum() / reference.sum())
    with np.errstate(divide="ignore"):
        statistic = np.sum((current - expected) ** 2 / expected)
    return Finding(cramers_v(reference, current), float(chdtrc(len(reference) - 1, statistic)))


def cramers_v(reference: Counts, current: Counts) -> float:
    """Cramér's V of two rows of counts: 0 for equal shares, 1 for no category in common. Cramér (1946), section 21.9."""
    table = np.array([reference, current], dtype=np.float64)
    total = table.sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / total
    return float(np.sqrt(np.sum((table - expected) ** 2 / expected) / total))


# --- shares of bins or of categories ---------------------------------------------------------------------------------


def psi(p: FloatArray, q: FloatArray) -> float:
    """Population stability index, the sum of (p - q) ln(p / q): 0 or more, without an upper limit.

    Siddiqi, "Credit Risk Scorecards" (2006). Empty bins are filled, see `fill_zeros`.
    """
    p, q = fill_zeros(p), fill_zeros(q)
    return float(np.sum((p - q) * np.log(p / q)))


def fill_zeros(p: FloatArray) -> FloatArray:
    """Zeros become 0.0001, or a millionth of the smallest share where that is not above 0.0001."""
    smallest = p[p > 0].min()
    return np.where(p > 0, p, smallest / 1e6 if smallest <= 0.0001 else 0.0001)


def kl(p: FloatArray, q: FloatArray) -> float:
    """Kullback-Leibler divergence of the current shares from the reference's, in nats: 0 or more. Empty bins are filled and
    both made to add up to 1 again, as scipy does."""
    p, q = fill_zeros(p), fill_zeros(q)
    return float(rel_entr(p / p.sum(), q / q.sum()).sum())


def hellinger(p: FloatArray, q: FloatArray) -> float:
    """Hellinger distance: 0 for equal shares, 1 for none in common. Hellinger, J. reine angew. Math. 136 (1909)."""
    return _hellinger(float(np.sum(np.sqrt(p * q))))


def _hellinger(affinity: float) -> float:
    return math.sqrt(1 - min(max(affinity, 0.0), 1.0))


def jensenshannon(p: FloatArray, q: FloatArray) -> float:
    """Jensen-Shannon distance with the natural logarithm: 0 for equal shares, sqrt(ln 2) = 0.8326 for none in common.

    Endres and Schindelin, "A new metric for probability distributions", IEEE Trans. Inf. Theory 49 (2003). With base 2, as
    some libraries have it, the same shares give a value 1.2011 times as large.
    """
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2
    # Rounding can leave it a hair below 0.
    return float(np.sqrt(max(divergence, 0.0)))


def jensenshannon_by_chance(categories: int, n_reference: int, n_current: int) -> float:
    """About what `jensenshannon` gives for two samples of one distribution: sqrt((k - 1) / 8 (1/n + 1/m)).

    From the chi-square approximation of the divergence, Menéndez et al., "The Jensen-Shannon divergence", J. Franklin
    Institute 334 (1997).

    >>> round(jensenshannon_by_chance(100, 1000, 1000), 3)
    0.157
    """
    return float(np.sqrt((categories - 1) / 8 * (1 / n_reference + 1 / n_current)))
