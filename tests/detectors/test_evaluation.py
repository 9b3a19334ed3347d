"""Figures of labelled rows, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from detectors.evaluation import Figure, NotMeasurable, evaluate

RNG = np.random.default_rng(5)
LABEL = RNG.random(600) < 0.3
VALUE = np.clip(np.round(0.3 * LABEL + 0.7 * RNG.random(600), 2), 0, 1)  # with ties


def figures(**changed: object) -> dict[str, float | None]:
    found = evaluate(LABEL, VALUE, worse="higher", flag=0.5, resamples=0)
    return {name: figure.value for name, figure in found.pooled.figures.items()}


def test_the_figures_are_those_of_scikit_learn() -> None:
    said = VALUE >= 0.5
    assert figures() == pytest.approx(
        {
            "auroc": metrics.roc_auc_score(LABEL, VALUE),
            "average_precision": metrics.average_precision_score(LABEL, VALUE),
            "f1": metrics.f1_score(LABEL, said),
            "balanced_accuracy": metrics.balanced_accuracy_score(LABEL, said),
            "tpr": metrics.recall_score(LABEL, said),
            "fpr": 1 - metrics.recall_score(~LABEL, ~said),
            "ece": sum(
                abs((VALUE - LABEL)[np.minimum((VALUE * 10).astype(int), 9) == b].sum()) for b in range(10)
            ) / 600,
        },
        abs=1e-12,
    )  # fmt: skip


def test_where_lower_is_worse_all_is_turned_round() -> None:
    turned = evaluate(LABEL, 1 - VALUE, worse="lower", flag=0.5, resamples=0).pooled.figures
    assert {name: figure.value for name, figure in turned.items()} == pytest.approx(figures())


def test_intervals_hold_the_figure_and_narrow_with_the_rows() -> None:
    few, many = (evaluate(LABEL[:n], VALUE[:n], worse="higher", flag=0.5).pooled.figures for n in (60, 600))
    for name in ("auroc", "tpr", "fpr", "f1"):
        assert 0 < width(many[name]) < width(few[name]), name


def width(figure: Figure) -> float:
    assert figure.value is not None
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low <= figure.value <= figure.high
    return figure.high - figure.low


def test_about_19_of_20_intervals_hold_the_true_figure() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        label = rng.random(200) < 0.5
        found = evaluate(label, rng.normal(size=200) + label, worse="higher", flag=0.5, resamples=200).pooled.figures["auroc"]
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.7602 <= found.high  # P(N(1, 2) > 0)
    assert 180 <= held <= 198


def test_groups_have_figures_of_their_own_and_their_mean_is_the_macro() -> None:
    groups = ["a" if i < 200 else "b" for i in range(600)]
    found = evaluate(LABEL, VALUE, worse="higher", flag=0.5, groups=groups, resamples=50)
    alone = [
        evaluate(LABEL[part], VALUE[part], worse="higher", flag=0.5, resamples=0).pooled for part in (np.s_[:200], np.s_[200:])
    ]
    for name, one in zip("ab", alone, strict=True):
        assert found.groups[name].figures["auroc"].value == one.figures["auroc"].value
        assert (found.groups[name].rows, found.groups[name].bad) == (one.rows, one.bad)
    assert found.macro["auroc"].value == pytest.approx(np.mean([one.figures["auroc"].value for one in alone]))
    assert found.pooled.figures["auroc"].value == figures()["auroc"]


def test_a_group_with_one_label_has_no_auroc_and_is_left_out_of_the_mean() -> None:
    groups = np.where(LABEL & (np.arange(600) < 300), "only bad", "rest").tolist()
    found = evaluate(LABEL, VALUE, worse="higher", flag=0.5, groups=groups, resamples=20)
    assert found.groups["only bad"].figures["auroc"].value is None
    assert found.groups["only bad"].figures["fpr"].value is None
    assert found.groups["only bad"].figures["tpr"].value is not None
    assert found.macro["auroc"].value == found.groups["rest"].figures["auroc"].value


def test_values_that_are_no_probabilities_have_no_calibration_error() -> None:
    found = evaluate(LABEL, VALUE * 3, worse="higher", flag=1.5, resamples=20).pooled.figures
    assert found["ece"].value is None
    assert found["auroc"].value == figures()["auroc"]


@pytest.mark.parametrize(
    ("label", "word"), ((np.ones(3, bool), "labelled 1"), (np.zeros(2, bool), "labelled 0"), (np.zeros(0, bool), "no row"))
)
def test_rows_that_cannot_tell_are_refused(label: NDArray[np.bool_], word: str) -> None:
    with pytest.raises(NotMeasurable, match=word):
        evaluate(label, np.zeros(len(label)), worse="higher", flag=0.5)


def test_equal_rows_and_seed_give_equal_intervals() -> None:
    assert evaluate(LABEL, VALUE, worse="higher", flag=0.5, resamples=50) == evaluate(
        LABEL, VALUE, worse="higher", flag=0.5, resamples=50
    )
