"""Replays recorded calls through one instrumentation. Runs inside that dialect's own virtual environment; see record.py.

    python drive.py DIALECT URL FOLDER

FOLDER holds `scenarios.json`: [{name, api, body}]; each is sent with the real client library to URL/cassette/NAME. Spans and
logs leave by the instrumentation's own way out, or by the OpenTelemetry exporter, to URL/otlp/NAME/v1/traces (or .../logs).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def use(module: str) -> Any:
    """A library of this dialect's environment; the environment of the tests has none of them."""
    return importlib.import_module(module)


def provider(url: str, name: str) -> Any:
    """A tracer provider that sends every span to URL/otlp/NAME/v1/traces as it ends."""
    exporter = use("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter(f"{url}/otlp/{name}/v1/traces")
    about = {"service.name": "shop", "service.version": "1.4.0", "deployment.environment.name": "staging"}
    found = use("opentelemetry.sdk.trace").TracerProvider(resource=use("opentelemetry.sdk.resources").Resource(about))
    found.add_span_processor(use("opentelemetry.sdk.trace.export").SimpleSpanProcessor(exporter))
    return found


def logger_provider(url: str, name: str) -> Any:
    exporter = use("opentelemetry.exporter.otlp.proto.http._log_exporter").OTLPLogExporter(f"{url}/otlp/{name}/v1/logs")
    resource = use("opentelemetry.sdk.resources").Resource({"service.name": "shop"})
    found = use("opentelemetry.sdk._logs").LoggerProvider(resource=resource)
    found.add_log_record_processor(use("opentelemetry.sdk._logs.export").SimpleLogRecordProcessor(exporter))
    return found


def drain(answer: Any) -> None:
    """A stream is finished, and its span ended, when somebody has read it."""
    if hasattr(answer, "__iter__") and not hasattr(answer, "model_dump"):
        for _ in answer:
            pass


def call(scenario: dict[str, Any], url: str, openai_client: Callable[..., Any] | None = None) -> None:
    """Send one recorded request body with the real client library; an error of the API is part of the recording."""
    body, base = dict(scenario["body"]), f"{url}/cassette/{scenario['name']}"
    try:
        if scenario["api"] == "anthropic.messages":
            drain(use("anthropic").Anthropic(api_key="not-a-key", base_url=base, max_retries=0).messages.create(**body))
            return
        client = (openai_client or use("openai").OpenAI)(api_key="not-a-key", base_url=f"{base}/v1", max_retries=0)
        create = {
            "openai.chat": lambda: client.chat.completions.create,
            "openai.responses": lambda: client.responses.create,
            "openai.completions": lambda: client.completions.create,
            "openai.embeddings": lambda: client.embeddings.create,
        }[scenario["api"]]()
        drain(create(**body))
    except Exception as exc:
        print(f"    {scenario['name']}: {type(exc).__name__}")


def in_children(scenarios: list[dict[str, Any]], work: Callable[[dict[str, Any]], None]) -> None:
    """Each scenario in a process of its own: these libraries keep one exporter for the whole
    process and flush it at exit, and an instrumentation taken off and put on again wraps the client twice."""
    for scenario in scenarios:
        sys.stdout.flush()
        if os.fork() == 0:
            work(scenario)
            sys.exit()
        os.wait()


def each(scenarios: list[dict[str, Any]], url: str, instrument: Callable[[Any, Any], Any], logs: bool = False) -> None:
    def work(scenario: dict[str, Any]) -> None:
        tracer_provider = provider(url, scenario["name"])
        log_provider = logger_provider(url, scenario["name"]) if logs else None
        instrument(tracer_provider, log_provider)
        call(scenario, url)
        tracer_provider.shutdown()
        if log_provider:
            log_provider.shutdown()

    in_children(scenarios, work)


def openinference(scenarios: list[dict[str, Any]], url: str, folder: Path) -> None:
    def instrument(traces: Any, _: Any) -> None:
        found = [
            use("openinference.instrumentation.openai").OpenAIInstrumentor(),
            use("openinference.instrumentation.anthropic").AnthropicInstrumentor(),
        ]
        for one in found:
            one.instrument(tracer_provider=traces)

    each(scenarios, url, instrument)


def traceloop(scenarios: list[dict[str, Any]], url: str, folder: Path) -> None:
    def instrument(traces: Any, _: Any) -> None:
        found = [
            use("opentelemetry.instrumentation.openai").OpenAIInstrumentor(),
            use("opentelemetry.instrumentation.anthropic").AnthropicInstrumentor(),
        ]
        for one in found:
            one.instrument(tracer_provider=traces)

    each(scenarios, url, instrument)


def genai_old(scenarios: list[dict[str, Any]], url: str, folder: Path) -> None:
    """openai-v2 as it was: content as log events."""
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "true"

    def instrument(traces: Any, logs: Any) -> None:
        found = use("opentelemetry.instrumentation.openai_v2").OpenAIInstrumentor()
        # The SDK of that time carried events by a provider of their own.
        events = use("opentelemetry.sdk._events").EventLoggerProvider(logger_provider=logs)
        found.instrument(tracer_provider=traces, event_logger_provider=events)

    each(scenarios, url, instrument, logs=True)


def genai(scenarios: list[dict[str, Any]], url: str, folder: Path) -> None:
    """openai-v2 in its last version, with the opt-in."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_AND_EVENT"

    def instrument(traces: Any, logs: Any) -> None:
        found = use("opentelemetry.instrumentation.openai_v2").OpenAIInstrumentor()
        found.instrument(tracer_provider=traces, logger_provider=logs)

    each(scenarios, url, instrument, logs=True)


def genai_new(scenarios: list[dict[str, Any]], url: str, folder: Path) -> None:
    """The packages that followed it, one for each provider."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_AND_EVENT"

    def instrument(traces: Any, logs: Any) -> None:
        found = [
            use("opentelemetry.instrumentation.genai.openai").OpenAIInstrumentor(),
            use("opentelemetry.instrumentation.genai.anthropic").AnthropicInstrumentor(),
        ]
        for one in found:
            one.instrument(tracer_provider=traces, logger_provider=logs)

    each(scenarios, url, instrument, logs=True)


def langfuse(scenarios: list[dict[str, Any]], url: str, folder: Path) -> None:
    os.environ["LANGFUSE_TRACING_ENVIRONMENT"] = "staging"
    os.environ["LANGFUSE_RELEASE"] = "1.4.0"

    def work(scenario: dict[str, Any]) -> None:
        library = use("langfuse")
        client = library.Langfuse(public_key="pk-not-a-key", secret_key="sk-not-a-key", base_url=f"{url}/otlp/{scenario['name']}")
        with library.propagate_attributes(user_id="user-7", session_id="session-3", tags=["golden"]):
            call(scenario, url, use("langfuse.openai").OpenAI)
        client.flush()

    in_children(scenarios, work)


def mlflow(scenarios: list[dict[str, Any]], url: str, folder: Path) -> None:
    os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"
    os.environ["OTEL_SERVICE_NAME"] = "shop"

    def work(scenario: dict[str, Any]) -> None:
        os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"{url}/otlp/{scenario['name']}/v1/traces"
        library = use("mlflow")
        library.set_tracking_uri((folder / "mlruns").as_uri())
        use("mlflow.anthropic" if scenario["api"].startswith("anthropic") else "mlflow.openai").autolog()
        call(scenario, url)

    in_children(scenarios, work)


def litellm(scenarios: list[dict[str, Any]], url: str, folder: Path) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["OTEL_SERVICE_NAME"] = "shop"

    def work(scenario: dict[str, Any]) -> None:
        library, otel = use("litellm"), use("litellm.integrations.opentelemetry")
        target = f"{url}/otlp/{scenario['name']}/v1/traces"
        library.callbacks = [otel.OpenTelemetry(config=otel.OpenTelemetryConfig(exporter="otlp_http", endpoint=target))]
        library.telemetry = False
        body, base = dict(scenario["body"]), f"{url}/cassette/{scenario['name']}"
        if scenario["api"] == "anthropic.messages":
            body |= {"model": f"anthropic/{body['model']}", "api_base": base}
        else:
            body |= {"model": f"openai/{body['model']}", "api_base": f"{base}/v1"}
        send = {
            "openai.embeddings": library.embedding,
            "openai.completions": library.text_completion,
            "openai.responses": library.responses,
        }.get(scenario["api"], library.completion)
        try:
            drain(send(**body, api_key="not-a-key", max_retries=0, num_retries=0))
        except Exception as exc:
            print(f"    {scenario['name']}: {type(exc).__name__}")
        time.sleep(1.5)  # its callbacks run on a thread that nobody can wait for

    in_children(scenarios, work)


def vectors(scenarios: list[dict[str, Any]], url: str, folder: Path) -> None:
    """Traceloop's instrumentations of four vector databases. Qdrant and Chroma run inside the process; Pinecone's client asks the
    local server; of Weaviate, which would need a server of its own, the instrumentation's wrapper is called around nothing."""
    texts = {1: "Paris is the capital of France.", 2: "Berlin is the capital of Germany.", 3: "Rome lies on the Tiber."}
    places = {1: [1.0, 0.0], 2: [0.8, 0.6], 3: [0.0, 1.0]}

    traces = provider(url, "qdrant")
    use("opentelemetry.instrumentation.qdrant").QdrantInstrumentor().instrument(tracer_provider=traces)
    qdrant, models = use("qdrant_client"), use("qdrant_client.models")
    client = qdrant.QdrantClient(":memory:")
    client.create_collection("cities", vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE))
    points = [models.PointStruct(id=i, vector=places[i], payload={"text": texts[i]}) for i in texts]
    client.upsert("cities", points=points)
    client.query_points(collection_name="cities", query=[1.0, 0.0], limit=2)
    traces.shutdown()

    traces = provider(url, "chroma")
    use("opentelemetry.instrumentation.chromadb").ChromaInstrumentor().instrument(tracer_provider=traces)
    chroma = use("chromadb")
    cities = chroma.EphemeralClient().create_collection("cities", embedding_function=None)
    cities.add(
        ids=[str(i) for i in texts], embeddings=list(places.values()), documents=list(texts.values()),
        metadatas=[{"page": i} for i in texts],
    )  # fmt: skip
    cities.query(query_embeddings=[[1.0, 0.0]], n_results=2)
    traces.shutdown()

    traces = provider(url, "pinecone")
    use("opentelemetry.instrumentation.pinecone").PineconeInstrumentor().instrument(tracer_provider=traces)
    index = use("pinecone").Pinecone(api_key="not-a-key").Index(host=f"{url}/cassette/pinecone")
    index.query(vector=[1.0, 0.0], top_k=2, namespace="cities", include_metadata=True)
    traces.shutdown()

    traces = provider(url, "weaviate")
    wrapper = use("opentelemetry.instrumentation.weaviate.wrapper")
    told = {"object": "_FetchObjectsQuery", "method": "fetch_objects", "span_name": "db.weaviate.collections.query.fetch_objects"}
    wrapper._wrap(traces.get_tracer("opentelemetry.instrumentation.weaviate"), told)(lambda **_: None, None, (), {"limit": 2})
    traces.shutdown()


if __name__ == "__main__":
    _, dialect, url, folder = sys.argv
    globals()[dialect](json.loads((Path(folder) / "scenarios.json").read_text()), url, Path(folder))
