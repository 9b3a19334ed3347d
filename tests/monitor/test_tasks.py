"""Models of several classes, sets of classes and rankings: from what is sent to what a check reads of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
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


# --- before and after the labels -------------------------------------------------------------------------------------


def test_an_estimate_comes_before_the_labels_and_its_gap_with_them(make_world: Callable[..., World]) -> None:
    reference = {"start": (NOON - timedelta(hours=1)).isoformat(), "end": NOON.isoformat()}
    common = {"model": "loans", "every": "1h", "min_records": 2, "reference": reference, "settings": {"metric": "accuracy"}}
    checks = [
        {**common, "name": "expected", "detector": "performance_estimate", "threshold": {"lower": 0.5}},
        {**common, "name": "gap", "detector": "estimate_gap", "threshold": {"lower": 0}},
    ]
    world = make_world(models=[{"name": "loans", "task": "binary"}], checks=checks)

    def send(hour: datetime, prefix: str) -> None:
        world.send(
            "predictions",
            *(
                prediction(f"{prefix}{i}", hour + timedelta(seconds=i), model="loans", prediction=i % 2, probability=p)
                for i, p in enumerate([0.25, 0.75] * 100)
            ),
        )

    def latest(check: str, slot: datetime) -> dict[str, Any]:
        return [r for r in world.rows("readings", "loans") if r["check_name"] == check and r["slot"] == slot][-1]

    send(NOON - timedelta(hours=1), "r")
    # Three in four predictions are right, as the probabilities say.
    world.send("labels", *(label(f"r{i}", i % 2 if i % 8 < 6 else 1 - i % 2, model="loans") for i in range(200)))
    send(NOON, "c")
    world.clock.move(7200)
    world.send("predictions", prediction("later", NOON + timedelta(hours=2), model="loans", prediction=1, probability=0.75))
    world.look()
    end = NOON + timedelta(hours=1)
    assert latest("expected", end)["value"] == pytest.approx(0.75)
    assert latest("gap", end)["outcome"] == "not_enough_data"
    world.send("labels", *(label(f"c{i}", 1 - i % 2, model="loans") for i in range(200)))  # wrong, all of them
    world.look()
    assert latest("expected", end)["revision"] == 1
    assert latest("gap", end)["value"] == pytest.approx(-0.75)
    assert latest("gap", end)["revision"] == 2
