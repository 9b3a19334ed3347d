"""Evaluates every due slot of a check, in order, from the store: reading, verdict, incident, one transaction.

A slot that was read before is restated. Nothing here depends on when it runs, so a replay, a backfill and a run cut by
restarts end in the same readings.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson

from detectors.contract import Outcome
from monitor import evidence, log
from monitor.agenda import Agenda
from monitor.board import Board, Standing
from monitor.child import Child
from monitor.clock import MICROSECOND, Clock
from monitor.config import Check, Config, ModelConfig
from monitor.errors import ChildAway, ChildFailed
from monitor.metrics import Metrics
from monitor.past import FIRST_LOOK, Past, Reading, Told
from monitor.reader import Reader
from monitor.readings import Measured, Meter, parts_from
from monitor.references import References
from monitor.store import Store
from monitor.traffic import Make, maker
from monitor.transaction import Transaction
from monitor.verdicts import History, Incident, Judged

ALL = "all"
TRIES = 3  # a window that kills the worker this often has failed
KEPT, MOST_KEPT = 2_000, 20_000


class CheckRunner:
    """One check. `run` is called again and again by the scheduler, never twice at a time."""

    def __init__(
        self,
        check: Check,
        model: ModelConfig,
        store: Store,
        references: References,
        worker: Child,
        traffic: Make,
        *,
        board: Board,
        clock: Clock,
        metrics: Metrics,
        kept: int = KEPT,
        most_kept: int = MOST_KEPT,
    ) -> None:
        """`kept` slots are in memory after a start, and up to `most_kept` before the oldest are dropped: so that late labels
        need not fetch theirs each time."""
        self.check = check
        self._store = store
        self._board = board
        self._clock = clock
        self._metrics = metrics
        self._meter = Meter(check, model, references, worker, traffic)
        self._agenda = Agenda(check, self._meter.kinds, self._meter.hashes, store=store, clock=clock)
        self._past = Past(check)
        self._kept, self._most_kept = kept, most_kept
        self._incidents: dict[datetime, Told] = {}
        self._readings: dict[datetime, Reading] = {}
        self._running = threading.Lock()
        self.retired = False
        self._unsure = False
        self._tries: Counter[datetime] = Counter()
        self._restore()

    def run(self) -> int:
        """Evaluate what is due and return how many slots that was. Cheap when nothing can have become due."""
        with self._running:
            if self.retired:
                return 0
            if self._unsure:
                self._restore()
            if not self._agenda.worth_a_look():
                return 0
            try:
                return self._run()
            except ChildFailed:
                raise
            except BaseException:
                # What was not stored was not said: before the next run, ask the store what was.
                self._unsure = True
                self._agenda.look_again()
                raise

    def _run(self) -> int:
        self._agenda.touch(self._history.latest.slot if self._history.latest else None)
        count = 0
        while due := self._agenda.due():
            self._evaluate(due)
            count += len(due)
        return count

    def retire(self) -> None:
        """Wait for the run in hand; another runner takes over."""
        with self._running:
            self.retired = True

    # --- doing it ---

    def _evaluate(self, slots: Sequence[datetime]) -> None:
        readings: list[dict[str, Any]] = []
        verdicts: dict[datetime, Judged] = {}
        done: list[datetime] = []
        died: ChildFailed | None = None
        with self._store.read() as reader:
            self._fetch(reader, slots)
            for slot in slots:
                started = self._clock.monotonic()
                try:
                    measured = self._meter.measure(reader, slot, self._features())
                except ChildFailed as exc:
                    self._tries[slot] += not isinstance(exc, ChildAway)
                    if self._tries[slot] < TRIES:
                        died = exc
                        break  # this slot and those after it stay on the agenda
                    measured = Measured(Outcome.FAILED, f"the worker died {TRIES} times: {exc}")
                done.append(slot)
                row = measured.columns()
                known = self._readings.get(slot)
                if known is None or known[1] != row:
                    revision = known[0] + 1 if known else 1
                    self._readings[slot] = (revision, row)
                    readings.append(self._reading_row(slot, revision, row, self._clock.monotonic() - started))
                low, high = _interval(measured)
                for changed in self._history.put(slot, measured.outcome, low, high):
                    verdicts[changed.slot] = changed
            incidents = self._changed_incidents(reader, slots[0]) if verdicts else []
        ordered = [verdicts[s] for s in sorted(verdicts)]
        if done:
            self._store.run(lambda t: self._keep(t, done, readings, ordered, incidents))
            self._count(readings)
            self.show()
            self._forget()
        if died is not None:
            raise died

    def _count(self, readings: Sequence[dict[str, Any]]) -> None:
        name = self.check.name
        for row in readings:
            self._metrics.verdicts.labels(self.check.model, name, row["outcome"]).inc()
            if row["outcome"] == Outcome.FAILED:
                self._metrics.run_failures.labels(name, "detector").inc()
                log.warning("a detector failed", check=name, slot=row["slot"].isoformat(), reason=row["reason"])

    def _features(self) -> Any:
        return self._store.feature_columns(self.check.model)

    def _reading_row(self, slot: datetime, revision: int, row: dict[str, Any], seconds: float) -> dict[str, Any]:
        return {
            **self._key(slot, revision),
            **row,
            "window_start": slot - timedelta(seconds=self.check.window_seconds),
            "window_end": slot,
            "detector": self._meter.detector_name,
            "detector_version": self._meter.detector_version,
            "settings_hash": self._meter.settings_hash,
            "metrics": orjson.dumps(row["metrics"]).decode(),
            "parts": orjson.dumps(row["parts"]).decode(),
            "duration_seconds": seconds,
        }

    def _key(self, slot: datetime, revision: int) -> dict[str, Any]:
        return {"check_name": self.check.name, "slice": ALL, "slot": slot, "revision": revision}

    def _changed_incidents(self, reader: Reader, since: datetime) -> list[dict[str, Any]]:
        """Incidents that opened, grew, were resolved, or that a restated reading took back."""
        now = {i.opened: i for i in self._history.incidents(since)}
        rows = []
        for opened, incident in now.items():
            known = self._incidents.get(opened)
            # While it is open only its peak is news; how long it lasts is in the verdicts.
            word = (incident.resolved, incident.peak)
            if known is None:
                start = opened - timedelta(seconds=self.check.window_seconds)
                proof = evidence.gather(
                    reader,
                    self.check,
                    self._reading(reader, opened),
                    start,
                    opened,
                    log=self._meter.kinds[0],
                    row_hash=self._meter.row.hash if self._meter.row else None,
                    worse=self._meter.worse,
                )
                rows.append(self._incident_row(incident, 1, word, proof))
            elif known[1] != word:
                rows.append(self._incident_row(incident, known[0] + 1, word, known[2]))
        for opened, known in list(self._incidents.items()):
            if opened >= since and opened not in now and known[1] != ("withdrawn",):
                gone = Incident(opened, opened, None, 0.0)
                rows.append(self._incident_row(gone, known[0] + 1, ("withdrawn",), known[2]))
        return rows

    def _incident_row(self, incident: Incident, revision: int, word: tuple[Any, ...], proof: dict[str, Any]) -> dict[str, Any]:
        self._incidents[incident.opened] = (revision, word, proof)
        state = "withdrawn" if word == ("withdrawn",) else "resolved" if incident.resolved else "open"
        if revision == 1 or state != "open":
            log.info("incident", check=self.check.name, state=state, opened=incident.opened.isoformat())
        return {
            "incident_id": incident.id(self.check.name, ALL),
            "revision": revision,
            "check_name": self.check.name,
            "slice": ALL,
            "state": state,
            "severity": self.check.severity,
            "opened_slot": incident.opened,
            "last_slot": incident.last,
            "resolved_slot": incident.resolved,
            "peak": incident.peak,
            "evidence": orjson.dumps(proof, default=str).decode(),
        }

    def _keep(
        self,
        transaction: Transaction,
        slots: Sequence[datetime],
        readings: Sequence[dict[str, Any]],
        verdicts: Sequence[Judged],
        incidents: Sequence[dict[str, Any]],
    ) -> None:
        model = self.check.model
        judged = [
            {
                **self._key(v.slot, v.revision),
                "outcome": v.outcome.value,
                "beyond": v.beyond,
                "firing": v.firing,
                "judged": self._history.judged_number(v),
                "lower": self.check.threshold.lower,
                "upper": self.check.threshold.upper,
                "severity": self.check.severity,
            }
            for v in verdicts
        ]
        for kind, rows in (("readings", readings), ("verdicts", judged), ("incidents", incidents)):
            if rows:
                columns = {name: [row[name] for row in rows] for name in rows[0]}
                transaction.append(kind, model, {**columns, "received_at": transaction.now})
        marks = ", ".join("?" * len(slots))
        transaction.execute(f"DELETE FROM check_slots WHERE check_name = ? AND slot IN ({marks})", [self._agenda.key, *slots])

    # --- what is known ---

    def show(self) -> None:
        """Put the latest verdict on the board; nothing where there is none yet."""
        latest = self._history.latest
        if latest is None or latest.slot not in self._readings:
            return
        reading = self._readings[latest.slot][1]
        check = self.check
        self._board.put(
            Standing(
                model=check.model,
                check=check.name,
                slice=ALL,
                detector=self._meter.detector_name,
                severity=check.severity,
                slot=latest.slot,
                firing=latest.firing,
                value=reading["value"],
                interval=(reading["lower"], reading["upper"]),
                bounds=(check.threshold.lower, check.threshold.upper),
                n_current=reading["n_current"],
                n_reference=reading["n_reference"],
                metrics=reading["metrics"],
                parts=parts_from(reading["parts"]),
                open_incidents=sum(1 for _, word, _ in self._incidents.values() if word[0] is None),
            )
        )

    def _fetch(self, reader: Reader, slots: Sequence[datetime]) -> None:
        """Have what is stored of these slots, and of those before them that matter, in memory."""
        first, history = min(slots), self._history
        if not history.reaches(first):
            kept, base = history.first, history.base
            before = kept if kept is not None else base.slot and base.slot + MICROSECOND
            history.put_back(
                self._past.verdicts(reader, before, lambda found: history.determines([v for v in found if v.slot < first])), first
            )
            since = history.base.opened or first
            self._incidents |= self._past.incidents(reader, since, kept)
        known = [slot for slot in slots if slot in history and slot not in self._readings]
        self._readings |= self._past.readings(reader, known)

    def _reading(self, reader: Reader, slot: datetime) -> dict[str, Any]:
        if slot not in self._readings:
            self._readings |= self._past.readings(reader, [slot])
        return self._readings[slot][1]

    def _forget(self) -> None:
        """What can be fetched again need not stay."""
        if len(self._history) > self._most_kept:
            self._history.drop(len(self._history) - self._kept)
            opened = self._history.base.opened
            first = self._history.first
            self._incidents = {o: i for o, i in self._incidents.items() if first is None or o >= first or o == opened}
        latest = self._history.latest
        self._readings = {slot: r for slot, r in self._readings.items() if latest is not None and slot == latest.slot}

    def _restore(self) -> None:
        """The latest readings, verdicts and incidents as stored, so that a restart goes on where the last run stopped."""
        history = History(self.check.threshold, breaches=self.check.breaches, clear=self.check.clear)
        self._history = history
        self._incidents, self._readings = {}, {}
        with self._store.read() as reader:
            history.restore(
                self._past.verdicts(
                    reader, None, lambda found: history.determines(found[: -self._kept]), slots=self._kept + FIRST_LOOK
                )
            )
            history.drop(max(0, len(history) - self._kept))
            if history.latest is not None and history.first is not None:
                self._readings = self._past.readings(reader, [history.latest.slot])
                self._incidents = self._past.incidents(reader, history.base.opened or history.first)
        self._unsure = False
        self.show()


def build(
    config: Config,
    store: Store,
    references: References,
    worker: Child,
    *,
    board: Board,
    clock: Clock,
    metrics: Metrics,
    kept: int = KEPT,
    most_kept: int = MOST_KEPT,
    only: Collection[str] | None = None,
) -> dict[str, CheckRunner]:
    """A runner for each check, or for `only` those, by name."""
    common: dict[str, Any] = {"board": board, "clock": clock, "metrics": metrics, "kept": kept, "most_kept": most_kept}
    models = {m.name: m for m in config.models}
    make = maker({m.name: m.task for m in config.models}, config.checks)
    return {
        c.name: CheckRunner(c, models[c.model], store, references, worker, make, **common)
        for c in config.checks
        if only is None or c.name in only
    }


def _interval(measured: Measured) -> tuple[float | None, float | None]:
    reading = measured.reading
    if reading is None:
        return None, None
    low = reading.value if reading.lower is None else reading.lower
    high = reading.value if reading.upper is None else reading.upper
    return low, high
