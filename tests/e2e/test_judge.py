"""Four of ragas' metrics with different inputs and a rubric, from the config to an alert in Alertmanager."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from monitor import data
from monitor.demo.data import Batch, now
from monitor.demo.replay import Client, replay
from monitor.demo.stack import ANY, Stack
from monitor.demo.stop import Stop
from monitor.demo.story import sql
from monitor.demo.webhook import Webhook
from tests.e2e.conftest import impatient
from tests.e2e.test_toxicity import modelwatch
from tests.judge import JudgeServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FIRING, SECONDS = "ModelwatchCheckFiring", 120.0
ANSWERS = 24
BAD, GOOD = ("bot-unfaithful", "bot-off-topic", "bot-inexact", "bot-impolite"), "bot-lost"
CONFIG = """
store: {path: $store, tail_seconds: 2s}
server: {listen: "$push"}
metrics: {listen: "$metrics"}
otlp: {http: off, grpc: off}
scoring: {settle_seconds: 1}
judge: {base_url: "URL", model: tiny-judge, price: {input: 1, output: 2}, budget: {calls_per_day: 1000, usd_per_day: 50}}
models: [{name: bot, task: llm}]
checks:
- {name: bot-unfaithful, model: bot, detector: judge, every: 10m, min_records: 3, threshold: {upper: 0.05}, severity: critical,
   settings: {metric: faithfulness, rate: 1}}
- {name: bot-off-topic, model: bot, detector: judge, every: 10m, min_records: 3, threshold: {upper: 0.05}, flag: 0.01,
   settings: {metric: answer_relevancy, rate: 1, options: {strictness: 1}}}
- {name: bot-lost, model: bot, detector: judge, every: 10m, min_records: 3, threshold: {upper: 0.05},
   settings: {metric: context_relevance, rate: 1}}
- {name: bot-inexact, model: bot, detector: judge, every: 10m, min_records: 3, threshold: {upper: 0.05},
   settings: {metric: exact_match, rate: 1, fields: {reference: attributes.gold}}}
- {name: bot-impolite, model: bot, detector: judge, every: 10m, min_records: 3, threshold: {upper: 0.05},
   settings: {metric: discrete, prompt: "Is this polite? {response}", values: {"yes": 1, "no": 0}, rate: 1}}
"""


def test_judged_answers_fire_alerts_and_say_what_was_asked_of_whom(tmp_path: Path) -> None:
    webhook, stop = Webhook(), Stop()
    rules = impatient(data.folder("rules"), tmp_path / "rules")
    with JudgeServer() as server:
        config = CONFIG.replace("URL", server.url)
        stack = Stack(tmp_path / "stack", config, ports=ANY.free()[0], rules=rules, webhook=webhook.url)
        client = Client(stack.push, stop)
        checked = modelwatch("check-config", str(stack.config))
        assert checked.returncode == 0, checked.stderr
        assert "bot-unfaithful: of 1,000 answers about 1000 are judged (faithfulness, 2 calls each" in checked.stdout
        webhook.start()
        try:
            stack.start(stop)
            replay(client, answers(), "answers")
            for check in BAD:
                stop.wait_for(f"the alert of {check}", partial(stack.firing, FIRING, check=check), SECONDS)
            stop.wait_for("word of the case", partial(webhook.told, "firing", "ModelwatchCaseOpen", model="bot"), SECONDS)
            assert stack.firing(FIRING, check=GOOD) is None

            def judged() -> list[dict[str, Any]]:
                query = "SELECT record_id, outcome, stage, detail FROM scores WHERE detector = 'judge'"
                found = [json.loads(line) for line in sql(stack, query, "json")[1].splitlines()]
                return found if len(found) == 5 * ANSWERS else []

            scores = stop.wait_for("all scores in the auditors' view", judged, SECONDS)
            assert {score["outcome"] for score in scores} == {"ok"}
            details = [json.loads(score["detail"]) for score in scores]
            calls = {"faithfulness": 2, "answer_relevancy": 1, "context_relevance": 2, "exact_match": 0, "discrete": 1}
            assert {one["metric"]: one.get("calls", 0) for one in details} == calls
            assert all(one["llm_model"].startswith("tiny-judge") and one["prompt_hash"] for one in details if "calls" in one)
            assert len(server.asked) == ANSWERS * sum(calls.values())
        finally:
            client.close()
            stack.close()
            webhook.stop()


def answers() -> list[Batch]:
    """Of the last hour: every other one is bad by what the judge finds in it, and not what it should have been.

    However the hour lies, a window of three answers or more has one in three that is bad: its interval is beyond 0.05.
    """
    rows: list[dict[str, Any]] = [
        {
            "record_id": f"answer-{i}",
            "timestamp": (now() - timedelta(minutes=60 - 2 * i)).isoformat(),
            "question": "May I return my order?",
            "response": f"Within {i} days. [[bad]]" if i % 2 else "Within 14 days.",
            "contexts": ["Goods may be returned within 14 days."],
            "gold": "Within 14 days.",
        }
        for i in range(ANSWERS)
    ]
    return [Batch("generations", "bot", rows)]
