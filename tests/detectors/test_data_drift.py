"""Data drift: Evidently's values, on every kind of data, and one bad column that hurts nobody."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from detectors import distances
from detectors.columnconfig import MethodName
from detectors.contract import ColumnKind, FloatArray, Frame, NotEnoughData, NotEvaluable, Outcome, Part, Reading
from detectors.data_drift import DataDrift
from detectors.stattests import STATTESTS
from detectors.testing import check_detector
from detectors.univariate import contribution
from tests.detectors import samples

NUMBER_METHODS: tuple[MethodName, ...] = ("ks", "wasserstein", "psi", "jensenshannon")
CATEGORY_METHODS: tuple[MethodName, ...] = ("psi", "jensenshannon", "chisquare")

Values = NDArray[Any]
# Score, whether it drifted, and the threshold that was used.
Oracle = Callable[[str, Values, Values, ColumnKind], tuple[float, bool, float]]


@pytest.fixture(scope="module")
def evidently() -> Oracle:
    """Evidently's registered tests, with infinities and missing values removed as it does before it calls them."""
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from evidently.legacy.calculations.stattests.registry import get_registered_stattest
        from evidently.legacy.core import ColumnType

    def ask(method: str, reference: Values, current: Values, kind: ColumnKind) -> tuple[float, bool, float]:
        column_type = ColumnType.Numerical if kind == "number" else ColumnType.Categorical
        test = get_registered_stattest(method, column_type)
        sides = (pd.Series(side).replace([-np.inf, np.inf], np.nan).dropna() for side in (reference, current))
        # A category that the reference never saw: its chi-square divides by 0.
        with np.errstate(divide="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
            result = test(*sides, column_type, None)
        return float(result.drift_score), bool(result.drifted), float(result.actual_threshold)

    return ask


def part_of(method: MethodName, reference: Values, current: Values, kind: ColumnKind) -> Part:
    config = DataDrift.Config(policy="evidently", method=method)
    features: dict[str, ColumnKind] = {"x": kind}
    reading = DataDrift(config).compare(Frame({"x": reference}, features=features), Frame({"x": current}, features=features))
    return reading.parts[0]


def assert_equals_evidently(ask: Oracle, method: MethodName, reference: Values, current: Values, kind: ColumnKind) -> None:
    score, drifted, threshold = ask(method, reference, current, kind)
    part = part_of(method, reference, current, kind)
    ours = part.p_value if STATTESTS[method].judges == "p_value" else part.value
    assert ours == pytest.approx(score, abs=1e-9, rel=1e-9)
    assert (part.flagged, part.threshold, part.library) == (drifted, threshold, "evidently 0.7.23")


def numbers() -> dict[str, tuple[FloatArray, FloatArray]]:
    rng = np.random.default_rng(7)
    heavy, missing, infinite = rng.standard_cauchy(3000), rng.normal(size=2000), rng.normal(size=2000)
    missing[::3] = np.nan
    infinite[::7], infinite[1::7] = np.inf, -np.inf
    return {
        "normal, unmoved": (rng.normal(size=2000), rng.normal(size=1500)),
        "normal, shifted": (rng.normal(size=2000), rng.normal(0.4, size=1500)),
        "normal, wider": (rng.normal(size=900), rng.normal(0, 1.5, size=700)),
        "skewed": (rng.lognormal(2, 1, 4000), rng.lognormal(2.2, 1, 3000)),
        "heavy tailed": (heavy, rng.standard_cauchy(2500)),
        "counts, one bin a value": (rng.poisson(2, 3000).astype(float), rng.poisson(2.3, 2000).astype(float)),
        "counts, binned": (rng.poisson(60, 3000).astype(float), rng.poisson(62, 2000).astype(float)),
        "a value that the reference never had": (rng.integers(0, 5, 900) * 1.0, rng.integers(0, 7, 900) * 1.0),
        "shares below 0.0001": (np.append(np.zeros(20_000), 1.0), np.append(np.zeros(20_000), 2.0)),
        "no value in common": (rng.random(400), 5 + rng.random(400)),
        "equal samples": (heavy, heavy),
        "constant on both sides": (np.full(300, 3.5), np.full(300, 3.5)),
        "a constant that moved": (np.full(300, 3.5), np.full(300, 3.5001)),
        "a constant that began to vary": (np.zeros(300), rng.normal(size=300)),
        "ten rows": (rng.normal(size=10), rng.normal(1, size=10)),
        "two rows": (np.array([1.0, 2.0]), np.array([2.0, 4.0])),
        "21 distinct values": (np.arange(21.0).repeat(9), np.arange(25.0).repeat(5)),
        "a third missing": (missing, rng.normal(size=800)),
        "infinities on both sides": (infinite, np.append(rng.normal(size=500), np.inf)),
        "far from 0": (1e9 + rng.random(500), 1e9 + rng.random(400) * 1.1),
        "asymptotic p-value": (rng.normal(size=12_000), rng.normal(0.02, size=11_000)),
    }


def categories() -> dict[str, tuple[Values, Values]]:
    rng = np.random.default_rng(8)

    def draw(names: list[str | None], size: int, p: list[float] | None = None) -> Values:
        return rng.choice(np.array(names, dtype=object), size, p=p)

    return {
        "unmoved": (draw(list("abcde"), 3000), draw(list("abcde"), 2000)),
        "moved": (draw(list("abc"), 1000, [0.5, 0.3, 0.2]), draw(list("abc"), 800, [0.4, 0.3, 0.3])),
        "never seen before": (draw(list("abc"), 500), draw(list("abcd"), 500)),
        "gone": (draw(list("abcd"), 500), draw(list("ab"), 500)),
        "none in common": (draw(list("ab"), 500), draw(list("cd"), 500)),
        "shares below 0.0001": (np.array(["a"] * 20_000 + ["b"], dtype=object), np.array(["a"] * 20_000 + ["c"], dtype=object)),
        "100 categories": (draw([f"v{i}" for i in range(100)], 5000), draw([f"v{i}" for i in range(100)], 3000)),
        "missing values": (draw(["a", "b", None], 900), draw(["a", None], 700)),
        "unicode": (draw(["Ærø", "東京", "🦜", ""], 400), draw(["Ærø", "東京", "e\u0301"], 300)),
        "ten rows": (draw(list("ab"), 10), draw(list("ab"), 10)),
        "all distinct": (np.arange(300).astype(str).astype(object), np.arange(200).astype(str).astype(object)),
    }


@pytest.mark.parametrize("method", NUMBER_METHODS)
@pytest.mark.parametrize("data", numbers())
def test_numbers_give_evidentlys_value(evidently: Oracle, method: MethodName, data: str) -> None:
    assert_equals_evidently(evidently, method, *numbers()[data], "number")


@pytest.mark.parametrize("method", CATEGORY_METHODS)
@pytest.mark.parametrize("data", categories())
def test_categories_give_evidentlys_value(evidently: Oracle, method: MethodName, data: str) -> None:
    assert_equals_evidently(evidently, method, *categories()[data], "category")


@pytest.mark.parametrize("name", samples.EMPLOYMENT)
def test_census_data_gives_evidentlys_value(evidently: Oracle, name: str) -> None:
    kind = samples.EMPLOYMENT[name]
    reference, current = (
        samples.employment_table(year)[name].to_numpy(dtype=None if kind == "number" else object) for year in (2015, 2018)
    )
    for method in NUMBER_METHODS if kind == "number" else CATEGORY_METHODS:
        assert_equals_evidently(evidently, method, reference, current, kind)


samples_of_numbers = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda v: round(v, 3)), min_size=2, max_size=60)


@settings(max_examples=60, deadline=None)
@given(reference=samples_of_numbers, current=samples_of_numbers)
def test_any_numbers_give_evidentlys_value(evidently: Oracle, reference: list[float], current: list[float]) -> None:
    for method in NUMBER_METHODS:
        assert_equals_evidently(evidently, method, np.array(reference), np.array(current), "number")


samples_of_categories = st.lists(st.text("abcXYZ 0", max_size=2), min_size=2, max_size=60)


@settings(max_examples=60, deadline=None)
@given(reference=samples_of_categories, current=samples_of_categories)
def test_any_categories_give_evidentlys_value(evidently: Oracle, reference: list[str], current: list[str]) -> None:
    for method in CATEGORY_METHODS if len({*reference, *current}) > 1 else CATEGORY_METHODS[:2]:
        assert_equals_evidently(evidently, method, np.array(reference, dtype=object), np.array(current, dtype=object), "category")


# --- the maths, where the answer is known ----------------------------------------------------------------------------


def test_samples_with_nothing_in_common_are_as_far_apart_as_can_be() -> None:
    low, high = np.arange(100.0), np.arange(1000.0, 1100.0)
    p, q = distances.shares(low, high)
    assert distances.ks(low, high).value == 1
    assert distances.jensenshannon(p, q) == pytest.approx(math.sqrt(math.log(2)))
    assert distances.cramers_v(np.array([5, 0]), np.array([0, 9])) == pytest.approx(1)


def test_a_shift_by_one_standard_deviation_is_a_wasserstein_distance_of_one() -> None:
    x = np.random.default_rng(0).normal(size=1000)
    assert distances.wasserstein(x, x + x.std()) == pytest.approx(1)


def test_psi_of_known_shares() -> None:
    assert distances.psi(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(0.25 * math.log(3))


def test_chisquare_of_known_counts() -> None:
    found = distances.chisquare(np.array([50, 50]), np.array([60, 40]))
    assert found.p_value == pytest.approx(math.erfc(math.sqrt(2)), rel=1e-12)  # a statistic of 4, one degree of freedom
    assert found.value == pytest.approx(math.sqrt(2 * (5**2 / 55 + 5**2 / 45) / 200))


def test_chance_alone_gives_about_the_distance_foretold() -> None:
    rng = np.random.default_rng(3)
    counts = rng.multinomial(1000, np.full(100, 0.01), size=(200, 2))
    seen = np.mean([distances.jensenshannon(a / 1000, b / 1000) for a, b in counts])
    assert seen == pytest.approx(distances.jensenshannon_by_chance(100, 1000, 1000), rel=0.05)


def test_the_functions_leave_their_arguments_alone() -> None:
    p, q = np.array([0.0, 1.0]), np.array([0.5, 0.5])
    distances.psi(p, q)
    assert p.tolist() == [0.0, 1.0]


# --- the reading -----------------------------------------------------------------------------------------------------


def drift(reference: Frame, current: Frame, **config: Any) -> Reading:
    return DataDrift(DataDrift.Config(**{"policy": "evidently", "min_rows": 100, "max_distinct_share": 0.5} | config)).compare(
        reference, current
    )


def test_it_keeps_the_contract() -> None:
    configs: tuple[dict[str, Any], ...] = (
        {"policy": "evidently"},
        {"policy": "evidently", "method": "psi", "min_rows": 2},
        {"policy": "evidently", "method": "wasserstein"},
        {"policy": "evidently", "method": "chisquare", "min_rows": 2},
        {"policy": "evidently", "methods": {"city": "abs_text_content_drift"}},
        {"method": "psi", "min_rows": 2},
        {"methods": {"city": "abs_text_content_drift"}, "min_rows": 5},
    )
    for config in configs:
        check_detector(DataDrift, config)


def test_the_reading_is_the_share_of_drifted_features() -> None:
    rng = np.random.default_rng(1)
    reference = Frame({f"x{i}": rng.normal(size=1000) for i in range(4)})
    current = Frame({f"x{i}": rng.normal(2 * (i == 0), size=800) for i in range(4)})
    reading = drift(reference, current, method="wasserstein")
    assert (reading.value, reading.statistic) == (0.25, "share_of_drifted_features")
    assert (reading.n_reference, reading.n_current) == (1000, 800)
    assert reading.metrics == {"features": 4, "evaluated_features": 4, "drifted_features": 1, "dataset_drift": 0}
    assert [part.name for part in reading.parts if part.flagged] == ["x0"]


def test_the_census_of_three_years_later_shows_no_drift_and_the_census_of_the_old_does() -> None:
    reference = samples.employment(2015)
    for policy in ("calibrated", "evidently"):
        unmoved, moved = (drift(reference, samples.employment(2018, from_age=age), policy=policy) for age in (0, 60))
        assert (unmoved.metrics["evaluated_features"], unmoved.metrics["drifted_features"]) == (16, 0), policy
        assert moved.parts[0].name == "AGEP"
        assert moved.value > 0.25


def test_parts_come_with_the_largest_contribution_first() -> None:
    rng = np.random.default_rng(2)
    moves = {"still": 0.0, "far": 3.0, "near": 0.3, "further": 5.0, "nearer": 0.15}
    reference = Frame({name: rng.normal(size=3000) for name in moves})
    current = Frame({name: rng.normal(move, size=3000) for name, move in moves.items()})
    for method in ("ks", "wasserstein", "psi", "jensenshannon"):
        parts = drift(reference, current, method=method).parts
        assert [part.name for part in parts] == ["further", "far", "near", "nearer", "still"], method
        contributions = [contribution(part) for part in parts]
        assert contributions == sorted(contributions, reverse=True)
        assert [part.flagged for part in parts] == [value >= 1 for value in contributions]


def test_one_bad_column_never_harms_the_others() -> None:
    rng = np.random.default_rng(3)
    n = 500
    texts = np.array([f"order {i}" for i in range(n)], dtype=object)
    good = {"number": rng.normal(size=n), "category": rng.choice(np.array(["a", "b"], dtype=object), n)}
    values, nothing, infinite = rng.normal(size=n), np.full(n, np.nan), np.full(n, np.inf)
    shared: dict[str, Any] = {**good, "ids": texts, "one": ["a"] * n, "huge": values * 1e300, "constant": np.ones(n)}
    before = {"empty": values, "late": nothing, "gone": values, "retyped": values, "text": values, "infinite": values}
    after = {"empty": nothing, "late": values, "new": values, "retyped": texts, "text": texts, "infinite": infinite}
    kinds: dict[str, ColumnKind] = {**dict.fromkeys((*shared, *before, *after), "number")}
    kinds |= dict.fromkeys(("category", "ids", "one"), "category")
    reference = Frame(shared | before, features={name: kinds[name] for name in (*shared, *before)})
    current = Frame(shared | after, features={name: kinds[name] for name in (*shared, *after)} | {"retyped": "category"})
    reading = drift(reference, current, method="psi", methods={"one": "chisquare", "huge": "wasserstein"})
    ends = {part.name: (part.outcome.value, part.reason) for part in reading.parts}
    assert ends == {
        "number": ("ok", None),
        "category": ("ok", None),
        "constant": ("ok", None),
        "empty": ("not_enough_data", "0 values in the current window, min_rows is 100"),
        "infinite": ("not_enough_data", "0 values in the current window, min_rows is 100"),
        "late": ("not_enough_data", "0 values in the reference, min_rows is 100"),
        "gone": ("not_evaluable", "missing_column"),
        "new": ("not_evaluable", "missing_column"),
        "retyped": ("not_evaluable", "type_changed"),
        "text": ("not_evaluable", "not_numeric"),
        "ids": ("not_evaluable", "wrong_type"),
        "one": ("not_evaluable", "constant"),
        "huge": ("failed", "overflow"),
    }
    assert reading.metrics == {"features": 13, "evaluated_features": 3, "drifted_features": 0, "dataset_drift": 0}
    assert all(part.outcome is Outcome.OK for part in reading.parts[:3])  # the others come last
    again = calibrated(reference, current, method="psi", methods={"one": "chisquare", "huge": "wasserstein"}, resamples=200)
    # One category on both sides is no difference, which can be calibrated; all else ends as it did.
    assert {part.name: (part.outcome.value, part.reason) for part in again.parts} == {**ends, "one": ("ok", None)}
    assert again.metrics["drifted_features"] == 0


def test_a_part_says_how_many_values_each_side_had() -> None:
    reference, current = Frame({"x": np.append(np.zeros(200), np.nan)}), Frame({"x": np.append(np.zeros(150), np.inf)})
    (part,) = drift(reference, current).parts
    assert (part.n_reference, part.n_current) == (200, 150)


def test_a_window_full_of_new_categories_is_drift_and_not_a_wrong_type() -> None:
    reference = Frame({"city": np.array(["Oslo", "Rome"] * 500, dtype=object)})
    current = Frame({"city": np.array([f"city {i}" for i in range(1000)], dtype=object)})
    assert drift(reference, current).value == 1


def test_too_few_rows_are_not_enough_data() -> None:
    many, few = Frame({"x": np.arange(100.0)}), Frame({"x": np.arange(99.0)})
    for reference, current in ((many, few), (few, many)):
        with pytest.raises(NotEnoughData, match="99 rows, min_rows is 100"):
            drift(reference, current)
    assert drift(many, many).value == 0


def test_too_few_values_everywhere_are_not_enough_data() -> None:
    blank = Frame({"x": np.full(200, np.nan)})
    with pytest.raises(NotEnoughData, match="x: 0 values in the current window"):
        drift(Frame({"x": np.zeros(200)}), blank)


def test_without_a_reference_or_a_feature_it_is_not_evaluable() -> None:
    detector = DataDrift(DataDrift.Config())
    with pytest.raises(NotEvaluable, match="no_reference"):
        detector.compare(None, Frame({"x": np.zeros(200)}))
    with pytest.raises(NotEvaluable, match="no_features"):
        detector.compare(Frame({}), Frame({}))
    with pytest.raises(NotEvaluable, match="no_features: y: missing_column"):
        drift(Frame({"x": np.zeros(200)}), Frame({"x": np.zeros(200)}), features=("y",))


# --- settings --------------------------------------------------------------------------------------------------------


def test_only_the_features_named_are_compared() -> None:
    reference, current = Frame({"a": np.zeros(200), "b": np.zeros(200)}), Frame({"a": np.zeros(200), "b": np.ones(200)})
    assert drift(reference, current).value == 0.5
    assert drift(reference, current, features=("b",)).value == 1


def test_a_feature_may_have_a_method_of_its_own() -> None:
    rng = np.random.default_rng(4)
    frame = Frame({"a": rng.normal(size=200), "b": rng.normal(size=200), "c": ["x", "y"] * 100})
    reading = drift(frame, frame, method="psi", methods={"b": "wasserstein", "c": "chisquare"}, feature_threshold=0.25)
    assert {part.name: (part.statistic, part.threshold) for part in reading.parts} == {
        "a": ("psi", 0.25),
        "b": ("wasserstein", 0.1),
        "c": ("chisquare", 0.05),
    }


def test_a_method_for_the_other_kind_is_a_wrong_type() -> None:
    frame = Frame({"a": np.arange(200.0), "c": ["x", "y"] * 100})
    parts = {part.name: part.reason for part in drift(frame, frame, method="ks").parts}
    assert parts == {"a": None, "c": "wrong_type"}
    parts = {part.name: part.reason for part in drift(frame, frame, method="chisquare").parts}
    assert parts == {"a": "wrong_type", "c": None}


def test_a_distance_at_its_threshold_is_flagged_and_a_p_value_above_is_not() -> None:
    low, high = Frame({"x": np.zeros(200)}), Frame({"x": np.ones(200)})
    (part,) = drift(low, high, method="wasserstein").parts
    assert part.value is not None
    for threshold, flagged in ((part.value, True), (np.nextafter(part.value, np.inf), False)):
        assert drift(low, high, method="wasserstein", feature_threshold=threshold).value == flagged
    (part,) = drift(low, low, method="ks", feature_threshold=0.99).parts
    assert (part.p_value, part.flagged, part.judges, part.direction) == (1.0, False, "p_value", "lower")


@pytest.mark.parametrize(
    ("config", "message"),
    (
        ({"method": "jensen_shannon"}, "jensenshannon"),
        ({"methods": {"x": "chi2"}}, "chisquare"),
        ({"feature_threshold": 0.1}, "name a method"),
        ({"policy": "evidently", "method": "ks", "feature_threshold": 1.5}, "below 1"),
        ({"policy": "evident"}, "calibrated"),
        ({"alpha": 1.0}, "less than 1"),
        ({"method": "psi", "feature_threshold": 0}, "greater than 0"),
        ({"features": ()}, "at least 1"),
        ({"features": ("a",), "methods": {"b": "ks"}}, "b, which features leaves out"),
        ({"min_row": 3}, "min_row"),
    ),
)
def test_a_setting_that_makes_no_sense_is_refused_with_the_remedy(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataDrift.Config(**config)


# --- policy evidently --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", (300, 1001))
def test_the_default_choice_and_the_word_on_the_whole_are_evidentlys(rows: int) -> None:
    """Its own preset on the same frames, column by column."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset
    sides = []
    for seed, move in ((0, 0.0), (1, 0.6)):
        rng = np.random.default_rng(seed)
        numbers = {
            "normal": rng.normal(move, 1, rows),
            "few": rng.integers(0, 4, rows) + np.zeros(rows),
            "two": (rng.random(rows) < 0.3 + move / 4) * 1.0,
            "holes": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows)),
        }
        numbers["holes"][:5] = np.inf
        texts = {
            "city": rng.choice(np.array(list("abcd"), dtype=object), rows, p=[0.4 + move / 4, 0.3 - move / 4, 0.2, 0.1]),
            "flag": rng.choice(np.array(["yes", "no"], dtype=object), rows),
        }
        sides.append({**numbers, **texts})
    definition = DataDefinition(numerical_columns=list(numbers), categorical_columns=list(texts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = np.random.get_state()
        frames = [Dataset.from_pandas(pd.DataFrame(side), data_definition=definition) for side in sides]
        snapshot = Report([DataDriftPreset()], include_tests=True).run(frames[1], frames[0]).dict()
        np.random.set_state(state)
    theirs = {m["config"]["column"]: float(m["value"]) for m in snapshot["metrics"] if m["config"].get("column")}
    failed = {
        t["metric_config"]["params"]["column"]
        for t in snapshot["tests"]
        if "column" in t["metric_config"]["params"] and t["status"] == "FAIL"
    }
    (counted,) = (m["value"] for m in snapshot["metrics"] if not m["config"].get("column"))
    ours = DataDrift(DataDrift.Config(policy="evidently")).compare(Frame(sides[0]), Frame(sides[1]))
    values = {part.name: part.p_value if part.judges == "p_value" else part.value for part in ours.parts}
    assert values == pytest.approx(theirs, abs=1e-9)
    assert {part.name for part in ours.parts if part.flagged} == failed
    assert (ours.metrics["drifted_features"], ours.value) == pytest.approx((counted["count"], counted["share"]))
    assert ours.metrics["dataset_drift"] == (counted["share"] >= 0.5)


def test_a_category_of_numbers_loses_its_infinities_and_one_of_texts_does_not() -> None:
    kinds: dict[str, ColumnKind] = {"x": "category"}
    numbers = Frame({"x": np.array([1.0, 2.0, np.inf] * 100)}, features=kinds)
    texts = Frame({"x": np.array(["zero", "two", "inf"] * 100, dtype=object)}, features=kinds)
    for frame, there in ((numbers, 200), (texts, 300)):
        (part,) = drift(frame, frame, method="jensenshannon").parts
        assert (part.n_reference, part.n_current) == (there, there)


@pytest.mark.parametrize("method", ("perc_text_content_drift", "abs_text_content_drift"))
def test_texts_give_evidentlys_value(method: MethodName) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently.legacy.calculations.stattests.registry import get_registered_stattest
        from evidently.legacy.core import ColumnType
    before = np.random.get_state()
    for shift in (0.0, 0.3):
        x, y = texts_about(0, 300, 0.0), texts_about(1, 200, shift)
        part = part_of(method, x, y, "category")
        state = np.random.get_state()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it does not converge
            found = get_registered_stattest(method, ColumnType.Text)(pd.Series(x), pd.Series(y), ColumnType.Text, None)
        np.random.set_state(state)
        assert part.value == pytest.approx(found.drift_score, abs=1e-12)
        assert part.flagged == bool(found.drifted) == bool(shift)
    assert all(np.array_equal(a, b) for a, b in zip(before, np.random.get_state(), strict=True))


def texts_about(seed: int, rows: int, shift: float) -> Values:
    """Five words each; with `shift` some are of a subject that the others never touch."""
    rng = np.random.default_rng(seed)
    words = np.array(["invoice", "payment", "refund", "account", "card", "transfer", "balance", "statement", "branch", "loan"])
    other = np.array(["kernel", "driver", "socket", "thread", "buffer"])
    drawn = np.where(rng.random((rows, 5)) < shift, rng.choice(other, (rows, 5)), rng.choice(words, (rows, 5)))
    return np.array([" ".join(line) for line in drawn], dtype=object)


# --- policy calibrated -------------------------------------------------------------------------------------------------


def calibrated(reference: Frame, current: Frame, **config: Any) -> Reading:
    return DataDrift(DataDrift.Config(**config)).compare(reference, current)


def columns(rng: np.random.Generator, rows: int, shift: float = 0.0) -> dict[str, Values]:
    return {
        "normal": rng.normal(shift, 1, rows),
        "skewed": rng.lognormal(0, 1, rows),
        "heavy": rng.standard_cauchy(rows),
        "counts": rng.poisson(3, rows) * 1.0,
        "city": rng.choice(np.array([f"v{i}" for i in range(40)], dtype=object), rows),
    }


@pytest.mark.parametrize("sizes", ((5000, 100), (5000, 1000), (600, 600)))
def test_what_did_not_move_is_flagged_as_seldom_as_said(sizes: tuple[int, int]) -> None:
    rng, runs = np.random.default_rng(9), 100
    alarms, p_values = 0, []
    for _ in range(runs):
        reading = calibrated(Frame(columns(rng, sizes[0])), Frame(columns(rng, sizes[1])), resamples=200)
        alarms += reading.value > 0
        p_values += [reading.metrics["p_value"]]
    # 5 % of windows are expected; more than 12 is one run in 1,000, and p-values of chance are spread evenly.
    assert alarms <= 12
    assert distances.ks(np.array(p_values), (np.arange(runs) + 0.5) / runs).p_value > 0.001  # type: ignore[operator]


def test_a_shift_that_evidently_cannot_see_is_found_and_named() -> None:
    rng = np.random.default_rng(10)
    reference = Frame(columns(rng, 5000))
    found = {"psi": 0, "anderson": 0, "evidently": 0}
    for _ in range(20):
        current = Frame(columns(rng, 3000, shift=0.2))
        for method in ("psi", "anderson"):
            reading = calibrated(reference, current, methods={"normal": method}, resamples=200)
            found[method] += reading.parts[0].name == "normal" and reading.parts[0].flagged
        found["evidently"] += drift(reference, current, methods={"normal": "psi"}, features=("normal",)).parts[0].flagged
    assert found == {"psi": 20, "anderson": 20, "evidently": 0}


def test_a_part_is_flagged_exactly_beyond_the_threshold_it_states() -> None:
    rng = np.random.default_rng(11)
    reference, current = Frame(columns(rng, 4000)), Frame(columns(rng, 500, shift=0.25))
    for method in ("ks", "wasserstein", "ed", "cramer_von_mises", "es", "empirical_mmd", "t_test", "mannw", "hellinger"):
        for part in calibrated(reference, current, method=method).parts:
            if part.outcome is Outcome.OK:
                assert part.value is not None
                assert part.threshold is not None
                assert part.flagged == (part.value >= part.threshold), method
                assert (part.judges, part.direction, part.n_reference, part.n_current) == ("value", "higher", 4000, 500)


def test_a_difference_too_small_to_matter_is_not_flagged_where_a_smallest_is_named() -> None:
    rng = np.random.default_rng(12)
    reference, current = Frame({"x": rng.normal(size=20_000)}), Frame({"x": rng.normal(0.1, 1, 8000)})
    (part,) = calibrated(reference, current, method="wasserstein").parts
    assert part.flagged
    (part,) = calibrated(reference, current, method="wasserstein", feature_threshold=0.3).parts
    assert (part.flagged, part.threshold) == (False, 0.3)


def test_a_reference_too_small_or_too_dependent_cannot_be_calibrated_and_says_so() -> None:
    rng = np.random.default_rng(13)
    walk = np.cumsum(rng.normal(size=2000))
    with pytest.raises(NotEnoughData, match="cannot be calibrated: a reference of 2000 rows that depend on each other"):
        calibrated(Frame({"x": walk}), Frame({"x": walk[:500]}))
    assert calibrated(Frame({"x": walk}), Frame({"x": walk[:500]}), block_rows=1).metrics["block_rows"] == 1
    small = Frame({"x": rng.normal(size=15)})
    with pytest.raises(NotEnoughData, match="15 blocks of 1, 20 are needed"):
        calibrated(small, small, min_rows=2)


def test_autocorrelation_counts() -> None:
    """Windows of a slow process differ more from its reference than windows of as many independent rows."""

    def slow(rng: np.random.Generator, rows: int) -> FloatArray:
        noise, values = rng.normal(size=rows + 200), np.zeros(rows + 200)
        for i in range(1, rows + 200):
            values[i] = 0.95 * values[i - 1] + noise[i]
        return values[200:]

    rng = np.random.default_rng(14)
    reference = Frame({"x": slow(rng, 20_000)})
    alarms = {"by block": 0, "by row": 0}
    for _ in range(60):
        current = Frame({"x": slow(rng, 300)})
        alarms["by block"] += calibrated(reference, current, resamples=200).value > 0
        alarms["by row"] += calibrated(reference, current, resamples=200, block_rows=1).value > 0
    assert alarms["by row"] > 30
    assert alarms["by block"] <= 9  # 3 are expected


def test_a_replay_gives_the_same_numbers_whatever_came_before() -> None:
    rng = np.random.default_rng(15)
    reference, current, other = (Frame(columns(rng, n)) for n in (2000, 300, 250))
    again = DataDrift(DataDrift.Config())
    first = again.compare(reference, current)
    again.compare(other, current)
    again.compare(reference, other)
    assert again.compare(reference, current) == first == calibrated(reference, current)


def test_what_text_a_window_has_is_judged_beside_the_numbers() -> None:
    rng = np.random.default_rng(16)

    def frame(seed: int, shift: float) -> Frame:
        return Frame({"x": rng.normal(size=400), "note": texts_about(seed, 400, shift)})

    for shift in (0.0, 0.3):
        reading = calibrated(frame(0, 0.0), frame(1, shift), methods={"note": "abs_text_content_drift"})
        part = next(part for part in reading.parts if part.name == "note")
        assert part.flagged == bool(shift)
        assert (reading.metrics["p_value"] < 0.01) == bool(shift)


def test_a_counter_beside_other_features_costs_only_itself() -> None:
    rng = np.random.default_rng(19)
    before = {"x": rng.normal(size=3000), "y": rng.normal(size=3000), "n": np.arange(3000.0)}
    now = {"x": rng.normal(size=600) + 1, "y": rng.normal(size=600), "n": 3000 + np.arange(600.0)}
    reading = calibrated(Frame(before), Frame(now))
    found = {part.name: part for part in reading.parts}
    assert {name: part.outcome for name, part in found.items()} == {
        "x": Outcome.OK,
        "y": Outcome.OK,
        "n": Outcome.NOT_ENOUGH_DATA,
    }
    assert found["x"].flagged
    assert not found["y"].flagged
    assert "a column that counts" in (found["n"].reason or "")
