"""The judge in the daemon: what it is asked is what was configured, counted exactly, and nobody waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from detectors import registry
from detectors.judging.sampling import sampled
from monitor.child import Child
from monitor.embeddings import Encoding
from monitor.errors import ChildFailed
from monitor.judging import process
from monitor.judging.judging import Judging
from monitor.rowchecks import is_judged
from tests.judge import INPUT_TOKENS, MODEL, OUTPUT_TOKENS, JudgeServer
from tests.monitor.support import InProcess, World, check, generation, sample

SETTINGS: dict[str, Any] = {"metric": "faithfulness", "rate": 1.0}


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as made:
        yield made


@pytest.fixture(autouse=True)
def _as_new(server: JudgeServer) -> None:
    server.asked.clear()
    server.codes.clear()
    server.mode, server.retry_after, server.usage, server.seconds, server.most = None, None, True, 0.0, 0


class Judged:
    """A world with a judge, whose process is in this one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.open()

    def open(self) -> None:
        world = self.world
        assert world.config.judge is not None
        self.served = process.Serve(process.setup(world.config.judge), world.clock.monotonic)
        self.child = InProcess(self.served)
        self.judging = Judging(
            world.config,
            world.store,
            cast(Child, self.child),
            Encoding(cast(Child, world.scorer)),
            clock=world.clock,
            metrics=world.metrics,
        )

    def restart(self) -> None:
        self.served.close()
        self.world.restart()
        self.open()

    def judge(self, most: int = 10_000) -> int:
        """Step until nothing is under way and nothing is due."""
        count = 0
        for _ in range(most):
            count += self.judging.step()
            if not self.judging._waiting and not self.due():
                return count
        raise AssertionError("it comes to no end")

    def due(self) -> int:
        found = self.world.state("SELECT count(*) AS n FROM judging WHERE due_at <= ?", self.world.clock.now())
        return int(found[0]["n"])

    def scores(self, columns: str = "record_id, outcome, reason, value") -> list[tuple[Any, ...]]:
        rows = self.world.rows("scores", "bot", columns, "detector = 'judge'")
        return sorted((tuple(row.values()) for row in rows), key=str)


@pytest.fixture
def judged(make_world: Callable[..., World], server: JudgeServer) -> Iterator[Callable[..., Judged]]:
    made: list[Judged] = []

    def make(*checks: dict[str, Any], budget: Any = None, **judge: Any) -> Judged:
        endpoint = {"base_url": server.url, "model": "tiny-judge", "budget": budget or {}, **judge}
        world = make_world(checks=[*checks], judge=endpoint, scoring={"settle_seconds": 0})
        made.append(Judged(world))
        return made[-1]

    yield make
    for one in made:
        one.served.close()


def judge(name: str = "judged", **settings: Any) -> dict[str, Any]:
    return check(name, model="bot", threshold={"upper": 0.5}) | {"detector": "judge", "settings": {**SETTINGS, **settings}}


def answer(record_id: str, mark: str = "", **fields: Any) -> dict[str, Any]:
    fields = {"contexts": ["Goods may be returned."], **fields}
    return generation(record_id, question="May I return it?", response=f"Goods may be returned. {mark}", **fields)


def test_an_answer_is_judged_with_its_provenance(judged: Callable[..., Judged]) -> None:
    one = judged(judge(), price={"input": 2.0, "output": 10.0})
    assert sample(one.world.metrics, "modelwatch_judge_cost_usd_total", llm_model="tiny-judge") == 0
    one.world.send("generations", answer("good"), answer("bad", "[[bad]]"))
    assert one.world.score() == 2
    assert one.judge() == 2
    assert one.scores() == [("bad", "ok", None, 0.0), ("good", "ok", None, 1.0)]
    row = one.world.rows("scores", "bot")[0]
    detail = json.loads(row["detail"])
    assert (row["stage"], row["device"]) == ("sampled", "endpoint")
    cost = 2 * (INPUT_TOKENS * 2 + OUTPUT_TOKENS * 10) / 1e6
    assert detail.pop("prompt_hash")
    assert detail == {
        "metric": "faithfulness", "ragas": "0.4.3", "llm_model": MODEL, "calls": 2, "input_tokens": 2 * INPUT_TOKENS,
        "output_tokens": 2 * OUTPUT_TOKENS, "cost_usd": cost,
    }  # fmt: skip
    assert sample(one.world.metrics, "modelwatch_judge_calls_total", llm_model="tiny-judge", code="200") == 4
    assert sample(one.world.metrics, "modelwatch_judge_cost_usd_total", llm_model="tiny-judge") == pytest.approx(2 * cost)
    assert sample(one.world.metrics, "modelwatch_detector_flagged_total", model="bot", detector="judge") == 1


# --- who is judged ---------------------------------------------------------------------------------------------------

IDS = [f"answer-{i}" for i in range(40)]


def test_the_sample_is_that_of_the_hash_and_the_same_for_all_metrics(judged: Callable[..., Judged], server: JudgeServer) -> None:
    rubric = {"metric": "discrete", "prompt": "Is it kind? {response}", "values": {"yes": 1, "no": 0}}
    one = judged(judge("a", rate=0.3), judge("b", rate=0.3, **rubric))
    one.world.send("generations", *(answer(i) for i in IDS))
    assert one.world.score() == len(IDS)
    one.judge()
    chosen = sorted(i for i in IDS if sampled(i, 0.3))
    assert 5 < len(chosen) < 20
    assert [row[0] for row in one.scores("record_id")] == sorted([*chosen, *chosen])
    assert len(server.asked) == 3 * len(chosen), "faithfulness asks twice, a rubric once"
    for metric in ("faithfulness", "discrete"):
        labels = {"model": "bot", "metric": metric, "why": "sampled"}
        assert sample(one.world.metrics, "modelwatch_judge_selected_total", **labels) == len(chosen)


def test_what_a_local_check_is_unsure_of_is_judged_besides_and_alerts_nobody(judged: Callable[..., Judged]) -> None:
    bare = check("bare", "Bareness", model="bot", threshold={"upper": 0.5})
    one = judged(bare, judge(rate=0.1, escalate=[{"check": "bare", "low": 0.4, "high": 0.6}]))
    half = {i: ["one"] if n % 4 == 0 else ["one", "two"] for n, i in enumerate(IDS)}  # 1/2 is unclear, 1/3 is not
    one.world.send("generations", *(answer(i, contexts=half[i]) for i in IDS))
    one.world.score()
    one.judge()
    drawn = {i for i in IDS if sampled(i, 0.1)}
    unclear = {i for i in IDS if len(half[i]) == 1} - drawn
    assert drawn
    expected = sorted([(i, "sampled", False) for i in drawn] + [(i, "escalated", None) for i in unclear])
    assert one.scores("record_id, stage, flagged") == expected


def test_without_a_sample_those_that_are_escalated_are_what_there_is(judged: Callable[..., Judged]) -> None:
    bare = check("bare", "Bareness", model="bot", threshold={"upper": 0.5})
    one = judged(bare, judge(rate=0, escalate=[{"check": "bareness", "low": 0.4, "high": 0.6}]))
    one.world.send("generations", answer("clear", contexts=["a", "b"]), answer("unclear", "[[bad]]"))
    one.world.score()
    one.judge()
    assert one.scores("record_id, stage, flagged") == [("unclear", "escalated", True)]


def test_a_late_context_has_it_judged_again_on_the_new_input(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge())
    one.world.send("generations", answer("g"))
    one.world.score()
    one.world.send("contexts", {"record_id": "g", "model": "bot", "contexts": ["Sale items not."]})
    one.world.score()
    assert one.judge() == 1, "the input that waited is gone"
    assert one.scores("record_id, revision") == [("g", 2)]
    assert any("Sale items not." in json.dumps(asked["messages"]) for asked in server.asked)


def test_a_late_context_makes_nothing_of_what_is_being_asked(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge())
    server.seconds = 1.0
    one.world.send("generations", answer("g"))
    one.world.score()
    while not server.asked:
        one.judging.step()
    one.world.send("contexts", {"record_id": "g", "model": "bot", "contexts": ["Sale items not."]})
    one.world.score()
    server.seconds = 0.0
    one.judge()
    assert one.scores("record_id, revision, outcome") == [("g", 2, "ok")]
    assert one.world.state("SELECT sum(calls) AS n FROM judge_spending")[0]["n"] == len(server.asked), "paid is paid"


def test_a_reference_and_messages_come_from_the_record(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(
        judge("exact", metric="exact_match"),
        judge("named", metric="exact_match", fields={"reference": "attributes.gold"}),
        judge("tools", metric="tool_call_f1"),
    )
    said = "Goods may be returned. "
    calls = [{"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": '{"at": 1}'}}]}]
    reference: dict[str, Any] = {"reference": said, "gold": "no", "reference_tool_calls": [{"name": "look", "args": {"at": 1}}]}
    one.world.send("generations", answer("with", messages=calls, **reference), answer("without"))
    one.world.score()
    one.judge()
    assert server.asked == [], "none of these asks anybody"
    found = {
        (json.loads(r["detail"]).get("metric"), r["record_id"], r["value"], r["reason"]) for r in one.world.rows("scores", "bot")
    }
    assert found == {
        ("exact_match", "with", 1.0, None),
        ("exact_match", "with", 0.0, None),
        ("tool_call_f1", "with", 1.0, None),
        (None, "without", None, "no_reference"),
        (None, "without", None, "no_question"),
    }


# --- what may be spent -----------------------------------------------------------------------------------------------


def test_the_calls_of_a_day_are_spent_and_not_one_more(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge(), budget={"calls_per_day": 11}, concurrency=3)
    one.world.send("generations", *(answer(i) for i in IDS[:10]))
    one.world.score()
    assert one.judge() == 10
    assert len(server.asked) == 10, "eleven do not pay for a sixth score of two calls"
    outcomes = [row[0] for row in one.scores("outcome, reason")]
    assert (outcomes.count("ok"), outcomes.count("not_evaluable")) == (5, 5)
    assert {row[1] for row in one.scores("outcome, reason")} == {None, "judge_budget_spent"}
    one.judging.step()
    assert sample(one.world.metrics, "modelwatch_judge_budget_left_ratio", kind="calls") == 1 / 11


def test_a_restart_does_not_give_the_budget_anew_and_the_next_day_does(judged: Callable[..., Judged]) -> None:
    one = judged(judge(), budget={"calls_per_day": 2, "timezone": "Europe/Oslo"})
    one.world.send("generations", answer("a"))
    one.world.score()
    one.judge()
    one.restart()
    one.world.send("generations", answer("b"))
    one.world.score()
    one.judge()
    one.world.clock.move(11 * 3600)  # noon UTC is 13 in Oslo
    one.world.send("generations", answer("c"))
    one.world.score()
    one.judge()
    assert one.scores("record_id, reason") == [("a", None), ("b", "judge_budget_spent"), ("c", None)]
    spent = one.world.state("SELECT day, llm_model, calls, input_tokens FROM judge_spending ORDER BY day")
    assert [tuple(row.values()) for row in spent] == [
        ("2026-03-01", "tiny-judge", 2, 2 * INPUT_TOKENS),
        ("2026-03-02", "tiny-judge", 2, 2 * INPUT_TOKENS),
    ]


def test_money_is_never_overspent_even_where_every_answer_took_all_it_may(judged: Callable[..., Judged]) -> None:
    price = {"input": 1.0, "output": 100.0}
    one = judged(judge(), budget={"usd_per_day": 0.5}, price=price, max_tokens=4096, concurrency=4)
    one.world.send("generations", *(answer(i) for i in IDS))
    one.world.score()
    one.judge()
    each = (INPUT_TOKENS * price["input"] + OUTPUT_TOKENS * price["output"]) / 1e6
    calls = sample(one.world.metrics, "modelwatch_judge_calls_total", llm_model="tiny-judge", code="200")
    spent = sample(one.world.metrics, "modelwatch_judge_cost_usd_total", llm_model="tiny-judge")
    assert calls is not None
    assert spent is not None
    assert calls > 4
    assert spent == pytest.approx(calls * each)
    assert spent <= 0.5
    assert spent + 4096 * price["output"] / 1e6 > 0.5 - 4 * each, "it did not stop long before"
    assert {row[0] for row in one.scores("reason")} == {None, "judge_budget_spent"}


# --- restarts, and a judge that misbehaves ---------------------------------------------------------------------------


def test_a_restart_neither_loses_nor_doubles_what_is_judged(judged: Callable[..., Judged]) -> None:
    one = judged(judge(), concurrency=2)
    one.world.send("generations", *(answer(i) for i in IDS[:12]))
    one.world.score()
    while not one.scores():
        one.judging.step()
    assert 0 < len(one.scores()) < 12
    one.restart()
    one.judge()
    one.restart()
    assert one.judge() == 0
    assert one.scores("record_id, outcome") == sorted((i, "ok") for i in IDS[:12])


def test_what_the_judges_process_dies_of_is_set_aside_and_the_others_are_judged(judged: Callable[..., Judged]) -> None:
    one = judged(judge())

    def die(exchange: Any) -> None:
        if any(item.row["record_id"] == "poison" for item in exchange.new):
            raise ChildFailed("judge: died while it was asked")

    one.child.before = die
    one.world.send("generations", answer("poison"), *(answer(i) for i in IDS[:5]))
    one.world.score()
    for _ in range(4):
        one.judge()
        one.world.clock.move(2)
    assert one.scores("record_id, outcome, reason") == [
        *((i, "ok", None) for i in IDS[:5]), ("poison", "failed", "judge_died"),
    ]  # fmt: skip
    assert one.world.letters() == [("poison", "scoring_failed")]


@pytest.mark.parametrize(
    ("mark", "outcome", "reason", "calls"),
    (
        ("prose", "failed", "bad_json", 2),  # and one more try
        ("garbage", "failed", "no_answer", 1),
        ("empty", "failed", "no_answer", 1),
        ("length", "failed", "truncated", 1),
        ("refuse", "failed", "refused", 1),
        ("nothing", "not_evaluable", "judge_undecided", 1),  # no statement is found in the answer
    ),
)
def test_a_judge_that_gives_no_number_is_an_outcome_and_hurts_no_other(
    judged: Callable[..., Judged], server: JudgeServer, mark: str, outcome: str, reason: str, calls: int
) -> None:
    one = judged(judge())
    one.world.send("generations", answer("strange", f"[[{mark}]]"), answer("fine"))
    one.world.score()
    one.judge()
    assert one.scores("record_id, outcome, reason") == [("fine", "ok", None), ("strange", outcome, reason)]
    assert len(server.asked) == calls + 2
    if outcome == "failed":
        assert one.world.letters() == [("strange", "scoring_failed")]


@pytest.mark.parametrize(
    ("code", "reason"), ((500, "server_error"), (401, "unauthorised"), (404, "not_found"), (400, "rejected_all"))
)
def test_a_judge_that_cannot_be_asked_is_asked_again_until_it_answers(
    judged: Callable[..., Judged], server: JudgeServer, code: int, reason: str
) -> None:
    one = judged(judge())
    server.mode = str(code)
    one.world.send("generations", answer("a"), answer("b"))
    assert one.world.score() == 2, "local scores do not wait"
    for _ in range(6):
        one.judge()
        one.world.clock.move(400)
    assert one.scores() == []
    put_off = sample(one.world.metrics, "modelwatch_judge_put_off_total", reason=reason)
    assert put_off is not None
    assert put_off >= 2
    assert sample(one.world.metrics, "modelwatch_judge_up", llm_model="tiny-judge") == 0
    server.mode = None
    for _ in range(6):
        one.judge()
        one.world.clock.move(400)
    assert one.scores("record_id, outcome") == [("a", "ok"), ("b", "ok")]
    assert sample(one.world.metrics, "modelwatch_judge_up", llm_model="tiny-judge") == 1


def test_after_so_long_it_is_given_up_with_its_reason(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge(), give_up_seconds=600)
    server.mode = "500"
    one.world.send("generations", answer("a"))
    one.world.score()
    for _ in range(6):
        one.judge()
        one.world.clock.move(200)
    assert one.scores() == [("a", "not_evaluable", "judge_unavailable", None)]


def test_what_is_gone_from_the_store_does_not_wait_for_ever(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge(), give_up_seconds=600)
    one.world.send("generations", answer("gone"), answer("there"))
    one.world.score()
    one.world.store.run(lambda t: t.execute("DELETE FROM generations WHERE record_id = 'gone'"))
    one.judge()
    assert one.scores("record_id, outcome") == [("there", "ok")]
    one.world.clock.move(3_600)  # it may be a damaged segment, which somebody brings back
    one.judge()
    assert one.scores("record_id, reason") == [("gone", "rows_unavailable"), ("there", None)]
    assert one.world.state("SELECT record_id FROM judging") == []


def test_an_endpoint_that_is_down_for_long_leaves_no_queue_that_grows(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge(), give_up_seconds=600, concurrency=1)
    server.mode = "500"
    one.world.send("generations", *(answer(i) for i in IDS))
    one.world.score()
    one.judge()
    asked = len(server.asked)
    one.world.clock.move(700)
    assert one.judging.step() == len(IDS), "two a step would be fewer than come"
    assert {row[0] for row in one.scores("reason")} == {"judge_unavailable"}
    assert len(server.asked) == asked


def test_what_asks_nobody_does_not_wait_for_an_endpoint_that_is_down(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge(), judge("exact", metric="exact_match"), concurrency=1)
    server.mode = "500"
    one.world.send("generations", *(answer(i, reference="no") for i in IDS))
    one.world.score()
    one.judge()
    assert one.scores("record_id, outcome") == sorted((i, "ok") for i in IDS)


def test_an_outage_does_not_count_against_a_record(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge())
    server.mode = "500"
    one.world.send("generations", answer("a"))
    one.world.score()
    for _ in range(4):
        one.judge()
        one.world.clock.move(400)
    server.mode = None
    died: list[bool] = []

    def die(exchange: Any) -> None:
        if exchange.new and not died:
            died.append(True)
            raise ChildFailed("judge: died while it was asked")

    one.child.before = die
    one.judge()
    one.world.clock.move(400)
    one.judge()
    assert died
    assert one.scores("record_id, outcome") == [("a", "ok")]


def test_what_is_cut_off_is_paid_as_far_as_is_known(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge(), call_seconds=60, score_seconds=0.3, price={"input": 1.0, "output": 1.0})
    one.world.send("generations", answer("slow", "[[hang]]"))
    one.world.score()
    one.judge()
    assert sample(one.world.metrics, "modelwatch_judge_calls_total", llm_model="tiny-judge", code="cancelled") == 1
    ((tokens, cost),) = [row.values() for row in one.world.state("SELECT input_tokens, cost_usd FROM judge_spending")]
    assert tokens > 100
    assert cost == pytest.approx(tokens / 1e6)


def test_a_reload_between_commit_and_count_pays_nothing_twice(
    judged: Callable[..., Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = judged(judge())
    one.world.send("generations", answer("a"), answer("b"))
    one.world.score()
    run, without = one.world.store.run, one.world.config.model_copy(update={"checks": ()})

    def run_and_reload(job: Any) -> Any:
        done = run(job)
        one.judging.configure(without)
        return done

    monkeypatch.setattr(one.world.store, "run", run_and_reload)
    one.judge()
    ((calls,),) = [row.values() for row in one.world.state("SELECT sum(calls) AS calls FROM judge_spending")]
    assert calls == sample(one.world.metrics, "modelwatch_judge_calls_total", llm_model="tiny-judge", code="200")
    assert one.world.state("SELECT count(*) AS n FROM judging")[0]["n"] == 0


def test_a_dead_endpoint_is_left_alone_after_some_calls(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge(), concurrency=1)
    server.mode = "500"
    one.world.send("generations", *(answer(i) for i in IDS))
    one.world.score()
    one.judge()
    assert len(server.asked) <= 8, "forty records, and three failures in a row of two calls each"
    assert one.due() == 0


def test_a_judge_that_hangs_takes_no_longer_than_it_may(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge(), call_seconds=0.2, score_seconds=1.0)
    one.world.send("generations", answer("slow", "[[hang]]"), answer("fine"))
    one.world.score()
    for _ in range(4):
        one.judge()
        one.world.clock.move(400)
    assert one.scores("record_id, outcome, reason") == [("fine", "ok", None), ("slow", "failed", "time_limit")]
    assert sample(one.world.metrics, "modelwatch_judge_calls_total", llm_model="tiny-judge", code="timeout") == 3


def test_who_asks_to_be_left_alone_is(judged: Callable[..., Judged], server: JudgeServer) -> None:
    one = judged(judge(), concurrency=1, score_seconds=5)
    server.mode, server.retry_after = "429", "30"
    one.world.send("generations", *(answer(i) for i in IDS[:5]))
    one.world.score()
    one.judge()
    assert len(server.asked) == 1, "the others know already"
    server.mode, server.retry_after = None, None
    one.world.clock.move(31)
    one.judge()
    assert [row[1] for row in one.scores("record_id, outcome")] == ["ok"] * 5


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_window_waits_for_the_judge_but_not_for_one_that_cannot_be_asked(
    judged: Callable[..., Judged], server: JudgeServer
) -> None:
    one = judged(judge())
    one.world.send("generations", *(answer(i) for i in IDS[:4]))
    one.world.score()
    one.world.clock.move(1200)
    one.world.send("generations", answer("later", timestamp="2026-03-01T12:20:00Z"))
    one.world.score()
    one.world.look()
    assert one.world.readings("judged", "bot") == {}
    one.judge()
    one.world.look()
    ((outcome, value, n),) = [r for s, r in one.world.readings("judged", "bot").items() if s.minute == 10]
    assert (outcome, value, n) == ("ok", 0.0, 4)


def test_only_the_judge_is_remote() -> None:
    assert [name for name in registry.names() if is_judged(name)] == ["judge"]
