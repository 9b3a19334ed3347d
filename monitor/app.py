"""Builds everything in start order, takes it down in the reverse, and applies a new config in between."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

import monitor
from monitor import configfile, external, gpu, intake, log, rowchecks, runner, thresholds, traffic, views
from monitor.audit import Audit
from monitor.auth import Tokens
from monitor.board import Board
from monitor.budgets.budgets import Budgets
from monitor.cases.keeper import CaseKeeper
from monitor.child import Child
from monitor.clock import Clock, SystemClock
from monitor.cloudevents.pairing import Pairs
from monitor.compaction import Compactor
from monitor.config import Config, SourceConfig
from monitor.deadletter.admin import Admin
from monitor.deadletter.replay import Replayer
from monitor.embeddings import Encoding
from monitor.errors import ConfigError, StoreError
from monitor.evaluations.exporter import Evaluations
from monitor.exposition import Exposition
from monitor.grafana.attendant import Attendant
from monitor.inbox import Inbox
from monitor.judging import process as judge
from monitor.judging.judging import Judging
from monitor.maintenance.admin import MaintenanceAdmin
from monitor.maintenance.book import Book
from monitor.metrics import Metrics
from monitor.otlp.grpc import OtlpGrpcServer
from monitor.otlp.http import OtlpHttpServer
from monitor.outboxadmin import OutboxAdmin
from monitor.quarantine import Quarantine
from monitor.receiving import Budget
from monitor.recordrules.rules import RecordRules
from monitor.references import References
from monitor.report import Reports
from monitor.scheduler import Scheduler
from monitor.scoring import Scoring
from monitor.segments import Sealer
from monitor.server import PushServer
from monitor.setback import Setback
from monitor.settling.settler import Settling
from monitor.sources import registry
from monitor.sources.contract import Source
from monitor.store import Store
from monitor.web.look import Looks
from monitor.web.pages import Pages
from monitor.webhooks.webhooks import Webhooks

FIXED = ("store", "server", "otlp", "metrics", "encoder", "judge", "export")  # what only a restart can change
MAINTENANCE_SECONDS = 1.0


class App:
    """The daemon, from `start` to `stop`. `reload` may be called by any thread in between."""

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        """
        Raises:
            ConfigError: the file cannot be used.
        """
        self._path = path
        self._clock = clock or SystemClock()
        self.config = configfile.load(path)
        self._changing = threading.Lock()
        self._ready = False
        self._stop = threading.Event()
        self._closers: list[Callable[[], None]] = []
        self._children: list[Child] = []

    def start(self) -> None:
        """
        Raises:
            StoreError: the store is locked, too new or broken.
            OSError: an address cannot be bound.
        """
        try:
            self._build()
        except BaseException:
            self.stop()
            raise

    def _build(self) -> None:
        config, clock = self.config, self._clock
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.metrics = metrics = Metrics(
            self.registry, max_series=config.metrics.max_series, score_edges=rowchecks.score_edges(config)
        )
        metrics.only(rowchecks.known(config))
        self.board = Board(max_series=config.metrics.max_series, top_features=config.metrics.top_features, beyond=metrics.beyond)
        metrics.build_info.labels(monitor.__version__, platform.python_version(), duckdb.__version__).set(1)
        metrics.clock.set_function(lambda: clock.now().timestamp())
        metrics.ready.set_function(lambda: 0 if self.not_ready() else 1)
        metrics.reload_ok.set(1)  # a long start is no config that was refused
        # The helpers first: a process should not be forked from one that has DuckDB's threads.
        self._scorer = self._child("scorer", config.encoder.model_dump(mode="json"), nice=config.scoring.nice)
        self._encode = Encoding(self._scorer)
        self._worker = self._child("worker", {}, nice=config.scoring.nice)
        writer = self._child("views", None, nice=views.NICE, target=views.TARGET)
        judges = None
        if config.judge is not None:
            judges = self._child("judge", judge.setup(config.judge), nice=config.scoring.nice, target=judge.TARGET)
        names = [f"intake-{n}" for n in range(1, intake.processes(config.server.intake_processes) + 1)]
        processes = [self._intake_process(name) for name in names]
        self.store = store = Store(
            config.store,
            clock=clock,
            metrics=metrics,
            queue_records=config.server.queue_records,
            queue_bytes=config.server.queue_bytes,
        )
        self._closers.append(store.close)
        self._quarantine = Quarantine(store, clock=clock, metrics=metrics)
        self._inbox = self._quarantine.reading(
            lambda: Inbox(
                config,
                store,
                clock=clock,
                metrics=metrics,
                processes=processes,
                spare=lambda: self._intake_process("intake-spare"),
            )
        )
        self._references = References(store.root)
        self._book = self._quarantine.reading(lambda: Book(store, clock=clock))
        self._book.configure(config.maintenance)
        self._runners = self._quarantine.reading(
            lambda: runner.build(
                config,
                store,
                self._references,
                self._worker,
                board=self.board,
                clock=clock,
                metrics=metrics,
                encode=self._encode,
                maintenance=self._book.maintenance,
            )
        )
        self._scoring = Scoring(config, store, self._scorer, clock=clock, metrics=metrics)
        self._judging = Judging(config, store, judges, self._encode, clock=clock, metrics=metrics) if judges else None
        self._budgets = Budgets(config.budgets, store, clock=clock)
        if config.export.otlp is not None:
            self._evaluations = Evaluations(config.export.otlp, store, clock=clock, metrics=metrics)
            self._evaluations.begin()
            self._begin(self._evaluations.start, self._evaluations.stop)
        self._settling = Settling(store, self._inbox.passages, clock=clock, metrics=metrics)
        self._scheduler = Scheduler(clock=clock, metrics=metrics)
        self._scheduler.configure(self._runners)
        self._rules = self._quarantine.reading(
            lambda: RecordRules(config, store, board=self.board, clock=clock, metrics=metrics, maintenance=self._book.maintenance)
        )
        self._webhooks = Webhooks(store, clock=clock, metrics=metrics)
        self._quarantine.reading(lambda: self._webhooks.configure(config))
        self._cases = CaseKeeper(config, store, self._book, clock=clock, metrics=metrics)
        self._quarantine.reading(self._cases.restore)
        self.registry.register(self._cases.board)
        if (nvml := gpu.driver()) is not None:
            gpus = gpu.Gpus(nvml, lambda: {os.getpid(), *(c.pid for c in self._children if c.pid is not None)}, clock=clock)
            self.registry.register(gpus)
            self._begin(gpus.start, gpus.stop)
        # Only now, with the verdicts and cases back from the store, may a scrape be answered.
        self.registry.register(self.board)
        self.registry.register(self._budgets)
        self.exposition = Exposition(
            config.metrics,
            self.registry,
            ready=self.not_ready,
            reload=self.reload,
            note=self._quarantine.note,
            broken=lambda: store.broken,
        )
        self._begin(self.exposition.start, self.exposition.stop)
        self._grafana: Attendant | None = None
        self._closers.append(lambda: self._run_grafana(None))
        self._run_grafana(config)
        self._audit = Audit(store, clock=clock, metrics=metrics, writer=writer)
        compactor = Compactor(
            store,
            clock=clock,
            metrics=metrics,
            after_seconds=config.store.compact_after_seconds,
            max_bytes=config.store.compact_bytes,
            shown=lambda: self._audit.shown_at,
            damaged=self._quarantine.again,
        )
        self._maintenance = threading.Thread(target=self._maintain, name="maintenance", daemon=True)
        self._begin(self._maintenance.start, self._end_maintenance)
        self._begin(compactor.start, compactor.stop)
        self._begin(self._cases.start, self._cases.stop)
        self._begin(self._settling.start, self._settling.stop)
        self._begin(self._budgets.start, self._budgets.stop)
        self._begin(self._rules.start, self._rules.stop)
        self._begin(self._webhooks.start, self._webhooks.stop)
        self._begin(self._scoring.start, self._scoring.stop)
        if self._judging is not None and judges is not None:
            # It ends before its process does, as it answers at once: what was paid so far is booked.
            self._begin(self._judging.start, self._judging.stop)
        self._closers.append(self._scorer.stop)  # a batch in hand is left: it is scored after the restart
        self._closers.append(self._scoring.end)
        self._begin(self._scheduler.start, self._scheduler.stop)
        self._closers.append(self._worker.stop)
        self._sources: dict[str, Source] = {}
        self._closers.append(lambda: self._run_sources(()))
        self._run_sources(config.sources)
        self._receive()
        metrics.reload_ok.set(1)
        metrics.reload_time.set(clock.now().timestamp())
        self._ready = True
        otlp = {one.transport: one.address for one in self.receivers if one is not self.push}
        log.info("ready", api=self.push.address, metrics=self.exposition.address, store=store.root, **otlp)

    def _receive(self) -> None:
        config, inbox, clock, metrics = self.config, self._inbox, self._clock, self.metrics
        tokens, budget = Tokens(config.server.tokens_file), Budget(config.server.bodies_bytes)
        self._pairs = pairs = Pairs(config, inbox, self.store, clock=clock)
        admin = Admin(Replayer(self.store, inbox, metrics=metrics, pairs=pairs))
        self._begin(pairs.start, pairs.stop)
        reports = Reports(self.store, self._references, self._worker, config=lambda: self.config, runners=lambda: self._runners)
        self.push = PushServer(
            config.server,
            inbox,
            tokens=tokens,
            budget=budget,
            clock=clock,
            metrics=metrics,
            admin=admin,
            pairs=pairs,
            reports=reports,
            outbox=OutboxAdmin(self.store, clock=clock, metrics=metrics),
            maintenance=MaintenanceAdmin(self._book, clock=clock, models=lambda: [m.name for m in self.config.models]),
            web=Pages(Looks(self.store, url=lambda: external.base(self.config))),
        )
        self.receivers: list[PushServer | OtlpHttpServer | OtlpGrpcServer] = [self.push]
        if (http := config.otlp.http) is not None:
            self.receivers.append(OtlpHttpServer(http, config, inbox, tokens=tokens, budget=budget, clock=clock, metrics=metrics))
        if (grpc := config.otlp.grpc) is not None:
            self.receivers.append(OtlpGrpcServer(grpc, config, inbox, tokens=tokens, budget=budget, clock=clock, metrics=metrics))
        for receiver in self.receivers:
            self._begin(receiver.start, receiver.stop)
        self._closers.append(self._refuse)  # all of them, before the first is waited for

    def _refuse(self) -> None:
        for receiver in self.receivers:
            receiver.refuse()

    def stop(self) -> None:
        """Refuse what is new, commit what is in hand, let go of everything. Safe to call twice."""
        self._ready = False
        with contextlib.ExitStack() as stack:  # the last first; one that fails does not keep the others from closing
            for close in self._closers:
                stack.callback(close)
            self._closers.clear()

    def not_ready(self) -> str | None:
        """Why records are not taken, or None."""
        if not self._ready:
            return "starting or stopping"
        return self.store.unavailable

    def reload(self) -> str | None:
        """Take the config file anew; on any problem keep the old one and return what is wrong."""
        with self._changing:
            if not self._ready:
                return "starting or stopping; reload again"
            try:
                config = configfile.load(self._path)
                fixed = [s for s in FIXED if getattr(config, s) != getattr(self.config, s)]
                if fixed:
                    places = ", ".join(fixed)
                    raise ConfigError([f"{self._path}: {places}: changed; only a restart can change it, the old config stays"])
                tokens = Tokens(config.server.tokens_file)
                self._apply(config)
            except (ConfigError, StoreError, duckdb.Error) as exc:
                self.metrics.reload_ok.set(0)
                log.error("reload refused; the old config stays", problems=exc)
                return str(exc)
            except Exception as exc:  # a fault of ours or of a plug-in: no reason for the daemon to end
                self.metrics.reload_ok.set(0)
                log.error("reload failed; correct the config and reload again", exc)
                return f"{type(exc).__name__}: {exc}; checks that had changed are stopped until the next reload"
            for receiver in self.receivers:
                receiver.tokens = tokens
            self.metrics.reload_ok.set(1)
            self.metrics.reload_time.set(self._clock.now().timestamp())
            log.info("reloaded", checks=len(config.checks), models=len(config.models))
            return None

    def _apply(self, config: Config) -> None:
        """
        Raises:
            StoreError, duckdb.Error: the store is away. Reload again: checks that had changed are stopped until then.
        """
        old = self.config
        models = {m.name: m for m in config.models}
        same = {c.name for c in config.checks if c in old.checks and models[c.model] in old.models}
        same -= {c.name for c in config.checks if not traffic.alike(c, config.checks, old.checks)}
        # What one check takes of a budget of false alarms, the others of its model have not.
        rates, before = thresholds.alphas(config), thresholds.alphas(old)
        same -= {name for name in same if rates.get(name) != before.get(name)}
        kept = {name: one for name, one in self._runners.items() if name in same and not one.retired}
        self.metrics.only(rowchecks.known(old) | rowchecks.known(config))
        self.metrics.hold_scores_to(rowchecks.score_edges(config))
        self._scheduler.configure(kept)  # from here on nobody wakes the others
        self._book.configure(config.maintenance)
        for name, one in self._runners.items():
            if name not in kept:
                one.retire()
                self.board.forget(name)
                self.metrics.forget(check=name)
        self._runners = kept | runner.build(
            config,
            self.store,
            self._references,
            self._worker,
            board=self.board,
            clock=self._clock,
            metrics=self.metrics,
            only={c.name for c in config.checks} - set(kept),
            encode=self._encode,
            maintenance=self._book.maintenance,
        )
        self._scheduler.configure(self._runners)
        self._inbox.configure(config)
        self._pairs.configure(config)
        self._cases.configure(config)
        self._scoring.configure(config)
        self._rules.configure(config)
        self._webhooks.configure(config)
        self._budgets.configure(config.budgets)
        if self._judging is not None:
            self._judging.configure(config)
        self.metrics.only(rowchecks.known(config))  # what was in hand of the others has nowhere to go from here on
        self._run_sources(config.sources)
        self._run_grafana(config)
        self.config = config

    def _run_grafana(self, config: Config | None) -> None:
        """Anew with each config: links, rules and the token may be others."""
        if self._grafana is not None:
            self._grafana.stop()
            self._grafana = None
        if config is not None and config.grafana is not None:
            self._grafana = Attendant(config, self.store, clock=self._clock, metrics=self.metrics)
            self._grafana.start()

    def _run_sources(self, sources: tuple[SourceConfig, ...]) -> None:
        wanted = {s.name: s for s in sources}
        for name, source in list(self._sources.items()):
            if wanted.get(name) != source.config:
                source.stop()
                del self._sources[name]
        for name, one in wanted.items():
            if name not in self._sources:
                source = registry.load(one.type)(one, self._inbox, self.store, clock=self._clock, metrics=self.metrics)
                source.start()
                self._sources[name] = source

    def _maintain(self) -> None:
        """Seals, and keeps the auditors' views fresh."""
        store, config = self.store, self.config.store
        sealer = Sealer(
            store,
            clock=self._clock,
            metrics=self.metrics,
            seal_seconds=config.seal_seconds,
            seal_rows=config.seal_rows,
        )
        setback = Setback(store, clock=self._clock)
        refreshed, took = float("-inf"), 0.0
        failing = log.Lasting(self._clock.monotonic)
        while True:
            stopping = self._stop.wait(MAINTENANCE_SECONDS)
            try:
                if not stopping:
                    setback.look(self.config.scoring.settle_seconds)
                    self._quarantine.step()
                sealed = 0 if stopping else sealer.seal_due()
            except Exception as exc:  # whatever it is: better seen to fail again and again than once and then silence
                self.metrics.seal_failures.inc()
                failing.warning("sealing failed and will be tried again", "seal", error=exc)
                sealed = 0
            else:
                if sealed:
                    failing.over("sealing goes on", "seal")
            # So long ahead as the last one took: the old views stand until the new ones are written, and grow older meanwhile.
            age = config.tail_seconds - min(took, config.tail_seconds / 2)
            if sealed or stopping or self._clock.monotonic() - refreshed >= age:
                refreshed = self._clock.monotonic()
                try:
                    if self._audit.refresh():
                        took = self._clock.monotonic() - refreshed
                        store.trim()
                    failing.over("audit.duckdb is up to date again", "audit")
                except Exception as exc:  # likewise
                    self.metrics.audit_failures.inc()
                    failing.warning("audit.duckdb could not be brought up to date", "audit", error=exc)
                    if isinstance(exc, duckdb.Error):
                        self._quarantine.again()  # it reads something of every segment
            if stopping:
                return

    def _end_maintenance(self) -> None:
        """Once nothing is stored any more, so that the auditors' views show all that was."""
        self._stop.set()
        self._maintenance.join()

    def _child(self, name: str, setup: object, *, nice: int, target: str | None = None) -> Child:
        child = Child(name, target or f"monitor.helpers:{name}", setup, nice=nice, clock=self._clock, metrics=self.metrics)
        self._closers.append(child.stop)
        self._children.append(child)
        return child

    def _intake_process(self, name: str) -> Child:
        return self._child(name, True, nice=0, target=intake.TARGET)

    def _begin(self, start: Callable[[], None], stop: Callable[[], None]) -> None:
        start()
        self._closers.append(stop)
