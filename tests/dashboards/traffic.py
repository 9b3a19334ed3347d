"""A daemon's config with a check of each kind, and traffic that gives every panel something to show."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monitor.demo.data import Batch

HOUSES, CHURN, BOT = "houses", "churn", "bot"
CITIES = ("north", "south")

CONFIG = """
store: {path: $store, tail_seconds: 1s, seal_seconds: 1s}
server: {listen: "$push"}
metrics: {listen: "$metrics"}
otlp: {http: {listen: "$otlp"}, grpc: off}
external_url: http://$push
scoring: {settle_seconds: 1, nice: 0}
judge: {base_url: "$judge", model: tiny-judge, price: {input: 1, output: 2}, budget: {calls_per_day: 10000, usd_per_day: 50}}
models:
- {name: houses, task: regression, features: {size: number, age: number, city: category}}
- {name: churn, task: binary, features: {visits: number}}
- {name: bot, task: llm}
record_rules: [{name: leak, model: bot, masked: [email], key: rule}]
maintenance: [{name: move, models: [churn], start: 2026-01-01T00:00:00Z, end: 2126-01-01T00:00:00Z, reason: it moves}]
export: {otlp: {endpoint: "http://127.0.0.1:1"}}   # where nobody listens
budgets: [{model: bot, cost_usd_per_day: 100, tokens_per_day: 1000000}]
checks:
- {name: houses-drift, model: houses, detector: data_drift, settings: {policy: evidently}, reference: {file: $reference},
   every: 1m, threshold: {upper: 0.2}, min_records: 20, slices: [{by: city}], owner: prices}
- {name: houses-calibrated, model: houses, detector: data_drift, reference: {file: $reference}, every: 1m,
   threshold: {kind: calibrated, alpha: 0.01}, min_records: 20}
- {name: houses-error, model: houses, detector: performance, settings: {metric: mae}, every: 1m,
   threshold: {upper: 1000}, min_records: 20}
- {name: houses-quality, model: houses, detector: data_quality, reference: {file: $reference}, every: 1m,
   threshold: {kind: quantile, upper: 0.99, baseline: {start: 2026-01-01T00:00:00Z, end: 2026-01-01T01:00:00Z}},
   min_records: 20}
- {name: churn-expected, model: churn, detector: performance_estimate, settings: {metric: accuracy, min_rows: 20}, every: 1m,
   reference: {file: $known}, threshold: {lower: 0.5}, min_records: 20}
- {name: houses-expected, model: houses, detector: performance_estimate, settings: {metric: mae, min_rows: 20}, every: 1m,
   reference: {file: $reference}, threshold: {upper: 1000}, min_records: 20}
- {name: churn-right, model: churn, detector: performance, settings: {metric: accuracy}, every: 1m,
   threshold: {lower: 0.9}, min_records: 20}
- {name: bot-unsupported, model: bot, detector: faithfulness, every: 1m, threshold: {upper: 0.2}, min_records: 5}
- {name: bot-rude, model: bot, detector: toxicity, every: 1m, threshold: {upper: 0.2}, min_records: 5}
- {name: bot-beside, model: bot, detector: answer_relevance, every: 1m, threshold: {upper: 0.2}, min_records: 5}
- {name: bot-retrieval, model: bot, detector: retrieval, settings: {among: all, min_rows: 5}, every: 1m,
   threshold: {upper: 0.9}, min_records: 5}
- {name: bot-polite, model: bot, detector: judge, every: 1m, threshold: {upper: 0.05}, min_records: 5,
   settings: {metric: discrete, prompt: "Is this polite? {response}", values: {"yes": 1, "no": 0}, rate: 0.5}}
sources:
- {type: follow, name: log, path: $log, kind: predictions, model: churn}
"""


def reference(path: Path) -> Path:
    """Houses as they were."""
    rows = [_house(random.Random(n), moved=False) | {"prediction": 300.0, "label": 290.0 + n % 20} for n in range(300)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def known(path: Path) -> Path:
    """Customers who stayed or went."""
    rows = [
        {"visits": n / 300, "prediction": n % 2, "probability": 0.2 + 0.6 * (n % 2), "label": int(n % 5 > 2)} for n in range(300)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _house(chance: random.Random, *, moved: bool) -> dict[str, Any]:
    return {"size": chance.gauss(100, 10) + 60 * moved, "age": chance.gauss(30, 5), "city": chance.choice(CITIES)}


def past(now: datetime) -> list[Batch]:
    """Two minutes of all three models, so that one whole one is over. Houses have moved, answers say what no passage says."""
    found = []
    for n in range(60):
        found += wave(now - timedelta(seconds=120 - 2 * n), f"past-{n}", streams=n % 9 == 0)
    return [
        Batch(kind, model, [record for batch in found if (batch.kind, batch.model) == (kind, model) for record in batch.records])
        for kind, model in dict.fromkeys((batch.kind, batch.model) for batch in found)
    ]


def wave(when: datetime, name: str, *, streams: bool = True) -> list[Batch]:
    """Some records of that time; `streams`: answers among them."""
    chance = random.Random(name)
    houses = [
        {
            "record_id": f"house-{name}-{i}",
            "timestamp": when.isoformat(),
            "features": _house(chance, moved=True),
            "prediction": 300.0,
        }
        for i in range(4)
    ]
    churn = [
        {"record_id": f"churn-{name}-{i}", "timestamp": when.isoformat(), "features": {"visits": chance.random()},
         "prediction": i, "probability": 0.2 + 0.6 * i}
        for i in range(2)
    ]  # fmt: skip
    found = [
        Batch("predictions", HOUSES, houses),
        Batch("labels", HOUSES, [{"record_id": row["record_id"], "label": 280.0} for row in houses]),
        Batch("predictions", CHURN, churn),
        Batch("labels", CHURN, [{"record_id": row["record_id"], "label": i % 2} for i, row in enumerate(churn)]),
    ]
    if streams:
        found.append(Batch("generations", BOT, answers(when, name)))
    return found


def early(now: datetime, name: str) -> Batch:
    """From a sender whose clock is an hour ahead."""
    row = {
        "record_id": f"early-{name}",
        "timestamp": (now + timedelta(hours=1)).isoformat(),
        "features": {"visits": 0.5},
        "prediction": 1,
    }
    return Batch("predictions", CHURN, [row])


def answers(when: datetime, name: str) -> list[dict[str, Any]]:
    """One request that failed at first, one that failed for good, one of an LLM without a price, and one without passages."""
    chance = random.Random(name)

    def answer(kind: str, **more: Any) -> dict[str, Any]:
        return {
            "record_id": f"{kind}-{name}",
            "trace_id": f"{chance.getrandbits(128):032x}",
            "timestamp": when.isoformat(),
            "provider": "openai",
            "llm_model": "gpt-4o-mini",
            "operation": "chat",
            "question": "May I return my order?",
            "response": f"You bloody idiot, mail someone@example.org within {chance.randrange(90)} days.",
            "contexts": ["Goods may be returned within 14 days."],
            "input_tokens": 900,
            "output_tokens": 60,
            "cache_read_tokens": 100,
            "reasoning_tokens": 10,
            "duration_seconds": 2.5,
            "time_to_first_token_seconds": 0.5,
            "prompt_name": "support",
            "prompt_version": "1",
        } | more

    failed = answer("failed", error_type="timeout", response=None, output_tokens=0)
    return [
        answer("whole"),
        failed,
        answer("again", trace_id=failed["trace_id"], retry=1),
        answer("lost", error_type="rate_limit_exceeded", response=None, output_tokens=0),
        answer("unpriced", llm_model="house-made"),
        answer("bare", contexts=[], response="Yes."),
    ]


def line(name: str, when: datetime) -> str:
    """Of the file that is followed."""
    row = {"record_id": f"line-{name}", "timestamp": when.isoformat(), "features": {"visits": 0.5}, "prediction": 1}
    return json.dumps(row) + "\n"
