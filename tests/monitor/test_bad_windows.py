"""What senders get wrong, through the daemon: each window ends in an outcome with its reason, never in a wrong number, and the
other checks go on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pytest

from tests.monitor.support import NOON, World, check

DAWN = NOON - timedelta(hours=6)
MINUTE = timedelta(minutes=1)
ROWS = 200
REFERENCE = {"start": DAWN.isoformat(), "end": (DAWN + 10 * MINUTE).isoformat()}

Rows = list[dict[str, Any]]


def checks() -> list[dict[str, Any]]:
    common: dict[str, Any] = {"model": "clf", "min_records": 30, "threshold": {"upper": 0.9}}
    drift = {"reference": REFERENCE, **common}
    found: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
        "mean": (check("mean", min_records=1, model="clf", threshold={"upper": 100}), {}, None),
        "drift": (check("drift", **drift), {"settings": {"resamples": 100, "block_rows": 1}}, "data_drift"),
        "drift-evidently": (check("drift-evidently", **drift), {"settings": {"policy": "evidently"}}, "data_drift"),
        "bridge": (check("bridge", **drift), {"settings": {"metric": "DriftedColumnsCount", "field": "share"}}, "evidently"),
        "quality": (check("quality", **drift), {}, "data_quality"),
        "moved": (check("moved", **drift), {"settings": {"resamples": 100, "block_rows": 1}}, "prediction_drift"),
        "errors": (check("errors", **common), {"settings": {"task": "binary", "metric": "accuracy"}}, "performance"),
        "auc": (check("auc", **common), {"settings": {"task": "binary", "metric": "roc_auc"}}, "performance"),
    }
    return [{**one, **more, **({"detector": name} if name else {})} for one, more, name in found.values()]


MODELS = ({"name": "clf", "task": "binary"},)


def rows(minute: float, n: int = ROWS) -> Rows:
    rng = np.random.default_rng(int(minute))
    chance = rng.random(n)
    return [
        {
            "record_id": f"{minute}-{i}",
            "model": "clf",
            "timestamp": (DAWN + (minute + 8 * i / n) * MINUTE).isoformat(),
            "features": {"x": float(rng.normal()), "y": float(rng.normal()), "c": str(rng.choice(["a", "b"]))},
            "prediction": int(chance[i] > 0.5),
            "probability": float(chance[i]),
        }
        for i in range(n)
    ]


def labels(of: Sequence[dict[str, Any]]) -> Rows:
    return [
        {"record_id": r["record_id"], "model": "clf", "label": int((r["probability"] or 0.0) + i % 5 / 10 > 0.6)}
        for i, r in enumerate(of)
    ]


def with_x(of: Rows, value: Callable[[int], Any]) -> Rows:
    return [{**r, "features": {**r["features"], "x": value(i)}} for i, r in enumerate(of)]


class Read(NamedTuple):
    outcome: str
    reason: str
    value: float | None
    n: int
    parts: dict[str, tuple[str, bool]]  # outcome, flagged
    metrics: dict[str, float]


def read(world: World, minute: float = 20) -> dict[str, Read]:
    found = {}
    last = "slice = 'all' QUALIFY row_number() OVER (PARTITION BY check_name, slot ORDER BY revision DESC) = 1"
    for row in world.rows("readings", "clf", where=last):
        if row["slot"] == DAWN + minute * MINUTE:
            parts = {p["name"]: (p["outcome"], p["flagged"]) for p in orjson.loads(row["parts"])}
            metrics = orjson.loads(row["metrics"])
            found[row["check_name"]] = Read(row["outcome"], row["reason"] or "", row["value"], row["n_current"], parts, metrics)
    return found


def after(make_world: Callable[..., World], current: Rows, truth: Rows | None = None) -> tuple[World, dict[str, Read]]:
    """What is read of a window of these rows, after one of good rows."""
    world = make_world(models=MODELS, checks=checks())
    good = rows(1)
    world.send("predictions", *good)
    world.send("labels", *labels(good))
    world.send("predictions", *current)
    world.send("labels", *(labels(current) if truth is None else truth))
    world.send("predictions", *rows(21, 1))
    world.look()
    found = read(world)
    for name, one in found.items():
        assert one.outcome in ("ok", "not_enough_data", "not_evaluable"), (name, one)
        assert (one.value is not None) == (one.outcome == "ok"), (name, one)
        assert one.reason or one.outcome == "ok", (name, one)
        assert all(math.isfinite(v) for v in one.metrics.values()), (name, one)
    return world, found


DRIFTS = ("drift", "drift-evidently")
OK, FEW, NOT = "ok", "not_enough_data", "not_evaluable"

# What comes instead of good rows; what goes to the dead letter; what the checks of drift say of some features, as (outcome,
# flagged); how many columns the bridge leaves out; and the share of features in which data_quality finds a problem.
FEATURES: dict[str, tuple[Callable[[], Rows], dict[str, int], dict[str, tuple[str, bool]], int, float]] = {
    "good rows": (lambda: rows(11), {}, {"x": (OK, False), "c": (OK, False)}, 0, 0),
    "a feature that changes its type in half of the rows": (
        lambda: with_x(rows(11), lambda i: "text" if i % 2 else float(i)), {"type_changed": 100}, {"x": (OK, True)}, 0, 1 / 3,
    ),
    "one that disappears": (
        lambda: [{**r, "features": {n: r["features"][n] for n in "yc"}} for r in rows(11)], {}, {"x": (FEW, False)}, 1, 1 / 3,
    ),
    "one that is null": (lambda: with_x(rows(11), lambda i: None), {}, {"x": (FEW, False)}, 1, 1 / 3),
    "one that comes new": (
        lambda: [{**r, "features": {**r["features"], "z": float(i)}} for i, r in enumerate(rows(11))],
        {}, {"x": (OK, False), "z": (FEW, False)}, 1, 1 / 4,
    ),
    "one value": (lambda: with_x(rows(11), lambda i: 5.0), {}, {"x": (OK, True)}, 0, 1 / 3),
    "texts that are all distinct": (
        lambda: [{**r, "features": {**r["features"], "c": f"id {i}"}} for i, r in enumerate(rows(11))],
        {}, {"x": (OK, False), "c": (OK, True)}, 0, 1 / 3,
    ),
    "infinities": (
        lambda: with_x(rows(11), lambda i: math.inf if i % 4 == 0 else 9.0 + i), {"not_finite": 50}, {"x": (OK, True)}, 0, 1 / 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_gone_wrong_costs_itself_only(make_world: Callable[..., World], name: str) -> None:
    make, letters, parts, left_out, problems = FEATURES[name]
    world, found = after(make_world, make())
    assert Counter(reason for _, reason in world.letters()) == letters
    assert {one.outcome for one in found.values()} == {OK}
    assert {one.n for one in found.values()} == {ROWS - sum(letters.values())}
    for drift in DRIFTS:
        assert {n: found[drift].parts[n] for n in parts} == parts, drift
        assert found[drift].parts["y"] == (OK, False), "the others are as they were"
    assert found["bridge"].metrics["columns_left_out"] == left_out
    assert found["quality"].value == pytest.approx(problems)
    assert found["moved"].value == 0


def test_three_rows_are_too_few_for_all_but_who_asks_for_no_more(make_world: Callable[..., World]) -> None:
    _, found = after(make_world, rows(11, 3))
    assert found.pop("mean").outcome == OK
    assert {(one.outcome, one.reason) for one in found.values()} == {(FEW, "3 records, min_records is 30")}


def test_labels_for_half_the_rows_are_said_to_be_and_no_more_is_made_of_them(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    current = rows(11)
    _, whole = after(make_world, current)
    half = make_world(tmp_path / "half", models=MODELS, checks=checks())
    half.send("predictions", *current, *rows(21, 1))
    half.send("labels", *labels(current)[: ROWS // 2])
    half.look()
    found = read(half)
    assert found["errors"].n == ROWS // 2
    assert found["errors"].metrics["label_coverage"] == 0.5
    right = [r["prediction"] == t["label"] for r, t in zip(current, labels(current), strict=True)][: ROWS // 2]
    assert found["errors"].value == pytest.approx(sum(right) / len(right))
    assert whole["errors"].metrics["label_coverage"] == 1
    half.send("labels", *labels(current)[ROWS // 2 :])
    half.look()
    assert read(half)["errors"].value == whole["errors"].value, "those that come later restate it"


def test_probabilities_that_do_not_add_up_are_left_out_and_counted(make_world: Callable[..., World]) -> None:
    settings = {"task": "multiclass", "min_labels": 10}
    animals = [
        check(metric, model="animals", min_records=10, threshold={"lower": 0.1})
        | {"detector": "performance", "settings": {**settings, "metric": metric}}
        for metric in ("accuracy", "log_loss")
    ]
    world = make_world(models=[{"name": "animals", "task": "multiclass"}], checks=animals)
    for minute, broken in ((1, 3), (11, 40)):
        items = [
            {
                "record_id": f"{minute}-{i}",
                "model": "animals",
                "timestamp": (DAWN + minute * MINUTE).isoformat(),
                "prediction": "cat",
                "probabilities": {"cat": 0.75, "dog": 0.75 if i < broken else 0.25},
            }
            for i in range(40)
        ]
        world.send("predictions", *items)
        world.send("labels", *({"record_id": r["record_id"], "model": "animals", "label": "cat"} for r in items))
    world.send(
        "predictions", {"record_id": "z", "model": "animals", "timestamp": (DAWN + 21 * MINUTE).isoformat(), "prediction": "cat"}
    )
    world.look()
    found = {
        (row["check_name"], (row["slot"] - DAWN) / MINUTE): (row["outcome"], row["value"], orjson.loads(row["metrics"]))
        for row in world.rows("readings", "animals")
    }
    assert found["log_loss", 10][:2] == (OK, pytest.approx(-math.log(0.75)))
    assert found["log_loss", 10][2]["probabilities_not_one"] == 3
    assert found["log_loss", 20][0] in (FEW, NOT)
    assert (found["accuracy", 10][:2], found["accuracy", 20][:2]) == ((OK, 1.0), (OK, 1.0))


def test_a_clock_that_goes_back_changes_no_reading(make_world: Callable[..., World], tmp_path: Path) -> None:
    def readings(root: str, *moves: float) -> dict[str, Read]:
        world = make_world(tmp_path / root, models=MODELS, checks=checks()[:3])
        for minute, move in zip((1, 11, 21), moves, strict=True):
            world.send("predictions", *rows(minute, ROWS if minute < 21 else 1))
            world.look(move)
        world.look(600)
        return read(world)

    steady = readings("steady", 20, 20, 20)
    assert steady["drift"].outcome == OK
    assert readings("back", 20, -7200, 20) == readings("forth", 20, -3600, 3700) == steady


def test_hours_are_the_same_wherever_the_sender_s_clock_hangs(make_world: Callable[..., World]) -> None:
    """In Oslo the hour from two to three of 26 October 2025 is there twice."""
    oslo = ZoneInfo("Europe/Oslo")
    world = make_world(models=MODELS, checks=[check("mean", model="clf", every="1h")])
    instants = [
        datetime.fromisoformat(f"2025-10-2{day}T{hour:02}:30:00+00:00") for day, hour in ((5, 23), (6, 0), (6, 1), (6, 2))
    ]
    local = [t.astimezone(oslo) for t in instants]
    assert len({t.strftime("%H:%M") for t in local}) == 3, "half past two comes twice"
    items = [
        {"record_id": f"r{i}", "model": "clf", "timestamp": t.isoformat(), "prediction": float(i)} for i, t in enumerate(local)
    ]
    world.send("predictions", *items, {**items[0], "record_id": "bare", "timestamp": "2025-10-26T02:30:00"})
    world.look()
    assert world.letters() == [("bare", "bad_timestamp")], "without an offset nobody knows which of the two it was"
    found = {row["slot"]: row["value"] for row in world.rows("readings", "clf")}
    assert found == {(t + timedelta(minutes=30)): float(i) for i, t in enumerate(instants[:-1])}
