"""The self-metrics: their names, their limits, and that each is documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

import monitor
from monitor import catalogue, config
from monitor.metrics import Metrics, Spec, exemplar
from tests.monitor.support import sample

ROOT = Path(monitor.__file__).parent
SPECS = catalogue.specs()
LABELS = {
    "model", "check", "detector", "slice", "feature", "metric", "kind", "reason", "transport", "code", "queue", "child",
    "outcome", "severity", "bound", "side", "version", "python", "duckdb", "action", "level", "source", "topic",
    "llm_model", "provider", "class", "what", "stage", "why", "environment", "prompt", "period", "unit", "sink", "state", "owner", "url",
}  # fmt: skip


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_a_metric_is_named_by_the_rules(spec: Spec) -> None:
    assert re.fullmatch(r"modelwatch_[a-z0-9_]+", spec.name)
    assert spec.name.endswith("_total") == (spec.kind == "counter")
    assert set(spec.labels) <= LABELS
    assert spec.about
    if spec.kind == "histogram":
        assert spec.name.endswith(("_seconds", "_bytes", "_ratio"))


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_a_metric_has_a_heading_in_the_readme(spec: Spec) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {spec.name}\n+(.*)$", text, re.MULTILINE)
    assert section, f"monitor/README.md has no heading ### {spec.name}"
    assert section[1].startswith(spec.kind)
    assert all(f"`{label}`" in section[1] for label in spec.labels), section[1]


def test_the_readme_documents_no_metric_that_is_gone() -> None:
    headings = re.findall(r"^### (modelwatch_\w+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(SPECS)


def keys(model: type[BaseModel], before: str = "") -> dict[str, str]:
    """Every key of the config by its path, with its default as it is documented."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if inner and inner[0].__module__.startswith("monitor."):
            found |= keys(inner[0], f"{before}{name}.")
        elif field.is_required():
            found[before + name] = "required"
        else:
            plain = isinstance(field.default, (str, int, float, Path)) and field.default != ""
            found[before + name] = f"`{field.default}`" if plain else ""
    return found


def test_every_key_of_the_config_is_in_the_readme_with_its_default() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([a-z_.]+)` \| ?(.*?) ?\| .*\|$", text.partition("## Config")[2].partition("## Reload")[0], re.MULTILINE
    )
    assert dict(rows) == keys(config.Config)


def test_label_sets_beyond_the_limit_count_as_other_and_gauges_are_left_out() -> None:
    metrics = Metrics(CollectorRegistry(), max_series=10)
    for i in range(15):
        metrics.records.labels(f"model-{i}", "predictions").inc()
        metrics.last_record.labels(f"model-{i}", "predictions").set(i)
    name = "modelwatch_ingest_records_total"
    assert sample(metrics, name, model="model-9", kind="predictions") == 1
    assert sample(metrics, name, model="model-10", kind="predictions") is None
    assert sample(metrics, name, model="__other__", kind="__other__") == 5
    last = "modelwatch_ingest_last_success_timestamp_seconds"
    assert sample(metrics, last, model="model-14", kind="predictions") is None
    assert sample(metrics, last, model="__other__", kind="__other__") is None
    assert sample(metrics, "modelwatch_exporter_overflow_total", metric=name) == 5
    assert sample(metrics, "modelwatch_exporter_overflow_total", metric=last) == 5
    assert sample(metrics, name, model="model-9", kind="predictions") == 1


def test_what_is_forgotten_is_gone_from_every_metric_and_makes_room() -> None:
    metrics = Metrics(CollectorRegistry(), max_series=10)
    metrics.records.labels("gone", "labels").inc()
    metrics.records.labels("stays", "labels").inc()
    metrics.verdicts.labels("gone", "c", "ok").inc()
    metrics.runs.labels("c").inc()
    metrics.forget(model="gone")
    text = [s for family in metrics.registry.collect() for s in family.samples]
    assert not [s for s in text if s.labels.get("model") == "gone"]
    assert sample(metrics, "modelwatch_ingest_records_total", model="stays", kind="labels") == 1
    assert sample(metrics, "modelwatch_scheduler_runs_total", check="c") == 1
    metrics.forget(check="c")
    assert sample(metrics, "modelwatch_scheduler_runs_total", check="c") is None


def test_an_exemplar_is_left_out_where_it_would_not_fit() -> None:
    assert exemplar({"trace_id": "t" * 32}) == {"trace_id": "t" * 32}
    assert exemplar({"trace_id": None}) is None
    assert exemplar({"trace_id": "t" * 121}) is None
