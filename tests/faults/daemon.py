"""One daemon as a process on a folder of its own, started plainly or with something prepared that goes wrong."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from monitor.demo.stack import ANY, HOST, Process, ready
from monitor.demo.stop import Stop

DIES_SECONDS = 60.0
MODELS = [{"name": "houses", "task": "regression"}, {"name": "bot", "task": "llm"}]
BARE = {
    "name": "bare", "model": "bot", "detector": "tests.plugins:Bareness", "every": "1h", "threshold": {"upper": 0.9},
}  # fmt: skip
"""A check that has every answer scored, without a model to load."""


class Daemon:
    """`sections` are those of the config; addresses and the store's folder are filled in."""

    def __init__(self, folder: Path, stop: Stop, **sections: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        ports, _ = ANY.free()
        self._stop = stop
        self.config = folder / "modelwatch.yaml"
        self.store = folder / sections.get("store", {}).get("path", "store")
        self.log = folder / "modelwatch.log"
        self.push, self.metrics, self.otlp = (f"{HOST}:{port}" for port in (ports.push, ports.metrics, ports.prometheus))
        defaults: dict[str, Any] = {"models": MODELS, "checks": [BARE], "scoring": {"settle_seconds": 0}}
        self.settings = {
            **defaults,
            **sections,
            "store": {"path": "store", "tail_seconds": "1s", "seal_seconds": "1s", **sections.get("store", {})},
            "server": {"listen": self.push, **sections.get("server", {})},
            "metrics": {"listen": self.metrics},
            "otlp": {"http": {"listen": self.otlp}, "grpc": False, "default_model": "bot", **sections.get("otlp", {})},
        }
        self.config.write_text(yaml.safe_dump(self.settings))
        self.process = self._process()

    def start(self, *arms: str) -> None:
        """`arms`: see tests.faults.armed. Does not wait."""
        self.process = self._process(*arms)
        self.process.start()

    def ready(self) -> None:
        ready(self.process, self.metrics, self._stop)

    def run(self, *arms: str) -> None:
        self.start(*arms)
        self.ready()

    def dies(self, why: str) -> int:
        """Its exit code, once it has ended by itself: -9 after SIGKILL and so on."""
        self._stop.wait_for(f"the daemon to die: {why}", lambda: not self.process.running, DIES_SECONDS)
        code = self.process.stop()
        assert code is not None
        return code

    def stop(self) -> None:
        """SIGTERM; it has to end well."""
        code = self.process.stop()
        assert code == 0, f"the daemon ended with {code}: {self.log.read_text(errors='replace')[-2000:]}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def not_ready(self) -> str | None:
        """What /-/ready says against it, None where it is ready."""
        try:
            with urllib.request.urlopen(f"http://{self.metrics}/-/ready", timeout=5) as response:
                response.read()
                return None
        except urllib.error.HTTPError as exc:
            return exc.read().decode()
        except OSError as exc:
            return str(exc)

    def scrape(self) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=30) as response:
            text = response.read().decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def sample(self, name: str, **labels: str) -> float | None:
        return self.scrape().get((name, frozenset(labels.items())))

    def resident(self) -> int:
        """Bytes of the owner process."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def _process(self, *arms: str) -> Process:
        module = ["tests.faults.armed", *arms, "--"] if arms else ["monitor"]
        return Process("modelwatch", [sys.executable, "-m", *module, "run", str(self.config)], self.log)


@contextmanager
def daemon_on(folder: Path, stop: Stop, **sections: Any) -> Iterator[Daemon]:
    """Not started; whatever runs at the end is stopped."""
    one = Daemon(folder, stop, **sections)
    try:
        yield one
    finally:
        one.process.stop()
