"""What an incident keeps of the moment it opened, and that its SQL gives the same number from the auditors' view."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import duckdb
import pytest

from tests.monitor.support import NOON, World, check, generation, prediction

DAWN = NOON - timedelta(hours=6)
MINUTE = timedelta(minutes=1)
Make = Callable[..., World]


def proof(world: World, name: str, model: str = "houses", part: str = "all") -> dict[str, Any]:
    """The evidence of the only incident of a check on a slice."""
    rows = world.rows("incidents", model, where=f"check_name = '{name}' AND slice = '{part}'")
    assert len({row["incident_id"] for row in rows}) == 1
    found: dict[str, Any] = json.loads(rows[-1]["evidence"])
    return found


def again(world: World, sql: str) -> dict[str, Any]:
    """The row that a query gives in `audit.duckdb`."""
    world.audit.refresh()
    with duckdb.connect(str(world.store.root / "audit.duckdb"), read_only=True) as connection:
        connection.execute(f"SET file_search_path = '{world.store.root}'")
        (row,) = connection.sql(sql).to_arrow_table().to_pylist()
    return dict(row)


def answers(world: World, minute: float, bare: int, kept: int, **fields: Any) -> None:
    """So many answers without and with passages, in that minute."""
    items = [
        generation(
            f"{minute}-{i}", DAWN + minute * MINUTE, contexts=[] if i < bare else ["a", "b"], prompt_name="support",
            trace_id=f"{int(minute):04x}{i:028x}", **fields,
        )
        for i in range(bare + kept)
    ]  # fmt: skip
    world.send("generations", *items)


@pytest.fixture
def broken(make_world: Make) -> World:
    """The share of bare answers goes from 1 in 10 to 8 in 10 with version 8 of the prompt."""
    bare = check(
        "bare", "Bareness", model="bot", threshold={"upper": 0.45}, slices=[{"name": "eu", "where": {"environment": "eu"}}]
    )
    world = make_world(checks=[bare])
    answers(world, 1, 1, 9, prompt_version="7", environment="eu")
    answers(world, 11, 1, 9, prompt_version="7", environment="eu")
    answers(world, 21, 8, 2, prompt_version="8", environment="eu")
    answers(world, 31, 0, 1, prompt_version="8", environment="us")
    world.settle(40)
    world.score()
    world.look()
    return world


@pytest.mark.parametrize("part", ("all", "eu"))
def test_the_share_of_flagged_answers_is_the_same_by_its_sql_whatever_comes_later(broken: World, part: str) -> None:
    found = proof(broken, "bare", "bot", part)
    assert found["value"] == 0.8
    for _ in range(2):
        assert again(broken, found["number_sql"]) == {"value": found["value"], "n": found["n_current"]}
        broken.send("generations", generation("late", DAWN + 22 * MINUTE, environment="eu"))
        broken.settle(40)
        broken.score()
        broken.seal()


def test_it_shows_versions_and_prompts_before_and_after(broken: World) -> None:
    split = {(row["what"], row["value"]): row for row in proof(broken, "bare", "bot")["split"]}
    new, old = split["prompt", "support@8"], split["prompt", "support@7"]
    assert (new["before"], new["after"], new["flagged_after"]) == (0, 10, 0.8)
    assert (old["before"], old["after"], old["flagged_before"]) == (10, 0, 0.1)
    assert (split["model_version", None]["before"], split["model_version", None]["after"]) == (10, 10)


def test_versions_are_split_by_what_the_check_flags_and_not_by_what_its_detector_would(make_world: Make) -> None:
    some = check("some", "Bareness", model="bot", threshold={"upper": 0.45}) | {"flag": 0.0}
    world = make_world(checks=[some])
    answers(world, 21, 0, 10, prompt_version="8")
    answers(world, 31, 0, 1, prompt_version="8")
    world.settle(40)
    world.score()
    world.look()
    found = proof(world, "some", "bot")
    (split,) = (row for row in found["split"] if row["what"] == "prompt")
    assert found["value"] == split["flagged_after"] == again(world, found["number_sql"])["value"] == 1.0


def test_it_shows_the_number_over_time_the_worst_and_what_changed(broken: World) -> None:
    found = proof(broken, "bare", "bot")
    assert [(row["judged"] is not None, row["upper"], row["firing"]) for row in found["history"]] == [
        (True, 0.45, False), (True, 0.45, False), (True, 0.45, True)
    ]  # fmt: skip
    assert [row["value"] for row in found["worst_records"][:8]] == [1.0] * 8
    assert all(row["trace_id"] for row in found["worst_records"])
    assert [(row["what"], row["value"], row["previous"]) for row in found["changes"]] == [("prompt", "support@8", "support@7")]


@pytest.mark.parametrize(("metric", "expected"), (("mae", 3.0), ("rmse", 5**0.5 * 5**0.5)))
def test_an_error_is_the_same_by_its_sql_and_the_worst_are_named(make_world: Make, metric: str, expected: float) -> None:
    settings = {"task": "regression", "metric": metric, "min_labels": 2}
    world = make_world(checks=[check("error", threshold={"upper": 1}) | {"detector": "performance", "settings": settings}])
    at = DAWN + 11 * MINUTE
    world.send("predictions", *(prediction(f"p{i}", at, prediction=10.0, trace_id=f"{i:032x}") for i in range(4)))
    errors = {"mae": (1.0, -2.0, 4.0, 5.0), "rmse": (5.0, 5.0, -5.0, -5.0)}[metric]
    world.send("labels", *({"record_id": f"p{i}", "model": "houses", "label": 10.0 + e} for i, e in enumerate(errors)))
    world.send("predictions", prediction("last", DAWN + 21 * MINUTE))
    world.look()
    found = proof(world, "error")
    assert found["value"] == pytest.approx(expected)
    assert again(world, found["number_sql"]) == {"value": pytest.approx(found["value"]), "n": 4}
    worst = [row["value"] for row in found["worst_records"]]
    assert worst == sorted((abs(e) for e in errors), reverse=True)
    world.send("labels", {"record_id": "p0", "model": "houses", "label": 99.0, "revision": 1})
    assert again(world, found["number_sql"])["value"] == pytest.approx(found["value"]), "a correction came later"


def test_an_accuracy_is_the_same_by_its_sql_on_a_slice(make_world: Make) -> None:
    settings = {"task": "multiclass", "metric": "accuracy", "min_labels": 2}
    slices = [{"name": "new", "where": {"model_version": "2"}}]
    right = check("right", threshold={"lower": 0.97}, slices=slices) | {"detector": "performance", "settings": settings}
    world = make_world(models=[{"name": "houses", "task": "multiclass"}], checks=[right])
    at = DAWN + 11 * MINUTE
    items = [prediction(f"p{i}", at, prediction="cat", model_version=str(1 + i % 2)) for i in range(6)]
    world.send("predictions", *items)
    truths = ("cat", "cat", "cat", "dog", "cat", "dog")
    world.send("labels", *({"record_id": f"p{i}", "model": "houses", "label": t} for i, t in enumerate(truths)))
    world.send("predictions", prediction("last", DAWN + 21 * MINUTE, prediction="cat"))
    world.look()
    for part, expected in (("all", 4 / 6), ("new", 1 / 3)):
        found = proof(world, "right", part=part)
        assert found["value"] == pytest.approx(expected)
        assert again(world, found["number_sql"])["value"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("predicted", "label", "expected"), (("1", 1, 1.0), (1, "1", 1.0), ("true", True, 1.0), ("01", 1, 0.0), (1, True, 1.0))
)
def test_a_class_is_the_same_by_its_sql_however_it_was_written(
    make_world: Make, predicted: Any, label: Any, expected: float
) -> None:
    settings = {"task": "multiclass", "metric": "accuracy", "min_labels": 2}
    right = check("right", threshold={"lower": 0.97}) | {"detector": "performance", "settings": settings}
    world = make_world(models=[{"name": "houses", "task": "multiclass"}], checks=[right])
    at = DAWN + 11 * MINUTE
    world.send("predictions", *(prediction(f"p{i}", at, prediction=predicted) for i in range(4)))
    world.send("predictions", prediction("wrong", at, prediction="dog"))
    world.send("labels", *({"record_id": f"p{i}", "model": "houses", "label": label} for i in range(4)))
    world.send("labels", {"record_id": "wrong", "model": "houses", "label": "cat"})
    world.send("predictions", prediction("last", DAWN + 21 * MINUTE, prediction="cat"))
    world.look()
    found = proof(world, "right")
    assert found["value"] == pytest.approx(0.8 * expected)
    assert again(world, found["number_sql"]) == {"value": pytest.approx(found["value"]), "n": 5}
    assert len(found["worst_records"]) == 5 - 4 * expected


def test_where_no_query_says_what_the_detector_does_it_gives_the_reading_as_it_was(make_world: Make) -> None:
    world = make_world(checks=[check("mean")])
    for minute, value in ((1, 1.0), (11, 15.0), (21, 15.0)):
        world.send("predictions", prediction(f"r{minute}", DAWN + minute * MINUTE, prediction=value))
    world.look()
    found = proof(world, "mean")
    assert again(world, found["number_sql"]) == {"value": found["value"]}
    world.send("predictions", prediction("late", DAWN + 12 * MINUTE, prediction=99.0))
    world.look()
    assert again(world, found["number_sql"]) == {"value": 15.0}
