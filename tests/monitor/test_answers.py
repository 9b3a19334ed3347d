"""Windows over the answers of an LLM's model: scores, feedback and attributes as columns, in checks from config to firing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from detectors.contract import Window
from monitor.agenda import RECHECK_SECONDS
from monitor.reader import Reader
from tests.monitor.support import NOON, World, check, contexts, generation
from tests.monitor.tracing import chat, event

MINUTE = timedelta(minutes=1)
DAWN = NOON - timedelta(hours=6)
BARE = {"name": "bare", "model": "bot", "detector": "tests.plugins:Bareness"}


def at(minutes: float) -> datetime:
    return DAWN + minutes * MINUTE


def on_answers(name: str, detector: str, **fields: Any) -> dict[str, Any]:
    return check(name, **{"model": "bot", **fields}) | {"detector": detector}


def answers(world: World, minute: float, *, bare: int = 0, based: int = 0, prefix: str = "", **fields: Any) -> list[str]:
    """Answers without passages, which bareness scores 1, and some with one, which it scores 0.5."""
    items = [
        generation(f"{prefix}{minute}-{i}", at(minute), **({} if i < bare else {"contexts": ["as it is written"]}), **fields)
        for i in range(bare + based)
    ]
    world.send("generations", *items)
    return [item["record_id"] for item in items]


def settled(world: World) -> None:
    world.settle(40)
    world.score()


def read(world: World, name: str) -> dict[float, Any]:
    found = world.readings(name, "bot")
    return {(s - DAWN) / MINUTE: value if value is not None else outcome for s, (outcome, value, _) in found.items()}


def window(world: World, name: str, minutes: float = 10) -> Window:
    """What the check of this name reads in its first minutes."""
    traffic = world.runners[name]._meter._traffic
    with world.store.read() as reader:
        return traffic.between(reader, DAWN, at(minutes), {})


def test_a_score_is_a_column_and_flagged_says_where_the_check_flags(make_world: Callable[..., World]) -> None:
    bare = check("bare", "Bareness", model="bot", flag=0.5)
    world = make_world(checks=[bare, check("mean", model="bot", columns={"prediction": "score.bare"})])
    answers(world, 1, bare=2, based=2)
    answers(world, 11)
    answers(world, 12, bare=1)
    settled(world)
    world.look()
    assert read(world, "mean")[10] == 0.75
    assert window(world, "mean").features["score.bare"] == "number"
    flags = make_world(
        world.store.root.parent / "other", checks=[bare, check("share", model="bot", columns={"prediction": "flagged.bare"})]
    )
    answers(flags, 1, bare=1, based=1)
    settled(flags)
    assert window(flags, "share").numbers("prediction").tolist() == [1.0, 1.0]


def test_what_another_check_found_later_is_held_until_it_is_scored(make_world: Callable[..., World]) -> None:
    means = [check(name, model="bot", columns={"prediction": "score.bare"}) for name in ("one", "other")]
    world = make_world(checks=[check("bare", "Bareness", model="bot"), *means])
    one, other = (world.runners[name]._agenda for name in ("one", "other"))
    with world.store.read() as earlier:
        earlier.query("SELECT 1 FROM work")  # its look begins
        answers(world, 1, bare=2)
        answers(world, 12, bare=1)
        world.settle(40)
        with world.store.read() as later:
            other.touch(later, None)
        one.touch(earlier, None)
        assert one.unkept, "it knows of them by the other"
        assert one.due(earlier) == []


def test_what_was_found_and_could_not_be_kept_is_looked_for_again(make_world: Callable[..., World]) -> None:
    world = make_world(
        checks=[check("bare", "Bareness", model="bot"), check("mean", model="bot", columns={"prediction": "score.bare"})]
    )
    answers(world, 1, bare=2)
    agenda = world.runners["mean"]._agenda
    assert agenda.worth_a_look()
    with world.store.read() as reader:
        agenda.touch(reader, None)
    assert not agenda.worth_a_look(), "not at once"
    world.clock.move(RECHECK_SECONDS)
    assert agenda.unkept
    assert agenda.worth_a_look(), "the worker died before a slot was noted"


def test_a_window_waits_until_its_records_are_scored_and_late_passages_restate_it(make_world: Callable[..., World]) -> None:
    world = make_world(
        checks=[check("bare", "Bareness", model="bot"), check("mean", model="bot", columns={"prediction": "score.bare"})]
    )
    first = answers(world, 1, bare=2)[0]
    answers(world, 12, bare=1)
    world.clock.move(31)
    assert (world.look(), read(world, "mean")) == (0, {}), "nothing is scored yet, and no score is no reading"
    settled(world)
    world.look()
    assert read(world, "mean")[10] == 1.0
    world.send("contexts", contexts(first, "found late"))
    settled(world)
    world.look()
    assert read(world, "mean")[10] == 0.75
    assert [r["revision"] for r in world.rows("readings", "bot", where="check_name = 'mean'") if r["slot"] == at(10)] == [1, 2]


def test_what_comes_between_the_look_and_the_reading_is_not_read_without_its_score(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(
        checks=[check("bare", "Bareness", model="bot"), check("mean", model="bot", columns={"prediction": "score.bare"})]
    )
    answers(world, 1, bare=2)
    answers(world, 12, bare=1)
    settled(world)
    agenda = world.runners["mean"]._agenda
    due, late = agenda.due, [3]

    def and_then(reader: Reader) -> list[datetime]:
        found = due(reader)
        while found and late:
            answers(world, late.pop(), based=2)
        return found

    monkeypatch.setattr(agenda, "due", and_then)
    world.look()
    assert (read(world, "mean"), late) == ({}, []), "it came into a window that was found to be due"
    settled(world)
    world.look()
    assert [(r["slot"], r["revision"], r["value"]) for r in world.rows("readings", "bot", where="check_name = 'mean'")] == [
        (at(10), 1, 0.75)
    ]


def test_scores_drift_when_a_new_prompt_gives_other_scores(make_world: Callable[..., World]) -> None:
    drift = on_answers(
        "drift",
        "score_drift",
        settings={"column": "score.bareness", "policy": "evidently", "method": "wasserstein"},
        reference={"start": DAWN.isoformat(), "end": at(10).isoformat()},
        threshold={"upper": 0.5},
    )
    world = make_world(checks=[check("bare", "Bareness", model="bot"), drift])
    answers(world, 1, bare=20, based=20)
    answers(world, 11, bare=20, based=20)
    answers(world, 21, bare=40)
    answers(world, 31, bare=1)
    settled(world)
    world.look()
    assert {s: f for s, f in world.firing("drift", "bot").items() if s > at(10)} == {at(20): False, at(30): True}
    (incident,) = world.rows("incidents", "bot")
    assert "score.bareness" in incident["evidence"]
    assert "FROM answers" in incident["evidence"]


def test_groups_of_users_are_compared_by_the_scores_of_their_answers(make_world: Callable[..., World]) -> None:
    fair = on_answers(
        "fair",
        "fairness",
        settings={"attributes": ["attributes.language"], "min_rows": 5},
        columns={"prediction": "flagged.bare"},
        threshold={"upper": 0.2},
    )
    world = make_world(checks=[check("bare", "Bareness", model="bot"), fair])
    answers(world, 1, bare=30, prefix="no", language="no")
    answers(world, 2, based=30, prefix="en", language="en")
    answers(world, 12, bare=1)
    settled(world)
    world.look()
    assert read(world, "fair")[10] == 1.0
    assert world.firing("fair", "bot")[at(10)]


def test_the_monitor_is_monitored_against_what_people_say(make_world: Callable[..., World]) -> None:
    agreement = on_answers(
        "agreement",
        "performance",
        settings={"task": "binary", "metric": "accuracy", "min_labels": 4},
        columns={"prediction": "flagged.bare", "probability": "score.bare", "label": "feedback.unsupported"},
        threshold={"lower": 0.9},
    )
    world = make_world(checks=[check("bare", "Bareness", model="bot"), agreement])
    ids = answers(world, 1, bare=4, based=4)
    answers(world, 12, bare=1)
    settled(world)
    world.look()
    assert read(world, "agreement") == {10: "not_enough_data"}
    said = [{"model": "bot", "record_id": r, "name": "unsupported", "value": i < 4, "rater": "ann"} for i, r in enumerate(ids)]
    world.send("feedback", *said)
    world.look()
    assert read(world, "agreement")[10] == 1.0, "feedback that came later restates the window of its answer"
    again = {**said[0], "value": False, "revision": 1}
    world.send("feedback", again)
    world.look()
    assert read(world, "agreement")[10] == 7 / 8
    assert window(world, "agreement").numbers("label").tolist() == [0, 1, 1, 1, 0, 0, 0, 0]


def test_feedback_on_a_whole_trace_is_its_answers(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", model="bot", columns={"prediction": "feedback.thumbs"})])
    trace = "0af7651916cd43dd8448eb211c80319c"
    world.send("generations", generation("a", at(1), trace_id=trace), generation("b", at(2)), generation("c", at(12)))
    world.send("feedback", {"model": "bot", "trace_id": trace, "name": "thumbs", "value": 1})
    world.send("feedback", {"model": "bot", "record_id": "b", "name": "thumbs", "value": 0})
    world.send("feedback", {"model": "bot", "record_id": "b", "name": "other", "value": 5})
    world.settle(40)
    world.look()
    assert read(world, "mean") == {10: 0.5}


def test_operations_are_read_from_the_calls_that_count(make_world: Callable[..., World]) -> None:
    slow = on_answers(
        "slow", "llm_operations", settings={"metric": "duration_p50_seconds", "min_rows": 5}, threshold={"upper": 2}, breaches=1
    )
    world = make_world(checks=[slow])
    world.send("generations", *(generation(f"a{i}", at(1), duration_seconds=1.0, cost_usd=0.5) for i in range(20)))
    world.send("generations", *(generation(f"b{i}", at(11), duration_seconds=3.0, operation="embeddings") for i in range(20)))
    world.send("generations", generation("c", at(22)))
    world.settle(40)
    world.look()
    assert read(world, "slow") == {10: 1.0, 20: 3.0}
    assert world.firing("slow", "bot") == {at(10): False, at(20): True}
    standing = world.board.get("slow")
    assert standing is not None
    assert standing.metrics["calls"] == 20


def test_features_of_answers_are_what_they_cost_and_how_they_were_scored(make_world: Callable[..., World]) -> None:
    drift = on_answers("drift", "data_drift", reference={"trailing": "10m"}, settings={"policy": "evidently"})
    world = make_world(checks=[check("bare", "Bareness", model="bot"), drift])
    world.send("generations", generation("a", at(1), input_tokens=7, llm_model="tiny", response="four"))
    settled(world)
    found = window(world, "drift")
    assert found.features["llm_model"] == "category"
    assert {"input_tokens", "cost_usd", "finish_reason", "score.bare"} < set(found.features)
    assert found.numbers("input_tokens").tolist() == [7.0]
    assert found.numbers("response_characters").tolist() == [4.0]
    assert found.categories("llm_model").names == ("tiny",)
    assert np.isnan(found.numbers("cost_usd")).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    (
        ({"settings": {"column": "score.rudeness"}}, "bot has no row check 'rudeness'; there are bare, bareness"),
        ({"settings": {"column": "temperature"}}, "reads 'temperature', which answers do not have; name a column in `columns`"),
        ({"detector": "performance"}, "reads 'label', which answers do not have"),
    ),
)
def test_a_column_that_answers_do_not_have_is_refused_at_the_start(fields: dict[str, Any], message: str) -> None:
    from monitor.config import Config

    base = {"reference": {"trailing": "1h"}} if "detector" not in fields else {}
    one = {**on_answers("one", "score_drift"), **base, **fields}
    models = [{"name": "bot", "task": "llm"}]
    with pytest.raises(ValidationError, match=r"checks\.1\.detector: .*" + message):
        Config.model_validate({"models": models, "checks": [check("bare", "Bareness", model="bot"), one]})


def test_a_column_of_predictions_may_stand_for_another(make_world: Callable[..., World]) -> None:
    from tests.monitor.support import prediction

    world = make_world(checks=[check("mean", columns={"prediction": "second"})])
    world.send("predictions", prediction("a", at(1), prediction=1, features={"second": 5}), prediction("b", at(11)))
    world.look()
    assert {s: v for s, (_, v, _) in world.readings("mean").items()} == {at(10): 5.0}


def test_texts_that_came_as_logs_are_in_the_window(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[on_answers("long", "tests.plugins:Mean", columns={"prediction": "response_characters"})])
    world.send(
        "logs",
        event("t", "c", "gen_ai.user.message", {"content": "from a log"}, at=0.1),
        event("t", "c", "gen_ai.choice", {"message": {"role": "assistant", "content": "four"}}, at=0.9),
    )
    world.send("spans", chat("t", "c", question=None), chat("u", "d", response="eighteen"))
    settled(world)
    with world.store.read() as reader:
        found = world.runners["long"]._meter._traffic.between(reader, NOON - MINUTE, NOON + MINUTE, {})
    assert sorted(found.numbers("prediction").tolist()) == [4.0, 8.0]
