"""Estimates without labels: NannyML's values, close to the later truth; and gaps that tell a changed concept."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from detectors.contract import Frame, NotEnoughData, NotEvaluable, Reading
from detectors.estimate_gap import EstimateGap
from detectors.estimation.estimators import METRICS, Plan, fit
from detectors.performance_estimate import PerformanceEstimate
from detectors.testing import check_detector
from tests.detectors import samples

NANNYML: dict[str, Any] = json.loads((samples.DATA / "nannyml_estimates.json").read_text(encoding="utf-8"))["sets"]
Floats = NDArray[np.float64]


def estimate(reference: Frame | None, current: Frame, **config: Any) -> Reading:
    return PerformanceEstimate(PerformanceEstimate.Config(**config)).compare(reference, current)


def gap(reference: Frame | None, current: Frame, **config: Any) -> Reading:
    return EstimateGap(EstimateGap.Config(**config)).compare(reference, current)


def part(frame: Frame, start: int, end: int) -> Frame:
    return Frame({name: values[start:end] for name, values in frame._columns.items()}, features=frame.features)


def cards(side: str) -> Frame:
    table = pd.read_parquet(samples.DATA / "nannyml_cards.parquet")
    table = table[table["side"] == side].drop(columns="side")
    return Frame({name: table[name].to_numpy() for name in table.columns}, features={})


SIDES = {
    "employment": (samples.employment(2015), samples.employment(2018)),
    "credit_cards": (cards("reference"), cards("analysis")),
}


# --- as NannyML ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "metric"), [(name, metric) for name in NANNYML for metric in NANNYML[name]["metrics"]])
def test_classes_are_estimated_as_by_nannyml(name: str, metric: str) -> None:
    told = NANNYML[name]
    reference, analysis = SIDES[name]
    ours = {"average_precision": "pr_auc"}.get(metric, metric)
    values = tuple(map(tuple, told["values"])) if metric == "business_value" else ()
    estimator = fit(Plan(told["task"], ours, "1", values, 20, 0), reference)
    # Of several classes, rows of an equal score differ in what they are calibrated to; NannyML takes them as they are sorted.
    areas = name == "credit_cards" and metric in ("roc_auc", "average_precision")
    for i, (start, end) in enumerate(told["chunks"]):
        found, rows = estimator.estimate(part(analysis, start, end))
        assert rows == end - start
        expected = told["metrics"][metric]
        assert found[ours] == pytest.approx(expected["value"][i], rel=5e-4 if areas else 1e-6)
        # NannyML resamples the reference by numpy's global generator, and ranks ties as they come.
        tolerance = {"average_precision": 0.35, "roc_auc": 0.02}.get(metric, 1e-9)
        assert estimator.sampling_error(rows) == pytest.approx(expected["sampling_error"][i], rel=tolerance)


# --- near the truth --------------------------------------------------------------------------------------------------


def two_classes(rows: int, seed: int, shift: float = 0.0, changed: float = 0.0) -> Frame:
    """`shift` moves the rows to where they are harder to tell; `changed` is what a feature means for the label."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1 - shift, rows)
    p = 1 / (1 + np.exp(-3 * x))
    label = rng.random(rows) < np.clip(p + changed * np.sign(0.5 - p), 0, 1)
    columns = {"x": x, "prediction": (p > 0.5).astype(float), "probability": p, "label": label.astype(float)}
    return Frame(columns, features={"x": "number"})


def three_classes(rows: int, seed: int, changed: float = 0.0) -> Frame:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.7, 0.7, 0.7], rows)
    names = np.array(["a", "b", "c"], dtype=object)
    likely = (p.cumsum(1) > rng.random((rows, 1))).argmax(1)
    label = np.where(rng.random(rows) < changed, rng.integers(0, 3, rows), likely)
    columns = {"label": names[label], "prediction": names[p.argmax(1)]} | {
        f"probability:{c}": p[:, i] for i, c in enumerate("abc")
    }
    return Frame(columns, features={})


def numbers(rows: int, seed: int, shift: float = 0.0, changed: float = 0.0) -> Frame:
    """Errors grow with x."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 3 + shift, rows)
    kind = rng.choice(np.array(["old", "new"], dtype=object), rows)
    y = 10 + x + rng.normal(0, 0.2 + np.where(kind == "old", x, x / 2), rows) + changed * rng.choice([-1, 1], rows)
    return Frame({"x": x, "kind": kind, "prediction": 10 + x, "label": y}, features={"x": "number", "kind": "category"})


def truth(frame: Frame) -> float:
    return float((frame.numbers("label") == frame.numbers("prediction")).mean())


def test_a_harder_window_is_known_before_its_labels() -> None:
    reference, harder = two_classes(5000, seed=1), two_classes(5000, seed=2, shift=0.6)
    reading = estimate(reference, harder, metric="accuracy")
    assert truth(reference) - truth(harder) > 0.1
    assert reading.value == pytest.approx(truth(harder), abs=0.015)
    assert reading.metrics["reference_accuracy"] == pytest.approx(truth(reference))


@pytest.mark.parametrize("metric", METRICS["binary"])
def test_the_band_holds_the_truth(metric: str) -> None:
    config: dict[str, Any] = {"metric": metric, "confidence": 0.9}
    if metric == "business_value":
        config["values"] = [[1, -2], [-3, 2]]
    detector = PerformanceEstimate(PerformanceEstimate.Config(**config))
    gaps = EstimateGap(EstimateGap.Config(resamples=20, **config))
    reference = two_classes(20_000, seed=3)
    inside = 0
    for i in range(100):
        window = two_classes(500, 100 + i)
        reading = detector.compare(reference, window)
        assert reading.lower is not None
        assert reading.upper is not None
        inside += reading.lower <= gaps.compare(reference, window).metrics["realised"] <= reading.upper
    assert inside >= 75


@pytest.mark.parametrize("metric", METRICS["regression"])
def test_larger_errors_are_expected_where_they_were_larger(metric: str) -> None:
    reference, further = numbers(8000, seed=4), numbers(4000, seed=5)
    kept = further.numbers("x") > 2
    hard = Frame({name: values[kept] for name, values in further._columns.items()}, features=further.features)
    reading, came_true = (
        estimate(reference, hard, task="regression", metric=metric),
        gap(reference, hard, task="regression", metric=metric),
    )
    assert reading.value == came_true.metrics["estimated"]
    assert reading.value == pytest.approx(came_true.metrics["realised"], rel=0.15)
    assert reading.value > 1.2 * reading.metrics[f"reference_{metric}"]


def test_unlabelled_rows_are_no_part_of_a_gap_and_labels_no_part_of_an_estimate() -> None:
    reference, window = two_classes(3000, seed=6), two_classes(1000, seed=7)
    half = np.where(np.arange(1000) < 500, window.numbers("label"), np.nan)
    late = Frame({**window._columns, "label": half}, features=window.features)
    assert estimate(reference, late) == estimate(reference, window)
    reading = gap(reference, late)
    assert (reading.n_current, reading.metrics["label_coverage"]) == (500, 0.5)
    first = part(window, 0, 500)
    assert reading.value == gap(reference, first).value


# --- the gap ---------------------------------------------------------------------------------------------------------

MADE: dict[str, Any] = {"binary": two_classes, "multiclass": three_classes, "regression": numbers}
CHANGED = {"binary": 0.1, "multiclass": 0.25, "regression": 1.5}


@pytest.mark.parametrize(
    ("task", "metric"),
    (("binary", "accuracy"), ("binary", "roc_auc"), ("multiclass", "f1"), ("regression", "mae"), ("regression", "rmse")),
)
def test_a_gap_is_chance_where_only_the_rows_moved_and_no_chance_where_the_concept_did(task: str, metric: str) -> None:
    make = MADE[task]
    detector = EstimateGap(EstimateGap.Config(task=task, metric=metric, resamples=100))
    reference = make(6000, seed=8)
    p_values = [detector.compare(reference, make(400, 200 + i)).metrics["p_value"] for i in range(100)]
    assert sum(p < 0.05 for p in p_values) <= 13  # 5 are expected
    reading = detector.compare(reference, make(1500, 9, changed=CHANGED[task]))
    assert reading.metrics["p_value"] < 1e-3
    assert (reading.value > 0) == (detector.worse == "higher")


def test_a_shift_without_a_changed_concept_makes_no_gap() -> None:
    reading = gap(two_classes(6000, seed=10), two_classes(2000, seed=11, shift=0.6), metric="accuracy")
    assert abs(reading.value) < 0.03
    assert reading.metrics["p_value"] > 0.01


# --- what cannot be estimated ----------------------------------------------------------------------------------------


def test_what_is_missing_is_said() -> None:
    reference, window = two_classes(500, seed=12), two_classes(500, seed=13)

    def without(frame: Frame, *names: str) -> Frame:
        return Frame({n: v for n, v in frame._columns.items() if n not in names}, features={})

    with pytest.raises(NotEvaluable, match="no_reference"):
        estimate(None, window)
    with pytest.raises(NotEvaluable, match="no_labels: reference"):
        estimate(without(reference, "label"), window)
    with pytest.raises(NotEvaluable, match="missing_column: the estimate needs the column probability"):
        estimate(reference, without(window, "probability"))
    with pytest.raises(NotEvaluable, match="no_labels"):
        gap(reference, without(window, "label"))
    with pytest.raises(NotEvaluable, match="no_features"):
        estimate(without(reference, "x", "probability"), window, task="regression")
    with pytest.raises(NotEnoughData, match="3 usable rows of 3"):
        estimate(reference, part(window, 0, 3))
    one = Frame({**reference._columns, "label": np.ones(500)}, features={})
    with pytest.raises(NotEvaluable, match="constant: reference: labels of one class only"):
        estimate(one, window)


def test_a_new_reference_is_learnt() -> None:
    detector = PerformanceEstimate(PerformanceEstimate.Config(metric="accuracy"))
    window = two_classes(500, seed=14)
    first = detector.compare(two_classes(2000, seed=15), window)
    other = detector.compare(two_classes(2000, seed=16, changed=0.2), window)
    assert other.value < first.value - 0.05


def test_probabilities_of_a_class_that_the_reference_has_not_are_a_wrong_type() -> None:
    def told(names: str) -> Frame:
        rng = np.random.default_rng(17)
        p = rng.dirichlet([1] * len(names), 300)
        rows = np.array([json.dumps(dict(zip(names, row, strict=True))) for row in p.tolist()], dtype=object)
        return Frame({"label": np.array(list(names), dtype=object)[p.argmax(1)], "probabilities": rows}, features={})

    assert estimate(told("abc"), told("abc"), task="multiclass", metric="accuracy").n_current == 300
    with pytest.raises(NotEvaluable, match="wrong_type: probabilities of classes that the reference has not: d"):
        estimate(told("abc"), told("abcd"), task="multiclass")


@pytest.mark.parametrize(
    ("config", "message"),
    (
        ({"metric": "mae"}, "metric mae cannot be estimated for binary"),
        ({"metric": "business_value"}, "needs values"),
        ({"values": [[1, 2], [3]]}, "as many numbers"),
        ({"values": [[1, 2, 3]] * 3}, "two by two"),
    ),
)
def test_a_setting_that_makes_no_sense_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PerformanceEstimate.Config(**config)


@pytest.mark.parametrize("detector", (PerformanceEstimate, EstimateGap))
@pytest.mark.parametrize(
    "config", ({}, {"metric": "f1"}, {"task": "multiclass"}, {"task": "regression"}, {"task": "regression", "metric": "rmsle"})
)
def test_it_keeps_the_contract(detector: type, config: dict[str, Any]) -> None:
    check_detector(detector, config)
