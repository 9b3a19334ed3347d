"""Cells by the grid: those that bisection gives, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.binning import Coder
from detectors.contract import FloatArray


def by_bisection(points: FloatArray, values: FloatArray) -> list[int]:
    codes = np.searchsorted(points, values, "left") + np.searchsorted(points, values, "right")
    return np.where(np.isfinite(values), codes, 2 * len(points) + 1).tolist()  # type: ignore[no-any-return]


def around(points: FloatArray) -> FloatArray:
    steps = (points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf), (points[1:] + points[:-1]) / 2)
    return np.concatenate([*steps, [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.7e308, -1.7e308]])


RNG = np.random.default_rng(0)
SHAPES = {
    "normal": RNG.normal(size=3000),
    "heavy": RNG.standard_cauchy(3000),
    "many orders of size": np.exp(50 * RNG.normal(size=3000)),
    "few": np.arange(20.0),
    "one": np.array([3.0]),
    "neighbours": np.array([1.0, np.nextafter(1, 2), 2.0]),
    "as far as can be": np.array([-1e308, 0.0, 5.0, 1e308]),
    "as near as can be": np.array([0.0, 5e-324, 1e-310]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_number_is_in_the_cell_that_bisection_finds(shape: str) -> None:
    points = np.unique(np.quantile(SHAPES[shape], np.linspace(0, 1, 500), method="inverted_cdf"))
    with np.errstate(over="ignore"):
        values = np.concatenate([SHAPES[shape], around(points)])
    assert Coder(points).codes(values).tolist() == by_bisection(points, values)


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(points=st.lists(finite, min_size=1, max_size=40), values=st.lists(st.floats(), max_size=40))
def test_any_numbers_and_any_points(points: list[float], values: list[float]) -> None:
    ordered = np.unique(np.array(points) + 0.0)
    assert Coder(ordered).codes(np.array(values)).tolist() == by_bisection(ordered, np.array(values))


def test_more_numbers_than_are_worked_on_at_a_time() -> None:
    values = RNG.normal(size=100_001)
    points = np.sort(RNG.normal(size=100))
    assert Coder(points).codes(values).tolist() == by_bisection(points, values)
