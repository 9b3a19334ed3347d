"""Models of several classes, sets of classes and rankings: from what is sent to what a check reads of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.monitor.support import NOON, World, label, prediction

CHECK = {"detector": "performance", "every": "1h", "threshold": {"lower": 0.1}}
SETTINGS = {
    "multiclass": {"task": "multiclass", "metric": "log_loss", "min_labels": 2},
    "multilabel": {"task": "multilabel", "metric": "subset_accuracy", "min_labels": 2},
    "ranking": {"task": "ranking", "metric": "mrr", "min_labels": 2, "query": "search"},
}


@pytest.fixture
def tasks(make_world: Callable[..., World]) -> World:
    models = [{"name": task, "task": task} for task in SETTINGS]
    checks = [
        {**CHECK, "name": task, "model": task, "settings": settings, "min_records": 2} for task, settings in SETTINGS.items()
    ]
    return make_world(models=models, checks=checks)


def read(world: World, task: str, predictions: list[dict[str, Any]], labels: list[Any]) -> dict[str, Any]:
    world.send("predictions", *(prediction(f"r{i}", NOON, model=task, **p) for i, p in enumerate(predictions)))
    world.send("labels", *(label(f"r{i}", value, model=task) for i, value in enumerate(labels)))
    world.clock.move(7200)
    world.send("predictions", prediction("later", NOON + timedelta(hours=2), model=task, **predictions[0]))  # the window is over
    world.look()
    return world.rows("readings", task)[-1]


def test_probabilities_of_several_classes_are_read(tasks: World) -> None:
    probabilities = [{"ant": 0.5, "bee": 0.5}, {"ant": 0.25, "bee": 0.75}, {"ant": 1, "bee": 0}]
    answers = [{"prediction": "ant", "probabilities": p} for p in probabilities]
    reading = read(tasks, "multiclass", answers, ["ant", "ant", "ant"])
    assert (reading["outcome"], reading["reason"]) == ("ok", None)
    assert reading["value"] == pytest.approx(3 * 0.6931471805599453 / 3)


def test_sets_of_classes_are_equal_in_any_order(tasks: World) -> None:
    answers: list[dict[str, Any]] = [{"prediction": ["b", "a"]}, {"prediction": []}, {"prediction": ["a"]}]
    reading = read(tasks, "multilabel", answers, [["a", "b"], [], ["b"]])
    assert (reading["outcome"], reading["value"]) == ("ok", pytest.approx(2 / 3))


def test_what_is_no_list_is_no_answer_of_a_multilabel_model(tasks: World) -> None:
    answer = tasks.send("predictions", prediction("r1", NOON, model="multilabel", prediction="a"))
    assert [(reject.reason, "list of classes" in reject.message) for reject in answer.rejects] == [("wrong_type", True)]


def test_items_are_ranked_by_query(tasks: World) -> None:
    answers = [{"prediction": s, "features": {"search": q}} for q, s in (("x", 2.0), ("x", 1.0), ("y", 5.0), ("y", 4.0))]
    reading = read(tasks, "ranking", answers, [1, 0, 0, 2])
    assert (reading["outcome"], reading["value"]) == ("ok", pytest.approx((1 + 1 / 2) / 2))
