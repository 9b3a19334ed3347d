"""`detectors.compare`: what a column is, what is said of each, and in whose numbers."""

from __future__ import annotations

import json
import math
import re
import warnings
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import detectors
from detectors.contract import Frame, Outcome
from detectors.data_drift import DataDrift
from detectors.tables import table_of
from tests.detectors.samples import EMPLOYMENT, employment

DATA = Path(__file__).parents[1] / "data"
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=400)
WORDS = ["a", "b", "c", "d"] * 100


def one(reference: Any, current: Any, **settings: Any) -> Any:
    """The only column of a comparison."""
    (column,) = detectors.compare({"x": reference}, {"x": current}, **settings).columns
    return column


def people() -> tuple[pd.DataFrame, pd.DataFrame]:
    table = pd.read_parquet(DATA / "employment_sample.parquet")
    return table[table["year"] == 2015], table[table["year"] == 2018]


# --- the same numbers as elsewhere -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ("calibrated", "evidently"))
def test_the_values_are_those_of_the_detector(policy: Any) -> None:
    sides = employment(2015), employment(2018)
    reading = DataDrift(DataDrift.Config(policy=policy)).compare(*sides)
    found = detectors.compare(*sides, policy=policy, columns=list(EMPLOYMENT))
    ours = {c.name: (c.method, c.value, c.p_value, c.threshold, c.drifted, c.n_reference, c.n_current) for c in found.columns}
    theirs = {
        p.name: (p.statistic, p.value, p.p_value, p.threshold, p.flagged, p.n_reference, p.n_current) for p in reading.parts
    }
    assert ours == theirs
    assert found.share == reading.value


def test_the_evidently_policy_gives_what_evidentlys_report_gives_of_the_same_frames() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset
    frames = [side[[*EMPLOYMENT, "prediction", "predicted_probability"]] for side in people()]
    ours = detectors.compare(*frames, policy="evidently")
    kinds = {column.name: column.kind for column in ours.columns}
    definition = DataDefinition(
        numerical_columns=[name for name, kind in kinds.items() if kind == "number"],
        categorical_columns=[name for name, kind in kinds.items() if kind == "category"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = np.random.get_state()
        given = [Dataset.from_pandas(frame.reset_index(drop=True), data_definition=definition) for frame in frames]
        snapshot = Report([DataDriftPreset()]).run(given[1], given[0]).dict()
        np.random.set_state(state)
    theirs = {m["config"]["column"]: float(m["value"]) for m in snapshot["metrics"] if m["config"].get("column")}
    assert {c.name: c.p_value if c.judges == "p_value" else c.value for c in ours.columns} == pytest.approx(theirs, abs=1e-9)
    assert len(theirs) == len(frames[0].columns)
    assert all(column.library == "evidently 0.7.23" for column in ours.columns)


def test_pandas_arrow_columns_and_frames_give_one_answer() -> None:
    columns = [{"x": NUMBERS + move, "word": np.array(WORDS, dtype=object), "whole": np.arange(400) % 7} for move in (0.0, 0.5)]
    expected = detectors.compare(*columns)
    for make in (pd.DataFrame, pa.table, Frame):
        found = detectors.compare(*(make(side) for side in columns))
        assert [(c.name, c.value, c.p_value, c.drifted) for c in found.columns] == [
            (c.name, c.value, c.p_value, c.drifted) for c in expected.columns
        ], make
    assert expected.drifted == ("x",)


def test_the_same_data_does_not_drift_and_gives_the_same_answer_again() -> None:
    side = {"x": NUMBERS, "word": WORDS}
    found = detectors.compare(side, side)
    assert (found.drift, found.drifted, found.share) == (False, (), 0.0)
    assert found == detectors.compare(side, side)


# --- what a column is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "family"),
    (
        ([1, None], "number"),
        (pd.array([1, None], dtype="Int64"), "number"),
        (np.array([1, 2], dtype=np.uint8), "number"),
        (pd.array([0.5, None], dtype="double[pyarrow]"), "number"),
        ([Decimal("1.5"), None], "number"),
        (["a", None], "text"),
        (pd.Categorical([1, 2]), "text"),
        (["a", 1], "text"),
        ([True, False], "boolean"),
        ([True, None], "boolean"),
        ([None, None], "empty"),
        ([datetime(2026, 3, 1, tzinfo=UTC), None], "time"),
        (pd.to_datetime(["2026-03-01", "2026-03-02"]), "time"),
        (pd.to_timedelta([1, 2], unit="s"), "time"),
        ([[1, 2], [3]], "nested"),
        ([{"a": 1}, None], "nested"),
        ([b"x", b"y"], "nested"),
        (np.zeros((2, 3)), "nested"),
        (np.array([1j, 2j]), "nested"),
    ),
)
def test_a_columns_family_is_told_by_its_type(values: Any, family: str) -> None:
    assert table_of({"x": values}).types["x"].family == family


@pytest.mark.parametrize(
    ("values", "family"),
    (
        (pa.array([1, None], pa.int8()), "number"),
        (pa.array([Decimal("1.5")] * 2), "number"),
        (pa.array([0.5, 1], pa.float32()), "number"),
        (pa.array(["a", None]), "text"),
        (pa.array(["a", "b"], pa.large_string()), "text"),
        (pa.array(["a", "b"]).dictionary_encode(), "text"),
        (pa.array([True, None]), "boolean"),
        (pa.nulls(2), "empty"),
        (pa.array([None, None], pa.int64()), "empty"),
        (pa.array([datetime(2026, 3, 1)] * 2), "time"),
        (pa.array([datetime(2026, 3, 1).date()] * 2), "time"),
        (pa.array([[1], [2]]), "nested"),
        (pa.array([{"a": 1}] * 2), "nested"),
        (pa.array([b"x"] * 2), "nested"),
    ),
)
def test_an_arrow_columns_family_is_told_by_its_type(values: Any, family: str) -> None:
    table = table_of(pa.table({"x": values}))
    assert table.types["x"].family == family
    if family == "number":
        assert table.numbers("x").dtype == np.float64
    if family in ("text", "boolean"):
        assert len(table.categories("x").codes) == 2


def test_times_and_nested_values_are_left_out_with_the_reason_unless_they_are_asked_for() -> None:
    side = {"x": NUMBERS, "when": pd.date_range("2026-01-01", periods=400), "list": [[1]] * 400}
    found = detectors.compare(side, side)
    assert [column.name for column in found.columns] == ["x"]
    assert set(found.left_out) == {"when", "list"}
    assert "a time" in found.left_out["when"]
    (asked,) = detectors.compare(side, side, columns=["when"]).columns
    assert (asked.outcome, asked.reason, asked.value) == (Outcome.NOT_EVALUABLE, "wrong_type", None)


def test_the_reference_says_what_a_column_is_and_a_setting_overrules_it() -> None:
    whole = RNG.integers(1, 5, 400).tolist()
    assert one(whole, [float(v) for v in whole]).kind == "number"
    assert one(whole, whole, categories=["x"]).kind == "category"
    as_text = [str(v) for v in whole]
    changed = one(whole, as_text)
    assert (changed.outcome, changed.reason, changed.value) == (Outcome.NOT_EVALUABLE, "type_changed", None)
    assert "(text), and in the reference int64 (number)" in changed.why
    assert one(whole, as_text, categories=["x"]).value == 0.0
    assert one(whole, as_text, numbers=["x"]).value == 0.0
    assert one(as_text, [*as_text[:-1], "four"], numbers=["x"]).reason == "not_numeric"
    assert one([True, False] * 200, whole).reason == "type_changed"


# --- what is not to be had ---------------------------------------------------------------------------------------------

ODD: dict[str, tuple[Any, Any, dict[str, Any], Outcome, str]] = {
    "three rows": (NUMBERS, NUMBERS[:3], {}, Outcome.NOT_ENOUGH_DATA, "3 values in the current window, min_rows is 100"),
    "no rows": (NUMBERS, NUMBERS[:0], {}, Outcome.NOT_ENOUGH_DATA, "0 values in the current window"),
    "all null now": (NUMBERS, [None] * 400, {}, Outcome.NOT_ENOUGH_DATA, "0 values in the current window"),
    "all null before": ([None] * 400, NUMBERS, {}, Outcome.NOT_ENOUGH_DATA, "0 values in the reference"),
    "all infinite now": (NUMBERS, [math.inf] * 400, {}, Outcome.NOT_ENOUGH_DATA, "0 values in the current window"),
    "all distinct texts": ([f"id{i}" for i in range(400)], WORDS, {}, Outcome.NOT_EVALUABLE, "an identifier"),
    "constant": (
        ["a"] * 400, ["a"] * 400, {"policy": "evidently", "method": "chisquare"}, Outcome.NOT_EVALUABLE, "chisquare needs two",
    ),
    "a counter": (np.arange(400.0), np.arange(400.0), {}, Outcome.NOT_ENOUGH_DATA, "a column that counts, trends"),
    "a method for others": (WORDS, WORDS, {"method": "ks"}, Outcome.NOT_EVALUABLE, "ks is not for a category"),
    "too large": (np.where(NUMBERS > 0, 1.7e308, -1.7e308), NUMBERS, {}, Outcome.FAILED, "too large"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_cannot_be_compared_has_an_outcome_and_words_and_no_number(case: str) -> None:
    reference, current, settings, outcome, words = ODD[case]
    column = one(reference, current, **settings)
    assert (column.outcome, column.value, column.drifted) == (outcome, None, False)
    assert words in column.why
    whole = detectors.compare({"x": reference}, {"x": current}, **settings)
    assert (whole.outcome, whole.drift, whole.share) == (outcome, False, None)
    assert words in (whole.reason or "")


def test_infinities_are_no_values_and_harm_nobody() -> None:
    with_some = np.where(np.arange(400) % 10 == 0, np.inf, NUMBERS)
    column = one(with_some, with_some)
    assert (column.outcome, column.value, column.n_reference) == (Outcome.OK, 0.0, 360)


def test_a_constant_column_that_stays_constant_has_not_drifted_and_one_that_changes_has() -> None:
    same, other = one([5.0] * 400, [5.0] * 400), one([5.0] * 400, [6.0] * 400)
    assert (same.drifted, other.drifted) == (False, True)


def test_one_bad_column_harms_none_of_the_others() -> None:
    good = {"x": NUMBERS, "word": WORDS}
    bad = {"counter": np.arange(400.0), "id": [f"{i}x" for i in range(400)], "null": [None] * 400, "gone": NUMBERS}
    alone = detectors.compare(good, {**good, "x": NUMBERS + 1})
    found = detectors.compare({**good, **bad}, {**good, **bad, "x": NUMBERS + 1, "gone": WORDS})
    assert found.drifted == alone.drifted == ("x",)
    assert {column.name for column in found.not_evaluated} == set(bad)
    assert found.share == alone.share == 0.5


def test_columns_of_one_side_are_told_and_none_in_common_is_no_result() -> None:
    found = detectors.compare({"a": NUMBERS, "b": NUMBERS}, {"a": NUMBERS, "c": NUMBERS})
    assert {c.name: c.why for c in found.not_evaluated} == {"b": "not in the current data", "c": "not in the reference"}
    nothing = detectors.compare({"a": NUMBERS}, {"c": NUMBERS})
    assert nothing.outcome is Outcome.NOT_EVALUABLE
    assert nothing.reason == "no column in common: the reference has a; the current data has c"
    assert detectors.compare({}, {}).reason == "no column that can be compared"


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"columns": ["y"]}, "columns: y on neither side; there are x"),
        ({"methods": {"y": "ks"}}, "methods: y on neither side"),
        ({"categories": ["x"], "numbers": ["x"]}, "x cannot be numbers and categories"),
        ({"drift_share": 0.0}, r"drift_share \(0.0\)"),
        ({"method": "kss"}, "Input should be 'ks'"),
        ({"alhpa": 0.1}, "Extra inputs are not permitted"),
    ),
)
def test_a_setting_that_is_none_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one(NUMBERS, NUMBERS, **settings)


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(TypeError, match="list is no table; give a pandas DataFrame"):
        detectors.compare([1, 2], {"x": [1]})
    with pytest.raises(ValueError, match="columns that stand twice: a"):
        detectors.compare(pd.DataFrame([[1, 2]], columns=["a", "a"]), {"a": [1]})
    with pytest.raises(ValueError, match="unequal length"):
        detectors.compare({"a": [1], "b": [1, 2]}, {"a": [1]})


# --- the word on all of them -------------------------------------------------------------------------------------------


def test_drift_is_any_column_or_the_share_that_is_asked_for() -> None:
    before = dict.fromkeys("abcd", NUMBERS)
    now = {**before, "a": NUMBERS + 1}
    assert detectors.compare(before, now).drift
    assert not detectors.compare(before, now, drift_share=0.5).drift
    assert detectors.compare(before, now, drift_share=0.25).drift
    assert not detectors.compare(before, now, policy="evidently").drift
    assert detectors.compare(before, {**now, "b": NUMBERS + 1}, policy="evidently").drift


def test_without_drift_any_column_is_called_drifted_about_as_often_as_alpha_says() -> None:
    rng = np.random.default_rng(5)
    reference = {name: rng.normal(size=2000) for name in "abcdef"}
    windows = [{name: rng.normal(size=200) for name in "abcdef"} for _ in range(40)]
    rung = sum(detectors.compare(reference, window, alpha=0.1, block_rows=1, resamples=300).drift for window in windows)
    assert rung <= 10  # of 40 at 0.1: more has a probability below 0.001


# --- how it is shown ---------------------------------------------------------------------------------------------------


def test_the_plain_values_are_json_and_the_frame_has_a_row_a_column() -> None:
    side = {"x": NUMBERS, "w": WORDS, "i": np.arange(400)}
    found = detectors.compare(side, {**side, "x": NUMBERS + 1})
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["drifted_columns"] == 1
    assert (told["evaluated_columns"], told["share_of_drifted_columns"]) == (2, 0.5)
    assert {column["name"]: column["outcome"] for column in told["columns"]} == {"x": "ok", "w": "ok", "i": "not_enough_data"}
    frame = found.to_pandas()
    assert frame.set_index("name").loc["x", "drifted"]
    assert len(frame) == 3


NASTY = "<script>alert(1)</script> & \"'\x00\u202e\ud800"


def test_a_page_stands_alone_and_whatever_is_in_the_data_is_text() -> None:
    side = {NASTY: [NASTY, "b", "c", "d"] * 100, "x": NUMBERS, "flat": [1.0] * 400}
    found = detectors.compare(side, {**side, "x": NUMBERS + 1})
    page = found.to_html("A " + NASTY)
    assert page.encode("utf-8")
    assert "<script" not in page
    assert not re.search(r"(src|href|url)\s*[=(]", page)
    assert "default-src 'none'" in page
    assert page.count('<svg viewBox="0 0 640 230" role="img" aria-label=') == 3
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert len(page) < 40_000
    assert page == found.to_html("A " + NASTY)


def test_a_notebook_shows_the_table_in_a_frame_of_its_own() -> None:
    shown = detectors.compare({NASTY: NUMBERS}, {NASTY: NUMBERS})._repr_html_()
    assert shown.startswith('<iframe sandbox=""')
    assert "<script" not in shown


def test_a_distribution_adds_up_and_says_what_lies_beyond() -> None:
    wide = np.append(NUMBERS, [1e9] * 2)
    now = {"x": wide, "n": np.arange(402) % 3, "w": [*WORDS, "z", None]}
    found = detectors.compare({"x": NUMBERS, "n": np.arange(400) % 3, "w": WORDS}, now)
    for name in ("x", "n", "w"):
        shares = found.distribution(name)
        assert shares is not None
        assert shares.reference.sum() == pytest.approx(1)
        assert shares.current.sum() == pytest.approx(1)
    x = found.distribution("x")
    assert x is not None
    assert x.beyond[1] >= 2
    words = found.distribution("w")
    assert words is not None
    assert set(words.labels) == {"a", "b", "c", "d", "z"}
    assert words.n == (400, 401)
    assert found.distribution("nobody") is None


def test_many_categories_are_shown_as_the_largest_and_the_rest() -> None:
    many = [f"c{i % 40}" for i in range(400)]
    shares = detectors.compare({"x": many}, {"x": many}).distribution("x")
    assert shares is not None
    assert (len(shares.labels), shares.labels[-1]) == (13, "28 more")
    assert shares.reference.sum() == pytest.approx(1)
