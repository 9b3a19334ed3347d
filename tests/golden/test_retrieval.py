"""Retrieval spans: of vector databases as recorded, and in the forms that frameworks write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openinference.instrumentation import Document, get_reranker_attributes, get_retriever_attributes

from monitor.genai.dialects import Canonical, Dialects
from monitor.otlp.spans import Event, Span
from monitor.otlp.wire import decode_traces

HERE = Path(__file__).parent
DIALECTS = Dialects()
PARIS, BERLIN = "Paris is the capital of France.", "Berlin is the capital of Germany."


def recorded(system: str) -> list[tuple[str, Canonical]]:
    exports = json.loads((HERE / "spans" / "vectors.json").read_text(encoding="utf-8"))[system]["traces"]
    spans = [s for e in exports for s in decode_traces(json.dumps(e).encode(), "application/json") if isinstance(s, Span)]
    return [(s.name, DIALECTS.read(s)) for s in spans]


def read(attributes: dict[str, Any], events: list[Event] | None = None, name: str = "search") -> Canonical:
    return DIALECTS.read(
        Span("1" * 32, "2" * 16, None, name, "client", 1, 2, "unset", None, attributes, events or [], [], {}, None, None)
    )


# The collection of a Chroma query and of a Weaviate one, and the points of a Qdrant one, their instrumentations do not tell.
@pytest.mark.parametrize(
    ("system", "name", "want"),
    (
        ("qdrant", "qdrant.query_points", {"system": "qdrant", "collection": "cities", "top_k": 2}),
        ("chroma", "chroma.query", {"system": "chroma", "top_k": 2, "hits": 2}),
        ("pinecone", "pinecone.query", {"system": "pinecone", "collection": "cities", "top_k": 2, "hits": 2}),
        ("weaviate", "db.weaviate.collections.query.fetch_objects", {"system": "weaviate", "top_k": 2}),
    ),
)
def test_a_query_of_a_vector_database_is_a_retrieval_and_a_write_is_none(system: str, name: str, want: dict[str, Any]) -> None:
    found = recorded(system)
    [query] = [c for n, c in found if n == name]
    assert query.type == "retriever"
    assert query.retrieval == want
    assert {c.type for n, c in found if n != name} <= {"other"}


def test_documents_of_a_vector_database_keep_text_score_and_distance() -> None:
    [chroma] = [c.documents for n, c in recorded("chroma") if n == "chroma.query"]
    assert [(d.id, d.text, d.score) for d in chroma] == [("1", PARIS, None), ("2", BERLIN, None)]
    assert chroma[0].metadata == {"page": 1, "distance": 0.0}
    assert chroma[1].metadata is not None
    assert chroma[1].metadata["distance"] == pytest.approx(0.4)
    [pinecone] = [c.documents for n, c in recorded("pinecone") if n == "pinecone.query"]
    assert [(d.id, d.text, d.score) for d in pinecone] == [("1", PARIS, 1.0), ("2", BERLIN, 0.8)]


DOCUMENTS: list[Document] = [
    {"content": PARIS, "id": "a", "score": 0.9, "metadata": {"page": 1}},
    {"content": BERLIN, "id": "b", "score": 0.4},
]


def test_openinference_retrievers_are_read_in_the_order_of_their_rank() -> None:
    attributes = dict(get_retriever_attributes(documents=DOCUMENTS))
    found = read({"openinference.span.kind": "RETRIEVER", "input.value": "Where is Paris?", **attributes})
    assert found.retrieval == {"query": "Where is Paris?", "hits": 2}
    assert [(d.id, d.text, d.score) for d in found.documents] == [("a", PARIS, 0.9), ("b", BERLIN, 0.4)]
    assert found.documents[0].metadata == {"page": 1}


def test_a_rerankers_output_stands_and_not_its_input() -> None:
    attributes = dict(
        get_reranker_attributes(
            query="Where is Paris?", top_k=1, input_documents=DOCUMENTS, output_documents=DOCUMENTS[1:], model_name="rerank-3"
        )
    )
    found = read({"openinference.span.kind": "RERANKER", **attributes})
    assert found.type == "reranker"
    assert found.retrieval == {"query": "Where is Paris?", "top_k": 1, "hits": 1}
    assert [d.text for d in found.documents] == [BERLIN]
    assert found.fields["request_model"] == "rerank-3"


@pytest.mark.parametrize(
    "attributes",
    (
        {"gen_ai.operation.name": "retrieval", "gen_ai.retrieval.documents":
         json.dumps([{"id": "a", "score": 0.9, "content": PARIS}])},
        {"gen_ai.operation.name": "retrieval", "gen_ai.retrieval.documents": [{"id": "a", "score": 0.9}],
         "output.value": json.dumps({"documents": [{"id": "a", "text": PARIS}]})},
        {"mlflow.spanType": '"RETRIEVER"', "mlflow.spanOutputs": json.dumps([{"page_content": PARIS, "id": "a", "score": 0.9}])},
        {"langfuse.observation.type": "retriever", "langfuse.observation.output": json.dumps(
            [{"lc": 1, "kwargs": {"page_content": PARIS, "metadata": {"id": "a"}, "score": 0.9}}])},
        {"openinference.span.kind": "RETRIEVER", "output.value": json.dumps(
            {"nodes": [{"node": {"id_": "a", "text": PARIS}, "score": 0.9}]})},
        {"openinference.span.kind": "RETRIEVER", "output.value": json.dumps(
            [[{"page_content": PARIS, "metadata": {"id": "a"}}, 0.9]])},
        {"db.system.name": "qdrant", "db.operation.name": "query", "output.value": json.dumps(
            {"points": [{"id": "a", "score": 0.9, "payload": {"text": PARIS}}]})},
    ),
)  # fmt: skip
def test_documents_are_found_in_every_form(attributes: dict[str, Any]) -> None:
    found = read(attributes)
    assert found.type == "retriever"
    [one] = found.documents
    assert (one.id, one.text, one.score) == ("a", PARIS, 0.9)
    assert found.retrieval["hits"] == 1


def test_genai_documents_without_their_text_still_count() -> None:
    found = read(
        {"gen_ai.operation.name": "retrieval", "gen_ai.retrieval.query.text": "Paris?", "gen_ai.retrieval.top_k": 4,
         "gen_ai.data_source.id": "cities",
         "gen_ai.retrieval.documents": [{"id": "a", "score": 0.9}, {"id": "b", "score": "0.4"}]}
    )  # fmt: skip
    assert found.retrieval == {"query": "Paris?", "top_k": 4, "collection": "cities", "hits": 2}
    assert [(d.id, d.text, d.score) for d in found.documents] == [("a", None, 0.9), ("b", None, 0.4)]


def test_search_result_events_are_documents_and_a_query_that_found_nothing_says_so() -> None:
    event = Event("db.search.result", 1, {"db.search.result.id": 7, "db.search.result.distance": 0.25,
                                          "db.search.result.entity": '{"text": "Rome"}'})  # fmt: skip
    found = read({"db.system": "milvus", "db.operation": "search"}, [event])
    [one] = found.documents
    assert (one.id, one.text, one.metadata) == ("7", "Rome", {"text": "Rome", "distance": 0.25})
    empty = read({"db.system": "milvus", "db.operation": "search", "db.response.returned_rows": 0})
    assert empty.retrieval == {"system": "milvus", "hits": 0}
