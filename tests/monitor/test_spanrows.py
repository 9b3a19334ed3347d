"""Spans and logs through the inbox: what is kept of each, whose it is, and what is refused."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from monitor.otlp.spans import Event, Link
from monitor.records import Reject
from tests.monitor.support import NOON, World, sample
from tests.monitor.tracing import NOON_NS, RESOURCE, agent, chat, event, record_id, retriever, span, span_id, trace_id


def test_a_span_is_kept_as_it_came(world: World) -> None:
    one = replace(
        chat("t", "c", "p", 0, 1.5, failed=True),
        status_message="too slow", scope="tests", scope_version="3",
        events=[Event("first token", NOON_NS, {"n": 1})], links=[Link(trace_id("u"), span_id("x"), {})],
    )  # fmt: skip
    assert world.send("spans", one).accepted == 1
    row = world.rows("spans", "bot")[0]
    assert (row["record_id"], row["parent_id"], row["type"]) == (record_id("t", "c"), span_id("p"), "llm")
    assert (row["start_time"], row["duration_seconds"]) == (NOON, 1.5)
    assert (row["status"], row["status_message"], row["scope"]) == ("error", "too slow", "tests@3")
    assert (row["service"], row["release"], row["environment"]) == ("bot", "7", "test")
    assert orjson.loads(row["attributes"]) == one.attributes
    assert orjson.loads(row["events"]) == [{"name": "first token", "time_ns": NOON_NS, "attributes": {"n": 1}}]
    assert orjson.loads(row["links"])[0]["trace_id"] == trace_id("u")
    assert orjson.loads(row["resource"]) == RESOURCE


def test_a_span_of_a_model_call_is_a_generation_as_well(world: World) -> None:
    world.send("spans", chat("t", "c", "p", failed=True, gen_ai__response__model="small-1", gen_ai__conversation__id="talk"))
    row = world.rows("generations", "bot")[0]
    assert (row["record_id"], row["trace_id"], row["span_id"]) == (record_id("t", "c"), trace_id("t"), span_id("c"))
    assert (row["question"], row["response"], row["llm_model"], row["request_model"]) == ("why?", "so", "small-1", "small")
    assert (row["input_tokens"], row["output_tokens"], row["duration_seconds"]) == (100, 10, 1.0)
    assert (row["error_type"], row["conversation_id"], row["service"]) == ("_OTHER", "talk", "bot")


def test_a_span_of_a_retrieval_is_a_retrieval_as_well(world: World) -> None:
    world.send("spans", retriever("t", "r", "one", "two"))
    row = world.rows("retrievals", "bot")[0]
    assert (row["type"], row["query"], row["hits"], row["duration_seconds"]) == ("retriever", "find", 2, 0.5)
    assert orjson.loads(row["documents"])[1] == {"id": "d-two", "text": "two", "score": 0.9}


def test_every_row_that_came_of_a_batch_is_counted_by_its_kind(world: World) -> None:
    world.send("spans", agent("t", "a"), chat("t", "c", "a"), retriever("t", "r", "one", parent="a"))
    counted = {
        kind: sample(world.metrics, "modelwatch_ingest_records_total", model="bot", kind=kind)
        for kind in ("spans", "generations", "retrievals")
    }
    assert counted == {"spans": 3, "generations": 1, "retrievals": 1}


def test_a_generation_pushed_before_its_span_stays_as_it_was(world: World) -> None:
    pushed = {"model": "bot", "trace_id": trace_id("t"), "span_id": span_id("c"), "response": "pushed"}
    world.send("generations", pushed)
    answer = world.send("spans", chat("t", "c"), chat("t", "d"))
    assert (answer.accepted, answer.rejects) == (2, [])
    assert [row["response"] for row in world.rows("generations", "bot")] == ["pushed", "so"]


def test_one_id_twice_in_a_batch_is_one_span_and_one_generation(world: World) -> None:
    answer = world.send("spans", chat("t", "c"), chat("t", "c"))
    assert (answer.accepted, answer.duplicates) == (1, 1)
    assert (len(world.rows("spans", "bot")), len(world.rows("generations", "bot"))) == (1, 1)


def test_a_score_in_a_span_is_feedback(world: World) -> None:
    said: dict[str, Any] = {"annotations__0__annotation__name": "tone", "annotations__0__annotation__score": 0.25}
    one = chat("t", "c", **said)
    world.send("spans", one)
    world.send("spans", one)
    rows = world.rows("feedback", "bot", "record_id, name, value")
    assert rows == [{"record_id": record_id("t", "c"), "name": "tone", "value": 0.25}]


def test_no_bytes_of_a_file_are_kept(world: World) -> None:
    image = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4).decode()
    parts = [{"role": "user", "parts": [{"type": "blob", "mime_type": "image/png", "content": image}]}]
    world.send(
        "spans",
        chat("t", "naked", gen_ai__input__messages=orjson.dumps(parts).decode()),
        chat("t", "uri", note=f"see data:image/png;base64,{image} there"),
        replace(chat("t", "event"), events=[Event("e", 0, {"image": f"data:image/png;base64,{image}"})]),
    )
    for kind in ("spans", "generations"):
        for row in world.rows(kind, "bot"):
            assert not any(image[200:260] in text for text in row.values() if isinstance(text, str)), (kind, row["record_id"])


def test_a_span_without_an_end_ends_where_it_began(world: World) -> None:
    world.send("spans", replace(chat("t", "a"), end_ns=0), replace(chat("t", "b"), start_ns=0, end_ns=0))
    rows = world.rows("spans", "bot", "event_time, start_time, duration_seconds")
    assert rows == [{"event_time": NOON, "start_time": NOON, "duration_seconds": None}] * 2


def test_a_bad_span_costs_only_itself(make_world: Callable[..., World]) -> None:
    world = make_world(server={"max_text_bytes": 10_000})
    answer = world.send(
        "spans",
        Reject(0, "bad_span_id", "no id", None, "{}"),
        replace(chat("t", "early"), end_ns=2**70),
        chat("t", "large", note="x" * 10_000),
        chat("t", "good"),
    )
    assert [(r.index, r.reason) for r in answer.rejects] == [(0, "bad_span_id"), (1, "bad_timestamp"), (2, "too_large")]
    assert answer.accepted == 1
    assert [reason for _, reason in world.letters()] == ["bad_span_id", "bad_timestamp", "too_large"]


MODELS = (
    {"name": "bot", "task": "llm"},
    {"name": "shop", "task": "llm", "match": {"service.namespace": "shop", "tier": "1"}},
    {"name": "houses", "task": "regression"},
)


@pytest.mark.parametrize(
    ("resource", "attributes", "default", "expected"),
    (
        ({"service.name": "bot"}, {}, None, "bot"),
        ({"service.name": "web", "service.namespace": "shop", "tier": 1}, {}, None, "shop"),
        ({"service.name": "bot", "service.namespace": "shop"}, {"tier": 1}, None, "shop"),
        ({"service.name": "bot", "service.namespace": "shop"}, {"tier": 2}, None, "bot"),
        ({"service.name": "bot", "modelwatch.model": "shop"}, {}, None, "shop"),
        ({"service.name": "bot", "modelwatch.model": "bot"}, {"modelwatch.model": "shop"}, None, "shop"),
        ({"service.name": "web"}, {}, "bot", "bot"),
        ({"service.name": "web"}, {}, None, "unknown_model"),
        ({}, {}, None, "unknown_model"),
        ({"service.name": "bot", "modelwatch.model": "web"}, {}, "bot", "unknown_model"),
        ({"service.name": "houses"}, {}, None, "wrong_task"),
        ({"service.name": "bot"}, {"modelwatch.model": 5}, None, "unknown_model"),
    ),
)  # fmt: skip
def test_whose_a_span_is(
    make_world: Callable[..., World], resource: dict[str, Any], attributes: dict[str, Any], default: str | None, expected: str
) -> None:
    world = make_world(models=MODELS, otlp={"default_model": default})
    answer = world.send("spans", replace(span("t", "s", resource=resource), attributes=attributes))
    assert [*answer.accepted_by, *(r.reason for r in answer.rejects)] == [expected]


def test_the_model_of_a_batch_stands_before_the_default(make_world: Callable[..., World]) -> None:
    world = make_world(models=MODELS, otlp={"default_model": "bot"})
    assert list(world.send("spans", span("t", "s", resource={}), model="shop").accepted_by) == ["shop"]


def test_a_log_without_a_span_and_one_of_our_judge_are_ignored(world: World) -> None:
    answer = world.send(
        "logs",
        replace(event("t", "c", "gen_ai.user.message", {"content": "hi"}), span_id=None),
        event("t", "c", "gen_ai.user.message", {"content": "hi"}, modelwatch__judge=True),
        event("t", "c", "something.else", {"content": "hi"}),
    )
    assert (answer.accepted, answer.rejects, world.rows("contents", "bot")) == (3, [], [])


def test_a_call_costs_what_was_reported_else_what_the_table_says_else_nothing_is_known(world: World) -> None:
    world.send(
        "spans",
        chat("t", "reported", gen_ai__usage__cost=0.5, llm="gpt-4o"),
        chat("u", "known", llm="gpt-4o", tokens=(1_000_000, 0)),
        chat("v", "unknown", llm="of-our-own"),
    )
    pushed = {
        "model": "bot",
        "timestamp": 0,
        "response": "so",
        "llm_model": "gpt-4o",
        "input_tokens": 1_000_000,
        "output_tokens": 0,
    }
    world.send("generations", pushed)
    world.settle()
    costs = [(row["cost_usd"], row["cost_source"]) for row in world.rows("generations", "bot")]
    assert costs == [(0.5, "reported"), (2.5, "table"), (None, None), (2.5, "table")]
    spent = [
        sample(world.metrics, "modelwatch_llm_cost_usd_total", model="bot", provider=provider, llm_model="gpt-4o")
        for provider in ("openai", "unknown")
    ]
    assert spent == [3.0, 2.5]
    assert sample(world.metrics, "modelwatch_llm_unpriced_total", model="bot", provider="openai", llm_model="of-our-own") == 1


def test_a_price_table_of_ones_own_takes_the_place_of_ours(make_world: Callable[..., World], tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    prices = "- {provider: openai, model: of-*, input: 10, output: 1, source: us}"
    file.write_text(f"sources: {{us: {{document: ours, as_of: 2026-01-01}}}}\nprices:\n{prices}\n")
    world = make_world(prices={"file": file})
    world.send("spans", chat("t", "a", llm="of-our-own", tokens=(100_000, 0)), chat("t", "b", llm="gpt-4o"))
    assert [row["cost_usd"] for row in world.rows("generations", "bot")] == [1.0, None]
