"""Helper processes: what they answer, and what is known when they do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from monitor.child import BACKOFF_SECONDS, Child, Remote
from monitor.errors import ChildAway, ChildFailed
from monitor.metrics import Metrics
from tests.monitor.support import FakeClock, sample, wait_for


@pytest.fixture
def start(clock: FakeClock, metrics: Metrics) -> Iterator[Callable[..., Child]]:
    started: list[Child] = []

    def make(target: str = "clerk", setup: object = None) -> Child:
        started.append(Child("clerk", f"tests.monitor.children:{target}", setup, nice=5, clock=clock, metrics=metrics))
        return started[-1]

    yield make
    for child in started:
        child.stop()


@pytest.fixture
def child(start: Callable[..., Child]) -> Child:
    return start(setup={"a": 1})


def gone(pid: int) -> bool:
    """Ended; nobody may have collected its exit code yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def restarts(metrics: Metrics) -> float:
    return sample(metrics, "modelwatch_child_restarts_total", child="clerk") or 0


def again(child: Child) -> object:
    """Its answer, once it is back."""

    def ask() -> object:
        try:
            return child.call("back", 30)
        except ChildAway:
            return None

    return wait_for(ask, "the helper to be back")


def test_a_helper_answers_with_what_it_was_set_up_for(child: Child, metrics: Metrics) -> None:
    assert child.call("setup", 30) == {"a": 1}
    assert child.call("x" * 5_000_000, 30) == "x" * 5_000_000
    assert child.call("who", 30) == (child.pid, os.nice(0) + 5), "at the priority asked for"
    assert sample(metrics, "modelwatch_child_up", child="clerk") == 1
    assert restarts(metrics) == 0


def test_what_raises_in_a_helper_is_told_with_its_traceback_and_does_not_kill_it(child: Child, metrics: Metrics) -> None:
    with pytest.raises(Remote, match=r"(?s)Traceback.*LookupError: nothing of that name"):
        child.call("raise", 30)
    with pytest.raises(Remote, match="cannot pickle"):
        child.call("lambda", 30)
    assert child.call("still here", 30) == "still here"
    assert restarts(metrics) == 0


def test_a_helper_that_dies_is_replaced(child: Child, metrics: Metrics) -> None:
    first = child.pid
    with pytest.raises(ChildFailed, match="died while it was asked") as caught:
        child.call("die", 30)
    assert not isinstance(caught.value, ChildAway)
    assert again(child) == "back"
    assert child.pid != first
    assert (restarts(metrics), sample(metrics, "modelwatch_child_up", child="clerk")) == (1, 1)


def test_whoever_asks_while_it_is_being_replaced_is_told_so(child: Child) -> None:
    with pytest.raises(ChildFailed, match="died"):
        child.call("die", 30)
    again(child)  # the first time there is no pause
    with pytest.raises(ChildFailed, match="died"):
        child.call("die", 30)
    with pytest.raises(ChildAway, match="being restarted"):
        child.call("me?", 30)


def test_a_helper_that_does_not_answer_in_time_is_killed(child: Child, metrics: Metrics) -> None:
    pid = child.pid
    assert pid is not None
    child.call("warm", 30)
    started = time.monotonic()
    with pytest.raises(ChildFailed, match=r"no answer within 0\.2 s"):
        child.call("hang", 0.2)
    assert time.monotonic() - started < 10
    wait_for(lambda: gone(pid), "the process to end")
    assert again(child) == "back", "and not the answer to what was asked before"
    assert restarts(metrics) == 1


def test_a_helper_that_was_stopped_is_killed_though_it_does_not_read_what_it_is_asked(child: Child) -> None:
    child.call("warm", 30)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(ChildFailed, match=r"no answer within 0\.2 s"):
        child.call("x" * 5_000_000, 0.2)
    assert again(child) == "back"


def test_a_helper_that_keeps_dying_is_restarted_ever_more_slowly(start: Callable[..., Child], metrics: Metrics) -> None:
    started = time.monotonic()
    start("stillborn")
    wait_for(lambda: restarts(metrics) >= 3, "three restarts")
    assert time.monotonic() - started > sum(BACKOFF_SECONDS[:3])


def test_a_death_after_a_long_time_counts_as_the_first(child: Child, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    for move in (0, 0, 61):
        clock.move(move)
        with pytest.raises(ChildFailed):
            child.call("die", 30)
        again(child)
    pauses = [r.getMessage().partition("in_seconds=")[2] for r in caplog.records if "restarting it" in r.getMessage()]
    assert pauses == ["0.0", "0.5", "0.0"]


def test_one_thread_at_a_time_asks_and_gets_its_own_answer(child: Child) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: child.call(n, 30), range(200))) == list(range(200))


def test_a_stopped_helper_is_gone_and_says_so(start: Callable[..., Child], metrics: Metrics) -> None:
    child = start()
    pid = child.pid
    assert pid is not None
    child.stop()
    assert gone(pid)
    assert (restarts(metrics), sample(metrics, "modelwatch_child_up", child="clerk")) == (0, 0)
    with pytest.raises(ChildAway):
        child.call("anybody?", 30)
    child.stop()


def test_stopping_does_not_wait_for_an_answer(start: Callable[..., Child]) -> None:
    child = start()
    child.call("warm", 30)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(child.call, "hang", 600)
        wait_for(child._asking.locked, "the question to be asked")
        child.stop()
        assert isinstance(asked.exception(10), ChildFailed)


OWNER = """
import os, signal, sys
from prometheus_client import CollectorRegistry
from monitor.child import Child
from monitor.clock import SystemClock
from monitor.metrics import Metrics
child = Child("x", "tests.monitor.children:clerk", None, nice=0, clock=SystemClock(), metrics=Metrics(CollectorRegistry()))
child.call("warm", 30)
print(child.pid, flush=True)
if sys.argv[1] == "busy":
    try:
        child.call("hang", 0.01)
    except Exception:
        pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_helper_ends_when_its_owner_is_killed() -> None:
    found = subprocess.run([sys.executable, "-c", OWNER, "idle"], capture_output=True, text=True, timeout=60)
    assert found.returncode < 0, found.stderr
    wait_for(lambda: gone(int(found.stdout)), "the helper to end")


def test_a_helper_leaves_signals_to_its_owner(child: Child) -> None:
    child.call("warm", 30)
    assert child.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(child.pid, number)
    assert child.call("still here", 30) == "still here"
