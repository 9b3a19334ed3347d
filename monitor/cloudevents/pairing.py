"""Inference events to predictions: a request and its response are two events, which come in whatever order, perhaps long apart.

The half that comes first is kept in the store, so a restart loses none; its answer is given once it is durable. When the other
half comes the two become predictions, and the kept half goes, in one transaction. One that stays alone goes to the dead letter,
and what is replayed from there comes in here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
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
from monitor.cloudevents.halves import OTHER, Half, Halves
from monitor.cloudevents.inference import NoInference
from monitor.config import Config, ModelConfig, Service
from monitor.errors import InboxFull, StoreError
from monitor.inbox import MAX_ERRORS_SHOWN, Batch, Inbox
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
        self.configure(config)

    def configure(self, config: Config) -> None:
        self._timeout = timedelta(seconds=config.cloudevents.pair_seconds)
        self._services: Mapping[str, Service] = {s.service: s for s in config.cloudevents.services}
        self._models: Mapping[str, ModelConfig] = {m.name: m for m in config.models}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def take(
        self, events: Sequence[Event | Alone | Reject], model: str | None, size: int, again: Letters | None = None
    ) -> Taken:  # fmt: skip
        """Keep the events or make predictions of them; returns once that is durable. `model`: for services that are none.
        `again`: they come out of the dead letter. A pair that is refused then is a letter of its own, as any other.

        Raises:
            InboxFull, StoreUnavailable: send them again. What was taken already is recognised then.
            Undone: of `again`.
        """
        taken = Taken()
        halves: list[Half] = []
        items: list[Any] = []
        for index, event in enumerate(events):
            found = event if isinstance(event, Reject) else self._half(index, event, model)
            if isinstance(found, Half):
                halves.append(found)
            else:
                taken.rejects.append(found)
                items.append(found)
        pairs: list[tuple[Half, Half, int]] = []

        def meet(transaction: Transaction) -> None:
            pairs[:] = self._meet(transaction, halves, taken)
            if again is not None:
                again.taken(transaction, {h.index for h in halves} - {index for *_, index in pairs})
                if again.dry:
                    raise Rehearsed("a dry run")

        try:
            self._store.submit(meet, records=len(halves), size=size).result()
        except Rehearsed:
            pass
        refused = taken.rejects
        if again is not None:  # they stay where they are
            items, taken.rejects = [], []
        places = [r.index for r in taken.rejects]  # of each item, the event it comes from
        for request, response, index in pairs:
            joined = _join(request, response, index)
            items += joined
            places += [index] * len(joined)
        if items:
            self._put(items, places, [(response.event, index) for _, response, index in pairs], model, taken, again)
        if again is not None:
            taken.rejects = [*refused, *taken.rejects]
        return taken

    def _put(
        self, items: list[Any], places: list[int], pairs: list[tuple[str, int]], model: str | None, taken: Taken,
        again: Letters | None,
    ) -> None:  # fmt: skip
        batch = [_at(i, item) if isinstance(item, Reject) else item for i, item in enumerate(items)]

        def also(transaction: Transaction) -> None:
            self._halves.drop(transaction, [event for event, _ in pairs])
            if again is not None:
                again.taken(transaction, {index for _, index in pairs})

        dry = Rehearsal(self._clock.now()) if again is not None and again.dry else None
        done = self._inbox.put(Batch("predictions", batch, SOURCE, model=model, masked=True, also=also, replay=dry))
        try:
            answer = done.result()
        except RehearsedBatch as exc:
            answer = exc.answer
        taken.accepted += answer.accepted
        taken.duplicates += answer.duplicates
        taken.rejects = [_at(places[r.index], r) for r in answer.rejects]

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

    def _meet(self, transaction: Transaction, halves: Sequence[Half], taken: Taken) -> list[tuple[Half, Half, int]]:
        """Pairs that are complete: request, response, place of the later one. The others are kept."""
        pairs: list[tuple[Half, Half, int]] = []
        taken.waiting = taken.duplicates = 0  # a transaction may be begun anew
        if not halves:
            return pairs
        there: dict[tuple[str, str], Half] = {}  # of this request
        fresh: list[Half] = []
        for one in halves:
            other = there.get((one.event, OTHER[one.half])) or self._halves.other(transaction, one)
            if other is not None:
                pairs.append((one, other, one.index) if one.half == "request" else (other, one, one.index))
            elif (one.event, one.half) in there or self._halves.waits(transaction, one) or self._stored(transaction, one):
                taken.duplicates += 1
            else:
                there[one.event, one.half] = one
                fresh.append(one)
                taken.waiting += 1
        self._halves.put(transaction, fresh)
        inside = {h.event for h in fresh} & {response.event for _, response, _ in pairs}
        taken.waiting -= len(inside)
        return pairs

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
