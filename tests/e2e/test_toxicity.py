"""A checkpoint of Detoxify, from `modelwatch models add` and the config to an alert in Alertmanager."""

from __future__ import annotations

import subprocess
import sys
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
from monitor.demo.webhook import Webhook
from tests.detectors import tinydetoxify
from tests.e2e.conftest import impatient

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FIRING, CHECK = "ModelwatchCheckFiring", "bot-rude"
SECONDS = 90.0
CONFIG = """
store: {path: $store, tail_seconds: 2s}
server: {listen: "$push"}
metrics: {listen: "$metrics"}
otlp: {http: off, grpc: off}
scoring: {settle_seconds: 1}
models: [{name: bot, task: llm}]
checks:
- {name: bot-rude, model: bot, detector: toxicity, every: 10m, min_records: 5, threshold: {upper: 0.2}, severity: critical,
   settings: {backend: detoxify, checkpoint: detoxify-tiny, device: cpu}}
- {name: bot-rude-questions, model: bot, detector: toxicity, every: 10m, min_records: 5, threshold: {upper: 0.2},
   settings: {of: question, backend: detoxify, checkpoint: detoxify-tiny, device: cpu}}
"""


def modelwatch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "monitor", *arguments], capture_output=True, text=True, timeout=SECONDS)


def test_rude_answers_are_scored_by_the_checkpoint_and_fire_an_alert(tmp_path: Path) -> None:
    webhook, stop = Webhook(), Stop()
    rules = impatient(data.folder("rules"), tmp_path / "rules")
    stack = Stack(tmp_path / "stack", CONFIG, ports=ANY.free()[0], rules=rules, webhook=webhook.url)
    client = Client(stack.push, stop)
    refused = modelwatch("check-config", str(stack.config))
    assert refused.returncode == 1
    assert "checks.0.settings.checkpoint: there is no " in refused.stderr
    assert "`modelwatch models how` prints how to get one" in refused.stderr

    made = tinydetoxify.make(tmp_path / "downloaded")
    arguments = ("--from", str(made), "--license", "Apache-2.0", "--revision", "none", "--config", str(stack.config))
    placed = modelwatch("models", "add", "detoxify-tiny", *arguments)
    assert placed.returncode == 0, placed.stderr
    assert modelwatch("check-config", str(stack.config)).returncode == 0
    webhook.start()
    try:
        stack.start(stop)
        replay(client, answers(), "answers")
        stop.wait_for("the alert", partial(stack.firing, FIRING, check=CHECK), SECONDS)
        stop.wait_for("word of it", partial(webhook.told, "firing", "ModelwatchCaseOpen", model="bot"), SECONDS)
        assert stack.firing(FIRING, check="bot-rude-questions") is None
    finally:
        client.close()
        stack.close()
        webhook.stop()


def answers() -> list[Batch]:
    """Forty of the last hour: kind questions all, every other answer rude."""
    rude, kind = "you are a {} one", "this is {}"
    words = [pair[i % 2] for i, pair in enumerate(zip(tinydetoxify.RUDE * 8, tinydetoxify.KIND * 8, strict=True))][:40]
    rows: list[dict[str, Any]] = [
        {
            "record_id": f"answer-{i}",
            "timestamp": (now() - timedelta(minutes=60 - i)).isoformat(),
            "question": kind.format(tinydetoxify.KIND[i % 6]),
            "response": (rude if word in tinydetoxify.RUDE else kind).format(word),
        }
        for i, word in enumerate(words)
    ]
    return [Batch("generations", "bot", rows)]
