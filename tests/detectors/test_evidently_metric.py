"""Evidently metrics as series: its values, columns typed by the schema, and failures that say what to do."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from detectors import evidently_library, evidently_metric
from detectors.contract import ColumnKind, Frame, NotEnoughData, NotEvaluable, Outcome, Reading
from detectors.data_drift import DataDrift
from detectors.evidently_library import EVIDENTLY, METRICS, UNSUPPORTED
from detectors.evidently_metric import EvidentlyMetric
from detectors.testing import check_detector
from tests.detectors import samples


def measure(reference: Frame | None, current: Frame, metric: str, **config: Any) -> Reading:
    return EvidentlyMetric(EvidentlyMetric.Config(metric=metric, **config)).compare(reference, current)


def window(rows: int = 500, shift: float = 0.0, **columns: Any) -> Frame:
    rng = np.random.default_rng(rows)
    return Frame(
        {
            "amount": rng.normal(shift, 1, rows),
            "city": rng.choice(np.array(["Oslo", "Rome", None], dtype=object), rows),
            "prediction": rng.integers(0, 2, rows) * 1.0,
            "label": rng.integers(0, 2, rows) * 1.0,
            **columns,
        },
        features={"amount": "number", "city": "category"},
    )


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ("ks", "wasserstein", "psi", "jensenshannon"))
def test_value_drift_is_what_data_drift_says(method: str) -> None:
    reference, current = samples.employment(2015), samples.employment(2018)
    reading = measure(reference, current, "ValueDrift", arguments={"column": "AGEP", "method": method})
    (part,) = DataDrift(DataDrift.Config(policy="evidently", method=method, features=("AGEP",))).compare(reference, current).parts
    assert reading.value == pytest.approx(part.value if part.p_value is None else part.p_value, abs=1e-9)
    assert (reading.n_reference, reading.n_current) == (1500, 1500)
    assert reading.statistic.startswith("ValueDrift(column=AGEP,method=")


def test_a_metric_of_the_current_window_needs_no_reference() -> None:
    frame = window()
    reading = measure(None, frame, "MeanValue", arguments={"column": "amount"})
    assert reading.value == pytest.approx(frame.numbers("amount").mean())
    assert reading.statistic == "MeanValue(column=amount)"
    assert reading.metrics == {"value": reading.value, "columns_left_out": 0, "window_rows": 500}


def test_field_chooses_among_several_numbers_and_metrics_has_them_all() -> None:
    frame = window()
    missing = int((frame.categories("city").codes < 0).sum())
    reading = measure(None, frame, "MissingValueCount", arguments={"column": "city"}, field="share")
    assert reading.value == pytest.approx(missing / 500)
    assert reading.metrics["count"] == missing
    assert reading.statistic == "MissingValueCount(column=city).share"


def test_a_preset_names_each_number_by_metric_and_column() -> None:
    reading = measure(window(), window(400, shift=2), "DataDriftPreset", field="DriftedColumnsCount.share")
    assert reading.value == 0.5
    assert {"DriftedColumnsCount.count", "ValueDrift.amount.value", "ValueDrift.city.value"} < set(reading.metrics)


def test_numbers_of_one_short_name_keep_their_long_one() -> None:
    reading = measure(None, window(), "ValueStats", arguments={"column": "amount"}, field="MeanValue.amount.value")
    assert {"QuantileValue(column=amount,quantile=0.25).value", "MaxValue.amount.value"} < set(reading.metrics)


def test_correlations_are_a_table_and_give_a_number_a_cell() -> None:
    x = np.arange(100.0)
    frame = Frame({"a": x, "b": 3 * x, "c": -x})
    reading = measure(None, frame, "CorrelationMatrix", field="a.b")
    assert reading.value == pytest.approx(1)
    assert reading.metrics["a.c"] == pytest.approx(-1)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_quality_is_measured_on_the_labelled_rows() -> None:
    frame = samples.employment(2018)
    prediction, label = frame.numbers("prediction"), frame.numbers("label").copy()
    label[1000:] = np.nan
    late = Frame({"prediction": prediction, "probability": frame.numbers("probability"), "label": label}, features={})
    for metric in ("Accuracy", "RocAuc", "F1Score"):
        reading = measure(None, late, metric, task="binary", worse="lower")
        assert reading.n_current == 1000
    accuracy = measure(None, late, "Accuracy", task="binary")
    assert accuracy.value == pytest.approx(np.mean(prediction[:1000] == label[:1000]))
    assert accuracy.metrics["window_rows"] == 1500


def test_what_the_model_decided_counts_and_not_its_probability() -> None:
    label, prediction = np.array([0.0, 1] * 50), np.array([0.0, 1] * 50)
    cautious = Frame({"label": label, "prediction": prediction, "probability": 0.4 * prediction}, features={})
    assert measure(None, cautious, "Accuracy", task="binary").value == 1
    assert measure(None, cautious, "RocAuc", task="binary").value == 1
    assert measure(None, cautious, "Accuracy", task="binary", arguments={"probas_threshold": 0.5}).value == 0.5


def test_rows_without_a_probability_are_left_out_where_it_is_needed() -> None:
    frame = samples.employment(2018)
    probability = frame.numbers("probability").copy()
    probability[:300] = np.nan
    columns = {"label": frame.numbers("label"), "prediction": frame.numbers("prediction")}
    with_gaps = Frame({**columns, "probability": probability}, features={})
    assert measure(None, with_gaps, "RocAuc", task="binary").n_current == 1200
    assert measure(None, with_gaps, "Accuracy", task="binary").n_current == 1500
    with pytest.raises(NotEvaluable, match="missing_column"):
        measure(None, Frame(columns, features={}), "RocAuc", task="binary")


def test_regression_and_more_than_two_classes() -> None:
    before = samples.bike_sharing("reference")
    assert measure(None, before, "MAE", task="regression", field="mean").value == pytest.approx(7.5, abs=0.1)
    label = np.array(["cat", "dog", "cow"], dtype=object)[np.arange(300) % 3]
    animals = Frame({"label": label, "prediction": np.roll(label, 1)}, features={})
    assert measure(None, animals, "Accuracy", task="multiclass").value == 0


def test_labels_are_read_only_where_they_are_asked_for() -> None:
    def inputs(**config: Any) -> frozenset[str]:
        return EvidentlyMetric(EvidentlyMetric.Config(**config)).inputs

    assert inputs(metric="DriftedColumnsCount") == {"features"}
    assert inputs(metric="ValueDrift", arguments={"column": "prediction"}) == {"features", "prediction"}
    assert inputs(metric="Accuracy", task="binary") == {"features", "prediction", "label"}
    assert inputs(metric="LogLoss", task="binary") == {"features", "prediction", "probability", "label"}


def test_drift_of_the_prediction_is_measured_although_it_is_no_feature() -> None:
    reading = measure(window(), window(prediction=np.ones(500)), "ValueDrift", arguments={"column": "prediction"})
    assert reading.value < 0.001  # a p-value


# --- columns ---------------------------------------------------------------------------------------------------------


def test_the_schema_types_the_columns_and_not_their_looks() -> None:
    # Evidently would take few whole numbers for categories, and mostly distinct texts for free text.
    kinds: dict[str, ColumnKind] = {"few": "number", "many": "category"}
    frame = Frame({"few": np.arange(100.0) % 3, "many": np.arange(100).astype(str).astype(object)}, features=kinds)
    methods = {name: measure(frame, frame, "ValueDrift", arguments={"column": name, "method": "psi"}).value for name in kinds}
    assert methods == {"few": 0, "many": 0}
    reading = measure(None, frame, "ColumnCount", arguments={"column_type": "num"})
    assert reading.value == 1


def test_one_empty_column_does_not_lose_the_others() -> None:
    reference, current = window(shift=0.0), window(400, shift=2, city=np.full(400, None, dtype=object))
    reading = measure(reference, current, "DriftedColumnsCount", field="share")
    assert (reading.value, reading.metrics["columns_left_out"]) == (1, 1)
    alone = measure(reference, current, "MissingValueCount", arguments={"column": "city"}, field="share")
    assert (alone.value, alone.metrics["columns_left_out"]) == (1, 0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    (
        ({"amount": np.array(["a"] * 500, dtype=object)}, "not_numeric"),
        ({"amount": None}, "missing_column"),
    ),
)
def test_a_named_column_that_cannot_be_used_says_why(changed: dict[str, Any], reason: str) -> None:
    columns = {name: window()._columns[name] for name in ("amount", "city")} | changed
    current = Frame({name: values for name, values in columns.items() if values is not None}, features=window().features)
    with pytest.raises(NotEvaluable) as caught:
        measure(window(), current, "ValueDrift", arguments={"column": "amount"})
    assert caught.value.reason == reason


def test_a_named_column_without_values_is_not_enough_data() -> None:
    with pytest.raises(NotEnoughData, match="'amount' has no values"):
        measure(window(), window(amount=np.full(500, np.nan)), "ValueDrift", arguments={"column": "amount"})


def test_few_rows_are_not_enough_data() -> None:
    with pytest.raises(NotEnoughData, match="29 rows, min_rows is 30"):
        measure(window(), window(29), "RowCount")


def test_of_too_many_rows_a_seeded_sample_is_taken_and_said_so() -> None:
    frame = window(5000)

    def mean(seed: int) -> Reading:
        return measure(frame, frame, "MeanValue", arguments={"column": "amount"}, max_rows=1000, seed=seed)

    reading = mean(1)
    assert (reading.n_current, reading.n_reference) == (1000, 1000)
    assert (reading.metrics["window_rows"], reading.metrics["reference_rows"]) == (5000, 5000)
    assert reading == mean(1)
    assert reading.value != mean(2).value


# --- failures --------------------------------------------------------------------------------------------------------


def test_an_unknown_metric_names_those_there_are() -> None:
    with pytest.raises(ValidationError, match=r"has no metric 'ValueDrifts'; there are .*ValueDrift"):
        EvidentlyMetric.Config(metric="ValueDrifts")
    with pytest.raises(ValidationError, match=r"t-SNE of every window .* use the detector embedding_drift"):
        EvidentlyMetric.Config(metric="EmbeddingsDrift")


def test_a_missing_or_unknown_field_names_those_there_are() -> None:
    for field in (None, "part"):
        with pytest.raises(ValueError, match="there are count, share"):
            measure(window(), window(), "DriftedColumnsCount", field=field)


def test_an_argument_that_the_metric_does_not_take_is_named() -> None:
    with pytest.raises(ValueError, match="colum"):
        measure(window(), window(), "MeanValue", arguments={"colum": "amount"})


def test_settings_that_make_no_sense_are_refused_without_evidently() -> None:
    for config in ({}, {"metric": "os.system"}, {"metric": "MAE", "task": "guessing"}, {"metric": "MAE", "worse": "up"}):
        with pytest.raises(ValidationError):
            EvidentlyMetric.Config.model_validate(config)


# --- every metric ------------------------------------------------------------------------------------------------------

ARGUMENTS: dict[str, dict[str, Any]] = {
    name: arguments
    for names, arguments in (
        (
            "MaxValue MeanValue MedianValue MinValue QuantileValue StdValue SumValue ValueDrift ValueStats MissingValueCount",
            {"column": "amount"},
        ),
        (
            "FBetaTopK HitRate MAP MRR NDCG PrecisionTopK RecallTopK ScoreDistribution Novelty Personalization "
            "PopularityBiasMetric",
            {"k": 5},
        ),
        ("Diversity Serendipity", {"k": 5, "item_features": ["amount", "size"]}),
        ("ColumnCorrelations ColumnCorrelationMatrix", {"column_name": "amount"}),
        ("InRangeValueCount OutRangeValueCount", {"column": "amount", "left": 0, "right": 1}),
        ("InListValueCount OutListValueCount", {"column": "city", "values": ["Oslo"]}),
        ("CategoryCount", {"column": "city", "category": "Oslo"}),
        ("UniqueValueCount", {"column": "city"}),
        ("GroupBy", {"metric": {"metric": "MeanValue", "column": "amount"}, "column_name": "city"}),
    )
    for name in names.split()
}
RANKINGS = {
    "FBetaTopK", "HitRate", "MAP", "MRR", "NDCG", "PrecisionTopK", "RecallTopK", "ScoreDistribution", "Novelty",
    "Personalization", "PopularityBiasMetric", "Diversity", "Serendipity",
}  # fmt: skip
REGRESSIONS = {
    "AbsMaxError", "DummyMAE", "DummyMAPE", "DummyRMSE", "MAE", "MAPE", "MeanError", "R2Score", "RMSE", "RegressionPreset",
    "RegressionQuality", "RegressionDummyQuality",
}  # fmt: skip
CLASSES = {
    "Accuracy", "F1ByLabel", "F1Score", "FNR", "FPR", "LogLoss", "Precision", "PrecisionByLabel", "Recall", "RecallByLabel",
    "RocAuc", "RocAucByLabel", "TNR", "TPR", "DummyAccuracy", "DummyF1Score", "DummyFNR", "DummyFPR", "DummyLogLoss",
    "DummyPrecision", "DummyRecall", "DummyRocAuc", "DummyTNR", "DummyTPR", "ClassificationDummyQuality", "ClassificationPreset",
    "ClassificationQuality", "ClassificationQualityByLabel",
}  # fmt: skip


def for_metric(name: str, shift: float = 0.0) -> tuple[Frame, dict[str, Any]]:
    """A window this metric can be had of, and the settings it needs."""
    rng = np.random.default_rng(len(name))
    config: dict[str, Any] = {"arguments": ARGUMENTS.get(name, {})}
    columns: dict[str, Any] = {"amount": rng.normal(shift, 1, 200), "size": rng.normal(0, 1, 200)}
    columns["city"] = rng.choice(np.array(["Oslo", "Rome"], dtype=object), 200)
    features: dict[str, ColumnKind] = {"amount": "number", "size": "number", "city": "category"}
    if name in RANKINGS:
        config["task"] = "ranking"
        columns |= {
            "amount": 1 + np.arange(200) * 7 % 40 / 40 + shift,  # of the item
            "size": 1 + np.arange(200) * 7 % 40 % 3 * 1.0,
            "user_id": np.array([f"u{i % 20}" for i in range(200)], dtype=object),
            "item_id": np.array([f"i{i * 7 % 40}" for i in range(200)], dtype=object),
            "label": rng.integers(0, 2, 200) * 1.0,
            "prediction": rng.random(200),
        }
        features |= {"user_id": "category", "item_id": "category"}
    elif name in REGRESSIONS:
        config["task"] = "regression"
        columns |= {"label": rng.normal(5, 1, 200), "prediction": rng.normal(5, 1, 200)}
    elif name in CLASSES:
        config["task"] = "binary"
        chance = rng.random(200)
        columns |= {"label": (rng.random(200) < chance) * 1.0, "prediction": (chance > 0.5) * 1.0, "probability": chance}
        if name in ("ClassificationDummyQuality", "ClassificationPreset", "ClassificationQuality"):
            config["arguments"] = {"probas_threshold": 0.5}
    elif name == "TextEvals":
        columns["note"] = np.array([f"a note of {i} words" for i in range(200)], dtype=object)
        features["note"] = "category"
        config["texts"] = ("note",)
    return Frame(columns, features=features), config


def test_every_metric_that_evidently_registers_is_run_or_said_not_to_be_and_why() -> None:
    evidently = evidently_library.import_evidently()
    registered = {*evidently.metrics.__all__, *evidently.presets.__all__}
    assert registered == METRICS | set(UNSUPPORTED)
    assert not METRICS & set(UNSUPPORTED)
    assert CLASSES | REGRESSIONS | RANKINGS | set(ARGUMENTS) <= METRICS


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_gives_numbers(name: str) -> None:
    (reference, config), (current, _) = for_metric(name), for_metric(name, shift=1.0)
    first = ""
    try:
        reading = measure(reference, current, name, **config)
    except ValueError as exc:  # several numbers, and none is named
        first = str(exc).partition("; there are ")[2].split(", ")[0]
        reading = measure(reference, current, name, field=first, **config)
    assert np.isfinite(reading.value)
    assert reading.metrics["window_rows"] == reading.metrics["reference_rows"] == reading.n_current == 200
    assert reading.metrics["columns_left_out"] == 0
    assert reading.parts == ()


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_is_not_run_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} is not run here: "):
        EvidentlyMetric.Config(metric=name)


def test_tests_are_numbers_of_the_reading() -> None:
    tests = [{"lte": 0.1}, {"gt": {"relative": 0.1}}, {"is_in": [1, 2], "is_critical": False}]
    reading = measure(
        window(), window(400, shift=2), "MeanValue", arguments={"column": "amount", "tests": tests}, field="tests_failed"
    )
    named = {name: value for name, value in reading.metrics.items() if name.startswith("test: ")}
    assert reading.value == 1
    assert reading.metrics["tests_failed_share"] == pytest.approx(1 / 3)
    assert sorted(named.values()) == [0, 1, 1], "one that is not critical is a warning"
    preset = {"mae_tests": {"mean": [{"lt": 0.001}]}}
    frame, config = for_metric("RegressionPreset")
    reading = measure(None, frame, "RegressionPreset", **config | {"arguments": preset, "field": "tests_failed"})
    assert reading.value == 1


def test_a_group_is_named_in_each_number() -> None:
    frame, config = for_metric("GroupBy")
    reading = measure(None, frame, "GroupBy", field="MeanValue.amount.city=Oslo.value", **config)
    inside = np.array(frame.categories("city").names)[frame.categories("city").codes] == "Oslo"
    assert reading.value == pytest.approx(frame.numbers("amount")[inside].mean())


def test_a_ranking_is_judged_at_the_rank_asked_for() -> None:
    frame, config = for_metric("PrecisionTopK")
    reading = measure(None, frame, "PrecisionTopK", **config)
    assert reading.metrics["5"] == reading.value
    assert set(map(str, range(1, 6))) < set(reading.metrics)


def test_a_column_that_evidently_cannot_take_costs_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evidently_library.snapshot

    def fails_on_city(evidently: Any, metrics: Any, columns: Any, *rest: Any, **more: Any) -> Any:
        if "city" in columns:
            raise RuntimeError("cities are too much for me")
        return whole(evidently, metrics, columns, *rest, **more)

    monkeypatch.setattr(evidently_metric, "snapshot", fails_on_city)
    wide = {"other": np.arange(500.0)}
    kinds: dict[str, ColumnKind] = {"amount": "number", "city": "category", "other": "number"}
    frame = Frame({**{n: window()._columns[n] for n in ("amount", "city")}, **wide}, features=kinds)
    reading = measure(frame, frame, "DriftedColumnsCount", field="count")
    assert reading.metrics["columns_left_out"] == 1
    (part,) = reading.parts
    assert (part.name, part.outcome, part.reason) == ("city", Outcome.FAILED, "RuntimeError: cities are too much for me")


def test_of_columns_that_are_listed_those_that_are_not_there_are_left_out() -> None:
    arguments = {"columns": ["amount", "gone"]}
    reading = measure(window(), window(400, shift=2), "DataDriftPreset", arguments=arguments, field="DriftedColumnsCount.share")
    assert reading.value == 1.0
    assert [(part.name, part.reason) for part in reading.parts] == [("gone", "missing_column")]


def test_global_generators_go_on_as_if_nothing_had_been() -> None:
    np.random.seed(7)
    random.seed(7)
    expected = np.random.random(), random.random()
    np.random.seed(7)
    random.seed(7)
    measure(window(), window(400, shift=2), "ValueDrift", arguments={"column": "city", "method": "TVD"})
    assert (np.random.random(), random.random()) == expected


def test_a_metric_that_compares_says_that_it_has_nothing_to_compare_with() -> None:
    for name in ("ValueDrift", "DataDriftPreset", "Novelty"):
        frame, config = for_metric(name)
        with pytest.raises(NotEvaluable, match="no_reference"):
            measure(None, frame, name, **config)


# --- what it declares ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    (
        {"metric": "ValueDrift", "arguments": {"column": "amount"}},
        {"metric": "DriftedColumnsCount", "field": "share"},
        {"metric": "RocAuc", "task": "binary", "worse": "lower"},
    ),
)
def test_it_keeps_the_contract(config: dict[str, Any]) -> None:
    check_detector(EvidentlyMetric, config)


def test_worse_is_a_setting() -> None:
    assert EvidentlyMetric(EvidentlyMetric.Config(metric="Accuracy", worse="lower")).worse == "lower"
    assert EvidentlyMetric(EvidentlyMetric.Config(metric="ValueDrift")).worse == "higher"


def test_the_version_that_is_recorded_is_the_one_installed() -> None:
    assert version("evidently") == EVIDENTLY
    assert EvidentlyMetric.version.endswith(EVIDENTLY)


def test_it_warns_of_nothing_and_leaves_the_filters_alone() -> None:
    before = list(warnings.filters)
    measure(window(), window(amount=np.ones(500)), "DataDriftPreset", field="DriftedColumnsCount.count")
    assert warnings.filters == before


def test_evidently_is_imported_by_the_first_comparison_and_reports_nothing() -> None:
    code = (
        "import os, sys, numpy as np\n"
        "from detectors.contract import Frame\n"
        "from detectors.evidently_metric import EvidentlyMetric\n"
        "d = EvidentlyMetric(EvidentlyMetric.Config(metric='RowCount'))\n"
        "assert not {'evidently', 'pandas', 'torch'} & set(sys.modules)\n"
        "d.compare(None, Frame({'x': np.zeros(40)}))\n"
        "assert 'evidently' in sys.modules and 'torch' not in sys.modules and os.environ['DO_NOT_TRACK']\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DO_NOT_TRACK"}
    environment["PYTHONPATH"] = str(Path(evidently_metric.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
