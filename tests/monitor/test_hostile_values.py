"""No record may stop the writer: whatever its fields hold, it is stored or in the dead letter, and the next one is taken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from monitor import records
from monitor.genai.dialecttable import Table
from monitor.otlp.spans import Event, Link, LogRecord, Span
from monitor.schema import KINDS
from tests.monitor import tracing
from tests.monitor.support import NOON, World, contexts, generation, label, prediction

MAX_TEXT = 5_000
MODELS: Any = (
    {"name": "houses", "task": "regression"},
    {"name": "classes", "task": "multilabel"},
    {"name": "bot", "task": "llm"},
)
NUMBERS: list[Any] = [
    -1, -0.0, 0, 0.5, 5e-324, 1e308, -1e308, 1e300, 2**31, 2**53, 2**63 - 1, -(2**63), 2**63, 2**64, 10**400, float("nan"),
    float("inf"), -float("inf"), True, False,
]  # fmt: skip
TEXTS: list[Any] = [
    "", " ", "\0", "a\0b", "\x01\x1b[31m\r\n", "\ud800", "a\udfffb", "\u202e\ufeff\uffff", "\U0010ffff",
    "x" * 300, "x" * (MAX_TEXT + 1), "ä" * MAX_TEXT,
    "'; DROP TABLE labels; --", "NaN", "1e999", "9" * 400, "null", "[]", "{}", '{"a": [1e999]}',
    '[{"role": "user", "content": {"a": 1}}]',
    '"\\ud800"', "[" * 600, "data:image/png;base64,AAAA", "0" * 32,
]  # fmt: skip
TIMES: list[Any] = [
    "1000-01-01T00:00:00Z", "0999-12-31T23:59:59Z", "4999-12-31T23:59:59.999999Z", "5000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00", "2026-03-01", "2026-03-01T12:00:00", "1000-01-01T00:00:00+23:59", "4999-12-31T23:59:59-23:59",
]  # fmt: skip
DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
SHAPES: list[Any] = [
    None, [], {}, [None], [[]], [1, "a", None, 2**70], {"": ""}, {"a": {"b": [2**65]}}, {"\ud800": "\ud800"},
    {"a\0b": "\0"}, ["\ud800"],
    [True, 1, "1"], [{"text": "\0"}], [{"text": "a", "score": float("nan")}], [{"text": "a", "document_id": 7}],
    [{"role": "user", "content": "\ud800"}], [{"role": ["user"], "content": {}}], DEEP,
]  # fmt: skip
EVERYTHING = [*NUMBERS, *TEXTS, *TIMES, *SHAPES]
NANOSECONDS = [0, 1, -1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 95_617_584_000 * 10**9, -30_610_224_000 * 10**9]

GOOD: dict[str, dict[str, Any]] = {
    "predictions": {**prediction("x"), "features": {"rooms": 3.0, "town": "Oslo"}, "probability": 0.5,
    "model_version": "1", "trace_id": "t"},
    "labels": {**label("x"), "timestamp": NOON.isoformat(), "revision": 1},
    "generations": {
        **generation("x"), **dict.fromkeys(records._GENERATION_TEXTS, "a"), **dict.fromkeys(records._GENERATION_COUNTS, 1),
        "messages": [{"role": "user", "content": "a"}], "contexts": ["a"], "cost_usd": 1.0, "duration_seconds": 1.0,
        "time_to_first_token_seconds": 1.0, "tool_calls": [{"name": "a"}], "fallback": False, "retry": 0,
    },
    "contexts": {**contexts("x", "a"), "timestamp": NOON.isoformat()},
    "feedback": {
        "record_id": "x", "model": "bot", "timestamp": NOON.isoformat(), "name": "n", "value": 1, "label": "l", "comment": "c",
        "source": "s", "rater": "r", "trace_id": "t", "span_id": "s", "feedback_id": "f", "revision": 0,
    },
    "deployments": {
        "record_id": "x", "model": "bot", "timestamp": NOON.isoformat(), "version": "1", "data_hash": "d", "code_commit": "c",
        "prompt_hash": "p", "approver": "a", "origin": "o", "event": "deployed", "alias": "a",
    },
}  # fmt: skip


def known_keys() -> list[str]:
    """Attribute keys that the dialects know, and some of those that begin with a known word."""
    table = Table()
    starts = [f"{start}{rest}" for start in table.starts for rest in ("0.message.content", "0.role", "x", "999999.content")]
    events = [
        "annotations.a.value",
        "evaluations.0.score",
        "retrieval.documents.0.document.score",
        "llm.tools.0.tool.json_schema",
    ]
    return [*sorted(table.rules), *starts, *events, "modelwatch.model", "service.name", ""]


KEYS = known_keys()
EVENTS = (
    "gen_ai.choice", "gen_ai.evaluation.result", "gen_ai.client.inference.operation.details", "gen_ai.user.message", "exception",
    "gen_ai.content.prompt",
)  # fmt: skip
CONVERTED: list[Any] = [  # by the dialects, into numbers and texts: every key they know is tried with these
    2**31, 2**63 - 1, -1, "9007199254740993", "1e308", "['\\ud800']", '["\\ud800"]', "[{'role': 'user', 'content': '\\ud800'}]",
    "[{'content': 'a', 'score': b'b', 'id': 1j}]", '{"text": "\\ud800", "role": "\\ud800"}',
    '{"input": 1e999, "n": 1' + "0" * 30 + "}",
    '[{"score": 1e999, "content": "a", "id": 18446744073709551616}]', "[NaN]",
]  # fmt: skip
SPOKEN = [*EVERYTHING, *CONVERTED]


class Sent:
    """Numbers records, sends them, and holds the inbox to its word about each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.count = 0

    def id(self) -> str:
        self.count += 1
        return f"r{self.count}"

    def record(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {**GOOD[kind], "record_id": self.id(), **fields}

    def span(self, sort: str, **parts: Any) -> Span:
        made = tracing.chat if sort == "llm" else tracing.retriever
        one = made(f"t{self.count % 50}", self.id())
        for name, value in parts.items():
            setattr(one, name, {**one.attributes, **value} if name == "attributes" else value)
        return one

    def log(self, name: str | None, **parts: Any) -> LogRecord:
        one = tracing.event(f"t{self.count % 50}", self.id(), name)
        for part, value in parts.items():
            setattr(one, part, value)
        return one

    def send(self, kind: str, *items: Any) -> None:
        answer = self.world.send(kind, *items)
        assert answer.accepted + answer.duplicates + len(answer.rejects) == len(items)
        with self.world.store.read() as reader:
            letters = reader.query("SELECT record_index FROM deadletters WHERE batch_id = ?", [answer.batch_id])
            assert sorted(row["record_index"] for row in letters) == sorted({r.index for r in answer.rejects})
            for model in answer.accepted_by if kind != "logs" else ():
                counted = "DISTINCT record_id" if kind == "contexts" else "*"  # what they hold is read at the end, once
                rows = f"{reader.source(kind, model)} WHERE batch_id = ?"
                (found,) = reader.query(f"SELECT count({counted}) AS n FROM {rows}", [answer.batch_id])
                assert found["n"] == answer.stored_by[kind, model]

    def work_through(self) -> None:
        """Everything that is done with what was stored, and a good record after all of it."""
        world = self.world
        world.settle()
        world.score()
        world.seal()
        world.audit.refresh()
        for kind in GOOD:
            one = self.record(kind)
            assert world.send(kind, one).accepted == 1
        assert world.send("spans", self.span("llm")).accepted == 1
        assert world.store.broken is None
        assert b"modelwatch_" in generate_latest(world.metrics.registry)
        for kind in KINDS:
            for model in ("", "houses", "classes", "bot"):
                if (kind, model) in world.store.logs():
                    world.rows(kind, model)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    """One store for all examples: what an earlier one left behind must not stop a later one either."""
    world = World(tmp_path_factory.mktemp("hostile") / "store", models=MODELS, server={"max_text_bytes": MAX_TEXT})
    with contextlib.closing(world):
        yield Sent(world)


@pytest.mark.parametrize("kind", GOOD)
def test_each_field_of_a_pushed_record_may_hold_anything(sent: Sent, kind: str) -> None:
    for field in (*GOOD[kind], "more", "\0", "x" * 2000):
        sent.send(kind, *(sent.record(kind, **{field: value}) for value in EVERYTHING))
    if kind == "predictions":
        names = ("rooms", "new", "", "\0", "a\0b", "x" * 2000, "\ud800", '"', "ROOMS", "seq")
        for name in names:
            sent.send(kind, *(sent.record(kind, features={name: value}) for value in EVERYTHING))
        sent.send(kind, *(sent.record(kind, model="classes", prediction=value) for value in EVERYTHING))
        sent.send(kind, *EVERYTHING)
    sent.work_through()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_several_fields_of_a_pushed_record_may_hold_anything_at_once(sent: Sent, kind: str, data: st.DataObject) -> None:
    value = st.sampled_from(EVERYTHING) | st.floats() | st.integers() | st.text(st.characters(codec=None), max_size=20)
    fields = st.dictionaries(st.sampled_from([*GOOD[kind], "more"]), value, min_size=1, max_size=4)
    sent.send(kind, *(sent.record(kind, **one) for one in data.draw(st.lists(fields, min_size=1, max_size=6))))
    assert sent.world.send(kind, sent.record(kind)).accepted == 1  # what comes of them, the tests below see


@pytest.mark.parametrize("sort", ("llm", "retriever"))
def test_each_attribute_of_a_span_may_hold_anything(sent: Sent, sort: str) -> None:
    for place, value in enumerate(SPOKEN):
        keys = KEYS if value in CONVERTED else KEYS[place % 13 :: 13]
        sent.send("spans", *(sent.span(sort, attributes={key: value}) for key in keys))
    sent.work_through()


def test_all_else_of_a_span_and_of_a_log_record_may_hold_anything(sent: Sent) -> None:
    for part in ("name", "kind", "status", "status_message", "scope", "scope_version"):
        sent.send("spans", *(sent.span("llm", **{part: value}) for value in TEXTS))
    for part in ("start_ns", "end_ns"):
        sent.send("spans", *(sent.span("llm", **{part: value}) for value in NANOSECONDS))
    named = {"gen_ai.evaluation.name": "n", "gen_ai.evaluation.score.value": 1}
    sent.send("logs", *(sent.log("gen_ai.evaluation.result", time_ns=at, attributes=named) for at in NANOSECONDS))
    for value in SPOKEN[::2]:
        named_so = {"service.name": value, "service.version": value, "modelwatch.model": "bot"}
        spans = [sent.span("llm", resource=one) for one in ({"service.name": "bot", "a": value}, named_so)]
        keys = ("gen_ai.event.content", "gen_ai.evaluation.name", "gen_ai.evaluation.score.value", "content")
        said = dict.fromkeys(keys, value)
        events = [[Event(name, at, said)] for name in EVENTS for at in (0, 2**63)]
        spans += [sent.span("llm", events=one) for one in events]
        sent.send("spans", *spans, sent.span("llm", links=[Link("", "", {"a": value})]))
        messages = {"gen_ai.input.messages": value, "gen_ai.output.messages": value, "gen_ai.system_instructions": value}
        logs = [{"body": value}, {"body": {"content": value, "message": {"content": value}}}, {"attributes": said}]
        logs += [{"attributes": {**named, "gen_ai.evaluation.score.label": value}}, {"attributes": messages}]
        sent.send("logs", *(sent.log(name, **one) for name in EVENTS for one in logs))
    sent.work_through()
