"""The Prometheus rules for one config: those of `rules/` with its names in them, and the file that only the config can write.

The same for the same config, byte by byte. `rules/config.rules.yml` is what a config that says nothing gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from monitor.config import Check, Config
from monitor.records import LATE
from monitor.serving import Availability, Flagged, Hosts, Quota, RulesConfig, matchers

OWN = "config.rules.yml"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
VOLUMES = ("1h", "6h", "1d", "3d")
GRAFANA = "http://localhost:3000"  # where the compose file has it
SLACK_SECONDS = 600  # to be scored, settled and read
ANY = "all"  # the label of a quota for all LLMs of a provider, or for one LLM whoever provides it

HEAD = """\
# What depends on the config: objectives, limits, and what others call their series. Valid on Prometheus 2.42 and 3.x.
# Written by `modelwatch rules render`; change the config and render it again.
"""
EXTERNAL_URL = '{{ with query "last_over_time(modelwatch_external_url_info[1d])" }}{{ . | first | label "url" }}{{ end }}'
"""How a rule that knows no config finds where the daemon's pages are."""

Rule = dict[str, Any]


def render(config: Config, shipped: Path) -> dict[str, str]:
    """File name and text of every rules file. `shipped`: the folder `rules`."""
    found = {path.name: _named(path.read_text(encoding="utf-8"), config) for path in sorted(shipped.glob("*.rules.yml"))}
    return found | {OWN: own(config)}


def own(config: Config) -> str:
    serving, slo = config.serving, config.slo
    groups = [
        {"name": "modelwatch-config-availability", "rules": _availability(serving.availability)},
        {"name": "modelwatch-config-flagged", "rules": _flagged(slo.flagged, slo.min_records)},
        {"name": "modelwatch-config-windows", "rules": _windows(config.checks)},
        {"name": "modelwatch-config-quotas", "rules": _quotas(serving.quotas)},
        {"name": "modelwatch-config-hosts", "rules": _hosts(serving.hosts)},
    ]
    return HEAD + yaml.dump(
        {"groups": [group for group in groups if group["rules"]]}, Dumper=_Dumper, sort_keys=False, width=1_000
    )


def _named(text: str, config: Config) -> str:
    """With the names of the config where the shipped rules have those that they expect."""
    rules, shipped = config.rules, RulesConfig()
    text = text.replace(f'job="{shipped.job}"', f'job="{rules.job}"')
    text = text.replace(f"job: {shipped.job}\n", f"job: {_plain(rules.job)}\n")
    text = text.replace(f"{shipped.runbook_url}#", f"{rules.runbook_url}#")
    grafana = rules.grafana_url or (config.grafana.url if config.grafana is not None else GRAFANA)
    text = text.replace(f"{GRAFANA}/d/", f"{grafana.rstrip('/')}/d/")
    if config.external_url is not None:
        text = text.replace(EXTERNAL_URL, config.external_url.replace("{", "%7B"))  # no template of ours
    return text


def _availability(section: Availability) -> list[Rule]:
    by, level = "provider, llm_model", "provider_llm_model:modelwatch"
    classes = "|".join(section.errors)
    rules = [
        _record(
            f"{level}_llm_unavailable:ratio_rate{window}",
            f'sum by ({by}) (rate(modelwatch_llm_errors_total{{class=~"{classes}"}}[{window}]))\n'
            f"  / (sum by ({by}) (rate(modelwatch_llm_requests_total[{window}])) > 0)",
        )
        for window in WINDOWS
    ]
    rules += [
        _record(f"{level}_llm_requests:increase{window}", f"sum by ({by}) (increase(modelwatch_llm_requests_total[{window}]))")
        for window in VOLUMES
    ]
    # Who has an objective is who had requests in the longest window. Of several that fit, what says more of an LLM counts.
    counted = f"{level}_llm_requests:increase3d"
    objectives = [(one.labels, one.objective) for one in sorted(section.objectives, key=lambda one: -len(one.labels))]
    parts: list[str] = []
    taken: list[str] = []
    for labels, objective in [*objectives, ({}, section.objective)]:
        which = f"{counted}{matchers(labels)}"
        rest = f" unless ({' or '.join(taken)})" if taken else ""
        parts.append(f"({which}{rest}) * 0 + {objective!r}")
        taken.append(which)
    rules.append(_record(f"{level}_availability_objective:ratio", "\nor ".join(parts)))
    return [*rules, _record("modelwatch:availability_minimum:requests", f"vector({section.min_requests})")]


def _flagged(objectives: Iterable[Flagged], minimum: int) -> list[Rule]:
    level = "model_detector:modelwatch_flagged"
    rules = [
        _record(f"{level}_objective:ratio", f"vector({one.objective!r})", model=one.model, detector=one.detector)
        for one in objectives
    ]
    return [*rules, _record("modelwatch:flagged_minimum:records", f"vector({minimum})")]


def _windows(checks: Iterable[Check]) -> list[Rule]:
    """How old the newest window of a check may be: it is read when the next one begins, and late ones are waited for. Nothing is
    said until records have come for that long: a window without any is not read, so after a quiet night the newest is old."""
    return [
        _record(
            "model_check:modelwatch_window_age_limit:seconds",
            f"vector({limit})\n  and on () sum({_came(one)}) > 0\n  and on () sum({_came(one, f' offset {limit}s')}) > 0",
            model=one.model,
            check=one.name,
        )
        for one in checks
        for limit in (2 * one.every + one.lateness + one.idle_timeout + SLACK_SECONDS,)
    ]


def _came(check: Check, offset: str = "") -> str:
    """Records that windows are made of, in the time of one."""
    late = "|".join(LATE)
    series = f'modelwatch_ingest_records_total{{model="{check.model}", kind!~"{late}"}}'
    return f"increase({series}[{max(check.every, SLACK_SECONDS)}s]{offset})"


def _quotas(quotas: Iterable[Quota]) -> list[Rule]:
    by, level = "provider, llm_model", "provider_llm_model:modelwatch_llm"
    rules = [
        _record(
            f"{level}_tokens_per_minute:rate2m",
            f"60 * (sum by ({by}) (rate(modelwatch_llm_input_tokens_total[2m])) "
            f"+ sum by ({by}) (rate(modelwatch_llm_output_tokens_total[2m])))",
        ),
        _record(f"{level}_requests_per_minute:rate2m", f"60 * sum by ({by}) (rate(modelwatch_llm_requests_total[2m]))"),
    ]
    for quota in quotas:
        for kind, limit in (("tokens", quota.tokens_per_minute), ("requests", quota.requests_per_minute)):
            if limit is not None:
                labels = {"kind": kind, "provider": quota.provider or ANY, "llm_model": quota.llm_model or ANY}
                used = f"sum({level}_{kind}_per_minute:rate2m{matchers(quota.labels)})"
                rules.append(_record("quota:modelwatch_llm_used:ratio", f"{used} / {limit!r}", **labels))
                rules.append(_record("quota:modelwatch_llm_limit:per_minute", f"vector({limit!r})", **labels))
    return rules


def _hosts(hosts: Hosts) -> list[Rule]:
    def served(series: str) -> str:
        return _renamed(_renamed(series, "host", hosts.served_host, "([^:]+)(:[0-9]+)?"), "llm_model", hosts.served_model)

    used, free = hosts.gpu_memory_used, hosts.gpu_memory_free
    memory = _renamed(_renamed(f"{used} / ({used} + {free})", "host", hosts.gpu_host, "([^:]+)(:[0-9]+)?"), "gpu", hosts.gpu)
    waiting = "host_llm_model:serving_requests_waiting:sum"
    return [
        _record("host_gpu:serving_gpu_memory:ratio", f"max by (host, gpu) ({memory})"),
        _record(waiting, f"sum by (host, llm_model) ({served(hosts.waiting)})"),
        _record("host_llm_model:serving_requests_running:sum", f"sum by (host, llm_model) ({served(hosts.running)})"),
        _record(
            "host_llm_model:serving_cache:ratio",
            "\nor ".join(f"max by (host, llm_model) ({served(name)})" for name in hosts.cache_usage),
        ),
        # Of the fullest GPU of the host, for each LLM that is served there.
        _record(
            "host_llm_model:serving_gpu_memory:ratio",
            f"{waiting} * 0\n  + on (host) group_left () max by (host) (host_gpu:serving_gpu_memory:ratio)",
        ),
        _record("serving_series:present", f"group({used})", exporter="dcgm-exporter"),
        _record("serving_series:present", f"group({hosts.waiting})", exporter="vllm"),
        *(
            _record("modelwatch:serving_expected:bool", f"vector({int(hosts.expected)})", exporter=exporter)
            for exporter in ("dcgm-exporter", "vllm")
        ),
        _record("modelwatch:serving_waiting_limit:requests", f"vector({hosts.max_waiting})"),
        _record("modelwatch:serving_memory_limit:ratio", f"vector({hosts.max_memory!r})"),
    ]


def _renamed(series: str, label: str, source: str, pattern: str = "(.*)") -> str:
    return f'label_replace({series}, "{label}", "$1", "{source}", "{pattern}")'


def _record(name: str, expr: str, **labels: str) -> Rule:
    return {"record": name, "expr": expr} | ({"labels": labels} if labels else {})


def _plain(text: str) -> str:
    """A value of YAML, quoted where it has to be."""
    return yaml.safe_dump(text, default_flow_style=True, width=1_000).removesuffix("\n...\n").strip()


class _Dumper(yaml.SafeDumper):
    """As people write YAML: expressions of several lines as blocks, lists further in than their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def differences(wanted: Mapping[str, str], folder: Path) -> list[str]:
    """A unified diff, line by line, of what a folder holds and what it should; empty where nothing would change.

    Raises:
        OSError: a file cannot be read.
    """
    import difflib

    found: list[str] = []
    for name, text in sorted(wanted.items()):
        path = folder / name
        there = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found += difflib.unified_diff(there, text.splitlines(), str(path), f"{path} as rendered", lineterm="", n=1)
    return found
