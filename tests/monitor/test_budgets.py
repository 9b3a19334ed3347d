"""Budgets: what was spent is what the store holds, whenever it came and however often the daemon was started."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

import monitor
from monitor import auditsql, cli, configfile
from monitor.budgets.budgets import Budgets
from monitor.budgets.config import BudgetConfig
from monitor.budgets.period import around
from monitor.errors import ConfigError
from tests.monitor.support import World, generation
from tests.monitor.tracing import RESOURCE, agent, chat

DAY = {"model": "bot", "cost_usd_per_day": 10, "tokens_per_day": 1_000}


class Desk:
    """Budgets of a world, and what a scrape sees of them."""

    def __init__(self, world: World) -> None:
        self.registry = CollectorRegistry()
        self.budgets = Budgets(world.config.budgets, world.store, clock=world.clock)
        self.registry.register(self.budgets)
        self.budgets.step()

    def __call__(self, name: str, **labels: str) -> float | None:
        self.budgets.step()
        given = {"model": "bot", "environment": "all", "prompt": "all", "period": "day"} | labels
        return self.registry.get_sample_value(f"modelwatch_budget_{name}", given)


@pytest.fixture
def make(make_world: Callable[..., World]) -> Callable[..., World]:
    return lambda *budgets: make_world(budgets=budgets or (DAY,))


def call(name: str, usd: float | None = 1.0, tokens: int | None = 100, **more: Any) -> dict[str, Any]:
    return generation(name, cost_usd=usd, input_tokens=tokens, output_tokens=0 if tokens is not None else None, **more)


def test_what_was_spent_is_summed_from_the_store_and_from_segments(make: Callable[..., World]) -> None:
    world = make()
    desk = Desk(world)
    assert (desk("spent_usd"), desk("spent_tokens")) == (0, 0)
    world.send("generations", call("a"), call("b", 2.5, 50))
    assert (desk("spent_usd"), desk("limit_usd"), desk("spent_tokens"), desk("limit_tokens")) == (3.5, 10, 150, 1000)
    world.clock.move(3600)
    assert world.seal()
    world.send("generations", call("c", 0.5, at=world.clock.now()))
    assert (desk("spent_usd"), desk("spent_tokens")) == (4.0, 250)
    world.restart()
    assert (Desk(world)("spent_usd"), Desk(world)("spent_tokens")) == (4.0, 250), "after a restart it is what it was"


def test_late_spans_restate_what_was_spent(make: Callable[..., World]) -> None:
    """An agent that repeats the usage of its call is counted until the call itself comes."""
    world = make()
    desk = Desk(world)
    world.send("spans", chat("t", "outer", end=9, tokens=(300, 30)))
    world.settle(2)
    world.clock.move(7200)
    assert desk("spent_tokens") == 330
    world.send("spans", chat("t", "inner", "outer", tokens=(100, 10)))
    world.settle()
    assert desk("spent_tokens") == 110
    world.restart()
    assert Desk(world)("spent_tokens") == 110


def test_anybody_can_sum_it_up_again_as_the_readme_says(make: Callable[..., World]) -> None:
    world = make()
    world.send("spans", chat("t", "outer", end=9, tokens=(300, 30)))
    world.settle(2)
    world.send("spans", chat("t", "inner", "outer", tokens=(100, 10)))
    world.send("generations", call("a", 2.5, 7), call("b", None, None), call("c", 1.0, 9, at=datetime(2026, 2, 28, tzinfo=UTC)))
    world.settle()
    world.audit.refresh()
    readme = (Path(monitor.__file__).parent / "README.md").read_text(encoding="utf-8")
    [sql] = re.findall(r'modelwatch sql "(SELECT sum\(cost_usd\).*?)"', readme, re.DOTALL)
    out = io.StringIO()
    sql = sql.replace("support-bot", "bot").replace("2026-11-21", "2026-03-01")
    auditsql.ask(world.store.root, sql, "json", out)
    desk = Desk(world)
    assert (
        [float(value) for value in json.loads(out.getvalue()).values()] == [desk("spent_usd"), desk("spent_tokens")] == [2.5, 117]
    )


def test_what_an_unpriced_call_cost_is_unknown_and_not_zero(make: Callable[..., World]) -> None:
    world = make()
    desk = Desk(world)
    world.send("generations", call("a", None))
    assert desk("spent_usd") is None, "nobody knows what the only call cost"
    assert desk("unknown_calls", unit="usd") == 1
    assert (desk("spent_tokens"), desk("unknown_calls", unit="tokens")) == (100, 0)
    world.send("generations", call("b", 2.0), call("c", None, None))
    assert (desk("spent_usd"), desk("unknown_calls", unit="usd")) == (2.0, 2), "at least 2 USD"
    assert (desk("spent_tokens"), desk("unknown_calls", unit="tokens")) == (200, 1)


def test_a_call_that_failed_without_an_answer_cost_nothing(make: Callable[..., World]) -> None:
    world = make()
    desk = Desk(world)
    world.send("generations", call("a", None, None, response=None, error_type="timeout"))
    assert (desk("spent_usd"), desk("unknown_calls", unit="usd"), desk("unknown_calls", unit="tokens")) == (0, 0, 0)


def test_an_environment_and_a_prompt_have_budgets_of_their_own(make: Callable[..., World]) -> None:
    of = {"model": "bot", "tokens_per_day": 1_000}
    world = make(DAY, of | {"environment": "test"}, of | {"prompt": "refund"}, of | {"environment": "test", "prompt": "refund"})
    desk = Desk(world)
    elsewhere = {**RESOURCE, "deployment.environment.name": "production"}
    refund: dict[str, Any] = {"gen_ai__prompt__name": "refund"}
    world.send(
        "spans",
        agent("a", "agent"),
        chat("a", "1", "agent", tokens=(1, 0), **refund),
        chat("b", "1", tokens=(10, 0)),
        chat("c", "1", tokens=(100, 0), resource=elsewhere, **refund),
        chat("d", "1", tokens=(1000, 0), resource=elsewhere),
    )
    world.settle()
    assert desk("spent_tokens") == 1111
    assert desk("spent_tokens", environment="test") == 11
    assert desk("spent_tokens", prompt="refund") == 101
    assert desk("spent_tokens", environment="test", prompt="refund") == 1


def test_a_day_ends_at_midnight_of_its_time_zone(make: Callable[..., World]) -> None:
    zone = DAY | {"timezone": "Asia/Kathmandu", "tokens_per_month": 5_000}  # midnight there is 18:15 UTC
    world = make(zone)
    desk = Desk(world)
    world.send("generations", call("noon"))
    world.clock.move(6.2 * 3600)
    assert desk("spent_tokens") == 100
    world.clock.move(0.1 * 3600)
    assert desk("spent_tokens") == 0
    assert desk("spent_tokens", period="month") == 100
    assert desk("period_start_timestamp_seconds") == datetime(2026, 3, 1, 18, 15, tzinfo=UTC).timestamp()
    assert desk("period_end_timestamp_seconds") == datetime(2026, 3, 2, 18, 15, tzinfo=UTC).timestamp()


def test_a_day_that_is_over_is_not_shown_while_the_store_is_away(make: Callable[..., World]) -> None:
    world = make()
    desk = Desk(world)
    labels = {"model": "bot", "environment": "all", "prompt": "all", "period": "day"}
    assert desk.registry.get_sample_value("modelwatch_budget_spent_usd", labels) == 0
    world.clock.move(12 * 3600)
    assert desk.registry.get_sample_value("modelwatch_budget_spent_usd", labels) is None


def test_what_comes_late_for_yesterday_is_not_spent_today(make: Callable[..., World]) -> None:
    world = make()
    desk = Desk(world)
    world.send("generations", call("today"), call("yesterday", at=datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)))
    assert desk("spent_tokens") == 100


def test_a_reload_changes_budgets_at_the_next_step_and_removes_what_is_gone_at_once(make: Callable[..., World]) -> None:
    world = make()
    desk = Desk(world)
    world.send("generations", call("a"))
    assert desk("spent_usd") == 1
    desk.budgets.configure([BudgetConfig(model="bot", cost_usd_per_month=5, environment="test")])
    assert desk.budgets.standings() == ()
    assert desk("limit_usd") is None
    assert desk("limit_usd", period="month", environment="test") == 5
    assert desk("spent_usd", period="month", environment="test") == 0


def test_damaged_rows_leave_what_was_spent_unknown(make: Callable[..., World]) -> None:
    world = make()
    world.send("generations", call("a"))
    world.clock.move(120)
    world.seal()
    world.store.run(lambda t: t.execute("UPDATE manifest SET quarantined = now() WHERE kind = 'calls'"))
    desk = Desk(world)
    assert (desk("spent_usd"), desk("limit_usd")) == (None, 10)
    world.store.run(lambda t: t.execute("UPDATE manifest SET quarantined = NULL"))
    assert desk("spent_usd") == 1, "once it is restored"


@pytest.mark.parametrize(
    ("day", "hours"), (("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)), ids=("short", "long", "plain")
)
def test_days_are_as_long_as_they_are(day: str, hours: int) -> None:
    start, end = around(datetime.fromisoformat(f"{day}T12:00+00:00"), "day", "Europe/Berlin")
    assert (end - start).total_seconds() == hours * 3600


def written(tmp_path: Path, *budgets: dict[str, Any]) -> Path:
    models = [{"name": "bot", "task": "llm"}, {"name": "houses", "task": "regression"}]
    path = tmp_path / "modelwatch.yaml"
    path.write_text(yaml.safe_dump({"models": models, "budgets": list(budgets)}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("budgets", "problem"),
    (
        pytest.param([{"model": "bot"}], "budgets.0: give at least one of cost_usd_per_day", id="without a limit"),
        pytest.param([DAY | {"cost_usd_per_day": 0}], "budgets.0.cost_usd_per_day: Input should be greater than 0", id="zero"),
        pytest.param([DAY | {"tokens_per_day": 1.5}], "budgets.0.tokens_per_day", id="half a token"),
        pytest.param([DAY | {"model": "nobody"}], "budgets.0.model: no model 'nobody'; there are bot, houses", id="no model"),
        pytest.param([DAY | {"model": "houses"}], "budgets.0.model: houses has task regression", id="no LLM"),
        pytest.param([DAY, DAY | {"environment": None}], "0 and 1 are both of model bot", id="twice"),
        pytest.param([DAY | {"environment": "all"}], "'all' is what a budget for all", id="the word for all"),
        pytest.param([DAY | {"timezone": "Mars/Base"}], "no time zone 'Mars/Base'", id="no time zone"),
        pytest.param([DAY | {"cost_per_day": 5}], "budgets.0.cost_per_day: no such key", id="misspelled"),
    ),
)
def test_a_wrong_budget_is_a_problem_with_its_place(tmp_path: Path, budgets: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configfile.load(written(tmp_path, *budgets))
    assert any(problem in line for line in caught.value.problems), caught.value.problems


def test_check_config_says_what_is_budgeted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, DAY, {"model": "bot", "prompt": "refund", "tokens_per_month": 5_000_000, "timezone": "Asia/Tokyo"})
    with pytest.raises(SystemExit) as exited:
        cli.main(["check-config", str(path)])
    assert exited.value.code == 0
    printed = capsys.readouterr().out
    assert "budget of bot, all environments, all prompts: 10 USD a day, 1,000 tokens a day (UTC)" in printed
    assert "budget of bot, all environments, prompt refund: 5,000,000 tokens a month (Asia/Tokyo)" in printed
