"""The rules and their promtool tests as data: which alert is made to fire by which test, and which shows that it stays quiet."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from monitor import data

RULES = data.folder("rules")
FILES = sorted(RULES.glob("*.rules.yml"))
TESTS = sorted((RULES / "tests").glob("*.yml"))
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@functools.cache
def groups() -> list[dict[str, Any]]:
    return [group for file in FILES for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"] if "alert" in rule]


@functools.cache
def records() -> dict[str, list[str]]:
    """By name of what is recorded, the expressions it is recorded from."""
    found: dict[str, list[str]] = {}
    for group in groups():
        for rule in group["rules"]:
            if "record" in rule:
                found.setdefault(rule["record"], []).append(rule["expr"])
    return found


def series(expr: str) -> set[str]:
    """Names of metrics in an expression that are ours, recorded, or known to come from others."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", re.sub(r"\{[^}]*\}", "", expr))
    return set(re.findall(r"\b(?:modelwatch_\w+|\w+(?::\w+)+|up|prometheus_\w+|DCGM_\w+)\b", bare))


def read_by(expr: str) -> set[str]:
    """What is scraped that decides it, by way of what is recorded; what is recorded as well."""
    known, found, waiting = records(), set[str](), series(expr)
    while waiting:
        name = waiting.pop()
        found.add(name)
        for inner in known.get(name, ()):
            waiting |= series(inner) - found
    return found


@dataclass(slots=True)
class Case:
    """One promtool test. `asked`: at each time, the alerts that are to fire, and of which alert it says so (None: of all that
    are `loaded`)."""

    file: Path
    name: str
    loaded: frozenset[str]
    given: set[str] = field(default_factory=set)
    asked: list[tuple[str, frozenset[str], str | None]] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"{self.file.name}: {self.name}"

    @property
    def fired(self) -> set[str]:
        return {alert for _, firing, _ in self.asked for alert in firing}

    def quiet(self, alert: str, metrics: set[str]) -> bool:
        """Whether it says that the alert does not fire although there is something to be read."""
        of_it = [firing for _, firing, only in self.asked if only in (None, alert)]
        # Nearly all tests have a target that is up.
        telling = metrics - {"up", "modelwatch_build_info"} or metrics
        return alert in self.loaded and bool(self.given & telling) and any(alert not in firing for firing in of_it)


@functools.cache
def cases() -> list[Case]:
    found = []
    for file in TESTS:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        loaded = frozenset(
            name for pattern in content["rule_files"] for path in file.parent.glob(pattern) for name in _in_file(path)
        )
        for test in content["tests"]:
            case = Case(file, test["name"], loaded, {name for s in test["input_series"] for name in series(s["series"])})
            for ask in test.get("promql_expr_test", ()):
                if "ALERTS{" in ask["expr"] and 'alertstate="firing"' in ask["expr"]:
                    labels = " ".join(sample["labels"] for sample in ask["exp_samples"])
                    one = re.search(r'alertname="(\w+)"', ask["expr"])
                    firing = frozenset(re.findall(r'alertname="(\w+)"', labels))
                    case.asked.append((ask["eval_time"], firing, one[1] if one else None))
            for ask in test.get("alert_rule_test", ()):
                firing = frozenset({ask["alertname"]} if ask.get("exp_alerts") else ())
                case.asked.append((ask["eval_time"], firing, ask["alertname"]))
            found.append(case)
    return found


def table() -> list[tuple[str, str, str]]:
    """Each alert, a test that makes it fire, and one that shows it quiet; empty where there is none."""
    homes = {name: path.name.partition(".")[0] for path in FILES for name in _in_file(path)}
    rows = []
    for name, expressions in sorted(_by_name().items()):
        metrics = {metric for expr in expressions for metric in read_by(expr)}
        # Those of its own subject first; and one that never fires where it is quiet says more than one that fires later.
        tests = sorted(cases(), key=lambda case: not case.file.name.startswith(homes[name]))
        firing = [case.place for case in tests if name in case.fired]
        quiet = [case.place for case in sorted(tests, key=lambda c: name in c.fired) if case.quiet(name, metrics)]
        rows.append((name, next(iter(firing), ""), next(iter(quiet), "")))
    return rows


def _in_file(path: Path) -> list[str]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [rule["alert"] for group in content["groups"] for rule in group["rules"] if "alert" in rule]


def _by_name() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for alert in alerts():
        found.setdefault(alert["alert"], []).append(alert["expr"])
    return found
