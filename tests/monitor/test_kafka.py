"""Kafka: every message once, whoever reads it, whatever goes away."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from pydantic import ValidationError

from monitor.errors import ConfigError, InboxFull, StoreUnavailable
from monitor.sources import registry
from monitor.sources.kafka import Fenced, KafkaSource
from monitor.sources.kafkaconfig import KafkaConfig
from tests.monitor.kafkamock import MockKafka
from tests.monitor.otlp import export, log_export
from tests.monitor.support import Held, World, append_labels, prediction, sample, wait_for

JOIN_SECONDS = 30.0
Member = Callable[..., KafkaSource]


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockKafka]:
    one = MockKafka()
    yield one
    one.close()


@pytest.fixture
def topic(cluster: MockKafka, request: pytest.FixtureRequest) -> str:
    return cluster.topic(f"t{abs(hash(request.node.name))}", partitions=2)


@pytest.fixture
def member(cluster: MockKafka, topic: str) -> Iterator[Member]:
    made: list[KafkaSource] = []

    def make(of: World, name: str = "bus", kafka: MockKafka = cluster, **fields: Any) -> KafkaSource:
        settings = {
            "type": "kafka", "name": name, "brokers": [kafka.brokers], "group": f"group-{topic}", "model": "houses",
            "topics": [{"name": topic, "kind": "predictions"}], "poll_seconds": 0.05, "lag_seconds": 0.1,
            "settings": {"session.timeout.ms": 2000, "heartbeat.interval.ms": 200, "reconnect.backoff.max.ms": 500},
            **fields,
        }  # fmt: skip
        config = KafkaConfig.model_validate(settings)
        made.append(KafkaSource(config, of.inbox, of.store, clock=of.clock, metrics=of.metrics))
        made[-1]._subscribe()
        return made[-1]

    yield make
    for one in made:
        one.stop()


def until(look: Callable[[], object], *sources: KafkaSource, what: str = "what was waited for") -> None:
    """Step the sources, as their threads would, until it is so."""
    deadline = time.monotonic() + JOIN_SECONDS
    while not look():
        assert time.monotonic() < deadline, f"{JOIN_SECONDS} s have passed without {what}"
        for source in sources:
            source.poll()


def body(record_id: str, **fields: Any) -> bytes:
    return json.dumps(prediction(record_id, **fields)).encode()


def offsets(world: World) -> dict[int, int | None]:
    return {row["partition"]: row["next_offset"] for row in world.state("SELECT partition, next_offset FROM partitions")}


def test_messages_are_taken_and_the_next_offset_is_stored_with_them(
    world: World, cluster: MockKafka, topic: str, member: Member
) -> None:
    cluster.send(topic, body("a"), b"[" + body("b") + b"," + body("c") + b"]", None, partition=0)
    cluster.send(topic, body("d"), partition=1)
    source = member(world)
    until(lambda: len(world.ids("predictions")) == 4 and offsets(world) == {0: 3, 1: 1}, source)
    assert sorted(world.ids("predictions")) == ["a", "b", "c", "d"]
    assert {row["source"] for row in world.rows("batches", "")} == {"kafka:bus"}
    until(lambda: sample(world.metrics, "modelwatch_source_up", source="bus") == 1, source)
    until(lambda: sample(world.metrics, "modelwatch_kafka_lag_records", source="bus", topic=topic) == 0, source)
    look = Consumer({"bootstrap.servers": cluster.brokers, "group.id": f"group-{topic}", "log_level": 0})
    places = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    until(lambda: [p.offset for p in look.committed(places, timeout=10)] == [3, 1], source, what="the offsets in Kafka")
    look.close()


def test_a_restart_goes_on_where_the_store_says_whatever_kafka_says(
    world: World, cluster: MockKafka, topic: str, member: Member
) -> None:
    cluster.send(topic, body("a"), body("b"))
    source = member(world)
    until(lambda: len(world.ids("predictions")) == 2, source)
    source._consumer.commit(offsets=[TopicPartition(topic, 0, 0)], asynchronous=False)  # as if ours had never come there
    source.stop()
    world.restart()
    cluster.send(topic, body("c"))
    again = member(world)
    until(lambda: world.ids("predictions") == ["a", "b", "c"], again)
    assert sum(row["records"] for row in world.rows("batches", "")) == 3, "none was handed over twice"


def test_a_large_topic_is_taken_across_restarts_in_order_and_once(
    world: World, cluster: MockKafka, topic: str, member: Member
) -> None:
    cluster.send(topic, *(body(f"r{i}") for i in range(300)))
    for _ in range(4):
        source = member(world, batch_records=60)
        before = len(world.ids("predictions"))
        until(lambda before=before: len(world.ids("predictions")) > before, source)  # type: ignore[misc]
        source.stop()
        world.restart()
    source = member(world)
    until(lambda: len(world.ids("predictions")) == 300, source)
    assert world.ids("predictions") == [f"r{i}" for i in range(300)]
    assert sum(row["records"] for row in world.rows("batches", "")) == 300


def test_a_message_that_cannot_be_read_is_set_aside_with_its_place(
    world: World, cluster: MockKafka, topic: str, member: Member
) -> None:
    cluster.send(topic, body("a"), b"{half", b"\xff\xfe", b'"text"', body("b", prediction="x" * 10), body("b"), body("c"))
    source = member(world)
    until(lambda: "c" in world.ids("predictions"), source)
    letters = [(row["source"], row["reason"]) for row in world.rows("deadletters", "")]
    assert letters == [
        (f"kafka:bus:{topic}/0@1", "bad_json"),
        (f"kafka:bus:{topic}/0@2", "bad_json"),
        (f"kafka:bus:{topic}/0@3", "not_an_object"),
        (f"kafka:bus:{topic}/0@5", "conflict"),
    ]
    assert offsets(world)[0] == 7


def test_while_the_inbox_is_full_messages_wait_and_none_is_dropped(
    make_world: Callable[..., World], cluster: MockKafka, topic: str, member: Member
) -> None:
    world = make_world(server={"queue_records": 5})
    source = member(world)
    until(lambda: len(source._owned) == 2, source)
    cluster.send(topic, *(body(f"r{i}") for i in range(3)))
    held = Held(world.store)
    waiting = world.store.submit(append_labels(world.store, ["x"] * 5), records=5)
    with pytest.raises(InboxFull):
        until(lambda: False, source)
    in_hand = len(source._blocks[0].items)
    cluster.send(topic, *(body(f"r{i}") for i in range(3, 6)))
    for _ in range(3):
        with pytest.raises(InboxFull):
            source.poll()
    assert len(source._blocks[0].items) == in_hand, "no others are fetched"
    held.release()
    waiting.result(10)
    until(lambda: len(world.ids("predictions")) == 6, source)
    assert world.ids("predictions") == [f"r{i}" for i in range(6)]


def test_a_store_that_is_away_leaves_messages_for_later(world: World, cluster: MockKafka, topic: str, member: Member) -> None:
    source = member(world)
    until(lambda: len(source._owned) == 2, source)
    cluster.send(topic, body("a"))
    held = Held(world.store)
    world.store._unavailable = "low"
    with pytest.raises(StoreUnavailable):
        until(lambda: False, source)
    world.store._unavailable = None
    held.release()
    until(lambda: world.ids("predictions") == ["a"], source)


def test_a_partition_is_fetched_once_its_epoch_is_raised(world: World, cluster: MockKafka, topic: str, member: Member) -> None:
    cluster.send(topic, body("a"))
    source = member(world)
    world.close()
    with pytest.raises(StoreUnavailable):
        until(lambda: False, source)
    assert len(source._unclaimed) == 2
    world.open()
    source._store, source._inbox = world.store, world.inbox
    until(lambda: world.ids("predictions") == ["a"], source)
    assert source._unclaimed == []


def test_two_members_share_the_partitions_and_one_takes_over_from_the_other(
    world: World, cluster: MockKafka, topic: str, member: Member
) -> None:
    first = member(world, "one")
    cluster.send(topic, body("a0"), partition=0)
    cluster.send(topic, body("a1"), partition=1)
    until(lambda: len(world.ids("predictions")) == 2, first)
    second = member(world, "two")
    until(lambda: len(first._owned) == len(second._owned) == 1, first, second, what="a partition for each")
    for i in range(20):
        cluster.send(topic, body(f"b{i}"), partition=i % 2)
    until(lambda: len(world.ids("predictions")) == 22, first, second)
    second.stop()
    for i in range(20):
        cluster.send(topic, body(f"c{i}"), partition=i % 2)
    until(lambda: len(world.ids("predictions")) == 42, first)
    assert sum(row["records"] for row in world.rows("batches", "")) == 42, "none was handed over twice"
    assert {row["source"] for row in world.rows("batches", "")} == {"kafka:one", "kafka:two"}


def test_a_member_that_lost_a_partition_without_noticing_stores_nothing(
    world: World, cluster: MockKafka, topic: str, member: Member
) -> None:
    zombie = member(world, "zombie")
    until(lambda: len(zombie._owned) == 2, zombie)
    cluster.send(topic, body("a"), body("b"))
    deadline = time.monotonic() + JOIN_SECONDS
    while not zombie._blocks:  # it has them in hand, and then it stands still
        assert time.monotonic() < deadline
        zombie._gather(zombie._consumer.consume(10, 0.1))
    heir = member(world, "heir", group=f"group-{topic}-2")
    heir.config = heir.config.model_copy(update={"group": f"group-{topic}"})  # what the brokers would do after the session ended
    until(lambda: world.ids("predictions") == ["a", "b"], heir)
    block = zombie._blocks[0]
    with pytest.raises(Fenced):
        zombie._submit(block)()
    assert zombie.poll() == 2
    assert zombie._blocks == []
    assert world.ids("predictions") == ["a", "b"]
    assert sum(row["records"] for row in world.rows("batches", "")) == 2
    assert offsets(world)[0] == 2


def test_what_was_stored_although_the_answer_was_lost_is_not_stored_again(
    world: World, cluster: MockKafka, topic: str, member: Member
) -> None:
    source = member(world)
    until(lambda: len(source._owned) == 2, source)
    cluster.send(topic, body("a"))
    deadline = time.monotonic() + JOIN_SECONDS
    while not source._blocks:
        assert time.monotonic() < deadline
        source._gather(source._consumer.consume(10, 0.1))
    source._submit(source._blocks[0])()
    source.poll()
    assert source._blocks == []
    assert len(world.rows("batches", "")) == 1
    cluster.send(topic, body("b"))
    until(lambda: world.ids("predictions") == ["a", "b"], source)


def test_brokers_that_go_away_are_seen_and_waited_for(
    world: World, topic: str, member: Member, caplog: pytest.LogCaptureFixture
) -> None:
    own = MockKafka()
    own.topic(topic, partitions=2)
    own.send(topic, body("a"))
    source = member(world, kafka=own)
    until(lambda: world.ids("predictions") == ["a"], source)
    until(lambda: sample(world.metrics, "modelwatch_source_up", source="bus") == 1, source)
    own.down()
    until(lambda: sample(world.metrics, "modelwatch_source_up", source="bus") == 0, source, what="the outage")
    assert len([r for r in caplog.records if "no broker answers" in r.message]) == 1
    assert len(caplog.records) < 10, "an outage fills no log"
    own.up()
    until(lambda: sample(world.metrics, "modelwatch_source_up", source="bus") == 1, source, what="its end")
    own.send(topic, body("b"))
    until(lambda: world.ids("predictions") == ["a", "b"], source)
    source.stop()
    own.close()


def test_the_lag_is_what_is_not_stored(world: World, cluster: MockKafka, topic: str, member: Member) -> None:
    cluster.send(topic, *(body(f"r{i}") for i in range(5)))
    source = member(world, batch_records=1)
    source._measure_lag()
    assert sample(world.metrics, "modelwatch_kafka_lag_records", source="bus", topic=topic) is None  # not assigned yet
    until(lambda: len(world.ids("predictions")) == 2, source)
    source._measure_lag()
    assert sample(world.metrics, "modelwatch_kafka_lag_records", source="bus", topic=topic) == 3
    source.stop()
    assert sample(world.metrics, "modelwatch_kafka_lag_records", source="bus", topic=topic) is None


def test_from_latest_on_what_was_there_before_is_left_and_what_comes_is_not(
    world: World, cluster: MockKafka, topic: str, member: Member
) -> None:
    cluster.send(topic, body("old"))
    source = member(world, start="latest")
    until(lambda: len(source._owned) == 2, source)
    source.stop()  # before anything was taken
    cluster.send(topic, body("new"))
    again = member(world, start="latest")
    until(lambda: world.ids("predictions"), again)
    assert world.ids("predictions") == ["new"]


@pytest.mark.parametrize("encoding", ("protobuf", "json"))
def test_exports_of_the_collector_are_spans_and_logs(
    world: World, cluster: MockKafka, topic: str, member: Member, encoding: str
) -> None:
    from tests.monitor.otlp import as_json

    logs = cluster.topic(f"{topic}-logs")
    traces = export("one", "two")
    cluster.send(topic, traces.SerializeToString() if encoding == "protobuf" else as_json(traces), b"\x00none")
    cluster.send(logs, log_export("hello").SerializeToString())
    topics = [{"name": topic, "format": "otlp_traces", "model": "bot"}, {"name": logs, "format": "otlp_logs", "model": "bot"}]
    source = member(world, topics=topics)
    until(lambda: len(world.ids("spans", "bot")) == 2, source)
    until(lambda: {row["kind"] for row in world.rows("batches", "")} == {"spans", "logs"}, source)
    (letter,) = world.rows("deadletters", "")
    assert (letter["source"], letter["reason"]) == (f"kafka:bus:{topic}/0@1", "undecodable")


def test_its_thread_takes_what_comes_until_it_is_stopped(world: World, cluster: MockKafka, topic: str, member: Member) -> None:
    source = member(world)
    source.start()
    cluster.send(topic, body("a"))
    wait_for(lambda: world.ids("predictions") == ["a"], "the message", JOIN_SECONDS)
    source.stop()
    cluster.send(topic, body("b"))
    assert world.ids("predictions") == ["a"]


GOOD: dict[str, Any] = {"type": "kafka", "name": "k", "brokers": ["b:9092"], "topics": [{"name": "t", "kind": "labels"}]}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no topic": ({"topics": []}, "at least 1 item"),
    "a topic of no kind": ({"topics": [{"name": "t"}]}, "give kind for JSON"),
    "a kind for OTLP": ({"topics": [{"name": "t", "format": "otlp_logs", "kind": "labels"}]}, "otlp_logs has no kind"),
    "a topic twice": ({"topics": [{"name": "t", "kind": "labels"}] * 2}, "a topic stands there twice"),
    "a setting of ours": ({"settings": {"group.id": "x"}}, "group.id: not to be set here; group"),
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_make_no_sense_are_refused(name: str) -> None:
    fields, message = WRONG[name]
    with pytest.raises(ValidationError, match=message):
        KafkaConfig.model_validate({**GOOD, **fields})


def test_a_setting_that_librdkafka_does_not_know_is_a_problem_of_the_config(world: World) -> None:
    config = KafkaConfig.model_validate({**GOOD, "settings": {"sasl.pasword": "hunter2"}})
    with pytest.raises(ConfigError, match=r'source k: settings: librdkafka says: .*"sasl.pasword"') as caught:
        KafkaSource(config, world.inbox, world.store, clock=world.clock, metrics=world.metrics)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(config)


def test_models_of_topics_are_looked_for() -> None:
    config = KafkaConfig.model_validate({**GOOD, "topics": [{"name": "t", "kind": "labels", "model": "m"}]})
    assert list(config.models()) == [("topics.0.model", "m")]


def test_without_the_package_the_config_says_what_to_install(tmp_path: Path) -> None:
    assert "kafka" in registry.SHIPPED
    (tmp_path / "c.yaml").write_text(json.dumps({"sources": [GOOD]}))
    program = (
        "import sys; sys.modules['confluent_kafka'] = None\nfrom monitor import cli; cli.main(['check-config', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "c.yaml")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert 'sources.0.type: kafka needs the package confluent-kafka; pip install "modelwatch[kafka]"' in done.stderr
