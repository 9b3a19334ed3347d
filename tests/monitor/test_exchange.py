"""What detectors are given of an exchange beside its texts: samples, log-probabilities, earlier turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from monitor.exchange import logprobs_in
from tests.monitor.support import World, check, contexts, generation
from tests.monitor.tracing import chat, record_id

SAID = {"role": "user", "parts": [{"type": "text", "content": "why?"}]}
CHOICES = [{"role": "assistant", "finish_reason": "stop", "parts": [{"type": "text", "content": text}]} for text in ("so", "no")]
LOGPROBS = {
    "content": [
        {"token": "se", "logprob": -0.5, "bytes": [115], "top_logprobs": [{"token": "se", "logprob": -0.5}]},
        {"token": "cret", "logprob": -1.5, "top_logprobs": []},
    ]
}
NUMBERS = [{"logprob": -0.5, "top_logprobs": [-0.5]}, {"logprob": -1.5, "top_logprobs": []}]


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world(checks=[check("over", "Overhearing", model="bot")], scoring={"settle_seconds": 0})


def given(world: World) -> dict[str, dict[str, Any]]:
    """By record, what the detector was given last."""
    world.settle(40)
    world.score()
    return {row["record_id"]: json.loads(row["detail"]) for row in world.rows("scores", "bot", "record_id, detail")}


def test_what_a_sender_pushes_reaches_the_detector(world: World) -> None:
    world.send("generations", generation("g", samples=["no", "maybe"], logprobs=LOGPROBS, messages=[SAID]), generation("bare"))
    found = given(world)
    assert found["g"] == {"messages": [SAID], "samples": ["no", "maybe"], "logprobs": NUMBERS}
    assert found["bare"] == {"messages": None, "samples": [], "logprobs": None}


def test_the_tokens_of_an_answer_are_not_stored_beside_their_log_probabilities(world: World) -> None:
    world.send("generations", generation("g", logprobs=LOGPROBS))
    [row] = world.rows("generations", "bot", "attributes")
    assert json.loads(row["attributes"]) == {"logprobs": NUMBERS}


@pytest.mark.parametrize(
    ("field", "value", "says"),
    (
        ("samples", "no", "is not a list of texts"),
        ("samples", ["no", 3], "is not a list of texts"),
        ("logprobs", {"content": "x"}, "as OpenAI sends it"),
        ("logprobs", [0.5], "a list of numbers of at most 0"),
    ),
)
def test_what_is_no_sample_or_log_probability_is_refused_with_what_to_send(
    world: World, field: str, value: Any, says: str
) -> None:
    answer = world.send("generations", generation("g", **{field: value}), generation("good"))
    assert ([*answer.accepted_by.values()], [error.reason for error in answer.rejects]) == ([1], ["wrong_type"])
    assert says in answer.rejects[0].message


def test_spans_have_them_in_attributes_wherever_an_instrumentation_keeps_the_answer(world: World) -> None:
    whole = orjson.dumps({"id": "c", "choices": [{"message": {"content": "so"}, "logprobs": LOGPROBS}]}).decode()
    world.send(
        "spans",
        chat("a", "own", modelwatch__samples='["no", "maybe"]', modelwatch__logprobs=orjson.dumps(LOGPROBS).decode()),
        chat("b", "openinference", output__value=whole),
        chat("c", "bare"),
    )
    found = given(world)
    assert found[record_id("a", "own")]["samples"] == ["no", "maybe"]
    for name in (record_id("a", "own"), record_id("b", "openinference")):
        assert [one["logprob"] for one in found[name]["logprobs"]["content"]] == [-0.5, -1.5]
    assert found[record_id("c", "bare")]["logprobs"] is None
    assert found[record_id("c", "bare")]["messages"][0]["role"] == "user"


def test_several_choices_of_a_call_are_left_to_the_detector(world: World) -> None:
    world.send("generations", generation("g", messages=[SAID, *CHOICES]))
    assert given(world)["g"] == {"messages": [SAID, *CHOICES], "samples": [], "logprobs": None}


def test_calls_of_a_trace_to_the_same_prompt_are_samples_of_each_other(world: World) -> None:
    world.send(
        "spans",
        chat("t", "one", response="so"),
        chat("t", "two", response="no", start=2, end=3),
        chat("t", "other", question="how?", response="thus", start=4, end=5),
        chat("t", "failed", response="", start=6, end=7, failed=True),
        chat("u", "elsewhere", response="never"),
    )
    found = {name: detail["samples"] for name, detail in given(world).items()}
    assert found[record_id("t", "one")] == ["no"]
    assert found[record_id("t", "two")] == ["so"]
    assert found[record_id("t", "other")] == found[record_id("u", "elsewhere")] == []


def test_they_are_found_in_sealed_rows_too(world: World) -> None:
    world.send("spans", chat("t", "one", response="so"), chat("t", "two", response="no", start=2, end=3))
    world.settle(40)
    world.seal()
    assert given(world)[record_id("t", "one")]["samples"] == ["no"]


def test_a_late_passage_has_them_read_again(world: World) -> None:
    world.send("generations", generation("g", samples=["no"]))
    assert given(world)["g"]["samples"] == ["no"]
    world.send("contexts", contexts("g", "late"))
    assert given(world)["g"]["samples"] == ["no"]
    assert [row["revision"] for row in world.rows("scores", "bot")] == [1, 2]


def test_nothing_is_read_for_detectors_that_do_not_ask(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("bare", "Bareness", model="bot")], scoring={"settle_seconds": 0})
    world.send("generations", generation("g", samples=["no"], messages=[SAID]))
    world.score()
    [request] = [one for one in world.scorer.asked if one.rows]
    assert not {"samples", "messages", "logprobs", "attributes"} & {*request.rows[0]}


@pytest.mark.parametrize(
    "value", (None, 3, "text", [], {"a": {"logprobs": None}}, {"logprobs": [0.5]}, {"logprobs": {"content": []}})
)
def test_what_holds_no_log_probabilities_has_none(value: Any) -> None:
    assert logprobs_in(value) is None


def test_a_deep_answer_is_looked_through_to_a_bound() -> None:
    value: Any = {"logprobs": [-0.5]}
    for _ in range(5):
        value = [value]
    assert logprobs_in(value) == [-0.5]
    for _ in range(2_000):
        value = [value]
    assert logprobs_in(value) is None
