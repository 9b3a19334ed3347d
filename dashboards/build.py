"""Writes the Grafana dashboards beside it: classic JSON, checked in, the same for the same code.

python dashboards/build.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TARGET = 'job=~"$job", instance=~"$instance"'
CHECK = f'{TARGET}, model=~"$model", check=~"$check"'


@dataclass(frozen=True)
class Panel:
    """One panel; `targets` are (PromQL, legend)."""

    title: str
    description: str
    unit: str
    targets: list[tuple[str, str]]
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    thresholds: list[tuple[str, float | None]] = field(default_factory=lambda: [("green", None)])


OVERVIEW: list[tuple[str, list[Panel]]] = [
    (
        "Is anything wrong, and is what we see fresh?",
        [
            Panel(
                "Checks firing",
                "Checks that fire now. Their incidents say which features, records and versions.",
                "short",
                [(f"sum(modelwatch_firing{{{CHECK}}}) or vector(0)", "firing")],
                "stat",
                6,
                5,
                [("green", None), ("red", 1)],
            ),
            Panel(
                "Daemons that cannot be scraped",
                "While one is down, its checks say nothing new.",
                "short",
                [('count(up{job=~"$job", instance=~"$instance"} == 0) or vector(0)', "down")],
                "stat",
                6,
                5,
                [("green", None), ("red", 1)],
            ),
            Panel(
                "Oldest check run",
                "Time since the check that was run longest ago. Above 5 minutes ModelwatchCheckStale fires.",
                "s",
                [(f"max(time() - modelwatch_scheduler_last_success_timestamp_seconds{{{CHECK}}})", "age")],
                "stat",
                6,
                5,
                [("green", None), ("orange", 60), ("red", 300)],
            ),
            Panel(
                "Oldest answer that waits to be scored",
                "Its windows wait with it.",
                "s",
                [(f'max(time() - modelwatch_queue_oldest_record_timestamp_seconds{{{TARGET}, queue="scoring"}})', "age")],
                "stat",
                6,
                5,
                [("green", None), ("orange", 60), ("red", 600)],
            ),
        ],
    ),
    (
        "What is wrong, since when, where?",
        [
            Panel(
                "Firing",
                "1 while a check fires.",
                "bool_yes_no",
                [(f"max by (model, check, slice) (modelwatch_firing{{{CHECK}}})", "{{model}} {{check}} {{slice}}")],
                "state-timeline",
                24,
                8,
                [("green", None), ("red", 1)],
            ),
            Panel(
                "Readings and thresholds",
                "The latest reading of each check, and the bound it is judged by.",
                "short",
                [
                    (f"max by (model, check, slice) (modelwatch_reading{{{CHECK}}})", "{{model}} {{check}} {{slice}}"),
                    (f"max by (model, check, bound) (modelwatch_threshold{{{CHECK}}})", "{{model}} {{check}} {{bound}} bound"),
                ],
            ),
            Panel(
                "Features with the largest part in it",
                "The largest parts of each reading: features of a drift check.",
                "short",
                [
                    (
                        f"topk(10, max by (model, check, feature) (modelwatch_feature_reading{{{CHECK}}}))",
                        "{{model}} {{check}} {{feature}}",
                    )
                ],
            ),
            Panel(
                "Quality",
                "From labels, however late: 1 is best.",
                "percentunit",
                [(f"max by (model, check, metric) (modelwatch_quality_ratio{{{CHECK}}})", "{{model}} {{check}} {{metric}}")],
            ),
            Panel(
                "Error",
                "From labels, however late: 0 is best.",
                "short",
                [(f"max by (model, check, metric) (modelwatch_quality_error{{{CHECK}}})", "{{model}} {{check}} {{metric}}")],
            ),
            Panel(
                "Retrieval",
                "Readings of checks of retrieval: shares of empty answers, of irrelevant or unused passages, and precision.",
                "short",
                [
                    (
                        f'max by (model, check, slice) (modelwatch_reading{{{CHECK}, detector="retrieval"}})',
                        "{{model}} {{check}} {{slice}}",
                    ),
                    (
                        f"max by (model, check, bound) (modelwatch_threshold{{{CHECK}}} and on (model, check, slice) "
                        f'modelwatch_reading{{{CHECK}, detector="retrieval"}})',
                        "{{model}} {{check}} {{bound}} bound",
                    ),
                ],
            ),
            Panel(
                "Relevance",
                "Median of what the detectors of relevance gave, and the share of answers they could not tell of, by reason.",
                "percentunit",
                [
                    (
                        f"histogram_quantile(0.5, sum by (model, detector, le) (rate(modelwatch_detector_score_ratio_bucket"
                        f'{{{TARGET}, detector=~".*_relevance"}}[$__rate_interval])))',
                        "{{model}} {{detector}}",
                    ),
                    (
                        f"sum by (model, detector, reason) (rate(modelwatch_detector_not_evaluable_total{{{TARGET}, "
                        f'detector=~".*_relevance"}}[$__rate_interval])) / on (model, detector) group_left '
                        f"sum by (model, detector) (rate(modelwatch_detector_evaluations_total{{{TARGET}, "
                        'detector=~".*_relevance"}[$__rate_interval]))',
                        "{{model}} {{detector}} {{reason}}",
                    ),
                ],
            ),
            Panel(
                "Age of the windows",
                "Time since the end of the window that was read last; it grows when a model is quiet.",
                "s",
                [
                    (
                        f"max by (model, check) (time() - modelwatch_window_end_timestamp_seconds{{{CHECK}}})",
                        "{{model}} {{check}}",
                    )
                ],
            ),
            Panel(
                "Rows in the windows",
                "Rows that were compared. Below min_records a window is not read.",
                "short",
                [
                    (
                        f'max by (model, check, side) (modelwatch_window_records{{{CHECK}, side="current"}})',
                        "{{model}} {{check}}",
                    )
                ],
            ),
        ],
    ),
    (
        "What does the judge do, and what is left to it?",
        [
            Panel(
                "Calls to the judge",
                "By the LLM that is asked and what came of it: HTTP status, timeout, connection or cancelled.",
                "cps",
                [
                    (
                        f"sum by (llm_model, code) (rate(modelwatch_judge_calls_total{{{TARGET}}}[$__rate_interval]))",
                        "{{llm_model}} {{code}}",
                    )
                ],
            ),
            Panel(
                "Cost of the judge",
                "USD an hour, by its tokens and price; 0 where the price is not known.",
                "currencyUSD",
                [
                    (
                        f"sum by (llm_model) (rate(modelwatch_judge_cost_usd_total{{{TARGET}}}[$__rate_interval])) * 3600",
                        "{{llm_model}}",
                    )
                ],
            ),
            Panel(
                "Budget left",
                "Share of the day's calls and money that is left. At 0 what is chosen is not evaluable until midnight.",
                "percentunit",
                [(f"min by (instance, kind) (modelwatch_judge_budget_left_ratio{{{TARGET}}})", "{{instance}} {{kind}}")],
            ),
            Panel(
                "Waits for the judge",
                "Records that wait, and scores that were put off to be tried again, by reason.",
                "short",
                [
                    (f'sum(modelwatch_queue_records{{{TARGET}, queue="judging"}})', "waiting"),
                    (
                        f"sum by (reason) (increase(modelwatch_judge_put_off_total{{{TARGET}}}[$__rate_interval])) > 0",
                        "put off: {{reason}}",
                    ),
                ],
            ),
        ],
    ),
    (
        "Is everything taken in?",
        [
            Panel(
                "Records stored",
                "Durable records by model and kind.",
                "cps",
                [
                    (
                        f"sum by (model, kind) (rate(modelwatch_ingest_records_total{{{TARGET}}}[$__rate_interval]))",
                        "{{model}} {{kind}}",
                    )
                ],
            ),
            Panel(
                "Records set aside",
                "Records that went to the dead letter, by reason.",
                "cps",
                [
                    (
                        f"sum by (kind, reason) (rate(modelwatch_ingest_records_rejected_total{{{TARGET}}}[$__rate_interval]))",
                        "{{kind}} {{reason}}",
                    )
                ],
            ),
            Panel(
                "Time to the durable answer",
                "From the request to the answer after the commit.",
                "s",
                [
                    (
                        f"histogram_quantile({q}, sum by (le) "
                        f"(rate(modelwatch_ingest_request_duration_seconds_bucket{{{TARGET}}}[$__rate_interval])))",
                        f"p{round(q * 100)}",
                    )
                    for q in (0.5, 0.99)
                ],
            ),
            Panel(
                "Answers scored",
                "Records scored by detector, and those it flagged.",
                "cps",
                [
                    (
                        f"sum by (model, detector) (rate(modelwatch_detector_evaluations_total{{{TARGET}}}[$__rate_interval]))",
                        "{{model}} {{detector}}",
                    ),
                    (
                        f"sum by (model, detector) (rate(modelwatch_detector_flagged_total{{{TARGET}}}[$__rate_interval]))",
                        "{{model}} {{detector}} flagged",
                    ),
                ],
            ),
            Panel(
                "Free disk space",
                "Where the store lies. Below store.min_free_bytes nothing is taken in.",
                "bytes",
                [(f"min by (instance) (modelwatch_store_disk_free_bytes{{{TARGET}}})", "{{instance}}")],
            ),
            Panel(
                "Helper processes restarted",
                "Restarts in the range; work they had is done again.",
                "short",
                [
                    (
                        f"sum by (child) (increase(modelwatch_child_restarts_total{{{TARGET}}}[$__rate_interval]))",
                        "{{child}}",
                    )
                ],
            ),
        ],
    ),
]


def dashboard(title: str, uid: str, rows: list[tuple[str, list[Panel]]]) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for name, members in rows:
        panels.append(_row(len(panels) + 1, name, top))
        top += 1
        left = tallest = 0
        for panel in members:
            if left + panel.width > 24:
                top, left, tallest = top + tallest, 0, 0
            panels.append(_panel(len(panels) + 1, panel, left, top))
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return {
        "annotations": {"list": []},
        "description": "What is wrong, since when, and is what we see fresh?",
        "editable": False,
        "graphTooltip": 1,
        "links": [],
        "panels": panels,
        "refresh": "30s",
        "schemaVersion": 39,
        "tags": ["modelwatch"],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {"text": "default", "value": "default"},
                },
                _variable("job", "label_values(modelwatch_build_info, job)"),
                _variable("instance", 'label_values(modelwatch_build_info{job=~"$job"}, instance)'),
                _variable("model", f"label_values(modelwatch_firing{{{TARGET}}}, model)"),
                _variable("check", f'label_values(modelwatch_firing{{{TARGET}, model=~"$model"}}, check)'),
            ]
        },
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "title": title,
        "uid": uid,
        "version": 1,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "multi": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def _row(number: int, title: str, top: int) -> dict[str, Any]:
    place = {"h": 1, "w": 24, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(number: int, panel: Panel, left: int, top: int) -> dict[str, Any]:
    steps = [{"color": color, "value": value} for color, value in panel.thresholds]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": left, "y": top},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {},
        "targets": [
            {
                "datasource": DATASOURCE,
                "expr": expr,
                "legendFormat": legend,
                "refId": chr(ord("A") + i),
                "exemplar": "_bucket" in expr,
            }
            for i, (expr, legend) in enumerate(panel.targets)
        ],
    }


DASHBOARDS = {"overview.json": dashboard("modelwatch / fleet overview", "modelwatch-overview", OVERVIEW)}


def render(name: str) -> str:
    return json.dumps(DASHBOARDS[name], indent=2) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        Path(__file__).with_name(name).write_text(render(name), encoding="utf-8")
