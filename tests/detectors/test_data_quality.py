"""Data quality: each problem is found where it is, with its share, and a clean window has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.contract import ColumnKind, Frame, NotEnoughData, NotEvaluable, Reading
from detectors.data_quality import DataQuality, repeated
from detectors.intervals import wilson
from detectors.testing import check_detector

KINDS: dict[str, ColumnKind] = {"amount": "number", "visits": "number", "city": "category"}


def frame(seed: int, rows: int = 1000, kinds: dict[str, ColumnKind] = KINDS, **columns: Any) -> Frame:
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {
        "amount": rng.uniform(0, 1, rows),
        "visits": rng.normal(size=rows),
        "city": rng.choice(np.array(["Oslo", "Rome"], dtype=object), rows),
        **columns,
    }
    return Frame({name: values for name, values in made.items() if name in kinds}, features=kinds)


def check(current: Frame, reference: Frame | None = None, **config: Any) -> Reading:
    return DataQuality(DataQuality.Config(**config)).compare(reference or frame(1), current)


def flagged(reading: Reading) -> set[tuple[str, str]]:
    return {(part.name, part.statistic) for part in reading.parts if part.flagged}


def test_it_keeps_the_contract() -> None:
    for config in ({}, {"metric": "missing_share", "min_rows": 1}, {"metric": "duplicate_share"}, {"tolerance": 0}):
        check_detector(DataQuality, config)


def test_a_clean_window_has_no_problem() -> None:
    reading = check(frame(2))
    assert (reading.value, reading.statistic, flagged(reading)) == (0, "problem_share", set())
    assert reading.metrics["duplicate_share"] == 0


def broken() -> dict[str, tuple[Frame, tuple[str, str], str, float]]:
    """By name: the window, which part is flagged, and the metric with its value."""
    base = frame(2)
    amount, city = base.numbers("amount").copy(), np.array(["Oslo", "Rome"] * 500, dtype=object)
    missing, infinite, outside, new = amount.copy(), amount.copy(), amount.copy(), city.copy()
    missing[:100], infinite[:50], outside[:200], new[:30] = np.nan, -np.inf, 1.5, "Lima"
    texts = np.array(["12,5"] * 1000, dtype=object)
    without: dict[str, ColumnKind] = {"amount": "number", "city": "category"}
    more: dict[str, ColumnKind] = {**KINDS, "extra": "number"}
    return {
        "missing": (frame(2, amount=missing), ("amount", "missing_share"), "missing_share", 0.1),
        "all missing": (frame(2, amount=np.full(1000, np.nan)), ("amount", "missing_share"), "missing_share", 1.0),
        "infinite": (frame(2, amount=infinite), ("amount", "infinite_share"), "infinite_share", 0.05),
        "out of range": (
            frame(2, amount=np.where(outside > 1, outside, 0.5)),
            ("amount", "out_of_range_share"),
            "out_of_range_share",
            0.2,
        ),
        "new categories": (frame(2, city=new), ("city", "new_category_share"), "new_category_share", 0.03),
        "constant": (frame(2, amount=np.full(1000, 0.5)), ("amount", "constant"), "constant_features", 1.0),
        "one category": (frame(2, city=np.array(["Oslo"] * 1000, dtype=object)), ("city", "constant"), "constant_features", 1.0),
        "text": (frame(2, amount=texts), ("amount", "type_changed"), "type_changes", 1.0),
        "gone": (frame(2, kinds=without), ("visits", "missing_feature"), "missing_features", 1.0),
        "new": (frame(2, kinds=more, extra=amount), ("extra", "new_feature"), "new_features", 1.0),
    }


@pytest.mark.parametrize("name", broken())
def test_each_problem_is_found_where_it_is(name: str) -> None:
    window, part, metric, value = broken()[name]
    reading = check(window, metric=metric)
    assert reading.value == pytest.approx(value)
    assert flagged(reading) == {part}
    assert (reading.parts[0].name, reading.parts[0].statistic) == part
    if metric.endswith("_share"):
        assert (reading.lower, reading.upper) == pytest.approx(wilson(round(value * 1000), 1000))
    assert check(window).value == pytest.approx(1 / reading.metrics["features"])


def test_rows_that_came_twice_are_counted_as_pandas_counts_them() -> None:
    base = frame(3)
    twice: dict[str, Any] = {name: np.tile(base.numbers(name)[:800], 2)[:1000] for name in ("amount", "visits")}
    city = np.array(["Oslo"] * 1000, dtype=object)
    reading = check(frame(3, **twice, city=city), metric="duplicate_share")
    assert reading.value == 0.2
    assert ("(rows)", "duplicate_share") in flagged(reading)


values = st.sampled_from([0.0, -0.0, 1.0, 2.5, np.nan, np.inf])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(values, values, st.sampled_from(["a", "b", None])), min_size=1, max_size=40))
def test_repeated_rows_are_those_of_pandas(rows: list[tuple[float, float, str | None]]) -> None:
    table = pd.DataFrame(rows, columns=["amount", "visits", "city"])
    found = Frame({n: table[n].to_numpy(dtype=float if k == "number" else object) for n, k in KINDS.items()}, features=KINDS)
    assert repeated(found) == int(table.duplicated().sum())


def test_what_the_reference_has_itself_is_no_problem() -> None:
    holes = frame(4).numbers("amount").copy()
    holes[::5] = np.nan
    assert flagged(check(frame(5, amount=holes), frame(6, amount=holes))) == set()
    alike = np.zeros(1000)
    assert flagged(check(frame(5, amount=alike), frame(6, amount=alike))) == set()


def test_chance_alone_seldom_leaves_the_range() -> None:
    names = np.array([f"city {i}" for i in range(200)], dtype=object)
    cities = [np.random.default_rng(i).choice(names, 300) for i in range(100)]
    alarms = 0
    for i in range(50):
        reference, current = frame(100 + i, rows=300, city=cities[i]), frame(500 + i, rows=200, city=cities[50 + i][:200])
        alarms += bool(flagged(check(current, reference)))
    assert alarms <= 1


def test_a_feature_without_a_value_in_the_reference_is_new_once_it_has_more_than_chance_leaves_out() -> None:
    nothing, amount = np.full(1000, np.nan), frame(9).numbers("amount")
    reading = check(frame(9), frame(10, amount=nothing), metric="new_features")
    assert (reading.value, flagged(reading)) == (1, {("amount", "new_feature")})
    assert check(frame(9), frame(10, amount=nothing)).value == pytest.approx(1 / 3)
    seldom = np.where(np.arange(1000) < 5, amount, np.nan)
    assert flagged(check(frame(9, amount=seldom), frame(10, amount=nothing))) == set()
    assert flagged(check(frame(9, amount=nothing), frame(10, amount=nothing))) == set()
    texts = frame(9, city=np.array([None] * 1000, dtype=object))
    assert flagged(check(frame(9), texts)) == {("city", "new_feature")}


def test_a_small_window_says_so_and_a_reference_is_needed() -> None:
    with pytest.raises(NotEnoughData, match="3 rows, min_rows is 30"):
        check(frame(7, rows=3))
    with pytest.raises(NotEvaluable, match="no_reference"):
        DataQuality(DataQuality.Config()).compare(None, frame(7))


def test_a_feature_that_is_asked_for_and_nowhere_is_missing() -> None:
    reading = check(frame(8), features=("amount", "age"))
    assert flagged(reading) == {("age", "missing_feature")}
    assert reading.value == 0.5
