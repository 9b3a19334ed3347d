"""Real instrumentations of a real client, exported by the real SDK to the running daemon: what arrives in its store.

An application is connected by its environment alone: see "Connect an application" in the README.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import monitor
from monitor.app import App
from tests.e2e.application import PASSAGES, QUESTION, SYSTEM
from tests.e2e.llm import ANSWER, MODEL, Llm
from tests.monitor.support import wait_for

ROOT = Path(monitor.__file__).parent.parent
BOT = "support-bot"
HTTP, GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
CONTENT, LATEST = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "OTEL_SEMCONV_STABILITY_OPT_IN"
GENAI = {LATEST: "gen_ai_latest_experimental"}

APPLICATIONS: dict[str, tuple[str, dict[str, str]]] = {
    # name: (instrumentation, its environment)
    "OpenInference": ("openinference", {**HTTP, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}),
    "OpenLLMetry": ("traceloop", {**GRPC, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}),
    "GenAI, content in log records": ("genai", {**HTTP, CONTENT: "true", "OTEL_EXPORTER_OTLP_COMPRESSION": "deflate"}),
    "GenAI, latest, content in spans": ("genai", {**GRPC, **GENAI, CONTENT: "span_only"}),
    "GenAI, latest, content in events": ("genai", {**HTTP, **GENAI, CONTENT: "event_only"}),
}
TIME_TO_FIRST_TOKEN = ("OpenInference", "OpenLLMetry")
TEXTS = ("question", "system", "response", "tool_calls", "finish_reason")
CACHED_TOKENS = ("OpenInference", "OpenLLMetry")


class Arrived:
    """What is in the store of a daemon that an application of this name has sent its traces to."""

    def __init__(self, name: str, app: App) -> None:
        self.name = name
        self._app = app

    def rows(self, kind: str, where: str = "true") -> list[dict[str, Any]]:
        with self._app.store.read() as reader:
            return reader.query(f"SELECT * FROM {reader.source(kind, BOT)} WHERE {where} ORDER BY event_time, seq")

    def said(self, scenario: str) -> list[dict[str, Any]]:
        """The scenario's generations, each with what came as log records of it: `messages` are parsed, and all of them."""
        found = []
        for row in self.of("generations", scenario):
            whole = {**row, "messages": json.loads(row["messages"] or "[]")}
            for apart in self.rows("contents", f"record_id = '{row['record_id']}'"):
                whole |= {name: apart[name] for name in TEXTS if whole[name] is None}
                whole["messages"] += json.loads(apart["messages"] or "[]")
            found.append(whole)
        return found

    def of(self, kind: str, scenario: str) -> list[dict[str, Any]]:
        """Rows of the scenario's trace, oldest first."""
        (root,) = self.rows("spans", f"name = '{scenario}' AND parent_id IS NULL")
        return self.rows(kind, f"trace_id = '{root['trace_id']}'")


@pytest.fixture(scope="module")
def llm() -> Iterator[Llm]:
    with Llm() as serving:
        yield serving


@pytest.fixture(scope="module", params=APPLICATIONS)
def arrived(request: pytest.FixtureRequest, llm: Llm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arrived]:
    instrumentation, environment = APPLICATIONS[request.param]
    config = tmp_path_factory.mktemp("instrumented") / "modelwatch.yaml"
    nowhere = {"listen": "127.0.0.1:0"}
    sections = {
        "store": {"path": "store", "min_free_bytes": 0},
        "server": nowhere,
        "metrics": nowhere,
        "otlp": {"http": nowhere, "grpc": nowhere},
        "scoring": {"settle_seconds": 0},
        "models": [{"name": BOT, "task": "llm"}],
    }
    config.write_text(yaml.safe_dump(sections))
    app = App(config)
    app.start()
    try:
        addresses = {one.transport: one.address for one in app.receivers}
        protocol = environment["OTEL_EXPORTER_OTLP_PROTOCOL"]
        endpoint = f"http://{addresses['otlp_grpc' if protocol == 'grpc' else 'otlp_http']}"
        own = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": BOT}
        ran = subprocess.run(
            [sys.executable, "-m", "tests.e2e.application", instrumentation, llm.url],
            cwd=ROOT,
            env={**os.environ, **own, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        found = Arrived(request.param, app)
        wait_for(lambda: not waiting(app), "every trace to settle", 60)
        yield found
    finally:
        app.stop()


def waiting(app: App) -> int:
    with app.store.read() as reader:
        return int(reader.query("SELECT count(*) AS n FROM traces")[0]["n"])


def test_a_chat_is_a_generation(arrived: Arrived) -> None:
    (row,) = arrived.said("chat")
    assert (row["question"], row["system"], row["response"]) == (QUESTION, SYSTEM, ANSWER)
    assert (row["provider"], row["request_model"], row["llm_model"], row["operation"]) == ("openai", "tiny-chat", MODEL, "chat")
    assert (row["input_tokens"], row["output_tokens"], row["finish_reason"]) == (40, 9, "stop")
    if arrived.name in CACHED_TOKENS:
        assert (row["cache_read_tokens"], row["reasoning_tokens"]) == (16, 3)
    assert row["record_id"] == f"{row['trace_id']}-{row['span_id']}"
    assert row["service"] == BOT
    assert row["error_type"] is None
    assert 0 < row["duration_seconds"] < 60


def test_a_stream_is_a_generation_with_the_whole_answer(arrived: Arrived) -> None:
    (row,) = arrived.said("stream")
    assert (row["question"], row["response"]) == (QUESTION, ANSWER)
    assert (row["input_tokens"], row["output_tokens"]) == (40, 9)
    if arrived.name in TIME_TO_FIRST_TOKEN:
        assert 0 < row["time_to_first_token_seconds"] <= row["duration_seconds"]


def test_a_tool_call_and_the_answer_to_its_result_are_two_generations(arrived: Arrived) -> None:
    call, answer = arrived.said("tools")
    (made,) = json.loads(call["tool_calls"])
    assert (made["name"], made["arguments"], made["id"]) == ("order_status", {"order": 7}, "call_1")
    assert call["response"] is None
    assert (answer["response"], answer["tool_calls"]) == (ANSWER, None)
    results = [
        part["response"] for message in answer["messages"] for part in message["parts"] if part["type"] == "tool_call_response"
    ]
    assert results == ["on its way"]


def test_embeddings_are_calls_that_cost_tokens_and_have_no_answer(arrived: Arrived) -> None:
    (row,) = arrived.of("generations", "embeddings")
    assert (row["operation"], row["request_model"], row["input_tokens"]) == ("embeddings", "tiny-embed", 5)
    assert (row["response"], row["output_tokens"]) == (None, None)
    assert [row["type"] for row in arrived.of("spans", "embeddings")].count("embedding") == 1


def test_an_error_is_a_generation_with_its_type_and_without_an_answer(arrived: Arrived) -> None:
    (row,) = arrived.said("error")
    assert (row["error_type"], row["request_model"]) == ("NotFoundError", "nowhere")
    assert (row["question"], row["response"]) == (QUESTION, None)


def test_what_was_retrieved_becomes_the_contexts_of_the_answer(arrived: Arrived) -> None:
    (row,) = arrived.of("retrievals", "retrieval")
    assert (row["query"], row["hits"]) == (QUESTION, 2)
    assert [(d["id"], d["text"], d["score"]) for d in json.loads(row["documents"])] == [
        ("d0", PASSAGES[0], 0.75),
        ("d1", PASSAGES[1], 0.5),
    ]
    (generation,) = arrived.of("generations", "retrieval")
    contexts = arrived.rows("contexts", f"record_id = '{generation['record_id']}'")
    assert [(c["position"], c["document_id"], c["text"], c["retrieval_score"]) for c in contexts] == [
        (0, "d0", PASSAGES[0], 0.75),
        (1, "d1", PASSAGES[1], 0.5),
    ]


def test_each_call_counts_once(arrived: Arrived) -> None:
    calls = arrived.rows("calls", "counted QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1")
    assert len(calls) == 7
    assert sum(row["input_tokens"] or 0 for row in calls) == 5 * 40 + 5
    assert sum(row["output_tokens"] or 0 for row in calls) == 5 * 9


def test_nothing_went_to_the_dead_letter(arrived: Arrived) -> None:
    with arrived._app.store.read() as reader:
        assert reader.query(f"SELECT reason, message FROM {reader.source('deadletters', '')}") == []
