"""What masking adds to a record on its way in: processor time of one thread.

The recognisers that are on by default, no rules for fields.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from monitor.config import Config
from monitor.keys import hash64
from monitor.masking.masking import Masking
from monitor.otlp.spans import Span
from tests.bench.harness import Options, Row, each, measured

PROSE = (
    "The ferry leaves the northern harbour twice a day, at 9 and at 17:30, and takes about 45 minutes; in winter only the first "
    "one runs. A ticket is 12.50 for adults (children: half), and bicycles travel free. "
)
SIZE = 2048
DATE, PERSON = " on 2026-03-01 12:00 ", " bob@example.com, +1 212 555 0142 "
RECORDS = 200


def run(options: Options) -> list[Row]:
    cases: list[tuple[str, str, Callable[[int], Any]]] = [
        ("generation, 2 KB of clean text", "generations", lambda i: generation(i, "")),
        ("generation, 2 KB with a date in it", "generations", lambda i: generation(i, DATE)),
        ("generation, 2 KB with an e-mail address and a phone number", "generations", lambda i: generation(i, PERSON)),
        ("span, 30 attributes with 2 KB of clean text", "spans", lambda i: span(i, "")),
        ("span, 30 attributes with a date in the text", "spans", lambda i: span(i, DATE)),
        ("prediction, 30 features", "predictions", prediction),
    ]
    repeats = options.pick(15, 7, 1)
    found = each(options, cases, "masking", lambda case: spent(case[1], case[2], repeats))
    return [
        measured(name, micros, "µs", f"a record; {repeats} times {RECORDS} records")
        for (name, _, _), micros in zip(cases, found, strict=True)
    ]


def spent(kind: str, make: Callable[[int], Any], repeats: int) -> list[float]:
    """Microseconds of processor time a record, of each repeat."""
    masking = Masking(Config(), lambda kind, many: None)
    items = [make(i) for i in range(RECORDS)]
    micros = []
    for _ in range(repeats + 1):
        started = time.thread_time()
        masking.apply(kind, items, "bot")
        micros.append((time.thread_time() - started) / RECORDS * 1e6)
    return micros[1:]  # the first learns the names of the fields


def text(size: int, inside: str) -> str:
    half = (PROSE * (size // len(PROSE) + 1))[: (size - len(inside)) // 2]
    return half + inside + half


def generation(i: int, inside: str) -> dict[str, Any]:
    return {
        "record_id": f"g-{i}",
        "model": "bot",
        "timestamp": "2026-03-01T12:00:00+00:00",
        "question": text(256, inside),
        "response": text(512, ""),
        "contexts": [{"text": text(640, ""), "document_id": f"d-{i}", "score": 0.5} for _ in range(2)],
        "llm_model": "gpt-4o-mini",
        "input_tokens": 500 + i,
        "output_tokens": 120,
        "duration_seconds": 1.25,
    }


def span(i: int, inside: str) -> Span:
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.id": f"chatcmpl-{hash64(str(i)):016x}{hash64(i.to_bytes(8)):016x}",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 500 + i,
        "gen_ai.usage.output_tokens": 120,
        "gen_ai.prompt.0.role": "user",
        "gen_ai.prompt.0.content": text(SIZE // 2, inside),
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": text(SIZE // 2, ""),
        **{f"app.attribute.{n}": f"value-{n}" for n in range(10)},
        **{f"app.number.{n}": n * 1.5 for n in range(9)},
    }
    return Span(
        trace_id=f"{i:032x}",
        span_id=f"{i + 1:016x}",
        parent_id=None,
        name="chat gpt-4o-mini",
        kind="client",
        start_ns=1,
        end_ns=2,
        status="ok",
        status_message=None,
        attributes=attributes,
        events=[],
        links=[],
        resource=RESOURCE,
        scope="bench",
        scope_version="1",
    )


RESOURCE: dict[str, Any] = {"service.name": "bot", "service.version": "1.2.3", "telemetry.sdk.language": "python"}


def prediction(i: int) -> dict[str, Any]:
    features = {f"feature_{n}": i + n / 7 for n in range(30)}
    return {"record_id": f"p-{i}", "model": "houses", "timestamp": 1772366400.5, "features": features, "prediction": 0.5}
