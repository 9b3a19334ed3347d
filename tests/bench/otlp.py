"""Spans acknowledged over OTLP/HTTP by a real daemon, clients included, beside what Arize Phoenix persists of the same load.

Four client processes send pre-encoded protobuf bodies of 512 spans of 2 KB. Our answer comes after the sync of the commit that
holds the spans; Phoenix answers when they are in its memory, so of Phoenix both what it accepts and what its SQLite holds is
counted. Then both are killed with SIGKILL, and what each still holds is counted again. Phoenix is measured where `--peers` names
a folder for its environment (it is installed there by pip when missing); ours is measured always.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from monitor import configfile
from monitor.clock import SystemClock
from tests.bench.client import MODELS, Plan
from tests.bench.daemon import MIB, Daemon, Watch
from tests.bench.harness import Options, Row, each, measured, percentile
from tests.bench.peers import environment
from tests.bench.push import CLIENTS, REQUESTS_APART, all_at_once, sample_texts

SPANS = 512
ASKED = 5_000  # spans a second
HELD = "- spans held after kill -9, to those acknowledged"
PHOENIX = "arize-phoenix==20.26.1"
DRAIN_SECONDS = 5.0  # after the last answer, before the kill: what an engineer would call "just now"


@dataclass(frozen=True, slots=True)
class Run:
    acknowledged: int
    seconds: float
    answers: list[float]
    refused: int
    processor: float  # seconds of the receiving processes
    grown: float  # MiB, from a warm start to the end of the load: of the owner
    peak: float
    together: float  # grown, of all processes
    held: int
    """Spans in the store after kill -9 and a restart; Phoenix: in its database."""
    persisted: int
    """Spans in the store the moment the load ended."""
    note: str = ""

    @property
    def rate(self) -> float:
        return self.acknowledged / self.seconds


def run(options: Options) -> list[Row]:
    seconds = options.pick(60.0, 10.0, 0.5)
    texts = sample_texts()
    repeats = [0] * options.pick(2, 1, 1)
    runs = each(options, repeats, "otlp: daemon", lambda _: ours(options.folder, seconds, texts, options))
    every = CLIENTS * SPANS / ASKED
    paced = each(options, repeats, "otlp: paced", lambda _: ours(options.folder, seconds, texts, options, every))
    rows = [
        *summary("OTLP/HTTP protobuf, 512 spans of 2 KB a request", runs),
        measured(HELD, [r.held / r.acknowledged for r in runs], "", better="higher"),
        *summary(f"the same, {ASKED:,} spans/s asked of it", paced),
    ]
    if options.peers is not None:
        python = environment(options.peers, PHOENIX)
        theirs = each(options, [0], "otlp: Phoenix", lambda _: phoenix(options.folder, python, seconds))
        one = theirs[0]
        rows += [
            *summary(f"Phoenix, {PHOENIX.partition('==')[2]}, SQLite", theirs),
            Row("- spans persisted when the load ended", one.persisted / one.seconds, "spans/s", "of those accepted"),
            Row("- spans held after kill -9, to those accepted", one.held / max(1, one.acknowledged), ""),
        ]
        if one.persisted:  # it accepts first and persists when it comes to it
            ours_rate = measured("", [r.rate for r in runs], "").figure
            ratio = ours_rate / (one.persisted / one.seconds)
            rows.append(Row("acknowledged and durable, to what Phoenix persists", ratio, "x", "same machine, same run"))
    return rows


def ours(folder: Path, seconds: float, texts: list[str], options: Options, every: float = 0.0) -> Run:
    config: dict[str, Any] = {
        "models": [{"name": MODELS["spans"], "task": "llm"}],
        "store": {"seal_seconds": options.pick(20, 3, 1)},
        "otlp": {"http": {"listen": "127.0.0.1:0"}},
    }
    with TemporaryDirectory(dir=folder) as place, Daemon(Path(place), config) as daemon:
        warm = all_at_once([Plan(daemon.otlp, "spans", "protobuf", SPANS, min(seconds / 10, 3.0), 90_000_000, texts)])
        with Watch(daemon) as watch:
            sent = all_at_once(plans(daemon.otlp, seconds, texts, every))
        acknowledged = sum(s.records for s in [*warm, *sent])
        counted = daemon.scrape()
        daemon.kill()
        held = stored(daemon.config)
        return Run(
            acknowledged=sum(s.records for s in sent),
            seconds=max(s.seconds for s in sent),
            answers=[a for s in sent for a in s.answers],
            refused=sum(s.refused for s in sent),
            processor=watch.processor,
            grown=watch.after - watch.before,
            peak=watch.peak,
            together=watch.grown,
            held=held - acknowledged + sum(s.records for s in sent),
            persisted=acknowledged,
            note=f"{counted.get('modelwatch_seal_segments_total', 0):.0f} seals and {watch.checkpoints} checkpoints; "
            f"{acknowledged / counted['modelwatch_store_commits_total']:,.0f} spans a commit",
        )


def stored(config: Path) -> int:
    """Spans in the store of a daemon that was killed, as the next start finds them."""
    from prometheus_client import CollectorRegistry

    from monitor.metrics import Metrics
    from monitor.store import Store

    settings = configfile.load(config)
    metrics = Metrics(CollectorRegistry(), max_series=100)
    store = Store(settings.store, clock=SystemClock(), metrics=metrics, queue_records=1, queue_bytes=1024)
    try:
        with store.read() as reader:
            found = reader.query(
                f"SELECT count(*) AS n, count(DISTINCT record_id) AS once FROM {reader.source('spans', MODELS['spans'])}"
            )
    finally:
        store.close()
    if found[0]["n"] != found[0]["once"]:
        raise RuntimeError(f"{found[0]['n']} spans are stored, of which {found[0]['once']} differ")
    return int(found[0]["n"])


def plans(address: str, seconds: float, texts: list[str], every: float = 0.0) -> list[Plan]:
    apart = every / CLIENTS
    return [
        Plan(address, "spans", "protobuf", SPANS, seconds, REQUESTS_APART * i, texts, every=every, after=apart * i)
        for i in range(CLIENTS)
    ]


def phoenix(folder: Path, python: Path, seconds: float) -> Run:
    """Phoenix on its default SQLite, telemetry off, in a process of its own."""
    with TemporaryDirectory(dir=folder) as place, socket.create_server(("127.0.0.1", 0)) as probe:
        http = probe.getsockname()[1]
        probe.close()
        surroundings = {
            **os.environ,
            "PHOENIX_WORKING_DIR": place,
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(http),
            "PHOENIX_GRPC_PORT": "0",
            "PHOENIX_TELEMETRY_ENABLED": "false",
        }
        with (Path(place) / "log").open("wb") as log:
            server = subprocess.Popen([python, "-m", "phoenix.server.main", "serve"], env=surroundings, stdout=log, stderr=log)
        try:
            address = f"127.0.0.1:{http}"
            until_answered(address, server, Path(place) / "log")
            process = psutil.Process(server.pid)
            texts = sample_texts()
            all_at_once([Plan(address, "spans", "protobuf", SPANS, 1.0, 90_000_000, texts)])
            until_quiet(Path(place))
            before, resident = in_sqlite(Path(place)), process.memory_info().rss / MIB
            computed = process.cpu_times()
            sent = all_at_once(plans(address, seconds, texts))
            persisted, after = in_sqlite(Path(place)) - before, process.memory_info().rss / MIB
            used = process.cpu_times()
            time.sleep(DRAIN_SECONDS)
            server.send_signal(signal.SIGKILL)
            server.wait()
            return Run(
                acknowledged=sum(s.records for s in sent),
                seconds=max(s.seconds for s in sent),
                answers=[a for s in sent for a in s.answers],
                refused=sum(s.refused for s in sent),
                processor=used.user + used.system - computed.user - computed.system,
                grown=after - resident,
                peak=after,
                together=after - resident,
                held=in_sqlite(Path(place)) - before,
                persisted=persisted,
            )
        finally:
            server.kill()
            server.wait()


def until_answered(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and server.poll() is None:
        try:
            connection = HTTPConnection(address, timeout=5)
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"Phoenix did not start:\n{log.read_text(errors='replace')[-2000:]}")


def until_quiet(place: Path) -> None:
    """Until what it took is in its database."""
    last = -1
    while (now := in_sqlite(place)) != last:
        last = now
        time.sleep(3)


def in_sqlite(place: Path) -> int:
    with sqlite3.connect(f"file:{place / 'phoenix.db'}?mode=ro", uri=True, timeout=60) as database:
        return int(database.execute("SELECT count(*) FROM spans").fetchone()[0])


def summary(about: str, runs: list[Run]) -> list[Row]:
    notes = [r.note for r in runs if r.note]
    note = min(notes, default="")
    if refused := sum(r.refused for r in runs):
        note += f"; {refused} requests had to be sent again (429, 503)"

    peak = max(r.peak for r in runs)

    def answers(share: float) -> list[float]:
        return [percentile(r.answers, share) * 1000 for r in runs]

    return [
        measured(f"{about}: acknowledged", [r.rate for r in runs], "spans/s", note.strip("; "), better="higher"),
        measured("- answer time, p50", answers(0.5), "ms"),
        measured("- answer time, p99", answers(0.99), "ms"),
        measured("- answer time, longest", answers(1.0), "ms"),
        measured("- processor time a span", [r.processor / r.acknowledged * 1e6 for r in runs], "µs"),
        measured("- memory of the process that answers, growth", [r.grown for r in runs], "MiB", f"peak {peak:,.0f} MiB"),
        measured("- memory of all processes, growth", [r.together for r in runs], "MiB", "pages they share count in parts (PSS)"),
    ]
