"""The rules as Prometheus and Alertmanager read them, and that they speak of metrics, headings and panels that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from monitor import catalogue, data, rendering
from monitor.serving import Hosts
from tests.rules.reading import FILES, RULES, TESTS, UNITS, alerts, cases, read_by, records, table

ALERTS = [pytest.param(alert, id=f"{alert['alert']}-{i}") for i, alert in enumerate(alerts())]
OTHERS = {"ModelwatchCaseOpen", "ModelwatchCheckFiring"}  # whose severity is that of the check
LONG = ("slo", "cost", "traffic")  # days of samples; their ranges are the same rates as those of the others
LASTING = {"ModelwatchCaseOpen", "ModelwatchCheckFiring", "ModelwatchAvailabilityBurnsFast", "ModelwatchBudgetSpent"}
LASTING |= {"ModelwatchStoreDegraded", "ModelwatchSegmentQuarantined", "ModelwatchDiskFillsSoon"}
"""What pages by the word of the daemon, and whose cause its death does not mend."""


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def sections() -> dict[str, str]:
    """The runbook by heading."""
    parts = re.split(r"^## (\w+)$", (RULES / "RUNBOOK.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_prometheus_takes_the_rules() -> None:
    run("promtool", "check", "rules", *map(str, FILES))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_each_alert_fires_when_it_should_and_not_otherwise(file: Path) -> None:
    run("promtool", "test", "rules", str(file))


@pytest.mark.parametrize("file", [file for file in TESTS if not file.stem.startswith(LONG)], ids=lambda file: file.stem)
def test_no_alert_depends_on_the_left_end_of_a_range(file: Path, tmp_path: Path) -> None:
    """Prometheus 3 leaves it out. So does the one here when each range is a millisecond shorter than its samples lie apart."""

    def shorter(match: re.Match[str]) -> str:
        return f"[{int(match[1]) * UNITS[match[2]] * 1000 - 1}ms]"

    (tmp_path / "tests").mkdir()
    for path in FILES:
        (tmp_path / path.name).write_text(re.sub(r"\[(\d+)([smhd])\]", shorter, path.read_text(encoding="utf-8")))
    shutil.copy(file, tmp_path / "tests" / file.name)
    run("promtool", "test", "rules", str(tmp_path / "tests" / file.name))


def test_alertmanager_takes_the_example() -> None:
    run("amtool", "check-config", str(RULES / "alertmanager.example.yml"))


def test_there_is_a_runbook_heading_for_each_alert_and_no_other() -> None:
    assert set(sections()) == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("heading", sorted(sections()))
def test_the_runbook_says_what_it_means_what_to_look_at_how_to_silence_and_how_to_tell_a_false_alarm(heading: str) -> None:
    said = re.findall(r"^\*\*(.+?)\*\* \S", sections()[heading], re.MULTILINE)
    assert said == ["Means.", "Look first.", "Silence.", "False alarm?"]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    notes = alert["annotations"]
    assert {"summary", "description", "runbook_url", "dashboard_url", "case_url"} <= set(notes)
    assert "{{" not in notes["summary"], "alerts that are grouped share their summary"
    assert notes["runbook_url"].endswith("RUNBOOK.md#" + alert["alert"].lower())
    assert notes["case_url"].startswith(rendering.EXTERNAL_URL + "/cases")
    assert alert["alert"] in OTHERS or alert["labels"]["severity"] in {"critical", "warning", "info", "none"}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_leads_to_a_panel_that_is_there(alert: dict[str, Any]) -> None:
    url = urlsplit(alert["annotations"]["dashboard_url"].replace("{{ $labels.model }}", "bot"))
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in data.folder("dashboards").glob("*.json")]
    panels = {board["uid"]: {str(p["id"]) for p in board["panels"] if p["type"] != "row"} for board in boards}
    assert parse_qs(url.query)["viewPanel"][0] in panels[url.path.removeprefix("/d/")]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_about_a_model_leads_to_its_cases(alert: dict[str, Any]) -> None:
    about = "$labels.model " in alert["annotations"]["description"].replace("}}", " ")
    assert ("model={{ $labels.model }}" in alert["annotations"]["case_url"]) == about


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_asks_for_metrics_that_exist(alert: dict[str, Any]) -> None:
    hosts = Hosts()
    theirs = {hosts.gpu_memory_used, hosts.gpu_memory_free, hosts.waiting, hosts.running, *hosts.cache_usage, "up"}
    theirs |= {"prometheus_rule_evaluation_failures_total"}
    # A histogram is asked for by its parts; objectives, quotas and limits of checks are recorded where the config has some.
    parts = {
        f"{spec.name}{end}" for spec in catalogue.specs().values() if spec.kind == "histogram" for end in ("_bucket", "_count")
    }
    rendered = {"model_detector:modelwatch_flagged_objective:ratio", "quota:modelwatch_llm_used:ratio"}
    rendered |= {"model_check:modelwatch_window_age_limit:seconds"}
    assert read_by(alert["expr"]) <= {*catalogue.specs(), *parts, *records(), *theirs, *rendered}


def test_a_recording_rule_is_named_by_level_metric_and_operations() -> None:
    named = re.compile(r"[a-z_]+:[a-z_0-9]+(:[a-z0-9_]+)?")
    assert [name for name in records() if not named.fullmatch(name)] == []


@pytest.mark.parametrize(("alert", "firing", "quiet"), table(), ids=lambda cell: cell if cell.startswith("Modelwatch") else "")
def test_each_alert_has_a_test_that_makes_it_fire_and_one_that_shows_it_quiet(alert: str, firing: str, quiet: str) -> None:
    assert firing
    assert quiet or alert == "ModelwatchWatchdog", "which always fires"


@pytest.mark.parametrize("alert", sorted(LASTING))
def test_what_pages_stays_up_when_the_daemon_dies(alert: str) -> None:
    assert any({alert, "ModelwatchDown"} <= firing for case in cases() for _, firing, _ in case.asked)


def test_what_a_dead_daemon_said_is_suppressed_and_not_resolved() -> None:
    rules = yaml.safe_load((RULES / "alertmanager.example.yml").read_text())["inhibit_rules"]
    down = next(r for r in rules if r["source_matchers"] == ["alertname = ModelwatchDown"])
    assert {"CaseOpen", "CheckFiring"} <= set(re.findall(r"\w+", str(down["target_matchers"])))
    assert "equal" not in down, "Down is about no model"
