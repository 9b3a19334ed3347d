"""A scorer that keeps dying: who is set aside for it, and who is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from monitor.child import Child
from monitor.clock import SystemClock
from monitor.scoring import Scoring
from tests.faults.supervisor import helper
from tests.monitor.support import World, check, generation, wait_for

pytestmark = pytest.mark.faults

BARE = check("bare", "Bareness", model="bot", threshold={"upper": 0.9})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "store", checks=[BARE], scoring={"settle_seconds": 0, "attempts": 2})
    yield world
    world.close()


@pytest.fixture
def scorer(world: World) -> Iterator[Child]:
    setup = {"device": "cpu"}
    child = Child("scorer", "monitor.helpers:scorer", setup, nice=0, clock=SystemClock(), metrics=world.metrics)
    yield child
    child.stop()


def outcomes(world: World) -> dict[str, str]:
    return {row["record_id"]: row["outcome"] for row in world.rows("scores", "bot")}


def send(world: World, *records: dict[str, Any]) -> None:
    world.send("generations", *records)
    world.clock.move(1)


def test_nobody_is_set_aside_while_the_scorer_is_being_restarted(world: World, scorer: Child) -> None:
    """After some deaths it stays away for longer than any number of attempts takes."""
    for _ in range(4):
        process = wait_for(lambda: helper(psutil.Process().pid, "scorer"), "a scorer")
        assert process is not None
        process.kill()
        process.wait()
    send(world, *(generation(f"g{i}") for i in range(8)))
    scoring = Scoring(world.config, world.store, scorer, clock=world.clock, metrics=world.metrics)
    scoring.start()
    try:
        wait_for(lambda: len(outcomes(world)) == 8, "eight outcomes", 30)
    finally:
        scoring.stop()
    assert set(outcomes(world).values()) == {"ok"}


def test_only_the_answer_that_kills_the_scorer_is_set_aside(world: World, scorer: Child) -> None:
    send(world, *(generation(f"g{i}", question="die" if i == 5 else "why?") for i in range(8)))
    scoring = Scoring(world.config, world.store, scorer, clock=world.clock, metrics=world.metrics)
    scoring.start()
    try:
        wait_for(lambda: len(outcomes(world)) == 8, "eight outcomes", 60)
    finally:
        scoring.stop()
    assert {record for record, outcome in outcomes(world).items() if outcome != "ok"} == {"g5"}
