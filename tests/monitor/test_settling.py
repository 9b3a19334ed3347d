"""Traces: what their calls count for, what they were given, and that order, batches, repeats and restarts play no part."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.faultpoints import arm
from monitor.inbox import Batch
from monitor.otlp.spans import LogRecord, Span
from tests.monitor.support import Held, World, contexts, generation, sample, wait_for
from tests.monitor.tracing import RESOURCE, agent, chat, event, record_id, reranker, retriever, span, trace_id

CHECK = {"name": "bare", "model": "bot", "detector": "tests.plugins:Bareness", "every": "10m", "threshold": {"upper": 0.9}}


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world(checks=[CHECK])


def totals(world: World) -> dict[str, Any]:
    """The sums that count, as the docs tell everybody to ask for them."""
    with world.store.read() as reader:
        calls = (
            f"SELECT * FROM {reader.source('calls', 'bot')} "
            "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1"
        )
        return reader.query(
            "SELECT count(DISTINCT request_id) AS requests, sum(input_tokens)::BIGINT AS input, "
            f"sum(output_tokens)::BIGINT AS output, sum(cost_usd) AS cost FROM ({calls}) WHERE counted"
        )[0]


def latest(world: World) -> dict[str, dict[str, Any]]:
    """By record, the calls row that counts."""
    found: dict[str, dict[str, Any]] = {}
    for row in world.rows("calls", "bot"):
        if row["record_id"] not in found or found[row["record_id"]]["revision"] < row["revision"]:
            found[row["record_id"]] = row
    return found


def given_to(world: World, record: str) -> list[str]:
    """Texts in force: those of the latest revision."""
    rows = world.rows("contexts", "bot", where=f"record_id = '{record}'")
    last = max((row["revision"] for row in rows), default=0)
    return [row["text"] for row in rows if row["revision"] == last]


def counter(world: World, name: str, llm: str = "small") -> float:
    """Over all providers and classes of errors."""
    return sum(
        one.value
        for family in world.metrics.registry.collect()
        for one in family.samples
        if one.name == f"modelwatch_llm_{name}" and one.labels["llm_model"] == llm
    )


def repeating_agent() -> list[Span]:
    """An agent and a wrapper, each of which repeats the tokens of the calls made inside: three times the truth in all."""
    return [
        agent("t", "agent", gen_ai__usage__input_tokens=300, gen_ai__usage__output_tokens=30),
        chat("t", "wrapper", "agent", 0.5, 8, tokens=(300, 30)),
        span("t", "tool", "wrapper", 3, 4, gen_ai__operation__name="execute_tool"),
        chat("t", "first", "wrapper", 1, 2, tokens=(100, 10)),
        chat("t", "second", "wrapper", 4, 5, tokens=(200, 20), question="and then?"),
    ]


def test_an_agent_that_repeats_its_calls_counts_once(world: World) -> None:
    spans = repeating_agent()
    naive = sum(int(s.attributes.get("gen_ai.usage.input_tokens", 0)) for s in spans)
    world.send("spans", *spans)
    assert world.settle(2) == 1
    assert totals(world) == {"requests": 2, "input": 300, "output": 30, "cost": None}
    assert naive == 3 * 300
    assert (counter(world, "requests_total"), counter(world, "input_tokens_total")) == (2, 300)
    assert [row["counted"] for row in latest(world).values()].count(False) == 1


def tool(trace: str, name: str, parent: str, start: float = 1, end: float = 2) -> Span:
    return span(trace, name, parent, start, end, gen_ai__operation__name="execute_tool")


def test_a_call_and_the_call_its_tool_makes_both_count(world: World) -> None:
    world.send(
        "spans",
        chat("t", "outer", end=9, tokens=(1000, 100)),
        tool("t", "tool", "outer"),
        agent("t", "a", "tool"),
        chat("t", "inner", "a", tokens=(10, 1)),
    )
    world.settle(2)
    assert totals(world) == {"requests": 2, "input": 1010, "output": 101, "cost": None}
    assert {r["request_id"] for r in latest(world).values()} == {record_id("t", "outer"), record_id("t", "inner")}


def test_a_wrapper_repeats_its_calls_and_not_those_of_its_tools(world: World) -> None:
    world.send("spans", *repeating_agent(), chat("t", "helper", "tool", 3, 3.5, tokens=(7, 1)))
    world.settle(2)
    assert totals(world) == {"requests": 3, "input": 307, "output": 31, "cost": None}
    assert [row["counted"] for row in latest(world).values()].count(False) == 1


@pytest.mark.parametrize("kind", ("agent", "chain", "other"))
def test_what_is_no_tool_is_seen_through(world: World, kind: str) -> None:
    """As ai.generateText around ai.generateText.doGenerate, or a chain of LangChain inside a gateway's client."""
    says: dict[str, Any] = {} if kind == "other" else {"openinference__span__kind": kind.upper()}
    between = span("t", "b", "outer", 1, 8, **says)
    world.send("spans", chat("t", "outer", end=9), between, chat("t", "inner", "b", 2, 3))
    world.settle(2)
    assert [row["type"] for row in world.rows("spans", "bot") if row["span_id"] == between.span_id] == [kind]
    assert totals(world) == {"requests": 1, "input": 100, "output": 10, "cost": None}


def test_a_wrapper_inside_a_tool_repeats_the_call_inside_it(world: World) -> None:
    world.send(
        "spans",
        chat("t", "outer", end=9, tokens=(1000, 100)),
        tool("t", "tool", "outer", 1, 8),
        chat("t", "client", "tool", 2, 7),
        chat("t", "gateway", "client", 3, 6),
    )
    world.settle(2)
    assert totals(world) == {"requests": 2, "input": 1100, "output": 110, "cost": None}


def test_what_a_tool_asked_takes_no_tokens_from_the_call_that_ran_it(world: World) -> None:
    world.send("spans", chat("t", "outer", end=9), tool("t", "tool", "outer"), chat("t", "inner", "tool", tokens=None))
    world.settle(2)
    calls = latest(world)
    assert [calls[record_id("t", n)]["input_tokens"] for n in ("outer", "inner")] == [100, None]


def test_an_embedding_inside_an_answer_repeats_nothing_of_it(world: World) -> None:
    embedding = span("t", "e", "c", 0.1, 0.2, gen_ai__operation__name="embeddings", gen_ai__usage__input_tokens=7)
    world.send("spans", chat("t", "c"), embedding)
    world.settle(2)
    assert totals(world) == {"requests": 2, "input": 107, "output": 10, "cost": None}
    assert [w["record_id"] for w in world.state("SELECT record_id FROM work")] == [record_id("t", "c")]


def test_a_gateway_that_retries_and_falls_back_makes_one_request(world: World) -> None:
    world.send(
        "spans",
        agent("t", "root"),
        chat("t", "client", "root", 0, 9),
        chat("t", "gateway", "client", 1, 8),
        chat("t", "first", "gateway", 1, 2, failed=True, tokens=None),
        chat("t", "second", "gateway", 3, 4, failed=True, tokens=None),
        chat("t", "third", "gateway", 5, 6, llm="other", tokens=(90, 9)),
    )
    world.settle(2)
    calls = latest(world)
    attempts = [calls[record_id("t", name)] for name in ("first", "second", "third")]
    assert {row["request_id"] for row in attempts} == {record_id("t", "client")}
    assert [(r["counted"], r["attempt"], r["fallback"], r["failed"]) for r in attempts] == [
        (True, 0, False, True), (True, 1, False, True), (True, 2, True, False),
    ]  # fmt: skip
    assert totals(world) == {"requests": 1, "input": 90, "output": 9, "cost": None}
    assert (counter(world, "requests_total", "other"), counter(world, "errors_total", "other")) == (1, 0)
    assert (counter(world, "retries_total"), counter(world, "retries_total", "other")) == (1, 1)


@pytest.mark.parametrize(
    ("name", "second", "requests"),
    (
        ("asked again after it failed", {"start": 2, "end": 3}, 1),
        ("without content", {"start": 2, "end": 3, "question": None}, 1),
        ("asked for something else", {"start": 2, "end": 3, "question": "and?"}, 2),
        ("begun before the first had ended", {"start": 0.5, "end": 3}, 2),
        ("made elsewhere", {"start": 2, "end": 3, "parent": "b"}, 2),
    ),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_siblings_are_attempts_of_one_request(world: World, name: str, second: dict[str, Any], requests: int) -> None:
    later = {"parent": "a", **second}
    world.send("spans", agent("t", "a"), agent("t", "b", "a"), chat("t", "1", "a", 0, 1, failed=True), chat("t", "2", **later))
    world.settle(2)
    assert totals(world)["requests"] == requests
    assert counter(world, "errors_total") == requests - 1


def test_siblings_of_which_none_failed_are_requests_of_their_own(world: World) -> None:
    world.send("spans", agent("t", "a"), chat("t", "1", "a", 0, 1), chat("t", "2", "a", 1, 2))
    world.settle(2)
    assert totals(world)["requests"] == 2


def test_what_only_the_outer_span_counts_is_counted_for_the_call_inside(world: World) -> None:
    world.send(
        "spans",
        chat("t", "outer", end=5, tokens=(70, 7), gen_ai__usage__cost=0.5),
        chat("t", "inner", "outer", 1, 2, tokens=None),
    )
    world.settle(2)
    assert totals(world) == {"requests": 1, "input": 70, "output": 7, "cost": 0.5}


@pytest.mark.parametrize(("cached", "went_in"), ((80, 100), (100, 100), (400, 500)))
def test_cached_tokens_are_inside_those_that_went_in(world: World, cached: int, went_in: int) -> None:
    for trace, spans in {
        "one": [chat("one", "c", gen_ai__usage__cache_read__input_tokens=cached)],
        "two": [
            chat("two", "c", gen_ai__usage__cache_read__input_tokens=cached),
            chat("two", "d", start=2, end=3, tokens=(0, 0)),
        ],
    }.items():
        world.send("spans", *spans)
        world.settle(2)
        row = latest(world)[record_id(trace, "c")]
        assert (row["input_tokens"], row["cache_read_tokens"]) == (went_in, cached)


def test_a_trace_without_its_root_settles_when_nothing_more_is_expected(world: World) -> None:
    world.send("spans", chat("t", "c", "root"))
    assert (world.settle(29), world.score()) == (0, 0)
    assert (world.settle(1), world.score()) == (1, 1)


def test_only_calls_that_count_are_scored(world: World) -> None:
    world.send("spans", *repeating_agent())
    world.settle(2)
    assert world.score() == 2
    assert set(world.ids("scores", "bot")) == {record_id("t", "first"), record_id("t", "second")}


def test_our_own_judge_is_stored_and_neither_counted_nor_scored(world: World) -> None:
    world.send("spans", chat("t", "judge", modelwatch__judge=True))
    world.settle(2)
    assert [row["own"] for row in world.rows("spans", "bot")] == [True]
    assert (world.rows("generations", "bot"), world.rows("calls", "bot"), world.score()) == ([], [], 0)


RAG = [
    agent("t", "root"),
    retriever("t", "search", "one", "two", "three", parent="root"),
    reranker("t", "rank", "three", "one", parent="root"),
    chat("t", "answer", "root", 1, 2),
]


@pytest.mark.parametrize("seal", (False, True), ids=("hot", "sealed"))
@pytest.mark.parametrize(
    "batches",
    ([[0, 1, 2, 3]], [[3], [0, 1, 2]], [[1], [3], [2, 0]], [[2], [3, 0], [1]]),
    ids=("together", "before", "between", "after"),
)
def test_retrieved_passages_come_to_the_answer_before_after_and_over_a_restart(
    world: World, batches: list[list[int]], seal: bool
) -> None:
    for batch in batches:
        world.send("spans", *(RAG[i] for i in batch))
        world.settle()
        if seal:
            world.seal()
        world.restart()
    assert given_to(world, record_id("t", "answer")) == ["three", "one"]
    assert latest(world)[record_id("t", "answer")]["passages"] == 2
    assert world.score() >= 1
    last = world.rows("scores", "bot")[-1]
    assert (last["record_id"], last["detail"]) == (record_id("t", "answer"), '{"passages":2}')


def test_a_late_retrieval_begins_a_new_input_revision_and_the_old_score_stays(world: World) -> None:
    world.send("spans", *(s for s in RAG if s.name != "search" and s.name != "rank"))
    world.settle(2)
    assert world.score() == 1
    world.send("spans", RAG[1])
    world.settle()
    assert world.score() == 1
    world.send("spans", RAG[2])
    world.settle()
    assert world.score() == 1
    scored = [(row["revision"], row["detail"]) for row in world.rows("scores", "bot")]
    assert scored == [(1, '{"passages":0}'), (2, '{"passages":3}'), (3, '{"passages":2}')]
    assert [row["input_revision"] for row in world.rows("calls", "bot")] == [1, 2, 3]


def test_what_is_retrieved_after_an_answer_began_is_not_given_to_it(world: World) -> None:
    world.send("spans", agent("t", "root"), chat("t", "early", "root", 0, 1), RAG[1], chat("t", "late", "root", 3, 4))
    world.settle(2)
    assert (given_to(world, record_id("t", "early")), given_to(world, record_id("t", "late"))) == ([], ["one", "two", "three"])


def test_a_retriever_around_others_speaks_for_them(world: World) -> None:
    world.send(
        "spans", agent("t", "root"), retriever("t", "outer", "best", parent="root", end=0.9),
        retriever("t", "db", "raw", "best", parent="outer", start=0.1, end=0.3), chat("t", "answer", "root", 1, 2),
    )  # fmt: skip
    world.settle(2)
    assert given_to(world, record_id("t", "answer")) == ["best"]


def test_passages_that_the_sender_gave_stand_before_those_that_were_found(world: World) -> None:
    answer = record_id("t", "answer")
    world.send("spans", *RAG)
    world.send("contexts", contexts(answer, "given", "by", "hand"))
    world.settle(2)
    assert world.score() == 1
    assert [row["detail"] for row in world.rows("scores", "bot")] == ['{"passages":3}']
    world.send("contexts", contexts(answer, "and later"))
    assert world.score() == 1
    assert [(row["revision"], row["detail"]) for row in world.rows("scores", "bot")][1:] == [(2, '{"passages":4}')]


def test_a_generation_that_was_pushed_joins_the_retrievals_of_its_trace(world: World) -> None:
    world.send("generations", generation("g", trace_id=trace_id("t"), span_id="f" * 16))
    world.send("spans", retriever("t", "search", "one", start=-2, end=-1))
    world.settle()
    assert given_to(world, "g") == ["one"]
    assert (world.score(), totals(world)["requests"]) == (1, 1)


def test_a_span_sent_again_is_a_duplicate_and_changes_nothing(world: World) -> None:
    spans = repeating_agent()
    world.send("spans", *spans)
    world.settle(2)
    before = world.rows("calls", "bot")
    for _ in range(2):
        again = world.send("spans", *spans)
        assert (again.accepted, again.duplicates, again.rejects) == (0, 5, [])
        world.settle()
        world.seal()
        world.restart()
    assert world.rows("calls", "bot") == before
    assert len(world.rows("generations", "bot")) == 3
    turned = dict(reversed(spans[1].attributes.items()))
    spans[1].attributes = turned
    assert world.send("spans", spans[1]).duplicates == 1


def test_a_span_of_the_same_id_and_other_content_is_a_conflict(world: World) -> None:
    world.send("spans", chat("t", "c"))
    answer = world.send("spans", chat("t", "c", tokens=(1, 1)), chat("t", "d"))
    assert ([r.reason for r in answer.rejects], answer.accepted) == (["conflict"], 1)
    assert [row["input_tokens"] for row in world.rows("generations", "bot")] == [100, 100]


def test_a_call_found_inside_another_after_it_settled_restates_it(world: World) -> None:
    world.send("spans", chat("t", "outer", end=5, tokens=(100, 10)))
    world.settle(2)
    world.score()
    world.send("spans", chat("t", "inner", "outer", 1, 2, tokens=(100, 12)))
    world.settle()
    rows = [(row["record_id"] == record_id("t", "outer"), row["revision"], row["counted"]) for row in world.rows("calls", "bot")]
    assert rows[0] == (True, 1, True)
    assert sorted(rows[1:]) == [(False, 1, True), (True, 2, False)]
    assert totals(world) == {"requests": 1, "input": 100, "output": 12, "cost": None}
    # What was counted stays counted, and only what is more is added.
    assert [counter(world, f"{name}_total") for name in ("requests", "input_tokens", "output_tokens")] == [1, 100, 12]


def test_a_call_that_waits_to_be_scored_when_it_turns_out_to_repeat_another_is_not(world: World) -> None:
    world.send("spans", chat("t", "outer", end=5))
    world.settle(2)
    world.send("spans", chat("t", "inner", "outer", 1, 2))
    world.settle()
    assert world.score() == 1
    assert world.ids("scores", "bot") == [record_id("t", "inner")]


def test_parents_that_run_in_a_circle_keep_nobody_from_settling(world: World) -> None:
    spans = [chat("t", "a", "b"), chat("t", "b", "a", 1, 2), chat("t", "c", "c", 2, 3), chat("u", "d")]
    world.send("spans", *spans)
    assert world.settle() == 2
    assert sum(row["counted"] for row in latest(world).values()) == 4
    assert sample(world.metrics, "modelwatch_traces_failed_total", model="bot") == 0


def test_a_deep_trace_settles(world: World) -> None:
    depth = 3_000
    world.send("spans", *(chat("t", str(i), str(i - 1) if i else None, i / 1e6, 1) for i in range(depth)))
    world.settle(2)
    assert totals(world)["requests"] == 1
    assert sample(world.metrics, "modelwatch_traces_failed_total", model="bot") == 0


# --- every order, every batching ---

EVERYTHING = [
    agent("t", "root", end=20),
    chat("t", "plan", "root", 0.1, 0.4),
    retriever("t", "search", "one", "two", "three", parent="root", start=0.5, end=1),
    retriever("t", "inner", "raw", parent="search", start=0.6, end=0.7),
    reranker("t", "rank", "two", "one", parent="root", start=1, end=1.5),
    chat("t", "client", "root", 2, 9),
    chat("t", "try", "client", 2.1, 3, failed=True, tokens=None),
    chat("t", "retry", "client", 3.1, 4),
    span("t", "tool", "root", 10, 11, gen_ai__operation__name="execute_tool"),
    retriever("t", "again", "four", parent="tool", start=10, end=10.5),
    chat("t", "last", "root", 12, 13, question="well?"),
    chat("u", "single"),
    chat("v", "asks", None, 0, 9, tokens=(1000, 100)),
    tool("v", "runs", "asks", 1, 8),
    chat("v", "client", "runs", 2, 7),
    chat("v", "gateway", "client", 3, 6),
]


def outcome(world: World) -> tuple[Any, ...]:
    calls = latest(world)
    fixed = ("counted", "request_id", "attempt", "fallback", "failed", "input_tokens", "output_tokens", "passages")
    counted = [record for record, row in sorted(calls.items()) if row["counted"]]
    return (
        {record: tuple(row[name] for name in fixed) for record, row in calls.items()},
        {record: given_to(world, record) for record in counted},
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    world = World(tmp_path_factory.mktemp("all") / "store")
    world.send("spans", *EVERYTHING)
    world.settle()
    found = outcome(world)
    world.close()
    return found


def test_of_all_at_once_the_result_is_what_it_should_be(expected: tuple[Any, ...]) -> None:
    calls, given_texts = expected
    assert sorted(given_texts) == sorted(
        [
            record_id("u", "single"),
            *(record_id("v", n) for n in ("asks", "gateway")),
            *(record_id("t", n) for n in ("plan", "try", "retry", "last")),
        ]
    )
    assert given_texts[record_id("t", "plan")] == []
    assert given_texts[record_id("t", "retry")] == ["two", "one"]
    assert given_texts[record_id("t", "last")] == ["two", "one", "four"]
    assert calls[record_id("t", "retry")][:4] == (True, record_id("t", "client"), 1, False)


@settings(max_examples=12, deadline=None)
@given(st.permutations(range(len(EVERYTHING))), st.lists(st.integers(1, 5), min_size=12, max_size=12), st.data())
def test_any_order_and_any_batching_end_in_the_same_calls_and_contexts(
    tmp_path_factory: pytest.TempPathFactory,
    expected: tuple[Any, ...],
    order: Sequence[int],
    sizes: Sequence[int],
    data: st.DataObject,
) -> None:
    world = World(tmp_path_factory.mktemp("orders") / "store")
    left = [EVERYTHING[i] for i in order]
    for size in sizes:
        batch, left = left[:size], left[size:]
        if not batch:
            break
        world.send("spans", *batch, *batch[: data.draw(st.integers(0, 1))])
        match data.draw(st.sampled_from(["settle", "wait", "seal", "restart"])):
            case "settle":
                world.settle()
            case "seal":
                world.settle()
                world.seal()
            case "restart":
                world.restart()
    world.send("spans", *left, *EVERYTHING[:2])
    world.settle()
    found = outcome(world)
    world.close()
    assert found == expected


# --- logs ---

ASKED = event("t", "c", "gen_ai.user.message", {"content": "from a log"}, at=0.1)
ANSWERED = event("t", "c", "gen_ai.choice", {"message": {"role": "assistant", "content": "also"}}, at=0.9)
BARE = chat("t", "c", question=None)


@pytest.mark.parametrize("order", ("before", "after", "late"))
def test_texts_that_come_as_logs_belong_to_the_generation_of_their_span(world: World, order: str) -> None:
    asked: list[dict[str, Any]] = []
    world.scorer.before = lambda request: asked.extend(request.rows)
    if order == "before":
        world.send("logs", ASKED, ANSWERED)
    world.send("spans", BARE)
    if order == "late":
        world.settle(2)
        assert world.score() == 1
        world.restart()
        world.scorer.before = lambda request: asked.extend(request.rows)
    if order != "before":
        assert world.send("logs", ASKED, ANSWERED).accepted == 2
    world.settle()
    assert world.score() == 1
    assert (asked[-1]["question"], asked[-1]["response"]) == ("from a log", "also")
    assert asked[-1]["revision"] == (2 if order == "late" else 1)
    world.audit.refresh()
    with duckdb.connect(str(world.store.root / "audit.duckdb"), read_only=True) as auditor:
        auditor.execute(f"SET file_search_path = '{world.store.root}'")
        ((question, response, messages),) = auditor.execute("SELECT question, response, messages FROM answers").fetchall()
    assert (question, response) == ("from a log", "also")
    assert [message["role"] for message in json.loads(messages)] == ["user", "assistant"]
    assert world.send("logs", ASKED).duplicates == 1
    world.settle()
    assert world.score() == 0


def test_logs_that_hold_nothing_to_keep_are_taken_and_counted(world: World) -> None:
    plain = LogRecord(0, None, None, None, "INFO", "hello", {}, RESOURCE, None, None)
    answer = world.send("logs", plain, ASKED)
    assert (answer.accepted, answer.rejects) == (2, [])
    assert sample(world.metrics, "modelwatch_ingest_logs_ignored_total") == 1
    assert len(world.rows("contents", "bot")) == 1


def test_a_score_that_comes_as_a_log_is_feedback(world: World) -> None:
    world.send(
        "logs", event("t", "c", "gen_ai.evaluation.result", gen_ai__evaluation__name="tone", gen_ai__evaluation__score__value=0.5)
    )
    row = world.rows("feedback", "bot")[0]
    assert (row["record_id"], row["name"], row["value"]) == (record_id("t", "c"), "tone", 0.5)


# --- faults ---


@pytest.mark.parametrize("place", ("commit.before", "commit.after"))
def test_a_settling_that_dies_at_its_commit_is_done_once(make_world: Callable[..., World], place: str) -> None:
    """Whether it died before the commit or after, the next one finds what is left to do."""
    world = make_world(checks=[CHECK])
    world.send("spans", *RAG)
    world.clock.move(2)

    def die(name: str) -> None:
        if name == place:
            arm(None)
            raise RuntimeError("killed")

    arm(die)
    try:
        with pytest.raises(RuntimeError, match="killed"):
            world.settling.step()
    finally:
        arm(None)
    world.restart()
    world.settle()
    assert len(world.rows("calls", "bot")) == 1
    assert given_to(world, record_id("t", "answer")) == ["three", "one"]
    assert (world.score(), world.state("SELECT count(*) AS n FROM traces")[0]["n"]) == (1, 0)


def test_a_span_that_comes_while_its_trace_is_being_settled_is_settled_next(world: World) -> None:
    world.send("spans", RAG[0], RAG[3])
    world.clock.move(2)
    held = Held(world.store)
    late = world.inbox.put(Batch("spans", [RAG[1]], "test"))  # will be stored after the look, and before what came of it
    with ThreadPoolExecutor(1) as pool:
        settled = pool.submit(world.settling.step)
        wait_for(lambda: len(world.store._queue) == 2, "the trace to be looked at")
        held.release()
        assert (settled.result(10), late.result(10).accepted) == (1, 1)
    assert given_to(world, record_id("t", "answer")) == []
    assert world.settle() == 1
    assert given_to(world, record_id("t", "answer")) == ["one", "two", "three"]


def test_a_revision_that_was_begun_elsewhere_is_not_used_again(world: World) -> None:
    """Each (record, input revision) has one outcome, also where passages were pushed and found, each in its turn."""
    world.send("spans", RAG[0], RAG[3])
    world.settle(2)
    world.score()
    for step in (1, 2):
        world.send("contexts", contexts(record_id("t", "answer"), f"pushed {step}"))
        world.score()
        world.send("spans", RAG[step])
        world.settle()
        world.score()
    revisions = [row["revision"] for row in world.rows("scores", "bot")]
    assert revisions == [1, 2, 3, 4, 5]
