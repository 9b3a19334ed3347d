"""Deployments during a freeze: recorded as changes that violate it, each once, and counted while the freeze lasts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from monitor import log
from monitor.maintenance.book import Book
from monitor.metrics import Metrics
from monitor.store import Store
from monitor.transaction import Transaction

WHAT = "freeze"
SEEN = ("model_version", "prompt")  # of what was new in the traffic, what somebody has deployed


class Freezes:
    """Called by one thread, and asked by any. Begins anew at each start, from what is stored."""

    def __init__(self, store: Store, book: Book, metrics: Metrics) -> None:
        self._store = store
        self._book = book
        self._metrics = metrics
        self._looked: dict[str, tuple[int, ...]] = {}
        self._found: dict[str, list[tuple[datetime, str, str]]] = {}  # by model: when, what, name of the freeze

    def begin(self) -> None:
        """Anew, from what is stored."""
        self._looked = {}

    def step(self, model: str) -> int:
        """Look at what is new of a model, at all of it where the windows have changed; how many violations were recorded."""
        at = (self._store.last_seq("deployments", model), self._store.last_seq("changes", model), self._book.version)
        before = self._looked.get(model)
        if at == before:
            return 0
        after = (0, 0) if before is None or before[2] != at[2] else before[:2]
        with self._store.read() as reader:
            if before is None:
                source = reader.source("changes", model)
                sql = f"SELECT event_time, value, previous FROM {source} WHERE what = ? ORDER BY seq"
                self._found[model] = [(r["event_time"], r["value"], r["previous"]) for r in reader.query(sql, [WHAT])]
            deployed = reader.source("deployments", model, after_seq=after[0])
            changes = reader.source("changes", model, after_seq=after[1])
            # One that was announced and is then seen is one: that it was announced comes first.
            rows = reader.query(
                "SELECT event_time, coalesce(event, 'deployed') || ' ' || version AS value, record_id, version FROM "
                f"{deployed} WHERE seq > ? UNION ALL BY NAME SELECT event_time, what || ' ' || value AS value, record_id, "
                f"CASE what WHEN 'model_version' THEN value END AS seen FROM {changes} WHERE seq > ? AND what IN {SEEN!r} "
                "ORDER BY seen NULLS FIRST, event_time, value",
                list(after),
            )
        news = self._violations(model, rows)
        if news:
            self._record(model, news)
        self._looked[model] = at
        return len(news)

    def violations(self, model: str, now: datetime) -> int:
        """In the freeze that is in force."""
        name = self._book.covering("freeze", model, now)
        span = self._book.span(name, now) if name is not None else None
        if span is None:
            return 0
        return sum(1 for when, _, freeze in self._found.get(model, ()) if freeze == name and span[0] <= when < span[1])

    def _violations(self, model: str, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of `rows`, in which what was announced stands before what was seen, that are not recorded yet."""
        known, news = list(self._found.get(model, ())), []
        for row in rows:
            when, what = row["event_time"], row["value"]
            freeze = self._book.covering("freeze", model, when)
            if freeze is None or any(w == when and v == what for w, v, _ in known):
                continue
            if row["seen"] is not None and any(f == freeze and v == f"deployed {row['seen']}" for _, v, f in known):
                continue
            known.append((when, what, freeze))
            news.append({**row, "previous": freeze})
        return news

    def _record(self, model: str, rows: list[dict[str, Any]]) -> None:
        def work(transaction: Transaction) -> None:
            columns = {name: [row[name] for row in rows] for name in ("event_time", "value", "previous", "record_id")}
            transaction.append("changes", model, {**columns, "what": WHAT, "received_at": transaction.now})
            transaction.count_on_commit(lambda: self._metrics.changes.labels(model, WHAT).inc(len(rows)))

        self._store.run(work)
        for row in rows:
            self._found[model].append((row["event_time"], row["value"], row["previous"]))
            log.warning("deployed during a freeze", model=model, what=row["value"], freeze=row["previous"])
