"""The electricity stream, sent to a daemon as it came: its one known change is found on the day it happens, and named."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from tests.bench.daemon import ROOT, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STREAM = Path(__file__).parents[1] / "data" / "elec2_sample.parquet"
CHANGE = datetime(1997, 5, 5, tzinfo=UTC)
WIDENED = {"vicprice", "vicdemand", "transfer"}
FEATURES = ("time_of_day", "nswprice", "nswdemand", *sorted(WIDENED))
DAY = timedelta(days=1)
SECONDS = 120.0

COMMON: dict[str, Any] = {
    "model": "grid",
    "detector": "data_drift",
    "every": "1d",
    "window": "3d",
    "reference": {"start": "1997-02-08T00:00:00Z", "end": "1997-04-20T00:00:00Z"},
    "threshold": {"upper": 0.4},
    "min_records": 100,
}
CONFIG: dict[str, Any] = {
    "store": {"tail_seconds": 1, "min_free_bytes": 0},
    "models": [{"name": "grid", "task": "binary", "features": dict.fromkeys(FEATURES, "number")}],
    "checks": [
        # A day of this market depends on the hours before it, so days are what is resampled.
        {**COMMON, "name": "grid-drift", "settings": {"block_rows": 48, "resamples": 500}},
        {**COMMON, "name": "grid-drift-evidently", "settings": {"policy": "evidently"}},
    ],
}


def sent() -> Iterator[dict[str, Any]]:
    for i, row in enumerate(pq.read_table(STREAM).to_pylist()):
        yield {
            "record_id": f"r{i}",
            "model": "grid",
            "timestamp": row["timestamp"].replace(tzinfo=UTC).isoformat(),
            "features": {name: row[name] for name in FEATURES},
            "prediction": row["prediction"],
            "probability": row["prediction_probability"],
        }


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[datetime, dict[str, Any]]]:
    """By check and slot, once all are read."""
    rows = list(sent())
    with Daemon(tmp_path_factory.mktemp("grid"), CONFIG) as daemon:
        for start in range(0, len(rows), 500):
            daemon.post("/v1/predictions", orjson.dumps(rows[start : start + 500]))
        deadline = time.monotonic() + SECONDS
        last = CHANGE + 6 * DAY
        while True:
            found = asked(daemon.store)
            if all(last in found.get(check["name"], {}) for check in CONFIG["checks"]):
                return found
            assert time.monotonic() < deadline, f"not all slots were read: {[(k, len(v)) for k, v in found.items()]}"
            time.sleep(0.5)


def asked(store: Path) -> dict[str, dict[datetime, dict[str, Any]]]:
    query = (
        "SELECT r.check_name, epoch(r.slot) AS slot, r.outcome, r.value, r.parts, v.firing, "
        "(SELECT max(i.evidence) FROM incidents i WHERE i.check_name = r.check_name AND i.opened_slot = r.slot) AS evidence "
        "FROM readings r JOIN verdicts v USING (check_name, slice, slot, revision) WHERE r.slice = 'all'"
    )
    command = [sys.executable, "-m", "monitor", "sql", query, "--store", str(store), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    if done.returncode:  # the views come with the first refresh
        return {}
    found: dict[str, dict[datetime, dict[str, Any]]] = {}
    for row in map(json.loads, done.stdout.splitlines()):
        found.setdefault(row["check_name"], {})[datetime.fromtimestamp(row["slot"], UTC)] = row
    return found


def flagged(row: dict[str, Any]) -> set[str]:
    parts = json.loads(row["parts"]) if isinstance(row["parts"], str) else row["parts"]
    return {part["name"] for part in parts if part["flagged"]}


def test_nothing_fires_before_the_change_and_its_own_day_does(readings: dict[str, dict[datetime, dict[str, Any]]]) -> None:
    slots = readings["grid-drift"]
    fired = sorted(slot for slot, row in slots.items() if row["firing"])
    assert fired[0] == CHANGE + DAY, "the first slot whose window holds the change"
    assert fired == [CHANGE + n * DAY for n in range(1, 7)]
    assert {row["outcome"] for slot, row in slots.items() if slot > CHANGE - 14 * DAY} == {"ok"}


def test_the_features_that_changed_are_named(readings: dict[str, dict[datetime, dict[str, Any]]]) -> None:
    slots = readings["grid-drift"]
    for slot, row in slots.items():
        if slot <= CHANGE:
            assert not flagged(row) & WIDENED, slot
        else:
            assert flagged(row) >= WIDENED, slot
    evidence = json.loads(slots[CHANGE + DAY]["evidence"])
    assert {part["name"] for part in evidence["parts"][:3]} == WIDENED


def test_evidently_s_defaults_find_it_too_but_name_what_did_not_change(
    readings: dict[str, dict[datetime, dict[str, Any]]],
) -> None:
    before = {slot: [flagged(readings[name][slot]) for name in ("grid-drift", "grid-drift-evidently")] for slot in
              (CHANGE - n * DAY for n in range(14))}  # fmt: skip
    ours, theirs = (sum(bool(sides[i]) for sides in before.values()) for i in (0, 1))
    assert flagged(readings["grid-drift-evidently"][CHANGE + DAY]) >= WIDENED
    assert ours < theirs == len(before), "a feature is flagged on each of the fourteen days before anything changed"
