"""Streaming detectors in the daemon: what they say depends on event times, and neither on arrival nor on what was read before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from detectors.contract import Frame
from detectors.stream_drift import StreamDrift
from tests.monitor.support import NOON, World, label, prediction

ROWS = 300


def world_of(make_world: Callable[..., World], **settings: Any) -> World:
    reference = {"start": (NOON - timedelta(hours=1)).isoformat(), "end": NOON.isoformat()}
    check = {"name": "stream", "model": "loans", "detector": "stream_drift", "every": "1h", "min_records": 2}
    return make_world(
        models=[{"name": "loans", "task": "binary"}],
        checks=[{**check, "reference": reference, "settings": settings, "threshold": {"upper": 0}}],
    )


def hour(start: int, wrong_from: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """An hour of predictions and labels: one in ten wrong, and from a row on six in ten, whose amounts are larger, too."""
    rng = np.random.default_rng(start + 1)
    wrong = rng.random(ROWS) < np.where(np.arange(ROWS) < wrong_from, 0.1, 0.6)
    amounts = rng.normal(100, 10, ROWS) + np.where(np.arange(ROWS) < wrong_from, 0, 20)
    records = [
        prediction(
            f"h{start}-{i}", NOON + timedelta(hours=start, seconds=10 * i), model="loans", prediction=i % 2, probability=0.5,
            features={"amount": float(amounts[i])},
        )
        for i in range(ROWS)
    ]  # fmt: skip
    return records, [label(f"h{start}-{i}", i % 2 if not wrong[i] else 1 - i % 2, model="loans") for i in range(ROWS)]


def told(world: World, order: list[int]) -> dict[str, Any]:
    """The last reading of the hour from noon, whose error and amounts change at row 100, after records came in this order."""
    for start, wrong_from in ((-1, ROWS), (0, 100)):
        records, labels = hour(start, wrong_from)
        for part in np.array_split(order, 3):
            world.send("predictions", *(records[i] for i in part))
            world.send("labels", *(labels[i] for i in part))
    world.clock.move(7200)
    later = prediction("later", NOON + timedelta(hours=2), model="loans", prediction=1, probability=0.5, features={"amount": 1.0})
    world.send("predictions", later)
    world.look()
    end = NOON + timedelta(hours=1)
    return [reading for reading in world.rows("readings", "loans") if reading["slot"] == end][-1]


@pytest.mark.parametrize("column", ("error", "amount"))
@pytest.mark.parametrize("order", ("of time", "shuffled"))
def test_a_reading_is_what_the_detector_says_of_the_rows_in_the_order_of_time(
    column: str, order: str, make_world: Callable[..., World]
) -> None:
    rows = list(range(ROWS)) if order == "of time" else np.random.default_rng(0).permutation(ROWS).tolist()
    reading = told(world_of(make_world, column=column), rows)
    sides = []
    for start, wrong_from in ((-1, ROWS), (0, 100)):
        records, labels = hour(start, wrong_from)
        sides.append(
            Frame(
                {
                    "amount": [record["features"]["amount"] for record in records],
                    "prediction": [record["prediction"] for record in records],
                    "label": [one["label"] for one in labels],
                }
            )
        )
    expected = StreamDrift(StreamDrift.Config(column=column)).compare(*sides)
    assert (reading["outcome"], reading["value"], reading["statistic"]) == ("ok", expected.value, "changes")
    assert expected.value == 1
    assert 100 <= expected.metrics["first_change_row"] < 200
    assert expected.parts[0].name in str(reading["parts"])
