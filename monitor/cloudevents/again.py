"""Events out of the dead letter, on their way through the pairing once more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from monitor.cloudevents import envelope
from monitor.cloudevents.envelope import Event
from monitor.errors import Undone
from monitor.inbox import Answer
from monitor.records import Reject
from monitor.transaction import Transaction


class Letters(Protocol):
    """Where the events come from. What is refused as an event stays there."""

    dry: bool  # everything is done, and undone instead of committed

    def taken(self, transaction: Transaction, places: Collection[int]) -> None:
        """Note that these events of the request were taken, in the transaction that keeps what came of them."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """A half whose other did not come in time, as it was set aside. `records` are masked."""

    event: str
    half: str
    model: str
    records: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        return {"event": self.event, "half": self.half, "model": self.model, "records": self.records}


class Rehearsed(Undone):
    """Raised at the end of a transaction of a dry run."""


class RehearsedBatch(Rehearsed):
    def __init__(self, answer: Answer) -> None:
        super().__init__("a dry run")
        self.answer = answer


@dataclass(slots=True)
class Rehearsal:
    """A replay of the inbox's that is undone."""

    arrived_at: datetime

    def settle(self, transaction: Transaction, answer: Answer) -> None:
        raise RehearsedBatch(answer)


def is_record(payload: Any) -> bool:
    """Whether a letter of this source holds a prediction, made of a pair: no attribute of an event has such a name."""
    return isinstance(payload, Mapping) and "record_id" in payload


def revive(index: int, payload: Any, arrived_at: datetime) -> Event | Alone | Reject:
    """What was set aside, as it came. What names no time has the time it came."""
    if isinstance(payload, Mapping):
        if payload.keys() == {"request", "response"}:
            message = "a request and a response of different numbers of instances do not fit; send both again"
            return Reject(index, "undecodable", message, None, payload)
        if payload.keys() == {"event", "half", "model", "records"}:
            records = [{"timestamp": arrived_at.isoformat(), **record} for record in payload["records"]]
            return Alone(payload["event"], payload["half"], payload["model"], records)
        if isinstance(raw := payload.get(envelope.RAW), str):
            attributes = {name: value for name, value in payload.items() if name != envelope.RAW}
            return envelope.event(index, attributes, raw.encode(), payload)
        payload = {"time": arrived_at.isoformat(), **payload}
    return envelope.structured(index, payload)
