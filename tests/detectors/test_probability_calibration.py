"""Calibration: scikit-learn's curve, the error and its interval, and whether it moved."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from detectors.contract import Frame, NotEnoughData, NotEvaluable, Reading
from detectors.probability_calibration import ProbabilityCalibration
from detectors.testing import check_detector
from tests.detectors import samples


def read(current: Frame, reference: Frame | None = None, **config: Any) -> Reading:
    return ProbabilityCalibration(ProbabilityCalibration.Config(**config)).compare(reference, current)


def window(rows: int, seed: int, shift: float = 0.0) -> Frame:
    """What is said to happen with probability p happens with p + `shift`."""
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 3, rows)
    y = rng.random(rows) < np.clip(p + shift, 0, 1)
    return Frame({"label": y.astype(float), "prediction": (p > 0.5).astype(float), "probability": p}, features={})


def sides(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return frame.numbers("label"), frame.numbers("probability")


def points(reading: Reading, which: str) -> list[float]:
    return [value for name, value in reading.metrics.items() if name.startswith(f"{which}:")]


@pytest.mark.parametrize("strategy", ("uniform", "quantile"))
@pytest.mark.parametrize("bins", (5, 15))
def test_the_curve_is_scikit_learns(strategy: str, bins: int) -> None:
    for frame in (window(3000, seed=1), samples.employment(2018)):
        y, p = sides(frame)
        happened, predicted = calibration_curve(y, p, n_bins=bins, strategy=strategy)
        reading = read(frame, bins=bins, strategy=strategy)
        if strategy == "quantile" and len(points(reading, "happened")) == bins:
            # A quantile that is a value: scikit-learn's outer edges are the least and the largest value, ours 0 and 1.
            assert points(reading, "happened") == pytest.approx(happened, abs=1e-12)
        if strategy == "uniform":
            assert points(reading, "happened") == pytest.approx(happened, abs=1e-12)
            assert points(reading, "predicted") == pytest.approx(predicted, abs=1e-12)


def test_the_error_is_that_of_a_hand_worked_table() -> None:
    p = np.repeat([0.15, 0.65, 0.95], [50, 30, 20])
    y = np.concatenate([np.arange(50) < 10, np.arange(30) < 15, np.arange(20) < 19]).astype(float)
    reading = read(Frame({"label": y, "prediction": y, "probability": p}, features={}))
    assert reading.value == pytest.approx(0.5 * abs(0.2 - 0.15) + 0.3 * abs(0.5 - 0.65) + 0.2 * 0)
    assert reading.metrics["largest_miss"] == pytest.approx(0.15)
    assert [part.name for part in reading.parts] == ["0.6-0.7", "0.1-0.2", "0.9-1"]


def test_calibrated_probabilities_are_told_from_others() -> None:
    good, bad = read(window(3000, seed=2)), read(window(3000, seed=3, shift=0.1))
    assert good.lower is not None
    assert bad.lower is not None
    assert good.lower < 0.01
    assert bad.lower > 0.06
    assert any(part.flagged for part in bad.parts)


def test_what_has_not_changed_seldom_counts_as_drift() -> None:
    p_values = [read(window(1000, 10 + i), window(3000, 500 + i), metric="drift").value for i in range(200)]
    # 10 are expected below 0.05; 0 or more than 20 once in 1,000 runs
    assert 1 <= sum(p < 0.05 for p in p_values) <= 20


def test_a_calibration_that_moved_counts_as_drift_and_another_mix_of_rows_does_not() -> None:
    reference = window(3000, seed=4)
    assert read(window(1000, seed=5, shift=0.1), reference, metric="drift").value < 1e-4
    y, p = sides(window(6000, seed=6))
    kept = np.random.default_rng(7).random(6000) < p  # more of the probable ones
    moved = Frame({"label": y[kept], "prediction": y[kept], "probability": p[kept]}, features={})
    assert read(moved, reference, metric="drift").value > 0.01


def test_of_several_classes_the_likeliest_is_looked_at() -> None:
    rng = np.random.default_rng(8)
    p = rng.dirichlet([1, 1, 1], 2000)
    label = np.array(["a", "b", "c"], dtype=object)[(p.cumsum(1) > rng.random((2000, 1))).argmax(1)]
    told = np.array([json.dumps(dict(zip("abc", row, strict=True))) for row in p.tolist()], dtype=object)
    reading = read(Frame({"label": label, "probabilities": told}, features={}), task="multiclass")
    assert reading.value < 0.05
    assert reading.metrics["mean_probability"] == pytest.approx(p.max(1).mean())


def test_what_is_missing_is_said() -> None:
    frame = window(200, seed=9)
    y, p = sides(frame)
    with pytest.raises(NotEvaluable, match="no_reference"):
        read(frame, metric="drift")
    with pytest.raises(NotEvaluable, match="missing_column"):
        read(Frame({"label": y, "prediction": y}, features={}))
    with pytest.raises(NotEnoughData, match="50 labelled rows with probabilities"):
        read(Frame({"label": y, "prediction": y, "probability": np.where(np.arange(200) < 50, p, np.nan)}, features={}))
    ones = np.array(['{"0": 0.9, "1": 0.9}'] * 200, dtype=object)
    with pytest.raises(NotEnoughData, match="in 200 they do not sum to one"):
        read(Frame({"label": y, "probabilities": ones}, features={}), task="multiclass")


@pytest.mark.parametrize("config", ({}, {"metric": "drift"}, {"strategy": "quantile"}, {"task": "multiclass"}))
def test_it_keeps_the_contract(config: dict[str, Any]) -> None:
    check_detector(ProbabilityCalibration, config)
