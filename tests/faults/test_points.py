"""kill -9 at every named point, one after the other on one store, while clients send: nothing is lost, nothing is there twice."""

from __future__ import annotations

import random
import re
import signal
from pathlib import Path

import pytest

from monitor import faultpoints
from monitor.demo.stop import Stop
from tests.faults import traffic
from tests.faults.daemon import daemon_on
from tests.faults.soak import compared, everybody
from tests.faults.spans import SpanPump
from tests.faults.stored import assert_stored_once, ids, unsettled
from tests.faults.traffic import mixed, pumps

pytestmark = pytest.mark.faults

PACKAGE = Path(faultpoints.__file__).parent
SCORED_SECONDS = 60.0
MIB = 2**20
ELSEWHERE = {
    "compact.": "test_compaction.py",
    "evaluations.": "test_evaluations.py",
    "quarantine.": "test_quarantine.py",
    "outbox.": "test_outbox.py",
    "rule.": "test_recordrules.py",
}
"""Points that no daemon passes within a minute, and the tests in tests/monitor that have a store die at each of them."""


def test_every_point_that_is_passed_is_listed_and_every_listed_one_is_passed_once_in_the_source() -> None:
    found = [name for file in PACKAGE.rglob("*.py") for name in re.findall(r"\bpoint\(\"([a-z_.]+)\"\)", file.read_text())]
    found.remove("seal.renamed")  # the example in faultpoints itself
    assert sorted(found) == sorted(faultpoints.POINTS)


@pytest.mark.slow
def test_killed_at_every_point_it_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    stop = Stop()
    chance = random.Random(7)
    with daemon_on(tmp_path, stop) as daemon, pumps(daemon.push, [mixed(1), mixed(2, first=10**6)], stop) as clients:
        exporter = SpanPump(daemon.otlp, 1, 1, stop, pace_seconds=0.05)
        exporter.start()
        for name in (name for name in faultpoints.POINTS if not name.startswith(tuple(ELSEWHERE))):
            # Not always the first time: a start passes some points before anything has come.
            daemon.start(f"point:{name}:{chance.randint(1, 3)}")
            assert daemon.dies(f"it has not passed {name}") == -signal.SIGKILL, name
        daemon.run()
        for client in everybody(clients, [exporter]):
            client.finish()
        stop.wait_for("all calls and scores", lambda: not unsettled(daemon.store, exporter.traces()), SCORED_SECONDS)
        daemon.stop()
        assert compared(daemon.store, clients, [exporter]) == []
        assert sum(client.answers["duplicates"] for client in clients), "no batch was committed and its answer lost"
        left = [p for p in daemon.store.rglob("*.tmp") if "tail" not in p.parts]  # which readers may still be at, for a while
        assert not left, "what a kill left behind is removed at the next start"


@pytest.mark.slow
def test_killed_in_the_middle_of_a_checkpoint_it_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    """The kernel ends it within a write to the hot file, which only a checkpoint makes longer."""
    stop, text = Stop(), "x" * 500
    settings = {"checkpoint_bytes": MIB, "seal_seconds": "1h"}
    with (
        daemon_on(tmp_path, stop, store=settings) as daemon,
        pumps(daemon.push, [mixed(1, text=text), mixed(2, first=10**6, text=text)], stop) as clients,
    ):
        for size in (3 * MIB + 100, 4 * MIB + 200_000):
            daemon.start(f"file:{size}")
            assert daemon.dies(f"no file has grown to {size} bytes") == -signal.SIGXFSZ
            assert size - MIB < (daemon.store / "hot.duckdb").stat().st_size <= size
        daemon.run()
        for client in clients:
            client.finish()
        sent = traffic.acknowledged(clients)
        daemon.stop()
        assert ids(daemon.store) == sent
        assert_stored_once(daemon.store)
