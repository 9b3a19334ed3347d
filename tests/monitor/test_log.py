"""What an operator reads of a trouble that lasts."""

from __future__ import annotations

import logging

import pytest

from monitor import log
from tests.monitor.support import FakeClock


def test_a_trouble_that_lasts_is_told_when_it_begins_each_minute_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    waiting = log.Lasting(clock.monotonic)
    with caplog.at_level(logging.INFO):
        waiting.over("it goes on")
        for _ in range(121):  # seconds
            waiting.warning("it waits", "a", error="full")
            waiting.warning("it waits", "b", error="full")
            clock.move(1)
        waiting.over("it goes on", "a")
        waiting.over("it goes on", "a")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["it waits error=full"] * 6 + ["it goes on"]
