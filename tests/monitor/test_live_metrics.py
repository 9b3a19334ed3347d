"""What a whole daemon shows and sends: a page that is clean, its scores as events, and nothing of a model that was dropped."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from monitor.app import App
from tests.monitor.otlpsink import HttpSink
from tests.monitor.support import MODELS, check, generation, wait_for
from tests.monitor.test_app import Running, of, past, write

BARE = check("bare", "Bareness", model="bot", every="1s", threshold={"upper": 0.2})
SETTLE_SECONDS = 3


@dataclass(frozen=True)
class Live:
    app: App
    running: Running
    sink: HttpSink
    folder: Path
    sections: dict[str, Any]

    def models(self) -> set[str]:
        """Every model that has a series."""
        return {value for _, labels in self.running.scrape() for name, value in labels if name == "model"}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder, sink = tmp_path_factory.mktemp("live"), HttpSink()
    sections: dict[str, Any] = {"scoring": {"settle_seconds": SETTLE_SECONDS}, "export": {"otlp": {"endpoint": sink.url}}}
    app = App(write(folder, checks=[BARE], models=[*MODELS, {"name": "shed", "task": "llm"}], **sections))
    app.start()
    yield Live(app, of(app), sink, folder, sections)
    app.stop()
    sink.close()


def test_each_score_that_is_stored_is_sent(live: Live) -> None:
    ids = [f"g{n}" for n in range(20)]
    live.running.send(
        "generations", *(generation(i, past(10 - n / 2), contexts=["one"], trace_id=f"{n:032x}") for n, i in enumerate(ids))
    )
    wait_for(lambda: len(live.sink.ids) >= 20, "the scores to be sent", 60)
    assert sorted(live.sink.ids) == sorted(ids)
    assert live.running.value("modelwatch_outbox_sent_total", sink="otlp") == 20


def test_the_page_of_a_live_daemon_is_clean_and_has_the_traces_of_its_scores(live: Live) -> None:
    wait_for(lambda: live.running.value("modelwatch_firing", check="bare") is not None, "a verdict", 60)
    plain = httpx.get(f"{live.running.metrics}/metrics", timeout=30).text
    told = subprocess.run(["promtool", "check", "metrics"], input=plain, capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stdout + told.stderr) == (0, "")
    modern = httpx.get(
        f"{live.running.metrics}/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}, timeout=30
    ).text
    exemplars = {
        sample.name.removesuffix("_bucket")
        for family in parse_openmetrics(modern)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None and "trace_id" in sample.exemplar.labels
    }
    assert "modelwatch_detector_score_ratio" in exemplars
    assert 'trace_id="' not in plain


def test_a_model_that_a_reload_drops_leaves_no_series_even_of_a_trace_that_settles_later(live: Live) -> None:
    sent = generation("late", past(1), model="shed", trace_id="f" * 32, llm_model="gpt-4o", input_tokens=9, output_tokens=3)
    assert live.running.send("generations", sent).json()["accepted"] == 1
    assert "shed" in live.models()
    write(live.folder, checks=[BARE], **live.sections)
    assert live.app.reload() is None
    assert "shed" not in live.models()
    with live.app.store.read() as reader:
        assert reader.query("SELECT count(*) AS n FROM traces WHERE model = 'shed'")[0]["n"] == 1, "it has not settled yet"

    def settled() -> bool:
        with live.app.store.read() as reader:
            return bool(reader.query("SELECT count(*) = 0 AS done FROM traces WHERE model = 'shed'")[0]["done"])

    wait_for(settled, "the trace to settle", 30)
    assert "shed" not in live.models()
    assert "bot" in live.models()
