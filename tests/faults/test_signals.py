from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import yaml

from monitor.demo.stack import ANY, HOST, daemon, ready
from monitor.demo.stop import Stop

pytestmark = pytest.mark.faults


def test_signals_that_come_all_at_once_do_not_keep_it_from_stopping(tmp_path: Path) -> None:
    """A lock that a handler shares with the code that it interrupts would make it hang, now and then."""
    ports, _ = ANY.free()
    config = tmp_path / "modelwatch.yaml"
    listen = {"server": {"listen": f"{HOST}:{ports.push}"}, "metrics": {"listen": f"{HOST}:{ports.metrics}"}}
    config.write_text(yaml.safe_dump({"store": {"path": "store"}, "otlp": {"http": False, "grpc": False}, **listen}))
    process = daemon(config)
    process.start()
    try:
        ready(process, f"{HOST}:{ports.metrics}", Stop())
        for _ in range(20_000):
            os.kill(process.pid, signal.SIGHUP)
        assert process.stop() == 0
    finally:
        process.stop()
