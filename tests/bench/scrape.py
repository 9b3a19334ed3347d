"""Rendering of /metrics with many series, asked over HTTP as Prometheus asks.

A board of checks and the self-metrics that go with them, behind the daemon's own exposition.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from http.client import HTTPConnection

from prometheus_client import CollectorRegistry

from detectors.contract import Part
from monitor.board import Board, Standing
from monitor.config import Metrics as Listener
from monitor.exposition import Exposition
from monitor.metrics import Metrics
from tests.bench.harness import Options, Row, each, measured

SLOT = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODELS = 50
FORMS = {
    "text 0.0.4": "text/plain;version=0.0.4",
    "OpenMetrics": "application/openmetrics-text;version=1.0.0",
}


def run(options: Options) -> list[Row]:
    cases = [(checks, form) for checks in options.pick((600, 1000), (600,), (20,)) for form in FORMS]
    times = options.pick(50, 20, 2)
    found = each(options, cases, "scrape", lambda case: scraped(*case, times))
    rows = []
    for (checks, form), (seconds, body) in zip(cases, found, strict=True):
        series = sum(not line.startswith(b"#") for line in body.splitlines())
        note = f"{series:,} series, {len(body) / 2**20:.1f} MiB; {len(seconds)} scrapes"
        rows.append(measured(f"one scrape of {checks:,} checks, {form}", [s * 1000 for s in seconds], "ms", note))
    return rows


def exposed(checks: int) -> Exposition:
    registry = CollectorRegistry()
    listener = Listener(listen="127.0.0.1:0")
    metrics = Metrics(registry, max_series=listener.max_series)
    board = Board(max_series=listener.max_series, top_features=listener.top_features)
    registry.register(board)
    fill(board, metrics, checks)
    return Exposition(listener, registry, ready=lambda: None, reload=lambda: None)


def fill(board: Board, metrics: Metrics, checks: int) -> None:
    for i in range(checks):
        model, check = f"model-{i % MODELS}", f"check-{i}"
        board.put(
            Standing(
                model=model,
                check=check,
                slice="all",
                detector="data_drift",
                severity="warning",
                slot=SLOT,
                firing=i % 10 == 0,
                value=i / checks,
                interval=(i / checks - 0.1, i / checks + 0.1),
                bounds=(None, 0.5),
                n_current=1000 + i,
                n_reference=5000,
                metrics={"accuracy": 0.9},
                parts=(Part("feature", "ks", value=0.1, threshold=0.05),),
            )
        )
        metrics.runs.labels(check).inc()
        metrics.run_interval.labels(model, check).set(3600)
        metrics.run_last_success.labels(model, check).set(SLOT.timestamp())
        metrics.verdicts.labels(model, check, "ok").inc()
    for i in range(min(MODELS, checks)):
        model = f"model-{i}"
        for kind in ("predictions", "labels"):
            metrics.records.labels(model, kind).inc(i)
            metrics.duplicates.labels(model, kind).inc(i)
        metrics.evaluations.labels(model, "faithfulness").inc(i)
        metrics.score.labels(model, "faithfulness").observe(0.5, {"trace_id": f"{i:032x}"})


def scraped(checks: int, form: str, times: int) -> tuple[list[float], bytes]:
    """Seconds from the request to the last byte, each scrape on a connection of its own, and the last page."""
    seconds = []
    body = b""
    exposition = exposed(checks)
    exposition.start()
    try:
        for _ in range(times + 1):
            connection = HTTPConnection(exposition.address, timeout=60)
            connection.connect()
            started = time.perf_counter()
            connection.request("GET", "/metrics", headers={"Accept": FORMS[form]})
            body = connection.getresponse().read()
            seconds.append(time.perf_counter() - started)
            connection.close()
    finally:
        exposition.stop()
    return seconds[1:], body  # the first has what is done once
