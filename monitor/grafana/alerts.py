"""Our Prometheus rules as Grafana's own, for those whose Prometheus has none of them.

Grafana's importer of Prometheus rules shows the way (pkg/services/ngalert/prom/query.go): the query as it is, then whether there
is any result at all, since in Prometheus a series that comes back is an alert whatever its value. What a recording rule would
make is put in as the expression it stands for; where that cannot be done, as a rule picks among such series by label, it is
`left_out`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

QUERY, ANY, CONDITION = "query", "prometheus_math", "threshold"
EXPRESSIONS = "__expr__"
INTERVAL_SECONDS = 60
LOOKBACK_SECONDS = 600
MOST_UID = 40
PREFIX = "modelwatch-"  # of the uids of our rules
RECORDED = re.compile(r"(?<![\w:])[a-zA-Z_]\w*(?::\w+)+(?![\w:])")
DAEMON_URL = re.compile(
    r'\{\{-?\s*with query "[^"{}]*\bmodelwatch_external_url_info\b[^"{}]*"\s*-?\}\}'
    r'\{\{-?\s*\. \| first \| label "url"\s*-?\}\}\{\{-?\s*end\s*-?\}\}'
)
ACTION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
QUESTION = re.compile(
    r"\{\{-?\s*with\b(?:(?!\}\}).)*\bquery\b(?:(?!\}\}).)*\}\}(?:(?!\{\{-?\s*(?:else|end)\b).)*"
    r"(?:\{\{-?\s*else\s*-?\}\}(?P<other>(?:(?!\{\{-?\s*end\b).)*))?\{\{-?\s*end\s*-?\}\}",
    re.DOTALL,
)


class NotConvertible(Exception):
    """The rule means something that Grafana cannot say."""


@dataclass(slots=True)
class Converted:
    """Rule groups as `PUT /api/v1/provisioning/folder/FOLDER/rule-groups/GROUP` takes them; rules left out, and why."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def convert(groups: Iterable[Mapping[str, Any]], *, datasource: str, folder: str, external_url: str) -> Converted:
    """`groups`: those of rule files. `datasource` and `folder` are uids. Alerts of one name get a number each."""
    groups = list(groups)
    records = recorded(groups)
    found, titles = Converted(), set[str]()
    for group in groups:
        rules = []
        for rule in group["rules"]:
            if "alert" not in rule:
                continue
            title, n = rule["alert"], 1
            while title in titles:
                n += 1
                title = f"{rule['alert']} {n}"
            titles.add(title)
            try:
                rules.append(_rule(rule, title, group["name"], records, datasource, folder, external_url))
            except NotConvertible as exc:
                found.left_out[title] = str(exc)
        if rules:
            found.groups.append(
                {"title": group["name"], "folderUid": folder, "interval": _interval(group.get("interval")), "rules": rules}
            )
    return found


def recorded(groups: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What each recorded series stands for: of several rules of one name all that any of them gives, with the labels they add."""
    found: dict[str, str] = {}
    for rule in (rule for group in groups for rule in group["rules"] if "record" in rule):
        expr = str(rule["expr"]).strip()
        for name, value in rule.get("labels", {}).items():
            expr = f'label_replace({expr}, "{name}", {json.dumps(str(value))}, "", "")'
        found[rule["record"]] = f"({found[rule['record']]}) or ({expr})" if rule["record"] in found else expr
    return found


def _rule(
    rule: Mapping[str, Any], title: str, group: str, records: Mapping[str, str], datasource: str, folder: str, external_url: str
) -> dict[str, Any]:
    expr = inlined(str(rule["expr"]).strip(), records)
    made = {
        "uid": _uid(title),
        "title": title,
        "folderUID": folder,
        "ruleGroup": group,
        "condition": CONDITION,
        "data": _data(expr, datasource),
        "noDataState": "OK",  # no series, no alert
        "execErrState": "Error",  # where Prometheus is away, that is an alert: it must not look like all clear
        "for": str(rule.get("for", "0s")),
        "labels": {name: _template(str(text), external_url) for name, text in rule.get("labels", {}).items()},
        "annotations": {name: _template(str(text), external_url) for name, text in rule.get("annotations", {}).items()},
    }
    if "keep_firing_for" in rule:
        made["keep_firing_for"] = str(rule["keep_firing_for"])
    return made


def _data(expr: str, datasource: str) -> list[dict[str, Any]]:
    source = {"type": EXPRESSIONS, "uid": EXPRESSIONS}
    common = {"intervalMs": 1000, "maxDataPoints": 43200}  # what Grafana fills in
    query = {"expr": expr, "instant": True, "range": False, "refId": QUERY, **common}
    there = f"is_number(${QUERY}) || is_nan(${QUERY}) || is_inf(${QUERY})"
    above = {"evaluator": {"type": "gt", "params": [0]}}
    return [
        {
            "refId": QUERY,
            "datasourceUid": datasource,
            "relativeTimeRange": {"from": LOOKBACK_SECONDS, "to": 0},
            "model": {**query, "datasource": {"type": "prometheus", "uid": datasource}},
        },
        {
            "refId": ANY,
            "datasourceUid": EXPRESSIONS,
            "queryType": "math",
            "relativeTimeRange": {"from": 0, "to": 0},
            "model": {"type": "math", "expression": there, "refId": ANY, "datasource": source, **common},
        },
        {
            "refId": CONDITION,
            "datasourceUid": EXPRESSIONS,
            "queryType": "threshold",
            "relativeTimeRange": {"from": 0, "to": 0},
            "model": {
                "type": "threshold", "expression": ANY, "conditions": [above], "refId": CONDITION, "datasource": source, **common,
            },
        },
    ]  # fmt: skip


def inlined(expr: str, records: Mapping[str, str], seen: tuple[str, ...] = ()) -> str:
    """The expression with recorded series as what they stand for.

    Raises:
        NotConvertible: it picks some of them by label, or asks for Prometheus' own alerts.

    >>> inlined("a:b:sum > 1 and avg_over_time(a:b:sum[1h]) > 2", {"a:b:sum": "sum(x)"})
    '(sum(x)) > 1 and avg_over_time((sum(x))[1h:1m]) > 2'
    """
    if re.search(r"\bALERTS(_FOR_STATE)?\b", expr):
        raise NotConvertible("it asks for Prometheus' own alerts")
    parts, last = [], 0
    quoted = [match.span() for match in re.finditer(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|#[^\n]*', expr)]
    for match in RECORDED.finditer(expr):
        if any(start <= match.start() < end for start, end in quoted):
            continue
        name, end = match[0], match.end()
        if name not in records:
            continue  # of somebody else, such as vLLM
        if name in seen:
            raise NotConvertible(f"{name} is made of itself")
        if re.match(r"\s*\{", expr[end:]):
            raise NotConvertible(f"it picks some of the series of the recording rule {name}")
        ranged = re.match(r"\s*\[\s*(\w+)\s*\]", expr[end:])
        before = re.match(r"\s*offset\s+(-?\w+)", expr[end:])
        inner = f"({inlined(records[name].strip(), records, (*seen, name))})"
        if ranged:
            inner += f"[{ranged[1]}:1m]"
        elif before:  # of an instant: only a range of an expression may lie in the past
            inner = f"last_over_time({inner}[5m:1m] offset {before[1]})"
        parts += [expr[last : match.start()], inner]
        last = end + sum(found.end() for found in (ranged or before,) if found)
    return "".join([*parts, expr[last:]])


def _template(text: str, external_url: str) -> str:
    """In Grafana `$value` is all values as a text; the number is that of the query. What asks Prometheus a question there is as
    if nothing had come back, but for the address of the daemon."""
    text = DAEMON_URL.sub(lambda match: external_url, text)
    text = QUESTION.sub(lambda match: match["other"] or "", text)
    return ACTION.sub(lambda match: re.sub(r"\$value\b", f"$values.{QUERY}.Value", match[0]), text)


def _uid(title: str) -> str:
    plain = PREFIX + re.sub(r"[^A-Za-z0-9_-]", "-", title.removeprefix("Modelwatch"))
    return plain if len(plain) <= MOST_UID else f"{plain[: MOST_UID - 9]}-{hashlib.sha256(title.encode()).hexdigest()[:8]}"


def _interval(given: str | None) -> int:
    """Seconds; Grafana evaluates every 10 s at most."""
    if given is None:
        return INTERVAL_SECONDS
    match = re.fullmatch(r"(\d+)([smh])", given)
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else INTERVAL_SECONDS
    return max(10, -(-seconds // 10) * 10)
