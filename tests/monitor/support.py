"""What the tests of the monitor share: a clock they move, a daemon they step through, and words for records."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import orjson
from prometheus_client import CollectorRegistry

from monitor import helpers, runner
from monitor.audit import Audit
from monitor.board import Board
from monitor.cases.keeper import CaseKeeper
from monitor.child import Child
from monitor.config import Config
from monitor.embeddings import Encoding
from monitor.inbox import Answer, Batch, Inbox
from monitor.maintenance.book import Book
from monitor.metrics import Metrics
from monitor.recordrules.rules import RecordRules
from monitor.references import References
from monitor.runner import CheckRunner
from monitor.scoring import Scoring
from monitor.segments import Sealer
from monitor.server import PushServer
from monitor.settling.settler import Settling
from monitor.store import Store
from monitor.transaction import Transaction

T = TypeVar("T")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODELS = ({"name": "houses", "task": "regression"}, {"name": "bot", "task": "llm"})


class FakeClock:
    def __init__(self, now: datetime = NOON) -> None:
        self._now = now
        self._steady = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._steady

    def move(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._steady += seconds


def wait_for(look: Callable[[], T], what: str, seconds: float = 15.0) -> T:
    """The first true thing that `look` gives; fails the test when none came in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{seconds} s have passed without: {what}"
        time.sleep(0.01)
    return found


class Held:
    """The writer with something in hand until `release`, so that what is submitted meanwhile becomes one group."""

    def __init__(self, store: Store) -> None:
        self._begun, self._go = threading.Event(), threading.Event()
        self._future = store.submit(self._work)
        assert self._begun.wait(10)

    def _work(self, transaction: Transaction) -> None:
        self._begun.set()
        self._go.wait(10)

    def release(self) -> None:
        self._go.set()
        self._future.result(10)


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    """What a scrape would show, None where the series is absent."""
    return metrics.registry.get_sample_value(name, labels)


def prediction(record_id: str, at: datetime = NOON, **fields: Any) -> dict[str, Any]:
    return {"record_id": record_id, "model": "houses", "timestamp": at.isoformat(), "prediction": 1.0, **fields}


def label(record_id: str, value: Any = 1.0, **fields: Any) -> dict[str, Any]:
    return {"record_id": record_id, "model": "houses", "label": value, **fields}


def generation(record_id: str, at: datetime = NOON, **fields: Any) -> dict[str, Any]:
    return {"record_id": record_id, "model": "bot", "timestamp": at.isoformat(), "question": "why?", "response": "so", **fields}


def contexts(record_id: str, *texts: str, **fields: Any) -> dict[str, Any]:
    return {"record_id": record_id, "model": "bot", "contexts": list(texts), **fields}


def check(name: str, detector: str = "Mean", **fields: Any) -> dict[str, Any]:
    """A check of the houses on one of tests/plugins.py, every ten minutes."""
    return {
        "name": name,
        "model": "houses",
        "detector": f"tests.plugins:{detector}",
        "every": "10m",
        "threshold": {"upper": 10},
        "min_records": 1,
        **fields,
    }


class InProcess:
    """A helper that is no process: answers in the caller's thread. `before` runs ahead of each answer."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self._answer = answer
        self.before: Callable[[Any], None] = lambda request: None
        self.asked: list[Any] = []

    def call(self, request: Any, timeout_seconds: float) -> Any:
        self.asked.append(request)
        self.before(request)
        return self._answer(request)


class World:
    """The daemon without its threads, but for the writer's: a test calls each step, seals and restarts where it likes."""

    def __init__(self, root: Path, clock: FakeClock | None = None, **sections: Any) -> None:
        self.clock = clock or FakeClock()
        self.config = Config.model_validate({"models": MODELS, **sections, "store": {"path": root, "min_free_bytes": 0}})
        self.open()

    def open(self) -> None:
        config, clock = self.config, self.clock
        self.metrics = Metrics(CollectorRegistry(), max_series=config.metrics.max_series)
        self.board = Board(
            max_series=config.metrics.max_series, top_features=config.metrics.top_features, beyond=self.metrics.beyond
        )
        self.scorer = InProcess(helpers.scorer({"device": "cpu"}))
        self.worker = InProcess(helpers.worker({}))
        self.store = Store(
            config.store,
            clock=clock,
            metrics=self.metrics,
            queue_records=config.server.queue_records,
            queue_bytes=config.server.queue_bytes,
        )
        self.inbox = Inbox(config, self.store, clock=clock, metrics=self.metrics)
        self.settling = Settling(self.store, self.inbox.passages, clock=clock, metrics=self.metrics)
        self.sealer = Sealer(self.store, clock=clock, metrics=self.metrics, seal_seconds=60, seal_rows=config.store.seal_rows)
        self.audit = Audit(self.store, clock=clock, metrics=self.metrics)
        self.scoring = Scoring(config, self.store, cast(Child, self.scorer), clock=clock, metrics=self.metrics)
        self.book = Book(self.store, clock=clock)
        self.book.configure(config.maintenance)
        self.runners = self.build()
        self.rules = RecordRules(
            config, self.store, board=self.board, clock=clock, metrics=self.metrics, maintenance=self.book.maintenance
        )
        self.cases = CaseKeeper(config, self.store, self.book, clock=clock, metrics=self.metrics)

    def build(self) -> dict[str, CheckRunner]:
        references, worker = References(self.store.root), cast(Child, self.worker)
        return runner.build(
            self.config,
            self.store,
            references,
            worker,
            board=self.board,
            clock=self.clock,
            metrics=self.metrics,
            encode=Encoding(cast(Child, self.scorer)),
            maintenance=self.book.maintenance,
        )

    def close(self) -> None:
        self.store.close()

    def restart(self) -> None:
        self.close()
        self.open()

    def send(self, kind: str, *items: Any, **batch: Any) -> Answer:
        """Hand over a batch and wait for its commit."""
        return self.inbox.put(Batch(kind, list(items), "test", **batch)).result(10)

    def seal(self) -> int:
        return self.sealer.seal_due(everything=True)

    def settle(self, seconds: float = 30) -> int:
        """Settle every trace, once so much time has passed."""
        self.clock.move(seconds)
        count = 0
        while done := self.settling.step():
            count += done
        return count

    def score(self) -> int:
        count = 0
        while done := self.scoring.step():
            count += done
        return count

    def look(self, seconds: float = 20) -> int:
        """What the scheduler does, after a while in which late records may have come: run every check."""
        self.clock.move(seconds)
        return sum(runner.run() for runner in self.runners.values())

    def rows(self, kind: str, model: str = "houses", columns: str = "*", where: str = "true") -> list[dict[str, Any]]:
        """Rows of a log, hot and sealed, in the order of `seq`."""
        with self.store.read() as reader:
            found = f"SELECT {columns} FROM {reader.source(kind, model)} WHERE {where} ORDER BY seq"
            return reader.query(found)

    def ids(self, kind: str, model: str = "houses") -> list[str]:
        return [row["record_id"] for row in self.rows(kind, model, "record_id")]

    def letters(self) -> list[tuple[str | None, str]]:
        """The dead letter: record id and reason."""
        return [(row["record_id"], row["reason"]) for row in self.rows("deadletters", "")]

    def state(self, sql: str, *params: Any) -> list[dict[str, Any]]:
        with self.store.read() as reader:
            return reader.query(sql, params)

    def readings(self, name: str, model: str = "houses") -> dict[datetime, tuple[Any, ...]]:
        """The latest word on each slot: outcome, value, rows."""
        return {
            row["slot"]: (row["outcome"], row["value"], row["n_current"])
            for row in self.rows("readings", model, where=f"check_name = '{name}' QUALIFY {LATEST}")
        }

    def firing(self, name: str, model: str = "houses") -> dict[datetime, bool]:
        rows = self.rows("verdicts", model, where=f"check_name = '{name}' QUALIFY {LATEST}")
        return {row["slot"]: row["firing"] for row in rows}

    def incidents(self, name: str, model: str = "houses") -> list[tuple[datetime, str, datetime | None]]:
        """Opened, state and resolved, of each that was not withdrawn, oldest first."""
        last = "row_number() OVER (PARTITION BY incident_id ORDER BY revision DESC) = 1"
        rows = self.rows("incidents", model, where=f"check_name = '{name}' QUALIFY {last}")
        found = [(r["opened_slot"], r["state"], r["resolved_slot"]) for r in rows if r["state"] != "withdrawn"]
        return sorted(found, key=lambda r: r[0])


@dataclass(frozen=True, slots=True)
class Door:
    """A world and the push API before it."""

    world: World
    server: PushServer
    client: httpx.Client

    def post(self, kind: str, body: Any, content_type: str = "application/json", **headers: str) -> httpx.Response:
        """`body` as it is when it is bytes, else as JSON."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return self.client.post(
            f"/v1/{kind}",
            content=content,
            headers={"Content-Type": content_type, **{k.replace("_", "-"): v for k, v in headers.items()}},
        )


LATEST = "row_number() OVER (PARTITION BY slot ORDER BY revision DESC) = 1"


def append_labels(store: Store, ids: Sequence[str], model: str = "houses", **columns: Any) -> Callable[[Transaction], int]:
    """A job that appends rows as the store keeps them, without the inbox."""
    now = NOON
    values: Mapping[str, Any] = {
        "record_id": list(ids), "revision": 0, "event_time": now, "label": 1.0, "received_at": now, "batch_id": "b", **columns
    }  # fmt: skip
    return lambda transaction: transaction.append("labels", model, values)
