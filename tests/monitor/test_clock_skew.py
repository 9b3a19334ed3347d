"""A sender's clock that differs from ours."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.monitor.support import NOON, World, prediction, sample


def ahead(world: World) -> float:
    return sample(world.metrics, "modelwatch_ingest_batches_ahead_total", model="houses", kind="predictions") or 0.0


@pytest.mark.parametrize(("minutes", "counted"), ((-60, 0), (0, 0), (4, 0), (6, 1), (60 * 24 * 300, 1)))
def test_a_sender_whose_clock_is_fast_is_counted_and_closes_no_window(world: World, minutes: int, counted: int) -> None:
    world.send("predictions", prediction("now", NOON))
    before = world.store.watermark("houses")
    world.send("predictions", prediction("then", NOON + timedelta(minutes=minutes)))
    assert ahead(world) == counted
    after = world.store.watermark("houses")
    assert (after == before) == (minutes <= 0 or counted == 1)
    lag = sample(world.metrics, "modelwatch_ingest_event_lag_seconds_sum", kind="predictions")
    assert lag == max(0, -minutes * 60), "never below 0"
