"""Maintenance windows and freezes: when they are in force, what they hold back, and that it is recorded who set them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from monitor.auth import Tokens
from monitor.errors import BodyRejected
from monitor.maintenance.admin import MaintenanceAdmin
from monitor.maintenance.windows import Weekly, Window, covering
from monitor.receiving import Budget
from monitor.server import PushServer
from tests.monitor.support import NOON, World, check, prediction
from tests.monitor.test_cases import exported, told
from tests.monitor.test_cli import run

MINUTE = timedelta(minutes=1)
DAWN = NOON - timedelta(hours=6)


def window(name: str = "work", start: float = 0, end: float = 60, **more: Any) -> dict[str, Any]:
    """From and to so many minutes from noon."""
    span = {"start": (NOON + start * MINUTE).isoformat(), "end": (NOON + end * MINUTE).isoformat()}
    return {"name": name, "reason": "a new index", **({} if "weekly" in more else span), **more}


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "inside"),
    (
        ("2026-03-27T22:29:59+01:00", False),
        ("2026-03-27T22:30:00+01:00", True),  # a Friday
        ("2026-03-28T01:29:59+01:00", True),
        ("2026-03-28T01:30:00+01:00", False),
        ("2026-03-29T03:29:59+02:00", False),  # the night the clock goes forward: Saturday 22:30 is no day of it
        ("2026-04-03T22:30:00+02:00", True),  # the same hour on the wall
        ("2026-04-03T21:30:00+02:00", False),
    ),
)
def test_a_weekly_window_goes_by_the_clock_on_the_wall_and_past_midnight(when: str, inside: bool) -> None:
    weekly = Weekly(days=("fri",), at="22:30", lasts=3 * 3600, timezone="Europe/Berlin")
    assert (weekly.span(datetime.fromisoformat(when)) is not None) == inside


def test_a_window_of_several_days_began_days_ago() -> None:
    weekly = Weekly(days=("sat",), at="00:00", lasts=2 * 86_400)
    monday = datetime(2026, 3, 30, tzinfo=UTC)
    assert weekly.span(monday - MINUTE) == (monday - timedelta(days=2), monday)
    assert weekly.span(monday) is None


def test_of_several_windows_the_one_that_ends_last_is_named() -> None:
    windows = [Window.model_validate(window("short", 0, 10)), Window.model_validate(window("long", 5, 60, models=["houses"]))]
    assert [w.name for w in [covering(windows, "maintenance", "houses", NOON + 6 * MINUTE)] if w] == ["long"]
    assert [w.name for w in [covering(windows, "maintenance", "bot", NOON + 6 * MINUTE)] if w] == ["short"]
    assert covering(windows, "freeze", "houses", NOON + 6 * MINUTE) is None


@pytest.mark.parametrize(
    ("given", "problem"),
    (
        (window(weekly={"at": "22:00", "lasts": "8d"}), "a window never ends|such a window never ends"),
        (window(weekly={"at": "24:00", "lasts": "1h"}), "is no time of day"),
        (window(weekly={"at": "22:00", "lasts": "1h", "timezone": "Moon"}), "no time zone 'Moon'"),
        (window() | {"weekly": {"at": "22:00", "lasts": "1h"}}, "exactly one of start and end, or weekly"),
        (window(start=60, end=60), "start before end"),
        (window() | {"reason": ""}, "at least 1 character"),
    ),
)
def test_a_window_that_is_none_says_why(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Window.model_validate(given)


# --- what it does ----------------------------------------------------------------------------------------------------


def breaks(world: World, *minutes: float, value: float = 15.0) -> None:
    """Predictions beyond the threshold, so many minutes from noon, when it is that time."""
    for minute in minutes:
        ahead = (NOON + minute * MINUTE - world.clock.now()).total_seconds()
        if ahead > 0:
            world.clock.move(ahead)
        world.send("predictions", prediction(f"r{minute}", NOON + minute * MINUTE, prediction=value))
        world.look()
        world.cases.step()


def test_what_begins_in_maintenance_is_stored_and_pages_when_it_ends(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean")], maintenance=[window(end=45)])
    breaks(world, 1, 12, 25)
    (case,) = told(world)
    (incident,) = world.rows("incidents")
    assert (incident["in_maintenance"], case["in_maintenance"], case["paged_at"]) == ("work", "work", None)
    assert exported(world, "modelwatch_case_open") == []
    assert exported(world, "modelwatch_case_held")[0] == 'modelwatch_case_held{model="houses"} 1.0'
    assert 'modelwatch_maintenance_active{kind="maintenance",model="houses"} 1.0' in exported(
        world, "modelwatch_maintenance_active"
    )
    world.restart()
    world.cases.restore()
    assert exported(world, "modelwatch_case_open") == []
    world.clock.move(45 * 60)
    world.cases.step()
    assert exported(world, "modelwatch_case_open") == ['modelwatch_case_open{model="houses",owner="",severity="warning"} 1.0']
    assert exported(world, "modelwatch_maintenance_active") == []


def test_what_begins_and_ends_in_maintenance_pages_nobody(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean")], maintenance=[window(end=60)])
    breaks(world, 1, 12)
    breaks(world, 22, 33, value=1.0)
    world.clock.move(3600)
    world.cases.step()
    (case,) = told(world)
    assert (case["state"], case["paged_at"]) == ("resolved", None)
    assert exported(world, "modelwatch_case_open") == []


def test_a_page_that_went_out_before_stays(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean")])
    breaks(world, 1, 12)
    page = exported(world, "modelwatch_case_open")
    assert len(page) == 1
    world.book.add(Window.model_validate(window(start=0, end=600)), by="ann", address="here")
    world.cases.step()
    assert exported(world, "modelwatch_case_open") == page


def test_a_deployment_in_a_freeze_is_recorded_once_and_shown(make_world: Callable[..., World]) -> None:
    freeze = window("christmas", 0, 100, kind="freeze", models=["houses"])
    world = make_world(checks=[check("mean")], maintenance=[freeze])
    world.clock.move(60)
    world.send("predictions", prediction("old", NOON - MINUTE, model_version="1"))
    world.send("deployments", {"model": "houses", "version": "2", "timestamp": (NOON + MINUTE).isoformat()})
    world.send("predictions", prediction("new", NOON + MINUTE, model_version="2"))
    for _ in range(3):
        world.cases.step()
        world.restart()
        world.cases.restore()
    violations = world.rows("changes", where="what = 'freeze'")
    assert [(row["value"], row["previous"]) for row in violations] == [("deployed 2", "christmas")]
    assert exported(world, "modelwatch_freeze_violations")[0] == 'modelwatch_freeze_violations{model="houses"} 1.0'
    breaks(world, 5, 15, 25)
    (case,) = told(world)
    assert "freeze" in [row["what"] for row in json.loads(case["changes"])]
    world.clock.move(100 * 60)
    assert exported(world, "modelwatch_freeze_violations")[0] == 'modelwatch_freeze_violations{model="houses"} 0.0'


def test_a_version_nobody_announced_violates_it_too(make_world: Callable[..., World]) -> None:
    world = make_world(maintenance=[window("christmas", 0, 100, kind="freeze")])
    world.send("predictions", prediction("old", NOON - MINUTE, model_version="1"))
    world.send("predictions", prediction("new", NOON + MINUTE, model_version="2"))
    world.cases.step()
    assert [row["value"] for row in world.rows("changes", where="what = 'freeze'")] == ["model_version 2"]


# --- recorded --------------------------------------------------------------------------------------------------------


def test_windows_of_the_config_are_recorded_and_so_is_their_end(make_world: Callable[..., World]) -> None:
    world = make_world(maintenance=[window()])
    world.book.flush()
    world.restart()
    world.book.flush()
    assert len(world.rows("maintenance", "")) == 1, "the same window is the same"
    world.book.configure(())
    world.book.flush()
    first, last = world.rows("maintenance", "")
    assert (first["origin"], first["ended_at"], last["revision"], last["ended_at"]) == ("config", None, 2, world.clock.now())
    assert world.book.maintenance("houses", NOON + MINUTE) is None


def test_one_that_was_added_stays_over_a_restart_until_it_is_ended(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.book.add(Window.model_validate(window()), by="ann", address="127.0.0.1")
    with pytest.raises(BodyRejected, match="there is a window work"):
        world.book.add(Window.model_validate(window()), by="bob", address="127.0.0.1")
    world.restart()
    assert world.book.maintenance("houses", NOON + MINUTE) == "work"
    world.clock.move(600)
    world.book.end("work", by="bob", address="127.0.0.1")
    for _ in range(2):
        assert world.book.maintenance("houses", NOON + 11 * MINUTE) is None
        assert world.book.maintenance("houses", NOON + 9 * MINUTE) == "work", "what was then stays as it was"
        world.restart()
    assert [(row["asked_by"], row["reason"]) for row in world.rows("maintenance", "")] == [
        ("ann", "a new index"), ("bob", "a new index")
    ]  # fmt: skip
    with pytest.raises(BodyRejected, match="no window 'work' is set; there are none"):
        world.book.end("work", by="bob", address="127.0.0.1")


# --- by command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(world: World, tmp_path: Path) -> Iterator[str]:
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{role}:{hashlib.sha256(role.encode()).hexdigest()}\n" for role in ("ingest", "query", "admin")))
    admin = MaintenanceAdmin(world.book, clock=world.clock, models=lambda: [m.name for m in world.config.models])
    config = world.config.server.model_copy(update={"listen": "127.0.0.1:0"})
    server = PushServer(
        config, world.inbox, tokens=Tokens(tokens), budget=Budget(2**20), clock=world.clock, metrics=world.metrics,
        maintenance=admin,
    )  # fmt: skip
    server.start()
    yield f"http://{server.address}"
    server.stop()


def test_a_window_is_added_listed_and_ended_by_command(
    world: World, served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELWATCH_TOKEN", "admin")
    span = ("--start", NOON.isoformat(), "--for", "2h")
    asked = ("maintenance", "add", "reindex", "--model", "houses", *span, "--because", "a new index", "--by", "ann")
    assert run(*asked, "--server", served) == 0
    assert "reindex: maintenance in force" in capsys.readouterr().out
    assert world.book.maintenance("houses", NOON + MINUTE) == "reindex"
    assert world.book.maintenance("bot", NOON + MINUTE) is None
    assert run(*asked, "--server", served) == 1
    assert "409" in capsys.readouterr().err
    assert run("maintenance", "add", "x", "--model", "cars", *span, "--because", "b", "--server", served) == 1
    assert "no model 'cars'; there are bot, houses" in capsys.readouterr().err
    assert run("maintenance", "add", "x", *span, "--end", NOON.isoformat(), "--because", "b", "--server", served) == 1
    assert "exactly one of --end and --for" in capsys.readouterr().err
    monkeypatch.setenv("MODELWATCH_TOKEN", "query")
    assert run("maintenance", "list", "--json", "--server", served) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["state"], listed["asked_by"]) == ("reindex", "in force", "ann")
    assert run("maintenance", "end", "reindex", "--server", served) == 1
    assert "a token of the role admin is needed" in capsys.readouterr().err
    monkeypatch.setenv("MODELWATCH_TOKEN", "admin")
    assert run("maintenance", "end", "reindex", "--server", served) == 0
    assert world.book.maintenance("houses", world.clock.now()) is None
