"""The door. Decodes, checks, tells duplicates from conflicts, sets aside what cannot be kept, and answers after the commit.

Everything a batch leaves behind (rows, their work for the scorer, dead letters, the ledger entry) is one transaction.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol

import orjson

from monitor.blocks import Block, Opened, block, packed
from monitor.changes import Changes
from monitor.child import Child
from monitor.clock import Clock
from monitor.columns import FeatureColumns
from monitor.config import Config
from monitor.deadletter import letters as deadletters
from monitor.deadletter.letters import MAX_PAYLOAD as MAX_PAYLOAD
from monitor.errors import BodyRejected
from monitor.intake import Intake
from monitor.keys import hash64
from monitor.masking import maskings
from monitor.masking.masking import Marks, Masking
from monitor.metrics import Metrics
from monitor.opener import Body
from monitor.passages import Passages
from monitor.queueing import Queueing
from monitor.records import LATE, REASONS, REVISED, Parsed, Reject, Rows
from monitor.settling.traces import Traces
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
    again: list[int] = field(default_factory=list)  # places in the batch of records that were stored already
    rejects: list[Reject] = field(default_factory=list)
    replay: dict[str, Any] | None = None  # what was answered the first time this batch came
    ignored: int = 0  # log records that hold nothing to keep
    stored_by: Counter[tuple[str, str]] = field(default_factory=Counter)  # rows by kind and model
    places_by: dict[str, set[int]] = field(default_factory=dict)  # by model, those of new spans in the batch
    failed: BodyRejected | None = None  # the body as a whole could not be read; its beginning is in the dead letter

    @property
    def accepted(self) -> int:
        return self.accepted_by.total() + self.ignored

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
    """What is different for records out of the dead letter: what is rejected stays where it is."""

    arrived_at: datetime  # when they came first, which stands in for a time they do not name

    def settle(self, transaction: Transaction, answer: Answer) -> None:
        """Note what became of them, in the transaction that stores them."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Records from one place, on their way in. `key` is the client's name for the batch, where it gave one. `also` is done in
    the transaction that stores them: where a source stands in its file or topic. What it raises, the future raises, and
    nothing is stored. `places` says for each item where it came from, for the dead letter; `source` stands in. `replay`: they
    come out of the dead letter. `masked`: by `Inbox.mask`, on an earlier occasion."""

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
    masked: bool = False


class Inbox:
    """One for all sources; any thread may call it."""

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        clock: Clock,
        metrics: Metrics,
        processes: Sequence[Child] = (),
        spare: Callable[[], Child] | None = None,
    ) -> None:
        """`processes`: those that open bodies; `spare` starts one more. See `Intake`."""
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self.passages = Passages(store)
        self._queueing = Queueing(store, self.passages, Traces(store), metrics)
        self._changes = Changes(store, metrics)
        self._intake = Intake(
            processes,
            lambda: store.features,
            lambda kind, many: metrics.masked.labels(kind).inc(many),
            clock=clock,
            spare=spare,
        )
        self.configure(config)
        with store.read() as reader:
            stored = deadletters.open_by_reason(reader)
        for reason in sorted(REASONS | stored.keys()):  # each from 0 on, so that the first are a growth
            metrics.deadletters.labels(reason).set(stored[reason])

    def configure(self, config: Config) -> None:
        """Take a new config; batches in hand keep the old one."""
        self._columns = FeatureColumns({m.name: m for m in config.models})
        self._settle = timedelta(seconds=config.scoring.settle_seconds)
        self._generation = self._intake.configure(config)

    def put(self, batch: Batch) -> Future[Answer]:
        """Check the records and have them stored; the future is done once they are durable.

        Raises:
            InboxFull, StoreUnavailable: nothing was taken; the sender must send again.
        """
        generation, received_at = self._generation, self._clock.now()
        opener = generation.opener
        arrived_at = batch.replay.arrived_at if batch.replay else received_at
        if isinstance(batch.items, Body):
            opened = self._intake.open(generation, batch.items, batch.model, arrived_at)
            # Nobody reads again what could not be read, or killed who read it.
            again = _Again(batch.items, generation.uncounted, batch.model)
            if not opened.failed and self._will_be_looked_at(opened):
                again.read()  # here, and not on the writer's thread, which everybody waits for
            batch = self._masked(batch, opened.rejects if opened.failed else again, opener.masking)
        else:
            marks: Marks = {}
            if not batch.masked:
                batch = self._masked(batch, opener.masking.apply(batch.kind, batch.items, batch.model, marks), opener.masking)
            opened = packed(opener.parse(batch.kind, batch.items, batch.model, arrived_at))
            opened.marks = marks
        opened.received_at = received_at
        parse = partial(opener.parse, batch.kind, batch.items, batch.model, arrived_at)
        return self._store.submit(
            lambda transaction: self._keep(transaction, batch, opened, parse), records=max(1, opened.total), size=batch.size
        )

    def _will_be_looked_at(self, opened: Opened) -> bool:
        """Whether the writer will want to see a record itself, as far as can be told before its turn: one in conflict with what
        is stored or with another of the batch, or one with a feature that has no column yet."""
        for (kind, model), rows in opened.blocks.items():
            if kind == "contexts" or (opened.kind == "spans" and kind != "spans"):
                continue
            features = self._store.feature_columns(model)
            if any(features.get(name) != what for name, what in rows.kinds):
                return True
            here: dict[int, int] = {}
            known = self._store.keys(kind, model).find(rows.key)
            for key, content, stored in zip(rows.key, rows.content, known, strict=True):
                if content != (here.setdefault(key, content) if stored is None else stored[0]):
                    return True
        return False

    @staticmethod
    def _masked(batch: Batch, items: Sequence[Any], masking: Masking) -> Batch:
        return replace(batch, items=items, model=masking.model(batch.model), key=masking.key(batch.key), masked=True)

    def mask(self, kind: str, items: Sequence[Any], model: str | None = None) -> list[Any]:
        """The items as they may be written anywhere, for who has to keep some before they can be put."""
        return self._generation.opener.masking.apply(kind, items, model)

    # --- on the writer thread, inside the transaction ---

    def _keep(self, transaction: Transaction, batch: Batch, opened: Opened, parse: Callable[[], Parsed]) -> Answer:
        if batch.also is not None:
            batch.also(transaction)
        failed = None if opened.failed is None else BodyRejected(*opened.failed)
        if batch.key is not None and (earlier := self._earlier(transaction, batch, opened)) is not None:
            earlier.failed = failed
            self._count_with(transaction, batch, opened, earlier)
            return earlier
        fresh: dict[tuple[str, str], Rows] = {}
        if opened.kind == "predictions" and not _known(transaction, opened):
            # Decided record by record, which takes the records themselves.
            parsed = parse()
            fresh = parsed.rows
            opened.blocks, opened.rejects = packed(parsed).blocks, parsed.rejects
        answer = Answer(batch.key or uuid.uuid4().hex, rejects=list(opened.rejects), ignored=opened.ignored)
        answer.failed = failed
        for (kind, model), rows in opened.blocks.items():
            self._keep_rows(transaction, opened, kind, model, rows, answer, batch, fresh.get((kind, model)))
        if batch.replay is None:
            self._set_aside(transaction, batch, opened.received_at, answer)
        else:
            batch.replay.settle(transaction, answer)
        self._enter(transaction, batch, opened, answer)
        self._count_with(transaction, batch, opened, answer)
        return answer

    def _keep_rows(
        self, transaction: Transaction, opened: Opened, kind: str, model: str, rows: Block, answer: Answer, batch: Batch,
        fresh: Rows | None,
    ) -> None:  # fmt: skip
        received_at = opened.received_at
        if kind == "contexts":
            for passages in rows.contexts:
                added = self.passages.keep(transaction, model, passages, received_at, answer.batch_id)
                (answer.accepted_by if added else answer.duplicates_by)[model] += 1
                if added:
                    answer.stored_by[kind, model] += 1
            return
        if opened.kind == "spans" and kind != "spans":
            new = self._that_came_with(transaction, kind, model, rows, answer)
        else:
            new, again = self._new(transaction, kind, model, rows, answer, batch)
            if rows.contexts:
                # A generation sent again may bring passages that were not there the first time.
                for passages in (rows.contexts[i] for i in again if rows.contexts[i]):
                    self.passages.keep(transaction, model, passages, received_at, answer.batch_id)
            if fresh is not None:
                new, refused = self._columns.settle(transaction, model, fresh, new, batch.items)
                answer.rejects += refused
                rows = block(kind, fresh.take(new), transaction.feature_columns(model))
            answer.accepted_by[model] += len(new)
            if kind == "spans":
                answer.places_by[model] = {rows.index[i] for i in new}
        if not new:
            return
        if len(new) < len(rows.index):
            rows = rows.take(new)
        columns = rows.columns
        first = transaction.append(
            kind,
            model,
            {
                **columns.arrays,
                **rows.features.arrays,
                "received_at": received_at,
                "batch_id": answer.batch_id,
                "key_hash": rows.key,
                "content_hash": rows.content,
            },
        )
        transaction.put_keys(kind, model, rows.key, rows.content, first)
        answer.stored_by[kind, model] += len(new)
        if opened.marks and kind in maskings.KINDS:
            maskings.note(transaction, kind, model, columns, rows.index, opened.marks, received_at)
        if kind not in LATE:
            # An event time in the future must not close windows that are still filling.
            latest = columns.latest("event_time", received_at + FUTURE_TOLERANCE)
            if latest is not None:
                transaction.advance_watermark(model, latest)
        if kind in ("generations", "predictions"):
            self._changes.note(transaction, model, columns, received_at)
        if kind in ("spans", "contents"):
            self._queueing.note(transaction, kind, model, columns, received_at, self._settle)
        elif opened.kind == "generations":
            passages = [passage for some in rows.contexts for passage in some]
            self._queueing.pushed(transaction, model, columns, first, passages, answer.batch_id, received_at, self._settle)

    @staticmethod
    def _that_came_with(transaction: Transaction, kind: str, model: str, rows: Block, answer: Answer) -> list[int]:
        """Places of the rows whose span is new, less those that were pushed before: what is stored stays as it is."""
        spans = answer.places_by.get(model, set())
        here: dict[int, int] = {}
        found = transaction.find(kind, model, rows.key)
        return [
            i
            for i, index in enumerate(rows.index)
            if index in spans and found[i] is None and here.setdefault(rows.key[i], i) == i
        ]

    def _new(
        self, transaction: Transaction, kind: str, model: str, rows: Block, answer: Answer, batch: Batch
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
        answer.again += [rows.index[i] for i in again]
        return new, again

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

    def _enter(self, transaction: Transaction, batch: Batch, opened: Opened, answer: Answer) -> None:
        named = batch.key is not None
        key, content = hash64(batch.key or ""), _batch_content(batch)
        first = transaction.append(
            "batches",
            "",
            {
                "batch_id": [answer.batch_id],
                "source": batch.source,
                "kind": batch.kind,
                "records": opened.total,
                "accepted": answer.accepted,
                "duplicates": answer.duplicates,
                "rejected": len(answer.rejects),
                "body_hash": batch.body_hash if named else None,
                "answer": orjson.dumps(answer.as_json()).decode() if named else None,
                "received_at": opened.received_at,
                "key_hash": [key] if named else None,
                "content_hash": [content] if named else None,
            },
        )
        if named:
            transaction.put_keys("batches", "", [key], [content], first)

    def _earlier(self, transaction: Transaction, batch: Batch, opened: Opened) -> Answer | None:
        """What was answered when this batch came before; a reused key with another body is a conflict of all records."""
        found = transaction.find("batches", "", [hash64(batch.key or "")])[0]
        if found is None:
            return None
        answer = Answer(batch.key or "")
        content, seq = found
        if content != _batch_content(batch):
            message = f"Idempotency-Key: {batch.key!r} was used for another body; use a new key for new records"
            answer.rejects = [_conflict(i, message, item) for i, item in enumerate(batch.items)]
            self._set_aside(transaction, batch, self._clock.now(), answer)
            return answer
        reader = transaction.reader()
        stored = reader.query(f"SELECT answer FROM {reader.source('batches', '', after_seq=seq - 1)} WHERE seq = ?", [seq])
        answer.replay = orjson.loads(stored[0]["answer"])
        for (kind, model), rows in opened.blocks.items():
            if kind == opened.kind or opened.kind == "logs":
                answer.duplicates_by[model] += len(rows.index)
        return answer

    # --- after the commit ---

    def _count_with(self, transaction: Transaction, batch: Batch, opened: Opened, answer: Answer) -> None:
        transaction.count_on_commit(lambda: self._count(batch, opened, answer))
        transaction.count_on_answer(lambda: self._count_duplicates(opened, answer))

    def _count(self, batch: Batch, opened: Opened, answer: Answer) -> None:
        self._metrics.logs_ignored.inc(answer.ignored)
        rejects = () if batch.replay else answer.rejects  # which were counted when they came first
        for reject, count in Counter(r.reason for r in rejects).items():
            self._metrics.rejected.labels(opened.kind, reject).inc(count)
            self._metrics.deadletters.labels(reject).inc(count)
        for (kind, model), count in answer.stored_by.items():
            self._metrics.records.labels(model, kind).inc(count)
            self._metrics.last_record.labels(model, kind).set(opened.received_at.timestamp())
            # One look per batch: the records of a batch were sent together.
            for when in opened.blocks[kind, model].columns.head("event_time"):
                lag = (opened.received_at - when).total_seconds()
                self._metrics.event_lag.labels(kind).observe(max(0.0, lag))
                if lag < -FUTURE_TOLERANCE.total_seconds():
                    self._metrics.ahead.labels(model, kind).inc()

    def _count_duplicates(self, opened: Opened, answer: Answer) -> None:
        for model, count in answer.duplicates_by.items():
            self._metrics.duplicates.labels(model, opened.kind).inc(count)


def _conflict(index: int, message: str, item: Any) -> Reject:
    if isinstance(item, Reject):  # what could not be read, as it came
        return Reject(index, "conflict", message, item.record_id, item.payload, item.size)
    return Reject(index, "conflict", message, None, item)


def _known(transaction: Transaction, opened: Opened) -> bool:
    """Whether every feature of the predictions has a column of the kind it was taken for."""
    for (_, model), rows in opened.blocks.items():
        kinds = transaction.feature_columns(model)
        if any(kinds.get(name) != kind for name, kind in rows.kinds):
            return False
    return True


class _Again(Sequence[Any]):
    """The records of a body that was opened elsewhere, masked: read once more where one has to be shown, which is seldom, and by
    the writer only where nobody could know before its turn."""

    def __init__(self, body: Body, masking: Masking, model: str | None) -> None:
        """`masking`: one that does not count, as what was masked was counted."""
        self._body = body
        self._masking = masking
        self._model = model
        self._items: list[Any] | None = None

    def __getitem__(self, place: Any) -> Any:
        return self.read()[place]

    def __len__(self) -> int:
        return len(self.read())

    def read(self) -> list[Any]:
        if self._items is None:
            self._items = self._masking.apply(self._body.kind, self._body, self._model)
        return self._items


def _batch_content(batch: Batch) -> int:
    return hash64(batch.kind, batch.model or "", batch.body_hash or "")
