"""A dashboard around its panels: where each lies, the variables above, the links to the others, the events drawn into all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboards.panel import PROMETHEUS, Panel, Table, row
from dashboards.promql import MODEL, TARGET, WINDOW

COLUMNS = 24
TITLES = {
    "modelwatch-overview": "modelwatch / fleet overview",
    "modelwatch-quality": "modelwatch / model quality and drift",
    "modelwatch-llm": "modelwatch / LLM",
    "modelwatch-daemon": "modelwatch / daemon",
}

Row = tuple[str, Sequence[Panel | Table]]
"""A title, and what lies under it."""


def dashboard(uid: str, description: str, rows: Sequence[Row], variables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`variables`: those beside the ones that every dashboard has."""
    return {
        "annotations": {"list": ANNOTATIONS},
        "description": description,
        "editable": False,
        "graphTooltip": 1,
        "links": [_link(other) for other in TITLES if other != uid],
        "panels": _laid(uid, rows),
        "refresh": "30s",
        "schemaVersion": 41,
        "tags": ["modelwatch"],
        "templating": {"list": [*STANDARD, *variables]},
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "title": TITLES[uid],
        "uid": uid,
        "version": 1,
    }


def _laid(uid: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    top = 0
    for title, members in rows:
        found.append(row(f"{uid}: {title}", title, top))
        top += 1
        left = tallest = 0
        for panel in members:
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            found.append(panel.json(left, top))
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return found


def _link(uid: str) -> dict[str, Any]:
    """To another dashboard, with the time and whatever was chosen."""
    return {
        "type": "link",
        "title": TITLES[uid].partition(" / ")[2],
        "url": f"/d/{uid}",
        "icon": "dashboard",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def source(name: str, label: str, kind: str, first: str = "default") -> dict[str, Any]:
    """The data source of that kind to ask; `first`: the uid of the one that is asked unless another is chosen."""
    return {
        "name": name,
        "label": label,
        "type": "datasource",
        "query": kind,
        "current": {"text": first, "value": first},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "refresh": 1,
        "regex": "",
    }


def variable(name: str, query: str) -> dict[str, Any]:
    """Any number of a label's values, or all."""
    return _query(name, query, 0) | {
        "includeAll": True,
        "multi": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def _query(name: str, query: str, hide: int) -> dict[str, Any]:
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": name},
        "definition": query,
        "hide": hide,
        "includeAll": False,
        "multi": False,
        "refresh": 2,
        "regex": "",
        "sort": 1,
    }


NEVER_SHOWN = 2
# A model is known once something of it was stored, and its checks before that.
MODELS = f'{{__name__=~"modelwatch_firing|modelwatch_ingest_records_total", {TARGET}}}'
CHECKS = f"modelwatch_firing{{{MODEL}}}"

STANDARD = [
    source("datasource", "Data source", "prometheus"),
    source("records", "Records", "yesoreyeram-infinity-datasource", "modelwatch-records"),
    variable("job", "label_values(modelwatch_build_info, job)"),
    variable("instance", 'label_values(modelwatch_build_info{job=~"$job"}, instance)'),
    variable("model", f"label_values({MODELS}, model)"),
    _query("external_url", f"label_values(modelwatch_external_url_info{{{TARGET}}}, url)", NEVER_SHOWN),
]
CHECK_VARIABLE = variable("check", f"label_values({CHECKS}, check)")


def _events(name: str, expr: str, color: str, title: str) -> dict[str, Any]:
    return {
        "name": name,
        "datasource": PROMETHEUS,
        "enable": True,
        "expr": expr,
        "hide": False,
        "iconColor": color,
        "step": "60s",
        "titleFormat": title,
        "tagKeys": "",
        "textFormat": "",
        "useValueForTime": False,
    }


def _written(name: str, tag: str, color: str) -> dict[str, Any]:
    """Annotations with the tags that `monitor.grafana` gives them."""
    return {
        "name": name,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": False,
        "iconColor": color,
        "target": {"type": "tags", "tags": ["modelwatch", tag], "matchAny": False, "limit": 100},
        "type": "tags",
    }


ANNOTATIONS: list[dict[str, Any]] = [
    # What the daemon wrote into Grafana. Changes it writes as well; those are drawn from the metric, which is always there.
    _written("Incidents", "incident", "red"),
    _written("Maintenance", "maintenance", "purple"),
    _written("Freezes", "freeze", "dark-purple"),
    _written("Deployments", "deployment", "green"),
    _events(
        "Changes",
        f"sum by (model, what) (increase(modelwatch_changes_total{{{MODEL}}}{WINDOW})) > 0",
        "blue",
        "{{model}}: new {{what}}",
    ),
    _events(
        "Alerts",
        'ALERTS{alertname=~"Modelwatch.+", alertname!="ModelwatchWatchdog", alertstate="firing", model=~"$model|"}',
        "orange",
        "{{alertname}} {{model}} {{check}}",
    ),
]
