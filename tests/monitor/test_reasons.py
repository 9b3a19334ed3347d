"""Why an incident opened stands with it, a moment later, and changes nothing of when it opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from monitor import reasons
from monitor.readings import Meter
from monitor.traffic import maker
from tests.monitor.support import World, check, generation, label, prediction, sample
from tests.monitor.test_runner import DAWN, at

ROWS = 400


def crowd(world: World, minute: float, seed: int, **moved: Any) -> None:
    """Predictions within ten minutes, with labels that are right but where `moved` says otherwise."""
    rng = np.random.default_rng(seed)
    items, labels = [], []
    for n in range(ROWS):
        country, device = str(rng.choice(["NO", "SE", "DK"])), str(rng.choice(["web", "shop"]))
        age = float(rng.normal(40, 10)) + moved.get("age", 0.0)
        name, when = f"p{minute}-{n}", at(minute + 9.9 * n / ROWS)
        features = {"age": age, "pay": float(rng.exponential(3)), "country": country, "device": device}
        items.append(prediction(name, when, prediction=10.0, features=features))
        wrong = 8.0 if moved.get("wrong") == (country, device) else 0.0
        labels.append(label(name, 10.0 + wrong + float(rng.normal(0, 0.1))))
    world.send("predictions", *items)
    world.send("labels", *labels)


def evidence(world: World, name: str, model: str = "houses") -> list[dict[str, Any]]:
    """Of the latest revision of each incident, by the time it opened."""
    last = "row_number() OVER (PARTITION BY incident_id ORDER BY revision DESC) = 1"
    rows = world.rows("incidents", model, where=f"check_name = '{name}' QUALIFY {last}")
    return [json.loads(row["evidence"]) for row in sorted(rows, key=lambda row: row["opened_slot"])]


def test_a_drift_is_put_down_to_its_feature_after_it_has_fired(make_world: Callable[..., World]) -> None:
    reference = {"start": (DAWN - timedelta(minutes=10)).isoformat(), "end": DAWN.isoformat()}
    world = make_world(checks=[check("shift", "Shift", reference=reference, threshold={"upper": 2})])
    crowd(world, -10, 1)
    crowd(world, 0, 2, age=15.0)
    world.send("predictions", prediction("last", at(11)))
    world.look()
    assert [r["revision"] for r in world.rows("incidents")] == [1], "the incident does not wait for its explanation"
    assert "why" not in evidence(world, "shift")[0]
    world.look()
    (proof,) = evidence(world, "shift")
    assert proof["why"]["features"][0]["feature"] == "age"
    assert proof["why"]["statistic"] == "area_above_half"
    assert any("age >=" in piece["name"] for piece in proof["why"]["pieces"])
    assert proof["value"] > 2, "what was there stays"
    world.look()
    world.restart()
    world.look()
    assert [r["revision"] for r in world.rows("incidents")] == [1, 2]


def test_a_worse_error_is_put_down_to_the_part_of_the_traffic_that_has_it(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("error", "Error", threshold={"upper": 0.5}, slices=[{"by": "device"}])])
    crowd(world, 0, 1)
    crowd(world, 10, 2, wrong=("DK", "shop"))
    world.send("predictions", prediction("last", at(21)))
    for _ in range(4):
        world.look()
    proofs = {proof["slice"]: proof for proof in evidence(world, "error")}
    assert proofs.keys() == {"all", "device=shop"}
    first = proofs["all"]["why"]["pieces"][0]
    assert {tuple(c) for c in first["conditions"]} == {("country", "country = DK"), ("device", "device = shop")}
    assert 0.7 < first["share"] < 1.3
    (inside, *_) = proofs["device=shop"]["why"]["pieces"]
    assert inside["name"] == "country = DK"
    standing = world.board.get("error")
    assert standing is not None
    assert standing.open_incidents == 1


def test_an_estimate_that_falls_is_put_down_to_the_part_that_the_model_is_unsure_of(make_world: Callable[..., World]) -> None:
    """Without a label in the window: by the error to be expected of each row."""
    reference = {"start": (DAWN - timedelta(minutes=10)).isoformat(), "end": DAWN.isoformat()}
    expected = check("expected", reference=reference, threshold={"lower": 0.92}) | {"detector": "performance_estimate"}
    expected |= {"model": "loans", "settings": {"metric": "accuracy"}}
    world = make_world(models=[{"name": "loans", "task": "binary"}], checks=[expected])
    rng = np.random.default_rng(0)
    for start in (-10, 0):
        items, labels = [], []
        for n in range(ROWS):
            age, device = float(rng.normal(40, 10)), str(rng.choice(["web", "shop", "app"]))
            unsure = start == 0 and device == "shop"
            likely = float(rng.uniform(0.5, 0.7) if unsure else rng.uniform(0.92, 0.98))
            answer = int(rng.random() < 0.5)
            told = {"prediction": answer, "probability": likely if answer else 1 - likely}
            when = at(start + 9.9 * n / ROWS)
            items.append(prediction(f"p{start}-{n}", when, model="loans", features={"age": age, "device": device}, **told))
            labels.append(label(f"p{start}-{n}", answer if rng.random() < likely else 1 - answer, model="loans"))
        world.send("predictions", *items)
        if start < 0:
            world.send("labels", *labels)
    world.send("predictions", prediction("last", at(11), model="loans", prediction=1, probability=0.9))
    world.look()
    world.look()
    (proof,) = evidence(world, "expected", "loans")
    assert proof["value"] < 0.9
    assert proof["why"]["statistic"] == "expected_error"
    assert proof["why"]["features"][0]["feature"] == "device"
    assert proof["why"]["pieces"][0]["name"] == "device = shop"


def test_flagged_answers_are_put_down_to_their_prompt(make_world: Callable[..., World]) -> None:
    bare = check("bare", model="bot", threshold={"upper": 0.3}) | {"detector": "tests.plugins:Bareness"}
    world = make_world(checks=[bare])
    rng = np.random.default_rng(0)
    for window in (0, 10):
        items = []
        for n in range(ROWS):
            version = "2" if window and rng.random() < 0.5 else "1"
            told = {
                "prompt_version": version,
                "llm_model": str(rng.choice(["a", "b"])),
                "contexts": [] if version == "2" else ["x"],
            }
            items.append(generation(f"g{window}-{n}", at(window + 9.9 * n / ROWS), **told))
        world.send("generations", *items)
    world.send("generations", generation("last", at(21)))
    world.settle()
    world.score()
    for _ in range(3):
        world.look()
    (proof,) = evidence(world, "bare", "bot")
    assert proof["why"]["statistic"] == "flagged"
    assert proof["why"]["features"][0]["feature"] == "prompt_version"
    assert proof["why"]["pieces"][0]["name"] == "prompt_version = 2"


def test_while_a_window_is_being_read_no_other_check_begins_to_explain(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = {"start": (DAWN - timedelta(minutes=10)).isoformat(), "end": DAWN.isoformat()}
    world = make_world(checks=[check("shift", "Shift", reference=reference, threshold={"upper": 2})])
    turns, begun, look = world.runners["shift"]._explaining, [], Meter.look

    def asked(meter: Meter, *args: Any) -> Any:
        begun.append(turns.begin("another"))
        return look(meter, *args)

    monkeypatch.setattr(Meter, "look", asked)
    assert turns.begin("another"), "nothing is read"
    turns.end()
    world.send("predictions", prediction("first", at(0)), prediction("last", at(11)))
    world.look()
    assert begun == [False]


def test_an_incident_that_opened_just_before_a_restart_is_explained_after_it(make_world: Callable[..., World]) -> None:
    reference = {"start": (DAWN - timedelta(minutes=10)).isoformat(), "end": DAWN.isoformat()}
    world = make_world(checks=[check("shift", "Shift", reference=reference, threshold={"upper": 2})])
    crowd(world, -10, 1)
    crowd(world, 0, 2, age=15.0)
    world.send("predictions", prediction("last", at(11)))
    world.look()
    world.restart()
    assert "why" not in evidence(world, "shift")[0]
    world.look()
    (proof,) = evidence(world, "shift")
    assert proof["why"]["features"][0]["feature"] == "age"
    world.restart()
    world.look()
    assert [r["revision"] for r in world.rows("incidents")] == [1, 2], "and once only"


class Clueless(reasons.Reasons):
    def of(self, *_: Any) -> dict[str, Any] | None:
        raise RuntimeError("no idea")


def test_an_incident_that_cannot_be_explained_stands_without(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("error", "Error", threshold={"upper": 0.5})])
    runner = world.runners["error"]
    runner._reasons = Clueless(runner.check, world.config.models[0], maker({"houses": "regression"}, [runner.check]))
    crowd(world, 0, 1, wrong=("DK", "shop"))
    world.send("predictions", prediction("last", at(11)))
    for _ in range(3):
        world.look()
    assert [r["revision"] for r in world.rows("incidents")] == [1]
    assert sample(world.metrics, "modelwatch_scheduler_run_failures_total", check="error", reason="why") == 1
