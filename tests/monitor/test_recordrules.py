"""Rules on single records: one bad answer or leaked secret opens an incident at once, once, and says which."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest

from monitor import configfile, faultpoints
from monitor.errors import ConfigError
from monitor.rowchecks import row_checks
from tests.monitor import tracing
from tests.monitor.support import MODELS, NOON, World, check, contexts, generation, prediction, sample

BARE = check("bare", "Bareness", model="bot", window="10m")
RULE = {"name": "all-bare", "model": "bot", "check": "bare", "at_least": 0.9, "clear_after": "1h"}
LEAK = {"name": "leaked", "model": "bot", "masked": ["key", "card"], "clear_after": "1h"}
KEY = "sk-" + "Ab3dEf6hIj9kLm2nOp5q" * 2
CARD = "4111 1111 1111 1111"

Make = Callable[..., World]


def scored(make_world: Make, **rule: Any) -> World:
    return make_world(checks=[BARE], record_rules=[{**RULE, **rule}])


def leaking(make_world: Make, **rule: Any) -> World:
    return make_world(record_rules=[{**LEAK, **rule}])


def answer(world: World, record_id: str, *passages: str, at: datetime | None = None, **fields: Any) -> None:
    """One that is scored and looked at. Without passages it is bare."""
    at = at or world.clock.now()
    given = {"response": f"so says {record_id}", "contexts": list(passages), **fields}
    world.send("generations", generation(record_id, at, **given))
    world.settle(30)
    world.score()
    world.rules.step()


def scores(world: World, *given: tuple[str, float], **fields: Any) -> None:
    """Answers whose scores are stored as given, in one go, and looked at."""
    now = world.clock.now()
    fields = {"trace_id": None, **fields}
    texts = ({"response": f"so says {one}", **fields} for one, _ in given)
    world.send("generations", *(generation(one, now, **more) for (one, _), more in zip(given, texts, strict=True)))
    (row,) = row_checks(world.config)["bot"]
    columns = {
        "record_id": [one for one, _ in given], "revision": 1, "event_time": now, "trace_id": fields["trace_id"],
        "detector": row.name, "settings_hash": row.hash, "outcome": "ok", "value": [value for _, value in given],
        "flagged": True, "received_at": now,
    }  # fmt: skip
    world.store.run(lambda t: t.append("scores", "bot", columns))
    world.rules.step()


def incidents(world: World, model: str = "bot") -> list[dict[str, Any]]:
    """The latest word on each, oldest first."""
    last = "row_number() OVER (PARTITION BY incident_id ORDER BY revision DESC) = 1"
    rows = world.rows("incidents", model, where=f"true QUALIFY {last}")
    found = [{**row, "evidence": orjson.loads(row["evidence"])} for row in rows]
    return sorted(found, key=lambda row: (row["opened_slot"], row["incident_id"]))


def told(world: World, model: str = "bot") -> list[tuple[str, int, int]]:
    """State, records, and how many of them were over the limit, of each incident."""
    return [(one["state"], one["evidence"]["n_current"], one["evidence"]["limited"]) for one in incidents(world, model)]


def firing(world: World, rule: str = "all-bare") -> bool:
    standing = world.board.get(rule)
    assert standing is not None
    return standing.firing


def test_one_record_over_the_bound_opens_an_incident_at_once_and_quiet_closes_it(make_world: Make) -> None:
    world = scored(make_world, severity="warning", owner="night")
    assert not firing(world), "there is a word before anything has come"
    answer(world, "good", "a passage")
    assert incidents(world) == []
    at = world.clock.now()
    answer(world, "bad", trace_id="aa" * 16)
    assert firing(world)
    (one,) = incidents(world)
    assert (one["check_name"], one["slice"], one["state"], one["severity"]) == ("all-bare", "all", "open", "warning")
    assert (one["opened_slot"], one["last_slot"], one["resolved_slot"], one["peak"]) == (at, at, None, 1.0)
    world.clock.move(3599)
    world.rules.step()
    assert firing(world)
    world.clock.move(1)
    world.rules.step()
    assert not firing(world)
    (one,) = incidents(world)
    assert (one["state"], one["resolved_slot"]) == ("resolved", at + timedelta(hours=1))


def test_the_evidence_names_the_records_and_its_sql_gives_them(make_world: Make) -> None:
    world = scored(make_world)
    answer(world, "bad", trace_id="aa" * 16)
    (one,) = incidents(world)
    evidence = one["evidence"]
    assert (evidence["source"], evidence["statistic"], evidence["value"]) == ("record_rule", "score of bare", 1.0)
    assert evidence["threshold"] == {"lower": None, "upper": 0.9}
    (shown,) = evidence["worst_records"]
    assert (shown["record_id"], shown["trace_id"], shown["value"]) == ("bad", "aa" * 16, 1.0)
    assert shown["detail"] == {"passages": 0}
    world.audit.refresh()
    with duckdb.connect(str(world.store.root / "audit.duckdb"), read_only=True) as audit:
        audit.execute(f"SET file_search_path = '{world.store.root}'")
        assert audit.sql(evidence["sql"]).to_arrow_table()["record_id"].to_pylist() == ["bad"]


def test_of_a_lower_bound_the_lowest_is_the_worst(make_world: Make) -> None:
    world = scored(make_world, at_least=None, at_most=0.5)
    answer(world, "one", "a", trace_id="aa" * 16)
    answer(world, "two", "a", "b", trace_id="aa" * 16)
    answer(world, "none", trace_id="aa" * 16)
    (one,) = incidents(world)
    assert one["evidence"]["n_current"] == 2
    assert (one["evidence"]["threshold"], one["peak"]) == ({"lower": 0.5, "upper": None}, pytest.approx(1 / 3))


def test_a_score_that_may_not_alert_opens_nothing(make_world: Make) -> None:
    doubtful = check("doubtful", "Doubtful", model="bot")
    world = make_world(checks=[doubtful], record_rules=[{**RULE, "check": "doubtful"}])
    answer(world, "bad")
    assert incidents(world) == []


# --- what is one incident ---


def test_records_of_one_trace_are_one_incident_and_those_of_another_are_another(make_world: Make) -> None:
    world = scored(make_world)
    for record, trace in (("a", "aa" * 16), ("b", "aa" * 16), ("c", "bb" * 16)):
        answer(world, record, trace_id=trace)
    assert sorted(told(world)) == [("open", 1, 0), ("open", 2, 0)]
    standing = world.board.get("all-bare")
    assert standing is not None
    assert standing.open_incidents == 2


def test_the_same_texts_again_are_the_same_incident(make_world: Make) -> None:
    world = scored(make_world)
    for record, trace in (("a", "aa" * 16), ("b", "bb" * 16)):
        answer(world, record, trace_id=trace, response="the same canned answer")
    assert told(world) == [("open", 2, 0)]


@pytest.mark.parametrize(
    ("key", "expected"), (("record", 4), ("trace", 3), ("conversation", 2), ("user", 2), ("fingerprint", 3), ("rule", 1))
)
def test_what_is_one_incident_is_configured(make_world: Make, key: str, expected: int) -> None:
    world = scored(make_world, key=key)
    answer(world, "a", trace_id="aa" * 16, conversation_id="c1", user_id="u1", fingerprint="f1")
    answer(world, "b", trace_id="aa" * 16, conversation_id="c1", user_id="u2", fingerprint="f2")
    answer(world, "c", trace_id="bb" * 16, conversation_id="c1", user_id="u2", fingerprint="f3")
    answer(world, "d", trace_id="cc" * 16, conversation_id="c2", user_id="u1", fingerprint="f3")
    assert len(incidents(world)) == expected


def test_a_match_after_the_quiet_time_is_another_incident(make_world: Make) -> None:
    world = scored(make_world)
    answer(world, "a", trace_id="aa" * 16)
    world.clock.move(3600)
    answer(world, "b", trace_id="aa" * 16)
    assert told(world) == [("resolved", 1, 0), ("open", 1, 0)], "though nobody looked in between"


def test_what_is_beyond_the_hourly_limit_is_counted_in_the_latest_incident(make_world: Make) -> None:
    world = scored(make_world, max_per_hour=2)
    for n in range(6):
        scores(world, (f"r{n}", 1.0), trace_id=f"{n:032x}")
    assert sorted(told(world)) == [("open", 1, 0), ("open", 5, 4)]
    assert sample(world.metrics, "modelwatch_rule_matches_total", model="bot", check="all-bare", outcome="limited") == 4
    assert sample(world.metrics, "modelwatch_rule_matches_total", model="bot", check="all-bare", outcome="opened") == 2
    assert len(world.rows("rule_matches", "bot")) == 6, "nothing is lost"
    world.clock.move(3600)
    scores(world, ("later", 1.0), trace_id="ff" * 16)
    assert len(incidents(world)) == 3


def test_a_flood_writes_few_revisions_and_counts_all(make_world: Make) -> None:
    world = scored(make_world, key="rule")
    for n in range(15):
        scores(world, (f"a{n}", 0.9 + n / 1000), (f"b{n}", 0.9))
    assert len(world.rows("incidents", "bot")) == 4  # at 2, 6, 10, 20 of them
    world.clock.move(3600)
    world.rules.step()
    assert told(world) == [("resolved", 30, 0)]
    (one,) = incidents(world)
    assert [shown["record_id"] for shown in one["evidence"]["worst_records"]] == [f"a{n}" for n in range(14, 4, -1)]


# --- where ---


def test_only_records_with_these_fields_count(make_world: Make) -> None:
    world = scored(make_world, where={"environment": ["production", "canary"], "attributes.tier": "gold"})
    answer(world, "a", environment="staging", tier="gold")
    answer(world, "b", environment="production", tier="tin")
    answer(world, "c", environment="canary", tier="gold")
    (one,) = incidents(world)
    assert [shown["record_id"] for shown in one["evidence"]["worst_records"]] == ["c"]


# --- scores that change ---


def test_a_late_passage_takes_a_match_back(make_world: Make) -> None:
    world = scored(make_world)
    answer(world, "a", trace_id="aa" * 16)
    answer(world, "b", trace_id="aa" * 16)
    for record in ("a", "b"):
        world.send("contexts", contexts(record, "it was there after all"))
        world.settle(30)
        world.score()
        world.rules.step()
        if record == "a":
            assert told(world) == [("open", 1, 0)]
            assert firing(world)
    assert told(world) == [("withdrawn", 0, 0)]
    assert not firing(world)
    assert sample(world.metrics, "modelwatch_rule_matches_total", model="bot", check="all-bare", outcome="withdrawn") == 2


def test_a_record_that_matches_only_when_it_is_scored_again_opens_then(make_world: Make) -> None:
    world = scored(make_world, at_least=None, at_most=0.5)
    answer(world, "a")
    assert incidents(world) == []
    world.send("contexts", contexts("a", "late"))
    world.settle(30)
    world.score()
    world.rules.step()
    assert told(world) == [("open", 1, 0)]


def test_an_incident_that_is_long_resolved_is_taken_back_all_the_same(make_world: Make) -> None:
    world = scored(make_world)
    answer(world, "a")
    world.clock.move(3 * 3600)
    world.rules.step()
    world.seal()
    world.restart()
    world.send("contexts", contexts("a", "late"))
    world.settle(30)
    world.score()
    world.rules.step()
    assert told(world) == [("withdrawn", 0, 0)]


# --- crash and restart ---


def test_a_new_rule_begins_with_what_comes_from_now_on(make_world: Make) -> None:
    world = make_world(checks=[BARE])
    answer(world, "before")
    world.config = world.config.model_validate(
        {**world.config.model_dump(), "record_rules": [RULE], "store": world.config.store.model_dump()}
    )
    world.restart()
    world.rules.step()
    assert incidents(world) == []
    answer(world, "after")
    assert told(world) == [("open", 1, 0)]


def test_what_was_scored_while_no_rule_looked_is_found_after_a_restart(make_world: Make) -> None:
    world = scored(make_world)
    world.send("generations", generation("bad", world.clock.now(), contexts=[]))
    world.settle(30)
    world.score()
    world.restart()
    world.rules.step()
    assert told(world) == [("open", 1, 0)]
    world.restart()
    assert firing(world), "before the first scrape"
    world.rules.step()
    assert len(world.rows("rule_matches", "bot")) == 1
    world.clock.move(3600)
    world.restart()
    world.rules.step()
    assert told(world) == [("resolved", 1, 0)]


def test_killed_before_the_commit_each_match_counts_once(make_world: Make) -> None:
    world = scored(make_world)
    world.send("generations", generation("bad", world.clock.now(), contexts=[]))
    world.settle(30)
    world.score()

    def fail(name: str) -> None:
        if name == "rule.written":
            raise ValueError("killed")

    faultpoints.arm(fail)
    try:
        world.rules.step()
    finally:
        faultpoints.arm(None)
    assert incidents(world) == []
    assert sample(world.metrics, "modelwatch_scheduler_run_failures_total", check="all-bare", reason="error") == 1
    world.clock.move(1)
    world.rules.step()
    assert told(world) == [("open", 1, 0)]
    assert [row["record_id"] for row in world.rows("rule_matches", "bot")] == ["bad"]


def test_looked_at_one_by_one_or_all_at_once_after_restarts_the_incidents_are_the_same(tmp_path: Any, make_world: Make) -> None:
    def run(root: str, often: bool) -> list[Any]:
        world = make_world(tmp_path / root, checks=[BARE], record_rules=[{**RULE, "max_per_hour": 3, "clear_after": "5m"}])
        world.clock._now = NOON
        if not often:
            world.rules.step, look = lambda: 0, world.rules.step  # type: ignore[method-assign]
        for n in range(16):
            world.clock.move(150 if n % 6 else 400)
            scores(world, (f"r{n}", 1.0 if n % 5 else 0.5), response=f"so {n % 7}", trace_id=f"{n % 4:032x}")
            if often and n % 5 == 0:
                world.restart()
        if not often:
            world.rules.step = look  # type: ignore[method-assign]
        world.clock.move(600)
        while world.rules.step():
            pass
        world.rules.step()
        return [
            [one[name] for name in ("incident_id", "state", "opened_slot", "last_slot", "resolved_slot", "peak")]
            + [one["evidence"]["n_current"], one["evidence"]["limited"]]
            for one in incidents(world)
        ]

    found = run("often", often=True)
    assert found == run("once", often=False)
    assert len(found) == 3
    assert any(limited for *_, limited in found), "so that the limit is tested as well"


# --- what was masked ---


def test_a_secret_in_an_answer_opens_an_incident_that_does_not_show_it(make_world: Make) -> None:
    world = leaking(make_world)
    world.send("generations", generation("fine", response="nothing here, though it says [KEY]"))
    world.send("generations", generation("mine", question=f"is {KEY} good?", response="yes"))
    world.rules.step()
    assert incidents(world) == []
    world.send("generations", generation("leak", response=f"use {KEY} and {CARD}"))
    world.rules.step()
    (one,) = incidents(world)
    (shown,) = one["evidence"]["worst_records"]
    assert (shown["record_id"], shown["masked"], shown["value"]) == ("leak", ["card", "key"], 2.0)
    stored = world.rows("generations", "bot", where="record_id = 'leak'")[0]["response"]
    assert [stored[start:end] for field, start, end in shown["spans"] if field == "response"] == ["[KEY]", "[CARD]"]
    everything = repr([world.rows(kind, "bot") for kind in ("maskings", "rule_matches", "incidents")])
    assert KEY not in everything
    assert "4111" not in everything


def test_which_kinds_and_which_texts_count_is_configured(make_world: Make) -> None:
    world = leaking(make_world, masked=["card"], fields=["question"])
    world.send("generations", generation("key", question=f"is {KEY} good?"))
    world.send("generations", generation("answer", response=f"pay with {CARD}"))
    world.send("generations", generation("card", question=f"is {CARD} good?"))
    world.rules.step()
    (one,) = incidents(world)
    assert [shown["record_id"] for shown in one["evidence"]["worst_records"]] == ["card"]


def test_a_secret_in_a_span_and_one_in_a_log_record_before_its_span_are_found(make_world: Make) -> None:
    world = leaking(make_world, where={"environment": "test"})
    world.send("spans", tracing.chat("one", "call", response=f"use {KEY}"))
    world.rules.step()
    assert told(world) == [("open", 1, 0)]
    body = {"message": {"role": "assistant", "content": f"use {KEY} instead"}}
    world.send("logs", tracing.event("two", "call", "gen_ai.choice", body))
    world.rules.step()
    assert told(world) == [("open", 1, 0)], "its environment is not known yet"
    world.clock.move(5)
    world.send("spans", tracing.chat("two", "call", question=None))
    world.rules.step()
    found = {one["record_id"] for row in incidents(world) for one in row["evidence"]["worst_records"]}
    assert found == {tracing.record_id("one", "call"), tracing.record_id("two", "call")}


def test_a_text_whose_span_never_comes_is_looked_at_alone_in_the_end(make_world: Make) -> None:
    world = leaking(make_world)
    body = {"message": {"role": "assistant", "content": f"use {KEY}"}}
    world.send("logs", tracing.event("two", "call", "gen_ai.choice", body))
    world.rules.step()
    assert incidents(world) == []
    world.clock.move(31)
    world.rules.step()
    assert told(world) == [("open", 1, 0)]


def test_the_same_record_sent_again_changes_nothing(make_world: Make) -> None:
    world = leaking(make_world)
    for _ in range(2):
        world.send("generations", generation("leak", response=f"use {KEY}"))
        world.rules.step()
    assert len(world.rows("maskings", "bot")) == len(world.rows("rule_matches", "bot")) == 1
    assert told(world) == [("open", 1, 0)]


def test_a_card_in_a_feature_of_a_prediction_opens_an_incident(make_world: Make) -> None:
    world = leaking(make_world, model="houses", where={"model_version": "v2"})
    world.send("predictions", prediction("old", features={"note": f"paid {CARD}"}, model_version="v1"))
    world.send("predictions", prediction("new", features={"note": f"paid {CARD}"}, model_version="v2"))
    world.rules.step()
    (one,) = incidents(world, "houses")
    assert [shown["record_id"] for shown in one["evidence"]["worst_records"]] == ["new"]


def test_a_rule_that_is_taken_out_has_no_series_any_more(make_world: Make) -> None:
    world = scored(make_world)
    answer(world, "bad")
    world.rules.configure(world.config.model_copy(update={"record_rules": ()}))
    assert world.board.get("all-bare") is None
    assert sample(world.metrics, "modelwatch_rule_matches_total", model="bot", check="all-bare", outcome="opened") is None


# --- the config ---


def problems(folder: Path, **rule: Any) -> list[str]:
    path = folder / "monitor.yaml"
    toxic = {
        "name": "toxic", "model": "bot", "detector": "toxicity", "every": "1h", "threshold": {"upper": 0.5},
    }  # fmt: skip
    given = {"name": "r", "model": "bot", "check": "toxic", "at_least": 0.9, **rule}
    given = {key: value for key, value in given.items() if value is not None}
    path.write_bytes(orjson.dumps({"models": MODELS, "checks": [toxic, check("mean")], "record_rules": [given]}))
    try:
        configfile.load(path)
    except ConfigError as exc:
        return [one.removeprefix(f"{path}: ") for one in exc.problems]
    return []


MASKED = {"check": None, "at_least": None}


@pytest.mark.parametrize(
    ("rule", "told"),
    (
        ({"check": "toxc"}, "record_rules.0.check: bot has no row check 'toxc'; there are toxic"),
        ({"check": "mean"}, "record_rules.0.check: bot has no row check 'mean'; there are toxic"),
        ({"at_least": 90}, "record_rules.0.at_least: 90, but scores of toxicity lie from 0 to 1; give a bound between"),
        ({"at_least": 0}, "record_rules.0.at_least: 0 is what every score of toxicity meets; give a bound that tells"),
        ({"at_most": 0.1}, "record_rules.0: check toxic: give exactly one of at_least and at_most"),
        ({"at_least": None}, "record_rules.0: check toxic: give exactly one of at_least and at_most"),
        ({"model": "bott"}, "record_rules.0.model: no model 'bott'; there are houses, bot"),
        ({"name": "toxic"}, "record_rules.0.name: 'toxic' is the name of checks.0; both become the label check"),
        ({"where": {"tier": "gold"}}, "record_rules.0.where: asks for 'tier', which answers do not have; there are"),
        ({"key": "session"}, "record_rules.0.key: Input should be 'record', 'trace'"),
        ({"max_per_hour": 0}, "record_rules.0.max_per_hour: Input should be greater than or equal to 1"),
        ({"masked": ["key"]}, "record_rules.0: give exactly one of check (with at_least or at_most) and masked"),
        ({**MASKED, "masked": ["secret"]}, "record_rules.0.masked: nothing recognises 'secret'; there are card, email"),
        ({**MASKED, "masked": ["ip"]}, "record_rules.0.masked: 'ip' is not looked for in bot; add it to masking.kinds"),
        ({**MASKED, "masked": ["key"], "model": "houses", "fields": ["response"]}, "record_rules.0.fields: houses has task"),
        ({**MASKED, "masked": ["key"], "model": "houses", "key": "user"}, "record_rules.0.key: user, but records of houses"),
    ),
)
def test_a_wrong_rule_is_told_with_its_place_and_what_to_do(tmp_path: Path, rule: dict[str, Any], told: str) -> None:
    (problem,) = problems(tmp_path, **rule)
    assert problem.startswith(told)


def test_a_good_rule_is_taken(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
    assert problems(tmp_path, **MASKED, masked=["key"], fields=["question", "response"]) == []


def test_what_opens_in_maintenance_says_so_and_has_the_owner_of_its_model(make_world: Make) -> None:
    window = {"name": "work", "reason": "a new index", "start": (NOON - timedelta(hours=1)).isoformat()}
    window["end"] = (NOON + timedelta(hours=1)).isoformat()
    models = [{**one, "owner": "ann"} for one in MODELS]
    world = make_world(models=models, checks=[BARE], record_rules=[RULE], maintenance=[window])
    answer(world, "a")
    (incident,) = world.rows("incidents", "bot", where="check_name = 'all-bare'")
    assert (incident["in_maintenance"], incident["owner"]) == ("work", "ann")
