"""Many checks due in the same second: how long until all are read, and what that does to the answers of who sends meanwhile.

Ten checks on each of fifty models: drift by both policies, of predictions and of one feature, multivariate, data quality, two of
performance, calibration and fairness, with a fixed reference. Each window has 10,000 rows of ten features, and labels. The third
window is measured: the first two make what is remembered of a reference.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import orjson

from tests.bench.client import MODELS, Plan
from tests.bench.daemon import Daemon
from tests.bench.harness import Options, Row, each, measured, percentile
from tests.bench.push import all_at_once

NUMBERS, CATEGORIES = 8, 2
BATCH = 2_000
SENDERS = 4
HOUR = timedelta(hours=1)
PATIENCE_SECONDS = 600.0
POLL_SECONDS = 0.5  # a look is a scrape, which costs the daemon something itself
LOAD_RECORDS, LOAD_EVERY = 50, 0.1  # of the sender whose answers are timed


class Sizes(NamedTuple):
    models: int
    rows: int
    load_seconds: float


class Found(NamedTuple):
    seconds: float
    processor: float
    idle: list[float]
    busy: list[float]
    first: float
    """Seconds for the first two windows of each check."""


def run(options: Options) -> list[Row]:
    sizes = options.pick(Sizes(50, 10_000, 30.0), Sizes(10, 10_000, 10.0), Sizes(1, 200, 0.5))
    found = each(options, [sizes] * options.pick(3, 1, 1), "checks", lambda one: measure(options.folder, one))
    count = 10 * sizes.models
    moved = [percentile(f.busy, 0.99) / percentile(f.idle, 0.99) for f in found]
    return [
        measured(f"{count} checks due at once, {sizes.rows:,} rows each: all read", [f.seconds for f in found], "s"),
        measured("- processor time of the owner", [f.processor for f in found], "s"),
        measured("- processor time of the owner, a check", [1000 * f.processor / count for f in found], "ms"),
        measured("- answers to who sends meanwhile, p99", [1000 * percentile(f.busy, 0.99) for f in found], "ms"),
        measured("- the same, to that with nothing due", moved, "x"),
        measured("the first two windows of each, references read and nulls made", [f.first for f in found], "s"),
    ]


def checks(model: str, start: datetime) -> Iterator[dict[str, Any]]:
    reference = {"start": start.isoformat(), "end": (start + HOUR).isoformat()}
    compared = {"reference": reference, "threshold": {"upper": 0.9}}
    alone = {"threshold": {"upper": 0.9}}
    for name, detector, settings, more in (
        ("drift", "data_drift", {}, compared),
        ("drift-evidently", "data_drift", {"policy": "evidently"}, compared),
        ("predictions", "prediction_drift", {}, compared),
        ("one", "score_drift", {"column": "f0"}, compared),
        ("together", "multivariate_drift", {}, compared),
        ("quality", "data_quality", {}, compared),
        ("accuracy", "performance", {"task": "binary", "metric": "accuracy"}, {"threshold": {"lower": 0.1}}),
        ("auc", "performance", {"task": "binary", "metric": "roc_auc"}, {"threshold": {"lower": 0.1}}),
        ("calibration", "probability_calibration", {}, alone),
        ("fair", "fairness", {"attributes": ["c0"]}, alone),
    ):
        yield {
            "name": f"{model}-{name}",
            "model": model,
            "detector": detector,
            "settings": settings,
            "every": "1h",
            "idle_timeout": "1d",
            "min_records": 50,
            **more,
        }


def measure(folder: Path, sizes: Sizes) -> Found:
    models = [f"model-{i:02}" for i in range(sizes.models)]
    begin = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 6 * HOUR
    config: dict[str, Any] = {
        "models": [*({"name": name, "task": "binary"} for name in models), {"name": MODELS["predictions"], "task": "regression"}],
        "checks": [one for name in models for one in checks(name, begin)],
        "server": {"queue_records": 200_000},
        "otlp": {"http": False, "grpc": False},
    }
    with TemporaryDirectory(dir=folder) as place, Daemon(Path(place), config) as daemon:

        def hour(n: int) -> None:
            with ThreadPoolExecutor(SENDERS) as senders:
                for _ in senders.map(lambda name: send(daemon, name, begin + n * HOUR, n, sizes.rows), models):
                    pass

        def due(n: int) -> float:
            """Close the windows that end with hour `n`, and wait until all are read."""
            expected = 10 * sizes.models * n
            started = time.monotonic()
            for name in models:
                last = {"record_id": f"close-{n}", "timestamp": (begin + n * HOUR + timedelta(seconds=1)).isoformat()}
                daemon.post(f"/v1/predictions?model={name}", orjson.dumps([{**last, "prediction": 1}]))
            while (done := daemon.scrape().get("modelwatch_verdicts_total", 0.0)) < expected:
                if time.monotonic() - started > PATIENCE_SECONDS:
                    raise RuntimeError(f"{done:.0f} of {expected} readings after {PATIENCE_SECONDS:.0f} s")
                time.sleep(POLL_SECONDS)
            return time.monotonic() - started

        hour(0)
        first = due(1)
        hour(1)
        first += due(2)
        hour(2)
        idle = load(daemon, sizes.load_seconds, 0)
        with ThreadPoolExecutor(1) as beside:
            meanwhile = beside.submit(load, daemon, sizes.load_seconds, 1)
            time.sleep(min(1.0, sizes.load_seconds / 4))
            computed = daemon.computed()
            seconds = due(3)
            computed = daemon.computed() - computed
            busy = meanwhile.result()
    return Found(seconds, computed, idle, busy, first)


def load(daemon: Daemon, seconds: float, part: int) -> list[float]:
    """Seconds to each answer of one steady sender to a model without checks."""
    plan = Plan(daemon.api, "predictions", "json", LOAD_RECORDS, seconds, 50_000_000 + 1_000_000 * part, every=LOAD_EVERY)
    return [answer for sent in all_at_once([plan]) for answer in sent.answers]


def send(daemon: Daemon, model: str, start: datetime, seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(rows, NUMBERS)).round(5)
    texts = rng.choice(np.array(["a", "b", "c", "d"]), (rows, CATEGORIES))
    chance = rng.random(rows).round(5)
    true = (rng.random(rows) < chance).astype(int)
    for first in range(0, rows, BATCH):
        places = range(first, min(first + BATCH, rows))
        ids = [f"{seed}-{i}" for i in places]
        predictions = [
            {
                "record_id": record_id,
                "timestamp": (start + timedelta(seconds=3590 * i / rows)).isoformat(),
                "features": {
                    **{f"f{j}": float(x) for j, x in enumerate(numbers[i])},
                    **{f"c{j}": str(x) for j, x in enumerate(texts[i])},
                },
                "prediction": int(chance[i] > 0.5),
                "probability": float(chance[i]),
            }
            for record_id, i in zip(ids, places, strict=True)
        ]
        labels = [{"record_id": record_id, "label": int(true[i])} for record_id, i in zip(ids, places, strict=True)]
        daemon.post(f"/v1/predictions?model={model}", orjson.dumps(predictions))
        daemon.post(f"/v1/labels?model={model}", orjson.dumps(labels))
