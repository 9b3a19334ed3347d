"""Slices of a check: which rows belong where, and that each has a history of its own, whatever happens in between."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from monitor import slices
from monitor.config import Config, SliceConfig
from monitor.slices import Condition, Slice, Slices
from tests.monitor.support import MODELS, NOON, World, check, generation, label, prediction, sample
from tests.monitor.test_runner import DAWN, MINUTE, at, settle

REGIONS = [{"name": "north", "where": {"region": ["NO", "SE"]}}, {"by": "region", "top": 2}]


def sold(minute: float, region: str | None, value: float, **fields: Any) -> dict[str, Any]:
    features = {"region": region} if region is not None else {"size": 1.0}
    return prediction(f"r{minute}-{region}-{value}", at(minute), prediction=value, features=features, **fields)


def read(world: World, name: str = "mean", model: str = "houses") -> dict[str, dict[float, Any]]:
    """Value by slice and minute of the slot; the outcome where there is none."""
    last = "row_number() OVER (PARTITION BY slice, slot ORDER BY revision DESC) = 1"
    found: dict[str, dict[float, Any]] = {}
    for row in world.rows("readings", model, where=f"check_name = '{name}' QUALIFY {last}"):
        minute = (row["slot"] - DAWN) / MINUTE
        found.setdefault(row["slice"], {})[minute] = row["value"] if row["value"] is not None else row["outcome"]
    return found


def fires(world: World, name: str = "mean", model: str = "houses") -> dict[str, list[float]]:
    last = "row_number() OVER (PARTITION BY slice, slot ORDER BY revision DESC) = 1"
    found: dict[str, list[float]] = {}
    for row in world.rows("verdicts", model, where=f"check_name = '{name}' QUALIFY {last}"):
        if row["firing"]:
            found.setdefault(row["slice"], []).append((row["slot"] - DAWN) / MINUTE)
    return {name: sorted(minutes) for name, minutes in found.items()}


# --- which rows ----------------------------------------------------------------------------------------------------------

COLUMNS = pa.table({"text": ["a", "b", None, "c"], "number": [1.0, 2.5, None, float("nan")], "flag": [True, False, None, True]})


@pytest.mark.parametrize(
    ("condition", "rows"),
    (
        (Condition("text", ("a",)), [0]),
        (Condition("text", ("a", "c")), [0, 3]),
        (Condition("text", ("a",), inside=False), [1, 2, 3]),
        (Condition("number", ("1",)), [0]),
        (Condition("number", ("2.5",), inside=False), [0, 2, 3]),
        (Condition("flag", ("true",)), [0, 3]),
        (Condition("nowhere", ("a",)), []),
        (Condition("nowhere", ("a",), inside=False), [0, 1, 2, 3]),
    ),
    ids=str,
)
def test_a_condition_says_the_same_of_a_table_and_in_sql(condition: Condition, rows: list[int]) -> None:
    mask = condition.mask(COLUMNS).to_pylist()
    assert [n for n, there in enumerate(mask) if there] == rows
    if condition.field == "text":
        given = COLUMNS.append_column("n", pa.array(range(4)))
        with duckdb.connect() as connection:
            connection.register("given", given)
            found = connection.execute(f"SELECT n FROM given WHERE {condition.sql('text')} ORDER BY n").fetchall()
        assert [n for (n,) in found] == rows


def test_a_value_with_a_quote_is_a_value() -> None:
    with duckdb.connect() as connection:
        condition = Condition("x", ("it's",)).sql("x")
        found = connection.execute(f"SELECT {condition} FROM (SELECT $1 AS x)", ["it's"]).fetchone()
    assert found == (True,)


def test_values_become_slices_the_frequent_before_the_others_and_stay() -> None:
    one = Slices([SliceConfig(by="c", top=3)])
    assert [s.name for s in one.all()] == ["all"]
    counts = slices.counted(pa.table({"c": ["x", "y", "y", None, ""]}), "c")
    for field, values in one.look(lambda field: counts).items():
        one.know(field, values)
    assert [s.name for s in one.all()] == ["all", "c=y", "c=x"]
    more = slices.counted(pa.table({"c": ["w", "v", "v", "z" * 81]}), "c")
    for field, values in one.look(lambda field: more).items():
        one.know(field, values)
    assert [s.name for s in one.all()] == ["all", "c=y", "c=x", "c=v", "c=__other__"]
    assert not one.open
    assert slices.most([SliceConfig(by="c", top=3), SliceConfig(name="n", where={"a": 1})]) == 6


def test_the_whole_is_the_slice_without_conditions() -> None:
    assert (Slice().name, Slice().sql(str), slices.label("c", "a\nb")) == ("all", "true", "c=a\N{REPLACEMENT CHARACTER}b")


# --- through the store ---------------------------------------------------------------------------------------------------


def test_each_slice_has_readings_verdicts_incidents_and_series_of_its_own(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", slices=REGIONS)])
    world.send("predictions", sold(1, "NO", 4), sold(2, "NO", 6), sold(3, "SE", 50), sold(4, "DK", 1), sold(5, None, 2))
    world.send("predictions", sold(11, "NO", 40), sold(12, "FI", 3), sold(21, "DK", 0))
    world.look()
    assert read(world) == {
        "all": {10: 12.6, 20: 21.5},
        "north": {10: 20.0, 20: 40.0},
        "region=NO": {10: 5.0, 20: 40.0},
        "region=DK": {10: 1.0},
        "region=__other__": {10: 26.0, 20: 3.0},
    }
    assert fires(world) == {"all": [10, 20], "north": [10, 20], "region=NO": [20], "region=__other__": [10]}
    opened = {r["slice"]: json.loads(r["evidence"]) for r in world.rows("incidents") if r["revision"] == 1}
    assert opened.keys() == fires(world).keys()
    assert len({r["incident_id"] for r in world.rows("incidents")}) == 4
    standing = world.board.get("mean", "region=NO")
    assert standing is not None
    assert (standing.value, standing.firing, standing.open_incidents) == (40.0, True, 1)
    assert sample(world.metrics, "modelwatch_verdicts_total", model="houses", check="mean", outcome="ok") == 9
    world.seal()
    world.audit.refresh()
    with duckdb.connect(str(world.store.root / "audit.duckdb"), read_only=True) as connection:
        connection.execute(f"SET file_search_path = '{world.store.root}'")
        found = connection.execute(f"SELECT record_id FROM ({opened['region=__other__']['sql']}) ORDER BY 1").fetchall()
    assert [r for (r,) in found] == ["r3-SE-50", "r5-None-2"]


def test_a_slice_that_the_config_names_is_read_without_a_row_and_a_value_is_not(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", slices=[{"name": "typo", "where": {"regoin": "NO"}}, {"by": "region"}])])
    world.send("predictions", sold(1, "NO", 4), sold(11, "SE", 4), sold(21, "SE", 4))
    world.look()
    assert read(world) == {
        "all": {10: 4.0, 20: 4.0},
        "typo": {10: "not_enough_data", 20: "not_enough_data"},
        "region=NO": {10: 4.0},
        "region=SE": {20: 4.0},
    }


def ended(world: World) -> dict[str, tuple[str, float | None, str | None]]:
    """By slice the state of its latest incident, the minute that resolved it, and what did where it was no window."""
    last = "row_number() OVER (PARTITION BY slice ORDER BY opened_slot DESC, revision DESC) = 1"
    found = {}
    for row in world.rows("incidents", where=f"true QUALIFY {last}"):
        minute = None if row["resolved_slot"] is None else (row["resolved_slot"] - DAWN) / MINUTE
        found[row["slice"]] = (row["state"], minute, json.loads(row["evidence"]).get("resolved_by"))
    return found


def test_the_incident_of_a_slice_that_is_gone_is_closed_and_says_so(make_world: Callable[..., World]) -> None:
    named = {"name": "north", "where": {"region": ["NO"]}}
    world = make_world(checks=[check("mean", slices=[named, {"by": "region"}], gone=3)])
    world.send("predictions", sold(1, "NO", 100), sold(2, "SE", 1), sold(3, "SE", 1))
    for minute in (11, 21, 31):
        world.send("predictions", sold(minute, "SE", 1))
    world.look()
    assert ended(world)["region=NO"] == ("open", None, None), "two windows without it are not enough"
    standing = world.board.get("mean", "region=NO")
    assert standing is not None
    assert (standing.firing, standing.open_incidents) == (True, 1)
    world.restart()  # what was counted so far is in the store
    world.send("predictions", sold(41, "SE", 1), sold(51, "SE", 1))
    world.look()
    assert ended(world) == {
        "all": ("resolved", 20, None),
        "region=NO": ("resolved", 40, "slice_gone"),
        "north": ("resolved", 40, "slice_gone"),
    }
    assert fires(world)["region=NO"] == [10, 20, 30]
    assert 50 not in read(world)["region=NO"], "once it is closed its empty windows are no news"
    standing = world.board.get("mean", "region=NO")
    assert standing is not None
    assert (standing.firing, standing.open_incidents, standing.missing) == (False, 0, None)


def test_late_rows_of_a_slice_that_was_gone_open_its_incident_again(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", slices=[{"by": "region"}], gone=2)])
    world.send("predictions", sold(1, "NO", 100), sold(2, "SE", 1), sold(11, "SE", 1), sold(21, "SE", 1), sold(31, "SE", 1))
    world.look()
    assert ended(world)["region=NO"] == ("resolved", 30, "slice_gone")
    world.send("predictions", sold(22, "NO", 100))
    world.clock.move(20)
    world.look()
    assert ended(world)["region=NO"] == ("open", None, None)
    world.send("predictions", sold(32, "NO", 1), sold(41, "SE", 1))
    world.clock.move(20)
    world.look()
    assert ended(world)["region=NO"] == ("resolved", 40, None), "and a window back inside ends it"


def test_no_rows_at_all_close_nothing(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", slices=[{"by": "region"}], gone=1)])
    world.send("predictions", sold(1, "NO", 100), sold(11, "NO", 100))
    world.look()
    world.clock.move(86_400)
    world.look()
    assert {state for state, _, _ in ended(world).values()} == {"open"}


def test_slices_by_what_was_sent_beside_the_features(make_world: Callable[..., World]) -> None:
    by = [{"by": "model_version"}, {"name": "web", "where": {"attributes.channel": "web"}}, {"name": "big", "where": {"size": 1}}]
    world = make_world(checks=[check("mean", slices=by)])
    world.send("predictions", sold(1, "NO", 4, model_version="v1", channel="web"), sold(2, None, 6, model_version="v2"))
    world.send("predictions", sold(11, "NO", 0))
    world.look()
    assert read(world) == {
        "all": {10: 5.0}, "web": {10: 4.0}, "big": {10: 6.0}, "model_version=v1": {10: 4.0}, "model_version=v2": {10: 6.0},
    }  # fmt: skip


def test_a_slice_is_compared_with_its_part_of_the_reference(make_world: Callable[..., World], tmp_path: Any) -> None:
    span = {"start": (DAWN - timedelta(hours=1)).isoformat(), "end": DAWN.isoformat()}
    file = tmp_path / "reference.csv"
    file.write_text("x,region\n1,NO\n1,NO\n9,SE\n")
    by = [{"by": "region", "top": 5}]
    world = make_world(
        checks=[check(name, "Shift", reference=reference, slices=by, threshold={"upper": 1}) for name, reference in
                (("fixed", span), ("trailing", {"trailing": "1h"}), ("file", {"file": str(file)}))]
    )  # fmt: skip

    def at_home(name: str, minute: float, region: str, x: float) -> dict[str, Any]:
        return prediction(name, at(minute), features={"x": x, "region": region})

    world.send("predictions", *(at_home(f"b{n}", -n, "SE" if n % 3 == 0 else "NO", 9 if n % 3 == 0 else 1) for n in range(1, 31)))
    world.send(
        "predictions", at_home("a", 1, "NO", 1), at_home("b", 2, "SE", 5), at_home("c", 3, "FI", 5), at_home("d", 11, "NO", 1)
    )
    world.look()
    for name in ("fixed", "trailing", "file"):
        found = {part: slots[10] for part, slots in read(world, name).items() if 10 in slots}
        assert (found["region=NO"], found["region=SE"], found["region=FI"]) == (0.0, 4.0, "not_evaluable"), name


def test_a_label_that_comes_late_restates_its_slice_and_the_whole(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("error", "Error", threshold={"upper": 3}, slices=[{"by": "region"}])])
    world.send("predictions", sold(1, "NO", 0), sold(2, "SE", 0), sold(11, "NO", 0))
    world.send("labels", label("r1-NO-0", 1.0), label("r2-SE-0", 1.0))
    world.look()
    world.restart()
    world.send("labels", label("r1-NO-0", 9.0, revision=1))
    world.look()
    assert {part: slots[10] for part, slots in read(world, "error").items()} == {"all": 5.0, "region=NO": 9.0, "region=SE": 1.0}
    revisions = {(r["slice"], r["revision"]) for r in world.rows("readings") if r["slot"] == at(10)}
    assert revisions == {("all", 1), ("all", 2), ("region=NO", 1), ("region=NO", 2), ("region=SE", 1)}
    assert fires(world, "error") == {"all": [10], "region=NO": [10]}


def test_answers_are_sliced_by_prompt_and_attribute(make_world: Callable[..., World]) -> None:
    by = [{"by": "prompt_version"}, {"name": "gold", "where": {"attributes.tier": "gold"}}]
    bare = check("bare", model="bot", threshold={"upper": 0.5}, slices=by) | {"detector": "tests.plugins:Bareness"}
    world = make_world(checks=[bare])
    for n in range(8):
        old = n % 2 == 0
        told = {"prompt_version": "1" if old else "2", "contexts": ["x"] if old else [], "tier": "gold" if n < 2 else "tin"}
        world.send("generations", generation(f"g{n}", at(n), **told))
    world.send("generations", generation("last", at(11), prompt_version="1"))
    world.clock.move(30)
    world.score()
    world.look()
    assert read(world, "bare", "bot") == {
        "all": {10: 0.5}, "gold": {10: 0.5}, "prompt_version=1": {10: 0.0}, "prompt_version=2": {10: 1.0},
    }  # fmt: skip
    (proof,) = [json.loads(r["evidence"]) for r in world.rows("incidents", "bot") if r["slice"] == "prompt_version=2"]
    assert [r["record_id"] for r in proof["worst_records"]] == ["g1", "g3", "g5", "g7"]


def test_windows_of_answers_are_sliced_by_model_and_attribute_of_their_calls(make_world: Callable[..., World]) -> None:
    by = [{"by": "llm_model"}, {"name": "gold", "where": {"attributes.tier": "gold", "environment": ["live", "beta"]}}]
    tokens = check("tokens", model="bot", columns={"prediction": "output_tokens"}, threshold={"upper": 25}, slices=by)
    world = make_world(checks=[tokens])
    told = ((1, "a", 10, "gold", "live"), (2, "a", 20, "tin", "live"), (3, "b", 30, "gold", "test"), (4, "b", 40, "gold", "beta"))
    for minute, llm, count, tier, where in told:
        fields = {"llm_model": llm, "output_tokens": count, "tier": tier, "environment": where}
        world.send("generations", generation(f"g{minute}", at(minute), **fields))
    world.send("generations", generation("last", at(11), llm_model="a"))
    world.settle(40)
    world.look()
    assert {part: slots[10] for part, slots in read(world, "tokens", "bot").items()} == {
        "all": 25.0, "gold": 25.0, "llm_model=a": 15.0, "llm_model=b": 35.0,
    }  # fmt: skip
    assert fires(world, "tokens", "bot") == {"llm_model=b": [10]}
    (proof,) = [json.loads(r["evidence"]) for r in world.rows("incidents", "bot")]
    world.seal()
    world.audit.refresh()
    with duckdb.connect(str(world.store.root / "audit.duckdb"), read_only=True) as connection:
        connection.execute(f"SET file_search_path = '{world.store.root}'")
        found = connection.execute(f"SELECT record_id FROM ({proof['sql']}) ORDER BY 1").fetchall()
    assert [r for (r,) in found] == ["g3", "g4"]


def test_the_columns_that_tell_slices_apart_are_no_features(make_world: Callable[..., World]) -> None:
    by = [{"by": "model_version"}]
    world = make_world(checks=[check("shift", "Shift", reference={"trailing": "1h"}, slices=by)])
    world.send("predictions", *(prediction(f"b{n}", at(-n), features={"x": 1.0}, model_version="7") for n in range(1, 9)))
    world.send(
        "predictions", prediction("a", at(1), features={"x": 3.0}, model_version="7"), prediction("z", at(11), features={"x": 1})
    )
    world.look()
    parts = {json.dumps([p["name"] for p in json.loads(r["parts"])]) for r in world.rows("readings") if r["outcome"] == "ok"}
    assert parts == {'["x"]'}
    assert read(world, "shift")["model_version=7"][10] == 2.0


def test_slices_that_a_reload_takes_away_and_brings_back_go_on_where_they_were(make_world: Callable[..., World]) -> None:
    def reloaded(*parts: dict[str, Any]) -> None:
        world.config = world.config.model_copy(
            update={"checks": Config.model_validate({"models": MODELS, "checks": [check("mean", slices=parts)]}).checks}
        )
        world.board.forget("mean")
        world.runners = world.build()

    world = make_world(checks=[check("mean", slices=[{"by": "region", "top": 2}])])
    world.send("predictions", sold(1, "NO", 50), sold(2, "SE", 1), sold(11, "NO", 50))
    world.look()
    reloaded()
    assert [(s.slice, s.firing) for s in world.board.standings()] == [("all", True)]
    world.send("predictions", sold(12, "SE", 1), sold(21, "NO", 50))
    world.look()
    reloaded({"by": "region", "top": 2})
    assert {s.slice: s.firing for s in world.board.standings()} == {"all": True, "region=NO": True, "region=SE": False}
    world.send("predictions", sold(22, "DK", 1), sold(31, "NO", 1), sold(41, "NO", 1))
    world.look()
    assert read(world)["region=__other__"] == {30: 1.0}
    assert read(world)["region=NO"] == {10: 50.0, 30: 50.0, 40: 1.0}, "what passed meanwhile was read for the whole alone"
    incidents = {r["incident_id"] for r in world.rows("incidents") if r["slice"] == "region=NO"}
    assert len(incidents) == 1
    standing = world.board.get("mean", "region=NO")
    assert standing is not None
    assert (standing.firing, standing.open_incidents) == (False, 0)


# --- every way there gives the same --------------------------------------------------------------------------------------

CHECKS = [
    check("mean", threshold={"upper": 12, "margin": 1}, breaches=2, of=3, clear=2, slices=REGIONS),
    check("error", "Error", threshold={"upper": 4}, slices=[{"by": "region", "top": 3}]),
    check(
        "learned",
        threshold={"kind": "std", "upper": 2, "baseline": {"start": "2026-03-01T08:30:00Z", "end": "2026-03-01T09:10:00Z"},
                   "min_windows": 3},
        slices=[{"by": "region", "top": 3}],
    ),
]  # fmt: skip


def story() -> list[tuple[str, dict[str, Any]]]:
    rng = random.Random(11)
    found: list[tuple[float, str, dict[str, Any]]] = []
    for minute in range(-210, 0):
        region = "NO" if minute % 2 else "SE" if minute % 3 else "DK"
        level = 5 + (20 if region == "NO" and -120 < minute < -70 else 0)
        name = f"r{minute}"
        when = NOON + (minute + rng.random() / 2) * MINUTE
        value = level + rng.gauss(0, 2)
        found.append((minute, "predictions", prediction(name, when, prediction=value, features={"region": region})))
        truth = value + (8 if region == "SE" and -60 < minute < -30 else rng.random())
        found.append((minute + rng.randrange(90), "labels", label(name, truth)))
    return [(kind, item) for _, kind, item in sorted(found, key=lambda f: f[0])]


def outcome(world: World) -> dict[str, Any]:
    incidents = {(r["check_name"], r["slice"], r["opened_slot"], r["resolved_slot"]) for r in world.rows("incidents")
                 if r["revision"] == max(o["revision"] for o in world.rows("incidents") if o["incident_id"] == r["incident_id"])
                 and r["state"] != "withdrawn"}  # fmt: skip
    return {c["name"]: (read(world, c["name"]), fires(world, c["name"])) for c in CHECKS} | {"incidents": incidents}


def test_a_replay_in_chunks_with_restarts_and_seals_gives_the_same(make_world: Callable[..., World], tmp_path: Any) -> None:
    whole = make_world(tmp_path / "whole", checks=CHECKS)
    records = story()
    for kind in ("labels", "predictions"):
        whole.send(kind, *(item for k, item in records if k == kind))
    settle(whole)
    expected = outcome(whole)
    assert {"region=NO", "region=SE", "region=__other__"} <= expected["mean"][1].keys() | expected["mean"][0].keys()
    assert "region=SE" in expected["error"][1]
    assert "region=NO" in expected["learned"][1]
    whole.close()
    world = make_world(tmp_path / "chunks", checks=CHECKS)
    for n, start in enumerate(range(0, len(records), 60)):
        for kind in ("predictions", "labels"):
            world.send(kind, *(item for k, item in records[start : start + 60] if k == kind))
        world.look(31)
        if n % 2:
            world.seal()
        if n % 3 == 2:
            world.restart()
    settle(world)
    assert outcome(world) == expected
