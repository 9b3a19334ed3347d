"""What makes the weights of hallucination: fits, figures out of fold, and labels of answers to questions with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.training.closed_book import Asked, is_wrong
from detectors.training.hallucination import may_alert
from detectors.training.logistic import (
    Fitted,
    Labelled,
    calibration_error,
    figures,
    fit,
    lowest_flag,
    out_of_fold,
    reliability,
    without_source,
)


def made(rows: int = 600, seed: int = 0) -> Labelled:
    """The first feature tells the bad ones, the second nothing; rows of a group are alike."""
    rng = np.random.default_rng(seed)
    bad = rng.random(rows) < 0.3
    features = np.stack([bad + rng.normal(0, 1, rows), rng.normal(0, 1, rows)], axis=1)
    source = np.where(rng.random(rows) < 0.5, "a", "b")
    return Labelled(features, source, np.array([f"g{i // 3}" for i in range(rows)]), bad)


def test_a_weight_keeps_its_sign_and_the_fit_its_calibration() -> None:
    table, unseen = made(), made(seed=1)
    free, held = fit(table, [0, 0], 0.001), fit(table, [-1, 0], 0.001)
    assert free.weights[0] > 0.5
    assert held.weights[0] == 0.0
    assert calibration_error(unseen, free.probabilities(unseen.features)) < 0.1
    assert figures(unseen, free.probabilities(unseen.features), 50, 0)["macro"] > 0.7


def test_each_row_is_judged_by_a_model_that_saw_nothing_of_its_group_or_source() -> None:
    table = made()
    seen: list[set[str]] = []

    def spy(part: Labelled) -> Fitted:
        seen.append({*part.group} if len({*part.source}) > 1 else {*part.source})
        return fit(part, [1, 0], 0.001)

    out_of_fold(table, 5, 0, spy)
    groups = {*table.group}
    left_out = [groups - here for here in seen]
    assert len(seen) == 5
    assert set().union(*left_out) == groups
    assert sum(map(len, left_out)) == len(groups)
    seen.clear()
    without_source(table, spy)
    assert seen == [{"b"}, {"a"}]


def test_the_reliability_curve_holds_every_row_and_the_flag_its_share() -> None:
    table = made()
    value = fit(table, [1, 0], 0.001).probabilities(table.features)
    assert sum(one.rows for one in reliability(table, value)) == len(table.bad)
    flag = lowest_flag(table, value, 0.1)
    weights = table.balance() * ~table.bad
    assert weights @ (value >= flag) <= 0.1 * weights.sum() < weights @ (value >= flag - 0.02)


def test_a_way_alerts_only_where_it_is_good_enough_with_and_without_its_source() -> None:
    assert may_alert({"auroc": {"macro": 0.65}})
    assert may_alert({"auroc": {"macro": 0.7}, "auroc_leave_one_source_out": {"macro": 0.66}})
    assert not may_alert({"auroc": {"macro": 0.7}, "auroc_leave_one_source_out": {"macro": 0.64}})
    assert not may_alert({"auroc": {"macro": 0.64}, "auroc_leave_one_source_out": {"macro": 0.7}})


@pytest.mark.parametrize(
    ("dataset", "expected", "answer", "wrong"),
    (
        ("capital", "San José", "The capital is San Jose, of course.", False),
        ("capital", "Gitega", "It is Bujumbura.", True),
        ("element", "C", "The symbol of carbon is C.", False),
        ("element", "C", "Carbon is Ca.", True),
        ("continent", "Asia", "It lies in Asia.", False),
        ("continent", "Asia", "It lies in Asia and Europe.", True),
        ("sum", "42", "17 + 25 = 42.", False),
        ("sum", "42", "42 is not it: 41.", True),
    ),
)
def test_an_answer_is_wrong_where_what_is_known_does_not_stand_in_it(
    dataset: str, expected: str, answer: str, wrong: bool
) -> None:
    assert is_wrong(Asked(dataset, "carbon", "?", expected), answer) is wrong
