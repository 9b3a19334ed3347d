"""The whole page, against the one that is checked in; and what Prometheus' own linter says of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric, disable_created_metrics, enable_created_metrics
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, SummaryMetricFamily, UnknownMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from monitor.metrics import Metrics, exemplar
from monitor.page import encoder
from tests.monitor.goldenpage import page, scripted

GOLDEN = Path(__file__).parent.parent / "golden" / "metrics.txt"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    disable_created_metrics()  # type: ignore[no-untyped-call]
    world = scripted(tmp_path_factory.mktemp("page") / "store")
    yield page(world)
    world.close()
    enable_created_metrics()  # type: ignore[no-untyped-call]


ACCEPTED = {
    "text": "text/plain;version=0.0.4",
    "anything": "*/*",
    "nothing": "",
    "text 1.0": "text/plain;version=1.0.0;escaping=underscores",
    "OpenMetrics": "application/openmetrics-text;version=1.0.0",
    "OpenMetrics without a version": "application/openmetrics-text",
    "Prometheus 2.42": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Prometheus 3": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;q=0.4",
    "text of Prometheus 3": "text/plain;version=1.0.0;escaping=allow-utf-8",
    "dots": "application/openmetrics-text;version=1.0.0;escaping=dots",
    "a later version": "application/openmetrics-text;version=2.0.0",
}
HOSTILE = ('a"b', "a\nb", "a\\b", "\\n", "\N{FIRE}", "", "{}=,#", "x" * 300)
NUMBERS = (0.0, -0.0, 1.0, -1.5, 1e6, 999999.0, 1234567.5, 1e21, 1e-9, float("inf"), float("-inf"), float("nan"), 7, True)


class Odd(Collector):
    """Families of every type, some with a unit."""

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("odd_info", 'says "so"\n\\', value={"of": 'a"b'})
        yield UnknownMetricFamily("odd_unknown", "unknown", value=2)
        yield GaugeMetricFamily("odd_temperature_celsius", "with a unit", value=3.5, unit="celsius")
        yield SummaryMetricFamily("odd_summary", "a summary", count_value=2, sum_value=1.5)


@pytest.fixture
def _no_times_of_creation() -> Iterator[None]:
    disable_created_metrics()  # type: ignore[no-untyped-call]
    yield
    enable_created_metrics()  # type: ignore[no-untyped-call]


@pytest.mark.usefixtures("_no_times_of_creation")
@pytest.mark.parametrize("accept", ACCEPTED.values(), ids=ACCEPTED)
def test_the_page_is_byte_for_byte_what_the_library_writes(accept: str) -> None:
    metrics = Metrics(CollectorRegistry())
    for hostile in HOSTILE:
        metrics.llm_requests.labels("bot", hostile, "gpt").inc()
        metrics.child_up.labels(hostile).set(1)
    for n, number in enumerate(NUMBERS):
        metrics.queue_records.labels(f"q{n}").set(number)
        metrics.score.labels("bot", f"d{n}").observe(float(number), exemplar({"trace_id": "a" * 32}))
    metrics.registry.register(Odd())
    theirs, their_type = choose_encoder(accept)
    ours, our_type = encoder(accept)
    assert our_type == their_type
    assert ours(metrics.registry).decode().splitlines() == theirs(metrics.registry).decode().splitlines()


def test_the_page_is_the_one_that_is_checked_in(shown: str) -> None:
    assert shown.splitlines() == GOLDEN.read_text(encoding="utf-8").splitlines(), "see tests/monitor/goldenpage.py"


def test_the_linter_of_prometheus_finds_nothing(shown: str) -> None:
    clean = shown.replace(" ...\n", " 1.0\n")
    told = subprocess.run(["promtool", "check", "metrics"], input=clean, capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stdout + told.stderr) == (0, "")
