"""kill -9 in the middle of replaying dead letters: what is asked again begins where it ended, and nothing is there twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from monitor.deadletter.adminclient import AdminClient, AdminError
from monitor.demo.stack import Died
from monitor.demo.stop import Stop
from tests.faults.daemon import MODELS, Daemon, daemon_on
from tests.faults.stored import assert_stored_once, rows
from tests.monitor.support import prediction

pytestmark = pytest.mark.faults

LATECOMER = {"name": "latecomer", "task": "regression"}
BATCHES, RECORDS = 30, 100


def replay(daemon: Daemon) -> Iterator[dict[str, int]]:
    with AdminClient(f"http://{daemon.push}") as client:
        yield from client.steps("/v1/deadletter/replay", {"everything": True}, by="ann")


@pytest.mark.slow
def test_a_replay_killed_at_its_commits_and_repeated_stores_everything_once(tmp_path: Path) -> None:
    stop = Stop()
    with daemon_on(tmp_path, stop) as daemon:
        daemon.run()
        with httpx.Client(base_url=f"http://{daemon.push}", timeout=30) as client:
            for i in range(BATCHES):
                sent = [prediction(f"{i}-{j}", model="latecomer") for j in range(RECORDS)]
                assert client.post("/v1/predictions", json=sent).status_code == 422
        daemon.stop()
        daemon.config.write_text(yaml.safe_dump({**daemon.settings, "models": [*MODELS, LATECOMER]}))
        for name, number in (("commit.before", 2), ("commit.after", 2), ("commit.after", 3), ("commit.before", 4)):
            daemon.start(f"point:{name}:{number}")
            try:
                daemon.ready()
                list(replay(daemon))
            except (AdminError, Died):
                pass  # it died, before it was ready or under our hands; if not, the next seal ends it
            assert daemon.dies(f"it has not passed {name}") == -signal.SIGKILL
        daemon.run()
        assert sum(step["still_refused"] for step in replay(daemon)) == 0
        daemon.stop()
        stored = {row[0] for row in rows(daemon.store, "SELECT record_id FROM predictions WHERE model = 'latecomer'")}
        assert stored == {f"{i}-{j}" for i in range(BATCHES) for j in range(RECORDS)}
        assert_stored_once(daemon.store)
        settled = rows(daemon.store, "SELECT deadletter_seq, count(*) FROM resolutions GROUP BY ALL ORDER BY ALL")
        assert settled == [(seq, 1) for seq in range(1, BATCHES * RECORDS + 1)]
