"""kill -9 while sources fetch: every row, line and message is stored once, and none was even handed over twice."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.audit import FILE
from monitor.demo.stop import Stop
from tests.faults.daemon import daemon_on
from tests.faults.stored import assert_stored_once, rows
from tests.monitor.kafkamock import MockKafka
from tests.monitor.support import prediction

KILLS = 6
ROWS = 6_000  # of each source
SETTLED_SECONDS = 90.0

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    cluster = MockKafka()
    yield cluster
    cluster.close()


def record(prefix: str, i: int) -> str:
    return json.dumps(prediction(f"{prefix}{i}"))


def sources(folder: Path, kafka: MockKafka, topic: str) -> list[dict[str, Any]]:
    """Small pieces, so that a kill finds each of them in the middle."""
    common = {"kind": "predictions", "model": "houses"}
    return [
        {"type": "follow", "name": "lines", "path": str(folder / "app*.jsonl"), "max_block_bytes": 20_000, "poll_seconds": 0.05,
         **common},
        {"type": "folder", "name": "files", "path": str(folder / "drop"), "batch_records": 100, "settle_seconds": 0,
         "poll_seconds": 0.05, **common},
        {"type": "kafka", "name": "bus", "brokers": [kafka.brokers], "batch_records": 100, "model": "houses",
         "topics": [{"name": topic, "kind": "predictions"}],
         "settings": {"session.timeout.ms": 1500, "heartbeat.interval.ms": 200}},
    ]  # fmt: skip


def test_whatever_is_killed_every_record_of_every_source_is_stored_once(tmp_path: Path, kafka: MockKafka) -> None:
    topic = kafka.topic("predictions", partitions=3)
    kafka.send(topic, *(record("k", i).encode() for i in range(ROWS // 2)), partition=0)
    for part in (1, 2):
        kafka.send(topic, *(record(f"k{part}-", i).encode() for i in range(ROWS // 4)), partition=part)
    (tmp_path / "drop").mkdir()
    for part in range(3):
        text = "".join(record(f"f{part}-", i) + "\n" for i in range(ROWS // 3))
        (tmp_path / "drop" / f"{part}.jsonl").write_text(text)
    log = tmp_path / "app.jsonl"
    whims, stop = random.Random(20261121), Stop()
    with daemon_on(tmp_path, stop, sources=sources(tmp_path, kafka, topic), checks=[]) as daemon:
        written = 0
        for round_ in range(KILLS):
            with log.open("a") as file:
                file.writelines(record("l", i) + "\n" for i in range(written, written + ROWS // KILLS))
            written += ROWS // KILLS
            if round_ % 2:
                log.rename(tmp_path / f"app.{round_}.old")  # rotated away before all of it was read, perhaps while it was down
            daemon.run()
            stop.wait(whims.uniform(0.2, 1.5))
            os.kill(daemon.pid, signal.SIGKILL)
            assert daemon.dies("it was killed") == -signal.SIGKILL
        daemon.run()

        def all_there() -> bool:
            there = (daemon.store / FILE).exists()
            return bool(there and rows(daemon.store, "SELECT count(*) FROM predictions")[0][0] >= 3 * ROWS)

        stop.wait_for("all records", all_there, SETTLED_SECONDS)
        daemon.stop()
        assert_stored_once(daemon.store)
        found = rows(
            daemon.store, "SELECT left(record_id, 1) AS source, count(*) FROM predictions GROUP BY source ORDER BY source"
        )
        assert found == [("f", ROWS), ("k", ROWS), ("l", ROWS)]
        handed = rows(daemon.store, "SELECT source, sum(records) FROM batches GROUP BY source ORDER BY source")
        assert handed == [("folder:files", ROWS), ("follow:lines", ROWS), ("kafka:bus", ROWS)], "none was handed over twice"
        assert sorted(p.name for p in (tmp_path / "drop" / "done").iterdir()) == ["0.jsonl", "1.jsonl", "2.jsonl"]
