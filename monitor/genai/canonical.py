"""What a span or a log record says, in one form whatever dialect it was written in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from monitor.genai.messages import Message


@dataclass(slots=True)
class Document:
    """A passage that a retriever or a reranker gave. `score` is as reported: higher is better, a distance is in `metadata`."""

    id: str | None
    text: str | None
    score: float | None
    metadata: dict[str, Any] | None


@dataclass(slots=True)
class Canonical:
    """One span in canonical form. Ids, times, status and the raw attributes stay with the span.

    `fields` holds columns of `generations`, only those that were found; `messages` and `tool_calls` among them are JSON already.
    Texts are free of base64 (see media.py). `input_messages`, `output_messages` are what `fields` was made from; events that
    come as logs of their own are put in there by `generation.complete`.
    """

    type: str  # llm embedding retriever reranker tool agent chain guardrail evaluator other
    fields: dict[str, Any] = field(default_factory=dict)
    documents: list[Document] = field(default_factory=list)
    retrieval: dict[str, Any] = field(default_factory=dict)  # query, collection, top_k, system, hits
    feedback: list[dict[str, Any]] = field(default_factory=list)  # name, value, label, comment, source, scope, trace_id, span_id
    own: bool = False  # traffic of our own judge: stored, never evaluated, never counted
    input_messages: list[Message] = field(default_factory=list)
    output_messages: list[Message] = field(default_factory=list)
