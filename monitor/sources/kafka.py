"""Takes records and spans from Kafka. Exactly once: the next offset of a partition is stored in the transaction that stores
its records, and sought when the partition is assigned. Kafka's own committed offset is only there to be looked at.

Whoever is assigned a partition raises its epoch first. A member that lost a partition without having noticed, with messages of
it still in hand, has the old epoch, and its transaction is refused: the new owner has begun where the store says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from monitor import log
from monitor.clock import Clock
from monitor.decode import decode
from monitor.errors import BodyRejected, ConfigError, InboxFull, StoreError
from monitor.inbox import Batch, Inbox
from monitor.metrics import Metrics
from monitor.otlp.wire import decode_logs, decode_traces
from monitor.records import Reject
from monitor.sources.kafkaconfig import KafkaConfig, Topic
from monitor.sources.polling import PollingSource
from monitor.store import Store
from monitor.transaction import Transaction

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

OTLP: dict[str, tuple[str, Callable[[bytes, str], Sequence[Any]]]] = {
    "otlp_traces": ("spans", decode_traces),
    "otlp_logs": ("logs", decode_logs),
}


class Fenced(StoreError):
    """The partition belongs to somebody else by now. Nothing was stored, and nothing is to be tried again."""


class _Taken(Exception):
    """These messages are stored already: the answer to an earlier attempt was lost."""


@dataclass(slots=True)
class _Partition:
    """A partition we own: its epoch, and the offset of the next message to be stored."""

    epoch: int
    position: int | None  # None: nothing was taken yet


@dataclass(slots=True)
class _Block:
    """Messages of one partition that wait to be stored together."""

    topic: Topic
    partition: int
    next_offset: int
    items: list[Any]
    places: list[str]
    size: int


class KafkaSource(PollingSource):
    """One member of the group. Its consumer is used by its own thread only."""

    Config: ClassVar = KafkaConfig
    transport = "kafka"

    def __init__(self, config: KafkaConfig, inbox: Inbox, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        from confluent_kafka import Consumer, KafkaException

        super().__init__(config, inbox, store, clock=clock, metrics=metrics)
        self._topics = {topic.name: topic for topic in config.topics}
        self._owned: dict[tuple[str, int], _Partition] = {}
        self._unclaimed: list[TopicPartition] = []
        self._blocks: list[_Block] = []
        self._complained: set[int] = set()  # codes of errors that were logged since the brokers were last there
        self._up: bool | None = None
        settings = {
            "log_level": 0,  # what matters of it comes by the callbacks, once
            **config.settings,
            "bootstrap.servers": ",".join(config.brokers),
            "group.id": config.group,
            "auto.offset.reset": config.start,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "partition.assignment.strategy": "cooperative-sticky",
            "statistics.interval.ms": int(config.lag_seconds * 1000),
            "stats_cb": self._watch,
            "error_cb": self._complain,
        }
        try:
            self._consumer: Consumer = Consumer(settings)
        except (KafkaException, ValueError, TypeError) as exc:
            raise ConfigError([f"source {config.name}: settings: librdkafka says: {exc}"]) from exc

    def start(self) -> None:
        self._subscribe()
        super().start()

    def stop(self) -> None:
        super().stop()
        self._consumer.close()  # which leaves the group, so that the others need not wait for us

    def _subscribe(self) -> None:
        self._consumer.subscribe(list(self._topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)

    @property
    def idle_seconds(self) -> float:
        return 0.0  # it has waited for messages already

    def poll(self) -> int:
        """Take what came within `poll_seconds`; return how many messages.

        Raises:
            InboxFull, StoreUnavailable: they stay in hand, the partitions are paused, and the next call tries again.
        """
        if self._blocks:
            self._consumer.poll(0)  # to stay in the group, and hear what is revoked; all we own is paused
        else:
            self._claim()
            self._gather(self._consumer.consume(self.config.batch_records, self.config.poll_seconds))
        return self._hand_over()

    # --- messages ---

    def _gather(self, messages: Sequence[Message]) -> None:
        """Sort messages by partition, decoded."""
        blocks: dict[tuple[str, int], _Block] = {}
        for message in messages:
            if (error := message.error()) is not None:
                self._complain(error)
                continue
            name, number, offset = str(message.topic()), int(message.partition() or 0), int(message.offset() or 0)
            if (owned := self._owned.get((name, number))) is None:
                continue  # revoked since it was fetched
            topic = self._topics[name]
            block = blocks.setdefault((name, number), _Block(topic, number, 0, [], [], 0))
            if not block.next_offset and owned.position is not None and offset > owned.position:
                log.warning(
                    "offsets are missing: messages were deleted before they were read, or the topic is compacted",
                    source=self.config.name, topic=name, partition=number, expected=owned.position, found=offset,
                )  # fmt: skip
            block.next_offset = offset + 1
            items = self._decode(topic, message.value(), dict(message.headers() or ()), len(block.items))
            block.items += items
            block.places += [f"kafka:{self.config.name}:{name}/{number}@{offset}"] * len(items)
            block.size += len(message.value() or b"")
        self._blocks = list(blocks.values())

    def _decode(self, topic: Topic, value: bytes | str | None, headers: dict[str, Any], index: int) -> list[Any]:
        if value is None:
            return []  # a tombstone says nothing
        data = value.encode() if isinstance(value, str) else value
        try:
            if topic.format == "json":
                items = decode(data)
            else:
                given = headers.get("content-type", b"")
                content_type = given.decode(errors="replace") if isinstance(given, bytes) else str(given)
                if not content_type.startswith("application/"):
                    content_type = "application/json" if data[:1] == b"{" else "application/x-protobuf"
                items = [*OTLP[topic.format][1](data, content_type)]
        except BodyRejected as exc:
            reason = exc.reason if topic.format == "json" else "undecodable"  # of the dead letter's list, not of HTTP's
            return [Reject(index, reason, str(exc), None, data)]
        return [
            Reject(index + i, one.reason, one.message, one.record_id, one.payload, one.size) if isinstance(one, Reject) else one
            for i, one in enumerate(items)
        ]

    def _hand_over(self) -> int:
        """Have the blocks stored, one transaction for each partition; those of one call share their sync."""
        if not self._blocks:
            return 0
        started = self._clock.monotonic()
        before = sum(len(block.items) for block in self._blocks)
        sent: list[tuple[_Block, Callable[[], object]]] = []
        failed: Exception | None = None
        for block in self._blocks:
            try:
                sent.append((block, self._submit(block)))
            except (InboxFull, StoreError) as exc:
                failed = exc
                break
        for block, answer in sent:  # those that were let in are waited for all the same
            failed = self._settle(block, answer) or failed
        self._pause(bool(self._blocks))
        if failed is not None:
            raise failed
        self._metrics.requests.labels(self.transport, "200").inc()
        self._metrics.request_duration.labels(self.transport).observe(self._clock.monotonic() - started)
        return before

    def _settle(self, block: _Block, answer: Callable[[], object]) -> Exception | None:
        """Wait for a block; one that failed stays in hand."""
        try:
            answer()
        except Fenced as exc:
            log.warning("a partition has another owner; its messages are left to it", source=self.config.name, error=exc)
        except _Taken:
            self._stored(block)
        except Exception as exc:
            return exc
        else:
            self._stored(block)
        self._blocks.remove(block)
        return None

    def _submit(self, block: _Block) -> Callable[[], object]:
        owned = self._owned[block.topic.name, block.partition]
        move = partial(self._move, block, owned.epoch)
        if not block.items:
            return self._store.submit(move).result
        kind = block.topic.kind or OTLP[block.topic.format][0]
        model = block.topic.model or self.config.model
        source = f"{self.transport}:{self.config.name}"
        batch = Batch(kind, block.items, source, model=model, size=block.size, also=move, places=block.places)
        return self._inbox.put(batch).result

    def _move(self, block: _Block, epoch: int, transaction: Transaction) -> None:
        """In the transaction of the records: the next offset, if the partition is still ours."""
        where = [self.config.group, block.topic.name, block.partition]
        rows = transaction.query(f"SELECT epoch, next_offset FROM partitions WHERE {_WHERE}", where)
        if not rows or rows[0]["epoch"] != epoch:
            now = rows[0]["epoch"] if rows else None
            raise Fenced(f"{block.topic.name}/{block.partition}: the epoch is {now}, ours was {epoch}")
        if rows[0]["next_offset"] is not None and rows[0]["next_offset"] >= block.next_offset:
            raise _Taken
        transaction.execute(f"UPDATE partitions SET next_offset = ? WHERE {_WHERE}", [block.next_offset, *where])

    def _stored(self, block: _Block) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        if (owned := self._owned.get((block.topic.name, block.partition))) is not None:
            owned.position = block.next_offset
        with contextlib.suppress(KafkaException):  # only to be looked at
            place = TopicPartition(block.topic.name, block.partition, block.next_offset)
            self._consumer.commit(offsets=[place], asynchronous=True)

    def _pause(self, full: bool) -> None:
        """While messages wait for the inbox no others are fetched."""
        from confluent_kafka import KafkaException

        with contextlib.suppress(KafkaException):  # of a partition that is just being revoked
            places = self._consumer.assignment()
            self._consumer.pause(places) if full else self._consumer.resume(places)

    # --- partitions ---

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._unclaimed += partitions
        consumer.incremental_assign([])  # they are fetched once their epoch is raised, for which the store may not be there

    def _claim(self) -> None:
        """Raise the epoch of partitions that were assigned to us, and begin where the store says."""
        from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

        if not self._unclaimed:
            return
        fresh = list(self._unclaimed)
        ends: dict[tuple[str, int], int] = {}
        if self.config.start == "latest":  # as of now: what comes before the first message is stored must not be passed over
            try:
                ends = {(p.topic, p.partition): self._consumer.get_watermark_offsets(p, timeout=10)[1] for p in fresh}
            except KafkaException as exc:
                raise OSError(f"the end of a partition cannot be asked: {exc}") from exc
        claimed = self._store.run(partial(self._raise_epochs, fresh, ends))
        self._consumer.incremental_assign(
            [
                TopicPartition(topic, number, OFFSET_BEGINNING if one.position is None else one.position)
                for (topic, number), one in claimed.items()
            ]
        )
        self._owned |= claimed
        self._unclaimed = [p for p in self._unclaimed if p not in fresh]
        log.info("partitions taken over", source=self.config.name, partitions=len(claimed))

    def _raise_epochs(
        self, partitions: Sequence[TopicPartition], ends: dict[tuple[str, int], int], transaction: Transaction
    ) -> dict[tuple[str, int], _Partition]:
        claimed = {}
        for one in partitions:
            where = [self.config.group, one.topic, one.partition]
            rows = transaction.query(f"SELECT epoch, next_offset FROM partitions WHERE {_WHERE}", where)
            epoch = rows[0]["epoch"] + 1 if rows else 1
            position = rows[0]["next_offset"] if rows else None
            position = ends.get((one.topic, one.partition)) if position is None else position
            transaction.execute(f"DELETE FROM partitions WHERE {_WHERE}", where)
            transaction.execute("INSERT INTO partitions VALUES (?, ?, ?, ?, ?)", [*where, epoch, position])
            claimed[one.topic, one.partition] = _Partition(epoch, position)
        return claimed

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """What is in hand of them is left to whoever comes next."""
        gone = {(p.topic, p.partition) for p in partitions}
        self._unclaimed = [p for p in self._unclaimed if (p.topic, p.partition) not in gone]
        self._blocks = [b for b in self._blocks if (b.topic.name, b.partition) not in gone]
        consumer.incremental_unassign([p for p in partitions if (p.topic, p.partition) in self._owned])
        self._owned = {key: one for key, one in self._owned.items() if key not in gone}

    # --- what an operator sees ---

    def _there(self, up: bool) -> None:
        """What our calls say of the brokers is nothing: they come back empty when nobody answers."""

    def _complain(self, error: KafkaError) -> None:
        """Called by librdkafka for every failed attempt; one line for each kind until the brokers are back."""
        if error.code() not in self._complained:
            self._complained.add(error.code())
            log.warning("kafka: will be tried again", source=self.config.name, code=error.name(), error=error.str())

    def _watch(self, text: str) -> None:
        """librdkafka's statistics: whether any broker is there, and how far we are behind."""
        brokers = orjson.loads(text).get("brokers", {}).values()
        up = any(one.get("state") in ("UP", "UPDATE") for one in brokers if one.get("nodeid", -1) >= 0)
        if up and self._up is False:
            log.info("kafka: the brokers are back", source=self.config.name)
        if not up and self._up is True:
            log.warning("kafka: no broker answers; what they hold is taken when they are back", source=self.config.name)
        if up and not self._up:
            self._complained.clear()
        self._up = up
        self._metrics.source_up.labels(self.config.name).set(up)
        self._measure_lag()

    def _measure_lag(self) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        lag: dict[str, int] = {}
        for (topic, number), owned in self._owned.items():
            with contextlib.suppress(KafkaException):
                low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)
                if high >= 0:
                    lag[topic] = lag.get(topic, 0) + max(0, high - max(low, owned.position or 0))
        for topic in self._topics:
            if topic in lag:
                self._metrics.kafka_lag.labels(self.config.name, topic).set(lag[topic])
            else:  # nobody knows it: it is no 0
                self._metrics.kafka_lag.forget(source=self.config.name, topic=topic)


_WHERE = "consumer = ? AND topic = ? AND partition = ?"
