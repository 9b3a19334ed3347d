"""Clients without end: each sends batch after batch, every one until it is acknowledged, and remembers what was."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from monitor.demo.data import Batch
from monitor.demo.replay import Client
from monitor.demo.stop import Stop, Stopped

START = datetime(2026, 3, 2, tzinfo=UTC)
KINDS = ("predictions", "labels", "generations", "contexts")


def prediction(i: int, text: str = "") -> dict[str, Any]:
    features = {"rooms": i % 7, "area": i * 7919 % 1000 / 10, "city": f"c{i % 11}{text}"}
    return {"record_id": f"p{i}", "timestamp": at(i), "prediction": float(i), "features": features}


def label(i: int) -> dict[str, Any]:
    return {"record_id": f"p{i}", "label": float(i % 13), "timestamp": at(i)}


def generation(i: int, text: str = "so") -> dict[str, Any]:
    contexts = [f"passage {n} of {i}" for n in range(i % 3)]
    return {"record_id": f"g{i}", "timestamp": at(i), "question": "why?", "response": text, "contexts": contexts}


def late_contexts(i: int) -> dict[str, Any]:
    return {"record_id": f"g{i}", "contexts": [f"late passage {n} of {i}" for n in range(2)]}


def at(i: int) -> str:
    return (START + timedelta(seconds=i)).isoformat()


def mixed(seed: int, *, first: int = 0, each: int = 20, text: str = "") -> Iterator[Batch]:
    """Predictions and answers with labels and passages that come late, record numbers from `first` on."""
    chance = random.Random(seed)
    labels, contexts = list[int](), list[int]()
    numbers = itertools.count(first)
    while True:
        size = chance.randint(1, each)
        kind = chance.choice(("predictions", "predictions", "generations", "labels", "contexts"))
        if kind == "predictions":
            new = [next(numbers) for _ in range(size)]
            labels += new[::5]
            yield Batch(kind, "houses", [prediction(i, text) for i in new])
        elif kind == "generations":
            new = [next(numbers) for _ in range(size)]
            contexts += new[::3]
            yield Batch(kind, "bot", [generation(i, text or "so") for i in new])
        elif kind == "labels" and labels:
            chance.shuffle(labels)
            taken, labels = labels[:size], labels[size:]
            yield Batch(kind, "houses", [label(i) for i in taken])
        elif kind == "contexts" and contexts:
            taken, contexts = contexts[:size], contexts[size:]
            yield Batch(kind, "bot", [late_contexts(i) for i in taken])


class Pump:
    """One client on a thread of its own."""

    def __init__(self, address: str, batches: Iterable[Batch], stop: Stop, pace_seconds: float = 0.0) -> None:
        self._stream, self._stop, self._pace = batches, stop, pace_seconds
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.client = Client(address, stop)
        self.batches = 0  # acknowledged
        self.acknowledged: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self.answers: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Once the batch in hand is acknowledged, which the daemon must be there for."""
        self._enough.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            for batch in self._stream:
                if self._enough.is_set():
                    return
                answer = self.client.post(batch)
                self.answers.update({name: answer[name] for name in ("accepted", "duplicates", "rejected")})
                for kind, name in names(batch):
                    self.acknowledged[kind].add(name)
                self.batches += 1
                self._stop.wait(self._pace)
        except Stopped:
            pass
        except BaseException as exc:  # told to whoever waits for us
            self.failure = exc
        finally:
            self.client.close()


@contextmanager
def pumps(address: str, streams: Sequence[Iterable[Batch]], stop: Stop) -> Iterator[list[Pump]]:
    """Running; the block calls `finish` on them, or else they are given up at its end."""
    made = [Pump(address, batches, stop) for batches in streams]
    try:
        for pump in made:
            pump.start()
        yield made
    finally:
        stop.set()
        for pump in made:
            pump.finish()


def acknowledged(made: Iterable[Pump]) -> dict[str, set[str]]:
    """Ids by kind; a passage is its generation and its text."""
    made = list(made)
    return {kind: set[str]().union(*(pump.acknowledged[kind] for pump in made)) for kind in KINDS}


def names(batch: Batch) -> Iterator[tuple[str, str]]:
    for record in batch.records:
        if batch.kind != "contexts":
            yield batch.kind, record["record_id"]
        for text in record.get("contexts", ()):
            yield "contexts", f"{record['record_id']} {text}"
