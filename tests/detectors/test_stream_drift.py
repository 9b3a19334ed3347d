"""Stream drift: changes are found soon, seldom where there are none, and again in a replay."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from detectors.contract import Frame, NotEnoughData, NotEvaluable, Reading
from detectors.stream_drift import Method, StreamDrift

DATA = Path(__file__).parents[1] / "data"
METHODS: tuple[Method, ...] = ("adwin", "page_hinkley", "kswin")
RNG = np.random.default_rng(11)
BEFORE = Frame({"x": RNG.normal(10, 2, 2000)})


def found(current: Any, reference: Frame | None = BEFORE, **settings: Any) -> Reading:
    window = current if isinstance(current, Frame) else Frame({"x": current})
    return StreamDrift(StreamDrift.Config(**{"column": "x", **settings})).compare(reference, window)


def moved(by: float, at: int = 300, rows: int = 600, seed: int = 1) -> Any:
    values = np.random.default_rng(seed).normal(10, 2, rows)
    values[at:] += by
    return values


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("by", (-2.0, 2.0))
def test_a_change_within_the_window_is_noticed_after_it_happened_and_soon(method: Method, by: float) -> None:
    reading = found(moved(by), method=method)
    assert (reading.value, reading.statistic) == (1.0, "changes")
    assert 300 <= reading.metrics["first_change_row"] <= 450
    assert reading.metrics["first_change_row"] == reading.metrics["last_change_row"]
    (part,) = reading.parts
    assert part.name == f"row {int(reading.metrics['first_change_row'])}"
    assert part.flagged
    assert part.value == pytest.approx(by, abs=0.5)


@pytest.mark.parametrize("method", METHODS)
def test_a_window_that_is_as_the_reference_has_none(method: Method) -> None:
    for seed in range(3):
        reading = found(moved(0.0, seed=seed), method=method)
        assert (reading.value, reading.parts) == (0.0, ())
        assert "first_change_row" not in reading.metrics


@pytest.mark.parametrize("method", METHODS)
def test_a_window_that_begins_otherwise_than_the_reference_ended_has_one_at_its_beginning(method: Method) -> None:
    reading = found(moved(2.0, at=0, rows=200), method=method)
    assert reading.value >= 1
    assert reading.metrics["first_change_row"] < 160
    assert found(moved(2.0, at=0, rows=200), reference=None, method=method).value == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_replay_says_the_same_and_nothing_is_left_over_from_other_windows(method: Method) -> None:
    detector = StreamDrift(StreamDrift.Config(column="x", method=method))
    window = Frame({"x": moved(2.0)})
    first = detector.compare(BEFORE, window)
    detector.compare(BEFORE, Frame({"x": moved(-5.0, at=50)}))
    assert detector.compare(BEFORE, window) == first


@pytest.mark.parametrize("method", ("adwin", "page_hinkley"))
def test_the_unit_of_a_column_makes_no_difference(method: Method) -> None:
    in_millions = Frame({"x": BEFORE.numbers("x") * 1e6 + 5e9})
    ours, theirs = found(moved(2.0), method=method), found(moved(2.0) * 1e6 + 5e9, in_millions, method=method)
    assert ours.metrics["first_change_row"] == pytest.approx(theirs.metrics["first_change_row"], abs=32)
    assert theirs.parts[0].value == pytest.approx(1e6 * (ours.parts[0].value or 0), rel=0.2)
    # As it is, the same threshold would be passed by any noise.
    assert found(moved(0.0) * 1e6, None, method="page_hinkley", scale="none").value > 0


def test_the_values_are_those_of_river_fed_by_hand() -> None:
    drift: Any = import_module("river.drift")

    values = moved(3.0)
    for method, theirs in (("adwin", drift.ADWIN(delta=0.01)), ("page_hinkley", drift.PageHinkley(delta=0.2, threshold=20))):
        places = []
        for i, value in enumerate(values.tolist()):
            theirs.update(value)
            if theirs.drift_detected:
                places.append(i)
        settings = {"adwin_delta": 0.01, "page_hinkley_delta": 0.2, "page_hinkley_threshold": 20.0}
        reading = found(values, None, method=method, scale="none", **settings)
        assert [part.name for part in reading.parts] == [f"row {place}" for place in places]


def test_errors_of_the_model_are_a_column_where_labels_have_come() -> None:
    """Bikes: a model of early 2011 on the summer of 2012 is wrong by far more than it was."""
    table = pd.read_parquet(DATA / "bike_sharing_sample.parquet")
    sides = [
        Frame({"prediction": rows["prediction"].to_numpy(float), "label": rows["target"].to_numpy(float)}, features={})
        for rows in (table[table["period"] == "reference"], table[table["period"] == "production"])
    ]
    reading = StreamDrift(StreamDrift.Config(column="absolute_error")).compare(*sides)
    assert reading.value >= 1
    assert reading.metrics["first_change_row"] < 100
    assert StreamDrift(StreamDrift.Config(column="absolute_error")).inputs == {"prediction", "label"}


def test_the_errors_of_classes_are_0_and_1_however_the_classes_are_written() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 3000)
    prediction = np.where(rng.random(3000) < np.where(np.arange(3000) < 2000, 0.1, 0.4), 1 - label, label)
    numbers = Frame({"prediction": prediction, "label": label.astype(float)}, features={})
    texts = Frame({"prediction": prediction == 1, "label": np.where(label == 1, "true", "False").astype(object)}, features={})
    readings = [StreamDrift(StreamDrift.Config(column="error")).compare(None, frame) for frame in (numbers, texts)]
    assert readings[0] == readings[1]
    assert readings[0].value == 1
    assert 2000 <= readings[0].metrics["first_change_row"] <= 2300
    assert readings[0].parts[0].value == pytest.approx(0.3, abs=0.1)


def test_what_is_missing_or_infinite_is_left_out_and_rows_keep_their_numbers() -> None:
    values = np.repeat(moved(2.0), 2)
    values[::2] = np.where(np.arange(600) % 2 == 0, np.nan, np.inf)
    with_gaps, without = found(values), found(moved(2.0))
    assert with_gaps.metrics["first_change_row"] == 2 * without.metrics["first_change_row"] + 1
    assert with_gaps.n_current == 600
    assert with_gaps.metrics["missing_rows"] == 600


def test_too_little_is_too_little_on_either_side() -> None:
    with pytest.raises(NotEnoughData, match="29 values in the window, min_rows is 30"):
        found(moved(0.0)[:29])
    with pytest.raises(NotEnoughData, match="0 values in the reference"):
        found(moved(0.0), Frame({"x": np.full(100, np.nan)}))


def test_errors_need_labels_and_a_column_has_to_be_there() -> None:
    with pytest.raises(NotEvaluable, match="no_labels: error needs the column label"):
        found(Frame({"prediction": [1.0] * 50}), None, column="error")
    with pytest.raises(NotEvaluable, match="missing_column"):
        found(Frame({"y": [1.0] * 50}), None)


def test_without_river_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river.drift", None)
    with pytest.raises(
        NotEvaluable, match=r'not_installed: stream_drift needs river: pip install "modelwatch\[streaming\]"'
    ) as caught:
        found(moved(0.0))
    assert caught.value.reason == "not_installed"


def test_windows_of_kswin_have_to_fit() -> None:
    with pytest.raises(ValidationError, match=r"kswin_stat_rows \(100\) may be at most half of kswin_window_rows \(150\)"):
        StreamDrift.Config(column="x", kswin_window_rows=150)


@pytest.mark.parametrize(("method", "most"), (("adwin", 0), ("page_hinkley", 6)))
def test_false_alarms_are_as_rare_as_the_readme_says(method: Method, most: int) -> None:
    """Of 50,000 values without change."""
    rng = np.random.default_rng(2)
    detector = StreamDrift(StreamDrift.Config(column="x", method=method))
    total = sum(detector.compare(BEFORE, Frame({"x": rng.normal(10, 2, 10_000)})).value for _ in range(5))
    assert total <= most
