"""A budget of false alarms: what each slot gets, what a row of windows comes to, and how sure a rate is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from detectors import false_alarms
from detectors.false_alarms import Stake

STAKES = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.builds(Stake, st.floats(1, 1e5), st.floats(0.01, 100)), min_size=1
)


@given(st.floats(1e-3, 100), STAKES)
def test_the_shares_of_all_slots_come_to_the_budget_and_never_to_more(budget: float, stakes: dict[str, Stake]) -> None:
    found = false_alarms.alphas(budget, stakes)
    total = sum(found[name] * stake.slots for name, stake in stakes.items())
    assert total <= budget * (1 + 1e-9)
    if max(found.values()) < 0.5:  # nothing was cut off
        assert total == pytest.approx(budget)


@given(st.floats(1e-9, 0.3), st.integers(1, 8), st.integers(0, 8))
def test_the_level_of_a_row_of_windows_keeps_to_alpha_and_uses_it_up(alpha: float, needed: int, more: int) -> None:
    level = false_alarms.level(alpha, needed, needed + more)
    assert false_alarms.firing_rate(level, needed, needed + more) == pytest.approx(alpha, rel=1e-6)


@given(st.floats(1e-9, 0.3), st.floats(1e-6, 0.5))
def test_the_shortest_row_that_can_keep_to_alpha_is_taken(alpha: float, floor: float) -> None:
    found = false_alarms.persistence(alpha, floor)
    if found is None:
        assert false_alarms.level(alpha, false_alarms.MOST_WINDOWS, false_alarms.MOST_WINDOWS) < floor
        return
    assert found.level >= floor * (1 - 1e-8)
    assert false_alarms.firing_rate(found.level, found.needed, found.of) == pytest.approx(alpha, rel=1e-6)
    if found.needed > 1:
        assert false_alarms.level(alpha, found.needed - 1, found.needed - 1) < floor


def test_a_rule_of_two_of_three_fires_as_often_as_is_said() -> None:
    level = false_alarms.level(0.02, 2, 3)
    beyond = np.random.default_rng(0).random((200_000, 3)) <= level
    fired = int((beyond.sum(axis=1) >= 2).sum())
    low, high = false_alarms.expected_hits(200_000, 0.02, 0.999)
    assert low <= fired <= high


@pytest.mark.parametrize(("hits", "n"), ((0, 10), (3, 10), (10, 10), (1, 300)))
def test_the_exact_interval_is_scipys(hits: int, n: int) -> None:
    theirs = binomtest(hits, n).proportion_ci(0.95, "exact")
    assert false_alarms.exact_interval(hits, n) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize(("n", "rate"), ((200, 0.05), (2000, 0.01), (20_000, 0.001)))
def test_counts_of_a_right_rate_are_expected_as_often_as_is_asked(n: int, rate: float) -> None:
    low, high = false_alarms.expected_hits(n, rate)
    drawn = np.random.default_rng(1).binomial(n, rate, 20_000)
    assert ((drawn >= low) & (drawn <= high)).mean() >= 0.945
