"""Fairness: Fairlearn's differences and ratios, intervals that cover, and groups that are too small."""

from __future__ import annotations

from typing import Any

import fairlearn.metrics as oracle
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.metrics import zero_one_loss

from detectors.contract import Frame, NotEnoughData, NotEvaluable, Outcome, Reading
from detectors.fairness import Fairness
from detectors.testing import check_detector
from tests.detectors import samples


def read(frame: Frame, **config: Any) -> Reading:
    return Fairness(Fairness.Config(**config)).compare(None, frame)


def people(rows: int, seed: int, unfair: float = 0.0) -> Frame:
    """Groups a, b, c; in c positives are found `unfair` less often."""
    rng = np.random.default_rng(seed)
    group = rng.choice(np.array(["a", "b", "c"], dtype=object), rows, p=[0.5, 0.3, 0.2])
    label = rng.random(rows) < 0.4
    p = np.where(label, 0.8 - unfair * (group == "c"), 0.2)
    prediction = rng.random(rows) < p
    columns = {"group": group, "sex": rng.choice(np.array(["f", "m"], dtype=object), rows)}
    return Frame(columns | {"label": label.astype(float), "prediction": prediction.astype(float)}, features={"group": "category"})


def texts(frame: Frame, name: str) -> NDArray[Any]:
    column = frame.categories(name)
    return np.array(column.names, dtype=object)[column.codes]


@pytest.mark.parametrize("attributes", (["SEX"], ["RAC1P"], ["SEX", "RAC1P"], ["DIS", "NATIVITY"]))
def test_gaps_on_employment_are_fairlearns(attributes: list[str]) -> None:
    frame = samples.employment(2018)
    y, z = frame.numbers("label"), frame.numbers("prediction")
    reading = read(frame, attributes=attributes, metric="error", min_rows=1)
    sets = [*([one] for one in attributes), *([attributes] if len(attributes) == 2 else [])]
    for names in sets:
        who: dict[str, Any] = {"sensitive_features": np.column_stack([texts(frame, name) for name in names])}
        key = ", ".join(names)
        expected = {
            f"demographic_parity:{key}": oracle.demographic_parity_difference(y, z, **who),
            f"demographic_parity_ratio:{key}": oracle.demographic_parity_ratio(y, z, **who),
            f"error:{key}": oracle.MetricFrame(metrics=zero_one_loss, y_true=y, y_pred=z, **who).difference(),
        }
        each = oracle.MetricFrame(metrics={"n": oracle.count}, y_true=y, y_pred=z, **who).by_group["n"]
        labels = oracle.MetricFrame(metrics=oracle.selection_rate, y_true=y, y_pred=y, **who).by_group
        if ((labels > 0) & (labels < 1)).all() and (each > 0).all():  # else Fairlearn makes a rate of 0 up
            expected |= {
                f"equal_opportunity:{key}": oracle.equal_opportunity_difference(y, z, **who),
                f"equalised_odds:{key}": oracle.equalized_odds_difference(y, z, **who),
                f"equalised_odds_ratio:{key}": oracle.equalized_odds_ratio(y, z, **who),
            }
        assert {name: reading.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_rates_are_those_of_a_hand_worked_table() -> None:
    frame = Frame(
        {
            "group": list("aaaabbbb"),
            "label": [1.0, 1, 0, 0, 1, 1, 0, 0],
            "prediction": [1.0, 1, 1, 0, 1, 0, 0, 0],
            "probability": [0.9, 0.8, 0.6, 0.1, 0.7, 0.4, 0.3, 0.2],
        },
        features={"group": "category"},
    )
    reading = read(frame, attributes=["group"], metric="calibration", min_rows=1)
    assert reading.metrics == pytest.approx(
        {
            "demographic_parity:group": 3 / 4 - 1 / 4,
            "demographic_parity_ratio:group": 1 / 3,
            "equal_opportunity:group": 1 - 1 / 2,
            "equal_opportunity_ratio:group": 1 / 2,
            "equalised_odds:group": 1 / 2,
            "equalised_odds_ratio:group": 0,
            "error:group": 0,
            "error_ratio:group": 1,
            "calibration:group": (2 - 1.6) / 4 - (2 - 2.4) / 4,
        }
    )


def test_the_interval_covers_the_gap_and_tells_an_unfair_model() -> None:
    readings = [read(people(2000, i, unfair=0.2), attributes=["group"], metric="equal_opportunity") for i in range(100)]
    assert sum(r.lower <= 0.2 <= r.upper for r in readings if r.lower is not None and r.upper is not None) >= 93
    assert sum(r.parts[0].flagged for r in readings) >= 95
    fair = [read(people(2000, 100 + i), attributes=["group"], metric="equal_opportunity") for i in range(100)]
    assert sum(r.parts[0].flagged for r in fair) <= 5
    assert min(r.value for r in fair) > 0  # a gap there always is


def test_pairs_find_what_each_attribute_hides() -> None:
    rng = np.random.default_rng(1)
    group, sex = (rng.choice(np.array(values, dtype=object), 4000) for values in (["a", "b"], ["f", "m"]))
    chosen = rng.random(4000) < np.where((group == "a") == (sex == "f"), 0.7, 0.3)
    frame = Frame({"group": group, "sex": sex, "prediction": chosen.astype(float)}, features={})
    assert read(frame, attributes=["group", "sex"], pairs=False).value < 0.1
    reading = read(frame, attributes=["group", "sex"])
    assert (reading.parts[0].name, reading.parts[0].flagged) == ("group, sex", True)
    assert reading.value == pytest.approx(0.4, abs=0.06)


def test_a_small_group_is_not_enough_data_and_makes_no_gap() -> None:
    frame = people(600, seed=2)
    columns = dict(frame._columns)
    columns["group"] = np.where(np.arange(600) < 10, "few", columns["group"])
    columns["prediction"] = np.where(np.arange(600) < 10, 1.0, columns["prediction"])
    reading = read(Frame(columns, features=frame.features), attributes=["group"])
    few = next(part for part in reading.parts if part.name == "group=few")
    assert (few.outcome, few.value, few.reason) == (Outcome.NOT_ENOUGH_DATA, None, "10 rows, min_rows is 30")
    assert reading.value < 0.2
    with pytest.raises(NotEnoughData, match="no attribute has two groups of 1000 rows"):
        read(frame, attributes=["group"], min_rows=1000)


def test_parity_needs_no_labels_and_the_others_do() -> None:
    frame = people(600, seed=3)
    columns = {name: values for name, values in frame._columns.items() if name != "label"}
    without = Frame(columns, features=frame.features)
    assert read(without, attributes=["group"]).value == read(frame, attributes=["group"]).value
    assert "label" not in Fairness(Fairness.Config(attributes=("group",))).inputs
    with pytest.raises(NotEvaluable, match="no_labels"):
        read(without, attributes=["group"], metric="equalised_odds")


def test_numbers_are_grouped_by_edges() -> None:
    frame = samples.employment(2018)
    reading = read(frame, attributes=["AGEP"], edges={"AGEP": [30, 60]}, metric="error")
    age, wrong = frame.numbers("AGEP"), frame.numbers("label") != frame.numbers("prediction")
    rates = [wrong[side].mean() for side in (age < 30, (age >= 30) & (age < 60), age >= 60)]
    assert reading.value == pytest.approx(max(rates) - min(rates))
    assert {part.name for part in reading.parts} == {"AGEP", "AGEP=below 30", "AGEP=30 to 60", "AGEP=from 60"}


def test_errors_of_numbers_are_compared_too() -> None:
    rng = np.random.default_rng(4)
    group = np.repeat(["a", "b"], 500)
    y = rng.normal(0, 1, 1000)
    frame = Frame({"group": group, "label": y, "prediction": y + np.where(group == "b", 2, 1)}, features={})
    reading = read(frame, attributes=["group"], task="regression")
    assert reading.value == pytest.approx(1)
    assert reading.metrics["error_ratio:group"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("config", "message"),
    (
        ({"attributes": []}, "attributes"),
        ({"attributes": ["a"], "edges": {"b": [1]}}, "edges of b, which is not among attributes"),
        ({"attributes": ["a"], "edges": {"a": [2, 1]}}, "rising"),
        ({"attributes": ["a"], "task": "regression", "metric": "calibration"}, "there is error"),
    ),
)
def test_a_setting_that_makes_no_sense_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Fairness.Config(**config)


@pytest.mark.parametrize("metric", ("demographic_parity", "equal_opportunity", "equalised_odds", "calibration", "error"))
def test_it_keeps_the_contract(metric: str) -> None:
    check_detector(Fairness, {"attributes": ["city"], "metric": metric})
    check_detector(Fairness, {"attributes": ["city", "visits"], "edges": {"visits": [2, 4]}, "metric": metric})
