"""The Vercel AI SDK's own spans, as they were recorded. What is expected was read from the spans by a person."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from monitor.genai.dialects import Canonical, Dialects
from monitor.otlp.spans import Event, Span

DIALECTS = Dialects()


def nanoseconds(time: list[int]) -> int:
    return time[0] * 1_000_000_000 + time[1]


def spans() -> list[Span]:
    """In the form of the JavaScript SDK: times as [seconds, nanoseconds]."""
    with gzip.open(Path(__file__).parent / "vercel" / "spans.jsonl.gz", "rt") as lines:
        return [
            Span(
                s["spanContext"]["traceId"], s["spanContext"]["spanId"], None, s["name"], "internal", nanoseconds(s["startTime"]),
                nanoseconds(s["endTime"]), "unset", None, s["attributes"],
                [Event(e["name"], nanoseconds(e["time"]), e["attributes"]) for e in s["events"]], [], {}, None, None,
            )
            for s in map(json.loads, lines)
        ]  # fmt: skip


def named(name: str, function: str) -> Canonical:
    [one] = [s for s in spans() if s.name == name and s.attributes["ai.telemetry.functionId"] == function]
    return DIALECTS.read(one)


@pytest.mark.parametrize(
    ("name", "function", "want"),
    (
        ("ai.generateText.doGenerate", "test-generate-text",
         {"question": "Write a haiku about programming.", "input_tokens": 14, "output_tokens": 20, "finish_reason": "stop",
          "llm_model": "gpt-4o-mini-2024-07-18", "request_model": "gpt-4o-mini", "provider": "openai"}),
        ("ai.generateText.doGenerate", "test-generate-text-messages",
         {"question": "And what is 3 + 3?", "response": "3 + 3 equals 6.", "system": "You are a helpful assistant.",
          "input_tokens": 50, "output_tokens": 9}),
        ("ai.generateObject.doGenerate", "test-generate-object",
         {"question": "Generate a simple recipe for scrambled eggs.", "input_tokens": 63, "output_tokens": 156}),
        ("ai.streamText.doStream", "test-stream-text",
         {"question": "Write a short poem about TypeScript.", "input_tokens": 15, "output_tokens": 112, "reasoning_tokens": 0,
          "cache_read_tokens": 0, "time_to_first_token_seconds": pytest.approx(0.4268535)}),
    ),
)  # fmt: skip
def test_an_inner_span_is_the_model_call(name: str, function: str, want: dict[str, Any]) -> None:
    found = named(name, function)
    assert found.type == "llm"
    assert {k: found.fields.get(k) for k in want} == want


def test_an_object_is_the_answers_text_as_it_came() -> None:
    response = named("ai.generateObject.doGenerate", "test-generate-object").fields["response"]
    assert json.loads(response)["name"] == "Scrambled Eggs"


def test_the_outer_span_repeats_the_tokens_and_is_no_model_call() -> None:
    outer = [DIALECTS.read(s).type for s in spans() if "." not in s.name.removeprefix("ai.")]
    assert outer == ["agent", "agent", "agent", "agent", "chain"]


def test_an_embedding_has_its_text_its_tokens_and_no_vectors() -> None:
    found = named("ai.embed.doEmbed", "test-embed")
    assert found.type == "embedding"
    assert found.fields["question"] == "The quick brown fox jumps over the lazy dog."
    assert found.fields["input_tokens"] == 10
    assert len(found.fields["messages"]) < 200
