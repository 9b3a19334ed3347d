"""Settles traces: decides what their generations count for, joins what was retrieved, and gives the counted ones to the scorer.

A trace is settled once its root has come or `settle_seconds` have passed, and again whenever something of it comes later.
Each time all there is of it is read and only what differs from the last time is written, so the result depends neither on the
order of the spans nor on how often they came. One transaction takes the traces off the list and writes what came of them.

Most traces hold one model call and nothing to join with it: those go through as columns, the others one by one.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitor import arrays, log
from monitor.clock import Clock
from monitor.errors import StoreError
from monitor.faultpoints import point
from monitor.hashfile import UInt64Array
from monitor.keys import place_hash
from monitor.metrics import Metrics
from monitor.passages import Passages
from monitor.reader import Reader
from monitor.settling.callcounts import SEEN, TIMES, Tallies
from monitor.settling.calls import COST, EMBEDDINGS, TOKENS
from monitor.settling.rows import Known, Row, Trace, settled
from monitor.store import Store
from monitor.transaction import Transaction

TRACES_AT_ONCE = 5_000
IDLE_SECONDS = 0.25
RETRY_SECONDS = 1.0

_GENERATION = (
    "seq, trace_hash, record_id, trace_id, span_id, parent_id, event_time, operation, coalesce(llm_model, request_model) AS "
    f"llm_model, error_type IS NOT NULL AS failed, retry, fallback, {', '.join((*TOKENS, *COST, *TIMES, *SEEN))}"
)
_PLACE = "trace_hash, record_id, span_id, parent_id, epoch_us(start_time) AS start, epoch_us(event_time) AS ended"


@dataclass(slots=True)
class _Plan:
    """What settling some traces of one model writes."""

    model: str
    traces: pa.Table  # trace_hash
    entry: int
    simple: pa.Table  # generations that are a request each, as _GENERATION
    rows: list[Row] = field(default_factory=list)  # of the others, those that are new or differ
    tallies: Tallies = field(default_factory=Tallies)
    failed: int = 0


class Settling:
    """One thread. `step` settles the next traces of one model."""

    def __init__(self, store: Store, passages: Passages, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._passages = passages
        self._clock = clock
        self._metrics = metrics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="settling", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        waiting = log.Lasting(self._clock.monotonic)
        while not self._stop.is_set():
            pause = IDLE_SECONDS
            try:
                if self.step() == TRACES_AT_ONCE:
                    pause = 0.0
                waiting.over("settling goes on")
            except (StoreError, duckdb.Error) as exc:
                waiting.warning("settling waits for the store", error=exc)
                pause = RETRY_SECONDS
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                log.error("settling failed and is tried again", exc)
                pause = RETRY_SECONDS
            self._stop.wait(pause)

    def step(self) -> int:
        """Settle the traces that are due, of one model and not too many at once; return how many."""
        now = self._clock.now()
        with self._store.read() as reader:
            waiting = reader.query(
                "SELECT count(*) AS n, min(due_at) AS due, arg_min(model, due_at) AS model, max(entry) AS entry FROM traces"
            )[0]
            self._metrics.queue_records.labels("settling").set(waiting["n"])
            self._metrics.queue_oldest.labels("settling").set(min(waiting["due"] or now, now).timestamp())
            if waiting["due"] is None or waiting["due"] > now:
                return 0
            model = waiting["model"]
            due = reader.table(
                "SELECT trace_hash FROM traces WHERE model = ? GROUP BY trace_hash HAVING min(due_at) <= ? "
                "ORDER BY min(due_at) LIMIT ?",
                [model, now, TRACES_AT_ONCE],
            )
            plan = self._plan(reader, model, due, waiting["entry"])
        point("settle.planned")
        self._store.run(lambda transaction: self._keep(transaction, plan))
        count: int = due.num_rows
        self._metrics.traces_settled.labels(model).inc(count)
        self._metrics.traces_failed.labels(model).inc(plan.failed)
        return count

    # --- reading ---

    def _plan(self, reader: Reader, model: str, due: pa.Table, entry: int) -> _Plan:
        hashes = due["trace_hash"].to_numpy()
        reader.give("due", due)
        generations = reader.table(f"SELECT {_GENERATION} FROM {self._of_due(reader, 'generations', model, hashes)}")
        of = generations["trace_hash"].to_numpy()
        found, counts = np.unique(of, return_counts=True)
        more = [found[counts > 1]]
        for kind in ("calls", "retrievals", "contents"):
            beside = reader.table(f"SELECT DISTINCT trace_hash FROM {self._of_due(reader, kind, model, hashes)}")
            more.append(beside["trace_hash"].to_numpy())
        several = np.isin(of, np.concatenate(more))
        plan = _Plan(model, due, entry, generations.filter(pa.array(~several)))
        if several.any():
            self._plan_others(reader, plan, generations.filter(pa.array(several)))
        return plan

    def _plan_others(self, reader: Reader, plan: _Plan, generations: pa.Table) -> None:
        model = plan.model
        hashes = pc.unique(generations["trace_hash"])
        reader.give("due", pa.table({"trace_hash": hashes}))
        wanted = hashes.to_numpy()
        traces: dict[int, Trace] = defaultdict(Trace)

        def rows(kind: str, columns: str, more: str = "") -> list[dict[str, Any]]:
            return reader.query(f"SELECT {columns} FROM {self._of_due(reader, kind, model, wanted)} {more}")

        for row in rows("spans", f"{_PLACE}, type"):
            traces[row["trace_hash"]].spans.append(row)
        for row in rows("retrievals", f"{_PLACE}, type, documents"):
            traces[row["trace_hash"]].retrievals.append(row)
        for row in rows("contents", "trace_hash, record_id, count(*) AS n", "GROUP BY ALL"):
            traces[row["trace_hash"]].contents[row["record_id"]] = row["n"]
        latest = "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1"
        for row in rows("calls", "*", latest):
            traces[row["trace_hash"]].before[row["record_id"]] = row
        asked: dict[str, int] = {}
        if pc.any(generations["failed"]).as_py():
            # What was asked tells an attempt from another request.
            known = "hash(question, system) AS asked, record_id"
            asked = {
                r["record_id"]: r["asked"] for r in rows("generations", known, "WHERE coalesce(question, system) IS NOT NULL")
            }
        for row in arrays.rows(generations):
            traces[row["trace_hash"]].generations.append(row | {"asked": asked.get(row["record_id"])})
        stored = self._known(reader, model, traces.values())
        for trace in traces.values():
            if not trace.generations:
                continue
            after, ok = settled(trace, stored)
            plan.failed += not ok
            plan.rows += [row for row in after if row.differs]
            by_record = {row["record_id"]: row for row in trace.generations}
            plan.tallies.restated(list(trace.before.values()), [row.call for row in after], by_record)

    def _known(self, reader: Reader, model: str, traces: Iterable[Trace]) -> dict[str, Known]:
        """What is stored, by record, of those that were settled before and may have another input now."""
        ids = [
            record_id
            for trace in traces
            if trace.retrievals or trace.contents
            for record_id, call in trace.before.items()
            if call["counted"] and call["input_revision"] is not None
        ]
        found: dict[str, Known] = {record_id: Known() for record_id in ids}
        if ids:
            reader.give("due", pa.table({"record_id": ids}))
            places = reader.places("records", "contexts", model, [place_hash(record_id) for record_id in ids])
            for row in reader.query(
                "SELECT record_id, seq, revision, retrieval_id, content_hash FROM "
                f"{reader.source('contexts', model, places=places)} SEMI JOIN due USING (record_id) ORDER BY seq"
            ):
                found[row["record_id"]].add(**{k: v for k, v in row.items() if k != "record_id"})
            # A score that was asked for again, or passages that were pushed, have begun revisions that no call knows of.
            places = reader.places("records", "scores", model, [place_hash(record_id) for record_id in ids])
            for row in reader.query(
                f"SELECT record_id, max(revision) AS revision FROM {reader.source('scores', model, places=places)} "
                "SEMI JOIN due USING (record_id) GROUP BY record_id"
            ):
                found[row["record_id"]].revision = max(found[row["record_id"]].revision, row["revision"])
        return found

    def _of_due(self, reader: Reader, kind: str, model: str, hashes: UInt64Array) -> str:
        places = reader.places("traces", kind, model, hashes)
        return f"{reader.source(kind, model, places=places)} SEMI JOIN due USING (trace_hash)"

    # --- on the writer thread, inside the transaction ---

    def _keep(self, transaction: Transaction, plan: _Plan) -> None:
        tallies = Tallies()
        if plan.simple.num_rows:
            self._keep_simple(transaction, plan, tallies)
        if plan.rows:
            self._keep_rows(transaction, plan.model, plan.rows)
        transaction.execute_over(
            plan.traces,
            "DELETE FROM traces WHERE model = ? AND entry <= ? AND trace_hash IN (SELECT trace_hash FROM given)",
            [plan.model, plan.entry],
        )
        point("settle.written")

        def count() -> None:
            tallies.count(self._metrics, plan.model)
            plan.tallies.count(self._metrics, plan.model)

        transaction.count_on_commit(count)

    def _keep_simple(self, transaction: Transaction, plan: _Plan, tallies: Tallies) -> None:
        rows, size = plan.simple, plan.simple.num_rows
        embeds = pc.equal(rows["operation"], EMBEDDINGS).fill_null(False)
        cached = pc.add(rows["cache_read_tokens"].fill_null(0), rows["cache_write_tokens"].fill_null(0))
        went_in = rows["input_tokens"]
        calls: dict[str, Any] = {
            **{name: rows[name] for name in ("record_id", "event_time", "trace_id", "trace_hash", "failed", "llm_model")},
            **{name: rows[name] for name in (*TOKENS, *COST, *TIMES)},
            # As calls.plain has it.
            "input_tokens": pc.if_else(pc.greater(cached, went_in), pc.add(went_in, cached), went_in),
            "revision": 1,
            "counted": True,
            "request_id": rows["record_id"],
            "attempt": rows["retry"].fill_null(0),
            "fallback": rows["fallback"].fill_null(False),
            "input_revision": pc.if_else(embeds, pa.scalar(None, pa.int32()), pa.scalar(1, pa.int32())),
            "passages": 0,
            "contents": 0,
            "received_at": transaction.now,
        }
        transaction.append("calls", plan.model, calls)
        names = ("llm_model", "failed", "attempt", *TOKENS, "cost_usd", *TIMES, "trace_id")
        tallies.singles({name: calls[name].to_pylist() for name in names}, {name: rows[name].to_pylist() for name in SEEN})
        scored = rows.filter(pc.invert(embeds))
        if size := scored.num_rows:
            ids = scored["record_id"].to_pylist()
            begun = [
                self._passages.adopt(transaction, plan.model, r) if self._passages.waiting(plan.model, r) else None for r in ids
            ]
            transaction.insert(
                "work",
                {
                    "model": pa.repeat(plan.model, size),
                    "record_id": scored["record_id"],
                    "seq": scored["seq"],
                    "revision": pa.repeat(1, size),
                    "input": pa.repeat(0, size),
                    "attempts": pa.repeat(0, size),
                    "contexts_from": pa.array(begun, pa.int64()),
                    "due_at": pa.array([transaction.now] * size, pa.timestamp("us", tz="UTC")),
                    "event_time": scored["event_time"],
                },
            )

    def _keep_rows(self, transaction: Transaction, model: str, rows: Sequence[Row]) -> None:
        again = [row for row in rows if row.renewed and not row.first]
        gone = [row for row in rows if not row.call["counted"] and not row.first]
        existing: dict[str, dict[str, Any]] = {}
        if again or gone:
            ids = pa.table({"record_id": [row.call["record_id"] for row in (*again, *gone)]})
            these = "model = ? AND due_at IS NOT NULL AND record_id IN (SELECT record_id FROM given)"
            for found in transaction.query_over(
                ids, f"SELECT record_id, revision, contexts_from FROM work WHERE {these}", [model]
            ):
                existing[found["record_id"]] = found
            if existing:
                # Whoever is scoring one right now finds that what was read is no longer all there is, or not asked for.
                transaction.execute_over(ids, f"DELETE FROM work WHERE {these}", [model])
        for row in again:
            if (held := existing.get(row.call["record_id"])) is not None:
                row.call["input_revision"] = max(row.call["input_revision"], held["revision"] + 1)
                row.contexts_from = min(filter(None, (row.contexts_from, held["contexts_from"])), default=None)
        self._keep_passages(transaction, model, rows)
        due = [row for row in rows if row.renewed]
        for row in due:
            if row.first and self._passages.waiting(model, row.call["record_id"]):
                early = self._passages.adopt(transaction, model, row.call["record_id"])
                row.contexts_from = min(filter(None, (row.contexts_from, early)), default=None)
        if due:
            transaction.insert(
                "work",
                {
                    "model": [model] * len(due),
                    "record_id": [row.call["record_id"] for row in due],
                    "seq": [row.seq for row in due],
                    "revision": [row.call["input_revision"] for row in due],
                    "input": [0] * len(due),
                    "attempts": [0] * len(due),
                    "contexts_from": pa.array([row.contexts_from for row in due], pa.int64()),
                    "due_at": [transaction.now] * len(due),
                    "event_time": [row.call["event_time"] for row in due],
                },
            )
        columns = {name: [row.call[name] for row in rows] for name in rows[0].call}
        transaction.append("calls", model, {**columns, "received_at": transaction.now})

    @staticmethod
    def _keep_passages(transaction: Transaction, model: str, rows: Sequence[Row]) -> None:
        found = [(row, position, passage) for row in rows if row.rejoined for position, passage in enumerate(row.passages)]
        if not found:
            return
        first = transaction.append(
            "contexts",
            model,
            {
                "record_id": [row.call["record_id"] for row, _, _ in found],
                "revision": [row.call["input_revision"] for row, _, _ in found],
                "position": [position for _, position, _ in found],
                "document_id": [passage.document_id for _, _, passage in found],
                "text": [passage.text for _, _, passage in found],
                "retrieval_score": [passage.score for _, _, passage in found],
                "event_time": pa.array([passage.at for _, _, passage in found], pa.timestamp("us", tz="UTC")),
                "retrieval_id": [passage.retrieval_id for _, _, passage in found],
                "content_hash": [passage.content for _, _, passage in found],
                "received_at": transaction.now,
            },
        )
        for offset, (row, position, _) in enumerate(found):
            if position == 0:
                row.contexts_from = min(filter(None, (row.contexts_from, first + offset)))
