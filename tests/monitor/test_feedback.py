"""Feedback as it is pushed and as spans carry it: checked, stored once, joined to what it is about."""

from __future__ import annotations

from typing import Any

import pytest

from monitor import feedback
from tests.monitor.support import NOON, Door, World, generation, prediction

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def thumb(**fields: Any) -> dict[str, Any]:
    return {"record_id": "g-1", "model": "bot", "name": "helpful", "value": True, "rater": "ann", **fields}


def test_feedback_joins_to_its_generation_by_sql(world: World) -> None:
    world.send("generations", generation("g-1"), generation(f"{TRACE}-{SPAN}"))
    answer = world.send(
        "feedback",
        thumb(comment="just what I asked", source="Human"),
        {"model": "bot", "trace_id": TRACE.upper(), "span_id": SPAN, "name": "tone", "label": "rude", "extra": {"page": 3}},
    )
    assert (answer.accepted, answer.rejects) == (2, [])
    with world.store.read() as reader:
        left, right = reader.source("generations", "bot"), reader.source("feedback", "bot")
        found = reader.query(
            f"SELECT record_id, f.name, f.value, f.label, f.comment, f.source, f.rater, f.attributes "
            f"FROM {left} g JOIN {right} f USING (model, record_id) ORDER BY f.seq"
        )
    assert [list(row.values()) for row in found] == [
        ["g-1", "helpful", 1.0, None, "just what I asked", "human", "ann", None],
        [f"{TRACE}-{SPAN}", "tone", None, "rude", None, "user", None, '{"extra":{"page":3}}'],
    ]


def test_feedback_on_a_whole_trace_has_no_record(world: World) -> None:
    world.send("feedback", {"model": "bot", "trace_id": TRACE, "name": "solved", "value": 0})
    assert [(r["record_id"], r["trace_id"], r["value"]) for r in world.rows("feedback", "bot")] == [(None, TRACE, 0.0)]


def test_feedback_can_be_on_a_prediction(world: World) -> None:
    world.send("predictions", prediction("a"))
    assert world.send("feedback", thumb(record_id="a", model="houses")).accepted == 1


def test_feedback_sent_again_is_stored_once_and_a_change_of_mind_needs_a_revision(world: World) -> None:
    world.send("feedback", thumb())
    assert world.send("feedback", thumb(timestamp=NOON.isoformat())).duplicates == 1  # its time is not part of what it says
    refused = world.send("feedback", thumb(value=False))
    assert [r.reason for r in refused.rejects] == ["conflict"]
    assert refused.rejects[0].message.endswith("send a higher revision")
    assert world.send("feedback", thumb(value=False, revision=1)).accepted == 1
    assert [(r["value"], r["revision"]) for r in world.rows("feedback", "bot")] == [(1.0, 0), (0.0, 1)]


def test_two_raters_two_names_and_two_ids_are_different_feedback(world: World) -> None:
    items = [thumb(), thumb(rater="bob", value=False), thumb(name="polite"), thumb(source="judge"), thumb(feedback_id="f-2")]
    assert world.send("feedback", *items).accepted == 5
    world.restart()
    assert world.send("feedback", *items).duplicates == 5


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    (
        ({"record_id": None}, "missing_id", "which record or trace"),
        ({"record_id": None, "span_id": SPAN}, "missing_id", "which record or trace"),
        ({"name": None}, "missing_field", "name is missing"),
        ({"value": None}, "missing_field", "neither value, label nor comment"),
        ({"value": "good"}, "wrong_type", "words go into label"),
        ({"value": [1]}, "wrong_type", "neither a number"),
        ({"label": 5}, "wrong_type", "label: 5 is not text"),
        ({"revision": -1}, "wrong_type", "revision"),
        ({"timestamp": "noon"}, "bad_timestamp", "noon"),
        ({"rater": "r" * 300}, "too_large", "rater: 300 characters"),
        ({"model": "nobody"}, "unknown_model", "nobody"),
        ({"comment": "x" * 3_000_000}, "too_large", "comment"),
    ),
)
def test_what_is_wrong_is_set_aside_with_a_reason_and_the_rest_is_taken(
    world: World, fields: dict[str, Any], reason: str, words: str
) -> None:
    answer = world.send("feedback", thumb(**fields), thumb(record_id="g-2"))
    assert (answer.accepted, [(r.index, r.reason) for r in answer.rejects]) == (1, [(0, reason)])
    assert words in answer.rejects[0].message


def test_feedback_moves_no_watermark(world: World) -> None:
    world.send("feedback", thumb(timestamp=NOON.isoformat()))
    assert world.store.watermark("bot") is None


def test_feedback_comes_by_push(door: Door) -> None:
    response = door.post("feedback", [thumb(), thumb(value=None)])
    assert (response.status_code, response.json()["accepted"], response.json()["rejected"]) == (200, 1, 1)


def test_a_score_in_a_span_becomes_a_row_of_the_same_table() -> None:
    found = feedback.inline("r", TRACE, SPAN, {"name": "faithful", "value": 0.5, "comment": "so", "model": "judge-1"}, NOON)
    assert found is not None
    key, content, values = found
    assert (values["record_id"], values["name"], values["value"], values["source"]) == ("r", "faithful", 0.5, "tool")
    assert values["attributes"] == '{"model":"judge-1"}'
    again = feedback.inline("r", TRACE, SPAN, {"name": "faithful", "value": 0.5, "comment": "so", "model": "judge-1"}, NOON)
    other = feedback.inline("r", TRACE, SPAN, {"name": "faithful", "value": 0.6}, NOON)
    assert again is not None
    assert other is not None
    assert again[:2] == (key, content)
    assert other[0] != key  # scored twice: two rows, no conflict


@pytest.mark.parametrize(
    "score",
    ({}, {"name": "a"}, {"name": "", "value": 1}, {"name": 3, "value": 1}, {"name": "a", "value": float("nan")}, {"value": 1}),
)
def test_a_score_of_the_wrong_shape_in_a_span_is_left_out(score: dict[str, Any]) -> None:
    assert feedback.inline("r", TRACE, SPAN, score, NOON) is None


def test_what_json_cannot_say_of_a_score_in_a_span_is_left_out() -> None:
    found = feedback.inline("r", TRACE, SPAN, {"name": "a", "value": 1, "odd": 2**70}, NOON)
    assert found is not None
    assert found[2]["attributes"] is None


def test_words_as_the_value_of_a_score_in_a_span_are_its_label() -> None:
    found = feedback.inline("r", TRACE, SPAN, {"name": "tone", "value": "rude", "source": "HUMAN"}, NOON)
    assert found is not None
    assert (found[2]["value"], found[2]["label"], found[2]["source"]) == (None, "rude", "human")
