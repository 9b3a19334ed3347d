"""What a service manager is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.notify import READY, STOPPING, notify

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
store: {path: store}
server: {listen: "127.0.0.1:0"}
metrics: {listen: "127.0.0.1:0"}
otlp: {http: off, grpc: off}
models: []
checks: []
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        yield listener


def test_the_daemon_says_when_it_is_ready_reads_its_config_again_and_stops(manager: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "modelwatch.yaml").write_text(CONFIG)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": manager.getsockname()}
    command = [sys.executable, "-m", "monitor", "run", "modelwatch.yaml"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as daemon:
        assert manager.recv(100).decode() == READY
        daemon.send_signal(signal.SIGHUP)
        reloading = dict(line.split("=") for line in manager.recv(100).decode().splitlines())
        assert reloading["RELOADING"] == "1"
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert manager.recv(100).decode() == READY
        daemon.terminate()
        assert manager.recv(100).decode() == STOPPING


def test_a_socket_of_the_abstract_name_space_is_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"modelwatch-{os.getpid()}"
        listener.bind(f"\0{name}")
        assert notify(READY, {"NOTIFY_SOCKET": f"@{name}"})
        assert listener.recv(100).decode() == READY


def test_without_a_service_manager_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    assert not notify(READY, {})
    assert not notify(READY, {"NOTIFY_SOCKET": str(tmp_path / "gone")})
