"""What wakes the checks, and what is counted of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from monitor.errors import ChildFailed, StoreUnavailable
from monitor.metrics import Metrics
from monitor.scheduler import Scheduler
from tests.monitor.support import NOON, FakeClock, sample, wait_for


class Check:
    """Stands for a runner: counts its wakings and does one thing."""

    def __init__(self, name: str, do: Callable[[], int] = lambda: 0) -> None:
        self.check = SimpleNamespace(name=name, model="houses")
        self._do = do
        self.woken = 0

    def run(self) -> int:
        self.woken += 1
        return self._do()


def raising(error: Exception) -> Callable[[], int]:
    def do() -> int:
        raise error

    return do


@pytest.fixture
def scheduler(clock: FakeClock, metrics: Metrics) -> Iterator[Scheduler]:
    one = Scheduler(clock=clock, metrics=metrics)
    yield one
    one.stop()


def configure(scheduler: Scheduler, *checks: Check) -> None:
    runners: Any = {c.check.name: c for c in checks}
    scheduler.configure(runners)


def success(metrics: Metrics, name: str) -> float | None:
    return sample(metrics, "modelwatch_scheduler_last_success_timestamp_seconds", model="houses", check=name)


def test_every_check_is_woken_again_and_again_beside_one_that_hangs_and_one_that_raises(
    scheduler: Scheduler, metrics: Metrics, clock: FakeClock
) -> None:
    go = threading.Event()
    hanging = Check("hanging", lambda: int(go.wait(30)))
    broken, fine = Check("broken", raising(ZeroDivisionError())), Check("fine", lambda: 2)
    configure(scheduler, hanging, broken, fine)
    clock.move(5)
    scheduler.start()
    try:
        wait_for(lambda: fine.woken >= 2 and broken.woken >= 2, "two wakings")
        missed = {"check": "hanging", "reason": "max_instances"}
        wait_for(lambda: sample(metrics, "modelwatch_scheduler_runs_missed_total", **missed), "a waking that was skipped")
    finally:
        go.set()
    assert hanging.woken == 1
    assert (sample(metrics, "modelwatch_scheduler_runs_total", check="fine") or 0) >= 2
    assert (sample(metrics, "modelwatch_scheduler_run_failures_total", check="broken", reason="error") or 0) >= 2
    assert (success(metrics, "fine"), success(metrics, "broken")) == (clock.now().timestamp(), NOON.timestamp())
    failed = {"model": "houses", "check": "fine", "outcome": "failed"}
    assert sample(metrics, "modelwatch_verdicts_total", **failed) == 0, "so that the first is an increase"


@pytest.mark.parametrize(
    ("error", "reason"), ((StoreUnavailable("away"), "store"), (ChildFailed("worker: died"), "worker")), ids=("store", "worker")
)
def test_a_check_that_had_to_wait_says_for_what(
    scheduler: Scheduler, metrics: Metrics, clock: FakeClock, error: Exception, reason: str
) -> None:
    configure(scheduler, Check("waiting", raising(error)))
    clock.move(60)
    scheduler._wake("waiting")
    assert sample(metrics, "modelwatch_scheduler_run_failures_total", check="waiting", reason=reason) == 1
    assert success(metrics, "waiting") == NOON.timestamp()


def test_a_waking_that_found_nothing_to_do_is_a_success_and_no_run(
    scheduler: Scheduler, metrics: Metrics, clock: FakeClock
) -> None:
    configure(scheduler, Check("idle"))
    clock.move(60)
    scheduler._wake("idle")
    assert sample(metrics, "modelwatch_scheduler_runs_total", check="idle") == 0
    assert success(metrics, "idle") == clock.now().timestamp()


def test_a_check_that_is_gone_is_woken_no_more_and_leaves_no_series(scheduler: Scheduler, metrics: Metrics) -> None:
    stays = Check("stays")

    def removed() -> int:  # while it runs
        configure(scheduler, stays)
        metrics.forget(check="goes")
        return 1

    goes = Check("goes", removed)
    configure(scheduler, stays, goes)
    scheduler._wake("goes")
    scheduler._wake("goes")
    assert goes.woken == 1
    assert not [s for f in metrics.registry.collect() for s in f.samples if s.labels.get("check") == "goes"]
    assert success(metrics, "stays") == NOON.timestamp()


def test_configuring_again_does_not_make_a_stuck_check_look_well(
    scheduler: Scheduler, metrics: Metrics, clock: FakeClock
) -> None:
    stuck = Check("stuck", raising(StoreUnavailable("away")))
    configure(scheduler, stuck)
    clock.move(600)
    configure(scheduler, stuck, Check("new"))
    assert (success(metrics, "stuck"), success(metrics, "new")) == (NOON.timestamp(), clock.now().timestamp())
