"""From what happened to the alert: a committed score that a record rule waits for, and a slot that falls due, to
`ALERTS{alertstate="firing"}` of a rule with `for: 0s` in a real Prometheus that scrapes and evaluates every second.

Each trial has a rule, or a model with a check, of its own. A score counts from the time of its commit, as stored; a slot from the
moment the record that closes it is answered as durable.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import orjson
import yaml

from monitor.demo.stack import ANY, HOST, Process, program, ready
from monitor.demo.stop import Stop
from tests.bench.daemon import Daemon
from tests.bench.harness import Options, Row, each, percentile

SCRAPE_SECONDS = EVALUATION_SECONDS = 1
ALLOWED_SECONDS = SCRAPE_SECONDS + EVALUATION_SECONDS + 3
EVERY_SECONDS = 2
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
BUSY_ROWS, BUSY_PAUSE = 200, 0.1  # predictions a batch, seconds between batches
RULES = {
    "groups": [
        {
            "name": "bench",
            "rules": [
                {
                    "alert": "BenchFiring",
                    "expr": 'max by (model, check) (last_over_time(modelwatch_firing{slice="all"}[30m])) == 1',
                    "for": "0s",
                }
            ],
        }
    ]
}


def run(options: Options) -> list[Row]:
    trials = options.pick(200, 40, 3)
    rows = []
    cases = [(kind, busy) for kind in ("rule", "slot") for busy in options.pick((False, True), (False, True), (False,))]
    found = each(options, cases, "alerts", lambda case: measured(options, *case, trials))
    names = {"rule": "score committed to alert firing, record_rule", "slot": "slot due to alert firing, window check"}
    for (kind, busy), (seconds, ours) in zip(cases, found, strict=True):
        load = f", {BUSY_ROWS / BUSY_PAUSE:,.0f} predictions/s offered beside" if busy else ""
        note = f"{len(seconds)} trials{load}; at most {ALLOWED_SECONDS} s is wanted at p99"
        rows += [
            Row(f"{names[kind]}{', busy' if busy else ''}: p50", percentile(seconds, 0.5), "s", note),
            Row("- p99", percentile(seconds, 0.99), "s", "", max(seconds)),
            Row("- p99 of the daemon's part: until the incident is stored", percentile(ours, 0.99), "s", "", max(ours)),
        ]
    return rows


def measured(options: Options, kind: str, busy: bool, trials: int) -> tuple[list[float], list[float]]:
    """Seconds of each trial, to the alert and to the incident that is stored."""
    folder = options.folder / f"{kind}-{busy}"
    config = by_rule(trials) if kind == "rule" else by_slot(trials)
    config["models"] = [*config["models"], {"name": "beside", "task": "regression"}]
    with Daemon(folder, config) as daemon, prometheus(folder, daemon.metrics) as watcher, beside(daemon, busy):
        begun = (scores if kind == "rule" else slots)(daemon, trials)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(watcher.seen) < trials:
            if time.monotonic() > deadline:
                missing = sorted(begun.keys() - watcher.seen.keys())
                raise RuntimeError(f"{len(missing)} of {trials} alerts never fired: {missing[:5]}")
            time.sleep(LOOK_SECONDS)
        seen = dict(watcher.seen)
    if kind == "rule":
        begun = stored(daemon.store, "SELECT record_id AS name, epoch(received_at) AS at FROM scores")
    opened = stored(daemon.store, "SELECT check_name AS name, epoch(received_at) AS at FROM incidents WHERE revision = 1")
    return tuple([at[name] - begun[name] for name in sorted(begun)] for at in (seen, opened))  # type: ignore[return-value]


def by_rule(trials: int) -> dict[str, Any]:
    models = [f"m{n}" for n in range(trials)]
    about = {"detector": "tests.plugins:Bareness", "every": "1h", "threshold": {"upper": 0.5}}
    return {
        "models": [{"name": name, "task": "llm"} for name in models],
        "checks": [{"name": f"bare-{n}", "model": name, **about} for n, name in enumerate(models)],
        "record_rules": [
            {"name": f"trial-{n}", "model": name, "check": f"bare-{n}", "at_least": 0.9} for n, name in enumerate(models)
        ],
        # Traces settle at once: how long they wait is not what is measured.
        "scoring": {"settle_seconds": 0},
    }


def by_slot(trials: int) -> dict[str, Any]:
    checks = [
        {
            "name": f"trial-{n}", "model": f"m{n}", "detector": "tests.plugins:Mean", "every": f"{EVERY_SECONDS}s",
            "threshold": {"upper": 10}, "min_records": 1,
        }
        for n in range(trials)
    ]  # fmt: skip
    return {"models": [{"name": f"m{n}", "task": "regression"} for n in range(trials)], "checks": checks}


def scores(daemon: Daemon, trials: int) -> dict[str, float]:
    """Send what the rules wait for, at times that have nothing to do with those of the scrapes."""
    chance = random.Random(7)
    for n in range(trials):
        record = {"record_id": f"trial-{n}", "model": f"m{n}", "question": "why?", "response": f"so says {n}"}
        daemon.post("/v1/generations", orjson.dumps([record]))
        time.sleep(chance.uniform(0.1, 0.4))
    return {f"trial-{n}": 0.0 for n in range(trials)}


def stored(store: Path, sql: str) -> dict[str, float]:
    """Seconds since 1970 by name, as the auditors see them once the daemon has ended."""
    with duckdb.connect(str(store / "audit.duckdb"), read_only=True) as audit:
        audit.execute(f"SET file_search_path = '{store}'")
        found = audit.sql(sql).to_arrow_table()
    return dict(zip(found["name"].to_pylist(), found["at"].to_pylist(), strict=True))


def slots(daemon: Daemon, trials: int) -> dict[str, float]:
    """Fill a window of each model and close it; when the record that closes it was durable."""
    chance = random.Random(7)
    begun = {}
    for n in range(trials):
        slot = datetime.fromtimestamp(time.time() // EVERY_SECONDS * EVERY_SECONDS, UTC)
        inside, after = slot - timedelta(seconds=0.5), slot + timedelta(milliseconds=1)
        for i, (at, value) in enumerate(((inside, 100.0), (after, 100.0))):
            record = {"record_id": f"{n}-{i}", "model": f"m{n}", "timestamp": at.isoformat(), "prediction": value}
            daemon.post("/v1/predictions", orjson.dumps([record]))
        begun[f"trial-{n}"] = time.time()
        time.sleep(chance.uniform(0.1, 0.4))
    return begun


class Watcher:
    """Asks Prometheus which alerts fire, again and again, and keeps when each was seen first."""

    def __init__(self, address: str) -> None:
        self.seen: dict[str, float] = {}
        query = urllib.parse.urlencode({"query": 'ALERTS{alertname="BenchFiring", alertstate="firing"}'})
        self._url = f"http://{address}/api/v1/query?{query}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            with contextlib.suppress(OSError), urllib.request.urlopen(self._url, timeout=10) as answer:
                for one in json.load(answer)["data"]["result"]:
                    self.seen.setdefault(one["metric"]["check"], time.time())


@contextlib.contextmanager
def prometheus(folder: Path, metrics: str) -> Iterator[Watcher]:
    (folder / "bench.rules.yml").write_text(yaml.safe_dump(RULES))
    scraping = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{EVALUATION_SECONDS}s"},
        "rule_files": ["bench.rules.yml"],
        "scrape_configs": [{"job_name": "modelwatch", "static_configs": [{"targets": [metrics]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(scraping))
    address = f"{HOST}:{ANY.free()[0].prometheus}"
    process = Process(
        "prometheus",
        [
            program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
        ],
        folder / "prometheus.log",
    )  # fmt: skip
    process.start()
    try:
        ready(process, address, Stop())
        with Watcher(address) as watcher:
            yield watcher
    finally:
        process.stop()


@contextlib.contextmanager
def beside(daemon: Daemon, busy: bool) -> Iterator[None]:
    """Ingest that goes on all the while, where it is busy."""
    over = threading.Event()

    def push() -> None:
        n = 0
        while not over.wait(BUSY_PAUSE):
            rows = [
                {
                    "record_id": f"{n}-{i}",
                    "model": "beside",
                    "prediction": 1.0,
                    "features": {f"x{k}": float(i + k) for k in range(10)},
                }
                for i in range(BUSY_ROWS)
            ]
            n += 1
            with contextlib.suppress(RuntimeError):  # turned away for now
                daemon.post("/v1/predictions", orjson.dumps(rows))

    thread = threading.Thread(target=push, daemon=True)
    if busy:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if busy:
            thread.join()
