"""Words for spans of a trace, for tests: offsets in seconds from noon, ids from short names."""

from __future__ import annotations

import hashlib
from typing import Any

from monitor.otlp.spans import LogRecord, Span
from tests.monitor.support import NOON

RESOURCE = {"service.name": "bot", "service.version": "7", "deployment.environment.name": "test"}
SECOND = 10**9
NOON_NS = int(NOON.timestamp()) * SECOND


def trace_id(name: str) -> str:
    return hashlib.md5(name.encode()).hexdigest()


def span_id(name: str) -> str:
    return hashlib.md5(name.encode()).hexdigest()[:16]


def record_id(trace: str, name: str) -> str:
    return f"{trace_id(trace)}-{span_id(name)}"


def span(
    trace: str, name: str, parent: str | None = None, start: float = 0.0, end: float = 1.0, *, failed: bool = False,
    resource: dict[str, Any] = RESOURCE, **attributes: Any,
) -> Span:  # fmt: skip
    """`attributes` with `__` for a dot."""
    return Span(
        trace_id(trace), span_id(name), span_id(parent) if parent else None, name, "internal", NOON_NS + int(start * SECOND),
        NOON_NS + int(end * SECOND), "error" if failed else "unset", None,
        {key.replace("__", "."): value for key, value in attributes.items()}, [], [], resource, "tests", None,
    )  # fmt: skip


def chat(trace: str, name: str, parent: str | None = None, start: float = 0.0, end: float = 1.0, **more: Any) -> Span:
    """A call of an LLM with 100 tokens in and 10 out, unless said otherwise."""
    question, response = more.pop("question", "why?"), more.pop("response", "so")
    tokens = more.pop("tokens", (100, 10))
    content: dict[str, Any] = {}
    if question is not None:
        content = {
            "gen_ai__input__messages": f'[{{"role": "user", "parts": [{{"type": "text", "content": "{question}"}}]}}]',
            "gen_ai__output__messages": f'[{{"role": "assistant", "parts": [{{"type": "text", "content": "{response}"}}]}}]',
        }
    usage: dict[str, Any] = (
        {} if tokens is None else {"gen_ai__usage__input_tokens": tokens[0], "gen_ai__usage__output_tokens": tokens[1]}
    )
    llm = more.pop("llm", "small")
    known: dict[str, Any] = {"gen_ai__operation__name": "chat", "gen_ai__provider__name": "openai", "gen_ai__request__model": llm}
    return span(trace, name, parent, start, end, **{**known, **usage, **content, **more})


def agent(trace: str, name: str, parent: str | None = None, start: float = 0.0, end: float = 9.0, **more: Any) -> Span:
    return span(trace, name, parent, start, end, gen_ai__operation__name="invoke_agent", gen_ai__agent__name="clerk", **more)


def retriever(trace: str, name: str, *texts: str, parent: str | None = None, start: float = 0.0, end: float = 0.5) -> Span:
    documents: dict[str, Any] = {
        f"retrieval__documents__{i}__document__{key}": value
        for i, text in enumerate(texts)
        for key, value in (("content", text), ("id", f"d-{text}"), ("score", 1.0 - i / 10))
    }
    return span(trace, name, parent, start, end, openinference__span__kind="RETRIEVER", input__value="find", **documents)


def reranker(trace: str, name: str, *texts: str, parent: str | None = None, start: float = 0.5, end: float = 0.8) -> Span:
    documents: dict[str, Any] = {
        f"reranker__output_documents__{i}__document__{key}": value
        for i, text in enumerate(texts)
        for key, value in (("content", text), ("id", f"d-{text}"), ("score", 1.0 - i / 10))
    }
    return span(trace, name, parent, start, end, openinference__span__kind="RERANKER", reranker__query="find", **documents)


def event(trace: str, name: str, event_name: str | None, body: Any = None, at: float = 0.5, **attributes: Any) -> LogRecord:
    return LogRecord(
        NOON_NS + int(at * SECOND), trace_id(trace), span_id(name), event_name, "INFO", body,
        {key.replace("__", "."): value for key, value in attributes.items()}, RESOURCE, "tests", None,
    )  # fmt: skip
