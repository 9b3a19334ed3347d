"""The daemon, Prometheus and Alertmanager as processes on one folder: configured, started, asked and stopped."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml

from monitor import data
from monitor.demo.stop import Stop

START_SECONDS = 60.0
STOP_SECONDS = 25.0  # the daemon commits what is in hand
HTTP_SECONDS = 5.0
LAST_LINES = 15
HOST = "127.0.0.1"

PROGRAMS = {"prometheus": ("prometheus",), "alertmanager": ("prometheus-alertmanager", "alertmanager")}


class MissingProgram(Exception):
    """Prometheus or Alertmanager is not installed. The message says how to."""


class Died(Exception):
    """A process ended although nobody stopped it."""


def program(name: str, *, path: str | None = None) -> str:
    """The program to run for `name`, "prometheus" or "alertmanager", in `path` (default: PATH).

    Raises:
        MissingProgram
    """
    for candidate in PROGRAMS[name]:
        if found := shutil.which(candidate, path=path):
            return found
    raise MissingProgram(
        f"{name} is not installed; on Debian or Ubuntu, as root: apt-get install --no-install-recommends prometheus "
        "prometheus-alertmanager; elsewhere put the programs of https://prometheus.io/download/ on the PATH"
    )


@dataclass(frozen=True, slots=True)
class Ports:
    push: int = 9710
    metrics: int = 9711
    prometheus: int = 9090
    alertmanager: int = 9093

    def free(self) -> tuple[Ports, list[str]]:
        """These where nobody listens, others where somebody does, and a sentence for each that had to move."""
        ports, moved = {}, []
        with contextlib.ExitStack() as held:
            for name in self.__slots__:
                wanted = getattr(self, name)
                ports[name] = found = _bindable(wanted, held)
                if wanted not in (found, 0):
                    moved.append(f"port {wanted} is in use; {name} listens on {found} instead")
        return Ports(**ports), moved


ANY = Ports(0, 0, 0, 0)


def _bindable(port: int, held: contextlib.ExitStack) -> int:
    """`port` or, where it is taken, a free one. Held until the stack closes, so that no two are the same."""
    for candidate in (port, 0):
        server = held.enter_context(socket.socket())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((HOST, candidate))
        except OSError:
            continue
        return int(server.getsockname()[1])
    raise OSError("no port is free")


class Process:
    """One program with its output in a file. In a session of its own: Ctrl-C reaches us alone, and we stop it."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        if self.running:
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int | None:
        """SIGTERM, and SIGKILL where that does not help in time; the exit code, None when it never ran."""
        if self._process is None:
            return None
        self.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def check(self) -> None:
        """
        Raises:
            Died: with the last lines of its output.
        """
        if not self.running:
            lines = self.log.read_text(errors="replace").splitlines()[-LAST_LINES:] if self.log.exists() else []
            raise Died("\n  ".join([f"{self.name} has ended by itself; the last lines of {self.log}:", *lines]))


def ready(process: Process, address: str, stop: Stop) -> None:
    """Wait until it says that it is.

    Raises:
        Died, Late, Stopped
    """

    def look() -> bool:
        process.check()
        return answers(f"http://{address}/-/ready")

    stop.wait_for(f"{process.name} to be ready", look, START_SECONDS)


def daemon(config: Path) -> Process:
    """Our own daemon, with its log beside its config."""
    return Process("modelwatch", [sys.executable, "-m", "monitor", "run", str(config)], config.with_name("modelwatch.log"))


class Stack:
    """All three. `start` and `close` may be called in any state; the processes may be started and killed one by one."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        ports: Ports,
        scrape_seconds: int = 1,
        rules: Path | None = None,
        webhook: str | None = None,
        **places: Path,
    ) -> None:
        """`config` is the daemon's, with `$push`, `$metrics` (addresses), `$store` (a folder) and the names of `places` in it.

        `rules`: a folder like the shipped one, which is the default. `webhook`: where Alertmanager sends notifications.

        Raises:
            MissingProgram
        """
        self.folder = folder
        self.push, self.metrics, self.prometheus_at, self.alertmanager_at = (
            f"{HOST}:{port}" for port in (ports.push, ports.metrics, ports.prometheus, ports.alertmanager)
        )
        self.store = folder / "store"
        self.config = folder / "modelwatch.yaml"
        prometheus, alertmanager = program("prometheus"), program("alertmanager")
        folder.mkdir(parents=True, exist_ok=True)
        filled = Template(config).substitute(push=self.push, metrics=self.metrics, store=self.store, **places)
        self.config.write_text(filled, encoding="utf-8")
        rules = rules or data.folder("rules")
        scraping = prometheus_config(self.metrics, self.alertmanager_at, sorted(rules.glob("*.rules.yml")), scrape_seconds)
        routing = alertmanager_config(rules / "alertmanager.example.yml", webhook)
        for name, content in (("prometheus", scraping), ("alertmanager", routing)):
            (folder / f"{name}.yml").write_text(yaml.safe_dump(content, sort_keys=False))
        self.daemon = Process("modelwatch", [sys.executable, "-m", "monitor", "run", str(self.config)], folder / "modelwatch.log")
        self.prometheus = Process(
            "prometheus",
            [
                prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address={self.prometheus_at}",
                "--enable-feature=exemplar-storage",
                # What is not heard of for four times that long is taken for resolved, a restart of Prometheus included.
                "--rules.alert.resend-delay=10s",
            ],
            folder / "prometheus.log",
        )
        self.alertmanager = Process(
            "alertmanager",
            [
                alertmanager,
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={self.alertmanager_at}",
                "--cluster.listen-address=",
            ],
            folder / "alertmanager.log",
        )
        self.processes = (self.daemon, self.alertmanager, self.prometheus)

    def start(self, stop: Stop) -> None:
        """All of them, until they are ready.

        Raises:
            Died, Late, Stopped
        """
        self.alertmanager.start()
        self.start_daemon(stop)
        self.prometheus.start()  # last: what it cannot scrape it would call down
        ready(self.alertmanager, self.alertmanager_at, stop)
        ready(self.prometheus, self.prometheus_at, stop)

    def start_daemon(self, stop: Stop) -> None:
        self.daemon.start()
        ready(self.daemon, self.metrics, stop)

    def close(self) -> None:
        """Stop all, together."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.stop()

    def check(self) -> None:
        """
        Raises:
            Died
        """
        for process in self.processes:
            process.check()

    def alerts(self) -> list[dict[str, Any]]:
        """What Alertmanager holds, alerts that are inhibited included."""
        found: list[dict[str, Any]] = fetch(f"http://{self.alertmanager_at}/api/v2/alerts")
        return found

    def firing(self, name: str, **labels: str) -> dict[str, Any] | None:
        """The alert of that name with these labels, where Alertmanager has it."""
        wanted = {"alertname": name, **labels}
        return next((a for a in self.alerts() if wanted.items() <= a["labels"].items()), None)

    def query(self, path: str, **parameters: str) -> Any:
        """The data of a call to Prometheus's API."""
        return fetch(f"http://{self.prometheus_at}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")["data"]


def prometheus_config(metrics: str, alertmanager: str, rules: Sequence[Path], seconds: int) -> dict[str, Any]:
    return {
        "global": {
            "scrape_interval": f"{seconds}s",
            "scrape_timeout": f"{seconds}s",
            "evaluation_interval": f"{seconds}s",
        },
        "rule_files": [str(path) for path in rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [{"job_name": "modelwatch", "static_configs": [{"targets": [metrics]}]}],
    }


def alertmanager_config(example: Path, webhook: str | None) -> dict[str, Any]:
    """The example with its routes and inhibitions, but for the waiting; all receivers are `webhook`, by their names."""
    config: dict[str, Any] = yaml.safe_load(example.read_text(encoding="utf-8"))
    config["route"] = _impatient(config["route"])
    for receiver in config["receivers"]:
        if webhook is None:
            receiver.pop("webhook_configs", None)
        for one in receiver.get("webhook_configs", ()):
            one["url"] = f"{webhook}{receiver['name']}"
    return config


def _impatient(route: dict[str, Any]) -> dict[str, Any]:
    waits = {"group_wait": "1s", "group_interval": "1s", "repeat_interval": "1h"}
    known = {name: value for name, value in waits.items() if name in route}
    return {**route, **known, **({"routes": [_impatient(one) for one in route["routes"]]} if "routes" in route else {})}


def answers(url: str) -> bool:
    """Whether it says 200."""
    try:
        with urllib.request.urlopen(url, timeout=HTTP_SECONDS) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=HTTP_SECONDS) as response:
        return json.load(response)
