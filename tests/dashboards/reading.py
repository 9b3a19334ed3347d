"""The dashboards as they are checked in: their panels, and what each asks."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from monitor import data

FOLDER = data.folder("dashboards")
NAMES = sorted(path.name for path in FOLDER.glob("*.json"))

# Exported by Prometheus itself, and by prometheus-client of the process.
FOREIGN = {
    "up",
    "ALERTS",
    "ALERTS_FOR_STATE",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
}
SELECTOR = re.compile(r"\b([a-zA-Z_][\w:]*)\{([^}]*)\}")


@cache
def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return found


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in read(name)["panels"] if panel["type"] != "row"]


def asked(name: str) -> list[dict[str, Any]]:
    """The panels that ask Prometheus."""
    return [panel for panel in panels(name) if panel["datasource"]["type"] == "prometheus"]


def tables(name: str) -> list[dict[str, Any]]:
    """The panels that ask the daemon for records."""
    return [panel for panel in panels(name) if panel["datasource"]["type"] != "prometheus"]


def expressions(name: str) -> list[str]:
    return [target["expr"] for panel in asked(name) for target in panel["targets"]]


def events(name: str) -> list[str]:
    """What is drawn into every panel at its time."""
    return [event["expr"] for event in read(name)["annotations"]["list"] if "expr" in event]


def variables(name: str) -> dict[str, dict[str, Any]]:
    return {v["name"]: v for v in read(name)["templating"]["list"]}


def queries(name: str) -> list[str]:
    """All that is asked of Prometheus: panels, annotations, and the series that give a variable its values."""
    found = expressions(name) + events(name)
    for one in variables(name).values():
        if one["type"] == "query":
            selector = re.fullmatch(r"label_values\((.+), \w+\)", one["definition"])
            assert selector, one["definition"]
            found.append(selector[1])
    return found


def selectors(expr: str) -> list[tuple[str, str]]:
    """(metric, what narrows it) of every series that a query reads."""
    return SELECTOR.findall(expr)


def metrics(expr: str) -> set[str]:
    """Metrics of ours in a query, under the names of the catalogue."""
    return {re.sub(r"_(bucket|count)$", "", name) for name in re.findall(r"(?<!:)\bmodelwatch_\w+\b(?!:)", expr)}


def filled(expr: str, **chosen: str) -> str:
    """As Grafana sends it where nothing is chosen but `chosen`."""
    expr = expr.replace("$__rate_interval", chosen.pop("rate_interval", "1m"))
    return re.sub(r"\$(\w+)", lambda found: chosen.get(found[1], ".+"), expr)
