"""Cases: incidents of one model that overlap, their page, what most likely caused them and what changed before."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from monitor.cases import causes
from monitor.cases.case import Case, Episode, Page, cases, page
from monitor.cases.causes import Found
from monitor.maintenance.windows import Window
from tests.monitor.support import NOON, World, check, prediction

MINUTE = timedelta(minutes=1)
DAWN = NOON - timedelta(hours=6)


def at(minutes: float) -> datetime:
    return DAWN + minutes * MINUTE


def episode(name: str, opened: float, resolved: float | None = None, severity: str = "warning", **more: Any) -> Episode:
    end = None if resolved is None else at(resolved)
    return Episode(f"{name}-{opened}", name, more.pop("part", "all"), at(opened), end, severity, **more)


def names(case: Case) -> list[str]:
    return [e.check for e in case.episodes]


# --- what a case is --------------------------------------------------------------------------------------------------


def test_incidents_that_overlap_are_one_case_and_those_apart_are_others() -> None:
    found = cases(
        "m", [episode("late", 50), episode("b", 15, 30), episode("a", 10, 20), episode("c", 30, 40), episode("d", 41, 45)]
    )
    assert [(names(c), c.state, c.resolved) for c in found] == [
        (["a", "b", "c"], "resolved", at(40)),
        (["d"], "resolved", at(45)),
        (["late"], "open", None),
    ]


def test_one_that_is_open_takes_in_whatever_opens_after_it() -> None:
    (found,) = cases("m", [episode("a", 10), episode("b", 500, 510)])
    assert (names(found), found.state) == (["a", "b"], "open")


SPANS = st.lists(st.tuples(st.integers(0, 60), st.one_of(st.none(), st.integers(1, 20))), max_size=12)


@given(SPANS, st.randoms())
def test_cases_depend_on_the_incidents_and_not_on_their_order(spans: list[tuple[int, int | None]], rng: random.Random) -> None:
    episodes = [episode(f"c{i}", start, None if more is None else start + more) for i, (start, more) in enumerate(spans)]
    found = cases("m", episodes)
    shuffled = episodes[:]
    rng.shuffle(shuffled)
    assert cases("m", shuffled) == found
    assert sorted(e.check for c in found for e in c.episodes) == sorted(e.check for e in episodes)
    for before, after in itertools.pairwise(found):
        assert max(e.end for e in before.episodes) < after.opened
    assert len({c.id for c in found}) == len(found)


def test_the_page_names_the_first_of_the_worst_that_are_open() -> None:
    (found,) = cases(
        "m",
        [
            episode("a", 10, owner="ann"),
            episode("b", 20, 30, severity="critical", owner="bob"),
            episode("c", 25, severity="warning", owner="cid"),
        ],
    )
    assert (found.severity, found.owners) == ("critical", ("bob", "ann", "cid"))
    assert (found.lead.check, found.lead.owner) == ("a", "ann")


def test_a_page_only_gets_worse_and_maintenance_holds_it_back() -> None:
    mild, bad = Case("m", (episode("a", 10, owner="ann"),)), Case("m", (episode("b", 10, severity="critical", owner="bob"),))
    assert page(mild, None, NOON, held=True) is None
    first = page(mild, None, NOON, held=False)
    assert first == Page(NOON, "warning", "ann")
    worse = page(bad, first, NOON + MINUTE, held=False)
    assert worse == Page(NOON, "critical", "bob")
    assert page(mild, worse, NOON + 2 * MINUTE, held=False) == worse
    assert page(bad, first, NOON, held=True) == first, "what was said stays said, and no more is said"


# --- causes ----------------------------------------------------------------------------------------------------------


def test_what_is_far_beyond_early_and_severe_comes_first() -> None:
    def evidence(*features: tuple[str, float]) -> dict[str, Any]:
        why = {"change": 1.0, "features": [{"feature": n, "contribution": c} for n, c in features], "pieces": []}
        return {"threshold": {"lower": None, "upper": 1.0}, "why": why}

    found = causes.ranked(
        [
            Found(episode("slight", 10), 1.1, evidence(("wind", 1.0))),
            Found(episode("far", 10), 9.0, evidence(("temp", 3.0), ("hum", 1.0), ("wind", -1.0))),
            Found(episode("late", 200), 9.0, evidence(("wind", 1.0))),
            Found(episode("part", 10, part="town=Oslo"), 1.5, evidence()),
        ]
    )
    assert [row["check"] for row in found["checks"]] == ["far", "part", "slight", "late"]
    assert found["features"][0]["feature"] == "temp"
    assert {row["feature"] for row in found["features"]} == {"temp", "hum", "wind"}
    assert found["slices"] == [{"slice": "town=Oslo", "share": 1.0}]
    for rows in found.values():
        assert sum(row["share"] for row in rows) == pytest.approx(1.0)


def test_a_change_that_is_not_finite_ranks_nothing_and_breaks_nothing() -> None:
    why = {"change": None, "features": [{"feature": "a", "contribution": None}], "pieces": [{"name": "p", "share": None}]}
    found = causes.ranked([Found(episode("one", 10), None, {"why": why})])
    assert ([row["check"] for row in found["checks"]], found["features"], found["slices"]) == (["one"], [], [])


@pytest.mark.parametrize(
    ("number", "lower", "upper", "expected"),
    ((2.0, None, 1.0, 1.0), (0.5, 1.0, None, 0.5), (0.5, 0.0, 1.0, 0.0), (3.0, None, 0.0, 3.0), (float("nan"), None, 1.0, None)),
)
def test_excess_is_the_distance_in_thresholds(number: float, lower: float | None, upper: float | None, expected: Any) -> None:
    assert causes.excess(number, lower, upper) == expected


# --- kept in the store ------------------------------------------------------------------------------------------------

CHECKS = [
    check("one", threshold={"upper": 10}, owner="ann"),
    check("two", threshold={"upper": 20}, severity="critical", owner="bob"),
    check("three", threshold={"upper": 20}, slices=[{"name": "new", "where": {"model_version": "2"}}]),
]


def values(world: World, *pairs: tuple[float, float], **fields: Any) -> None:
    world.send("predictions", *(prediction(f"r{minute}", at(minute), prediction=value, **fields) for minute, value in pairs))


def told(world: World, model: str = "houses") -> list[dict[str, Any]]:
    """The latest word on each case, oldest first."""
    rows = world.rows("cases", model, where="true QUALIFY row_number() OVER (PARTITION BY case_id ORDER BY revision DESC) = 1")
    return sorted(rows, key=lambda row: row["opened_slot"])


def exported(world: World, name: str) -> list[str]:
    world.metrics.registry.register(world.cases.board)
    try:
        page = generate_latest(world.metrics.registry).decode()
    finally:
        world.metrics.registry.unregister(world.cases.board)
    return [line for line in page.splitlines() if line.startswith(f"{name}{{")]


def test_checks_that_fire_together_are_one_case_with_one_page(make_world: Callable[..., World]) -> None:
    world = make_world(checks=CHECKS)
    world.cases.restore()
    assert exported(world, "modelwatch_case_open") == []
    values(world, (1, 1.0), model_version="1")
    values(world, (11, 15.0), (21, 30.0), (31, 1.0), model_version="2")
    world.look()
    world.cases.step()
    (case,) = told(world)
    assert (case["state"], case["severity"], case["incident_count"]) == ("open", "critical", 4)
    assert json.loads(case["owners"]) == ["bob", "ann"]
    assert case["opened_slot"] == at(20)
    assert [row["what"] for row in json.loads(case["changes"])] == ["model_version"]
    assert exported(world, "modelwatch_case_open") == [
        'modelwatch_case_open{model="houses",owner="bob",severity="critical"} 1.0'
    ]  # fmt: skip
    assert world.cases.step() == 0, "nothing new, nothing stored"
    values(world, (41, 1.0), model_version="2")
    world.look()
    world.cases.step()
    (case,) = told(world)
    assert (case["state"], case["resolved_slot"]) == ("resolved", at(40))
    assert exported(world, "modelwatch_case_open") == []


def test_a_restart_shows_the_same_page_and_tells_nothing_twice(make_world: Callable[..., World]) -> None:
    world = make_world(checks=CHECKS)
    values(world, (1, 1.0), (11, 15.0), (21, 15.0))
    world.look()
    world.cases.restore()
    shown, rows = exported(world, "modelwatch_case_open"), world.rows("cases")
    assert shown == ['modelwatch_case_open{model="houses",owner="ann",severity="warning"} 1.0']
    for _ in range(2):
        world.seal()
        world.restart()
        world.cases.restore()
        assert exported(world, "modelwatch_case_open") == shown
        assert [(r["case_id"], r["revision"]) for r in world.rows("cases")] == [(r["case_id"], r["revision"]) for r in rows]


def test_late_rows_that_join_two_cases_leave_one_and_page_nobody_again(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one"), check("other")])
    values(world, (1, 1.0), (11, 1.0), (21, 15.0), (31, 15.0))
    world.look()
    world.cases.step()
    (before,) = told(world)
    world.send("predictions", prediction("late", at(12), prediction=200.0))
    world.look()
    world.cases.step()
    old, new = sorted(told(world), key=lambda row: str(row["state"]), reverse=True)
    assert (old["case_id"], old["state"], new["state"]) == (before["case_id"], "withdrawn", "open")
    assert (new["opened_slot"], new["paged_at"]) == (at(20), before["paged_at"])


def test_what_is_wrong_with_one_model_keeps_no_other_from_its_page(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one")])
    columns = {"incident_id": "x", "revision": 1, "check_name": "bare", "slice": "all", "state": "open", "severity": "warning"}
    times = {"opened_slot": [NOON], "last_slot": NOON, "received_at": NOON}
    world.store.run(lambda t: t.append("incidents", "bot", {**columns, **times, "peak": 1.0, "evidence": "no JSON"}))
    values(world, (1, 1.0), (11, 15.0), (21, 15.0))
    world.look()
    world.config = world.config.model_copy(update={"models": world.config.models[::-1]})
    assert [m.name for m in world.config.models] == ["bot", "houses"]
    world.restart()
    world.cases.restore()
    assert exported(world, "modelwatch_case_open") == ['modelwatch_case_open{model="houses",owner="",severity="warning"} 1.0']
    with pytest.raises(ValueError, match="expected 'null'"):
        world.cases.step()


def test_a_case_that_was_over_goes_on_with_the_page_of_the_one_it_takes_in(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one")])

    def maintained(name: str) -> None:
        span = {"start": world.clock.now(), "end": world.clock.now() + MINUTE}
        world.book.add(Window.model_validate({"name": name, "reason": "r", **span}), by="ann", address="here")

    def goes_on(*pairs: tuple[float, float]) -> None:
        values(world, *pairs)
        world.look()
        world.cases.step()

    maintained("first")
    goes_on((1, 1.0), (11, 15.0), (21, 1.0))
    goes_on((31, 15.0))
    assert [(row["state"], row["paged_at"]) for row in told(world)] == [("resolved", None)]
    world.clock.move(90)
    goes_on((41, 15.0))
    shown, paged = exported(world, "modelwatch_case_open"), told(world)[-1]["paged_at"]
    assert (len(shown), paged) == (1, world.clock.now())
    maintained("second")
    world.clock.move(30)
    world.send("predictions", prediction("late", at(22), prediction=200.0))
    goes_on()
    assert [(row["state"], row["paged_at"]) for row in told(world)] == [("open", paged), ("withdrawn", paged)]
    assert exported(world, "modelwatch_case_open") == shown, "what was said stays said"


def test_the_part_of_a_case_that_goes_on_keeps_its_page(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one", owner="ann"), check("two", threshold={"upper": 20}, owner="bob")])
    values(world, (1, 1.0), (11, 15.0), (21, 12.0), (31, 30.0))
    world.send("predictions", prediction("more", at(41), prediction=30.0))
    world.look()
    world.cases.step()
    (before,) = told(world)
    shown = exported(world, "modelwatch_case_open")
    assert (before["incident_count"], shown) == (
        2, ['modelwatch_case_open{model="houses",owner="ann",severity="warning"} 1.0']
    )  # fmt: skip
    world.clock.move(60)
    world.send("predictions", prediction("late", at(22), prediction=-50.0))
    world.look()
    world.cases.step()
    first, second = told(world)
    assert (first["case_id"], first["state"], second["state"]) == (before["case_id"], "resolved", "open")
    assert second["paged_at"] == before["paged_at"]
    assert exported(world, "modelwatch_case_open") == shown


def test_after_the_file_was_opened_anew_what_stands_in_it_counts(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one")])
    values(world, (1, 1.0), (11, 15.0), (21, 15.0))
    world.look()
    world.cases.restore()
    (row,) = told(world)
    # As if the answer to a commit that stands had been lost with the engine.
    said = {name: value for name, value in row.items() if name not in ("seq", "model")}
    world.store.run(lambda t: t.append("cases", "houses", {**{n: [v] for n, v in said.items()}, "revision": row["revision"] + 1}))
    world.cases._opened -= 1
    values(world, (31, 1.0), (41, 1.0))
    world.look()
    world.cases.step()
    assert [r["revision"] for r in world.rows("cases")] == list(range(1, row["revision"] + 3))


def test_the_owner_of_a_model_is_another_and_what_is_over_stays_as_it_was(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one")])
    values(world, (1, 1.0), (11, 15.0), (21, 1.0), (31, 1.0))
    world.look()
    world.cases.step()
    before = world.rows("cases")
    models = tuple(m.model_copy(update={"owner": "ann"}) for m in world.config.models)
    world.cases.configure(world.config.model_copy(update={"models": models}))
    world.cases.step()
    assert (before[-1]["state"], world.rows("cases")) == ("resolved", before)


def replayed(make_world: Callable[..., World], root: Any, order: list[int]) -> list[tuple[Any, ...]]:
    world = make_world(root=root, checks=CHECKS)
    pairs = [(1, 1.0), (11, 15.0), (21, 30.0), (31, 30.0), (41, 1.0), (51, 1.0), (61, 30.0), (71, 1.0), (81, 1.0)]
    for i in order:
        values(world, pairs[i])
        world.look()
        world.cases.step()
    return [
        tuple(row[name] for name in ("case_id", "state", "severity", "opened_slot", "resolved_slot", "incidents", "owners"))
        for row in told(world)
        if row["state"] != "withdrawn"
    ]


def test_a_replay_in_any_order_ends_in_the_same_cases(make_world: Callable[..., World], tmp_path: Any) -> None:
    expected = replayed(make_world, tmp_path / "a", list(range(9)))
    assert [(row[1], row[3], row[4]) for row in expected] == [("resolved", at(20), at(50)), ("resolved", at(70), at(80))]
    for n in range(2):
        order = list(range(9))
        random.Random(n).shuffle(order)
        assert replayed(make_world, tmp_path / f"b{n}", order) == expected


def test_severity_and_owner_are_those_of_the_config_now(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one")])
    values(world, (1, 1.0), (11, 15.0), (21, 15.0))
    world.look()
    world.cases.step()
    assert exported(world, "modelwatch_case_open") == ['modelwatch_case_open{model="houses",owner="",severity="warning"} 1.0']
    worse = make_world(checks=[check("one", severity="critical", owner="ann")], root=world.store.root.parent / "other").config
    world.cases.configure(worse)
    world.cases.step()
    assert exported(world, "modelwatch_case_open") == ['modelwatch_case_open{model="houses",owner="ann",severity="critical"} 1.0']
    gone = worse.model_copy(update={"models": worse.models[1:], "checks": ()})
    world.cases.configure(gone)
    world.cases.step()
    assert exported(world, "modelwatch_case_open") == []


def test_another_config_is_a_change_and_the_first_one_is_none(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one")])
    world.cases.step()
    world.cases.step()
    assert world.rows("changes") == []
    world.config = world.config.model_copy(update={"checks": (world.config.checks[0].model_copy(update={"min_records": 7}),)})
    world.restart()
    world.cases.restore()
    (change,) = world.rows("changes")
    assert (change["what"], change["previous"] != change["value"]) == ("config", True)
    assert world.rows("changes", "bot") == []


def test_a_check_that_is_taken_out_of_the_config_ends_its_case(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one"), check("three", slices=[{"name": "new", "where": {"model_version": "2"}}])])
    values(world, (1, 1.0), (11, 15.0), (21, 15.0), model_version="2")
    world.look()
    world.cases.step()
    before = world.config
    without = before.model_copy(update={"checks": before.checks[1:]})
    world.cases.configure(without)
    world.cases.step()
    assert [(row["state"], row["incident_count"]) for row in told(world)] == [("open", 3)]
    whole = without.checks[0].model_copy(update={"slices": (), "name": "another"})
    world.cases.configure(without.model_copy(update={"checks": (whole,)}))
    world.cases.step()
    assert [row["state"] for row in told(world)] == ["resolved"]
    assert exported(world, "modelwatch_case_open") == []
    world.cases.configure(before)
    world.cases.step()
    assert [row["state"] for row in told(world)] == ["open"], "put back, it goes on"
