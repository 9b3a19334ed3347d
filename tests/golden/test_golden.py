"""Recorded spans of real instrumentations give the values that the recorded calls had.

How the spans came about: record.py. Where the expected values come from: the head of expected.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.genai.dialects import Canonical, Dialects
from monitor.otlp.spans import LogRecord, Span
from monitor.otlp.wire import decode_logs, decode_traces

HERE = Path(__file__).parent
COLUMNS = {
    "operation", "provider", "request_model", "llm_model", "question", "response", "system", "input_tokens", "output_tokens",
    "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "finish_reason", "error_type",
}  # fmt: skip
ZERO = {
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
}  # the API says 0 where there were none
JSON = "application/json"

DIALECTS = Dialects()
EXPECTED = yaml.safe_load((HERE / "expected.yaml").read_text(encoding="utf-8"))


@cache
def recorded(dialect: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / "spans" / f"{dialect}.json").read_text(encoding="utf-8"))
    return found


def spans(dialect: str, call: str) -> list[Span]:
    exports = recorded(dialect)[call].get("traces", [])
    return [one for e in exports for one in decode_traces(json.dumps(e).encode(), JSON) if isinstance(one, Span)]


def logs(dialect: str, call: str) -> list[LogRecord]:
    exports = recorded(dialect)[call].get("logs", [])
    return [one for e in exports for one in decode_logs(json.dumps(e).encode(), JSON) if isinstance(one, LogRecord)]


def canonical(dialect: str, call: str) -> Canonical:
    """The one model call of a scenario, together with its log events."""
    found = [(s, DIALECTS.read(s)) for s in spans(dialect, call)]
    [(span, one)] = [(s, c) for s, c in found if c.type in ("llm", "embedding")]
    later = [c for r in logs(dialect, call) if r.span_id == span.span_id and (c := DIALECTS.read_log(r))]
    return DIALECTS.complete(one, later) if later else one


def cases() -> Iterator[tuple[str, str]]:
    for file in sorted((HERE / "spans").glob("*.json")):
        if file.stem != "vectors":
            for call, exports in recorded(file.stem).items():
                if exports:
                    yield file.stem, call


def told(dialect: str, call: str) -> dict[str, Any]:
    """The truth about a call, less what the dialect does not tell, with what it tells differently."""
    untold = EXPECTED["untold"].get(dialect, {})
    want = {
        k: v for k, v in EXPECTED["calls"][call].items() if k not in untold.get("always", ()) and k not in untold.get(call, ())
    }
    want.update(EXPECTED["otherwise"].get(dialect, {}).get(call, {}))
    return want


def same(want: Any, got: Any) -> bool:
    if isinstance(want, dict) and set(want) == {"starts", "ends"}:
        return isinstance(got, str) and got.startswith(want["starts"]) and got.endswith(want["ends"])
    return bool(want == got)


@pytest.mark.parametrize(("dialect", "call"), list(cases()))
def test_a_recorded_call_is_read_as_it_was(dialect: str, call: str) -> None:
    got, want = canonical(dialect, call), told(dialect, call)
    seen = {name: got.fields.get(name) for name in COLUMNS}
    wrong = {
        name: (seen[name], want.get(name))
        for name in COLUMNS
        if not same(want.get(name), seen[name]) and not (name in ZERO and name not in want and seen[name] == 0)
    }
    assert not wrong
    assert got.type == want["type"]
    assert json.loads(got.fields.get("tool_calls", "[]")) == want.get("tool_calls", [])


@pytest.mark.parametrize(("dialect", "call"), [c for c in cases() if "media" in EXPECTED["calls"][c[1]]])
def test_an_image_leaves_its_type_size_and_hash_and_never_its_bytes(dialect: str, call: str) -> None:
    got, want = canonical(dialect, call), told(dialect, call)
    parts = [p for m in got.input_messages for p in m["parts"] if p["type"] not in ("text", "tool_call", "tool_call_response")]
    assert [{k: v for k, v in p.items() if k in want.get("media", p)} for p in parts] == (
        [want["media"]] if "media" in want else []
    )
    for name, value in got.fields.items():
        assert "base64," not in str(value), name
        assert "iVBORw0KGgo" not in str(value), name
        assert "/9j/4AAQSkZJRg" not in str(value), name


@pytest.mark.parametrize(("dialect", "call"), [c for c in cases() if "roles" in told(*c) or "results" in told(*c)])
def test_a_conversation_keeps_its_turns_and_the_results_of_tools(dialect: str, call: str) -> None:
    got, want = canonical(dialect, call), told(dialect, call)
    whole = json.loads(got.fields["messages"])
    if "roles" in want:
        assert [m["role"] for m in whole] == want["roles"]
    if "results" in want:
        assert [as_text(p["response"]) for m in whole for p in m["parts"] if p["type"] == "tool_call_response"] == want["results"]


def as_text(value: Any) -> str:
    """OpenInference and others tell a result as values; the API carried text."""
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize(("dialect", "call"), [c for c in cases() if "first_token" in told(*c)])
def test_a_stream_tells_the_time_to_its_first_token(dialect: str, call: str) -> None:
    [span] = [s for s in spans(dialect, call) if DIALECTS.read(s).type == "llm"]
    first = canonical(dialect, call).fields["time_to_first_token_seconds"]
    assert 0 < first <= (span.end_ns - span.start_ns) / 1e9


@pytest.mark.parametrize(("dialect", "call"), [c for c in cases() if "reasoning_text" in told(*c)])
def test_reasoning_is_kept_apart_from_the_answer(dialect: str, call: str) -> None:
    thoughts = [p["content"] for m in canonical(dialect, call).output_messages for p in m["parts"] if p["type"] == "reasoning"]
    assert len(thoughts) == 1
    assert same(told(dialect, call)["reasoning_text"], thoughts[0])


@pytest.mark.parametrize("dialect", sorted(p.stem for p in (HERE / "spans").glob("*.json") if p.stem != "vectors"))
def test_each_dialect_has_at_least_eight_recorded_calls(dialect: str) -> None:
    assert sum(1 for d, _ in cases() if d == dialect) >= 8


@pytest.mark.parametrize("call", ("multi_turn", "streaming_tool_call", "responses", "claude_cache_read"))
def test_the_same_template_has_the_same_fingerprint_in_every_dialect(call: str) -> None:
    marks = {d: canonical(d, call).fields.get("fingerprint") for d, c in cases() if c == call and "system" in told(d, c)}
    assert len(marks) > 1
    assert len(set(marks.values())) == 1, marks
    assert None not in marks.values()


def test_calls_of_one_template_share_a_fingerprint_and_templates_differ_by_it() -> None:
    bodies = json.loads((HERE / "templates.json").read_text(encoding="utf-8"))
    marks: dict[str, set[str | None]] = {}
    for name, requests in bodies.items():
        assert len(requests) > 1
        for request in requests:
            attributes = {"openinference.span.kind": "LLM", "input.value": json.dumps(request)}
            span = Span("1" * 32, "2" * 16, None, "call", "client", 1, 2, "unset", None, attributes, [], [], {}, None, None)
            marks.setdefault(name, set()).add(DIALECTS.read(span).fields.get("fingerprint"))
    assert {name: len(found) for name, found in marks.items()} == dict.fromkeys(marks, 1)
    assert None not in set().union(*marks.values())
    assert len(set().union(*marks.values())) == len(marks)
