"""The rules as Prometheus and Alertmanager read them, and that they speak of metrics and headings that exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from monitor import catalogue, data

RULES = data.folder("rules")
FILES = sorted(RULES.glob("*.rules.yml"))


def alerts() -> Iterator[dict[str, Any]]:
    for file in FILES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from (rule for rule in group["rules"] if "alert" in rule)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def headings() -> set[str]:
    return {line[3:].strip() for line in (RULES / "RUNBOOK.md").read_text().splitlines() if line.startswith("## ")}


def test_prometheus_takes_the_rules() -> None:
    run("promtool", "check", "rules", *map(str, FILES))


def test_each_alert_fires_when_it_should_and_not_otherwise() -> None:
    run("promtool", "test", "rules", *map(str, sorted((RULES / "tests").glob("*.yml"))))


def test_alertmanager_takes_the_example() -> None:
    run("amtool", "check-config", str(RULES / "alertmanager.example.yml"))


def test_there_is_a_runbook_heading_for_each_alert_and_no_other() -> None:
    assert headings() == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("alert", list(alerts()), ids=lambda alert: alert["alert"])
def test_an_alert_says_what_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert {"summary", "description", "runbook_url"} <= set(notes)
    assert "{{" not in notes["summary"], "alerts that are grouped share their summary"
    assert notes["runbook_url"].endswith("RUNBOOK.md#" + alert["alert"].lower())
    # A check's severity is its own; every other alert has one.
    assert alert["alert"] in ("ModelwatchCaseOpen", "ModelwatchCheckFiring") or "severity" in alert["labels"]


@pytest.mark.parametrize("alert", list(alerts()), ids=lambda alert: alert["alert"])
def test_an_alert_asks_for_metrics_that_exist(alert: dict[str, Any]) -> None:
    known = set(catalogue.specs())
    assert set(re.findall(r"modelwatch_\w+", alert["expr"])) <= known


@pytest.mark.parametrize("alert", list(alerts()), ids=lambda alert: alert["alert"])
def test_each_alert_is_tested(alert: dict[str, Any]) -> None:
    tests = "".join(file.read_text() for file in (RULES / "tests").glob("*.yml"))
    assert f'alertname="{alert["alert"]}"' in tests


def test_what_a_dead_daemon_said_is_suppressed_and_not_resolved() -> None:
    rules = yaml.safe_load((RULES / "alertmanager.example.yml").read_text())["inhibit_rules"]
    down = next(r for r in rules if r["source_matchers"] == ["alertname = ModelwatchDown"])
    assert {"CaseOpen", "CheckFiring"} <= set(re.findall(r"\w+", str(down["target_matchers"])))
    assert "equal" not in down, "Down is about no model"
