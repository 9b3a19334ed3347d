"""Replaying and dropping dead letters: nothing twice, nothing in silence, everything on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from monitor.deadletter.replay import Asked, Outcome, Replayer
from monitor.deadletter.selection import Selection
from monitor.decode import decode
from monitor.errors import InboxFull
from monitor.inbox import Batch
from monitor.otlp.spans import Span
from monitor.records import Reject
from monitor.schema import KINDS
from tests.monitor.support import MODELS, NOON, Held, World, check, generation, label, prediction, sample
from tests.monitor.tracing import chat, record_id

ANN = Asked("ann@desk", "127.0.0.1")
EVERYTHING = Selection(everything=True)
LATECOMER = {"name": "latecomer", "task": "regression"}


def replay(world: World, chosen: Selection = EVERYTHING, **more: Any) -> Outcome:
    return Replayer(world.store, world.inbox, metrics=world.metrics).replay(chosen, ANN, **more)


def drop(world: World, chosen: Selection = EVERYTHING, **more: Any) -> Outcome:
    asked = Asked("ann@desk", "127.0.0.1", "made up by a test bench")
    return Replayer(world.store, world.inbox, metrics=world.metrics).drop(chosen, asked, **more)


def configure(world: World, *models: dict[str, Any]) -> None:
    world.config = type(world.config).model_validate({**world.config.model_dump(), "models": (*MODELS, *models)})
    world.inbox.configure(world.config)


def resolutions(world: World) -> list[tuple[int, str, str | None]]:
    return [(r["deadletter_seq"], r["action"], r["result"]) for r in world.rows("resolutions", "")]


def open_letters(world: World, reason: str) -> float | None:
    return sample(world.metrics, "modelwatch_deadletter_records", reason=reason)


def test_records_of_a_model_that_was_not_configured_are_stored_once_it_is(world: World) -> None:
    world.send("predictions", prediction("a", model="latecomer"), prediction("b", model="latecomer"), prediction("c"))
    assert open_letters(world, "unknown_model") == 2
    before = replay(world)
    assert (before.replayed, [r["reason"] for r in before.refused]) == (0, ["unknown_model"] * 2)
    assert "'latecomer' is not configured" in before.refused[0]["message"]
    configure(world, LATECOMER)
    after = replay(world)
    assert (after.replayed, after.refused, after.next) == (2, [], None)
    assert world.ids("predictions", "latecomer") == ["a", "b"]
    assert resolutions(world) == [(1, "replayed", "taken"), (2, "replayed", "taken")]
    assert open_letters(world, "unknown_model") == 0
    assert len(world.letters()) == 2  # what came is never unwritten
    assert sample(world.metrics, "modelwatch_deadletter_resolved_total", action="replayed", reason="unknown_model") == 2


def test_what_was_refused_again_is_neither_written_nor_counted_again(world: World) -> None:
    world.send("predictions", prediction("a", model="latecomer"))
    for _ in range(2):
        replay(world)
    assert len(world.letters()) == 1
    rejected = "modelwatch_ingest_records_rejected_total"
    assert sample(world.metrics, rejected, kind="predictions", reason="unknown_model") == 1
    assert open_letters(world, "unknown_model") == 1


def test_the_default_model_of_the_batch_and_the_kind_are_as_they_were(world: World) -> None:
    items = [{"record_id": "a", "label": 3}, {"record_id": "b", "model": "houses"}]
    world.send("labels", *items, model="latecomer")
    assert [row["monitored_model"] for row in world.rows("deadletters", "")] == ["latecomer", "houses"]
    configure(world, LATECOMER)
    outcome = replay(world)
    assert (outcome.replayed, [r["reason"] for r in outcome.refused]) == (1, ["missing_field"])
    assert [(r["record_id"], r["label"]) for r in world.rows("labels", "latecomer")] == [("a", 3.0)]


def test_a_record_without_a_time_keeps_the_time_it_came(world: World) -> None:
    world.send("labels", {"record_id": "a", "model": "latecomer", "label": 1})
    world.clock.move(3600)
    configure(world, LATECOMER)
    replay(world)
    row = world.rows("labels", "latecomer")[0]
    assert (row["event_time"], row["received_at"]) == (NOON, NOON + timedelta(hours=1))


def test_a_replay_that_was_killed_is_repeated_without_storing_anything_twice(world: World) -> None:
    world.send("predictions", *(prediction(str(i), model="latecomer") for i in range(5)))
    configure(world, LATECOMER)
    first = replay(world, Selection(everything=True, limit=2))
    assert (first.replayed, first.next) == (2, 2)
    world.restart()
    configure(world, LATECOMER)
    assert replay(world).replayed == 3  # from the beginning again
    assert world.ids("predictions", "latecomer") == [str(i) for i in range(5)]
    assert replay(world).matched == 0


def test_a_letter_whose_record_came_by_itself_meanwhile_is_resolved_and_stored_once(world: World) -> None:
    world.send("predictions", prediction("a", model="latecomer"))
    configure(world, LATECOMER)
    world.send("predictions", prediction("a", model="latecomer"))
    assert replay(world).replayed == 1
    assert world.ids("predictions", "latecomer") == ["a"]


def test_a_conflict_stays_a_conflict_and_says_so(world: World) -> None:
    world.send("predictions", prediction("a"))
    world.send("predictions", prediction("a", prediction=2.0))
    outcome = replay(world)
    assert (outcome.replayed, [r["reason"] for r in outcome.refused]) == (0, ["conflict"])
    assert "'a' is stored with other content" in outcome.refused[0]["message"]
    assert [r["prediction"] for r in world.rows("predictions")] == [1.0]
    assert (resolutions(world), open_letters(world, "conflict")) == ([], 1)


def test_a_dry_run_says_what_would_become_and_leaves_nothing(world: World) -> None:
    world.send("predictions", prediction("a"), prediction("a", prediction=2.0), prediction("b", model="latecomer"))
    configure(world, LATECOMER)
    outcome = replay(world, dry=True)
    assert (outcome.replayed, [r["reason"] for r in outcome.refused]) == (1, ["conflict"])
    assert (world.rows("predictions", "latecomer"), resolutions(world)) == ([], [])
    assert len(world.rows("batches", "")) == 1
    assert open_letters(world, "unknown_model") == 1
    assert sample(world.metrics, "modelwatch_store_commit_failures_total", reason="job") is None
    assert drop(world, dry=True).dropped == 2
    assert resolutions(world) == []


def test_a_dry_run_takes_nobody_elses_records_with_it(world: World) -> None:
    world.send("predictions", prediction("a", model="latecomer"))
    configure(world, LATECOMER)
    held = Held(world.store)  # so that the records and the dry run are one group, which is rolled back
    other = world.inbox.put(Batch("labels", [label("x")], "test"))
    replayer = Replayer(world.store, world.inbox, metrics=world.metrics)
    letter = world.rows("deadletters", "")[0]
    dry = replayer._rounds([letter], ANN, True, Outcome())[0]
    undone = world.inbox.put(dry.batch)
    held.release()
    assert other.result(10).accepted == 1
    assert undone.exception(10) is not None
    assert (world.ids("labels"), world.rows("predictions", "latecomer")) == (["x"], [])


@pytest.mark.parametrize(
    ("chosen", "ids"),
    (
        ({"ids": (2, 3, 99)}, [2, 3]),
        ({"reason": "missing_id"}, [3]),
        ({"kind": "labels"}, [3, 4]),
        ({"model": "latecomer"}, [1, 4]),
        ({"source": "te"}, [1, 2, 3, 4]),
        ({"source": "follow"}, []),
        ({"since": NOON + timedelta(seconds=1)}, [3, 4]),
        ({"kind": "labels", "model": "latecomer"}, [4]),
        ({"everything": True}, [1, 2, 3, 4]),
        ({"everything": True, "after": 1, "until": 3}, [2, 3]),
    ),
)
def test_letters_are_chosen_by_what_is_known_of_them(world: World, chosen: dict[str, Any], ids: list[int]) -> None:
    world.send("predictions", prediction("a", model="latecomer"), prediction("b", model="nobody"))
    world.clock.move(2)
    world.send("labels", {"model": "houses", "label": 1}, {"model": "latecomer", "record_id": "d", "label": 1})
    world.seal()
    drop(world, Selection(**chosen))
    assert [seq for seq, _, _ in resolutions(world)] == ids


def test_giving_no_choice_chooses_nothing() -> None:
    with pytest.raises(ValueError, match="say which"):
        Selection()


def test_a_drop_is_on_record_and_the_letter_stays(world: World) -> None:
    world.send("predictions", prediction("a", model="nobody"))
    assert drop(world).dropped == 1
    row = world.rows("resolutions", "")[0]
    assert {k: row[k] for k in ("deadletter_seq", "reason", "action", "asked_by", "address", "comment", "received_at")} == {
        "deadletter_seq": 1, "reason": "unknown_model", "action": "dropped", "asked_by": "ann@desk", "address": "127.0.0.1",
        "comment": "made up by a test bench", "received_at": NOON,
    }  # fmt: skip
    assert [row["record_id"] for row in world.rows("deadletters", "")] == ["a"]
    assert (drop(world).dropped, replay(world).matched) == (0, 0)


def test_a_letter_dropped_while_its_replay_is_on_its_way_is_not_stored(world: World) -> None:
    world.send("predictions", prediction("a", model="latecomer"))
    configure(world, LATECOMER)
    replayer = Replayer(world.store, world.inbox, metrics=world.metrics)
    _, letters = replayer._step(EVERYTHING, payloads=True)
    on_its_way = replayer._rounds(letters, ANN, False, Outcome())[0]
    drop(world)
    outcome = Outcome()
    replayer._count(on_its_way, world.inbox.put(on_its_way.batch), outcome)
    assert (outcome.replayed, world.rows("predictions", "latecomer")) == (0, [])
    assert resolutions(world) == [(1, "dropped", None)]


def test_open_letters_are_counted_as_before_after_a_restart(world: World) -> None:
    world.send("predictions", *(prediction(str(i), model="nobody") for i in range(3)))
    drop(world, Selection(ids=(2,)))
    world.seal()
    world.restart()
    assert open_letters(world, "unknown_model") == 2


def test_a_payload_that_was_cut_cannot_be_replayed_and_says_so(make_world: Callable[..., World]) -> None:
    world = make_world(server={"max_text_bytes": 2 * 2**20})
    world.send("generations", generation("g", model="latebot", response="é" * 2**20))
    row = world.rows("deadletters", "", columns="octet_length(encode(payload)) AS kept, payload_bytes")[0]
    assert row["kept"] <= 2**20 < row["payload_bytes"]
    configure(world, {"name": "latebot", "task": "llm"})
    refused = replay(world).refused[0]
    assert refused["reason"] == "unknown_model"
    assert "of its payload of 2097" in refused["message"]
    assert "send the record again" in refused["message"]


def test_a_payload_of_which_the_sender_kept_only_a_part_says_so_too(world: World) -> None:
    world.send("labels", Reject(0, "too_large", "a long line", None, b"the beginning", size=5000))
    assert "of its payload of 5000 bytes only 13 were kept" in replay(world).refused[0]["message"]


@pytest.mark.parametrize(
    ("body", "reason"),
    (
        (b'[{"record_id": "a", "model": "houses", "prediction": NaN}]', "not_finite"),
        (b'[{"record_id": "\xff", "model": "houses", "prediction": 1}]', "invalid_utf8"),
        (b'["just text"]', "not_an_object"),
        (b"[17]", "not_an_object"),
    ),
)
def test_what_is_no_record_stays_where_it_is(world: World, body: bytes, reason: str) -> None:
    world.send("predictions", *decode(body))
    assert [r for _, r in world.letters()] == [reason]
    outcome = replay(world)
    assert (outcome.replayed, len(outcome.refused), resolutions(world)) == (0, 1, [])


def test_bytes_that_are_not_utf8_come_back_as_they_were(world: World) -> None:
    body = b'[{"record_id": "a", "model": "houses", "label": 1}, \xfe\xff'
    world.send("labels", Reject(0, "bad_json", "no JSON", None, body))
    row = world.rows("deadletters", "")[0]
    assert row["payload_encoding"] == "base64"
    assert "still cannot be read" in replay(world).refused[0]["message"]


def test_a_body_that_can_be_read_after_all_gives_all_its_records(world: World) -> None:
    body = json.dumps([label("a"), label("b"), {"model": "houses"}]).encode()
    world.send("labels", Reject(0, "bad_json", "a decoder that did not know better", None, body))
    outcome = replay(world)
    assert world.ids("labels") == ["a", "b"]
    assert [(r["id"], r["reason"]) for r in outcome.refused] == [(1, "missing_id")]  # so the body stays
    assert resolutions(world) == []


def test_letters_of_a_store_of_version_1_can_be_replayed(world: World) -> None:
    old = {
        "source": "push", "kind": "labels", "reason": ["type_changed", "bad_json"], "message": "m",
        "payload": [json.dumps(label("a")), "{oh"], "payload_bytes": None, "batch_id": "b", "received_at": NOON,
    }  # fmt: skip
    world.store.run(lambda t: t.append("deadletters", "", old))
    outcome = replay(world)
    assert (outcome.replayed, [r["id"] for r in outcome.refused]) == (1, [2])
    assert world.ids("labels") == ["a"]


def test_a_span_is_kept_so_that_it_can_be_read_back(world: World) -> None:
    span = Span(
        "a" * 32, "b" * 16, None, "chat", "client", 1, 2, "ok", None, {"gen_ai.system": "x", "n": [1, None]}, [], [],
        {"service.name": "nobody"}, "scope", None,
    )  # fmt: skip
    world.send("labels", Reject(0, "unknown_model", "m", None, span))
    from monitor.deadletter.letters import items

    letter = world.rows("deadletters", "")[0] | {"kind": "spans"}
    assert items(letter) == [span]


def test_spans_of_a_model_that_was_not_configured_are_stored_once_it_is(world: World) -> None:
    resource = {"service.name": "latebot"}
    world.send("spans", chat("t", "root", resource=resource), chat("t", "other", "root", resource=resource))
    assert [reason for _, reason in world.letters()] == ["unknown_model"] * 2
    configure(world, {"name": "latebot", "task": "llm"})
    outcome = replay(world)
    assert (outcome.replayed, outcome.refused) == (2, [])
    assert world.ids("spans", "latebot") == [record_id("t", "root"), record_id("t", "other")]
    again = world.send("spans", chat("t", "root", resource=resource))  # word for word, although it went through JSON
    assert (again.accepted, again.duplicates) == (0, 1)


def test_scoring_that_failed_is_queued_again_as_the_next_revision(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("bare", "Bareness", model="bot")], scoring={"attempts": 1})
    world.send("generations", generation("g-1", contexts=["so it is"]), generation("g-2", contexts=["so it is"]))

    def die(request: Any) -> None:
        raise RuntimeError("no memory")

    world.scorer.before = die
    world.score()
    assert world.letters() == [("g-1", "scoring_failed"), ("g-2", "scoring_failed")]
    assert [row["monitored_model"] for row in world.rows("deadletters", "")] == ["bot", "bot"]
    world.seal()
    world.scorer.before = lambda request: None
    assert replay(world, dry=True).queued == 2
    assert world.state("SELECT * FROM work") == []
    outcome = replay(world)
    assert (outcome.queued, outcome.replayed, outcome.refused) == (2, 0, [])
    assert resolutions(world) == [(1, "replayed", "queued"), (2, "replayed", "queued")]
    world.score()
    rows = world.rows("scores", "bot")
    assert [(r["record_id"], r["revision"], r["outcome"]) for r in rows] == [
        ("g-1", 1, "failed"), ("g-2", 1, "failed"), ("g-1", 2, "ok"), ("g-2", 2, "ok"),
    ]  # fmt: skip
    assert open_letters(world, "scoring_failed") == 0


def test_scoring_of_a_generation_that_is_not_there_stays(world: World) -> None:
    lost = {
        "source": "overlap", "kind": "generations", "reason": ["scoring_failed"], "message": "m", "record_id": "gone",
        "monitored_model": "bot", "received_at": NOON,
    }  # fmt: skip
    world.store.run(lambda t: t.append("deadletters", "", lost))
    assert "not in the store" in replay(world).refused[0]["message"]


def test_a_step_takes_no_more_than_it_can_hold(world: World) -> None:
    items = [{"record_id": str(i), "model": "nobody", "prediction": "x" * 900_000} for i in range(40)]
    for item in items:
        world.send("predictions", item)
    first = replay(world)
    assert (first.matched, first.next, first.until) == (18, 18, 40)  # 16 MiB
    second = replay(world, Selection(everything=True, after=18, until=40))
    assert (second.matched, second.next) == (18, 36)


def test_a_full_inbox_takes_the_replay_in_pieces_or_says_so(make_world: Callable[..., World]) -> None:
    world = make_world(server={"queue_records": 3})
    for i in range(8):
        world.send("predictions", prediction(str(i), model="latecomer"))
        world.clock.move(1)
    configure(world, LATECOMER)
    assert replay(world).replayed == 8
    world.send("predictions", prediction("last", model="nobody"))
    held = Held(world.store)
    waiting = world.inbox.put(Batch("labels", [label(str(i)) for i in range(3)], "test"))
    with pytest.raises(InboxFull):
        replay(world)
    held.release()
    assert waiting.result(10).accepted == 3


def test_resolutions_are_a_log_of_their_own_that_is_sealed_and_shown(world: World) -> None:
    assert KINDS["resolutions"].about.startswith("What became of a dead letter")
    world.send("predictions", prediction("a", model="nobody"), prediction("b", model="nobody"))
    drop(world, Selection(ids=(1,)))
    world.seal()
    drop(world)
    world.seal()
    assert resolutions(world) == [(1, "dropped", None), (2, "dropped", None)]
