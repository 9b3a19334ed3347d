"""Sends every score that is stored to an OTLP endpoint: at least once, in the order of the log, from a position in the store.

What waits is no queue but the log itself: while the endpoint is away nothing grows but the distance to its end, and who stores
scores knows nothing of it. Beyond `max_backlog_events` the oldest are left out and counted.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import duckdb

from monitor import log
from monitor.clock import Clock
from monitor.errors import StoreError
from monitor.evaluations import events
from monitor.evaluations.config import OtlpExport
from monitor.evaluations.sending import Make, TooLarge, sender
from monitor.faultpoints import point
from monitor.metrics import Metrics
from monitor.outbox import Later, Never, Retrying
from monitor.store import Store
from monitor.transaction import Transaction

SINK = "otlp"
KIND = "scores"
CURSOR = "export:otlp"  # no check is called so
IDLE_SECONDS = 1.0
STOP_SECONDS = 3.0
RETRYING = Retrying(first_seconds=1.0, most_seconds=60.0)


class Evaluations:
    """One thread. `step` sends one batch of each model."""

    def __init__(
        self,
        config: OtlpExport,
        store: Store,
        *,
        clock: Clock,
        metrics: Metrics,
        make: Make = sender,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._sender = make(config)
        self._chance = chance
        self._cursors: dict[str, int] | None = None
        self._opened = 0  # another file may have taken the store's place since
        self._attempts = 0
        self._not_before = 0.0
        self._waits_since: datetime | None = None  # of the oldest score that was not taken
        self._batch = config.batch_events
        self._trouble = log.Lasting(clock.monotonic)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="evaluations", daemon=True)
        metrics.outbox_sent.labels(SINK).inc(0)
        for reason in ("rejected", "backlog", "unreadable"):
            metrics.evaluations_dropped.labels(reason).inc(0)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for the batch in hand, but not for an endpoint that hangs: what it has not taken is sent after the restart."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        self._sender.close()

    def begin(self) -> None:
        """Where there is no position yet, begin at the end of the log: nobody wants last month's scores. So likewise with models
        that are left out, in case they are no longer. Before scores are stored.

        Raises:
            StoreError, duckdb.Error: the store is away.
        """
        every = {model: self._store.last_seq(KIND, model) for kind, model in self._store.logs() if kind == KIND}
        if "" not in self._known():
            self._note({"": 0, **every})
        elif left_out := {model: seq for model, seq in every.items() if model not in self._logs()}:
            self._note(left_out)

    def _run(self) -> None:
        while not self._stop.is_set():
            sent = 0
            try:
                sent = self.step()
                self._trouble.over("sending scores goes on", "store")
            except (StoreError, duckdb.Error) as exc:
                self._trouble.warning("sending scores waits for the store", "store", error=exc)
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                log.error("sending scores failed and is tried again", exc)
            if not sent:
                self._stop.wait(IDLE_SECONDS)

    def step(self) -> int:
        """How many scores are done with; 0 while the endpoint is left alone after a failure.

        Raises:
            StoreError, duckdb.Error: the store is away.
        """
        done = 0
        if self._clock.monotonic() >= self._not_before:
            for model in self._logs():
                if self._stop.is_set() or (count := self._send(model)) is None:
                    break
                done += count
        self._say_what_waits()
        return done

    def _send(self, model: str) -> int | None:
        """How many scores of a model are done with, None where the endpoint did not take them."""
        last, cursor = self._store.last_seq(KIND, model), self._known().get(model, 0)
        if last - cursor > (most := self._config.max_backlog_events):
            self._note({model: last - most})
            self._drop("backlog", last - most - cursor, model)
            cursor = last - most
        if last <= cursor:
            return 0
        with self._store.read() as reader:
            rows = events.rows(reader, model, cursor, self._batch)
        export = events.request(model, rows, explanations=self._config.explanations)
        if count := events.count(export):
            try:
                rejected, words = self._sender.send(export)
            except TooLarge:
                if len(rows) > 1:
                    self._batch = max(1, len(rows) // 2)
                    return 1  # nothing is done with, but it is worth going on at once
                rejected, words = count, "too large"
            except Never as exc:
                rejected, words = count, str(exc)
            except Later as exc:
                self._waits_since = rows[0]["received_at"]
                self._failed(exc)
                return None
            self._worked(count - rejected)
            if rejected:
                self._drop("rejected", rejected, model, words)
        point("evaluations.sent")
        reached = rows[-1]["seq"] if rows else last
        self._note({model: reached})
        if missing := reached - cursor - len(rows):  # in a damaged segment: waiting for it would hold up all that comes after
            self._drop("unreadable", missing, model)
        return reached - cursor

    def _worked(self, count: int) -> None:
        self._metrics.outbox_sent.labels(SINK).inc(max(0, count))
        self._attempts, self._not_before, self._waits_since = 0, 0.0, None
        self._batch = min(self._config.batch_events, self._batch * 2)
        self._trouble.over("scores are sent again", "endpoint")

    def _failed(self, exc: Later) -> None:
        self._metrics.outbox_failures.labels(SINK, exc.reason).inc()
        self._attempts += 1
        wait = max(RETRYING.wait(self._attempts, self._chance()), exc.seconds or 0.0)
        self._not_before = self._clock.monotonic() + wait
        self._trouble.warning(
            "scores could not be sent, and are tried again; see export.otlp", "endpoint", reason=exc.reason, error=exc
        )

    def _drop(self, reason: str, count: int, model: str, words: str = "") -> None:
        self._metrics.evaluations_dropped.labels(reason).inc(count)
        self._trouble.warning("scores are not sent", f"dropped {reason}", reason=reason, model=model, count=count, said=words)

    def _say_what_waits(self) -> None:
        known = self._known()
        # While the store is being reopened it may not know of all its rows.
        waiting = sum(max(0, self._store.last_seq(KIND, model) - known.get(model, 0)) for model in self._logs())
        self._metrics.outbox_messages.labels(SINK, "waiting").set(waiting)
        self._metrics.outbox_oldest.labels(SINK).set((self._waits_since or self._clock.now()).timestamp())

    # --- where it stands ---

    def _logs(self) -> list[str]:
        wanted = self._config.models
        return [model for kind, model in self._store.logs() if kind == KIND and (not wanted or model in wanted)]

    def _known(self) -> dict[str, int]:
        if self._cursors is None or self._opened != self._store.opened:
            opened = self._store.opened
            with self._store.read() as reader:
                found = reader.query("SELECT kind AS model, seq FROM check_cursors WHERE check_name = ?", [CURSOR])
            self._cursors = {row["model"]: row["seq"] for row in found}
            self._opened = opened
        return self._cursors

    def _note(self, cursors: dict[str, int]) -> None:
        rows: list[dict[str, Any]] = [{"check_name": CURSOR, "kind": model, "seq": seq} for model, seq in cursors.items()]

        def keep(transaction: Transaction) -> None:
            transaction.put("check_cursors", ("check_name", "kind"), rows)

        self._known()
        self._store.run(keep)
        assert self._cursors is not None
        self._cursors |= cursors
