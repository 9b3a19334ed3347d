"""Grafana in step with us: looked at when the daemon starts and every so often, on a thread that nobody waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable

from monitor import log
from monitor.clock import Clock
from monitor.errors import ModelwatchError
from monitor.grafana.client import REASONS, Grafana
from monitor.grafana.sync import sync
from monitor.grafana.wanted import Wanted
from monitor.metrics import Metrics

AGAIN_SECONDS = 60.0  # after a failure
MOST_SECONDS = 3600.0  # whatever Grafana says
STOP_SECONDS = 2.0


class Keeper:
    """`step` is one round; `start` and `stop` are its thread."""

    def __init__(
        self,
        grafana: Grafana,
        wanted: Callable[[], Wanted],
        *,
        every: float,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._grafana = grafana
        self._wanted = wanted
        self._every = every
        self._clock = clock
        self._metrics = metrics
        self._stop = threading.Event()
        self._trouble = log.Lasting(clock.monotonic)
        self._asked_for = 0.0  # seconds to wait, by the last round
        self._told: set[tuple[str, str]] = set()  # what was left alone, and has been said once
        for reason in (*REASONS, "error"):
            metrics.grafana_failures.labels(reason).inc(0)
        self._thread = threading.Thread(target=self._run, name="grafana", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits a moment for the answer in hand. Nothing is lost with it: the next start looks again."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def step(self) -> bool:
        """Bring it in step; whether that is so now, but for what somebody else has charge of."""
        self._asked_for = 0.0
        kept, failed = dict.fromkeys(("edited", "provisioned", "left_out"), 0), False
        try:
            for step in sync(self._grafana, self._wanted()):
                if self._stop.is_set():
                    return False
                if step.state == "kept":
                    kept[step.reason] += 1
                    self._tell(step.kind, step.name, step.told)
                elif step.state == "failed":
                    failed = True
                    self._asked_for = max(self._asked_for, step.seconds or 0.0)
                    self._metrics.grafana_failures.labels(step.reason).inc()
                    self._trouble.warning("Grafana is not in step", thing=f"{step.kind} {step.name}", error=step.told)
                elif step.state != "same":
                    log.info("Grafana was brought in step", thing=f"{step.kind} {step.name}", how=step.state)
        except ModelwatchError as exc:
            failed = True
            self._metrics.grafana_failures.labels("error").inc()
            self._trouble.warning("Grafana is not in step", error=exc)
        if not failed:
            for reason, count in kept.items():
                self._metrics.grafana_kept.labels(reason).set(count)
            self._metrics.grafana_success.set(self._clock.now().timestamp())
            self._trouble.over("Grafana is in step again")
        return not failed

    def _tell(self, kind: str, name: str, told: str) -> None:
        if (kind, name) not in self._told:
            self._told.add((kind, name))
            log.warning("something in Grafana is left as it is", thing=f"{kind} {name}", why=told)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                good = self.step()
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                self._metrics.grafana_failures.labels("error").inc()
                log.error("the round through Grafana failed and is tried again", exc)
                good = False
            self._stop.wait(self.wait(good))

    def wait(self, good: bool) -> float:
        """Seconds to the next round, after one that was good or not."""
        usual = self._every if good else min(AGAIN_SECONDS, self._every)
        return max(usual, min(self._asked_for, MOST_SECONDS))
