"""`python -m monitor.demo`, as a user starts and stops it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from monitor.demo.stack import HOST, MissingProgram, Ports, program

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECONDS = 300.0  # until it hangs: on two busy processors the alerts alone have taken 155
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts demos in a folder of their own."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "monitor.demo", "--short", "--folder", str(tmp_path / "demo"), *arguments]
        # A session of its own, as a terminal gives it: what is found in it later was left behind.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)


def test_it_ends_with_both_alerts_and_the_records_behind_one(start: Start) -> None:
    process = start("--exit")
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    for check in ("bike-rental-drift", "support-bot-unsupported"):
        assert re.search(rf"FIRING  ModelwatchCheckFiring .* check {check}, severity", output), output
    for model in ("bike-rental", "support-bot"):
        assert re.search(
            rf"PAGED   ModelwatchCaseOpen  model {model}, severity \w+, one notification to (on-call|tickets)\n", output
        )
    assert re.search(r"/cases/[0-9a-f]{16}: open, critical, \d+ incidents\n +\d+ %  check support-bot-", output), output
    said = re.search(r"flagged_ratio (0\.\d+) of (\d+) answers", output)
    again = re.search(r'the same by SQL: {"value": ?([\d.]+), ?"n": ?(\d+)}', output)
    assert said, output
    assert again, output
    assert (f"{float(again[1]):.3f}", again[2]) == (said[1], said[2])
    *_, listed, records, claims = output.split("\n$ ")  # three commands and what they print
    assert re.search(r"support-bot-unsupported +open", listed), output
    header, *rows = records.partition("\n\n")[0].splitlines()[1:]
    assert header.split() == ["record_id", "value", "prompt_version", "question", "response"]
    assert len(rows) == 5
    header, *rows = claims.splitlines()[1:]
    assert header.split() == ["record_id", "start_offset", "end_offset", "support", "claim"]
    supports = [float(row.split()[3]) for row in rows if row.strip()]
    assert min(supports) < 0.3 < 0.7 < max(supports), claims


@pytest.mark.parametrize("heard", ("Starting the daemon", "Bike rental"))
def test_ctrl_c_stops_every_process_whatever_it_is_doing(start: Start, tmp_path: Path, heard: str) -> None:
    process = start()
    assert process.stdout is not None
    for line in process.stdout:
        if heard in line:
            break
    begun = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert "have ended" in output
    assert "Traceback" not in output
    # Helpers go when their owner does, which takes a moment. What began after our look names the folder.
    _, left = psutil.wait_procs(begun, timeout=SECONDS)
    assert left == []
    assert [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())] == []


def test_a_port_in_use_is_left_alone_and_said_so() -> None:
    with socket.create_server((HOST, 0)) as server:
        taken = server.getsockname()[1]
        ports, moved = Ports(push=taken, metrics=0, prometheus=0, alertmanager=0).free()
    assert ports.push != taken
    assert moved == [f"port {taken} is in use; push listens on {ports.push} instead"]


def test_a_missing_program_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(MissingProgram, match=r"apt-get install .*prometheus-alertmanager"):
        program("alertmanager", path=str(tmp_path))


def test_a_daemon_that_dies_during_the_replay_ends_it_and_is_quoted(start: Start, tmp_path: Path) -> None:
    process = start("--exit")
    assert process.stdout is not None
    for line in process.stdout:
        if "Bike rental" in line:
            break
    (daemon,) = (p for p in psutil.Process(process.pid).children() if "monitor" in p.cmdline())
    daemon.kill()
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "modelwatch has ended by itself; the last lines of" in output
    assert "INFO ready" in output
