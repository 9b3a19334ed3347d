"""The tests of a column by name: what each applies to, when it says drift, and the default choice.

Names, default thresholds, bounds (`<` here, `<=` there) and the default choice are those of Evidently 0.7.23, and so are the
values; `tests/bench/parity` compares them one by one. Tests that Evidently does not have, because its own is wrong or fails on
the same samples, carry a name of their own.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detectors import distances, significance
from detectors.contract import ColumnKind, FloatArray, NotEvaluable
from detectors.distances import Counts, Finding

ORACLE = "evidently 0.7.23"
"""Whose values those of the tests here are, unless their `evidently` is False."""

OfNumbers = Callable[[FloatArray, FloatArray], Finding]
OfCounts = Callable[[Counts, Counts], Finding]


@dataclass(frozen=True, slots=True)
class StatTest:
    """`numbers` takes both sides' finite values, `counts` both sides' counts of the categories that occur on either.

    A test without `numbers` takes a column of numbers by its distinct values, as categories.
    """

    name: str
    judges: Literal["p_value", "value"]
    threshold: float
    beyond: Callable[[float, float], bool]
    numbers: OfNumbers | None = None
    counts: OfCounts | None = None
    evidently: bool = True
    """Evidently registers a test of this name."""
    of_sets: bool = True
    """The order of the rows makes no difference, so they may come sorted."""

    @property
    def kinds(self) -> frozenset[ColumnKind]:
        both: tuple[tuple[ColumnKind, object], ...] = (("number", self.numbers), ("category", self.counts))
        return frozenset(kind for kind, function in both if function is not None)

    def judged(self, found: Finding) -> float:
        """The number that is compared with the threshold."""
        if self.judges == "value":
            return found.value
        assert found.p_value is not None
        return found.p_value

    def drifted(self, found: Finding, threshold: float | None = None) -> bool:
        return self.beyond(self.judged(found), self.threshold if threshold is None else threshold)


def _by_shares(name: str, distance: Callable[[FloatArray, FloatArray], float]) -> StatTest:
    """A distance between shares serves numbers by their bins and categories as they are."""

    def numbers(reference: FloatArray, current: FloatArray) -> Finding:
        return Finding(distance(*distances.shares(reference, current)))

    def counts(reference: Counts, current: Counts) -> Finding:
        return Finding(distance(reference / reference.sum(), current / current.sum()))

    return StatTest(name, "value", 0.1, operator.ge, numbers=numbers, counts=counts)


def _mmd(reference: FloatArray, current: FloatArray) -> Finding:
    # The same samples give the same p-value, and other samples other permutations.
    seed = zlib.crc32(reference.tobytes(), zlib.crc32(current.tobytes()))
    return significance.mmd(reference, current, np.random.default_rng(seed))


def _hellinger_of_counts(reference: Counts, current: Counts) -> Finding:
    return Finding(distances.hellinger(reference / reference.sum(), current / current.sum()))


def _chisquare(reference: Counts, current: Counts) -> Finding:
    if len(reference) < 2:
        raise NotEvaluable("constant", "chisquare needs two categories")
    return distances.chisquare(reference, current)


STATTESTS: dict[str, StatTest] = {
    t.name: t
    for t in (
        StatTest("ks", "p_value", 0.05, operator.le, numbers=distances.ks),
        StatTest("t_test", "p_value", 0.05, operator.lt, numbers=significance.t_test),
        StatTest("mannw", "p_value", 0.05, operator.lt, numbers=significance.mann_whitney),
        StatTest("es", "p_value", 0.05, operator.lt, numbers=significance.epps_singleton),
        StatTest("anderson", "p_value", 0.1, operator.lt, numbers=significance.anderson_darling),
        StatTest("cramer_von_mises", "p_value", 0.1, operator.le, numbers=significance.cramer_von_mises),
        StatTest("empirical_mmd", "p_value", 0.1, operator.lt, numbers=_mmd, of_sets=False),
        StatTest("z", "p_value", 0.05, operator.lt, counts=significance.z_test),
        StatTest("chisquare", "p_value", 0.05, operator.lt, counts=_chisquare),
        StatTest("g_test", "p_value", 0.1, operator.lt, counts=significance.g_test),
        StatTest("fisher_exact", "p_value", 0.1, operator.lt, counts=significance.fisher_exact),
        StatTest("TVD", "p_value", 0.1, operator.lt, counts=significance.total_variation),
        StatTest("wasserstein", "value", 0.1, operator.ge, numbers=lambda x, y: Finding(distances.wasserstein(x, y))),
        StatTest("ed", "value", 0.1, operator.gt, numbers=lambda x, y: Finding(distances.energy(x, y))),
        _by_shares("jensenshannon", distances.jensenshannon),
        _by_shares("psi", distances.psi),
        _by_shares("kl_div", distances.kl),
        StatTest(
            "hellinger",
            "value",
            0.1,
            operator.ge,
            numbers=lambda x, y: Finding(distances.hellinger_of_numbers(x, y)),
            counts=_hellinger_of_counts,
        ),
        # Ours, where theirs is wrong or fails.
        StatTest("mannw_two_sided", "p_value", 0.05, operator.lt, numbers=significance.mann_whitney_two_sided, evidently=False),
        StatTest(
            "chisquare_independence", "p_value", 0.05, operator.lt, counts=significance.chisquare_of_independence, evidently=False
        ),
        StatTest("g_independence", "p_value", 0.05, operator.lt, counts=significance.g_test_of_independence, evidently=False),
    )
}

SMALL_REFERENCE = 1_000


def evidently_default(kind: ColumnKind, n_reference: int, distinct: int) -> str:
    """The test that Evidently chooses for a column, given the reference's values that are there (not missing, not infinite) and
    the distinct values of both sides together."""
    if n_reference > SMALL_REFERENCE:
        return "wasserstein" if kind == "number" and distinct > 5 else "jensenshannon"
    if kind == "number" and distinct > 5:
        return "ks"
    return "chisquare" if distinct > 2 else "z"


def counts_of_numbers(reference: FloatArray, current: FloatArray) -> tuple[Counts, Counts]:
    """A column of few distinct numbers as categories, smallest first. Both are (distinct,)."""
    values, places = np.unique(np.concatenate([reference, current]), return_inverse=True)
    n = len(reference)
    return tuple(np.bincount(side, minlength=len(values)) for side in (places[:n], places[n:]))  # type: ignore[return-value]


def compare_numbers(test: StatTest, reference: FloatArray, current: FloatArray) -> Finding:
    """`test` on a column of numbers; one for categories takes each distinct number as one, as Evidently's default choice does
    for columns of few distinct values.

    Raises:
        NotEvaluable, NotEnoughData, OverflowError: the test is not defined on these samples.
    """
    if test.numbers is not None:
        return test.numbers(reference, current)
    assert test.counts is not None
    return test.counts(*counts_of_numbers(reference, current))
