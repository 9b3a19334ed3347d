"""Whose turn it is to say why something fired: readings come first."""

from __future__ import annotations

from monitor.explaining import PATIENCE_SECONDS, QUIET_SECONDS, Explaining
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
