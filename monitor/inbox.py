"""The door. Decodes, checks, tells duplicates from conflicts, sets aside what cannot be kept, and answers after the commit.

Everything a batch leaves behind (rows, their work for the scorer, dead letters, the ledger entry) is one transaction.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any

import orjson
import pyarrow as pa

from monitor.clock import Clock
from monitor.config import Config, ModelConfig
from monitor.fields import Rejected, columnable
from monitor.keys import hash64
from monitor.metrics import Metrics
from monitor.passages import Passages
from monitor.records import LATE, REVISED, Parsed, Parser, Reject, Rows, same_kind
from monitor.schema import FEATURE
from monitor.store import Store
from monitor.transaction import Transaction

MAX_ERRORS_SHOWN = 100
MAX_PAYLOAD = 2**20
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


@dataclass(frozen=True, slots=True)
class Batch:
    """Records from one place, on their way in. `key` is the client's name for the batch, where it gave one. `also` is done in
    the transaction that stores them: where a source stands in its file or topic. What it raises, the future raises, and
    nothing is stored. `places` says for each item where it came from, for the dead letter; `source` stands in."""

    kind: str
    items: Sequence[Any]
    source: str
    model: str | None = None
    key: str | None = None
    body_hash: str | None = None
    size: int = 0
    also: Callable[[Transaction], None] | None = None
    places: Sequence[str] | None = None


class Inbox:
    """One for all sources; any thread may call it."""

    def __init__(self, config: Config, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._passages = Passages(store)
        self.configure(config)
        with store.read() as reader:
            letters = reader.query(f"SELECT reason, count(*) AS n FROM {reader.source('deadletters', '')} GROUP BY reason")
        for row in letters:
            metrics.deadletters.labels(row["reason"]).set(row["n"])

    def configure(self, config: Config) -> None:
        """Take a new config; batches in hand keep the old one."""
        models = self._models = {m.name: m for m in config.models}
        self._settle = timedelta(seconds=config.scoring.settle_seconds)
        tasks = {m.name: m.task for m in config.models}
        self._parser = Parser(tasks, partial(self._kind_of, models), max_text_bytes=config.server.max_text_bytes)

    def put(self, batch: Batch) -> Future[Answer]:
        """Check the records and have them stored; the future is done once they are durable.

        Raises:
            InboxFull, StoreUnavailable: nothing was taken; the sender must send again.
        """
        received_at = self._clock.now()
        parsed = self._parser.parse(batch.kind, batch.items, model=batch.model, received_at=received_at)
        future = self._store.submit(
            lambda transaction: self._keep(transaction, batch, parsed), records=max(1, len(batch.items)), size=batch.size
        )
        future.add_done_callback(lambda done: self._count(parsed, done))
        return future

    def _kind_of(self, models: Mapping[str, ModelConfig], model: str, feature: str, seen: str) -> str | None:
        """What a feature is; one without a column is what it looks like, until the writer decides."""
        columns = self._store.feature_columns(model)
        if (known := columns.get(feature)) is not None:
            return known  # a column keeps its type, whatever a later config says
        if (declared := models[model].features) is not None:
            return declared.get(feature)
        return seen if len(columns) < models[model].max_features and columnable(feature) else None

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
        self._set_aside(transaction, batch, parsed.received_at, answer)
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
            new = self._settle_features(transaction, model, rows, new, answer, batch)
        if not new:
            return
        everything = len(new) == len(rows.index)
        columns: dict[str, Any] = {
            name: values if everything else [values[i] for i in new] for name, values in rows.columns.items()
        }
        if parsed.kind == "predictions":
            columns |= self._feature_columns(transaction, model, [rows.features[i] for i in new])
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

    def _settle_features(
        self, transaction: Transaction, model: str, rows: Rows, new: Sequence[int], answer: Answer, batch: Batch
    ) -> list[int]:
        """Decide on features that have no column yet, and return the places that stay. The first record stored with a feature
        decides what it is; what gets no column moves to `extra`."""
        kinds = dict(transaction.feature_columns(model))
        if all(kinds.get(name) == kind for name, kind in rows.kinds):
            return list(new)
        config = self._models.get(model)  # gone when a reload removed it while the batch was in hand
        limit = 0 if config is None else config.max_features if config.features is None else len(kinds) + len(config.features)
        stay = []
        for i in new:
            item = batch.items[rows.index[i]]
            try:
                fresh, spare = _fit(rows.features[i], item.get("features", {}), kinds, limit)
            except Rejected as exc:
                answer.rejects.append(Reject(rows.index[i], exc.reason, str(exc), rows.columns["record_id"][i], item))
                continue
            kinds |= fresh
            stay.append(i)
            if spare:
                extra = orjson.loads(rows.columns["extra"][i] or "{}")
                extra.setdefault("features", {}).update({name: item["features"][name] for name in spare})
                rows.columns["extra"][i] = orjson.dumps(extra).decode()
                rows.features[i] = {n: v for n, v in rows.features[i].items() if n not in spare}
        transaction.add_features(model, kinds)
        return stay

    def _feature_columns(self, transaction: Transaction, model: str, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        kinds = transaction.feature_columns(model)
        names = dict.fromkeys(chain.from_iterable(features))
        types = {"number": pa.float64(), "category": pa.string()}
        # Record by record, as they lie in memory; a feature that a record lacks is null.
        columns = pa.array(features, pa.struct([(name, types[kinds[name]]) for name in names])).flatten()
        return {FEATURE + name: column for name, column in zip(names, columns, strict=True)}

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
        payloads = [_payload(r.payload) for r in rejects]
        transaction.append(
            "deadletters",
            "",
            {
                "source": [batch.places[r.index] for r in rejects] if batch.places else batch.source,
                "kind": batch.kind,
                "reason": [r.reason for r in rejects],
                "message": [_clean(r.message) for r in rejects],
                "record_id": [r.record_id and _clean(r.record_id) for r in rejects],
                "record_index": [r.index for r in rejects],
                "payload": [p[:MAX_PAYLOAD] for p in payloads],
                "payload_bytes": [len(p.encode()) for p in payloads],
                "batch_id": answer.batch_id,
                "received_at": received_at,
            },
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

    def _count(self, parsed: Parsed, done: Future[Answer]) -> None:
        if done.exception() is not None:
            return
        answer = done.result()
        for reject, count in Counter(r.reason for r in answer.rejects).items():
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


def _fit(
    features: Mapping[str, Any], sent: Mapping[str, Any], kinds: Mapping[str, str], limit: int
) -> tuple[dict[str, str], set[str]]:
    """The columns that a record's features begin, and the features that get none."""
    taken = {f.lower() for f in kinds}  # DuckDB's column names differ in more than case or not at all
    fresh: dict[str, str] = {}
    spare: set[str] = set()
    for name, value in features.items():
        kind = "number" if isinstance(value, float) else "category"
        if (has := kinds.get(name)) is not None:
            same_kind(name, sent.get(name, value), kind, has)
        elif len(taken) >= limit or name.lower() in taken:
            spare.add(name)
        else:
            fresh[name] = kind
            taken.add(name.lower())
    return fresh, spare


def _batch_content(batch: Batch) -> int:
    return hash64(batch.kind, batch.model or "", batch.body_hash or "")


def _payload(value: Any) -> str:
    if isinstance(value, str):
        return _clean(value)
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        with contextlib.suppress(RecursionError):
            return _clean(repr(value))
        return "nested too deep to be shown"


def _clean(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
