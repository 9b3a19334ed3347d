"""Every query of every dashboard, asked of a Prometheus that scrapes a daemon with traffic, and every table of its JSON API.

Grafana itself is not run: nothing here says how a panel looks.
"""

from __future__ import annotations

import itertools
import json
import math
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dashboards.panel import panel_id
from monitor.demo.data import Batch
from monitor.demo.replay import Client, replay
from monitor.demo.stack import ANY, Stack
from monitor.demo.stop import Late, Stop
from tests.dashboards import traffic
from tests.dashboards.reading import NAMES, asked, events, filled, tables, variables
from tests.judge import JudgeServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECONDS, PAUSE = 240.0, 1.0  # enough where much else runs

# What has no data here, and why: by the name of its panel, and its legend.
FAULTS = "counts what goes wrong, and nothing does here"
LATER = "segments are merged once their hour is over"
NO_HOSTS = "no vLLM and no dcgm-exporter here"
NO_GRAFANA = "there is no Grafana"
NO_GPU = "there need not be a GPU"
NOTHING_TO_SHOW = {
    ("kafka-lag", "{{source}} {{topic}}"): "there is no broker here",
    ("dead-letter-work", "{{action}}: {{reason}}"): "nobody replays or drops anything here",
    ("commits", "failed: {{reason}}"): FAULTS,
    ("sealing-failures", "index of {{kind}}"): FAULTS,
    ("runs", "{{check}} failed: {{reason}}"): FAULTS,
    ("scoring-failures", "{{model}} {{detector}} {{reason}}"): FAULTS,
    ("grafana-sync", "failed: {{reason}}"): NO_GRAFANA,
    ("grafana-sync", "kept: {{reason}}"): NO_GRAFANA,
    ("grafana-sync-age", "{{instance}}"): NO_GRAFANA,
    ("serving-queue", "{{host}} {{llm_model}} waiting"): NO_HOSTS,
    ("serving-queue", "{{host}} {{llm_model}} running"): NO_HOSTS,
    ("serving-memory", "{{host}} GPU {{gpu}}"): NO_HOSTS,
    ("serving-memory", "{{host}} {{llm_model}} cache"): NO_HOSTS,
}
SOMETIMES = {
    ("sealing-age", "merged"): LATER,
    ("segments", "{{kind}} merged to {{level}}"): LATER,
    ("sealing-duration", "compact p95"): LATER,
    ("gpu-memory", "{{instance}} GPU {{gpu}} in use"): NO_GPU,
    ("gpu-memory", "{{instance}} GPU {{gpu}} ours"): NO_GPU,
    ("gpu-memory", "{{instance}} GPU {{gpu}} there is"): NO_GPU,
    ("gpu-utilisation", "{{instance}} GPU {{gpu}}"): NO_GPU,
    ("budget-forecast", "{{model}} {{environment}} {{prompt}}, {{unit}} a {{period}}"): "not in the first hour of a day",
}
EXCEPT = {(panel_id(name), legend) for name, legend in NOTHING_TO_SHOW | SOMETIMES}
NEVER = {(panel_id(name), legend) for name, legend in NOTHING_TO_SHOW}

NULL_HERE = {"resolved", "top_slice"}


@dataclass
class Live:
    stack: Stack
    client: Client
    stop: Stop
    otlp: str
    log: Path
    waves: Iterator[int]

    def wave(self) -> None:
        """A little more of everything, so that counters move between two scrapes."""
        now, name = datetime.now(UTC), f"wave-{next(self.waves)}"
        replay(self.client, [*traffic.wave(now, name), traffic.early(now, name)], name)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(traffic.line(name, now))
        _post(f"http://{self.otlp}/v1/metrics", {"resourceMetrics": []})
        self.client.post(Batch("predictions", traffic.HOUSES, [{"record_id": name, "features": "none"}]))

    def value(self, expr: str) -> list[float]:
        """Of each series, now."""
        found = self.stack.query("query", query=filled(expr, rate_interval="15s"))
        return [float(series["value"][1]) for series in found["result"]]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("dashboards")
    stop = Stop()
    ports, others = ANY.free()[0], ANY.free()[0]
    with JudgeServer() as judge:
        otlp = f"127.0.0.1:{others.push}"
        config = traffic.CONFIG.replace("$otlp", otlp).replace("$judge", judge.url)
        reference, log = traffic.reference(folder / "reference.parquet"), folder / "log.jsonl"
        log.touch()
        known = traffic.known(folder / "known.parquet")
        stack = Stack(folder / "stack", config, ports=ports, reference=reference, known=known, log=log)
        client = Client(stack.push, stop)
        try:
            stack.start(stop)
            replay(client, traffic.past(datetime.now(UTC)), "past")
            yield Live(stack, client, stop, otlp, log, itertools.count())
        finally:
            client.close()
            stack.close()


def test_every_query_gives_finite_values(live: Live) -> None:
    titles = {panel["id"]: f"{name}: {panel['title']}" for name in NAMES for panel in asked(name)}
    left = {
        (panel["id"], target["legendFormat"]): target["expr"]
        for name in NAMES
        for panel in asked(name)
        for target in panel["targets"]
    }
    assert set(left) >= EXCEPT, "there is no such panel any more"

    def look() -> bool:
        live.wave()
        for key in [key for key, expr in left.items() if finite(live.value(expr))]:
            del left[key]
        if set(left) <= EXCEPT:
            return True
        live.stop.wait(PAUSE)
        return False

    try:
        live.stop.wait_for("data in every panel", look, SECONDS)
    except Late:
        assert {(titles[number], legend): expr for (number, legend), expr in left.items() if (number, legend) not in EXCEPT} == {}
    assert {(titles[number], legend) for number, legend in NEVER - set(left)} == set(), "there is something by now"


def finite(values: list[float]) -> bool:
    return bool(values) and all(math.isfinite(value) for value in values)


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_has_values(live: Live, name: str) -> None:
    for variable in variables(name).values():
        if variable["type"] == "query":
            series, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            found = live.stack.query(f"label/{label}/values", **{"match[]": filled(series)})
            assert found, variable["definition"]


@pytest.mark.parametrize("name", NAMES)
def test_the_events_that_are_drawn_can_be_asked_for(live: Live, name: str) -> None:
    for expr in events(name):
        live.value(expr)  # an error of Prometheus is a 4xx, which raises


@pytest.mark.parametrize("panel", [panel for name in NAMES for panel in tables(name)], ids=lambda panel: panel["title"])
def test_a_table_has_rows_with_the_columns_it_names_and_links_that_open(live: Live, panel: dict[str, Any]) -> None:
    """As the backend parser of Infinity reads them: the list under `root_selector`, and of each row the fields."""
    site = f"http://{live.stack.push}"
    [told] = live.stack.query("query", query="modelwatch_external_url_info")["result"]
    assert told["metric"]["url"] == site
    [target] = panel["targets"]
    fields = {column["text"]: column["selector"] for column in target["columns"]}

    def rows(chosen: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(_get(site + target["url"].replace("${model:csv}", chosen)))[
            target["root_selector"]
        ]
        return found

    def whole() -> list[dict[str, Any]]:
        found = rows(".+")  # nothing is chosen, and a plus arrives as it stands in the address
        return found if all(any(row[field] is not None for row in found) for field in {*fields.values()} - NULL_HERE) else []

    found = live.stop.wait_for("a value in each column", whole, SECONDS)
    assert all(set(fields.values()) <= set(row) for row in found)
    assert rows("nobody") == []
    for override in panel["fieldConfig"]["overrides"]:
        for link in (one for each in override["properties"] if each["id"] == "links" for one in each["value"]):
            field = fields[override["matcher"]["options"]]
            cell = next(row[field] for row in found if row[field] is not None)
            page = link["url"].replace("${external_url:raw}", site).replace("${__value.raw}", str(cell))
            assert b"<html" in _get(page), page


def test_a_point_of_a_score_or_a_latency_leads_to_the_page_of_its_trace(live: Live) -> None:
    for metric in ("modelwatch_detector_score_ratio", "modelwatch_llm_duration_seconds"):

        def exemplars(metric: str = metric) -> list[dict[str, Any]]:
            now = datetime.now(UTC).timestamp()
            found = live.stack.query("query_exemplars", query=f"{metric}_bucket", start=str(now - 600), end=str(now))
            return [one for series in found for one in series["exemplars"]]

        point = live.stop.wait_for(metric, exemplars, SECONDS)[-1]
        page = _get(f"http://{live.stack.push}/traces/{point['labels']['trace_id']}")
        assert point["labels"]["trace_id"].encode() in page


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        found: bytes = response.read()
        return found


def _post(url: str, body: Any) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10):
        pass
