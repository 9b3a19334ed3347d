"""The self-metrics: their names, their limits, and that each is documented."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

import monitor
from monitor import catalogue, config
from monitor.family import Known
from monitor.metrics import Metrics, Spec, exemplar
from tests.monitor.support import sample

ROOT = Path(monitor.__file__).parent
SPECS = catalogue.specs()
LABELS = {
    "model", "check", "detector", "slice", "feature", "metric", "kind", "reason", "transport", "code", "queue", "child",
    "outcome", "severity", "bound", "side", "version", "python", "duckdb", "action", "level", "source", "topic",
    "llm_model", "provider", "class", "what", "stage", "why", "environment", "prompt",
    "period", "unit", "sink", "state", "owner", "url", "gpu",
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
    assert exemplar({"trace_id": 'a"b'}) is None


def text(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


@pytest.mark.parametrize("hostile", ('a"b', "a\nb", "a\\", "\N{FIRE}" * 300, "x" * 10_000, "\ud800", "", "{}=,# HELP"))
def test_a_label_of_any_value_leaves_a_page_that_can_be_read(hostile: str) -> None:
    metrics = Metrics(CollectorRegistry())
    for _ in range(2):
        metrics.llm_requests.labels("bot", hostile, "gpt").inc()
    metrics.score.labels("bot", "d").observe(0.4, exemplar({"trace_id": hostile}))
    (found,) = [
        s
        for family in text_string_to_metric_families(text(metrics))
        for s in family.samples
        if s.name == "modelwatch_llm_requests_total"
    ]
    assert found.value == 2
    assert len(found.labels["provider"]) <= 200
    modern = openmetrics.generate_latest(metrics.registry).decode()  # type: ignore[no-untyped-call]
    assert list(parse_openmetrics(modern))  # type: ignore[no-untyped-call]


def test_two_long_values_that_begin_alike_are_two_series() -> None:
    metrics = Metrics(CollectorRegistry())
    for end in "ab":
        metrics.traces_settled.labels("m" * 5000 + end).inc()
    found = [line for line in text(metrics).splitlines() if line.startswith("modelwatch_traces_settled_total{")]
    assert len(found) == 2


def test_a_hundred_thousand_values_cost_what_a_thousand_do() -> None:
    metrics = Metrics(CollectorRegistry(), max_series=1000)
    for i in range(1000):
        metrics.llm_requests.labels("bot", "p", f"llm-{i}").inc()
    size = len(text(metrics))
    tracemalloc.start()
    try:
        for i in range(1000, 100_000):
            metrics.llm_requests.labels("bot", "p", f"llm-{i}").inc()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 2**20
    assert len(text(metrics)) < size + 1000
    overflow = sample(metrics, "modelwatch_exporter_overflow_total", metric="modelwatch_llm_requests_total")
    assert overflow == 99_000, "which is what ModelwatchSeriesOverflow looks at"
    other = {"model": "__other__", "provider": "__other__", "llm_model": "__other__"}
    assert sample(metrics, "modelwatch_llm_requests_total", **other) == 99_000


def test_what_the_config_no_longer_names_has_no_series_and_gets_none_by_what_is_still_in_hand() -> None:
    metrics = Metrics(CollectorRegistry())

    def count() -> None:
        for model, detector, name in (("a", "d", "c"), ("a", "e", "c"), ("b", "d", "x")):
            metrics.evaluations.labels(model, detector).inc()
            metrics.score.labels(model, detector).observe(0.5)
            metrics.verdicts.labels(model, name, "ok").inc()
            metrics.run_interval.labels(model, name).set(1)
        metrics.traces_settled.labels("b").inc()
        metrics.requests.labels("http", "200").inc()

    count()
    held = metrics.score.labels("b", "d")
    metrics.only(Known(frozenset({"a"}), frozenset({"c"}), frozenset({("a", "d")})))
    for _ in range(2):
        seen = {tuple(sorted(s.labels.items())) for f in metrics.registry.collect() for s in f.samples if "model" in s.labels}
        models = {dict(labels)["model"] for labels in seen}
        detectors = {dict(labels).get("detector") for labels in seen}
        assert (models, detectors) == ({"a"}, {"d", None})
        held.observe(0.5)
        count()
    assert sample(metrics, "modelwatch_detector_evaluations_total", model="a", detector="d") == 3
    assert sample(metrics, "modelwatch_ingest_requests_total", transport="http", code="200") == 3
    metrics.only(Known(frozenset({"a", "b"}), frozenset({"c", "x"}), frozenset({("a", "d"), ("b", "d")})))
    count()
    assert sample(metrics, "modelwatch_traces_settled_total", model="b") == 1, "from 0 again"


def test_each_threshold_of_scores_is_the_edge_of_a_bucket() -> None:
    metrics = Metrics(CollectorRegistry(), score_edges=[0.34, 0.5, float("inf"), float("nan"), 12.0])

    def edges() -> set[str]:
        metrics.score.labels("bot", "d").observe(0.34)
        return {
            s.labels["le"]
            for family in metrics.registry.collect()
            for s in family.samples
            if s.name == "modelwatch_detector_score_ratio_bucket"
        }

    assert {"0.34", "0.5", "12.0", "+Inf"} <= edges()
    assert sample(metrics, "modelwatch_detector_score_ratio_bucket", model="bot", detector="d", le="0.34") == 1
    metrics.hold_scores_to([0.5, 0.34, 12.0])
    assert sample(metrics, "modelwatch_detector_score_ratio_count", model="bot", detector="d") == 1, "nothing is other"
    metrics.hold_scores_to([0.6])
    assert sample(metrics, "modelwatch_detector_score_ratio_count", model="bot", detector="d") is None
    assert "0.6" in edges()
    assert "0.34" not in edges()
    many = Metrics(CollectorRegistry(), score_edges=[i / 1000 for i in range(1000)])
    many.score.labels("bot", "d").observe(0.1)
    assert text(many).count("modelwatch_detector_score_ratio_bucket") < 70
