"""What the inbox makes of a batch: features and their columns, passages and their generations, labels before predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from monitor.decode import decode
from monitor.errors import InboxFull
from monitor.inbox import Batch
from tests.monitor.support import NOON, Held, World, contexts, generation, label, prediction, sample

# --- features --------------------------------------------------------------------------------------------------------


def test_features_get_columns_as_they_come(world: World) -> None:
    world.send("predictions", prediction("a", features={"rooms": 3, "city": "Oslo", "new": True, "odd": [1, 2], "none": None}))
    world.send("predictions", prediction("b", features={"rooms": 2.5, "area": 70}))
    rows = world.rows("predictions", columns="record_id, f_rooms, f_city, f_new, f_area, extra")
    assert [list(r.values()) for r in rows] == [
        ["a", 3.0, "Oslo", "true", None, '{"features":{"odd":[1,2]}}'],
        ["b", 2.5, None, None, 70.0, None],
    ]
    assert world.store.feature_columns("houses") == {"rooms": "number", "city": "category", "new": "category", "area": "number"}


def test_a_feature_that_changes_its_type_goes_to_the_dead_letter_and_the_good_records_stay(world: World) -> None:
    world.send("predictions", prediction("a", features={"rooms": 3}))
    answer = world.send(
        "predictions", prediction("b", features={"rooms": "three"}), prediction("c", features={"rooms": True}), prediction("d")
    )
    assert answer.accepted == 1
    assert [(r.index, r.reason) for r in answer.rejects] == [(0, "type_changed"), (1, "type_changed")]
    assert "'three' is a category; this feature is a number since it began" in answer.rejects[0].message
    assert world.ids("predictions") == ["a", "d"]
    assert world.letters() == [("b", "type_changed"), ("c", "type_changed")]


def test_a_type_that_changes_within_one_batch_is_seen_as_well(world: World) -> None:
    answer = world.send("predictions", prediction("a", features={"x": 1}), prediction("b", features={"x": "one"}))
    assert (answer.accepted, [r.reason for r in answer.rejects]) == (1, ["type_changed"])
    assert world.ids("predictions") == ["a"]


REJECTED: dict[str, dict[str, Any]] = {
    "for its time": {"timestamp": "yesterday"},
    "for its id": {"record_id": None},
    "for a probability": {"probability": 7},
    "for another feature": {"features": {"rooms": "three", "known": "text"}},
    "as a conflict": {"record_id": "first", "prediction": 2.0},
}


@pytest.mark.parametrize("name", REJECTED)
def test_a_record_that_is_rejected_decides_nothing_about_its_features(world: World, name: str) -> None:
    world.send("predictions", prediction("first", features={"known": 1}))
    wrong = {**prediction("wrong", features={"rooms": "three"}), **REJECTED[name]}
    assert len(world.send("predictions", wrong).rejects) == 1
    assert world.store.feature_columns("houses") == {"known": "number"}
    assert world.send("predictions", prediction("right", features={"rooms": 3})).accepted == 1


def test_a_batch_that_fails_decides_nothing_about_its_features(world: World) -> None:
    world.store.run(lambda t: t.execute("ALTER TABLE batches RENAME COLUMN source TO origin"))
    with pytest.raises(Exception, match="source"):
        world.send("predictions", prediction("a", features={"rooms": "three"}))
    world.store.run(lambda t: t.execute("ALTER TABLE batches RENAME COLUMN origin TO source"))
    assert world.send("predictions", prediction("a", features={"rooms": 3})).accepted == 1


def test_two_batches_at_once_that_disagree_about_a_feature_store_the_first(world: World) -> None:
    held = Held(world.store)
    both = [
        world.inbox.put(Batch("predictions", [prediction(i, features={"x": x})], "test")) for i, x in (("a", 1), ("b", "one"))
    ]
    held.release()
    assert [f.result(10).accepted for f in both] == [1, 0]
    assert world.letters() == [("b", "type_changed")]


def test_names_that_differ_in_case_share_no_column(world: World) -> None:
    world.send("predictions", prediction("a", features={"Rooms": 3, "rooms": 4}))
    world.send("predictions", prediction("b", features={"ROOMS": 5, "Rooms": 6}))
    assert [(r["f_Rooms"], json.loads(r["extra"])) for r in world.rows("predictions", columns='"f_Rooms", extra')] == [
        (3.0, {"features": {"rooms": 4}}),
        (6.0, {"features": {"ROOMS": 5}}),
    ]
    assert world.store.feature_columns("houses") == {"Rooms": "number"}


def test_features_may_be_called_like_columns_and_keywords(world: World) -> None:
    features = {"seq": 1, "model": "m", "event_time": 2, 'quo"te': 3, "select": 4, "ümlaut 🦶": 5, "a.b-c": 6, "f_x": 7}
    world.send("predictions", prediction("a", features=features))
    world.seal()
    world.restart()
    row = world.rows("predictions")[0]
    assert {name: row[f"f_{name}"] for name in features} == features
    assert row["seq"] == 1


def test_names_that_cannot_be_columns_are_kept_as_json(world: World) -> None:
    features = {"": 1, "x" * 200: 2, "new\nline": 3, "\x00": 4}
    assert world.send("predictions", prediction("a", features=features)).accepted == 1
    assert json.loads(world.rows("predictions")[0]["extra"]) == {"features": features}


def test_ten_thousand_feature_names_are_capped_and_the_rest_is_kept_as_json(world: World) -> None:
    features = {f"feature {i}": i for i in range(10_000)}
    assert world.send("predictions", *(prediction(f"r{n}", features=features) for n in range(3))).accepted == 3
    assert len(world.store.feature_columns("houses")) == 500
    row = world.rows("predictions")[0]
    kept = {name: int(row[f"f_{name}"]) for name in features if f"f_{name}" in row}
    assert len(kept) == 500
    assert {**kept, **json.loads(row["extra"])["features"]} == features
    assert world.send("predictions", prediction("later", features={"one more": 1, "feature 3": 3})).accepted == 1
    assert json.loads(world.rows("predictions")[3]["extra"]) == {"features": {"one more": 1}}


def test_a_config_that_lists_features_decides_for_all(make_world: Callable[..., World]) -> None:
    features = {"rooms": "number", "zip": "category"}
    world = make_world(models=[{"name": "houses", "task": "regression", "features": features, "max_features": 1}])
    answer = world.send(
        "predictions", prediction("a", features={"rooms": 3, "zip": "0150", "other": 1}), prediction("b", features={"zip": 150})
    )
    assert (answer.accepted, [r.reason for r in answer.rejects]) == (1, ["type_changed"])
    row = world.rows("predictions")[0]
    assert (row["f_rooms"], row["f_zip"], row["extra"]) == (3.0, "0150", '{"features":{"other":1}}')


def test_a_column_keeps_its_type_whatever_a_later_config_says(world: World) -> None:
    world.send("predictions", prediction("a", features={"rooms": 3}))
    model = {"name": "houses", "task": "regression", "features": {"rooms": "category"}}
    world.config = world.config.model_validate({"models": [model], "store": world.config.store.model_dump()})
    world.restart()
    answer = world.send("predictions", prediction("b", features={"rooms": "three"}), prediction("c", features={"rooms": 4}))
    assert (answer.accepted, [r.reason for r in answer.rejects]) == (1, ["type_changed"])


# --- labels ----------------------------------------------------------------------------------------------------------


def test_a_label_of_an_unknown_record_is_kept(world: World) -> None:
    assert world.send("labels", label("nobody")).accepted == 1
    assert world.ids("labels") == ["nobody"]
    assert world.letters() == []


def test_a_label_is_corrected_by_a_higher_revision_and_else_is_a_conflict(world: World) -> None:
    world.send("labels", label("a", 1.0))
    assert world.send("labels", label("a", 1.0, timestamp="2026-03-01T13:00:00Z")).duplicates == 1
    assert [r.reason for r in world.send("labels", label("a", 2.0)).rejects] == ["conflict"]
    assert world.send("labels", label("a", 2.0, revision=1)).accepted == 1
    assert [(r["revision"], r["label"]) for r in world.rows("labels")] == [(0, 1.0), (1, 2.0)]


# --- generations and passages ----------------------------------------------------------------------------------------


def test_a_generation_without_an_id_is_known_by_its_trace_and_span(world: World) -> None:
    spans = {"trace_id": "t1", "span_id": "s1", "record_id": None}
    one = {k: v for k, v in {**generation(""), **spans}.items() if v is not None}
    assert [world.send("generations", one).accepted, world.send("generations", one).duplicates] == [1, 1]
    assert world.ids("generations", "bot") == ["t1-s1"]


def test_a_record_without_an_id_but_with_a_time_is_known_by_its_content(world: World) -> None:
    one = {"model": "houses", "timestamp": "2026-03-01T12:00:00Z", "features": {"rooms": 3}}
    assert world.send("predictions", one, one).duplicates == 1
    assert world.send("predictions", {**one, "features": {"rooms": 4}}).accepted == 1
    assert len(world.rows("predictions")) == 2


@pytest.mark.parametrize("name", ("cost_usd", "duration_seconds", "time_to_first_token_seconds"))
def test_an_amount_that_cannot_be_one_is_refused_before_it_is_counted(world: World, name: str) -> None:
    # Counters do not go down: the writer died of a cost of -1.
    answer = world.send("generations", *(generation(f"g{i}") | {name: value} for i, value in enumerate((-1, 1e300, 0))))
    assert [(r.reason, r.index) for r in answer.rejects] == [("wrong_type", 0), ("wrong_type", 1)]
    assert world.ids("generations", "bot") == ["g2"]
    assert world.store.unavailable is None


def test_passages_are_stored_once_whichever_way_they_come(world: World) -> None:
    world.send("contexts", contexts("g", "early", "both", "both"))
    world.send("generations", generation("g", contexts=["both", "own", "own"]))
    world.send("contexts", contexts("g", "early", "own", "late"))
    world.send("generations", generation("g", contexts=["own", "second time"]))
    assert [r["text"] for r in world.rows("contexts", "bot")] == ["early", "both", "own", "late", "second time"]
    assert [r["seq"] for r in world.rows("contexts", "bot")] == [1, 2, 3, 4, 5]
    assert world.send("contexts", contexts("g", "late")).duplicates == 1


def test_the_passages_of_a_generation_in_conflict_are_not_kept(world: World) -> None:
    world.send("generations", generation("g"))
    answer = world.send("generations", generation("g", response="something else", contexts=["of the wrong one"]))
    assert [r.reason for r in answer.rejects] == ["conflict"]
    assert world.rows("contexts", "bot") == []


def test_the_question_of_a_generation_is_the_last_message_of_the_user(world: World) -> None:
    messages = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "hm"}, {"role": "user", "content": "last"}]
    world.send("generations", {**generation("g", messages=messages), "question": None})
    row = world.rows("generations", "bot")[0]
    assert row["question"] == "last"
    assert json.loads(row["messages"]) == messages


# --- the batch -------------------------------------------------------------------------------------------------------


def test_a_batch_for_several_models_is_one_transaction(world: World) -> None:
    world.config = world.config.model_validate(
        {"models": [{"name": n, "task": "binary"} for n in ("one", "two")], "store": world.config.store.model_dump()}
    )
    world.inbox.configure(world.config)
    answer = world.send("predictions", prediction("a", model="one"), prediction("a", model="two"))
    assert (answer.accepted_by["one"], answer.accepted_by["two"]) == (1, 1)
    assert sample(world.metrics, "modelwatch_store_commits_total") == 1


def test_the_ledger_says_what_became_of_each_batch(world: World) -> None:
    world.send("predictions", prediction("a"), 3)
    world.send("predictions", prediction("a"))
    rows = world.rows("batches", "")
    assert [(r["records"], r["accepted"], r["duplicates"], r["rejected"]) for r in rows] == [(2, 1, 0, 1), (1, 0, 1, 0)]
    assert world.rows("predictions")[0]["batch_id"] == rows[0]["batch_id"]
    assert world.rows("deadletters", "")[0]["batch_id"] == rows[0]["batch_id"]


def test_a_dead_letter_holds_the_record_as_it_came_cut_at_a_megabyte(world: World) -> None:
    world.send("predictions", {"model": "houses", "note": "x" * 2_000_000})
    letter = world.rows("deadletters", "")[0]
    assert (letter["reason"], len(letter["payload"]), letter["payload_bytes"]) == ("missing_field", 2**20, 2_000_028)


def test_how_many_letters_are_dead_is_known_after_a_restart(world: World) -> None:
    world.send("predictions", 1, 2, {"model": "houses"})
    world.seal()
    world.send("predictions", 3)
    world.restart()
    assert sample(world.metrics, "modelwatch_deadletter_records", reason="conflict") == 0, "so that the first are a growth"
    assert sample(world.metrics, "modelwatch_deadletter_records", reason="not_an_object") == 3
    assert sample(world.metrics, "modelwatch_deadletter_records", reason="missing_field") == 1


def test_the_watermark_is_the_latest_time_that_is_not_far_ahead_of_its_arrival(world: World) -> None:
    world.send("predictions", prediction("a", NOON - timedelta(hours=1)))
    assert world.store.watermark("houses") == NOON - timedelta(hours=1)
    world.send("predictions", prediction("b", NOON + timedelta(minutes=6)))
    assert world.store.watermark("houses") == NOON - timedelta(hours=1)
    world.send("predictions", prediction("c", NOON + timedelta(minutes=4)))
    assert world.store.watermark("houses") == NOON + timedelta(minutes=4)
    world.send("predictions", prediction("d", NOON - timedelta(days=1)))
    assert world.store.watermark("houses") == NOON + timedelta(minutes=4)


def test_a_batch_larger_than_the_whole_queue_goes_in_when_it_is_alone(make_world: Callable[..., World]) -> None:
    world = make_world(server={"queue_records": 2})
    assert world.send("predictions", *(prediction(f"r{i}") for i in range(5))).accepted == 5


def test_a_queue_full_of_bytes_is_full_as_well(make_world: Callable[..., World]) -> None:
    world = make_world(server={"queue_bytes": 1024})
    held = Held(world.store)
    first = world.inbox.put(Batch("predictions", [prediction("a")], "test", size=1000))
    with pytest.raises(InboxFull):
        world.inbox.put(Batch("predictions", [prediction("b")], "test", size=100))
    held.release()
    assert first.result(10).accepted == 1


@pytest.mark.parametrize("field", ("features", "extra"))
def test_a_record_too_deep_to_be_shown_is_set_aside_and_the_others_are_taken(world: World, field: str) -> None:
    deep = json.dumps([{**prediction("deep"), field: "?"}]).replace('"?"', "[" * 1000 + "]" * 1000)
    answer = world.send("predictions", prediction("a"), *decode(deep.encode()))
    assert (answer.accepted, len(answer.rejects)) == (1, 1)
    assert world.rows("deadletters", "")[0]["payload"] == "nested too deep to be shown"
