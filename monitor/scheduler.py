"""Wakes each check every second. APScheduler only wakes: what is due is decided by the runner, from the store."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from detectors.contract import Outcome
from monitor import log
from monitor.agenda import RECHECK_SECONDS
from monitor.clock import Clock
from monitor.errors import ChildFailed, StoreError
from monitor.metrics import Metrics
from monitor.runner import CheckRunner

WAKE_SECONDS = 1
THREADS = 4  # much of a run is waiting for its commit, and those that wait together are committed together


class Scheduler:
    """One job per check, added, changed and removed on reload."""

    def __init__(self, *, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._waiting = log.Lasting(clock.monotonic)
        self._runners: dict[str, CheckRunner] = {}
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            executors={"default": ThreadPoolExecutor(THREADS)},
            # The default grace of one second drops late runs in silence.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._scheduler.add_listener(self._missed, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)
        self._scheduler.add_listener(self._failed, EVENT_JOB_ERROR)

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Waits for the runs in hand."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def configure(self, runners: Mapping[str, CheckRunner]) -> None:
        for name in set(self._runners) - set(runners):
            self._scheduler.remove_job(name)
        fresh = {name: runner for name, runner in runners.items() if self._runners.get(name) is not runner}
        self._runners = dict(runners)
        for name, runner in fresh.items():
            labels = (runner.check.model, name)
            self._metrics.run_interval.labels(*labels).set(RECHECK_SECONDS)
            self._metrics.run_last_success.labels(*labels).set(self._clock.now().timestamp())
            self._metrics.runs.labels(name).inc(0)
            self._metrics.verdicts.labels(*labels, Outcome.FAILED.value).inc(0)  # so that the first is an increase
            self._scheduler.add_job(
                self._wake, IntervalTrigger(seconds=WAKE_SECONDS), args=[name], id=name, replace_existing=True
            )

    def _wake(self, name: str) -> None:
        runner = self._runners.get(name)
        if runner is None:
            return
        started = self._clock.monotonic()
        try:
            slots = runner.run()
        except (StoreError, duckdb.Error) as exc:
            self._metrics.run_failures.labels(name, "store").inc()
            self._waiting.warning("a check waits for the store", name, check=name, error=exc)
            return
        except ChildFailed as exc:
            self._metrics.run_failures.labels(name, "worker").inc()
            self._waiting.warning("a check waits for the worker", name, check=name, error=exc)
            return
        self._waiting.over("a check runs again", name, check=name)
        if self._runners.get(name) is not runner:
            return  # a reload has taken the check away meanwhile, and its series with it
        self._metrics.run_last_success.labels(runner.check.model, name).set(self._clock.now().timestamp())
        if slots:
            self._metrics.runs.labels(name).inc()
            self._metrics.run_duration.observe(self._clock.monotonic() - started)

    def _missed(self, event: JobExecutionEvent) -> None:
        # A run longer than the wake interval is no fault: the next waking finds what it left.
        reason = "max_instances" if event.code == EVENT_JOB_MAX_INSTANCES else "missed"
        self._metrics.runs_missed.labels(event.job_id, reason).inc()

    def _failed(self, event: JobExecutionEvent) -> None:
        self._metrics.run_failures.labels(event.job_id, "error").inc()
        log.error("a check failed", event.exception, check=event.job_id)
