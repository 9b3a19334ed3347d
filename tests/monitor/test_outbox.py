"""What has to reach somebody outside: at least once, in order where that matters, given up late and never in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from monitor import cli, faultpoints, quarantine
from monitor.feed import Feed
from monitor.outbox import Courier, Later, Message, Never, Outbox, Retrying
from tests.monitor.support import Door, World, append_labels, sample, wait_for

STEADY = Retrying(first_seconds=1, most_seconds=60, give_up_seconds=3600)


class Receiver:
    """Takes messages, or does with them what `answer` does."""

    def __init__(self) -> None:
        self.took: list[str] = []
        self.tried: list[str] = []
        self.answer: Callable[[Message], None] = lambda message: None

    def __call__(self, message: Message) -> None:
        self.tried.append(message.key)
        self.answer(message)
        self.took.append(message.key)


def outbox(world: World) -> Outbox:
    return Outbox("webhook", world.store, clock=world.clock, metrics=world.metrics)


def courier(box: Outbox, receiver: Receiver) -> Courier:
    return Courier(box, receiver, retrying=STEADY, chance=lambda: 0.0)


def put(world: World, box: Outbox, *messages: Message) -> int:
    return world.store.run(lambda t: box.put(t, messages))


def refuse(*keys: str, error: Exception) -> Callable[[Message], None]:
    def answer(message: Message) -> None:
        if message.key in keys:
            raise error

    return answer


def waiting(world: World, state: str = "waiting") -> float | None:
    return sample(world.metrics, "modelwatch_outbox_messages", sink="webhook", state=state)


def test_what_is_put_is_sent_once_and_its_key_is_known_from_then_on(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    assert put(world, box, Message("a", {"n": 1}), Message("b", [1]), Message("a", {"n": 2})) == 2
    assert courier(box, receiver).step() == 2
    assert put(world, box, Message("b", [2]), Message("c", None)) == 1
    assert courier(box, receiver).step() == 1
    assert receiver.took == ["a", "b", "c"]
    assert sample(world.metrics, "modelwatch_outbox_sent_total", sink="webhook") == 3
    assert waiting(world) == 0


def test_two_sinks_have_nothing_in_common(world: World) -> None:
    box, other = outbox(world), Outbox("grafana", world.store, clock=world.clock, metrics=world.metrics)
    assert put(world, box, Message("a", 1)) == put(world, other, Message("a", 2)) == 1
    assert [(m.key, m.payload) for m in box.due()] == [("a", 1)]
    assert [(m.key, m.payload) for m in other.due()] == [("a", 2)]


def test_what_is_not_taken_is_tried_again_later_and_later(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    receiver.answer = refuse("a", error=Later("unreachable"))
    put(world, box, Message("a", 1))
    at: list[float] = []
    for _ in range(20):
        if courier(box, receiver).step():
            at.append(world.clock.monotonic() - 1000)
        world.clock.move(1)
    assert at == [0, 1, 3, 7, 15]
    assert waiting(world) == 1
    assert sample(world.metrics, "modelwatch_outbox_failures_total", sink="webhook", reason="unreachable") == 5
    receiver.answer = lambda message: None
    world.clock.move(60)
    courier(box, receiver).step()
    assert receiver.took == ["a"]


def test_a_receiver_that_says_when_is_not_asked_before(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    receiver.answer = refuse("a", error=Later("429", seconds=30))
    put(world, box, Message("a", 1))
    courier(box, receiver).step()
    world.clock.move(29)
    assert courier(box, receiver).step() == 0
    world.clock.move(1)
    assert courier(box, receiver).step() == 1


def test_a_receiver_that_says_when_is_left_alone_with_its_other_messages_too(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    receiver.answer = refuse("a", error=Later("429", seconds=30))
    put(world, box, Message("a", 1), Message("b", 1))
    one = courier(box, receiver)
    one.step()
    world.clock.move(29)
    assert (one.step(), receiver.tried) == (0, ["a"])
    receiver.answer = lambda message: None
    world.clock.move(1)
    assert (one.step(), receiver.took) == (2, ["a", "b"])


def test_while_nothing_is_taken_many_messages_try_no_faster_than_one(world: World) -> None:
    box, receiver, at = outbox(world), Receiver(), []

    def refuse_and_note(message: Message) -> None:
        at.append(time.monotonic())
        raise Later("unreachable")

    receiver.answer = refuse_and_note
    put(world, box, *(Message(str(n), 1) for n in range(50)))
    one = courier(box, receiver)
    one.start()
    wait_for(lambda: len(at) >= 2, "a second try")
    one.stop()
    assert at[1] - at[0] >= 1


def test_what_was_put_by_a_clock_that_was_ahead_is_not_kept_until_then(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    world.clock.move(30 * 86_400)
    put(world, box, Message("a", 1))
    world.clock.move(-30 * 86_400)
    assert courier(box, receiver).step() == 1
    assert receiver.took == ["a"]


def test_what_waited_while_the_daemon_was_off_is_not_given_up_at_the_first_try(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    put(world, box, Message("a", 1))
    world.clock.move(7 * 86_400)
    receiver.answer = refuse("a", error=Later("503"))
    courier(box, receiver).step()
    assert (waiting(world), waiting(world, "dead")) == (1, 0)


def test_what_a_later_one_of_its_group_has_overtaken_is_not_sent_again(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    receiver.answer = refuse("open", "alone", error=Never("400"))
    put(world, box, Message("open", 1, "g"), Message("close", 1, "g"), Message("alone", 1, "h"))
    while courier(box, receiver).step():
        pass
    receiver.answer = lambda message: None
    assert box.replay() == 1
    courier(box, receiver).step()
    assert receiver.took == ["close", "alone"]
    assert waiting(world, "dead") == 0


def test_messages_of_a_group_keep_their_order_and_the_others_do_not_wait_for_them(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    receiver.answer = refuse("i/open", error=Later("500"))
    put(world, box, Message("i/open", 1, "i"), Message("i/close", 1, "i"), Message("j/open", 1, "j"))
    courier(box, receiver).step()
    courier(box, receiver).step()
    assert receiver.took == ["j/open"]
    receiver.answer = lambda message: None
    world.clock.move(2)
    while courier(box, receiver).step():
        pass
    assert receiver.took == ["j/open", "i/open", "i/close"]


def test_what_is_refused_is_dead_at_once_and_what_nobody_takes_in_the_end(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    receiver.answer = refuse("bad", error=Never("400"))
    put(world, box, Message("bad", 1, "g"), Message("good", 1, "g"))
    while courier(box, receiver).step():
        pass
    assert receiver.took == ["good"], "a dead one does not hold up its group"
    receiver.answer = refuse("late", error=Later("503"))
    put(world, box, Message("late", 1))
    for _ in range(200):
        courier(box, receiver).step()
        world.clock.move(30)
    assert (waiting(world), waiting(world, "dead")) == (0, 2)
    assert [(one["key"], one["reason"]) for one in box.dead_keys()] == [("bad", "400"), ("late", "503")]
    tried = receiver.tried.count("late")
    assert 60 <= tried <= 130, "for an hour, every minute in the end"
    receiver.answer = lambda message: None
    assert box.replay(["late"]) == 1
    courier(box, receiver).step()
    assert receiver.took == ["good", "late"]
    assert waiting(world, "dead") == 1


def test_a_fault_of_the_sender_is_counted_and_tried_again(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    receiver.answer = refuse("a", error=KeyError("of ours"))
    put(world, box, Message("a", 1))
    courier(box, receiver).step()
    assert sample(world.metrics, "modelwatch_outbox_failures_total", sink="webhook", reason="error") == 1
    assert waiting(world) == 1


def test_killed_between_sending_and_knowing_it_sends_again(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    put(world, box, Message("a", 1), Message("b", 1))

    def die(name: str) -> None:
        if name == "outbox.sent":
            raise SystemExit

    faultpoints.arm(die)
    try:
        with pytest.raises(SystemExit):
            courier(box, receiver).step()
    finally:
        faultpoints.arm(None)
    world.restart()
    assert courier(outbox(world), receiver).step() == 2
    assert receiver.took == ["a", "a", "b"]


def test_what_is_put_in_a_transaction_that_fails_was_never_there(world: World) -> None:
    box = outbox(world)

    def work(transaction: Any) -> None:
        box.put(transaction, [Message("a", 1)])
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        world.store.run(work)
    assert box.due() == []


def test_keys_that_were_sent_long_ago_are_forgotten(world: World) -> None:
    box, receiver = outbox(world), Receiver()
    put(world, box, Message("a", 1))
    courier(box, receiver).step()
    world.clock.move(15 * 86_400)
    put(world, box, Message("b", 1))
    courier(box, receiver).step()
    assert [row["key"] for row in world.state("SELECT key FROM outbox")] == ["b"]


def test_where_nothing_waits_the_time_of_the_last_look_does_not_grow_old(world: World) -> None:
    box = outbox(world)
    idle = courier(box, Receiver())
    for _ in range(3):
        idle.step()
        world.clock.move(60)
    oldest = sample(world.metrics, "modelwatch_outbox_oldest_message_timestamp_seconds", sink="webhook")
    assert oldest is not None
    assert world.clock.now().timestamp() - oldest == 60


# --- by hand ---


def test_what_is_dead_is_listed_replayed_and_dropped_by_hand(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    world = door.world
    box, receiver = outbox(world), Receiver()
    receiver.answer = refuse("a", "b", "c", error=Never("4xx"))
    put(world, box, *(Message(key, {"secret": "not shown"}) for key in "abc"))
    courier(box, receiver).step()
    put(world, box, Message("d", 1))

    def said(*arguments: str) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["outbox", *arguments, "--server", str(door.client.base_url)])
        out = capsys.readouterr()
        return ended.value.code, out.out + out.err

    code, listed = said("list", "--json")
    assert code == 0
    assert [(one["key"], one["state"], one["reason"]) for one in map(orjson.loads, listed.splitlines())] == [
        ("a", "dead", "4xx"), ("b", "dead", "4xx"), ("c", "dead", "4xx"), ("d", "waiting", None),
    ]  # fmt: skip
    assert "not shown" not in listed
    assert said("replay", "webhook", "a", "nope") == (0, "1 messages are sent again\n")
    assert said("drop", "webhook", "b") == (0, "1 messages dropped\n")
    assert waiting(world, "dead") == 1
    receiver.answer = lambda message: None
    courier(box, receiver).step()
    assert receiver.took == ["a", "d"]
    assert put(world, box, Message("b", 1)) == 0, "what was dropped is not put again"
    code, told = said("replay", "webhok")
    assert code == 1
    assert "no messages for 'webhok'; there are webhook" in told
    assert "c" in said("list")[1]


# --- what fills it ---


def feed(box: Outbox) -> Feed:
    return Feed(box, ["labels"], lambda kind, row: [Message(row["record_id"], kind)] if row["label"] == 1 else [])


def test_a_feed_tells_each_new_row_once_through_restart_and_sealing(world: World) -> None:
    world.store.run(append_labels(world.store, ["old"]))
    box = outbox(world)
    feed(box).begin()
    world.store.run(append_labels(world.store, ["a", "b"]))
    world.store.run(append_labels(world.store, ["untold"], label=0.0))
    assert feed(box).step() == 3
    world.store.run(append_labels(world.store, ["c"]))
    world.store.run(append_labels(world.store, ["first of its model"], "bot"))
    world.seal()
    world.restart()
    box = outbox(world)
    again = feed(box)
    again.begin()
    assert again.step() == 2
    assert again.step() == 0
    assert [m.key for m in box.due()] == ["a", "b", "first of its model", "c"]


def test_rows_in_a_damaged_segment_are_passed_by_and_counted(world: World) -> None:
    box = outbox(world)
    follows = feed(box)
    follows.begin()
    world.store.run(append_labels(world.store, ["lost", "as well"]))
    world.seal()
    (segment,) = world.state("SELECT file FROM manifest WHERE kind = 'labels'")
    (world.store.root / segment["file"]).unlink()
    quarantine.Quarantine(world.store, clock=world.clock, metrics=world.metrics).look()
    world.store.run(append_labels(world.store, ["there"]))
    assert follows.step() == 1
    assert [m.key for m in box.due()] == ["there"]
    assert sample(world.metrics, "modelwatch_outbox_failures_total", sink="webhook", reason="unreadable") == 2
