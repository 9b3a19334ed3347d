"""The door. Decodes, checks, tells duplicates from conflicts, sets aside what cannot be kept, and answers after the commit.

Everything a batch leaves behind (rows, their work for the scorer, dead letters, the ledger entry) is one transaction.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import orjson
import pyarrow as pa

from monitor import deadletters
from monitor.clock import Clock
from monitor.columns import FeatureColumns, typed
from monitor.config import Config
from monitor.deadletters import MAX_PAYLOAD as MAX_PAYLOAD
from monitor.keys import hash64
from monitor.masking import Masking
from monitor.metrics import Metrics
from monitor.passages import Passages
from monitor.records import LATE, REVISED, Parsed, Parser, Reject, Rows
from monitor.store import Store
from monitor.transaction import Transaction

MAX_ERRORS_SHOWN = 100
FUTURE_TOLERANCE = timedelta(minutes=5)


@dataclass(slots=True)
class Answer:
    """What became of a batch. `accepted + duplicates + rejected` is the number of records sent."""

    batch_id: str
    accepted_by: Counter[str] = field(default_factory=Counter)  # by model
    duplicates_by: Counter[str] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)
    replay: dict[str, Any] | None = None  # what was answered the first time this batch came

    @property
    def accepted(self) -> int:
        return self.accepted_by.total()

    @property
    def duplicates(self) -> int:
        return self.duplicates_by.total()

    def as_json(self) -> dict[str, Any]:
        if self.replay is not None:
            return {**self.replay, "replayed": True}
        shown = sorted(self.rejects, key=lambda r: r.index)
        body: dict[str, Any] = {
            "batch_id": self.batch_id,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": len(shown),
            "errors": [
                {"index": r.index, "record_id": r.record_id, "reason": r.reason, "message": r.message}
                for r in shown[:MAX_ERRORS_SHOWN]
            ],
        }
        if len(shown) > MAX_ERRORS_SHOWN:
            body["errors_not_shown"] = len(shown) - MAX_ERRORS_SHOWN
        return body


class Replay(Protocol):
    """What is different for records out of the dead letter: they have been masked, and what is rejected stays where it is."""

    arrived_at: datetime  # when they came first, which stands in for a time they do not name

    def settle(self, transaction: Transaction, answer: Answer) -> None:
        """Note what became of them, in the transaction that stores them."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Records from one place, on their way in. `key` is the client's name for the batch, where it gave one. `also` is done in
    the transaction that stores them: where a source stands in its file or topic. What it raises, the future raises, and
    nothing is stored. `places` says for each item where it came from, for the dead letter; `source` stands in. `replay`: they
    come out of the dead letter."""

    kind: str
    items: Sequence[Any]
    source: str
    model: str | None = None
    key: str | None = None
    body_hash: str | None = None
    size: int = 0
    also: Callable[[Transaction], None] | None = None
    places: Sequence[str] | None = None
    replay: Replay | None = None


class Inbox:
    """One for all sources; any thread may call it."""

    def __init__(self, config: Config, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._passages = Passages(store)
        self.configure(config)
        with store.read() as reader:
            for reason, count in deadletters.open_by_reason(reader).items():
                metrics.deadletters.labels(reason).set(count)

    def configure(self, config: Config) -> None:
        """Take a new config; batches in hand keep the old one."""
        self._columns = FeatureColumns(self._store, {m.name: m for m in config.models})
        self._masking = Masking(config, self._metrics)
        self._settle = timedelta(seconds=config.scoring.settle_seconds)
        tasks = {m.name: m.task for m in config.models}
        self._parser = Parser(tasks, self._columns.kind_of, max_text_bytes=config.server.max_text_bytes)

    def put(self, batch: Batch) -> Future[Answer]:
        """Check the records and have them stored; the future is done once they are durable.

        Raises:
            InboxFull, StoreUnavailable: nothing was taken; the sender must send again.
        """
        batch = replace(batch, items=self._masking.apply(batch.kind, batch.items, batch.model))
        received_at = self._clock.now()
        arrived_at = batch.replay.arrived_at if batch.replay else received_at
        parsed = self._parser.parse(batch.kind, batch.items, model=batch.model, received_at=arrived_at)
        parsed.received_at = received_at
        future = self._store.submit(
            lambda transaction: self._keep(transaction, batch, parsed), records=max(1, len(batch.items)), size=batch.size
        )
        future.add_done_callback(lambda done: self._count(batch, parsed, done))
        return future

    # --- on the writer thread, inside the transaction ---

    def _keep(self, transaction: Transaction, batch: Batch, parsed: Parsed) -> Answer:
        if batch.also is not None:
            batch.also(transaction)
        if batch.key is not None and (earlier := self._earlier(transaction, batch, parsed)) is not None:
            return earlier
        answer = Answer(batch.key or uuid.uuid4().hex, rejects=list(parsed.rejects))
        for model, rows in parsed.rows.items():
            if rows.index:
                self._keep_rows(transaction, parsed, model, rows, answer, batch)
        if batch.replay is None:
            self._set_aside(transaction, batch, parsed.received_at, answer)
        else:
            batch.replay.settle(transaction, answer)
        self._enter(transaction, batch, parsed, answer)
        return answer

    def _keep_rows(self, transaction: Transaction, parsed: Parsed, model: str, rows: Rows, answer: Answer, batch: Batch) -> None:
        if parsed.kind == "contexts":
            for passages in rows.contexts:
                added = self._passages.keep(transaction, model, passages, parsed.received_at, answer.batch_id)
                (answer.accepted_by if added else answer.duplicates_by)[model] += 1
            return
        new, again = self._new(transaction, parsed.kind, model, rows, answer, batch)
        if rows.contexts:
            # A generation sent again may bring passages that were not there the first time.
            for passages in (rows.contexts[i] for i in again if rows.contexts[i]):
                self._passages.keep(transaction, model, passages, parsed.received_at, answer.batch_id)
        if parsed.kind == "predictions":
            new, refused = self._columns.settle(transaction, model, rows, new, batch.items)
            answer.rejects += refused
        if not new:
            return
        everything = len(new) == len(rows.index)
        columns: dict[str, Any] = {
            name: values if everything else [values[i] for i in new] for name, values in rows.columns.items()
        }
        if parsed.kind == "predictions":
            columns |= typed(transaction.feature_columns(model), [rows.features[i] for i in new])
        keys, contents = [rows.key[i] for i in new], [rows.content[i] for i in new]
        first = transaction.append(
            parsed.kind,
            model,
            {
                **columns,
                "received_at": parsed.received_at,
                "batch_id": answer.batch_id,
                "key_hash": keys,
                "content_hash": contents,
            },
        )
        transaction.put_keys(parsed.kind, model, keys, contents, first)
        answer.accepted_by[model] += len(new)
        if parsed.kind not in LATE:
            # An event time in the future must not close windows that are still filling.
            times = [t for t in columns["event_time"] if t <= parsed.received_at + FUTURE_TOLERANCE]
            if times:
                transaction.advance_watermark(model, max(times))
        if parsed.kind == "generations":
            self._queue_work(transaction, model, rows, new, columns, first, parsed, answer.batch_id)

    def _new(
        self, transaction: Transaction, kind: str, model: str, rows: Rows, answer: Answer, batch: Batch
    ) -> tuple[list[int], list[int]]:
        """Places of the rows that are neither stored nor earlier in this batch, and of those that are, word for word."""
        found = transaction.find(kind, model, rows.key)
        here: dict[int, int] = {}
        new, again = [], []
        for i, (key, content) in enumerate(zip(rows.key, rows.content, strict=True)):
            stored = found[i]
            known = stored[0] if stored is not None else here.get(key)
            if known is None:
                here[key] = content
                new.append(i)
            elif known == content:
                again.append(i)
            else:
                index = rows.index[i]
                record_id = rows.columns["record_id"][i]
                message = f"record_id: {record_id!r} is stored with other content; a record never changes: " + (
                    "send a higher revision" if kind in REVISED else "send a new id"
                )
                answer.rejects.append(Reject(index, "conflict", message, record_id, batch.items[index]))
        answer.duplicates_by[model] += len(again)
        return new, again

    def _queue_work(
        self,
        transaction: Transaction,
        model: str,
        rows: Rows,
        new: Sequence[int],
        columns: Mapping[str, Any],
        first: int,
        parsed: Parsed,
        batch_id: str,
    ) -> None:
        """A generation with its contexts can be scored at once; one without waits for them to settle."""
        ids: list[str] = columns["record_id"]
        firsts: list[int | None] = [None] * len(new)
        passages = self._passages.fresh(transaction, model, [p for i in new for p in rows.contexts[i]])
        if passages:
            seq = self._passages.append(transaction, model, passages, 1, parsed.received_at, batch_id)
            places = {record_id: place for place, record_id in enumerate(ids)}
            for offset, passage in enumerate(passages):
                place = places[passage["record_id"]]
                firsts[place] = firsts[place] or seq + offset
        for place, record_id in enumerate(ids):
            if self._passages.waiting(model, record_id):
                firsts[place] = self._passages.adopt(transaction, model, record_id) or firsts[place]
        transaction.insert(
            "work",
            {
                "model": [model] * len(new),
                "record_id": ids,
                "seq": list(range(first, first + len(new))),
                "revision": [1] * len(new),
                "input": [0] * len(new),
                "attempts": [0] * len(new),
                "contexts_from": pa.array(firsts, pa.int64()),
                "due_at": [parsed.received_at if f is not None else parsed.received_at + self._settle for f in firsts],
                "event_time": columns["event_time"],
            },
        )

    def _set_aside(self, transaction: Transaction, batch: Batch, received_at: datetime, answer: Answer) -> None:
        rejects = answer.rejects
        if not rejects:
            return
        deadletters.set_aside(
            transaction,
            rejects,
            kind=batch.kind,
            source=[batch.places[r.index] for r in rejects] if batch.places else batch.source,
            model=batch.model,
            batch_id=answer.batch_id,
            received_at=received_at,
        )

    def _enter(self, transaction: Transaction, batch: Batch, parsed: Parsed, answer: Answer) -> None:
        named = batch.key is not None
        key, content = hash64(batch.key or ""), _batch_content(batch)
        first = transaction.append(
            "batches",
            "",
            {
                "batch_id": [answer.batch_id],
                "source": batch.source,
                "kind": batch.kind,
                "records": parsed.total,
                "accepted": answer.accepted,
                "duplicates": answer.duplicates,
                "rejected": len(answer.rejects),
                "body_hash": batch.body_hash if named else None,
                "answer": orjson.dumps(answer.as_json()).decode() if named else None,
                "received_at": parsed.received_at,
                "key_hash": [key] if named else None,
                "content_hash": [content] if named else None,
            },
        )
        if named:
            transaction.put_keys("batches", "", [key], [content], first)

    def _earlier(self, transaction: Transaction, batch: Batch, parsed: Parsed) -> Answer | None:
        """What was answered when this batch came before; a reused key with another body is a conflict of all records."""
        found = transaction.find("batches", "", [hash64(batch.key or "")])[0]
        if found is None:
            return None
        answer = Answer(batch.key or "")
        content, seq = found
        if content != _batch_content(batch):
            message = f"Idempotency-Key: {batch.key!r} was used for another body; use a new key for new records"
            answer.rejects = [Reject(i, "conflict", message, None, item) for i, item in enumerate(batch.items)]
            self._set_aside(transaction, batch, self._clock.now(), answer)
            return answer
        reader = transaction.reader()
        stored = reader.query(f"SELECT answer FROM {reader.source('batches', '', after_seq=seq - 1)} WHERE seq = ?", [seq])
        answer.replay = orjson.loads(stored[0]["answer"])
        answer.duplicates_by = Counter({model: len(rows.index) for model, rows in parsed.rows.items()})
        return answer

    # --- after the commit ---

    def _count(self, batch: Batch, parsed: Parsed, done: Future[Answer]) -> None:
        if done.exception() is not None:
            return
        answer = done.result()
        rejects = () if batch.replay else answer.rejects  # which were counted when they came first
        for reject, count in Counter(r.reason for r in rejects).items():
            self._metrics.rejected.labels(parsed.kind, reject).inc(count)
            self._metrics.deadletters.labels(reject).inc(count)
        for model, count in answer.duplicates_by.items():
            self._metrics.duplicates.labels(model, parsed.kind).inc(count)
        for model, count in answer.accepted_by.items():
            self._metrics.records.labels(model, parsed.kind).inc(count)
            self._metrics.last_record.labels(model, parsed.kind).set(parsed.received_at.timestamp())
            # One look per batch: the records of a batch were sent together.
            for when in parsed.rows[model].columns.get("event_time", ())[:1]:
                lag = (parsed.received_at - when).total_seconds()
                self._metrics.event_lag.labels(parsed.kind).observe(max(0.0, lag))


def _batch_content(batch: Batch) -> int:
    return hash64(batch.kind, batch.model or "", batch.body_hash or "")
