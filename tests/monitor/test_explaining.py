"""Whose turn it is to say why something fired: readings come first."""

from __future__ import annotations

from monitor.explaining import PATIENCE_SECONDS, QUIET_SECONDS, REST, Explaining
from tests.monitor.support import FakeClock


def test_one_check_at_a_time_is_explained(clock: FakeClock) -> None:
    turns = Explaining(clock)
    assert turns.begin("a")
    assert not turns.begin("b")
    turns.end()
    assert turns.begin("b")


def test_windows_of_other_checks_come_first(clock: FakeClock) -> None:
    turns = Explaining(clock)
    turns.read("a")
    assert turns.begin("a"), "its own are read"
    turns.end()
    turns.read("b")
    assert not turns.begin("a")
    clock.move(QUIET_SECONDS)
    assert turns.begin("a")


def test_where_windows_are_read_without_end_each_waits_for_a_minute(clock: FakeClock) -> None:
    turns = Explaining(clock)
    waited = 0.0
    turns.read("b")
    while not turns.begin("a"):
        clock.move(1.0)
        waited += 1.0
        turns.read("b")
    assert waited == PATIENCE_SECONDS
    turns.end()
    assert not turns.begin("a"), "the next one waits again"


def test_many_that_have_waited_take_a_tenth_of_the_time_while_windows_are_read(clock: FakeClock) -> None:
    turns = Explaining(clock)
    waiting = [f"incident-{i}" for i in range(50)]
    spent, began = 0.0, clock.monotonic()
    while clock.monotonic() - began < PATIENCE_SECONDS + 200.0:
        turns.read("another")
        if begun := next((name for name in waiting if turns.begin(name)), None):
            waiting.remove(begun)
            clock.move(2.0)
            spent += 2.0
            turns.end()
        else:
            clock.move(1.0)
    assert spent == 200.0 / (1 + REST)
    clock.move(QUIET_SECONDS)
    assert turns.begin(waiting[0]), "nothing is read now, so there is nothing to rest for"
