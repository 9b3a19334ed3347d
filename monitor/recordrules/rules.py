"""All rules on single records, on one thread. It looks ten times a second whether there is anything new, which asks no query, and
less often where that takes it long: a tenth of a processor is enough."""

from __future__ import annotations

import threading

import duckdb

from monitor import log
from monitor.agenda import RECHECK_SECONDS
from monitor.board import Board
from monitor.clock import Clock
from monitor.config import Config
from monitor.errors import StoreError
from monitor.metrics import Metrics
from monitor.recordrules import matching
from monitor.recordrules.rule import Rule
from monitor.runner import Maintained
from monitor.store import Store

LOOK_SECONDS, MOST_SECONDS = 0.1, 0.5
REST = 9  # times as long as a look took
RETRY_SECONDS = 1.0


class RecordRules:
    """`step` looks at each rule once."""

    def __init__(
        self, config: Config, store: Store, *, board: Board, clock: Clock, metrics: Metrics,
        maintenance: Maintained = lambda model, when: None,
    ) -> None:  # fmt: skip
        """Reads what is stored of each rule and puts it on the board, so that the first scrape is right. `maintenance` says in
        which window a model is.

        Raises:
            StoreError, duckdb.Error: the store is away.
        """
        self._store = store
        self._board = board
        self._clock = clock
        self._metrics = metrics
        self._maintenance = maintenance
        self._waiting = log.Lasting(clock.monotonic)
        self._changing = threading.Lock()
        self._rules: dict[str, Rule] = {}
        self._config: Config | None = None
        self._failed_at: dict[str, float] = {}
        self._told_at = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="record-rules", daemon=True)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Take a new config.

        Raises:
            StoreError, duckdb.Error: the store is away; the rules are as they were.
        """
        with self._changing:
            fresh = {
                one.name: self._same(one.name, config)
                or Rule(one, config, self._store, clock=self._clock, metrics=self._metrics, maintenance=self._maintenance)
                for one in config.record_rules
            }
            for name in self._rules.keys() - fresh.keys():
                self._board.forget(name)
                self._metrics.forget(check=name)
            for name, rule in fresh.items():
                if (old := self._rules.get(name)) is not None and old.rule.model != rule.rule.model:
                    self._metrics.forget(model=old.rule.model, check=name)
                self._metrics.run_interval.labels(rule.rule.model, name).set(RECHECK_SECONDS)
                self._metrics.run_last_success.labels(rule.rule.model, name).set(self._clock.now().timestamp())
                self._board.put(rule.standing())
            self._rules, self._config = fresh, config

    def _same(self, name: str, config: Config) -> Rule | None:
        """The rule at work, where nothing of it has changed."""
        old, before = self._rules.get(name), self._config
        if old is None or before is None or old.rule not in config.record_rules:
            return None
        checks = [[c for c in one.checks if c.name == old.rule.check] for one in (before, config)]
        models = [[m for m in one.models if m.name == old.rule.model] for one in (before, config)]
        return old if checks[0] == checks[1] and models[0] == models[1] else None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for the rule in hand."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> int:
        """How many matches were stored. One rule's fault does not keep the others from looking."""
        count = 0
        now = self._clock.monotonic()
        with self._changing:
            tell = now - self._told_at >= RETRY_SECONDS
            self._glance()
            for name, rule in self._rules.items():
                if now - self._failed_at.get(name, float("-inf")) < RETRY_SECONDS:
                    continue
                if rule.due:
                    taken = self._look(name, rule, now)
                    if taken is None:
                        continue
                    count += taken
                if tell:
                    self._metrics.run_last_success.labels(rule.rule.model, name).set(self._clock.now().timestamp())
            if tell:
                self._told_at = now
        return count

    def _glance(self) -> None:
        """Have the rules pass by what none of them asks for, with one query for each model."""
        reading: dict[str, list[tuple[Rule, int, int]]] = {}
        for rule in self._rules.values():
            if (span := rule.reads_scores()) is not None and span[1] > span[0]:
                reading.setdefault(rule.rule.model, []).append((rule, *span))
        if not reading:
            return
        try:
            with self._store.read() as reader:
                for model, some in reading.items():
                    last = min(end for _, _, end in some)
                    seen = matching.glance(reader, model, min(cursor for _, cursor, _ in some), last)
                    for rule, _, _ in some:
                        rule.pass_by(seen, last)
        except (StoreError, duckdb.Error):
            pass  # each rule finds out for itself, and says so

    def _look(self, name: str, rule: Rule, now: float) -> int | None:
        """How many matches were stored; None where it failed."""
        try:
            taken = rule.step()
        except (StoreError, duckdb.Error) as exc:
            self._metrics.run_failures.labels(name, "store").inc()
            self._waiting.warning("a rule waits for the store", name, rule=name, error=exc)
        except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
            self._metrics.run_failures.labels(name, "error").inc()
            log.error("a rule failed and is tried again", exc, rule=name)
        else:
            self._waiting.over("a rule goes on", name, rule=name)
            self._board.put(rule.standing())
            return taken
        self._failed_at[name] = now
        return None

    def _run(self) -> None:
        wait = LOOK_SECONDS
        while not self._stop.wait(wait):
            started = self._clock.monotonic()
            try:
                self.step()
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                log.error("record rules failed and are tried again", exc)
                self._stop.wait(RETRY_SECONDS)
            wait = min(MOST_SECONDS, max(LOOK_SECONDS, REST * (self._clock.monotonic() - started)))
