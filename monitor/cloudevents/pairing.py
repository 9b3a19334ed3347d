"""Inference events to predictions: a request and its response are two events, which come in whatever order, perhaps long apart.

The half that comes first is kept in the store, so a restart loses none; its answer is given once it is durable. When the other
half comes the two become predictions, and the kept half goes, in one transaction. One that stays alone goes to the dead letter,
and what is replayed from there comes in here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import duckdb
import orjson

from monitor import log
from monitor.clock import Clock
from monitor.cloudevents import inference
from monitor.cloudevents.again import Alone, Letters, Rehearsal, Rehearsed, RehearsedBatch
from monitor.cloudevents.envelope import Event
from monitor.cloudevents.gathering import Entry, Gathering
from monitor.cloudevents.halves import OTHER, Half, Halves
from monitor.cloudevents.inference import NoInference
from monitor.config import Config, ModelConfig, Service
from monitor.errors import InboxFull, StoreError
from monitor.inbox import MAX_ERRORS_SHOWN, Answer, Batch, Inbox
from monitor.keys import hash64
from monitor.records import Reject
from monitor.sources.mapping import Columns
from monitor.store import Store
from monitor.transaction import Transaction

SOURCE = "cloudevents"
HALVES = {"inference.request": "request", "inference.response": "response"}
BESIDE = ("namespace", "endpoint", "component", "modelid")  # attributes that are kept beside the prediction
EXPIRE_EVERY_SECONDS = 15.0
EXPIRE_AT_ONCE = 1000


@dataclass(slots=True)
class Taken:
    """What became of the events of a request. `accepted` counts predictions, the others events."""

    accepted: int = 0
    duplicates: int = 0
    waiting: int = 0
    rejects: list[Reject] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        return bool(self.rejects) and not (self.accepted or self.duplicates or self.waiting)

    def as_json(self) -> dict[str, Any]:
        shown = sorted(self.rejects, key=lambda r: r.index)[:MAX_ERRORS_SHOWN]
        errors = [{"index": r.index, "record_id": r.record_id, "reason": r.reason, "message": r.message} for r in shown]
        numbers = {"accepted": self.accepted, "duplicates": self.duplicates, "waiting": self.waiting}
        return {**numbers, "rejected": len(self.rejects), "errors": errors}


class _Changed(Exception):
    """Some that were to expire have found their other half meanwhile."""


class Pairs:
    """One for the daemon; any thread may call `take`."""

    def __init__(self, config: Config, inbox: Inbox, store: Store, *, clock: Clock) -> None:
        self._inbox = inbox
        self._store = store
        self._clock = clock
        self._halves = Halves(store)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pairs", daemon=True)
        self._gathering = Gathering(self._work)
        self.configure(config)

    def configure(self, config: Config) -> None:
        self._timeout = timedelta(seconds=config.cloudevents.pair_seconds)
        self._services: Mapping[str, Service] = {s.service: s for s in config.cloudevents.services}
        self._models: Mapping[str, ModelConfig] = {m.name: m for m in config.models}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._gathering.stop()
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, events: Sequence[Event | Reject], model: str | None, size: int) -> Future[Taken]:
        """Keep the events or make predictions of them; done once that is durable. `model`: for services that are none. Fails
        with InboxFull or StoreUnavailable: send them again. What was taken already is recognised then."""
        return self._gathering.add(self._entry(events, model, size))

    def take(
        self, events: Sequence[Event | Alone | Reject], model: str | None, size: int, again: Letters | None = None
    ) -> Taken:  # fmt: skip
        """`submit`, and wait. `again`: they come out of the dead letter. A pair that is refused then is a letter of its own,
        as any other.

        Raises:
            InboxFull, StoreUnavailable: see there.
            Undone: of `again`.
        """
        entry = self._entry(events, model, size)
        if again is None:
            found: Taken = self._gathering.add(entry).result()
            return found

        def meet(transaction: Transaction) -> None:
            self._meet(transaction, entry)
            again.taken(transaction, {h.index for h in entry.halves} - {index for *_, index in entry.pairs})
            if again.dry:
                raise Rehearsed("a dry run")

        with contextlib.suppress(Rehearsed):
            self._store.submit(meet, records=len(entry.halves), size=size).result()
        refused, entry.rejects = entry.rejects, []  # they stay where they are
        self._put([entry], again)
        taken: Taken = entry.done.result()
        taken.rejects = [*refused, *taken.rejects]
        return taken

    def _entry(self, events: Sequence[Event | Alone | Reject], model: str | None, size: int) -> Entry:
        found = [event if isinstance(event, Reject) else self._half(i, event, model) for i, event in enumerate(events)]
        rejects = [one for one in found if isinstance(one, Reject)]
        return Entry([one for one in found if isinstance(one, Half)], rejects, model, size)

    # --- groups of entries ---

    def _work(self, group: Sequence[Entry]) -> None:
        def meet(transaction: Transaction) -> None:
            for entry in group:
                self._meet(transaction, entry)

        try:
            self._store.submit(meet, records=sum(len(e.halves) for e in group), size=sum(e.size for e in group)).result()
        except (InboxFull, StoreError):
            raise
        except Exception:
            if len(group) == 1:
                raise
            for entry in group:  # one sender's fault must not be the others'
                try:
                    self._work([entry])
                except Exception as exc:
                    entry.done.set_exception(exc)
            return
        for model in {entry.model for entry in group}:
            entries = [entry for entry in group if entry.model == model]
            try:
                self._put(entries)
            except Exception as exc:  # those of other models may be on their way already
                for entry in entries:
                    entry.done.set_exception(exc)

    def _put(self, entries: Sequence[Entry], again: Letters | None = None) -> None:
        """Have the pairs stored as predictions and the rejects set aside; the entries are done when that is durable."""
        items: list[Any] = []
        places: list[tuple[Entry, int]] = []  # of each item, the event it comes from
        met: list[str] = []
        for entry in entries:
            found: list[tuple[int, Any]] = [(reject.index, reject) for reject in entry.rejects]
            for request, response, index in entry.pairs:
                found += [(index, item) for item in _join(request, response, index)]
                met.append(response.event)
            items += [_at(len(items) + n, item) if isinstance(item, Reject) else item for n, (_, item) in enumerate(found)]
            places += [(entry, index) for index, _ in found]
        if not items:
            for entry in entries:
                entry.done.set_result(Taken(0, entry.duplicates, entry.waiting))
            return

        def also(transaction: Transaction) -> None:
            self._halves.drop(transaction, met)
            if again is not None:
                again.taken(transaction, {index for entry in entries for *_, index in entry.pairs})

        def done(future: Future[Answer]) -> None:
            exc = future.exception()
            if exc is not None and not isinstance(exc, RehearsedBatch):
                for entry in entries:
                    entry.done.set_exception(exc)
                return
            answer = exc.answer if isinstance(exc, RehearsedBatch) else future.result()
            taken = {id(entry): Taken(0, entry.duplicates, entry.waiting) for entry in entries}
            for entry, _ in places:
                taken[id(entry)].accepted += 1
            for place in answer.again:
                taken[id(places[place][0])].accepted -= 1
                taken[id(places[place][0])].duplicates += 1
            for reject in answer.rejects:
                entry, index = places[reject.index]
                taken[id(entry)].accepted -= 1
                taken[id(entry)].rejects.append(_at(index, reject))
            for entry in entries:
                entry.done.set_result(taken[id(entry)])

        dry = Rehearsal(self._clock.now()) if again is not None and again.dry else None
        batch = Batch("predictions", items, SOURCE, model=entries[0].model, masked=True, also=also, replay=dry)
        self._inbox.put(batch).add_done_callback(done)

    # --- one event ---

    def _half(self, index: int, event: Event | Alone, model: str | None) -> Half | Reject:
        if isinstance(event, Alone):
            if event.model not in self._models:
                message = f"model: {event.model} is not configured any more"
                return Reject(index, "unknown_model", message, None, event.as_json())
            masked = self._inbox.mask("predictions", event.records, event.model)  # by what holds now
            if (bad := next((m for m in masked if isinstance(m, Reject)), None)) is not None:
                return _at(index, bad)
            return Half(index, event.event, event.half, event.model, "", masked)
        half = next((name for suffix, name in HALVES.items() if event.type.endswith(suffix)), None)
        if half is None:
            message = f"type: {event.type} is neither an inference.request nor an inference.response"
            return self._reject(index, "wrong_signal", message, event)
        given = event.attributes
        service = given.get("inferenceservicename") or given.get("modelid") or ""
        entry = self._services.get(service)
        name = entry.model if entry else service if service in self._models else model
        if name is None or name not in self._models:
            message = f"inferenceservicename: {service!r} is no model; name it under cloudevents.services, or set ?model="
            return self._reject(index, "unknown_model", message, event)
        # Seldon gives each event an id of its own, and the request's id beside it.
        record_id = given.get("requestid") or event.id
        try:
            records = self._records(half, event, entry, self._models[name], record_id)
        except NoInference as exc:
            return self._reject(index, "undecodable", str(exc), event)
        masked = self._inbox.mask("predictions", records, name)
        if (bad := next((m for m in masked if isinstance(m, Reject)), None)) is not None:
            return _at(index, bad)
        key = "/".join([name, service, *(given.get(a, "") for a in BESIDE), record_id])
        return Half(index, key, half, name, record_id, masked)

    def _records(
        self, half: str, event: Event, entry: Service | None, model: ModelConfig, record_id: str
    ) -> list[dict[str, Any]]:  # fmt: skip
        chosen = {name: column for name in ("prediction", "probability") if entry and (column := getattr(entry, name))}
        columns = Columns(columns=chosen)
        beside = {name: event.attributes.get(name) for name in BESIDE}
        fields = {"record_id": record_id, "model": model.name, "timestamp": event.attributes.get("time"), **beside}
        if half == "request":
            trace = event.attributes.get("traceparent", "").split("-")
            names = entry.features if entry else ()
            asked = self._features(event.data, names, tuple(model.features or ()))
            return inference.records(asked, [], columns, **fields, trace_id=trace[1] if len(trace) == 4 else None)
        version = event.data.get("model_version") if isinstance(event.data, Mapping) else None
        answers = inference.outputs(event.data)
        return inference.records([], answers, columns, **fields, model_version=None if version is None else str(version))

    @staticmethod
    def _features(data: Any, names: tuple[str, ...], declared: tuple[str, ...]) -> list[inference.Row]:
        """The model's own list of features names the values too, where it fits."""
        if not names and declared:
            try:
                return inference.features(data, declared)
            except NoInference:
                pass
        return inference.features(data, names)

    def _reject(self, index: int, reason: str, message: str, event: Event) -> Reject:
        whole = {**event.attributes, "data": event.data}
        (masked,) = self._inbox.mask("predictions", [Reject(index, reason, message, event.id[:256], whole)])
        return masked  # type: ignore[no-any-return]

    # --- on the writer thread ---

    def _meet(self, transaction: Transaction, entry: Entry) -> None:
        """Find the pairs that are complete; the others are kept."""
        entry.pairs, entry.waiting, entry.duplicates = [], 0, 0  # a transaction may be begun anew
        there: dict[tuple[str, str], Half] = {}  # of this entry
        fresh: list[Half] = []
        for one in entry.halves:
            other = there.get((one.event, OTHER[one.half])) or self._halves.other(transaction, one)
            if other is not None:
                entry.pairs.append((one, other, one.index) if one.half == "request" else (other, one, one.index))
            elif (one.event, one.half) in there or self._halves.waits(transaction, one) or self._stored(transaction, one):
                entry.duplicates += 1
            else:
                there[one.event, one.half] = one
                fresh.append(one)
        self._halves.put(transaction, fresh)
        entry.waiting = len({h.event for h in fresh} - {response.event for _, response, _ in entry.pairs})

    @staticmethod
    def _stored(transaction: Transaction, half: Half) -> bool:
        """Whether the pair was made already, and this is an event sent again."""
        ids = {str(record["record_id"]) for record in half.records}
        return any(found is not None for found in transaction.find("predictions", half.model, [hash64(i) for i in ids]))

    # --- halves that stay alone ---

    def expire(self) -> int:
        """Move halves that waited for too long to the dead letter; return how many."""
        before = self._clock.now() - self._timeout
        with self._store.read() as reader:
            rows = reader.query("SELECT * FROM halves WHERE received_at < ? ORDER BY event LIMIT ?", [before, EXPIRE_AT_ONCE])
        if not rows:
            return 0
        rejects = []
        for i, row in enumerate(rows):
            records = orjson.loads(row["payload"])
            waited, other = self._timeout.total_seconds(), OTHER[row["half"]]
            message = f"an inference {row['half']} whose {other} did not come in {waited:.0f} s"
            alone = Alone(row["event"], row["half"], row["model"], records)
            rejects.append(Reject(i, "unpaired", message, records[0]["record_id"] if records else None, alone.as_json()))

        def forget(transaction: Transaction) -> None:
            events = [row["event"] for row in rows]
            marks = ", ".join("?" for _ in events)
            (count,) = transaction.query(f"SELECT count(*) AS n FROM halves WHERE event IN ({marks})", events)
            if count["n"] != len(rows):
                raise _Changed
            self._halves.drop(transaction, events)

        self._inbox.put(Batch("predictions", rejects, SOURCE, masked=True, also=forget)).result()
        return len(rows)

    def _run(self) -> None:
        while not self._stop.wait(EXPIRE_EVERY_SECONDS):
            try:
                while self.expire() == EXPIRE_AT_ONCE:
                    pass
            except (InboxFull, StoreError, duckdb.Error, _Changed):
                continue
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                log.error("halves of inference events could not be set aside", exc)


def _join(request: Half, response: Half, index: int) -> list[Any]:
    """The predictions of a pair, or one `Reject` where the two do not fit."""
    if len(request.records) != len(response.records):
        message = f"{len(request.records)} instances in the request and {len(response.records)} in the response"
        whole = {"request": request.records, "response": response.records}
        record_id = (request.records or response.records)[0]["record_id"].partition("#")[0]
        return [Reject(index, "undecodable", message, record_id, whole)]
    return [
        {**{k: v for k, v in answered.items() if k != "features"}, **asked}
        for asked, answered in zip(request.records, response.records, strict=True)
    ]


def _at(index: int, reject: Reject) -> Reject:
    return Reject(index, reject.reason, reject.message, reject.record_id, reject.payload, reject.size)
