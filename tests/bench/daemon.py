"""The daemon as a process of its own, with what is to be seen of it from outside: its answers, its memory, its files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import psutil
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
STOP_SECONDS = 60.0
LOG_LINES = 50
MIB = 2**20
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Daemon:
    """Runs from `with` to its end. `config` gets a store in `folder` and free ports; the rest is as given."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.store = folder / "store"
        self.config = folder / "modelwatch.yaml"
        given = dict(config)
        whole = {
            **given,
            "store": {**given.get("store", {}), "path": str(self.store)},
            "server": {**given.get("server", {}), "listen": "127.0.0.1:0"},
            "metrics": {**given.get("metrics", {}), "listen": "127.0.0.1:0"},
            "otlp": {"http": {"listen": "127.0.0.1:0"}, "grpc": {"listen": "127.0.0.1:0"}, **given.get("otlp", {})},
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_bytes(orjson.dumps(whole))  # JSON is YAML
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._ready = threading.Event()
        self._killed = False

    def __enter__(self) -> Daemon:
        self.started_at = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "monitor", "run", str(self.config)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_SECONDS) or not hasattr(self, "api"):
            self._process.kill()
            raise RuntimeError("the daemon did not become ready:\n" + "".join(self._lines))
        self.process = psutil.Process(self._process.pid)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        if code and exc is None and not self._killed:
            raise RuntimeError(f"the daemon ended with {code}:\n" + "".join(self._lines))

    def kill(self) -> None:
        """SIGKILL, as a machine that runs out of memory does it."""
        helpers = self.process.children()
        # Who kills their parent inherits them, so that what they have computed does not count as that of other programs.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._process.kill()
        self._process.wait()
        self._killed = True
        for helper in helpers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(helper.pid, 0)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if not self._ready.is_set() and (found := re.search(r" ready api=(\S+) metrics=(\S+)", line)):
                self.ready_seconds = time.monotonic() - self.started_at
                self.api, self.metrics = found[1], found[2]
                self.otlp = spans[1] if (spans := re.search(r" otlp_http=(\S+)", line)) else ""
                self._ready.set()
        self._ready.set()  # it has ended: whoever waits for it may stop waiting

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """The answer to one request that must be taken."""
        connection = HTTPConnection(self.api, timeout=60)
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status}: {text.decode()[:500]}")
        return orjson.loads(text)  # type: ignore[no-any-return]

    def scrape(self) -> dict[str, float]:
        """Every series of /metrics, added up over its labels."""
        connection = HTTPConnection(self.metrics, timeout=60)
        connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
        text = connection.getresponse().read().decode()
        connection.close()
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    def resident(self) -> float:
        """MiB of the owner process."""
        return float(self.process.memory_info().rss) / MIB

    def proportional(self) -> float:
        """MiB of the owner and all its helpers. Pages that several of them share, such as those of libraries, count in parts
        (PSS): the sum of what is resident in each would count them as often as there are processes."""
        return sum(float(one.memory_full_info().pss) for one in (self.process, *self.process.children())) / MIB

    def computed(self) -> float:
        """Processor seconds so far of the processes that take records in: the owner, and those that open bodies for it."""
        opening = [one for one in self.process.children() if one.cmdline()[-1:] and one.cmdline()[-1].startswith("intake-")]
        return sum(float(t.user + t.system) for t in (one.cpu_times() for one in (self.process, *opening)))


class Watch:
    """Looks at the daemon a few times a second while `with` lasts: its memory, and how often the log was checkpointed.

    `processor` is the seconds that the owner and its intake processes computed: unlike a rate, it hardly depends on who else is
    computing. `before`, `after` and `peak` are the owner's memory; `grown` is by how much that of all processes did, which is
    asked twice only, as the kernel goes through all of their pages for it.
    """

    def __init__(self, daemon: Daemon, every_seconds: float = 0.1) -> None:
        self._daemon = daemon
        self._every = every_seconds
        self._stop = threading.Event()
        self.peak = self.before = daemon.resident()
        self.checkpoints = 0
        self.processor = 0.0

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._proportional = self._daemon.proportional()
        self._thread.start()
        self._computed = self._daemon.computed()
        return self

    def __exit__(self, *_: object) -> None:
        self.processor = self._daemon.computed() - self._computed
        self._stop.set()
        self._thread.join()
        self.after = self._daemon.resident()
        self.grown = self._daemon.proportional() - self._proportional

    def _look(self) -> None:
        log = self._daemon.store / "hot.duckdb.wal"
        size = 0
        while not self._stop.wait(self._every):
            self.peak = max(self.peak, self._daemon.resident())
            now = log.stat().st_size if log.exists() else 0
            self.checkpoints += now < size  # it only ever shrinks when it was checkpointed
            size = now
