"""Null distributions: right where the answer is known, no further than they reach, and the same in every replay."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy import signal, stats

from detectors import calibration, cells, distances
from detectors.calibration import (
    Calibration,
    Column,
    Null,
    benjamini_hochberg,
    dependence,
    min_p,
    plan,
)
from detectors.cells import Cells
from detectors.contract import Categories, FloatArray, NotEnoughData, encode_categories
from detectors.summary import content_seed
from detectors.tails import fitted_tail


def column_of(values: FloatArray, distance: cells.Distance = cells.wasserstein, order: int = 1) -> Column:
    found = Cells.of_numbers(values[np.isfinite(values)])
    return Column(found, found.codes(values), distance, order)


# --- a null ------------------------------------------------------------------------------------------------------------


def test_p_values_of_a_known_distribution_are_right_where_counted_and_careful_beyond() -> None:
    """How often chance really is beyond the quantile that 1,000 draws of |normal| gave, over 100 nulls."""
    rng = np.random.default_rng(0)
    nulls = [Null.of(np.abs(rng.normal(size=1000))) for _ in range(100)]
    for alpha, least in ((0.2, 0.9), (0.05, 0.9), (0.01, 0.7), (0.001, 0.2), (0.0001, 0.05)):
        rate = np.mean([2 * stats.norm.sf(null.quantile(alpha)) for null in nulls])
        assert least * alpha < rate < 1.05 * alpha, alpha


def test_the_tail_of_a_size_is_that_of_its_square() -> None:
    """Of the length of four normal numbers, as a distance of categories has: its own tail is too short to be believed."""
    rng = np.random.default_rng(0)
    draws = [np.sqrt(rng.chisquare(4, 1000)) for _ in range(100)]
    for alpha in (0.01, 0.001, 0.0001):
        rates = [np.mean([stats.chi2.sf(Null.of(d, order=o).quantile(alpha) ** 2, 4) for d in draws]) for o in (1, None)]
        assert 0.75 * alpha < rates[0] < 1.2 * alpha, alpha
        assert rates[1] < rates[0] or alpha > 0.005, alpha
    huge = Null.of(np.append(draws[0], 1e200), order=1)
    assert huge.tail is None, "its square is no number"
    assert Null.of(draws[0], order=1).p_value(1e300) == pytest.approx(1 / 1001 / 100)


FAMILIES: dict[str, tuple[Callable[[np.random.Generator], FloatArray], Callable[[float], float]]] = {
    "17 cells": (lambda rng: rng.chisquare(17, 1000), lambda x: float(stats.chi2.sf(x, 17))),
    "two cells": (lambda rng: rng.chisquare(1, 1000), lambda x: float(stats.chi2.sf(x, 1))),
    # Of two categories among 200 rows: it comes in steps, of which no tail that knows of none is.
    "steps": (
        lambda rng: (rng.binomial(200, 0.5, 1000) / 200 - 0.5) ** 2,
        lambda x: float(2 * stats.binom.sf(np.ceil(200 * (0.5 + math.sqrt(x)) - 1e-6) - 1, 200, 0.5)),
    ),
    "exponential": (lambda rng: rng.exponential(size=1000), lambda x: math.exp(-x)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sum_of_squares_rings_about_as_often_as_told_far_beyond_what_was_drawn(family: str) -> None:
    draw, beyond = FAMILIES[family]
    rng = np.random.default_rng(8)
    nulls = [Null.of(draw(rng), order=2) for _ in range(200)]
    for alpha in (0.01, 0.001, 0.00014):
        assert 0.7 * alpha < np.mean([beyond(null.quantile(alpha)) for null in nulls]) < 1.25 * alpha, alpha


@pytest.mark.parametrize("order", (None, 1, 2))
def test_value_and_p_value_are_each_others_inverse(order: int | None) -> None:
    null = Null.of(np.random.default_rng(1).gamma(3, 1, 999), order=order)
    for alpha in (0.9, 0.5, 0.1, 0.05, 0.011, 0.009, 0.001, 1e-4):
        value = null.quantile(alpha)
        assert null.p_value(value) <= alpha * (1 + 1e-9)
        assert null.p_value(value * 0.98) > alpha * 0.9
    grid = np.linspace(0, 30, 3000)
    told = [null.p_value(float(v)) for v in grid]
    assert told == sorted(told, reverse=True)
    assert told[-1] == null.floor == pytest.approx(1e-5)
    assert null.quantile(1e-6) == math.inf


def test_where_no_tail_fits_nothing_below_the_count_is_claimed() -> None:
    steps = Null.of(np.random.default_rng(2).integers(0, 3, 999).astype(np.float64))
    assert steps.tail is None
    assert steps.p_value(100.0) == steps.floor == 1 / 1000
    assert steps.quantile(0.0005) == math.inf
    assert Null.of(np.zeros(500)).p_value(0.0) == 1


@pytest.mark.parametrize("order", (None, 1, 2))
def test_a_null_of_a_larger_unit_is_the_same_null(order: int | None) -> None:
    rng = np.random.default_rng(3)
    for drawn in (rng.exponential(size=1000), rng.chisquare(17, 1000), rng.poisson(90, 1000) / 9):
        null = Null.of(drawn, order=order)
        for value in (0.5, 3.0, 9.0, 30.0, 50.0):
            assert null.scaled(7.0).p_value(7 * value) == pytest.approx(null.p_value(value))


def test_a_tail_is_refused_where_it_does_not_fit() -> None:
    rng = np.random.default_rng(4)
    tail = fitted_tail(np.sort(rng.exponential(size=1000)))
    assert tail is not None
    assert tail.beyond(tail.value_at(1e-4)) == pytest.approx(1e-4)
    two_heaps = np.sort(np.concatenate([rng.normal(0, 0.1, 950), rng.normal(50, 0.1, 50)]))
    assert fitted_tail(two_heaps[:999]) is None


# --- a plan ------------------------------------------------------------------------------------------------------------


def test_a_window_is_drawn_once_and_never_more_than_half() -> None:
    for rows, window, length in ((1000, 100, 1), (1000, 900, 1), (1000, 130, 7), (50_000, 40_000, 1)):
        found = plan(rows, window, length, 100, 5)
        drawn = np.concatenate(list(found.draws()))
        assert drawn.shape == (100, found.window_rows)
        assert found.window_rows <= min(window, rows // 2, calibration.MOST_WINDOW_ROWS)
        assert all(len(np.unique(rows_)) == found.window_rows for rows_ in drawn)
        assert (drawn.min(), drawn.max()) >= (0, 0)
        assert drawn.max() < rows


def test_blocks_are_runs_of_rows() -> None:
    found = plan(1000, 200, 20, 100, 6)
    (drawn, *_) = found.draws()
    assert ((np.diff(drawn.reshape(50, 10, 20), axis=2) % 1000) == 1).all()


def test_windows_of_about_one_size_share_a_plan() -> None:
    assert plan(10_000, 1234, 1, 1000, 0) == plan(10_000, 1201, 1, 1000, 0)


def test_few_splits_bound_the_floor() -> None:
    found = plan(2000, 100, None, 1000, 0)  # dependence without an end: a window is one block
    assert (found.blocks, found.block_rows, found.smallest) == (1, 100, 1 / 20)
    with pytest.raises(NotEnoughData, match="cannot be calibrated"):
        plan(2000, 101 + 10, None, 1000, 0)


@pytest.mark.parametrize("rho", (0.0, 0.5, 0.9))
def test_the_block_length_follows_the_autocorrelation(rho: float) -> None:
    rng = np.random.default_rng(7)
    values = np.zeros(20_000)
    for i in range(1, len(values)):
        values[i] = rho * values[i - 1] + rng.normal()
    best = (3 / 2 * 20_000 * (2 * rho / (1 - rho**2)) ** 2) ** (1 / 3)  # Politis and White's for an AR(1), circular
    found = dependence([rng.normal(size=20_000), values])
    assert found is not None
    assert found == 1 if rho == 0 else best / 2.5 < found < best * 2.5


def test_a_rhythm_or_a_trend_is_dependence_without_an_end() -> None:
    hours = np.arange(5000)
    assert dependence([np.sin(2 * np.pi * hours / 24)]) is None
    assert dependence([hours.astype(np.float64)]) is None
    assert dependence([np.zeros(5000), np.full(5000, np.nan)]) == 1


def test_the_seed_is_the_content() -> None:
    a, b = np.arange(5), np.arange(5)[::-1]
    assert content_seed({"a": a, "b": b}) == content_seed({"b": b, "a": a.copy()})
    assert content_seed({"a": a, "b": b}) != content_seed({"a": b, "b": a})


# --- a calibration -----------------------------------------------------------------------------------------------------


def test_the_quantile_is_that_of_windows_really_drawn() -> None:
    """KS has a table: its 5 % point for these sizes is 1.3581 * sqrt(1/n + 1/m)."""
    values = np.random.default_rng(8).normal(size=10_000)
    found = Calibration(plan(10_000, 400, 1, 1000, 1), {"x": column_of(values, cells.ks)})
    for n, m in ((10_000, 400), (10_000, 250), (3000, 3000)):
        null = found.null("x", n, m)
        assert null is not None
        assert null.quantile(0.05) == pytest.approx(1.3581 * math.sqrt(1 / n + 1 / m), rel=0.06)


def test_one_number_for_a_window_knows_which_features_go_together() -> None:
    rng = np.random.default_rng(9)
    base = rng.normal(size=5000)
    alike = {f"x{i}": column_of(base + i) for i in range(10)}
    apart = {f"x{i}": column_of(rng.normal(size=5000)) for i in range(10)}
    p_values = dict.fromkeys(alike, 0.05)
    told = [Calibration(plan(5000, 300, 1, 1000, 2), columns).window_p_value(p_values) for columns in (alike, apart)]
    assert told[0] == pytest.approx(0.05, abs=0.02)
    assert told[1] == pytest.approx(1 - 0.95**10, abs=0.06)


def test_the_smallest_of_many_p_values_is_judged_evenly_down_to_bonferronis_bound() -> None:
    rng = np.random.default_rng(10)
    null = np.sort(rng.random((1000, 25)).min(axis=1))
    told = [min_p(null, p, 25) for p in np.geomspace(1e-7, 0.5, 200)]
    assert told == sorted(told)
    assert all(t <= 25 * p + 1e-15 for t, p in zip(told, np.geomspace(1e-7, 0.5, 200), strict=True))
    assert min_p(null, 1e-4, 25) == pytest.approx(1 - (1 - 1e-4) ** 25, rel=0.5)


def of_memory(rho: float, n: int, seed: int) -> FloatArray:
    """An autoregression of order 1."""
    noise = np.random.default_rng(seed).normal(size=n)
    return np.asarray(signal.lfilter([1.0], [1.0, -rho], noise))


def test_a_null_of_blocks_is_as_wide_as_whole_stretches_are() -> None:
    """Blocks of 10 rows of a memory of 20 lose most of how far a window of 200 strays."""
    rows, n = 20_000, 200
    values = of_memory(0.95, rows, 16)
    found = plan(rows, n, 10, 1000, 0)
    assert found.seamed
    null = Calibration(found, {"x": column_of(values, cells.cohens_d)}).null("x", rows - n, n)
    assert null is not None
    of_blocks = np.array([values[drawn].mean() for rows_ in found.draws() for drawn in rows_]).std()
    truth = np.array([values[start : start + n].mean() for start in range(0, rows - n, 50)]).std()
    told = math.sqrt(float(np.mean((null.values * values.std()) ** 2)))
    assert of_blocks < 0.6 * truth
    assert 0.9 * truth < told < 1.2 * truth


def test_what_the_widening_does_not_know_makes_the_tail_heavier() -> None:
    rng = np.random.default_rng(17)
    drawn = rng.normal(size=4000) ** 2
    few, many = plan(2_000, 90, 10, 4000, 0), plan(2_000_000, 90, 10, 4000, 0)
    widths = [p.widening(drawn, 4 * rng.chisquare(1, 200)) for p in (few, many)]
    assert [np.median(w) for w in widths] == pytest.approx([4.0, 4.0], rel=0.3)
    spread = [np.std(np.log(w)) for w in widths]
    assert spread[0] > 1.5 * spread[1]
    assert (few.widening(drawn, np.full(200, np.nan)) == 1).all(), "where nothing is known of stretches nothing is made up"


def test_a_window_of_a_memory_has_several_blocks_unless_the_reference_has_plenty() -> None:
    assert (plan(10_000, 100, 80, 100, 0).blocks, plan(10_000, 100, 80, 100, 0).block_rows) == (4, 25)
    assert plan(100_000, 100, 80, 100, 0).block_rows == 80
    assert not plan(10_000, 100, 1, 100, 0).seamed


def test_missing_values_are_no_cell() -> None:
    values = np.random.default_rng(11).normal(size=4000)
    values[::2] = np.nan
    found = Calibration(plan(4000, 400, 1, 500, 3), {"x": column_of(values, cells.ks)})
    null = found.null("x", 2000, 200)
    assert null is not None
    assert null.quantile(0.05) == pytest.approx(1.3581 * math.sqrt(1 / 2000 + 1 / 200), rel=0.08)


def test_discoveries_are_those_of_the_procedure() -> None:
    p_values = np.random.default_rng(12).random(50) ** 3
    cut = benjamini_hochberg(p_values.tolist(), 0.1)
    assert ((p_values <= cut) == (stats.false_discovery_control(p_values) <= 0.1)).all()


@pytest.mark.slow
def test_twenty_five_features_are_calibrated_by_a_thousand_joint_resamples_in_time() -> None:
    rng = np.random.default_rng(13)
    columns = {f"x{i}": column_of(rng.normal(size=100_000), cells.anderson, 2) for i in range(25)}
    started = time.perf_counter()
    Calibration(plan(100_000, 10_000, 1, 1000, 4), columns)
    assert time.perf_counter() - started < 20


# --- cells -------------------------------------------------------------------------------------------------------------


def shares(found: Cells, reference: FloatArray, current: FloatArray) -> tuple[FloatArray, FloatArray]:
    p, q = (found.count(found.codes(side)) for side in (reference, current))
    return (p / p.sum())[None], (q / q.sum())[None]


@pytest.mark.parametrize("distinct", (7, 400, 100_000))
def test_distances_over_cells_are_those_over_rows(distinct: int) -> None:
    """Exactly, as long as each value has a cell; else within what 500 quantiles leave open."""
    rng = np.random.default_rng(14)
    x, y = (np.round(rng.gamma(2, 1, n) * distinct / 20) * 20 / distinct for n in (8000, 3000))
    y = y + np.round(0.1 * distinct / 20) * 20 / distinct
    found = Cells.of_numbers(x)
    seen, (p, q) = found.with_places_of(y), shares(found, x, y)
    exact = len(np.unique(x)) <= cells.POINTS
    within = 1e-9 if exact else 2 / cells.POINTS
    assert cells.ks(seen, p, q)[0] == pytest.approx(distances.ks(x, y).value, abs=within)
    assert cells.wasserstein(seen, p, q)[0] == pytest.approx(distances.wasserstein(x, y), rel=1e-6 if exact else 0.02)
    assert cells.energy(seen, p, q)[0] == pytest.approx(distances.energy(x, y), rel=1e-4 if exact else 0.02)
    u = stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
    assert cells.cliffs_delta(seen, p, q)[0] == pytest.approx(abs(2 * u - 1), abs=within)


def test_values_between_and_beyond_those_of_the_reference_are_seen() -> None:
    reference = np.arange(10.0).repeat(30)
    found = Cells.of_numbers(reference)
    for moved in (reference + 0.5, reference + 100):
        p, q = shares(found, reference, moved)
        seen = found.with_places_of(moved)
        assert cells.ks(seen, p, q)[0] == pytest.approx(distances.ks(reference, moved).value)
        assert cells.wasserstein(seen, p, q)[0] == pytest.approx(distances.wasserstein(reference, moved))


def test_shares_of_categories_give_the_distances_of_categories() -> None:
    rng = np.random.default_rng(15)
    sides = [
        encode_categories(rng.choice(np.array(names, dtype=object), n)) for names, n in ((list("abc"), 900), (list("abd"), 400))
    ]
    found = Cells.of_categories(sides[0])
    p, q = ((c := found.count(found.codes_of(side))) / c.sum() for side in sides)
    exact = [c / c.sum() for c in distances.category_counts(*sides)]
    for ours, theirs in ((cells.jensenshannon, distances.jensenshannon), (cells.psi, distances.psi), (cells.kl, distances.kl)):
        assert ours(found, p[None], q[None])[0] == pytest.approx(theirs(*exact), abs=1e-12)
    assert cells.hellinger(found, p[None], q[None])[0] == pytest.approx(distances.hellinger(*exact), abs=1e-12)


def test_rare_categories_and_new_ones_share_a_cell() -> None:
    names = tuple(f"n{i:04d}" for i in range(2000))
    column = Categories(np.repeat(np.arange(2000, dtype=np.int32), 2), names)
    found = Cells.of_categories(column)
    assert found.size == cells.NAMES + 1
    assert found.count(found.codes_of(Categories(np.array([0, 1, -1], dtype=np.int32), ("new", "n0001"))))[-1] == 1
