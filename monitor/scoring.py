"""Scores what is due: reads the inputs, asks the scorer, and writes scores, evidence and the end of the work at once.

`work` rows are the cursor: one for each (generation, input revision) that waits. It is deleted in the transaction that
writes its scores, so each is scored once, whatever dies in between.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import duckdb
import orjson

from detectors.contract import NotEvaluable, Outcome, Score
from monitor import log
from monitor.child import Child, Remote
from monitor.clock import Clock
from monitor.config import Config
from monitor.errors import ChildAway, ChildFailed, StoreError
from monitor.faultpoints import point
from monitor.helpers import ScoreAnswer, ScoreRequest
from monitor.inputs import inputs
from monitor.judging.selection import Selection
from monitor.metrics import Metrics, exemplar
from monitor.reader import Reader
from monitor.rowchecks import RowCheck, row_checks
from monitor.store import Store
from monitor.transaction import Transaction

IDLE_SECONDS = 0.2
RETRY_SECONDS = 1.0
AWAY_SECONDS = 3_600.0  # until an answer in a damaged segment is tried again, unless a whole copy is back before


class Scoring:
    """One thread. `step` does one batch."""

    def __init__(self, config: Config, store: Store, scorer: Child, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._scorer = scorer
        self._clock = clock
        self._metrics = metrics
        self._stop = threading.Event()
        self.configure(config)
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)

    def configure(self, config: Config) -> None:
        self._config = config.scoring
        self._checks = row_checks(config)
        self._selection = Selection(config, self._metrics)
        for model, checks in self._checks.items():
            for check in checks:
                self._metrics.evaluations.labels(model, check.name).inc(0)
                self._metrics.flagged.labels(model, check.name).inc(0)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Hold no record to account for what becomes of the scorer from here on."""
        self._stop.set()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        self._warm()
        waiting = log.Lasting(self._clock.monotonic)
        while not self._stop.is_set():
            try:
                done = self.step()
                waiting.over("scoring goes on")
            except (StoreError, duckdb.Error) as exc:
                # The store says itself what is wrong with it; here there is only to wait.
                waiting.warning("scoring waits for the store", error=exc)
                done = 0
                self._stop.wait(RETRY_SECONDS)
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                log.error("scoring failed and is tried again", exc)
                done = 0
                self._stop.wait(RETRY_SECONDS)
            if not done:
                self._stop.wait(IDLE_SECONDS)

    def _warm(self) -> None:
        """Have the models loaded before the first record needs them."""
        specs = {c.spec for checks in self._checks.values() for c in checks}
        if specs:
            with contextlib.suppress(ChildFailed, Remote):  # the first records will tell
                self._scorer.call(ScoreRequest(tuple(specs), []), self._config.timeout_seconds)

    def step(self) -> int:
        """Score the next records that are due, of one model, and return how many are done with."""
        now, scored_by = self._clock.now(), self._checks
        with self._store.read() as reader:
            due = reader.query(
                "SELECT model, count(*) AS n, min(due_at) AS oldest FROM work WHERE due_at <= ? GROUP BY model "
                "ORDER BY oldest, model",
                [now],
            )
            self._metrics.queue_records.labels("scoring").set(sum(d["n"] for d in due))
            self._metrics.queue_oldest.labels("scoring").set((due[0]["oldest"] if due else now).timestamp())
            if not due:
                return 0
            unscored = {d["model"]: d["n"] for d in due if d["model"] not in scored_by}
            if not unscored:
                model = due[0]["model"]
                work = reader.query(
                    "SELECT * FROM work WHERE due_at <= ? AND model = ? ORDER BY due_at, seq LIMIT ?",
                    [now, model, self._config.batch_records],
                )
                # One that may have killed the scorer is tried again by itself, so that it takes no other with it.
                work = [w for w in work if w["attempts"]][:1] or work
                wanted = frozenset(name for check in scored_by.get(model, ()) for name in check.inputs)
                readable, rows, away = _readable(reader, model, work, wanted)
        if unscored:
            # All at once: one by one they would pile up, and those that wait for a score would wait behind them.
            marks = ", ".join("?" * len(unscored))
            self._store.run(lambda t: t.execute(f"DELETE FROM work WHERE due_at <= ? AND model IN ({marks})", [now, *unscored]))
            return sum(unscored.values())
        if away:
            # Scored without what cannot be read they would have a number for good, and waiting in front they would hold up all.
            log.warning("answers in a damaged segment are scored later", model=model, records=len(away))
            ids, later = [w["record_id"] for w in away], now + timedelta(seconds=AWAY_SECONDS)
            marks = ", ".join("?" * len(ids))
            where = f"model = ? AND record_id IN ({marks}) AND due_at IS NOT NULL"
            self._store.run(lambda t: t.execute(f"UPDATE work SET due_at = ? WHERE {where}", [later, model, *ids]))
        if not readable:
            return len(away)
        return self._attempt(model, scored_by[model], readable, rows)

    def _attempt(
        self, model: str, checks: Sequence[RowCheck], work: Sequence[Mapping[str, Any]], rows: Sequence[dict[str, Any]]
    ) -> int:
        request = ScoreRequest(tuple(c.spec for c in checks), rows)
        try:
            answer = self._ask(request)
            point("score.answered")
            count = self._commit(model, checks, work, rows, answer)
        except (StoreError, duckdb.Error):
            raise
        except Exception as exc:  # the scorer died or raised, or what it answered cannot be kept
            if self._stop.is_set():
                return 0
            if len(work) > 1:
                # One of them may be what kills the scorer: find it, and let the others pass.
                half = len(work) // 2
                return self._attempt(model, checks, work[:half], rows[:half]) + self._attempt(
                    model, checks, work[half:], rows[half:]
                )
            return self._failed(model, checks, work[0], rows, exc)
        self._metrics.scoring_duration.observe(answer.seconds)
        self._metrics.device_fallback.set(answer.fallback)
        self._metrics.out_of_memory.set(answer.out_of_memory)
        return count

    def _ask(self, request: ScoreRequest) -> ScoreAnswer:
        """The scorer's answer, however long it takes to restart: that is the fault of no record."""
        while True:
            try:
                answer: ScoreAnswer = self._scorer.call(request, self._config.timeout_seconds)
                return answer
            except ChildAway:
                if self._stop.wait(IDLE_SECONDS):
                    raise

    def _failed(
        self,
        model: str,
        checks: Sequence[RowCheck],
        work: Mapping[str, Any],
        rows: Sequence[dict[str, Any]],
        exc: Exception,
    ) -> int:
        if work["attempts"] + 1 < self._config.attempts:
            self._store.run(
                lambda t: t.execute(
                    "UPDATE work SET attempts = attempts + 1 WHERE model = ? AND record_id = ?", [model, work["record_id"]]
                )
            )
            self._stop.wait(RETRY_SECONDS)
            return 0
        log.error("a record could not be scored and is set aside", model=model, record_id=work["record_id"], error=exc)
        score = Score.failed("scorer_died" if isinstance(exc, ChildFailed) else "bad_answer", error=str(exc)[-500:])
        return self._commit(model, checks, [work], rows, ScoreAnswer([[score]] * len(checks), "none", 0.0))

    def _commit(
        self,
        model: str,
        checks: Sequence[RowCheck],
        work: Sequence[Mapping[str, Any]],
        rows: Sequence[dict[str, Any]],
        answer: ScoreAnswer,
    ) -> int:
        scored = [(check, scores) for check, scores in zip(checks, answer.scores, strict=True)]
        written: list[int] = []

        def keep(transaction: Transaction) -> int:
            written[:] = self._unchanged(transaction, model, work)
            for check, scores in scored:
                append(transaction, model, check, rows, scores, written, answer.device)
            self._selection.queue(transaction, model, work, rows, scored, written)
            done = _finish(transaction, model, [work[i] for i in written])
            point("score.written")
            return done

        done = self._store.run(keep)
        for check, scores in scored:
            for i in written:
                self.count(self._metrics, model, check, scores[i], rows[i]["trace_id"])
        return done

    @staticmethod
    def _unchanged(transaction: Transaction, model: str, work: Sequence[Mapping[str, Any]]) -> list[int]:
        """Places of the work whose input is still what was read; the rest is scored again with what came since."""
        marks = ", ".join("?" * len(work))
        now = {
            (w["record_id"], w["revision"]): w["input"]
            for w in transaction.query(
                f"SELECT record_id, revision, input FROM work WHERE model = ? AND record_id IN ({marks})",
                [model, *(w["record_id"] for w in work)],
            )
        }
        return [i for i, w in enumerate(work) if now.get((w["record_id"], w["revision"])) == w["input"]]

    @staticmethod
    def count(m: Metrics, model: str, check: RowCheck, score: Score, trace_id: str | None) -> None:
        m.evaluations.labels(model, check.name).inc()
        if score.outcome is Outcome.OK:
            assert score.value is not None
            if score.stage:
                m.stages.labels(model, check.name, score.stage).inc()
            if (flagged := check.flagged(score)) is None:
                return  # rules may read what is exported, and no alert is to come of it
            m.score.labels(model, check.name).observe(score.value, exemplar({"trace_id": trace_id}))
            if flagged:
                m.flagged.labels(model, check.name).inc()
        elif score.outcome is Outcome.NOT_EVALUABLE:
            m.not_evaluable.labels(model, check.name, score.reason or "").inc()
        elif score.outcome is Outcome.FAILED:
            m.failures.labels(model, check.name, score.reason or "").inc()
            m.deadletters.labels("scoring_failed").inc()


def _readable(
    reader: Reader, model: str, work: Sequence[Mapping[str, Any]], wanted: frozenset[str]
) -> tuple[list[Mapping[str, Any]], list[dict[str, Any]], list[Mapping[str, Any]]]:
    """What of the work can be read, with its rows, and what cannot for now."""
    try:
        return [*work], inputs(reader, model, work, wanted), []
    except NotEvaluable:
        if len(work) == 1:
            return [], [], [*work]
    found: list[Mapping[str, Any]] = []
    rows: list[dict[str, Any]] = []
    away: list[Mapping[str, Any]] = []
    for one in work:
        here, its_rows, not_here = _readable(reader, model, [one], wanted)
        found, rows, away = [*found, *here], [*rows, *its_rows], [*away, *not_here]
    return found, rows, away


def _finish(transaction: Transaction, model: str, work: Sequence[Mapping[str, Any]]) -> int:
    if work:
        marks = ", ".join("?" * len(work))
        transaction.execute(
            f"DELETE FROM work WHERE model = ? AND record_id IN ({marks})", [model, *(w["record_id"] for w in work)]
        )
    return len(work)


def append(
    transaction: Transaction,
    model: str,
    check: RowCheck,
    rows: Sequence[dict[str, Any]],
    scores: Sequence[Score],
    places: Sequence[int],
    device: str,
) -> None:
    if not places:
        return
    now: datetime = transaction.now
    kept = [(rows[i], scores[i]) for i in places]
    transaction.append(
        "scores",
        model,
        {
            "record_id": [r["record_id"] for r, _ in kept],
            "revision": [r["revision"] for r, _ in kept],
            "event_time": [r["event_time"] for r, _ in kept],
            "trace_id": [r["trace_id"] for r, _ in kept],
            "detector": check.name,
            "detector_version": check.version,
            "settings_hash": check.hash,
            "outcome": [s.outcome.value for _, s in kept],
            "reason": [s.reason for _, s in kept],
            "value": [s.value for _, s in kept],
            "flagged": [check.flagged(s) for _, s in kept],
            "stage": [s.stage for _, s in kept],
            "device": device,
            "detail": [orjson.dumps(dict(s.detail), default=str).decode() if s.detail else None for _, s in kept],
            "received_at": now,
        },
    )
    failed = [(r, s) for r, s in kept if s.outcome is Outcome.FAILED]
    if failed:
        transaction.append(
            "deadletters",
            "",
            {
                "source": check.name,
                "kind": "generations",
                "reason": "scoring_failed",
                "message": [f"{s.reason}: {s.detail.get('error', '')}" for _, s in failed],
                "record_id": [r["record_id"] for r, _ in failed],
                "monitored_model": model,
                "received_at": now,
            },
        )
    claims = [(r, i, c) for r, s in kept for i, c in enumerate(s.claims)]
    if claims:
        transaction.append(
            "claims",
            model,
            {
                "record_id": [r["record_id"] for r, _, _ in claims],
                "revision": [r["revision"] for r, _, _ in claims],
                "detector": check.name,
                "settings_hash": check.hash,
                "claim_index": [i for _, i, _ in claims],
                "start_offset": [c.start for _, _, c in claims],
                "end_offset": [c.end for _, _, c in claims],
                "support": [c.support for _, _, c in claims],
                "context_seq": [None if c.context is None else r["context_seqs"][c.context] for r, _, c in claims],
                "event_time": [r["event_time"] for r, _, _ in claims],
                "received_at": now,
            },
        )
