"""Time to the answer of a steady load of spans while the scorer has nothing to do, and while it has more than it can do.

Four clients send 64 spans of 2 KB four times a second each, about 1,000 spans a second together, to a fresh daemon. For the busy
side answers with passages were sent before, more than can be scored meanwhile, and a check of faithfulness has them scored.
"""

from __future__ import annotations

import time
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from tests.bench.client import MODELS, Plan, batch, filled
from tests.bench.daemon import Daemon
from tests.bench.harness import Options, Row, each, measured, percentile
from tests.bench.push import CLIENTS, REQUESTS_APART, all_at_once, sample_texts

SPANS, EVERY = 64, 0.25
WAITING = 100  # answers in a batch of those that wait to be scored
CHECK = {"name": "support", "model": "judged", "detector": "faithfulness", "every": "1h", "threshold": {"upper": 0.5}}


def run(options: Options) -> list[Row]:
    seconds = options.pick(40.0, 10.0, 0.5)
    backlog = options.pick(60, 20, 1)
    sides = ["idle", "busy"] * options.pick(3, 1, 1)
    found = each(options, sides, "busy", lambda side: one(options.folder, seconds, backlog if side == "busy" else 0))
    idle, busy = ([f for f, s in zip(found, sides, strict=True) if s == side] for side in ("idle", "busy"))

    def rows(name: str, runs: list[tuple[list[float], float]], note: str) -> list[Row]:
        return [
            measured(f"scorer {name}: answer time, p50", [percentile(a, 0.5) * 1000 for a, _ in runs], "ms", note),
            measured("- answer time, p99", [percentile(a, 0.99) * 1000 for a, _ in runs], "ms"),
        ]

    p99 = [measured("", [percentile(a, 0.99) for a, _ in runs], "").figure for runs in (idle, busy)]
    waiting = min(left for _, left in busy)
    return [
        *rows("idle", idle, f"{CLIENTS * SPANS / EVERY:,.0f} spans/s"),
        *rows("saturated", busy, f"at least {waiting:,.0f} answers still waited at the end"),
        Row("p99 with the scorer saturated, to idle", p99[1] / p99[0], "x", "of medians"),
    ]


def one(folder: Path, seconds: float, backlog: int) -> tuple[list[float], float]:
    """Seconds to each answer, and how many records waited to be scored when the last was there."""
    config: dict[str, Any] = {
        "models": [{"name": MODELS["spans"], "task": "llm"}, {"name": "judged", "task": "llm"}],
        "checks": [CHECK] if backlog else [],
        "store": {"seal_seconds": 20},
        "scoring": {"settle_seconds": 3600},  # the spans of the load are not scored: nobody asked for it
    }
    texts = sample_texts()
    with TemporaryDirectory(dir=folder) as place, Daemon(Path(place), config) as daemon:
        plan = Plan(daemon.api, "generations", "json", WAITING, 0, 0, texts)
        for n in range(backlog):
            items = orjson.loads(filled("generations", batch(plan, n), 80_000_000 + n))
            daemon.post("/v1/generations", orjson.dumps([{**item, "model": "judged"} for item in items]))
        while backlog and not series(daemon, "modelwatch_detector_evaluations_total{"):  # its model takes seconds to load
            time.sleep(0.5)
        all_at_once([Plan(daemon.otlp, "spans", "protobuf", SPANS, 1.0, 90_000_000, texts)])
        sent = all_at_once(
            [
                Plan(daemon.otlp, "spans", "protobuf", SPANS, seconds, REQUESTS_APART * i, texts, every=EVERY)
                for i in range(CLIENTS)
            ]
        )
        return [a for s in sent for a in s.answers], series(daemon, 'modelwatch_queue_records{queue="scoring"')


def series(daemon: Daemon, beginning: str) -> float:
    """Sum of the series that begin so."""
    connection = HTTPConnection(daemon.metrics, timeout=60)
    connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(beginning))
