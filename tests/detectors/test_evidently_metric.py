"""Evidently metrics as series: its values, columns typed by the schema, and failures that say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from detectors import evidently_metric
from detectors.contract import ColumnKind, Frame, NotEnoughData, NotEvaluable, Reading
from detectors.data_drift import DataDrift
from detectors.evidently_metric import EVIDENTLY, EvidentlyMetric
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
    with pytest.raises(ValueError, match=r"has no metric 'ValueDrifts'; there are .*ValueDrift"):
        measure(window(), window(), "ValueDrifts")


def test_a_missing_or_unknown_field_names_those_there_are() -> None:
    for field in (None, "part"):
        with pytest.raises(ValueError, match="there are count, share"):
            measure(window(), window(), "DriftedColumnsCount", field=field)


def test_an_argument_that_the_metric_does_not_take_is_named() -> None:
    with pytest.raises(ValueError, match="colum"):
        measure(window(), window(), "MeanValue", arguments={"colum": "amount"})


def test_settings_that_make_no_sense_are_refused_without_evidently() -> None:
    for config in ({}, {"metric": "os.system"}, {"metric": "MAE", "task": "ranking"}, {"metric": "MAE", "worse": "up"}):
        with pytest.raises(ValidationError):
            EvidentlyMetric.Config.model_validate(config)


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
