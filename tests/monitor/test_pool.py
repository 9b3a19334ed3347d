"""Rows that several checks read are read once, and each check sees what it would see alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from monitor import windows
from monitor.agenda import Arrivals
from monitor.pool import Pool
from monitor.windows import TableWindow
from tests.monitor.support import NOON, World, check, label, prediction

DAWN = NOON - timedelta(hours=6)
MINUTE = timedelta(minutes=1)
ALL = frozenset({"features", "prediction", "label", "probability", "probabilities", "model_version", "attributes.region"})
SOME = (
    frozenset({"features"}),
    frozenset({"x"}),
    frozenset({"x", "prediction"}),
    frozenset({"prediction", "label"}),
    frozenset({"prediction", "label", "probabilities"}),
    frozenset({"model_version", "y"}),
    frozenset({"attributes.region", "features"}),
)


@pytest.fixture
def pool(world: World) -> Pool:
    rows = [
        prediction(
            f"r{i}",
            DAWN + i * MINUTE,
            prediction=float(i),
            probability=i / 10,
            probabilities={"a": 0.5, "b": 0.5},
            model_version="1",
            region="north",
            features={"x": i, "y": "abc"[i % 3]},
        )
        for i in range(9)
    ]
    world.send("predictions", *rows)
    world.send("labels", *(label(f"r{i}", 1.0) for i in range(5)))
    return Pool()


def alone(world: World, inputs: frozenset[str]) -> TableWindow:
    features: Any = world.store.feature_columns("houses")
    with world.store.read() as reader:
        return windows.predictions(reader, "houses", DAWN, NOON, features, inputs)


def shared(world: World, pool: Pool, inputs: frozenset[str]) -> TableWindow:
    features: Any = world.store.feature_columns("houses")
    with world.store.read() as reader:
        return pool.predictions(reader, "houses", DAWN, NOON, features, inputs, ALL)


def same(a: TableWindow, b: TableWindow) -> bool:
    return a.features == b.features and a.table.to_pylist() == b.table.select(a.table.column_names).to_pylist()


@pytest.mark.parametrize("inputs", SOME, ids=lambda one: " ".join(sorted(one)))
def test_each_check_sees_what_it_would_see_alone(world: World, pool: Pool, inputs: frozenset[str]) -> None:
    shared(world, pool, ALL)
    found, expected = shared(world, pool, inputs), alone(world, inputs)
    assert set(found.table.column_names) == set(expected.table.column_names)
    assert same(expected, found)


def test_rows_are_read_once_until_something_comes(world: World, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[frozenset[str]] = []
    plain = windows.predictions

    def counted(*args: Any) -> TableWindow:
        asked.append(args[-1])
        return plain(*args)

    monkeypatch.setattr(windows, "predictions", counted)
    for inputs in SOME:
        shared(world, pool, inputs)
    assert asked == [ALL]
    world.seal()
    shared(world, pool, SOME[0])
    assert asked == [ALL], "sealing moves rows and changes none"
    for news in (prediction("late", DAWN, features={"x": 50}), label("r7", 3.0)):
        world.send("labels" if "label" in news else "predictions", news)
        asked.clear()
        assert same(alone(world, SOME[3]), shared(world, pool, SOME[3]))
        assert shared(world, pool, SOME[0]).rows == 10
        assert asked == [SOME[3], ALL], "once alone, for this test, and once for all"


def test_a_feature_called_like_a_field_is_not_shared(world: World, pool: Pool) -> None:
    world.send("predictions", prediction("odd", DAWN, features={"label": 7}))
    assert shared(world, pool, frozenset({"features"})).has("label")
    assert shared(world, pool, frozenset({"prediction"})).table.column_names == ["prediction", "probability"]
    assert shared(world, pool, frozenset({"probability"})).table.column_names == ["prediction", "probability"]


def test_checks_of_one_model_end_in_the_readings_each_would_have_alone(make_world: Callable[..., World]) -> None:
    def readings(root: str, *checks: dict[str, Any]) -> dict[str, Any]:
        world = make_world(first.store.root.parent / root, checks=list(checks))
        for n in range(3):
            world.send(
                "predictions", *(prediction(f"{n}-{i}", DAWN + (10 * n + i) * MINUTE, prediction=float(i)) for i in range(5))
            )
            world.send("labels", *(label(f"{n}-{i}", i + 0.5) for i in range(5)))
            world.look()
        return {one["name"]: world.readings(one["name"]) for one in checks}

    first = make_world(checks=[])
    mean, error = check("mean"), check("error", "Error")
    assert readings("both", mean, error) == {**readings("one", mean), **readings("other", error)}


def test_what_is_new_is_found_once_and_again_when_there_is_more() -> None:
    arrivals, asked = Arrivals(), []

    def find(last: int | None) -> Callable[[], Any]:
        def found() -> Any:
            asked.append(last)
            return last, []

        return found

    assert arrivals.of(("m", "predictions", 0), 5, find(7)) == (7, [])
    assert arrivals.of(("m", "predictions", 0), 7, find(8)) == (7, []), "all that there was is in it"
    assert arrivals.of(("m", "predictions", 0), 8, find(9)) == (9, [])
    assert arrivals.of(("m", "labels", 0), 8, find(None)) == (None, [])
    assert asked == [7, 9, None]
