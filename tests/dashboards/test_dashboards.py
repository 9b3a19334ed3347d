"""The dashboards as they are checked in, and the rules of dashboard-linter that apply to them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from dashboards import build
from monitor import board, data
from monitor.metrics import Metrics

FOLDER = data.folder("dashboards")
NAMES = sorted(path.name for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return found


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in read(name)["panels"] if panel["type"] != "row"]


def expressions(name: str) -> list[str]:
    return [target["expr"] for panel in panels(name) for target in panel["targets"]]


def test_building_again_changes_nothing() -> None:
    assert sorted(build.DASHBOARDS) == NAMES
    for name in NAMES:
        assert build.render(name) == (FOLDER / name).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_has_the_usual_variables_and_cannot_be_edited_by_hand(name: str) -> None:
    dashboard = read(name)
    variables = {v["name"]: v for v in dashboard["templating"]["list"]}
    assert {"datasource", "job", "instance"} <= set(variables)
    assert variables["datasource"]["type"] == "datasource"
    for variable in list(variables.values())[1:]:
        assert variable["multi"]
        assert variable["allValue"] == ".+"
        assert variable["refresh"] == 2, "on a change of the time range"
    assert not dashboard["editable"]


@pytest.mark.parametrize("name", NAMES)
def test_a_panel_says_what_it_shows_in_which_unit_from_the_chosen_source(name: str) -> None:
    for panel in panels(name):
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("name", NAMES)
def test_panels_do_not_lie_on_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in read(name)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", NAMES)
def test_queries_go_by_job_and_instance_and_use_counters_as_counters(name: str) -> None:
    for expr in expressions(name):
        assert 'job=~"$job"' in expr
        assert 'instance=~"$instance"' in expr
        for window in re.findall(r"\[([^]]+)\]", expr):
            assert window == "$__rate_interval"
        for counter in re.findall(r"\w*modelwatch_\w+(?:_total|_bucket)", expr):
            assert re.search(r"(rate|increase)\(" + counter, expr), expr


@pytest.mark.parametrize("name", NAMES)
def test_queries_ask_for_metrics_that_exist(name: str) -> None:
    known = {*Metrics(CollectorRegistry()).specs, *board.SPECS}
    for expr in expressions(name):
        asked = {m.removesuffix("_bucket") for m in re.findall(r"modelwatch_\w+", expr)}
        assert asked <= known


@pytest.mark.parametrize("name", NAMES)
def test_prometheus_can_parse_every_query(name: str, tmp_path: Path) -> None:
    # promtool 2.42 checks no bare expression, so each is dressed as a recording rule, with Grafana's variables filled in.
    filled = (re.sub(r"\$\w+", ".+", expr.replace("$__rate_interval", "1m")) for expr in expressions(name))
    rules = [{"record": f"panel:{i}", "expr": expr} for i, expr in enumerate(filled)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
