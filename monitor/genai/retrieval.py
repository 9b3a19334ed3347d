"""Documents of retriever, reranker and vector database spans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from monitor.genai.canonical import Document
from monitor.genai.media import lean, lean_text
from monitor.genai.messages import literal, parsed
from monitor.genai.values import number

INSIDE = ("documents", "results", "matches", "points", "hits", "nodes", "data", "output", "result")
TEXT = ("content", "text", "page_content", "pageContent", "document", "chunk", "body")


def documents(value: Any) -> list[Document]:
    """Of a list of documents in any form: GenAI, OpenInference, LangChain, LlamaIndex, Qdrant, Pinecone; JSON of it too."""
    value = parsed(value)
    for _ in range(3):
        if not isinstance(value, dict):
            break
        value = next((value[name] for name in INSIDE if isinstance(value.get(name), list)), None)
    if not isinstance(value, list):
        return []
    return [d for item in value if (d := document(parsed(item)))]


def tree(items: Mapping[int, Any]) -> list[Document]:
    """Of indexed attributes: {0: {"document": {content, id, score, metadata}}, ...}."""
    return [d for i in sorted(items) if isinstance(items[i], dict) and (d := document(items[i].get("document")))]


def document(value: Any) -> Document | None:
    if isinstance(value, str):
        return Document(None, lean_text(value), None, None) if value else None
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], dict):  # LangChain: (document, score)
        inner = document(value[0])
        if inner is not None:
            inner.score = number(value[1])
        return inner
    if not isinstance(value, dict):
        return None
    if isinstance(inner := value.get("node"), dict):  # LlamaIndex: {node, score}
        value = {**inner, "score": value.get("score"), "id": inner.get("id_") or inner.get("id")}
    elif isinstance(inner := value.get("kwargs"), dict):  # LangChain, serialized
        value = inner
    metadata = literal(parsed(value.get("metadata") or value.get("payload")))  # Pinecone: as Python prints it
    if not isinstance(metadata, dict):
        metadata = None
    text = _text(value) or (_text(metadata) if metadata else None)
    scores = (number(value.get(name)) for name in ("score", "relevance_score", "relevanceScore", "rerank_score"))
    score = next((n for n in scores if n is not None), None)
    found = _id(value, "id", "document_id", "doc_id", "_id", "uuid") or _id(metadata or {}, "id", "document_id", "doc_id")
    if (distance := number(value.get("distance"))) is not None:
        metadata = {**(metadata or {}), "distance": distance}
    if text is None and found is None and score is None:
        return None
    return Document(found, text, score, lean(metadata) if metadata else None)


def of_event(name: str, attributes: Mapping[str, Any]) -> Document | None:
    """A result event: `db.query.result`, `db.search.result`, `pinecone.query.result`, its keys with that name before them."""
    start = f"{name}."
    value = {k.removeprefix(start): v for k, v in attributes.items() if k.startswith(start)}
    if "entity" in value:
        value.setdefault("metadata", value["entity"])
    return document(value)


def join(first: Iterable[Document], second: Iterable[Document]) -> list[Document]:
    """Documents of two tellings of the same result: what one has no text for, the other may."""
    out = list(first)
    texts = {d.id: d.text for d in second if d.id is not None and d.text}
    for one in out:
        if one.text is None and one.id is not None:
            one.text = texts.get(one.id)
    return out


def _text(value: Mapping[str, Any]) -> str | None:
    for name in TEXT:
        if isinstance(text := value.get(name), str) and text:
            return lean_text(text)
    return None


def _id(value: Mapping[str, Any], *names: str) -> str | None:
    for name in names:
        if isinstance(found := value.get(name), (str, int)) and not isinstance(found, bool) and found != "":
            return str(found)[:1024]
    return None
