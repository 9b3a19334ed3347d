"""A client that sends batches as fast as they are answered. Imports little: several of these run beside the daemon.

The batches are encoded before the clock starts. What makes records differ from one request to the next (ids, seconds) stands
in them as text of fixed length and is put in by one `bytes.replace`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from typing import Any, Literal

import orjson

from tests.bench import spans

FEATURES = 30
CATEGORIES = ("north", "south", "east", "west", "centre")
ID, SECOND = b"@request", b"2000-01-01T00:00:00"
MODELS = {"predictions": "shop", "generations": "bot", "spans": "bot"}

Kind = Literal["predictions", "generations", "spans"]
Form = Literal["json", "ndjson", "protobuf"]
CONTENT = {"json": "application/json", "ndjson": "application/x-ndjson", "protobuf": "application/x-protobuf"}
PATHS = {"predictions": "/v1/predictions", "generations": "/v1/generations", "spans": "/v1/traces"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What one client sends, and for how long."""

    address: str
    kind: Kind
    form: Form
    records: int
    seconds: float
    first: int
    """Number of its first request; no two clients use the same."""
    texts: Sequence[str] = ()
    bodies: int = 8
    every: float = 0.0
    """Seconds from one request to the next; 0 for as fast as they are answered. One that the last answer kept waiting is late,
    and its own answer is timed from when it was due."""
    after: float = 0.0
    """Seconds before the first, with `every`: clients that know nothing of each other do not send in step."""


@dataclass(slots=True)
class Sent:
    """What came of it. `answers` are seconds to each answer, refusals not among them."""

    records: int = 0
    requests: int = 0
    refused: int = 0
    seconds: float = 0.0
    answers: list[float] = field(default_factory=list)


def prediction(rng: random.Random, number: int) -> dict[str, Any]:
    """Thirty features: numbers with the digits of a float32, some whole, some categories."""
    features: dict[str, Any] = {}
    for i in range(FEATURES):
        if i % 10 == 8:
            features[f"feature_{i:02d}"] = rng.randrange(1000)
        elif i % 10 == 9:
            features[f"feature_{i:02d}"] = rng.choice(CATEGORIES)
        else:
            features[f"feature_{i:02d}"] = round(rng.gauss(0, 1), 7)
    return {
        "record_id": f"{ID.decode()}-{number:05d}",
        "model": MODELS["predictions"],
        "timestamp": f"{SECOND.decode()}.{number:06d}Z",
        "features": features,
        "prediction": round(rng.gauss(100, 20), 5),
    }


def generation(rng: random.Random, number: int, texts: Sequence[str]) -> dict[str, Any]:
    """About 2 KB: a question, an answer and three passages, cut from `texts`."""

    def text(size: int) -> str:
        found = ""
        while len(found) < size:
            found += rng.choice(texts) + " "
        return found[:size]

    return {
        "record_id": f"{ID.decode()}-{number:05d}",
        "model": MODELS["generations"],
        "timestamp": f"{SECOND.decode()}.{number:06d}Z",
        "question": text(120),
        "response": text(500),
        "contexts": [text(400) for _ in range(3)],
        "input_tokens": rng.randrange(2000),
        "output_tokens": rng.randrange(500),
    }


def batch(plan: Plan, seed: int) -> bytes:
    if plan.kind == "spans":
        return spans.export(MODELS["spans"], plan.records, seed, plan.texts)
    rng = random.Random(seed)
    items = [prediction(rng, i) if plan.kind == "predictions" else generation(rng, i, plan.texts) for i in range(plan.records)]
    return b"\n".join(map(orjson.dumps, items)) if plan.form == "ndjson" else orjson.dumps(items)


def filled(kind: Kind, body: bytes, request: int) -> bytes:
    """The batch with ids and times of its own."""
    if kind == "spans":
        return spans.filled(body, request)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
    return body.replace(ID, b"%08d" % request).replace(SECOND, now)


def serve(plan: Plan, control: Connection) -> None:
    """Says "ready" over `control`, sends when told to begin, and hands back what was `Sent`."""
    bodies = [batch(plan, plan.first + i) for i in range(plan.bodies)]
    control.send("ready")
    control.recv()
    control.send(send(plan, bodies))


def send(plan: Plan, bodies: Sequence[bytes]) -> Sent:
    sent = Sent()
    connection = HTTPConnection(plan.address, timeout=120)
    started = now = time.monotonic()
    while now - started < plan.seconds:
        body = filled(plan.kind, bodies[sent.requests % len(bodies)], plan.first + sent.requests)
        due = started + plan.after + sent.requests * plan.every
        time.sleep(max(0.0, due - time.monotonic()) if plan.every else 0.0)
        while True:
            asked = time.monotonic()
            connection.request("POST", PATHS[plan.kind], body, {"Content-Type": CONTENT[plan.form]})
            response = connection.getresponse()
            answer = response.read()
            now = time.monotonic()
            if response.status not in (429, 503):
                break
            sent.refused += 1
            if now - started >= plan.seconds:  # it refuses for good
                sent.seconds = now - started
                connection.close()
                return sent
            time.sleep(float(response.headers.get("Retry-After", 1)))
        if response.status != 200 or (accepted := _accepted(plan, answer)) != plan.records:
            raise RuntimeError(f"{response.status}: {answer.decode()[:500]}")
        sent.answers.append(now - (due if plan.every else asked))
        sent.requests += 1
        sent.records += accepted
    sent.seconds = now - started
    connection.close()
    return sent


def _accepted(plan: Plan, answer: bytes) -> int:
    return spans.taken(answer, plan.records) if plan.kind == "spans" else orjson.loads(answer)["accepted"]
