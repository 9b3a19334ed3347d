"""One panel, as classic dashboard JSON: a query of Prometheus, or a table of records from the daemon's JSON API."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
RECORDS = {"type": "yesoreyeram-infinity-datasource", "uid": "${records}"}
SITE = "${external_url:raw}"
"""Where the daemon's pages are: `external_url` of its config, by way of a metric and a variable."""

GREEN: tuple[tuple[str, float | None], ...] = (("green", None),)
RED_FROM_ONE = (*GREEN, ("red", 1.0))
GREEN_FROM_ONE: tuple[tuple[str, float | None], ...] = (("red", None), ("green", 1.0))
YES_NO = {"0": ("no", "green"), "1": ("yes", "red")}


def panel_id(name: str) -> int:
    """The `viewPanel` of links to it. From the name alone, so that a link outlives whatever is put before the panel."""
    return zlib.crc32(name.encode()) % 1_000_000


@dataclass(frozen=True)
class Link:
    """Leads from a point or a cell to a page of ours. The address may name a label, `${__field.labels.model}`, or a cell."""

    title: str
    path: str

    def json(self) -> dict[str, Any]:
        return {"title": self.title, "url": f"{SITE}{self.path}", "targetBlank": True}


CASES = Link("Cases of this model", "/cases?model=${__field.labels.model}")


@dataclass(frozen=True)
class Panel:
    """A query of Prometheus. `targets` are (PromQL, legend).

    `name` never changes: alerts and bookmarks go by the id that is made of it. `exemplars`: the points of histograms that
    lead to a trace. `stat` and `table` panels ask for the newest value alone, the others for the range.
    """

    name: str
    title: str
    description: str
    unit: str
    targets: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    thresholds: Sequence[tuple[str, float | None]] = GREEN
    words: dict[str, tuple[str, str]] = field(default_factory=dict)
    links: Sequence[Link] = ()
    stacked: bool = False
    exemplars: bool = False

    def json(self, left: int, top: int) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "unit": self.unit,
            "thresholds": {
                "mode": "absolute",
                "steps": [{"color": color, "value": value} for color, value in self.thresholds],
            },
            "links": [link.json() for link in self.links],
        }
        if self.words:
            options = {
                value: {"text": text, "color": color, "index": i} for i, (value, (text, color)) in enumerate(self.words.items())
            }
            defaults["mappings"] = [{"type": "value", "options": options}]
        if custom := self._custom():
            defaults["custom"] = custom
        found = _head(self.name, self.kind, self.title, self.description, (left, top, self.width, self.height))
        found |= {
            "datasource": PROMETHEUS,
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": self._options(),
            "targets": [self._target(i, expr, legend) for i, (expr, legend) in enumerate(self.targets)],
        }
        if self.kind == "table":
            # The answers side by side, without what is the same in every row.
            hidden = dict.fromkeys(("Time", "__name__", "instance", "job"), True)
            found["transformations"] = [
                {"id": "merge", "options": {}},
                {"id": "organize", "options": {"excludeByName": hidden, "renameByName": self._columns()}},
            ]
        return found

    def _columns(self) -> dict[str, str]:
        values = [f"Value #{_letter(i)}" for i in range(len(self.targets))] if len(self.targets) > 1 else ["Value"]
        return dict(zip(values, (legend for _, legend in self.targets), strict=True))

    def _target(self, number: int, expr: str, legend: str) -> dict[str, Any]:
        now = self.kind in ("stat", "table", "bargauge")
        return {
            "datasource": PROMETHEUS,
            "editorMode": "code",
            "expr": expr,
            "legendFormat": legend,
            "refId": _letter(number),
            "instant": now,
            "range": not now,
            "exemplar": self.exemplars and not now,
            "format": "table" if self.kind == "table" else "time_series",
        }

    def _custom(self) -> dict[str, Any]:
        if self.kind == "timeseries":
            custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 30 if self.stacked else 5, "showPoints": "auto"}
            if self.stacked:
                custom["stacking"] = {"mode": "normal", "group": "A"}
            return custom
        return {"lineWidth": 0, "fillOpacity": 80} if self.kind == "state-timeline" else {}

    def _options(self) -> dict[str, Any]:
        legend = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}
        match self.kind:
            case "timeseries":
                return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
            case "state-timeline":
                return {
                    "legend": legend,
                    "mergeValues": True,
                    "showValue": "never",
                    "rowHeight": 0.8,
                    "tooltip": {"mode": "single"},
                }
            case "stat":
                return {
                    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                    "colorMode": "value", "graphMode": "none", "justifyMode": "auto", "textMode": "auto",
                }  # fmt: skip
            case "bargauge":
                return {
                    "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                    "orientation": "horizontal", "displayMode": "basic",
                }  # fmt: skip
            case "table":
                return {"showHeader": True, "cellHeight": "sm"}
        raise ValueError(f"{self.name}: no panels of kind {self.kind!r} yet")


@dataclass(frozen=True)
class Column:
    """A field of the API's rows, as a column. `kind`: string, number or timestamp, as Infinity calls them."""

    field: str
    title: str
    kind: str = "string"
    link: Link | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Table:
    """Records from the JSON API, newest first. `path` is asked of the daemon; `rows` leads to the list in its answer."""

    name: str
    title: str
    description: str
    path: str
    rows: str
    columns: Sequence[Column]
    width: int = 24
    height: int = 8

    def json(self, left: int, top: int) -> dict[str, Any]:
        overrides = []
        for column in self.columns:
            properties: list[dict[str, Any]] = [{"id": "unit", "value": column.unit}] if column.unit else []
            if column.link:
                properties.append({"id": "links", "value": [column.link.json()]})
            if properties:
                overrides.append({"matcher": {"id": "byName", "options": column.title}, "properties": properties})
        found = _head(self.name, "table", self.title, self.description, (left, top, self.width, self.height))
        return found | {
            "datasource": RECORDS,
            "fieldConfig": {"defaults": {"unit": "string"}, "overrides": overrides},
            "options": {"showHeader": True, "cellHeight": "sm"},
            "targets": [
                {
                    "datasource": RECORDS,
                    "refId": "A",
                    "type": "json",
                    "parser": "backend",
                    "source": "url",
                    "format": "table",
                    "url": self.path,
                    "url_options": {"method": "GET", "data": ""},
                    "root_selector": self.rows,
                    "columns": [{"selector": c.field, "text": c.title, "type": c.kind} for c in self.columns],
                    "filters": [],
                }
            ],
        }  # fmt: skip


def row(name: str, title: str, top: int) -> dict[str, Any]:
    place = {"h": 1, "w": 24, "x": 0, "y": top}
    return {"id": panel_id(name), "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _head(name: str, kind: str, title: str, description: str, place: tuple[int, int, int, int]) -> dict[str, Any]:
    left, top, width, height = place
    return {
        "id": panel_id(name),
        "type": kind,
        "title": title,
        "description": description,
        "gridPos": {"h": height, "w": width, "x": left, "y": top},
    }


def _letter(number: int) -> str:
    return chr(ord("A") + number)
