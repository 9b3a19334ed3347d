from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor import data
from monitor.demo import data as replayed
from monitor.demo.data import Batch
from monitor.demo.replay import Client, replay
from monitor.demo.stack import ANY, Stack
from monitor.demo.stop import Stop
from monitor.demo.webhook import Webhook

DRIFT, UNSUPPORTED = "bike-rental-drift", "support-bot-unsupported"
WEEKS, ANSWERS = 20, 40
UNGUARDED = "Unguarded"
RELEASED, WATCHES = "released", 30


@dataclass(frozen=True)
class Running:
    """The daemon, Prometheus and Alertmanager with data of two models whose checks fire."""

    stack: Stack
    webhook: Webhook
    stop: Stop


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("e2e")
    webhook, stop = Webhook(), Stop()
    stack = Stack(
        folder,
        two_checks((Path(replayed.__file__).with_name("modelwatch.yaml")).read_text(encoding="utf-8")),
        ports=ANY.free()[0],
        rules=impatient(data.folder("rules"), folder / "rules"),
        webhook=webhook.url,
        reference=replayed.REFERENCE,
    )
    client = Client(stack.push, stop)
    webhook.start()
    try:
        stack.start(stop)
        replay(client, replayed.bike(replayed.now(), weeks=WEEKS), "bike")
        for release in replayed.answers(replayed.now(), each=ANSWERS):
            replay(client, release, "answers")
        replay(client, bad_release(), "release")
        yield Running(stack, webhook, stop)
    finally:
        client.close()
        stack.close()
        webhook.stop()


def two_checks(text: str) -> str:
    """The demo's config without what these tests do not ask of it, as each check costs time; and a model that many watch."""
    config: dict[str, Any] = yaml.safe_load(text)
    config["checks"] = [check for check in config["checks"] if check["name"] in (DRIFT, UNSUPPORTED)]
    config["models"].append({"name": RELEASED, "task": "regression", "owner": "ann"})
    config["checks"] += [
        {
            "name": f"watch-{n}", "model": RELEASED, "detector": "tests.plugins:Mean", "every": "10m", "min_records": 1,
            "threshold": {"upper": 10 + n}, "severity": "critical",
        }
        for n in range(WATCHES)
    ]  # fmt: skip
    return yaml.safe_dump(config)


def bad_release() -> list[Batch]:
    """An hour and a half of predictions; half an hour ago they went bad."""
    ended = replayed.now()
    rows = [
        {
            "record_id": f"p{minutes}",
            "timestamp": (ended - timedelta(minutes=minutes)).isoformat(),
            "prediction": 1.0 if minutes > 30 else 100.0,
            "model_version": "1" if minutes > 30 else "2",
        }
        for minutes in range(90, -1, -1)
    ]
    return [Batch("predictions", RELEASED, rows)]


def impatient(shipped: Path, folder: Path) -> Path:
    """The shipped rules, with every `for` cut to 10 s, and beside them the naive rule that a dead daemon resolves."""
    folder.mkdir()
    for path in shipped.glob("*.rules.yml"):
        rules = yaml.safe_load(path.read_text(encoding="utf-8"))
        for rule in (rule for group in rules["groups"] for rule in group["rules"] if "for" in rule):
            rule["for"] = "10s"  # a starting Prometheus looks for its targets after five
        (folder / path.name).write_text(yaml.safe_dump(rules))
    naive = {"alert": UNGUARDED, "expr": "modelwatch_firing == 1"}
    (folder / "naive.rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "naive", "rules": [naive]}]}))
    example = "alertmanager.example.yml"
    (folder / example).write_bytes((shipped / example).read_bytes())
    return folder
