"""A scrape of a daemon with 10,000 series while it takes spans, and what its being scraped does to the answers to those.

Four clients send 64 spans of 2 KB four times a second each, about 1,000 spans a second together. The series are those of LLMs:
one call each of so many, pushed before. On one side nobody scrapes, on the other somebody does every five seconds, as Prometheus
asks. A scrape is timed from the request to the last byte, on a connection of its own.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from tests.bench.client import MODELS, Plan
from tests.bench.daemon import Daemon
from tests.bench.harness import Options, Row, each, measured, percentile
from tests.bench.push import CLIENTS, REQUESTS_APART, all_at_once, sample_texts

SPANS, EVERY = 64, 0.25
SCRAPE_SECONDS = 5.0
FORM = "application/openmetrics-text;version=1.0.0"


@dataclass(frozen=True, slots=True)
class Run:
    answers: list[float]
    scrapes: list[float]
    series: int
    size: int


def run(options: Options) -> list[Row]:
    seconds = options.pick(100.0, 20.0, 0.5)
    llms = options.pick(130, 130, 3)
    sides = [False, True] * options.pick(3, 1, 1)
    found = each(options, sides, "metrics", lambda scraped: one(options.folder, seconds, llms, scraped))
    alone, with_scrapes = ([f for f, s in zip(found, sides, strict=True) if s is side] for side in (False, True))
    note = f"{with_scrapes[0].series:,} series, {with_scrapes[0].size / 2**20:.1f} MiB, every {SCRAPE_SECONDS:.0f} s"
    p99 = [measured("", [percentile(r.answers, 0.99) for r in runs], "").figure for runs in (alone, with_scrapes)]
    return [
        measured("a scrape while spans come, p50", [percentile(r.scrapes, 0.5) * 1000 for r in with_scrapes], "ms", note),
        measured("- p99", [percentile(r.scrapes, 0.99) * 1000 for r in with_scrapes], "ms"),
        measured(
            "answers to spans without scrapes, p99",
            [percentile(r.answers, 0.99) * 1000 for r in alone],
            "ms",
            f"{CLIENTS * SPANS / EVERY:,.0f} spans/s",
        ),
        measured("- with scrapes, p99", [percentile(r.answers, 0.99) * 1000 for r in with_scrapes], "ms"),
        Row("p99 with scrapes, to without", p99[1] / p99[0], "x", "of medians"),
    ]


def one(folder: Path, seconds: float, llms: int, scraped: bool) -> Run:
    config: dict[str, Any] = {
        "models": [{"name": MODELS["spans"], "task": "llm"}],
        "store": {"seal_seconds": 20},
        "scoring": {"settle_seconds": 3600},
    }
    texts = sample_texts()
    with TemporaryDirectory(dir=folder) as place, Daemon(Path(place), config) as daemon:
        daemon.post("/v1/generations", orjson.dumps([call(n) for n in range(llms)]))
        all_at_once([Plan(daemon.otlp, "spans", "protobuf", SPANS, 1.0, 90_000_000, texts)])
        _, body = scrape(daemon.metrics)
        times: list[float] = []
        stop = threading.Event()

        def scrapes() -> None:
            due = time.monotonic()
            while not stop.wait(max(0.0, due - time.monotonic())):
                due += SCRAPE_SECONDS
                times.append(scrape(daemon.metrics)[0])

        thread = threading.Thread(target=scrapes)
        if scraped:
            thread.start()
        sent = all_at_once(
            [
                Plan(daemon.otlp, "spans", "protobuf", SPANS, seconds, REQUESTS_APART * i, texts, every=EVERY)
                for i in range(CLIENTS)
            ]
        )
        stop.set()
        if scraped:
            thread.join()
        series = sum(not line.startswith(b"#") for line in body.splitlines())
        return Run([a for s in sent for a in s.answers], times, series, len(body))


def call(number: int) -> dict[str, Any]:
    """One of an LLM of its own, with all that is counted and observed of a call."""
    return {
        "record_id": f"llm-{number}",
        "model": MODELS["spans"],
        "timestamp": datetime.now(UTC).isoformat(),
        "response": "so",
        "provider": "openai",
        "llm_model": f"gpt-4o-{number:04d}",
        "request_model": "gpt-4o",
        "input_tokens": 1000 + number,
        "output_tokens": 50,
        "duration_seconds": 1.0 + number / 100,
        "time_to_first_token_seconds": 0.2,
    }


def scrape(address: str) -> tuple[float, bytes]:
    connection = HTTPConnection(address, timeout=60)
    connection.connect()
    started = time.perf_counter()
    connection.request("GET", "/metrics", headers={"Accept": FORM})
    body = connection.getresponse().read()
    took = time.perf_counter() - started
    connection.close()
    return took, body
