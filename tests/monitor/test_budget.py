"""A budget of false alarms through the store, on real people: quiet while nothing moves, loud and to the point when it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from prometheus_client import generate_latest

from detectors import false_alarms
from tests.monitor.support import MODELS, World, prediction
from tests.monitor.test_runner import DAWN, at
from tests.monitor.test_slices import fires

FILE = Path(__file__).parents[1] / "data" / "employment_sample.parquet"
FIELDS = {"AGEP": "number", "SEX": "category", "MAR": "category", "predicted_probability": "number"}
PEOPLE, BEFORE = 200, 10  # in a window of ten minutes; windows of the reference
BUDGET = 20.0

DRIFT: dict[str, Any] = {
    "name": "drift",
    "model": "houses",
    "detector": "data_drift",
    "every": "10m",
    "reference": {"start": (DAWN - timedelta(minutes=10 * BEFORE)).isoformat(), "end": DAWN.isoformat()},
    "settings": {"min_rows": 50, "block_rows": 1, "features": ["AGEP", "MAR", "predicted_probability"]},
    "threshold": {"kind": "calibrated"},
    "slices": [{"by": "SEX", "top": 2}],
}


@pytest.fixture(scope="module")
def people() -> list[dict[str, Any]]:
    rows = pq.read_table(FILE, columns=list(FIELDS)).to_pylist()
    kept = [{k: str(row[k]) if kind == "category" else float(row[k]) for k, kind in FIELDS.items()} for row in rows]
    order = np.random.default_rng(4).permutation(len(kept))  # so that the two years are no drift
    return [kept[i] for i in order]


def stream(world: World, people: list[dict[str, Any]], windows: range, older: Callable[[dict[str, Any]], float]) -> None:
    for window in windows:
        items = []
        for n in range(PEOPLE):
            person = people[(window + BEFORE) * PEOPLE + n]
            features = {**person, "AGEP": person["AGEP"] + older(person)}
            items.append(prediction(f"{window}-{n}", at(10 * window + 9.9 * n / PEOPLE), features=features))
        world.send("predictions", *items)


def test_real_people_ring_when_they_change_and_not_before(make_world: Callable[..., World], people: list[dict[str, Any]]) -> None:
    world = make_world(models=[{**MODELS[0], "false_alarms_per_month": BUDGET}, MODELS[1]], checks=[DRIFT])
    stream(world, people, range(-BEFORE, 3), lambda person: 0.0)
    world.send("predictions", prediction("mark", at(31), features={"AGEP": 1.0}))
    world.look()
    assert fires(world, "drift") == {}
    world.restart()
    stream(world, people, range(3, 5), lambda person: 12.0 if person["SEX"] == "2" else 0.0)
    world.send("predictions", prediction("end", at(51), features={"AGEP": 1.0}))
    world.look()
    found = fires(world, "drift")
    assert set(found) == {"all", "SEX=2"}
    assert found["SEX=2"][-1] == 50
    alpha = BUDGET / (4320 * (1 + 2 + 1))
    rows = world.rows("verdicts", where="slot > TIMESTAMPTZ '2026-03-01 06:00:00+00' AND judged IS NOT NULL")
    assert rows
    for row in rows:
        level = false_alarms.level(alpha, row["needed"], row["of_windows"])
        assert row["lower"] == pytest.approx(level)
        assert row["beyond"] == (row["judged"] <= row["lower"])
    world.look()
    proofs = [json.loads(r["evidence"]) for r in world.rows("incidents") if r["slice"] == "all"]
    assert proofs[-1]["why"]["features"][0]["feature"] == "AGEP"
    page = generate_latest(world.board).decode()
    labels = 'check="drift",kind="{}",model="houses",slice="all"'
    assert f"modelwatch_false_alarm_ratio{{{labels.format('nominal')}}} {alpha!r}" in page
    achieved = next(line for line in page.splitlines() if labels.format("achieved") in line)
    assert float(achieved.split()[-1]) == 0.0
    assert 'modelwatch_slices{check="drift",model="houses"} 4.0' in page
    (learned,) = [r for r in world.rows("thresholds") if r["slice"] == "all"]
    assert (learned["windows"], learned["reason"]) == (10, None)
    assert len(json.loads(learned["p_numbers"])) == 10
