"""A clock that is set back by an hour does not stop scoring for that hour."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from monitor.setback import Setback
from tests.monitor.support import World, check, generation

HOUR = 3600
BARE = check("bare", "Bareness", model="bot", threshold={"upper": 0.9})


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world(checks=[BARE], scoring={"settle_seconds": 5})


def test_what_came_before_the_clock_was_set_back_is_scored_after_the_settle_time(world: World) -> None:
    setback = Setback(world.store, clock=world.clock)
    assert setback.look(5) == 0
    world.send("generations", generation("g"))
    world.clock.move(-HOUR)
    assert world.score() == 0
    assert setback.look(5) == 1
    world.clock.move(6)
    assert world.score() == 1


def test_it_is_seen_at_a_start_as_well(world: World) -> None:
    world.send("generations", generation("g"))
    world.clock.move(-HOUR)
    world.restart()
    assert Setback(world.store, clock=world.clock).look(5) == 1


def test_while_the_clock_goes_forward_nothing_is_due_early(world: World) -> None:
    setback = Setback(world.store, clock=world.clock)
    for seconds in (0, 1, HOUR, -10):  # ten seconds are the work of whoever keeps the clock right
        world.clock.move(seconds)
        world.send("generations", generation(f"g{seconds}"))
        assert setback.look(5) == 0
