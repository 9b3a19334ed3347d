"""Performance of several classes, sets of classes and rankings: scikit-learn's values, or those of a hand-worked table."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as oracle
from sklearn.exceptions import UndefinedMetricWarning

from detectors.contract import Frame, NotEnoughData, NotEvaluable, Reading
from detectors.performance import Performance
from detectors.quality import WORSE, Task
from detectors.testing import check_detector

Floats = NDArray[np.float64]
NAMES = np.array(["ant", "bee", "cat"], dtype=object)


def measure(frame: Frame, task: Task, **config: Any) -> Reading:
    return Performance(Performance.Config(task=task, **config)).compare(None, frame)


def close(reading: Reading, expected: dict[str, Any]) -> None:
    assert {name: reading.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12, abs=1e-12)


def lists(column: Any) -> NDArray[Any]:
    return np.array([json.dumps(value) for value in column], dtype=object)


# --- several classes -------------------------------------------------------------------------------------------------


def three_classes(rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    rng = np.random.default_rng(seed)
    label = rng.choice(3, rows, p=[0.6, 0.3, 0.1])
    scores = rng.normal(0, 1, (rows, 3))
    scores[np.arange(rows), label] += 1.2
    probability = np.exp(scores)
    probability /= probability.sum(1, keepdims=True)
    return label, probability.argmax(1), probability


def frame_of(label: Any, prediction: Any, probability: Floats | None = None) -> Frame:
    columns: dict[str, Any] = {"label": NAMES[label], "prediction": NAMES[prediction]}
    if probability is not None:
        columns["probabilities"] = lists(dict(zip(NAMES, row, strict=True)) for row in probability.tolist())
    return Frame(columns, features={})


def assert_equals_sklearn(reading: Reading, y: Any, z: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes that are never predicted
        nan: Any = math.nan
        close(
            reading,
            {
                "accuracy": oracle.accuracy_score(y, z),
                "balanced_accuracy": oracle.balanced_accuracy_score(y, z),
                "precision_macro": oracle.precision_score(y, z, average="macro", zero_division=nan),
                "recall_macro": oracle.recall_score(y, z, average="macro", zero_division=nan),
                "f1_macro": oracle.f1_score(y, z, average="macro"),
                "f1_micro": oracle.f1_score(y, z, average="micro"),
                "f1_weighted": oracle.f1_score(y, z, average="weighted"),
            },
        )


def test_several_classes_give_scikit_learns_values() -> None:
    y, z, p = three_classes(1500, seed=1)
    reading = measure(frame_of(y, z, p), "multiclass")
    assert_equals_sklearn(reading, y, z)
    close(
        reading,
        {
            "roc_auc_ovr": oracle.roc_auc_score(y, p, multi_class="ovr"),
            "roc_auc_ovo": oracle.roc_auc_score(y, p, multi_class="ovo"),
            "pr_auc": oracle.average_precision_score(np.eye(3)[y], p, average="macro"),
            "log_loss": oracle.log_loss(y, p),
            "brier": ((p - np.eye(3)[y]) ** 2).sum(1).mean(),
        },
    )
    expected = dict(zip(NAMES, oracle.f1_score(y, z, average=None), strict=True))
    assert {part.name: part.value for part in reading.parts} == pytest.approx(expected, rel=1e-12)
    assert [part.value for part in reading.parts] == sorted(expected.values())
    confusion = oracle.confusion_matrix(y, z)
    assert reading.metrics["confusion:ant:bee"] == confusion[0, 1]


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=60))
def test_any_classes_give_scikit_learns_values(rows: list[tuple[int, int]]) -> None:
    y, z = (np.array(side) for side in zip(*rows, strict=True))
    assert_equals_sklearn(measure(frame_of(y, z), "multiclass", min_labels=2), y, z)


def test_probabilities_may_have_a_column_each() -> None:
    y, z, p = three_classes(300, seed=2)
    columns = {"label": NAMES[y], "prediction": NAMES[z]} | {f"probability:{NAMES[i]}": p[:, i] for i in range(3)}
    once, again = measure(Frame(columns, features={}), "multiclass"), measure(frame_of(y, z, p), "multiclass")
    close(once, dict(again.metrics))


def test_without_a_prediction_the_likeliest_class_is_it() -> None:
    y, z, p = three_classes(300, seed=3)
    frame = frame_of(y, z, p)
    columns = {name: frame._columns[name] for name in ("label", "probabilities")}
    assert measure(Frame(columns, features={}), "multiclass").value == oracle.accuracy_score(y, z)


def test_a_class_that_never_comes_is_no_reason_to_have_no_value() -> None:
    y, z, p = three_classes(300, seed=4)
    kept = y != 2
    reading = measure(frame_of(y[kept], z[kept], p[kept]), "multiclass")
    pair = [oracle.roc_auc_score(y[kept] == c, p[kept][:, c]) for c in (0, 1)]
    assert reading.metrics["roc_auc_ovr"] == pytest.approx(np.mean(pair), abs=1e-12)
    assert reading.metrics["log_loss"] == pytest.approx(oracle.log_loss(y[kept], p[kept], labels=[0, 1, 2]), abs=1e-12)


def test_probabilities_that_do_not_sum_to_one_are_left_out_and_counted() -> None:
    y, z, p = three_classes(300, seed=5)
    p[:100] *= 0.9
    reading = measure(frame_of(y, z, p), "multiclass")
    assert reading.metrics["probability_coverage"] == pytest.approx(2 / 3)
    assert reading.metrics["probabilities_not_one"] == 100
    assert reading.metrics["log_loss"] == pytest.approx(oracle.log_loss(y[100:], p[100:]), abs=1e-12)
    with pytest.raises(NotEvaluable, match="wrong_type: in 300 of 300 rows the probabilities do not sum to one"):
        measure(frame_of(y, z, p * 0.9), "multiclass", metric="log_loss")


def test_rounded_probabilities_sum_to_one() -> None:
    y, z, p = three_classes(300, seed=6)
    assert measure(frame_of(y, z, p.round(4)), "multiclass").metrics["probability_coverage"] == 1


def test_one_class_only_has_an_accuracy_and_no_area() -> None:
    frame = frame_of(np.zeros(50, dtype=int), np.zeros(50, dtype=int), np.tile([0.8, 0.1, 0.1], (50, 1)))
    assert measure(frame, "multiclass").value == 1
    with pytest.raises(NotEvaluable, match="constant: roc_auc_ovr is not defined"):
        measure(frame, "multiclass", metric="roc_auc_ovr")


def test_ids_are_no_classes() -> None:
    with pytest.raises(NotEvaluable, match="wrong_type: 600 classes"):
        measure(Frame({"label": np.arange(300), "prediction": np.arange(300) + 1000}, features={}), "multiclass")


# --- sets of classes -------------------------------------------------------------------------------------------------


def sets_of(rows: int, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    label = rng.random((rows, 3)) < [0.5, 0.3, 0.1]
    return label, label ^ (rng.random((rows, 3)) < 0.15)


def frame_of_sets(label: Any, prediction: Any) -> Frame:
    columns = {name: lists(NAMES[row].tolist() for row in side) for name, side in (("label", label), ("prediction", prediction))}
    return Frame(columns, features={})


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 50))
@example(1217, 2)  # not one class on either side
def test_sets_of_classes_give_scikit_learns_values(seed: int, rows: int) -> None:
    y, z = sets_of(rows, seed)
    seen = (y | z).any(0)
    if not seen.any():
        with pytest.raises(NotEvaluable, match="f1_micro is not defined"):
            measure(frame_of_sets(y, z), "multilabel", min_labels=2)
        return
    reading = measure(frame_of_sets(y, z), "multilabel", min_labels=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        close(reading, {"subset_accuracy": oracle.accuracy_score(y, z)})
        if y.any() and z.any() and seen.sum() > 1:  # of one class scikit-learn takes the other side for a class too
            close(
                reading,
                {
                    "f1_micro": oracle.f1_score(y, z, average="micro"),
                    "f1_macro": oracle.f1_score(y[:, seen], z[:, seen], average="macro"),
                    "precision_micro": oracle.precision_score(y, z, average="micro"),
                    "recall_micro": oracle.recall_score(y, z, average="micro"),
                    "hamming_loss": oracle.hamming_loss(y[:, seen], z[:, seen]),
                },
            )


def test_a_label_that_is_no_list_is_not_usable() -> None:
    label = lists([["a"]] * 40 + ["a"] * 10)
    reading = measure(Frame({"label": label, "prediction": lists([["a"]] * 50)}, features={}), "multilabel")
    assert (reading.n_current, reading.metrics["unusable_rows"]) == (40, 10)


# --- rankings --------------------------------------------------------------------------------------------------------


def frame_of_queries(query: Any, score: Any, relevance: Any) -> Frame:
    return Frame({"query": query, "prediction": score, "label": relevance}, features={"query": "category"})


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([3, 10]))
def test_rankings_give_scikit_learns_values_ties_included(seed: int, queries: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    query = rng.permutation(np.repeat(np.arange(queries), rng.integers(2, 12, queries)))
    score = rng.integers(0, 6, len(query)) / 5
    relevance = rng.integers(0, 3, len(query)).astype(float)
    relevance[[np.flatnonzero(query == q)[0] for q in range(queries)]] = 1  # something to find
    reading = measure(frame_of_queries(query, score, relevance), "ranking", k=k, min_labels=2)
    sides = [(relevance[query == q], score[query == q]) for q in range(queries)]
    close(
        reading,
        {
            "ndcg": np.mean([oracle.ndcg_score([r], [s], k=k) for r, s in sides]),
            "map": np.mean([oracle.average_precision_score(r >= 1, s) for r, s in sides]),
            "queries": queries,
        },
    )


def test_rankings_equal_a_hand_worked_table() -> None:
    # query a: relevant at 1 and 3 of 4; query b: the first relevant one is the third; query c: nothing to find
    query = list("aaaabbbcc")
    score = [0.9, 0.8, 0.7, 0.1, 3, 2, 1, 5, 4]
    relevance = [1, 0, 1, 0, 0, 0, 2, 0, 0]
    reading = measure(frame_of_queries(query, score, relevance), "ranking", k=2, min_labels=2)
    close(
        reading,
        {
            "mrr": (1 + 1 / 3) / 2,
            "recall_at_k": (1 / 2 + 0) / 2,
            "map": ((1 + 2 / 3) / 2 + 1 / 3) / 2,
            "ndcg": (1 / (1 + 1 / math.log2(3)) + 0) / 2,
            "queries": 3,
            "queries_used": 2,
        },
    )


def test_equal_scores_earn_nothing_for_the_first_place() -> None:
    reading = measure(frame_of_queries(list("aaaa"), [1, 1, 1, 0], [1, 0, 0, 1]), "ranking", k=2, min_labels=2)
    close(reading, {"mrr": 1 / 3, "recall_at_k": (2 / 3) / 2})


def test_rankings_of_nothing_relevant_have_no_value() -> None:
    with pytest.raises(NotEvaluable, match="constant: ndcg"):
        measure(frame_of_queries(["a"] * 40, np.arange(40.0), np.zeros(40)), "ranking")


def test_without_queries_there_is_no_ranking() -> None:
    with pytest.raises(NotEvaluable, match="missing_column"):
        measure(Frame({"label": [1.0] * 40, "prediction": [1.0] * 40}, features={}), "ranking")


# --- all -------------------------------------------------------------------------------------------------------------

OTHERS: tuple[Task, ...] = ("multiclass", "multilabel", "ranking")
JUDGED = [(task, metric) for task in OTHERS for metric in WORSE[task]]


def window(task: Task, rows: int, seed: int) -> Frame:
    if task == "multiclass":
        return frame_of(*three_classes(rows, seed))
    if task == "multilabel":
        return frame_of_sets(*sets_of(rows, seed))
    rng = np.random.default_rng(seed)
    query = np.repeat(np.arange(rows // 5), 5)
    relevance = rng.integers(0, 3, len(query)).astype(float)
    return frame_of_queries(query, relevance + rng.normal(0, 1, len(query)), relevance)


@pytest.mark.parametrize(("task", "metric"), JUDGED)
def test_the_interval_covers_the_value_of_the_population(task: Task, metric: str) -> None:
    truth = measure(window(task, 50_000, seed=11), task, metric=metric, k=2, resamples=20).value
    rows = {"ece": 1000, "f1_macro": 600, "precision_macro": 600}.get(metric, 300)
    readings = [measure(window(task, rows, 100 + i), task, metric=metric, k=2, confidence=0.9) for i in range(100)]
    covered = 0
    for reading in readings:
        assert reading.lower is not None
        assert reading.upper is not None
        assert reading.lower <= reading.value <= reading.upper
        covered += reading.lower <= truth <= reading.upper
    assert 80 <= covered <= 99 + (metric == "ece")


@pytest.mark.parametrize("task", OTHERS)
def test_half_of_the_labels_are_enough_and_three_are_not(task: Task) -> None:
    whole = window(task, 300, seed=12)
    columns = dict(whole._columns)
    half = np.array([value if i % 2 else None for i, value in enumerate(columns["label"].tolist())])
    reading = measure(Frame(columns | {"label": half}, features=whole.features), task)
    assert (reading.n_current, reading.metrics["label_coverage"]) == (150, 0.5)
    few = Frame({name: values[:3] for name, values in columns.items()}, features=whole.features)
    with pytest.raises(NotEnoughData, match="3 labelled rows"):
        measure(few, task)


@pytest.mark.parametrize(("task", "metric"), JUDGED)
def test_it_keeps_the_contract(task: Task, metric: str) -> None:
    check_detector(Performance, {"task": task, "metric": metric, "query": "city"})


@pytest.mark.parametrize("task", ("binary", "regression"))
def test_several_metrics_keep_the_contract(task: Task) -> None:
    names = [name for name in WORSE[task] if name not in ("pr_auc", "r2")]
    check_detector(Performance, {"task": task, "metrics": names})
    check_detector(Performance, {"task": task, "metrics": names[:2], "bounds": {name: {"lower": 0.1} for name in names[:2]}})
