"""Scores: one outcome for each input of a generation, whatever comes late, raises or dies."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from monitor.child import Child
from monitor.config import Check
from monitor.errors import ChildAway, ChildFailed, StoreUnavailable
from monitor.helpers import ScoreAnswer, ScoreRequest
from monitor.rowchecks import row_checks
from monitor.scoring import Scoring
from tests.monitor.support import NOON, World, check, contexts, generation, sample, wait_for

BARENESS = check("bare", "Bareness", model="bot", threshold={"upper": 0.5})


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world(checks=[BARENESS], scoring={"settle_seconds": 30, "attempts": 2})


def scores(world: World, columns: str = "record_id, revision, outcome, value") -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in world.rows("scores", "bot", columns)]


def waiting(world: World) -> int:
    return int(world.state("SELECT count(*) AS n FROM work")[0]["n"])


def test_a_generation_with_its_contexts_is_scored_at_once(world: World) -> None:
    world.send("generations", generation("g", contexts=["one"]))
    assert world.score() == 1
    row = world.rows("scores", "bot")[0]
    assert (row["outcome"], row["value"], row["flagged"], row["revision"]) == ("ok", 0.5, False, 1)
    assert (row["event_time"], row["trace_id"], row["received_at"]) == (NOON, None, NOON)
    assert (row["detector"], row["detector_version"], json.loads(row["detail"])) == ("bareness", "1", {"passages": 1})
    claim = world.rows("claims", "bot")[0]
    assert (claim["start_offset"], claim["end_offset"], claim["context_seq"]) == (0, 2, 1)
    assert (world.score(), waiting(world)) == (0, 0)
    assert sample(world.metrics, "modelwatch_detector_evaluations_total", model="bot", detector="bareness") == 1
    assert sample(world.metrics, "modelwatch_detector_flagged_total", model="bot", detector="bareness") == 0


def test_each_score_is_counted_and_kept_by_the_stage_that_gave_it(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("staged", "Staged", model="bot", threshold={"upper": 0.5})], scoring={"settle_seconds": 0})
    world.send("generations", generation("a", contexts=["one"]), generation("b"), generation("c", contexts=["one", "two"]))
    world.score()
    assert scores(world, "record_id, stage") == [("a", "closer"), ("b", "quick"), ("c", "closer")]
    for stage, count in (("closer", 2), ("quick", 1)):
        labels = {"model": "bot", "detector": "staged", "stage": stage}
        assert sample(world.metrics, "modelwatch_detector_stage_total", **labels) == count


def test_an_encoder_that_left_its_device_is_told_of(world: World) -> None:
    real = world.scorer._answer

    def starved(request: ScoreRequest) -> ScoreAnswer:
        answer: ScoreAnswer = real(request)
        return replace(answer, device="cpu", fallback=True, out_of_memory=3)

    world.send("generations", generation("a", contexts=["one"]))
    world.score()
    assert sample(world.metrics, "modelwatch_device_fallback_active") == 0
    world.scorer._answer = starved
    world.send("generations", generation("b", contexts=["one"]))
    world.score()
    assert sample(world.metrics, "modelwatch_device_fallback_active") == 1
    assert sample(world.metrics, "modelwatch_device_out_of_memory_batches") == 3


def test_one_of_a_trace_waits_for_the_trace_to_settle(world: World) -> None:
    world.send("generations", generation("g", trace_id="t" * 32, contexts=["one"]))
    assert world.score() == 0
    assert world.settle(1.5) == 1
    assert world.score() == 1
    assert world.rows("scores", "bot", "trace_id, value") == [{"trace_id": "t" * 32, "value": 0.5}]


def test_one_without_waits_for_them_to_settle(world: World) -> None:
    world.send("generations", generation("g"))
    world.clock.move(29)
    assert world.score() == 0
    world.clock.move(1)
    assert world.score() == 1
    assert scores(world) == [("g", 1, "ok", 1.0)]
    assert sample(world.metrics, "modelwatch_detector_flagged_total", model="bot", detector="bareness") == 1


def test_contexts_that_come_while_it_waits_are_part_of_its_first_input(world: World) -> None:
    world.send("generations", generation("g"))
    world.clock.move(5)
    world.send("contexts", contexts("g", "one"), contexts("g", "two"))
    world.clock.move(25)
    world.score()
    assert scores(world) == [("g", 1, "ok", pytest.approx(1 / 3))]


def test_contexts_that_come_before_their_generation_are_part_of_it(world: World) -> None:
    world.send("contexts", contexts("g", "one"))
    world.seal()
    world.restart()
    world.clock.move(3600)
    assert world.score() == 0
    world.send("generations", generation("g"))
    world.score()
    assert scores(world) == [("g", 1, "ok", 0.5)]
    assert waiting(world) == 0


def test_a_late_context_makes_a_new_input_and_the_old_score_stays(world: World) -> None:
    world.send("generations", generation("g", contexts=["one"]))
    world.score()
    world.clock.move(60)
    world.send("contexts", contexts("g", "two"))
    assert world.score() == 1
    world.seal()
    world.send("contexts", contexts("g", "three", "two"))
    world.score()
    assert scores(world) == [("g", 1, "ok", 0.5), ("g", 2, "ok", pytest.approx(1 / 3)), ("g", 3, "ok", 0.25)]
    assert [(r["text"], r["revision"]) for r in world.rows("contexts", "bot")] == [("one", 1), ("two", 2), ("three", 3)]
    assert [r["context_seq"] for r in world.rows("claims", "bot") if r["revision"] == 3] == [1, 2, 3]


def test_a_context_sent_again_scores_nothing_again(world: World) -> None:
    world.send("generations", generation("g", contexts=["one"]))
    world.score()
    world.send("contexts", contexts("g", "one"))
    world.send("generations", generation("g", contexts=["one"]))
    assert (world.score(), len(scores(world))) == (0, 1)


def test_a_context_that_comes_while_scoring_is_in_flight_has_it_done_again(world: World) -> None:
    world.send("generations", generation("g", contexts=["one"]), generation("h", contexts=["one"]))

    def meanwhile(request: Any) -> None:
        world.scorer.before = lambda request: None
        world.send("contexts", contexts("g", "two"))

    world.scorer.before = meanwhile
    assert world.scoring.step() == 1, "only the one whose input is what was read"
    assert scores(world) == [("h", 1, "ok", 0.5)]
    assert world.score() == 1
    assert scores(world) == [("h", 1, "ok", 0.5), ("g", 1, "ok", pytest.approx(1 / 3))]
    assert sample(world.metrics, "modelwatch_detector_evaluations_total", model="bot", detector="bareness") == 2


def test_a_kill_between_the_scores_and_their_commit_scores_them_once(world: World) -> None:
    world.send("generations", generation("g", contexts=["one"]))

    def killed(request: Any) -> None:
        raise KeyboardInterrupt

    world.scorer.before = killed
    with pytest.raises(KeyboardInterrupt):
        world.scoring.step()
    world.restart()
    assert world.score() == 1
    world.restart()
    assert (world.score(), scores(world)) == (0, [("g", 1, "ok", 0.5)])


def test_each_detector_and_each_setting_has_an_outcome_of_its_own(make_world: Callable[..., World]) -> None:
    half = check("half", "Bareness", model="bot", settings={"scale": 0.5})
    same = check("same again", "Bareness", model="bot", threshold={"upper": 0.9}) | {"name": "same-again"}
    world = make_world(checks=[BARENESS, half, same])
    world.send("generations", *(generation(f"g{i}", contexts=["one"]) for i in range(3)))
    assert world.score() == 3
    found = scores(world, "record_id, settings_hash, value")
    assert len(found) == len({f[:2] for f in found}) == 6
    assert sorted({f[2] for f in found}) == [0.25, 0.5]
    assert [len(c) for c in row_checks(world.config).values()] == [2]


def test_outcomes_other_than_a_value_are_kept_and_counted(world: World) -> None:
    world.send("generations", *(generation(q, question=q, contexts=["one"]) for q in ("raise", "decline", "fine")))
    assert world.score() == 3
    assert scores(world, "record_id, outcome, reason, value") == [
        ("raise", "failed", "RuntimeError", None),
        ("decline", "not_evaluable", "no_context", None),
        ("fine", "ok", None, 0.5),
    ]
    assert world.letters() == [("raise", "scoring_failed")]
    assert world.rows("deadletters", "")[0]["message"] == "RuntimeError: asked to"
    labels = {"model": "bot", "detector": "bareness"}
    assert sample(world.metrics, "modelwatch_detector_failures_total", reason="RuntimeError", **labels) == 1
    assert sample(world.metrics, "modelwatch_detector_not_evaluable_total", reason="no_context", **labels) == 1
    assert sample(world.metrics, "modelwatch_deadletter_records", reason="scoring_failed") == 1
    world.restart()
    assert sample(world.metrics, "modelwatch_deadletter_records", reason="scoring_failed") == 1


def test_a_record_that_kills_the_scorer_is_found_and_set_aside_and_the_others_are_scored(world: World) -> None:
    def die(request: Any) -> None:
        if any(row["record_id"] == "poison" for row in request.rows):
            raise ChildFailed("scorer: died while it was asked")

    world.send("generations", *(generation(i, contexts=["one"]) for i in ("a", "b", "poison", "c", "d")))
    world.scorer.before = die
    assert world.scoring.step() == 4
    assert [w["attempts"] for w in world.state("SELECT attempts FROM work")] == [1]
    world.send("generations", generation("e", contexts=["one"]))
    assert world.scoring.step() == 1, "it is tried by itself, and takes nobody with it"
    assert world.scoring.step() == 1
    assert sorted(scores(world, "record_id, outcome, reason")) == [
        *((i, "ok", None) for i in "abcde"),
        ("poison", "failed", "scorer_died"),
    ]
    assert world.letters() == [("poison", "scoring_failed")]
    assert waiting(world) == 0


def test_the_same_with_a_scorer_that_really_dies(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[BARENESS], scoring={"attempts": 1})
    setup = {"device": "cpu"}
    scorer = Child("scorer", "monitor.helpers:scorer", setup, nice=0, clock=world.clock, metrics=world.metrics)
    with contextlib.ExitStack() as stack:
        stack.callback(scorer.stop)
        world.scoring = Scoring(world.config, world.store, scorer, clock=world.clock, metrics=world.metrics)
        world.send("generations", *(generation(q, question=q, contexts=["one"]) for q in ("fine", "die", "raise")))
        while waiting(world):
            world.scoring.step()
    assert sorted(scores(world, "record_id, outcome, reason")) == [
        ("die", "failed", "scorer_died"),
        ("fine", "ok", None),
        ("raise", "failed", "RuntimeError"),
    ]


def test_an_answer_that_cannot_be_kept_fails_its_record_and_no_other(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[BARENESS], scoring={"attempts": 1})
    world.send("generations", *(generation(q, question=q, contexts=["one"]) for q in ("fine", "odd-detail", "good")))
    assert world.score() == 3
    assert sorted(scores(world, "record_id, outcome, reason")) == [
        ("fine", "ok", None),
        ("good", "ok", None),
        ("odd-detail", "failed", "bad_answer"),
    ]
    assert world.letters() == [("odd-detail", "scoring_failed")]


def test_a_scorer_that_is_away_is_no_fault_of_the_records(world: World) -> None:
    world.send("generations", generation("g", contexts=["one"]))
    asked = 0

    def away(request: Any) -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise ChildAway("scorer: being restarted")

    world.scorer.before = away
    assert world.score() == 1
    assert scores(world) == [("g", 1, "ok", 0.5)]


def test_what_no_check_scores_does_not_pile_up(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.send("generations", *(generation(f"g{i}", contexts=["one"]) for i in range(50)))
    world.score()
    assert (waiting(world), scores(world)) == (0, [])


def test_a_check_that_is_added_later_scores_what_comes_from_then_on(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.send("generations", generation("before", contexts=["one"]))
    world.score()
    world.scoring.configure(world.config.model_copy(update={"checks": (Check.model_validate(BARENESS),)}))
    world.send("generations", generation("after", contexts=["one"]))
    world.score()
    assert scores(world, "record_id") == [("after",)]


def test_the_oldest_is_scored_first_in_batches(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[BARENESS], scoring={"batch_records": 4})
    for i in range(10):
        world.send("generations", generation(f"g{i}", contexts=["one"]))
        world.clock.move(1)
    assert [world.scoring.step() for _ in range(4)] == [4, 4, 2, 0]
    assert [len(r.rows) for r in world.scorer.asked] == [4, 4, 2]
    assert scores(world, "record_id") == [(f"g{i}",) for i in range(10)]


def test_how_long_the_oldest_waits_is_exported(world: World) -> None:
    world.send("generations", generation("g", contexts=["one"]), generation("h", contexts=["one"]))
    world.scorer.before = lambda request: world.clock.move(7)
    world.scoring.step()
    assert sample(world.metrics, "modelwatch_queue_records", queue="scoring") == 2
    assert sample(world.metrics, "modelwatch_queue_oldest_record_timestamp_seconds", queue="scoring") == NOON.timestamp()
    world.scoring.step()
    assert sample(world.metrics, "modelwatch_queue_records", queue="scoring") == 0
    now = (NOON + timedelta(seconds=7)).timestamp()
    assert sample(world.metrics, "modelwatch_queue_oldest_record_timestamp_seconds", queue="scoring") == now


def test_sealed_generations_and_contexts_are_scored_as_hot_ones_are(world: World) -> None:
    world.send("generations", *(generation(f"g{i}") for i in range(3)))
    world.send("contexts", *(contexts(f"g{i}", *["x", "y"][:i]) for i in range(1, 3)))
    world.seal()
    world.send("generations", generation("g3"))
    world.restart()
    world.clock.move(30)
    world.score()
    values = dict(scores(world, "record_id, value"))
    assert values == {"g0": 1.0, "g1": 0.5, "g2": pytest.approx(1 / 3), "g3": 1.0}


def test_its_thread_scores_what_comes_and_waits_for_a_store_that_is_away(world: World) -> None:
    failures = 1
    run = world.store.run

    class Flaky:
        """A store that cannot be written to at first."""

        def __getattr__(self, name: str) -> Any:
            return getattr(world.store, name)

        def run(self, work: Any) -> Any:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise StoreUnavailable("being reopened")
            return run(work)

    store: Any = Flaky()
    world.scoring._store = store
    world.send("generations", generation("g", contexts=["one"]))
    world.scoring.start()
    try:
        wait_for(lambda: scores(world), "the score")
    finally:
        world.scoring.stop()
    assert scores(world) == [("g", 1, "ok", 0.5)]


def test_a_score_that_may_not_alert_is_stored_and_moves_no_flag_reading_or_histogram(make_world: Callable[..., World]) -> None:
    doubtful = check("doubtful", "Doubtful", model="bot", flag=0.4, threshold={"upper": 0.2}, min_records=2)
    world = make_world(checks=[doubtful], scoring={"settle_seconds": 0})
    at = NOON - timedelta(minutes=55)
    world.send("generations", generation("bare", at), *(generation(name, at, contexts=["one"]) for name in ("a", "b")))
    world.send("generations", generation("next", at + timedelta(minutes=10), contexts=["one"]))
    world.score()
    assert scores(world, "record_id, outcome, value, flagged")[:3] == [
        ("bare", "ok", 1.0, None),
        ("a", "ok", 0.5, False),
        ("b", "ok", 0.5, False),
    ]
    labels = {"model": "bot", "detector": "doubtful"}
    assert sample(world.metrics, "modelwatch_detector_evaluations_total", **labels) == 4
    assert sample(world.metrics, "modelwatch_detector_score_ratio_count", **labels) == 3
    assert sample(world.metrics, "modelwatch_detector_flagged_total", **labels) == 0
    world.look()
    [reading] = world.rows("readings", "bot")
    assert (reading["outcome"], reading["value"], reading["n_current"]) == ("ok", 1.0, 2)
    assert json.loads(reading["metrics"])["mean_score"] == 0.5
    [incident] = world.rows("incidents", "bot")
    assert [one["record_id"] for one in json.loads(incident["evidence"])["worst_records"]] == ["a", "b"]
