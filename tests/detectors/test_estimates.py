"""`detectors.estimate`: NannyML's values chunk by chunk, labels that come late, chunks of the calendar, and odd rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import detectors
from detectors.chunks import Chunking, Times
from detectors.contract import ColumnKind, Frame, NotEvaluable, Outcome
from detectors.estimates import SHOWN, thresholds
from detectors.performance_estimate import PerformanceEstimate
from detectors.report.charts import Series, over_time
from detectors.report.markup import written
from detectors.roles import RoleUnknown
from detectors.tables import table_of
from tests.detectors.samples import employment

DATA = Path(__file__).parents[1] / "data"
NANNYML = json.loads((DATA / "nannyml_estimates.json").read_bytes())["sets"]
THREE_ERRORS = math.erf(3 / math.sqrt(2))  # NannyML's band


def people(year: int) -> pd.DataFrame:
    table = pd.read_parquet(DATA / "employment_sample.parquet")
    return table[table["year"] == year].reset_index(drop=True)


def bikes(period: str) -> pd.DataFrame:
    table = pd.read_parquet(DATA / "bike_sharing_sample.parquet")
    return table[table["period"] == period].drop(columns=["period", "instant"]).reset_index(drop=True)


def made(rows: int, sure: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Rows of two classes whose probabilities are right."""
    rng = np.random.default_rng(seed)
    p = 0.5 + (rng.uniform(size=rows) - 0.5) * sure
    return pd.DataFrame(
        {
            "id": np.arange(rows),
            "timestamp": pd.date_range("2026-01-01", periods=rows, freq="h", tz="UTC"),
            "prediction": (p > 0.5).astype(int),
            "probability": p,
            "label": (rng.uniform(size=rows) < p).astype(int),
        }
    )


def of(found: Any, metric: str) -> Any:
    return next(one for one in found.metrics if one.name == metric)


# --- the same numbers as elsewhere -------------------------------------------------------------------------------------


def cards() -> list[pd.DataFrame]:
    table = pd.read_parquet(DATA / "nannyml_cards.parquet")
    return [table[table["side"] == side].drop(columns="side").reset_index(drop=True) for side in ("reference", "analysis")]


@pytest.mark.parametrize("name", ("employment", "credit_cards"))
def test_estimates_bands_thresholds_alerts_and_the_truth_are_nannymls(name: str) -> None:
    if name == "employment":
        sides, how = [people(2015), people(2018)], {"task": "binary", "label": "employed"}
    else:
        sides, how = cards(), {"task": "multiclass"}
    told, metrics = NANNYML[name], [*SHOWN["binary"], "business_value"]
    # The columns of probabilities are found by their names.
    found = detectors.estimate(
        *sides, chunk_size=500, confidence=THREE_ERRORS, metrics=metrics, values=told["values"], **how,  # type: ignore[arg-type]
    )  # fmt: skip
    assert len(found.metrics) == 8
    alerts = 0
    for metric in found.metrics:
        area = metric.name in ("roc_auc", "pr_auc")
        theirs = told["metrics"][{"pr_auc": "average_precision"}.get(metric.name, metric.name)]
        # Of several classes rows of one score have other probabilities, and NannyML takes them as they come.
        exact = pytest.approx(theirs["value"], rel=5e-5 if metric.name == "pr_auc" else 5e-6 if area else 1e-9)
        assert [chunk.estimate for chunk in metric.chunks] == exact, metric.name
        assert [chunk.realised for chunk in metric.chunks] == pytest.approx(theirs["realized"], rel=1e-9), metric.name
        for ours, bound in ((metric.lower_threshold, "lower_threshold"), (metric.upper_threshold, "upper_threshold")):
            assert ours == pytest.approx(theirs[bound][0], rel=1e-9), (metric.name, bound)
        assert [chunk.alert for chunk in metric.chunks] == [bool(alert) for alert in theirs["alert"]], metric.name
        alerts += sum(chunk.alert for chunk in metric.chunks)
        if not area:  # whose errors they draw
            assert [chunk.sampling_error for chunk in metric.chunks] == pytest.approx(theirs["sampling_error"], rel=1e-9)
            lows = [value - 3 * error for value, error in zip(theirs["value"], theirs["sampling_error"], strict=True)]
            assert [chunk.lower for chunk in metric.chunks] == pytest.approx(lows, rel=1e-9)
    assert alerts > 0


def test_thresholds_are_the_mean_of_the_reference_and_three_deviations() -> None:
    found = detectors.estimate(people(2015), people(2018), task="binary", label="employed", chunk_size=250, metrics=["accuracy"])
    accuracy = of(found, "accuracy")
    right = people(2015)["prediction"] == people(2015)["employed"]
    truth = [float(right.iloc[start : start + 250].mean()) for start in range(0, 1500, 250)]
    assert [chunk.realised for chunk in accuracy.reference] == pytest.approx(truth)
    assert accuracy.lower_threshold == pytest.approx(np.mean(truth) - 3 * np.std(truth))
    assert accuracy.upper_threshold == pytest.approx(np.mean(truth) + 3 * np.std(truth))
    for chunk in accuracy.chunks:
        assert chunk.alert == (not accuracy.lower_threshold <= chunk.estimate <= accuracy.upper_threshold)


@pytest.mark.parametrize("metric", ("roc_auc", "accuracy", "f1"))
def test_one_chunk_is_what_the_detector_says_of_the_window(metric: str) -> None:
    sides = employment(2015), employment(2018)
    reading = PerformanceEstimate(PerformanceEstimate.Config(metric=metric)).compare(*sides)
    found = detectors.estimate(people(2015), people(2018), task="binary", label="employed", chunk_number=1, metrics=[metric])
    (chunk,) = of(found, metric).chunks
    assert (chunk.estimate, chunk.lower, chunk.upper, chunk.rows) == pytest.approx(
        (reading.value, reading.lower, reading.upper, reading.n_current)
    )
    assert of(found, metric).reference_value == pytest.approx(reading.metrics[f"reference_{metric}"])


def test_regression_is_what_the_detector_says_of_the_window() -> None:
    features = ["hr", "weekday", "hum", "windspeed"]
    found = detectors.estimate(
        bikes("reference"), bikes("production"), task="regression", features=features, chunk_number=1, metrics=["mae"]
    )
    kinds: dict[str, ColumnKind] = dict.fromkeys(features, "number")
    sides = []
    for table in (bikes("reference"), bikes("production")):
        columns = {name: table[name].to_numpy(float) for name in (*features, "prediction", "target")}
        sides.append(Frame({**columns, "label": columns["target"]}, features=kinds))
    reading = PerformanceEstimate(PerformanceEstimate.Config(task="regression")).compare(*sides)
    (chunk,) = of(found, "mae").chunks
    assert chunk.estimate == pytest.approx(reading.value)
    truth = bikes("production")
    assert chunk.realised == pytest.approx(float((truth["prediction"] - truth["target"]).abs().mean()))
    assert found.roles.label == "target"
    assert "label" in found.roles.guessed


def test_pandas_arrow_and_plain_columns_give_one_answer() -> None:
    frames = made(1000), made(500, 0.5, 1)
    expected = detectors.estimate(*frames, task="binary", chunk_size=250).to_dict()["metrics"]
    for make in (lambda t: pa.Table.from_pandas(t, preserve_index=False), lambda t: {n: t[n].tolist() for n in t.columns}):
        assert detectors.estimate(*map(make, frames), task="binary", chunk_size=250).to_dict()["metrics"] == expected


# --- alerts ------------------------------------------------------------------------------------------------------------


def test_a_model_that_gets_unsure_alerts_without_any_label_and_one_that_stays_does_not() -> None:
    unsure, same = (made(2000, sure, 7).drop(columns="label") for sure in (0.4, 1.0))
    alerts = detectors.estimate(made(10_000), unsure, task="binary", metrics=["roc_auc", "accuracy"], chunk_size=1000).alerts
    assert alerts == tuple((m, c) for m in ("roc_auc", "accuracy") for c in ("0:999", "1000:1999"))
    assert detectors.estimate(made(10_000), same, task="binary", metrics=["roc_auc", "accuracy"], chunk_size=1000).alerts == ()


def test_thresholds_stay_where_the_metric_can_be() -> None:
    assert thresholds("accuracy", [0.99, 0.9, 1.0], 3)[1] == 1.0
    assert thresholds("mae", [0.1, 5.0], 3)[0] == 0.0
    assert thresholds("business_value", [-5.0, 5.0], 3) == (-15.0, 15.0)
    assert thresholds("mae", [None, 1.0], 3) == (None, None)


# --- labels ------------------------------------------------------------------------------------------------------------


def test_late_labels_are_joined_by_id_whatever_their_order() -> None:
    reference, whole = made(1000), made(400, seed=2)
    expected = detectors.estimate(reference, whole, task="binary", chunk_number=2).to_dict()["metrics"]
    late = whole[["id", "label"]].sample(frac=1, random_state=0)
    for labels in (late, late.rename(columns={"label": "truth"}), late.astype({"id": str})):
        found = detectors.estimate(reference, whole.drop(columns="label"), labels, task="binary", chunk_number=2)
        assert found.to_dict()["metrics"] == expected
        assert not any("label" in note for note in found.notes)


def test_labels_for_half_the_rows_give_the_truth_of_that_half_and_say_so() -> None:
    reference, whole = made(1000), made(400, seed=2)
    bare, late = whole.drop(columns="label"), whole[["id", "label"]]
    found = detectors.estimate(reference, bare, late.iloc[::2], task="binary", chunk_number=1)
    (chunk,) = of(found, "accuracy").chunks
    half = whole.iloc[::2]
    assert (chunk.rows, chunk.labelled) == (400, 200)
    assert chunk.realised == pytest.approx(float((half["prediction"] == half["label"]).mean()))
    assert "200 of 400 rows of the analysis have a label; what came true is of those" in found.notes
    own = whole.assign(label=np.where(np.arange(400) % 2 == 0, whole["label"], np.nan))
    assert of(detectors.estimate(reference, own, task="binary", chunk_number=1), "accuracy").chunks[0] == chunk
    few = detectors.estimate(reference, bare, late.head(5), task="binary", chunk_number=1)
    (chunk,) = of(few, "accuracy").chunks
    assert (chunk.outcome, chunk.realised, chunk.labelled) == (Outcome.OK, None, 0)
    assert chunk.realised_why == "5 usable rows of 400, min_rows is 100"


def test_an_id_that_is_not_one_rows_has_no_label_and_neither_has_one_with_two() -> None:
    reference, whole = made(1000), made(400, seed=2)
    twice = whole.assign(id=np.where(whole["id"] == 1, 0, whole["id"])).drop(columns="label")
    labels = whole[["id", "label"]]
    torn = pd.concat([labels, labels[labels["id"] == 5].assign(label=lambda t: 1 - t["label"]), labels[labels["id"] == 6]])
    stray = pd.concat([torn, pd.DataFrame({"id": [9999], "label": [1]})])
    found = detectors.estimate(reference, twice, stray, task="binary", chunk_number=1)
    assert of(found, "accuracy").chunks[0].labelled == 397  # without 0, 1 and 5; 6 says the same twice
    assert found.notes[:4] == (
        "2 rows of the analysis share their id with another row and are taken as unlabelled",
        "1 values of id have labels that differ; their rows are taken as unlabelled",
        "2 values of id among the labels are of no row of the analysis",
        "397 of 400 rows of the analysis have a label; what came true is of those",
    )


def test_long_ids_keep_all_their_digits() -> None:
    reference, whole = made(1000), made(200, seed=2)
    ids = 2**60 + whole["id"]
    found = detectors.estimate(
        reference,
        whole.assign(id=ids).drop(columns="label"),
        whole.assign(id=ids)[["id", "label"]],
        task="binary",
        chunk_number=1,
    )
    assert of(found, "accuracy").chunks[0].labelled == 200


# --- time --------------------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_makes_no_difference_but_a_note() -> None:
    reference, now = made(1000), made(480, seed=3)
    expected = detectors.estimate(reference, now, task="binary", chunk_period="day")
    found = detectors.estimate(reference, now.sample(frac=1, random_state=1), task="binary", chunk_period="day", min_rows=20)
    assert [c.name for c in of(found, "f1").chunks] == [c.name for c in of(expected, "f1").chunks]
    assert len(of(found, "f1").chunks) == 20
    again = detectors.estimate(reference, now, task="binary", chunk_period="day", min_rows=20)
    assert [c.estimate for c in of(found, "f1").chunks] == pytest.approx([c.estimate for c in of(again, "f1").chunks])
    assert "rows of the analysis were earlier than the one before them" in found.notes[0]


@pytest.mark.parametrize(
    ("period", "names"),
    (
        ("day", ["2026-03-28", "2026-03-29", "2026-03-30"]),
        ("week", ["2026-03-23", "2026-03-30"]),
        ("month", ["2026-03"]),
        ("quarter", ["2026-Q1"]),
        ("year", ["2026"]),
    ),
)
def test_chunks_of_the_calendar_are_those_of_the_zone(period: Any, names: list[str]) -> None:
    """Three days in Oslo, of which the middle one has 23 hours."""
    hours = pd.date_range("2026-03-27T23:00", periods=71, freq="h")
    times = Times(hours.to_numpy(dtype="datetime64[us]"), aware=True)
    chunks = Chunking(period=period, timezone="Europe/Oslo").cut(71, times)
    assert [chunk.name for chunk in chunks] == names
    assert chunks[0].first == "2026-03-28T00:00:00+01:00"
    assert chunks[-1].last == "2026-03-30T23:00:00+02:00"
    if period == "day":
        assert [chunk.end - chunk.start for chunk in chunks] == [24, 23, 24]


def test_the_hour_that_a_clock_shows_twice_is_two_hours_where_the_zone_is_known() -> None:
    hours = pd.date_range("2026-10-24T23:30", periods=4, freq="h").to_numpy(dtype="datetime64[us]")
    cut = Chunking(period="hour", timezone="Europe/Oslo")
    assert [chunk.name for chunk in cut.cut(4, Times(hours, aware=True))] == [
        "2026-10-25T01:00+02:00", "2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00",
    ]  # fmt: skip
    wall = np.array(["2026-10-25T01:30", "2026-10-25T02:30", "2026-10-25T02:30"], dtype="datetime64[us]")
    assert [chunk.name for chunk in cut.cut(3, Times(wall, aware=False))] == ["2026-10-25T01:00", "2026-10-25T02:00"]


def test_rows_without_a_time_are_in_no_chunk_of_the_calendar_and_are_counted() -> None:
    now = made(240, seed=3)
    now.loc[:9, "timestamp"] = pd.NaT
    found = detectors.estimate(made(1000), now, task="binary", chunk_period="month", metrics=["accuracy"])
    assert sum(chunk.end - chunk.start for chunk in of(found, "accuracy").chunks) == 230
    assert "10 rows of the analysis have no time" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("values", "first", "aware"),
    (
        (["2026-01-01T00:00:00+01:00", "2026-07-01T00:00:00+02:00"], "2025-12-31T23:00", True),
        (["2026-01-01T00:00:00Z", None], "2026-01-01T00:00", True),
        (["2026-01-01 00:00:00", "2026-01-02"], "2026-01-01T00:00", False),
        ([1767225600, 1767225601.5], "2026-01-01T00:00", True),
        (pd.to_datetime(["2026-01-01", "2026-01-02"]), "2026-01-01T00:00", False),
        (pd.to_datetime(["2026-01-01", "2026-01-02"]).tz_localize("Europe/Oslo"), "2025-12-31T23:00", True),
    ),
)
def test_times_are_read_however_they_are_written(values: Any, first: str, aware: bool) -> None:
    times = table_of({"t": values}).times("t")
    assert times.at[0] == np.datetime64(first)
    assert times.aware is aware


@pytest.mark.parametrize(
    ("values", "message"),
    (
        (["2026-01-01T00:00:00Z", "2026-01-01T00:00:00"], "some of its times have a zone and others have none"),
        (["yesterday"], "is not of times"),
        ([3.0], "3 is no number of seconds since 1970"),
    ),
)
def test_what_is_no_time_is_refused(values: Any, message: str) -> None:
    found = detectors.estimate(made(1000), made(1).assign(timestamp=values[:1] if len(values) == 1 else ["x"]), task="binary")
    assert found.outcome is Outcome.NOT_EVALUABLE
    with pytest.raises(NotEvaluable, match=message):
        table_of({"t": values}).times("t")


# --- what is not to be had ---------------------------------------------------------------------------------------------


def test_a_chunk_that_is_too_small_says_so_and_harms_no_other() -> None:
    found = detectors.estimate(made(1000), made(420, seed=1), task="binary", chunk_size=200, metrics=["accuracy"])
    chunks = of(found, "accuracy").chunks
    assert [chunk.outcome.value for chunk in chunks] == ["ok", "ok", "not_enough_data"]
    assert (chunks[2].estimate, chunks[2].why, chunks[2].alert) == (None, "20 usable rows of 20, min_rows is 100", False)


def odd(case: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    reference, now = made(1000), made(400, seed=1)
    match case:
        case "three rows":
            return reference, now.head(3)
        case "no rows":
            return reference, now.head(0)
        case "small reference":
            return reference.head(50), now
        case "labels of one class":
            return reference.assign(label=1), now
        case "no labels at all":
            return reference.assign(label=np.nan), now
        case "all probabilities missing":
            return reference, now.assign(probability=np.nan)
        case "probabilities beyond one":
            return reference, now.assign(probability=now["probability"] * 100)
        case "infinite probabilities":
            return reference, now.assign(probability=np.inf)
        case "probabilities of text":
            return reference, now.assign(probability="high")
        case "no probability":
            return reference, now.drop(columns="probability")
        case "three classes":
            return reference, now.assign(prediction=np.arange(400) % 3)
        case _:
            raise ValueError(case)


@pytest.mark.parametrize(
    ("case", "outcome", "words"),
    (
        ("three rows", "not_enough_data", "min_rows is 100"),
        ("no rows", "not_enough_data", "the analysis has no rows"),
        ("small reference", "not_enough_data", "reference: 50 usable rows of 50, min_rows is 100"),
        ("labels of one class", "not_evaluable", "labels of one class only"),
        ("no labels at all", "not_enough_data", "reference: 0 usable rows"),
        ("all probabilities missing", "not_enough_data", "0 usable rows"),
        ("probabilities beyond one", "not_enough_data", "usable rows"),
        ("infinite probabilities", "not_enough_data", "0 usable rows"),
        ("probabilities of text", "not_evaluable", "not_numeric"),
        ("no probability", "not_evaluable", "no column 'probability' in the analysis"),
        ("three classes", "not_evaluable", "binary needs 1"),
    ),
)
def test_what_cannot_be_estimated_has_an_outcome_and_words_and_no_number(case: str, outcome: str, words: str) -> None:
    found = detectors.estimate(*odd(case), task="binary", chunk_number=1)
    assert found.outcome.value == outcome
    assert words in (found.reason or "")
    assert not any(chunk.estimate is not None for metric in found.metrics for chunk in metric.chunks)
    assert found.alerts == ()
    assert found.verdict.startswith("Nothing could be estimated: ")
    assert found.to_html()


def test_probabilities_that_do_not_sum_to_one_are_left_out_and_counted() -> None:
    table = pd.read_parquet(DATA / "nannyml_cards.parquet")
    sides = [table[table["side"] == side].drop(columns="side").reset_index(drop=True) for side in ("reference", "analysis")]
    sides[1].loc[:99, "probability:prepaid_card"] += 0.5
    sides[1]["probability:prepaid_card"] = sides[1]["probability:prepaid_card"].clip(0, 1)
    found = detectors.estimate(*sides, task="multiclass", chunk_number=1)
    assert of(found, "f1").chunks[0].rows <= 1400 + 1
    assert "of the analysis the probabilities do not sum to one; they are left out" in " ".join(found.notes)


def test_a_feature_of_another_type_is_told() -> None:
    now = bikes("production")
    for changed, words in ((now.assign(hum="wet"), "feature 'hum' is str and was float64"), (now.drop(columns="hum"), "hum")):
        found = detectors.estimate(bikes("reference"), changed, task="regression", features=["hum", "hr"])
        assert found.outcome is Outcome.NOT_EVALUABLE
        assert words in (found.reason or "")


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        (
            {"label": "truth"},
            "label: no column 'truth' in the reference; there are id, timestamp, prediction, probability, label",
        ),
        ({"metrics": ["mae"]}, "metric mae cannot be estimated for binary"),
        ({"chunk_size": 5, "chunk_number": 5}, "give one of chunk_size, chunk_number and chunk_period"),
        ({"chunk_size": 0}, r"chunk_size \(0\) must be 1 or more"),
        ({"chunk_period": "day", "timezone": "Mars/Base"}, "no zone 'Mars/Base'"),
        ({"threshold_std": 0.0}, "threshold_std"),
        ({"min_rows": 1}, "greater than or equal to 20"),
    ),
)
def test_a_setting_that_is_none_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detectors.estimate(made(200), made(200), task="binary", **settings)


def test_a_column_that_is_called_as_a_role_is_no_feature_and_that_is_said() -> None:
    """A second label beside the first would hold the truth; a score or a date may well be a feature."""
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=400) for name in ("label", "prediction", "x", "score", "Target")}
    found = detectors.estimate(rows, rows, task="regression", metrics=["mae"], chunk_number=1)
    assert found.roles.features == ("x",)
    assert [note for note in found.notes if "not learnt from" in note and "score, Target;" in note]
    named = detectors.estimate(rows, rows, task="regression", metrics=["mae"], chunk_number=1, features=["x", "score"])
    assert named.roles.features == ("x", "score")
    assert not [note for note in named.notes if "not learnt from" in note]


def test_a_column_that_cannot_be_told_has_to_be_named() -> None:
    rows = made(300)
    with pytest.raises(RoleUnknown, match=r"label: no column is called as one \(label, target, y_true, actual\); say which of"):
        detectors.estimate(rows.rename(columns={"label": "repaid"}), rows, task="binary")
    with pytest.raises(RoleUnknown, match="timestamp: no column is called as one"):
        detectors.estimate(rows.drop(columns="timestamp"), rows, task="binary", chunk_period="day")
    with pytest.raises(RoleUnknown, match="probabilities: say which column has those of which class"):
        detectors.estimate(rows, rows, task="multiclass")
    with pytest.raises(RoleUnknown, match="id: labels are joined by a column that both have"):
        detectors.estimate(rows, rows, rows[["label"]], task="binary")
    with pytest.raises(RoleUnknown, match=r"label: could be Label or LABEL; say which"):
        detectors.estimate(rows.assign(LABEL=1).rename(columns={"label": "Label"}), rows, task="binary")


# --- how it is shown ---------------------------------------------------------------------------------------------------


def test_the_plain_values_are_json_and_the_frame_has_a_row_a_chunk() -> None:
    found = detectors.estimate(made(1000), made(420, seed=1), task="binary", chunk_size=200)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [metric["name"] for metric in told["metrics"]] == list(SHOWN["binary"])
    assert len(found.to_pandas()) == 21
    assert told["roles"]["prediction"] == "prediction"


def test_a_page_shows_each_metric_and_runs_nothing() -> None:
    reference = made(1000)
    now = made(600, 0.3, 1).rename(columns={"id": "<script>"})
    page = detectors.estimate(reference, now, task="binary", chunk_size=200).to_html("<script>alert(1)</script>")
    assert "<script" not in page
    assert page.count('role="img"') == 7
    assert 'class="alert"' in page
    assert 'class="band"' in page
    assert page.count('class="threshold"') >= 7
    assert len(page) < 60_000
    shown = detectors.estimate(reference, now, task="binary", chunk_size=200)._repr_html_()
    assert shown.startswith('<iframe sandbox=""')


@pytest.mark.parametrize("values", ([1e308, -1e308], [5e-324, 0.0], [0.5, 0.5], [None, None], [1e-12, 2e-12]))
def test_a_plot_of_any_values_is_drawn_or_left_empty(values: list[float | None]) -> None:
    names, alerts = ["a", "b"], [True, False]
    found = Series(names, values, values, values, values, alerts, [], (None, 1.0))
    parent = Element("figure")
    over_time(parent, found, "metric", "told")
    assert "nan" not in written(parent)
    assert "inf" not in written(parent)
