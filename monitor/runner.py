"""Evaluates every due slot of a check, in order, from the store: reading, verdict, incident, one transaction.

A slot that was read before is restated. Nothing here depends on when it runs, so a replay, a backfill and a run cut by
restarts end in the same readings.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import duckdb

from detectors.contract import Outcome
from monitor import evidence, log
from monitor.agenda import SLOTS_AT_ONCE, Agenda, Arrivals
from monitor.baseline import UNAVAILABLE, Baseline
from monitor.board import Board
from monitor.child import Child
from monitor.clock import Clock
from monitor.config import Check, Config, ModelConfig
from monitor.embeddings import Decode
from monitor.errors import ChildAway, ChildFailed, StoreError
from monitor.explaining import Explaining
from monitor.metrics import Metrics
from monitor.pool import Pool
from monitor.reader import Reader
from monitor.readings import Look, Measured, Meter
from monitor.reasons import Reasons
from monitor.references import References
from monitor.slices import Slice, Slices
from monitor.store import Store
from monitor.thresholds import Judge, alphas, warnings
from monitor.track import Rows, Track, merged
from monitor.traffic import Make, maker
from monitor.transaction import Transaction
from monitor.verdicts import Judged

TRIES = 3  # a window that kills the worker this often has failed
KEPT, MOST_KEPT = 2_000, 20_000
LEARN_SECONDS = 20.0  # of learning a threshold at once: other checks wait for the thread

Maintained = Callable[[str, datetime], str | None]
"""Of a monitored model and a time: the name of the maintenance window it is in."""


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
        alpha: float | None = None,
        explaining: Explaining | None = None,
        arrivals: Arrivals | None = None,
        maintenance: Maintained = lambda model, when: None,
    ) -> None:
        """`alpha`: for a calibrated check, how often a slot may fire by chance. `explaining` says whose turn it is to look into
        why something fired, `maintenance` in which window the model is. `kept` slots are in memory after a start, and up to
        `most_kept` before the oldest are dropped: so that late labels need not fetch theirs each time."""
        self.check = check
        self._store = store
        self._board = board
        self._clock = clock
        self._metrics = metrics
        self._meter = Meter(check, model, references, worker, traffic)
        self._agenda = Agenda(check, self._meter.kinds, self._meter.hashes, store=store, clock=clock, arrivals=arrivals)
        self._baseline = Baseline(check, self._meter)
        self._reasons = Reasons(check, model, traffic, self._meter)
        self._explaining = explaining or Explaining(clock)
        self._maintenance = maintenance
        self._alpha = alpha
        self._kept, self._most_kept = kept, most_kept
        self._slices = Slices(check.slices)
        self._tracks: dict[str, Track] = {}
        self._unlearned: set[str] = set()  # slices whose threshold is still to be learned
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
            try:
                count = self._run() if self._agenda.worth_a_look() else 0
                if count:
                    self._explaining.read(self.check.name)
                else:
                    self._explain()
                return count
            except ChildFailed:
                raise
            except BaseException:
                # What was not stored was not said: before the next run, ask the store what was.
                self._unsure = True
                self._agenda.look_again()
                raise

    def _run(self) -> int:
        latest = [one.history.latest.slot for one in self._tracks.values() if one.history.latest]
        with self._store.read() as reader:
            self._agenda.touch(reader, max(latest, default=None))
            due = self._agenda.due(reader)
        count = 0
        while due:
            self._revise(due)
            if not self._learn():
                self._agenda.look_again()  # the slots wait: it goes on with the next waking
                return count
            done = self._evaluate(due)
            count += done
            if done == len(due) < SLOTS_AT_ONCE:
                break
            with self._store.read() as reader:
                due = self._agenda.due(reader)
        if self._agenda.unkept:
            self._store.run(lambda t: self._agenda.keep(t, ()))
            self._agenda.kept()
        return count

    def retire(self) -> None:
        """Wait for the run in hand; another runner takes over."""
        with self._running:
            self.retired = True

    @property
    def tracks(self) -> Mapping[str, Track]:
        """By slice."""
        return self._tracks

    def _explain(self) -> None:
        """Add to the latest incidents why they opened, when it is this check's turn."""
        asked = [one for one in self._tracks.values() if one.unexplained is not None]
        if not asked or not self._explaining.begin(self.check.name):
            return
        try:
            one = asked[0]
            assert one.unexplained is not None
            try:
                with self._store.read() as reader:
                    found = self._reasons.of(reader, one.unexplained, one.part, self._features())
            except (ChildFailed, StoreError, duckdb.Error):
                raise  # it is asked again
            except Exception as exc:  # the incident stands without it
                found = None
                self._metrics.run_failures.labels(self.check.name, "why").inc()
                log.error("an incident could not be explained", exc, check=self.check.name, slice=one.part.name)
            row = one.explained(found) if found is not None else None
            one.unexplained = None
            if row is not None:
                self._store.run(lambda t: self._add(t, {"incidents": [row]}))
        finally:
            self._explaining.end()

    # --- thresholds that are learned ---

    def _revise(self, slots: Sequence[datetime]) -> None:
        """Try again to learn what too little was known for, once something of its time has changed or is there again."""
        span = self._baseline.span
        if span is None:
            return
        self._unlearned |= self._back()
        if all(slot > span[1] for slot in slots):
            return
        restated = [slot for slot in slots if slot <= span[1]]
        for name, one in self._tracks.items():
            if one.judge.learned is not None and not one.judge.learned.ok and any(slot in one.history for slot in restated):
                self._unlearned.add(name)

    def _back(self) -> set[str]:
        """Slices that could not learn for want of rows in a damaged segment, where none is damaged now."""
        said = {name: one.judge.learned.reason or "" for name, one in self._tracks.items() if one.judge.learned is not None}
        waiting = {name for name, reason in said.items() if reason.startswith(UNAVAILABLE)}
        if waiting:
            with self._store.read() as reader:
                aside = "SELECT 1 FROM manifest WHERE model = ? AND quarantined IS NOT NULL LIMIT 1"
                if reader.query(aside, [self.check.model]):
                    return set()
        return waiting

    def _learn(self) -> bool:
        """Learn what is still to be learned, for some seconds; whether all is."""
        span = self._baseline.span
        if span is None or not self._unlearned:
            return True
        until = self._clock.monotonic() + LEARN_SECONDS
        tracks = [self._tracks[name] for name in sorted(self._unlearned)]
        with self._store.read() as reader:
            found = self._baseline.learn(
                reader, [one.part for one in tracks], self._features(), lambda: self._clock.monotonic() < until
            )
        if found is None:
            return False
        rows = []
        for one in tracks:
            before = one.judge.learned
            one.judge.learn(found[one.part.name])
            if one.judge.learned != before:
                row = one.threshold_row(self._baseline.definition(one.part), span)
                rows.append(row)
                told = {key: row[key] for key in ("windows", "lower", "upper", "achieved", "reason") if row[key] is not None}
                log.info(
                    "a threshold was learned" if one.judge.learned and one.judge.learned.ok else "too little to learn from",
                    check=self.check.name,
                    slice=one.part.name,
                    **told,
                )
        if rows:
            self._store.run(lambda t: _append(t, self.check.model, {"thresholds": rows}))
        self._unlearned.clear()
        return True

    # --- doing it ---

    def _evaluate(self, slots: Sequence[datetime]) -> int:
        """Of these slots, oldest first, until one has to wait; how many were."""
        self._explaining.read(self.check.name)  # others wait while it is at it, however long one window takes
        done: list[datetime] = []
        fresh: list[tuple[str, str]] = []
        died: ChildFailed | None = None
        with self._store.read() as reader:
            if not (slots := self._agenda.scored(reader, slots)):
                return 0
            for one in self._tracks.values():
                one.fetch(reader, slots)
            for slot in slots:
                try:
                    look = self._meter.look(reader, slot, self._features())
                    if found := self._discovered(look):
                        fresh += self._begin(reader, found)
                        if self._unlearned:
                            break  # what is new learns its threshold first
                    self._read(look, slot)
                except ChildFailed as exc:
                    died = exc
                    break  # this slot and those after it stay on the agenda
                done.append(slot)
            news = merged([one.news(reader, slots[0], partial(self._prove, reader)) for one in self._tracks.values()])
        if done or fresh or self._agenda.unkept:
            self._store.run(lambda t: self._keep(t, done, news, fresh))
            self._agenda.kept()
            self._count(news["readings"])
            self.show()
            for one in self._tracks.values():
                one.forget(self._most_kept)
        if died is not None:
            raise died
        return len(done)

    def _read(self, look: Look, slot: datetime) -> None:
        """Of all slices or of none, as far as the worker goes."""
        found: list[tuple[Track, Measured, float]] = []
        for one in self._tracks.values():
            started = self._clock.monotonic()
            try:
                measured = look.measure(one.part)
            except ChildFailed as exc:
                self._tries[slot] += not isinstance(exc, ChildAway)
                if self._tries[slot] < TRIES:
                    raise
                measured = Measured(Outcome.FAILED, f"the worker died {TRIES} times: {exc}")
            # A value of a field that is not there has no window, one that the config names has an empty one.
            if measured.n_current or self._slices.always(one.part.name) or one.misses(slot, measured):
                found.append((one, measured, self._clock.monotonic() - started))
        meter = self._meter
        about = {
            "detector": meter.detector_name,
            "detector_version": meter.detector_version,
            "settings_hash": meter.settings_hash,
        }
        for one, measured, seconds in found:
            one.take(slot, measured, {**about, "duration_seconds": seconds})

    def _discovered(self, look: Look) -> dict[str, list[str]]:
        """Values of a field that are slices from now on: the reference's most frequent ones first of all."""
        if not self._slices.open:
            return {}
        found = self._slices.look(look.reference_counts)
        for field, values in found.items():
            self._slices.know(field, values)
        for field, values in self._slices.look(look.counts).items():
            self._slices.know(field, values)
            found[field] = [*found.get(field, []), *values]
        return found

    def _begin(self, reader: Reader, found: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
        """Tracks for slices that are new."""
        self._open(reader)
        return [(field, value) for field, values in found.items() for value in values]

    def _prove(
        self, reader: Reader, part: Slice, slot: datetime, reading: Mapping[str, Any], history: Sequence[Judged]
    ) -> dict[str, Any]:
        return evidence.gather(
            reader,
            self.check,
            reading,
            slot - timedelta(seconds=self.check.window_seconds),
            slot,
            log=self._meter.kinds[0],
            row=self._meter.row,
            part=part,
            history=history,
            features=self._features(),
        )

    def _count(self, readings: Sequence[dict[str, Any]]) -> None:
        name = self.check.name
        for row in readings:
            self._metrics.verdicts.labels(self.check.model, name, row["outcome"]).inc()
            if row["outcome"] == Outcome.FAILED:
                self._metrics.run_failures.labels(name, "detector").inc()
                log.warning(
                    "a detector failed", check=name, slice=row["slice"], slot=row["slot"].isoformat(), reason=row["reason"]
                )

    def _features(self) -> Any:
        return self._store.feature_columns(self.check.model)

    def _keep(self, transaction: Transaction, slots: Sequence[datetime], news: Rows, fresh: Sequence[tuple[str, str]]) -> None:
        self._add(transaction, news)
        if fresh:
            first = transaction.query("SELECT count(*) AS n FROM check_slices WHERE check_name = ?", [self._agenda.key])[0]["n"]
            columns: dict[str, Sequence[Any]] = {
                "check_name": [self._agenda.key] * len(fresh),
                "field": [field for field, _ in fresh],
                "value": [value for _, value in fresh],
                "place": list(range(first, first + len(fresh))),
                "added_at": [transaction.now] * len(fresh),
            }
            transaction.insert("check_slices", columns)
        self._agenda.keep(transaction, slots)

    def _add(self, transaction: Transaction, news: Rows) -> None:
        model = self.check.model
        told = [{**row, "in_maintenance": self._maintenance(model, row["opened_slot"])} for row in news.get("incidents", ())]
        _append(transaction, model, {**news, "incidents": told})

    # --- what is known ---

    def show(self) -> None:
        """Put the latest verdicts on the board; nothing where there is none yet."""
        for one in self._tracks.values():
            if (standing := one.standing(self._meter.detector_name)) is not None:
                self._board.put(standing)

    def _restore(self) -> None:
        """Slices, and of each what is stored, so that a restart goes on where the last run stopped."""
        self._slices = Slices(self.check.slices)
        self._tracks, self._unlearned = {}, set()
        with self._store.read() as reader:
            for row in reader.query(
                "SELECT field, value FROM check_slices WHERE check_name = ? ORDER BY place", [self._agenda.key]
            ):
                self._slices.know(row["field"], [row["value"]])
            self._open(reader)
        self._unsure = False
        self.show()

    def _open(self, reader: Reader) -> None:
        """A track for each slice that has none."""
        for part in self._slices.all():
            if part.name in self._tracks and self._tracks[part.name].part == part:
                continue
            one = Track(self.check, part, Judge(self.check, self._alpha, self._meter.worse), kept=self._kept)
            one.restore(reader)
            self._tracks[part.name] = one
            if self._baseline.span is not None and not one.learned(reader, self._baseline.definition(part)):
                self._unlearned.add(part.name)


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
    encode: Decode | None = None,
    maintenance: Maintained = lambda model, when: None,
) -> dict[str, CheckRunner]:
    """A runner for each check, or for `only` those, by name."""
    common: dict[str, Any] = {"board": board, "clock": clock, "metrics": metrics, "kept": kept, "most_kept": most_kept}
    models = {m.name: m for m in config.models}
    common["maintenance"] = maintenance
    common["explaining"], common["arrivals"] = Explaining(clock), Arrivals()
    rates = alphas(config)
    for line in warnings(config):
        log.warning("a threshold may not be what was asked for", problem=line)
    make = maker({m.name: m.task for m in config.models}, config.checks, encode, Pool())
    return {
        c.name: CheckRunner(c, models[c.model], store, references, worker, make, alpha=rates.get(c.name), **common)
        for c in config.checks
        if only is None or c.name in only
    }


def _append(transaction: Transaction, model: str, news: Rows) -> None:
    for kind, rows in news.items():
        if rows:
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            transaction.append(kind, model, {**columns, "received_at": transaction.now})
