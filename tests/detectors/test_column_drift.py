"""Drift of predictions, labels, scores and attributions, one column at a time; and the bad days of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from detectors import distances
from detectors.attribution_drift import AttributionDrift, ndcg
from detectors.contract import ColumnKind, Frame, NotEnoughData, NotEvaluable, Reading
from detectors.label_drift import LabelDrift
from detectors.prediction_drift import PredictionDrift
from detectors.score_drift import ScoreDrift
from detectors.testing import check_detector
from tests.detectors import samples


def frame(seed: int, rows: int = 800, shift: float = 0.0, **columns: Any) -> Frame:
    rng = np.random.default_rng(seed)
    made = {
        "amount": rng.normal(shift, 1, rows),
        "prediction": rng.normal(shift, 1, rows),
        "probability": rng.random(rows),
        "label": (rng.random(rows) < 0.3 + shift / 4) * 1.0,
    }
    features: dict[str, ColumnKind] = {"amount": "number"}
    features |= {name: "number" for name in columns if name.startswith("attribution.")}
    return Frame({**made, **columns}, features=features)


def compare(detector: Any, reference: Frame, current: Frame, **config: Any) -> Reading:
    reading: Reading = detector(detector.Config(**config)).compare(reference, current)
    return reading


@pytest.mark.parametrize(
    ("detector", "config"),
    (
        (PredictionDrift, {"policy": "evidently"}),
        (PredictionDrift, {"reading": "p_value"}),
        (PredictionDrift, {"kind": "category"}),
        (LabelDrift, {"policy": "evidently"}),
        (LabelDrift, {"kind": "category", "min_rows": 5}),
        (ScoreDrift, {"column": "amount", "reading": "value", "method": "wasserstein"}),
        (ScoreDrift, {"column": "visits", "policy": "evidently", "method": "psi"}),
        (AttributionDrift, {"prefix": "amount"}),
        (AttributionDrift, {"prefix": "visits", "policy": "evidently"}),
    ),
)
def test_they_keep_the_contract(detector: type, config: dict[str, Any]) -> None:
    check_detector(detector, config)


def test_predictions_that_moved_are_told_from_those_that_did_not() -> None:
    for shift, drifted in ((0.0, 0), (0.5, 1)):
        reading = compare(PredictionDrift, frame(1), frame(2, shift=shift))
        assert reading.metrics["drifted_features"] == drifted
        assert {part.name for part in reading.parts} == {"prediction", "probability"}
        assert [part.name for part in reading.parts if part.flagged] == ["prediction"] * drifted


def test_real_predictions_of_another_age_drift() -> None:
    reference = samples.employment(2015)
    assert compare(PredictionDrift, reference, samples.employment(2018)).value == 0
    assert compare(PredictionDrift, reference, samples.employment(2018, from_age=60)).value == 1


def test_classes_are_categories_and_numbers_that_became_classes_are_another_type() -> None:
    named = np.array(["yes", "no"] * 400, dtype=object)
    reading = compare(PredictionDrift, frame(3, prediction=named), frame(4, prediction=named[::-1]))
    assert {part.name: part.statistic for part in reading.parts} == {"prediction": "jensenshannon", "probability": "anderson"}
    (part,) = (part for part in compare(PredictionDrift, frame(3), frame(4, prediction=named)).parts if part.name == "prediction")
    assert part.reason == "type_changed"
    with pytest.raises(NotEvaluable, match="type_changed"):
        compare(LabelDrift, frame(3), frame(4, label=named))


def test_labels_for_half_the_rows_are_compared_and_the_coverage_said() -> None:
    label = frame(5).numbers("label").copy()
    label[::2] = np.nan
    reading = compare(LabelDrift, frame(6), frame(5, label=label))
    assert reading.metrics["label_coverage"] == 0.5
    assert (reading.parts[0].n_reference, reading.parts[0].n_current) == (800, 400)
    with pytest.raises(NotEvaluable, match="no_labels"):
        compare(LabelDrift, frame(6), Frame({"amount": np.zeros(800)}))
    with pytest.raises(NotEnoughData, match="0 values in the current window"):
        compare(LabelDrift, frame(6), frame(5, label=np.full(800, np.nan)))


def test_a_reading_may_be_the_value_or_the_p_value() -> None:
    reference, current = frame(7), frame(8, shift=0.4)
    by_value = compare(ScoreDrift, reference, current, column="amount", method="wasserstein", reading="value")
    exact = distances.wasserstein(reference.numbers("amount"), current.numbers("amount"))
    assert by_value.statistic == "wasserstein"
    assert by_value.value == pytest.approx(exact, rel=0.02)
    by_p = compare(ScoreDrift, reference, current, column="amount", reading="p_value")
    assert by_p.statistic == "p_value"
    assert by_p.metrics["p_value_floor"] <= by_p.value < 0.001
    assert ScoreDrift(ScoreDrift.Config(column="amount", reading="p_value")).worse == "lower"
    with pytest.raises(ValidationError, match="needs policy calibrated"):
        ScoreDrift.Config(column="amount", reading="p_value", policy="evidently")


def test_a_score_is_read_from_the_column_it_names() -> None:
    detector = ScoreDrift(ScoreDrift.Config(column="probability"))
    assert detector.inputs == {"probability"}
    assert detector.compare(frame(9), frame(10)).parts[0].name == "probability"
    with pytest.raises(NotEvaluable, match="score: missing_column"):
        compare(ScoreDrift, frame(9), frame(10), column="score")


@pytest.mark.parametrize(
    ("amount", "message"),
    (
        (np.full(800, np.nan), "0 values in the current window"),
        (np.array(["a"] * 800, dtype=object), "amount: not_numeric"),
        (np.full(800, np.inf), "0 values in the current window"),
    ),
)
def test_a_column_that_broke_has_a_reason(amount: Any, message: str) -> None:
    with pytest.raises((NotEnoughData, NotEvaluable), match=message):
        compare(ScoreDrift, frame(11), frame(12, amount=amount), column="amount")
    three = frame(13, rows=3)
    with pytest.raises(NotEnoughData, match="3 rows, min_rows is 100"):
        compare(ScoreDrift, frame(11), three, column="amount")


# --- attributions --------------------------------------------------------------------------------------------------------


def attributions(seed: int, scales: dict[str, float], rows: int = 600) -> Frame:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {f"attribution.{name}": rng.normal(0, scale, rows) for name, scale in scales.items()}
    return frame(seed, rows, **columns)


def test_features_that_change_places_are_counted_and_their_attributions_drift() -> None:
    before = {"age": 4.0, "income": 2.0, "city": 1.0}
    same = compare(AttributionDrift, attributions(1, before), attributions(2, before))
    assert (same.metrics["drifted_features"], same.metrics["rank_changes"], same.metrics["ndcg"]) == (0, 0, 1)
    turned = compare(AttributionDrift, attributions(1, before), attributions(3, {"age": 1.0, "income": 2.0, "city": 4.0}))
    assert (turned.metrics["rank_changes"], turned.metrics["largest_rank_change"]) == (2, 2)
    assert turned.metrics["ndcg"] == pytest.approx(0.74, abs=0.03)
    assert {part.name for part in turned.parts if part.flagged} == {"attribution.age", "attribution.city"}


def test_ndcg_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(4)
    for _ in range(20):
        before, now = rng.random((2, 7))
        assert ndcg(before, now) == pytest.approx(ndcg_score([before], [now]), abs=1e-12)


def test_without_attributions_there_is_nothing_to_say() -> None:
    with pytest.raises(NotEvaluable, match=r"no_features: none is called attribution\."):
        compare(AttributionDrift, frame(1), frame(2))
