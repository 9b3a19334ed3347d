"""Nothing recognised, and no content where none is wanted, gets into the store by any way in."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from monitor import configfile
from monitor.config import Config
from monitor.decode import decode, decode_lines
from monitor.errors import ConfigError
from monitor.genai.dialecttable import Table
from monitor.inbox import Batch
from monitor.masking.masking import Masking
from monitor.metrics import Metrics
from monitor.otlp.spans import Event, Link, LogRecord, Span
from monitor.otlp.wire import decode_traces, rejected
from monitor.records import Reject
from monitor.sources.follow import FollowSource
from tests.monitor.support import NOON, Door, World, contexts, generation, label, prediction, sample

SECRETS = {
    "email": "bob.smith@example.com",
    "phone": "+1 212 555 0142",
    "card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
    "ssn": "078-05-1120",
    "key": "sk-proj-a1B2c3D4e5F6a1B2c3D4e5F6",
}
ALL = "; ".join(SECRETS.values())
KEY = "0123456789abcdef"


def made(models: list[dict[str, Any]] | None = None, **settings: Any) -> tuple[Masking, Metrics]:
    some = models or [{"name": "bot", "task": "llm"}]
    metrics = Metrics(CollectorRegistry())
    return Masking(
        Config.model_validate({"models": some, "masking": settings}), lambda kind, many: metrics.masked.labels(kind).inc(many)
    ), metrics


def one(kind: str, item: Any, model: str | None = "bot", **settings: Any) -> Any:
    return made(**settings)[0].apply(kind, [item], model)[0]


def span(**fields: Any) -> Span:
    values: dict[str, Any] = {
        "trace_id": "a" * 32, "span_id": "b" * 16, "parent_id": None, "name": "chat", "kind": "client", "start_ns": 1,
        "end_ns": 2, "status": "ok", "status_message": None,
        "attributes": {}, "events": [], "links": [], "resource": {}, "scope": None,
        "scope_version": None,
    }  # fmt: skip
    return Span(**{**values, **fields})


def log_record(**fields: Any) -> LogRecord:
    values: dict[str, Any] = {
        "time_ns": 1, "trace_id": None, "span_id": None, "event_name": None, "severity": None, "body": None, "attributes": {},
        "resource": {}, "scope": None, "scope_version": None,
    }  # fmt: skip
    return LogRecord(**{**values, **fields})


def texts(value: Any) -> Iterator[str]:
    """Every text in it, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, held in value.items():
            yield from texts(name)
            yield from texts(held)
    elif isinstance(value, (list, tuple)):
        for held in value:
            yield from texts(held)
    elif hasattr(value, "__slots__"):
        for name in value.__slots__:
            yield from texts(getattr(value, name))


def leaks(value: Any) -> list[str]:
    return [secret for secret in SECRETS.values() if any(secret in text for text in texts(value))]


def stored(world: World) -> list[Any]:
    """Every text column of every table in the hot file, of every sealed segment, and of the auditors' views."""
    with world.store.read() as reader:
        tables = [row["table_name"] for row in reader.query("SELECT table_name FROM information_schema.tables")]
        found: list[Any] = [reader.query(f'SELECT * FROM "{table}"') for table in tables]
    world.seal()
    world.audit.refresh()
    found += [pq.read_table(file).to_pylist() for file in world.store.root.rglob("*.parquet")]
    with duckdb.connect(world.store.root / "audit.duckdb", read_only=True) as views:
        views.execute(f"SET file_search_path = '{world.store.root}'")
        names = [row[0] for row in views.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()]
        assert names
        found += [views.sql(f'FROM "{name}"').to_arrow_table().to_pylist() for name in names]
    return found


# --- every way in ---

ITEMS: dict[str, Callable[[str], dict[str, Any]]] = {
    "predictions": lambda text: prediction(
        "p", features={"note": text, f"f {text}": 1.0}, prediction=text, more={"deep": [text]}
    ),
    "labels": lambda text: label("p", text),
    "generations": lambda text: generation(
        "g", question=text, response=text, system=text, user_id=text, messages=[{"role": "user", "content": text}],
        contexts=[text, {"text": text, "document_id": text}], arguments=json.dumps({"to": text}),
    ) | {f"k {text}": 1},
    "contexts": lambda text: contexts("g", text),
    "feedback": lambda text: {"record_id": "g", "model": "bot", "name": "helpful", "label": text, "comment": text, "rater": text},
    "deployments": lambda text: {"model": "bot", "version": "1", "approver": text, "note": {"deep": text}},
}  # fmt: skip


@pytest.mark.parametrize("kind", list(ITEMS))
def test_nothing_recognised_is_stored_of_a_pushed_record_nor_of_a_rejected_one(kind: str, world: World) -> None:
    good = ITEMS[kind](ALL)
    wrong_type = {**ITEMS[kind](ALL), "record_id": [ALL], "timestamp": ALL, "model_version": {"a": ALL}}
    world.send(kind, good, wrong_type, {**good, "model": ALL}, ALL, [ALL], json.loads('{"x": "' + ALL + '"}'))
    found = stored(world)
    assert world.letters()
    assert leaks(found) == []
    assert any("[EMAIL]" in text for text in texts(found))


def test_nothing_recognised_is_stored_of_what_cannot_be_decoded(door: Door) -> None:
    for body in (f'[{{"a": "{ALL}", "b":', ALL, f'{{"a":"\\n{ALL}"', f'{{"a": NaN, "b": "{ALL}"}}', f'{{"a": "\\ud800 {ALL}"}}'):
        door.post("generations", body.encode())
        door.post("generations", body.encode(), "application/x-ndjson")
    door.post("generations", b'{"a": "\xff ' + ALL.encode() + b'"}')
    found = stored(door.world)
    assert len(door.world.letters()) >= 10
    assert leaks(found) == []


def test_nothing_recognised_is_stored_of_a_followed_file(make_world: Callable[..., World], tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    source = {"type": "follow", "name": "f", "path": str(file), "kind": "generations", "max_block_bytes": 1024}
    world = make_world(sources=[source])
    good = orjson.dumps(generation("g", question=ALL)).decode()
    file.write_text(f"{good}\n{ALL}\n" + ALL + "x" * 2000 + f"\n{good[:-9]}\n", encoding="utf-8")
    follow = FollowSource(world.config.sources[0], world.inbox, world.store, clock=world.clock, metrics=world.metrics)  # type: ignore[arg-type]
    while follow.poll():
        pass
    follow.stop()
    found = stored(world)
    assert len(world.letters()) == 3
    assert leaks(found) == []


def test_what_is_masked_is_counted_by_kind(world: World) -> None:
    world.send("generations", generation("g", question=ALL, response="none here"))
    for kind in SECRETS:
        assert sample(world.metrics, "modelwatch_masked_values_total", kind=kind) == 1


def test_no_log_line_carries_what_was_sent(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for kind in ITEMS:
            door.post(kind, [ITEMS[kind](ALL), {"record_id": {"a": ALL}, "timestamp": ALL}])
            door.post(kind, f'{{"a": "{ALL}'.encode())
    assert leaks([record.getMessage() + str(record.exc_info) for record in caplog.records]) == []


# --- spans and log records ---


def rich(text: str) -> Span:
    return span(
        name=f"chat {text}",
        status_message=text,
        attributes={"gen_ai.prompt.0.content": text, "input.value": json.dumps({"a": f"\n{text}"}), "n": [text], text: 1},
        events=[Event(text, 1, {"exception.message": text})],
        links=[Link("c" * 32, "d" * 16, {"why": text})],
        resource={"service.name": "bot", "process.command_args": [text]},
    )


def test_a_span_is_masked_in_all_its_parts_and_the_one_handed_in_stays() -> None:
    before = rich(ALL)
    kept = copy.deepcopy(before)
    after = one("spans", before)
    assert before == kept
    assert leaks(after) == []
    assert (after.trace_id, after.span_id, after.start_ns) == (before.trace_id, before.span_id, before.start_ns)
    assert json.loads(after.attributes["input.value"])["a"].startswith("\n[EMAIL]")
    assert leaks(one("logs", log_record(body={"a": [ALL]}, attributes={"b": ALL}, event_name=ALL, resource={"c": ALL}))) == []


def test_a_clean_span_is_the_same_object_and_its_resource_is_looked_at_once() -> None:
    masking, metrics = made()
    resource = {"service.name": "bot", "who": ALL}
    clean = span(attributes={"gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 1_000_000, "t": 1772366400123456789})
    first, second, same = masking.apply("spans", [span(resource=resource), span(resource=resource), clean])
    assert first.resource is second.resource is not resource
    assert same is clean
    assert sample(metrics, "modelwatch_masked_values_total", kind="email") == 1


@pytest.mark.parametrize(
    "payload",
    (
        {"attributes": [{"key": name, "value": {"stringValue": value}} for name, value in (("pwd", "hunter2"), ("a", ALL))]},
        json.dumps({"attributes": {"a": ALL}}),
        f"\n\x0fa{ALL}\x12\x04b{ALL}\ufffd",
        f"\x0a\x0f{ALL}".encode(),
        b"\xff\x0f" + ALL.encode() + b"\x1a",
        rich(ALL),
    ),
    ids=["wire json", "json", "wire protobuf", "bytes", "no utf-8", "span"],
)  # fmt: skip
def test_the_payload_of_a_rejected_span_is_masked_in_every_form(payload: Any) -> None:
    after = one("spans", Reject(3, "undecodable", f"what is {ALL}", None, payload))
    assert after.index == 3
    assert leaks(after) == []
    assert "hunter2" not in str(after)


WRONG = ("sk-proj-a1B2c3D4e5F6a1B2c3D4e5F6", "bob.smith@example.com", b"bob.smith@example.com".hex(), "a" * 60 + "@example.com")


def test_what_was_sent_for_an_id_and_is_none_is_masked_wherever_it_is_shown(world: World) -> None:
    for text in WRONG:
        ids = {"traceId": text, "spanId": text, "parentSpanId": text, "name": "x"}
        export = {"resourceSpans": [{"scopeSpans": [{"spans": [ids, {**ids, "traceId": "a" * 32}]}]}]}
        rejects = decode_traces(orjson.dumps(export), "application/json")
        assert [one.reason for one in rejects if isinstance(one, Reject)] == ["bad_trace_id", "bad_span_id"]
        rejects += [rejected(span(span_id=text), 2), rejected(span(trace_id=text), 3), rejected(span(parent_id=text), 4)]
        world.inbox.put(Batch("spans", rejects, "test")).result()
    letters = [one for one in texts(stored(world)) if any(text in one or text[:60] in one for text in WRONG)]
    assert len(world.letters()) == 20
    assert letters == []


def test_ids_that_are_none_in_links_and_logs_are_masked_and_so_are_scope_and_severity() -> None:
    for text in WRONG:
        after = one("spans", span(links=[Link(text, text, {})], scope=text, scope_version=text))
        log = one("logs", log_record(span_id=text, severity=text, scope=text, scope_version=text))
        assert text not in (after.links[0].trace_id, after.links[0].span_id, log.span_id)
        if "@" in text or "sk-" in text:
            assert text not in (after.scope, after.scope_version, log.scope, log.scope_version, log.severity)


@pytest.mark.parametrize("secret", (SECRETS["email"], SECRETS["key"], SECRETS["phone"]))
def test_a_model_that_is_not_configured_is_masked_in_the_letter_and_the_message(world: World, secret: str) -> None:
    answer = world.inbox.put(
        Batch("generations", [{"record_id": "a"}, {"record_id": "b", "model": secret}], "test", model=secret)
    )
    assert [reject.reason for reject in answer.result().rejects] == ["unknown_model"] * 2
    assert secret not in str(answer.result().as_json())
    assert len(world.letters()) == 2
    assert leaks(stored(world)) == []


@pytest.mark.parametrize("settings", ({}, {"hash_key": KEY}), ids=("no key", "key"))
def test_an_idempotency_key_that_holds_personal_data_is_hashed_and_a_replay_is_still_one(
    make_world: Callable[..., World], settings: dict[str, Any]
) -> None:
    world = make_world(masking=settings)
    keys = [f"for {SECRETS['email']}", f"for {SECRETS['phone']}", "order-1"]
    for key in keys:
        batch = Batch("generations", [generation(key[-5:])], "test", key=key, body_hash="1")
        first, again = (world.inbox.put(batch).result().as_json() for _ in range(2))
        assert first["accepted"] == 1
        assert again == {**first, "replayed": True}
        assert (first["batch_id"] == key) is (key == "order-1")
        other = world.inbox.put(replace(batch, body_hash="2")).result()
        assert [reject.reason for reject in other.rejects] == ["conflict"]
    assert leaks(stored(world)) == []


def test_what_json_writes_in_ascii_is_found_too() -> None:
    for text in ("4111\u20131111\u20131111\u20131111", "4111\u00a01111\u00a01111\u00a01111", "bob\u200b@example.com"):
        after = one("generations", {"question": json.dumps({"x": text})})
        assert json.loads(after["question"])["x"] in ("[CARD]", "[EMAIL]")


# --- rules ---


def test_equal_values_have_equal_hashes_and_nobody_makes_them_without_the_key() -> None:
    fields = {"user_id": "hash", "features.email": "hash"}
    a = one("generations", {"user_id": "bob", "question": "?"}, hash_key=KEY, fields=fields)
    b = one("predictions", {"features": {"email": "bob", "x": 1.5}}, hash_key=KEY, fields=fields)
    other = one("generations", {"user_id": "bob"}, hash_key=KEY + "!", fields=fields)
    assert a["user_id"] == b["features"]["email"] != other["user_id"]
    assert a["user_id"].startswith("hash:")
    assert b["features"]["x"] == 1.5
    again = one("generations", a, hash_key=KEY, fields=fields)
    assert again["user_id"] == a["user_id"]  # what comes back out of the dead letter joins as before


def test_a_rule_for_a_field_holds_for_the_attributes_it_is_read_from() -> None:
    after = one("spans", span(attributes={"user.id": "bob", "enduser.id": "bob"}), hash_key=KEY, fields={"user_id": "hash"})
    assert after.attributes["user.id"] == after.attributes["enduser.id"] == one(
        "generations", {"user_id": "bob"}, hash_key=KEY, fields={"user_id": "hash"}
    )["user_id"]  # fmt: skip


def test_a_rule_for_messages_holds_for_those_of_every_dialect() -> None:
    keys = ("gen_ai.input.messages", "llm.output_messages.0.message.content", "gen_ai.prompt.0.content", "traceloop.entity.input")
    after = one("spans", span(attributes={**dict.fromkeys(keys, SAID), "user.id": "bob"}), fields={"messages": "drop"})
    assert after.attributes == {"user.id": "bob"}


def test_metrics_only_keeps_every_attribute_that_names_the_call_and_none_that_holds_what_was_said() -> None:
    table = Table().raw
    names = {key for field, keys in table["text"].items() if field != "template" for key in keys} - {"model", "metadata"}
    said = {rule["key"] for side in ("input", "output") for rule in table[side] if "key" in rule}
    said |= {f"{rule['prefix']}0.content" for side in ("input", "output") for rule in table[side] if "prefix" in rule}
    said |= {*table["system"], *table["tool"]["arguments"], *table["tool"]["result"], *table["text"]["template"]} | {
        "retrieval.documents.0.document.content", "gen_ai.retrieval.query.text", "db.query.text"
    }  # fmt: skip
    after = one("spans", span(attributes={**dict.fromkeys(names, "x1"), **dict.fromkeys(said, "yes")}), content="none").attributes
    assert names - set(after) == set()
    assert said & set(after) == set()


def test_the_pattern_with_the_most_letters_wins_and_reaches_all_below() -> None:
    fields = {"*": "drop", "messages": "keep", "messages.*.content": "mask", "attributes.app.*": "drop", "question": "keep"}
    item = {"record_id": "bob@example.com", "question": ALL, "note": "x", "messages": [{"role": ALL, "content": ALL}]}
    after = one("generations", item, fields=fields)
    assert after == {**item, "messages": [{"role": ALL, "content": after["messages"][0]["content"]}], "note": None} or set(
        after
    ) == {"question", "messages"}
    assert leaks(after["messages"][0]["content"]) == []
    assert after["messages"][0]["role"] == ALL
    attributes = one(
        "spans", span(attributes={"app.x": "y", "app.y": 1, "b": "z"}), fields={"attributes.app.*": "drop"}
    ).attributes
    assert attributes == {"b": "z"}


def test_ids_stay_unless_a_rule_names_them() -> None:
    item = prediction("bob@example.com", trace_id="+1 212 555 0142")
    assert one("predictions", item) == item
    assert one("predictions", item, fields={"record_id": "mask"})["record_id"] == "[EMAIL]"


def test_a_field_named_for_a_secret_is_masked_whatever_it_holds() -> None:
    after = one("generations", {"password": "hunter2", "headers": {"Authorization": "x"}, "max_tokens": 3, "token": " the"})
    assert after == {"password": "[KEY]", "headers": {"Authorization": "[KEY]"}, "max_tokens": 3, "token": " the"}


def test_json_in_text_stays_json_and_a_number_in_it_becomes_text() -> None:
    inner = json.dumps({"n": 4111111111111111, "phone": 2125550142, "t": 1772366400, "mail": "\nbob\u00e9@example.com", "x": 1.5})
    after = one("generations", {"arguments": json.dumps({"inner": inner}), "id": 4111111111111111})
    found = json.loads(json.loads(after["arguments"])["inner"])
    assert found == {"n": "[CARD]", "phone": "[PHONE]", "t": 1772366400, "mail": "\n[EMAIL]", "x": 1.5}
    assert after["id"] == "[CARD]"
    escaped = '{"mail": "bob\\u0040example.com"}'
    assert json.loads(one("generations", {"a": escaped})["a"]) == {"mail": "[EMAIL]"}


@pytest.mark.parametrize("name", ("phone", "cell", "Cell", "phoneNumber", "customer_tel", "mobile"))
@pytest.mark.parametrize("number", ("785 8949", 7858949))
def test_a_phone_number_named_so_is_found_in_json_in_text_as_it_is_in_the_record(name: str, number: Any) -> None:
    assert one("generations", {name: number}) == {name: "[PHONE]"}
    assert one("generations", {"x": json.dumps({name: number})}) == {"x": json.dumps({name: "[PHONE]"}, separators=(",", ":"))}


def test_the_numbers_of_a_tabular_model_are_never_taken_for_cards() -> None:
    item = prediction("a", features={"amount": 4111111111111111})
    assert one("predictions", item, "houses") is item


def test_what_cannot_be_read_is_not_kept_where_fields_must_not_be_stored() -> None:
    after = one(
        "generations", Reject(0, "bad_json", "not JSON", None, '{"user_id": "bob", '), hash_key=KEY, fields={"user_id": "hash"}
    )
    assert "bob" not in after.payload
    read = one(
        "generations",
        Reject(0, "not_finite", "NaN", None, '{"user_id": "bob", "x": NaN}'),
        hash_key=KEY,
        fields={"user_id": "hash"},
    )
    assert "bob" not in read.payload
    assert "NaN" in read.payload


def test_records_without_an_id_that_differ_only_in_what_was_masked_are_two(make_world: Callable[..., World]) -> None:
    world = make_world(masking={"hash_key": KEY})
    items = [
        {k: v for k, v in generation("", question=f"{who}@example.com").items() if k != "record_id"} for who in ("ann", "bob")
    ]
    assert world.send("generations", *items).accepted == 2
    assert world.send("generations", *items).duplicates == 2


# --- metrics only ---

SAID = "What did the doctor say of my knee?"


def test_metrics_only_stores_no_content_and_metrics_tokens_and_latency_stay(make_world: Callable[..., World]) -> None:
    world = make_world(masking={"content": "none"})
    for kind in ("generations", "contexts", "feedback"):
        world.send(kind, {**ITEMS[kind](SAID), "timestamp": SAID}, SAID, Reject(0, "bad_json", "not JSON", None, SAID))
    item = ITEMS["generations"](SAID)
    world.send("generations", {**item, "user_id": "u1", "input_tokens": 7, "duration_seconds": 0.5, "llm_model": "gpt-4o"})
    world.send("contexts", contexts("g", SAID))
    found = stored(world)
    assert [text for text in texts(found) if SAID in text] == []
    row = world.rows("generations", "bot")[0]
    assert (row["question"], row["response"], row["messages"], row["system"]) == (None,) * 4
    assert (row["input_tokens"], row["duration_seconds"], row["llm_model"], row["user_id"]) == (7, 0.5, "gpt-4o", "u1")
    assert json.loads(row["attributes"])["content_characters"]["question"] == len(SAID)


def test_metrics_only_leaves_spans_their_names_numbers_and_models() -> None:
    before = rich(SAID)
    before.name = "chat gpt-4o"
    before.events[0].name = "exception"
    before.attributes |= {"gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 7, "unheard.of": SAID}
    after = one("spans", before, content="none")
    assert [text for text in texts(after) if SAID in text] == []
    assert after.attributes["gen_ai.request.model"] == "gpt-4o"
    assert after.attributes["gen_ai.usage.input_tokens"] == 7
    assert after.attributes["modelwatch.content_characters"]["unheard.of"] == len(SAID)
    assert after.resource["service.name"] == "bot"
    assert one("spans", after, content="none") == after
    log = one(
        "logs", log_record(body=SAID, attributes={"gen_ai.input.messages": [{"role": "user", "content": SAID}]}), content="none"
    )
    assert [text for text in texts(log) if SAID in text] == []


def test_a_model_may_have_rules_of_its_own_and_what_belongs_to_none_gets_the_strictest() -> None:
    models: list[dict[str, Any]] = [
        {"name": "open", "task": "llm", "match": {"team": "x"}},
        {"name": "closed", "task": "llm", "masking": {"content": "none", "kinds": []}},
    ]
    masking, _ = made(models)

    def question(**fields: Any) -> Any:
        return masking.apply("generations", [{"question": ALL, **fields}])[0].get("question")

    assert question(model="open") == "; ".join(f"[{kind.upper()}]" for kind in SECRETS)
    assert question(model="closed") is None
    assert question(model="nobody's") is None
    assert question() is None
    assert masking.apply("spans", [span(attributes={"a": "b", "team": "x"})])[0].attributes == {"a": "b", "team": "x"}
    resource = {"service.name": "open"}
    assert masking.apply("spans", [span(attributes={"a": "b"}, resource=resource)])[0].attributes == {"a": "b"}
    assert masking.apply("spans", [span(attributes={"a": "b"})])[0].attributes == {"modelwatch.content_characters": {"a": 1}}


# --- config ---


def test_no_kinds_is_no_masking() -> None:
    item = generation("g", question=ALL)
    assert one("generations", item, kinds=[]) is item


def test_hashing_without_a_key_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"masking\.fields\.user_id: hash needs a key"):
        made(fields={"user_id": "hash"})


def test_the_key_stands_in_the_environment_or_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "monitor.yaml"
    (tmp_path / "key").write_text(KEY, encoding="utf-8")
    file.write_text(f"masking: {{hash_key: {KEY}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"masking\.hash_key: a secret does not stand in the config file") as caught:
        configfile.load(file)
    assert KEY not in str(caught.value)
    file.write_text("masking: {hash_key: '${file:key}', fields: {user_id: hash}}\n", encoding="utf-8")
    config = configfile.load(file)
    assert KEY not in repr(config)
    assert Masking(config, lambda kind, many: None).apply("generations", [{"user_id": "bob"}]) == [
        one("generations", {"user_id": "bob"}, hash_key=KEY, fields={"user_id": "hash"})
    ]


def test_a_reload_brings_new_rules(world: World) -> None:
    world.send("generations", generation("a", question=ALL))
    world.inbox.configure(
        world.config.model_copy(update={"masking": world.config.masking.model_copy(update={"kinds": ("email",)})})
    )
    world.clock.move(1)
    world.send("generations", generation("b", NOON + timedelta(seconds=1), question=ALL))
    first, second = (row["question"] for row in world.rows("generations", "bot"))
    assert "[CARD]" in first
    assert "[CARD]" not in second
    assert "[EMAIL]" in second


# --- anything at all ---

LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False), st.text(max_size=12),
    st.sampled_from([ALL, *SECRETS.values()]),
)  # fmt: skip
JSON = st.recursive(
    LEAF,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
MASKING = made(hash_key=KEY, fields={"user_id": "hash", "secret.*": "drop"})[0]
PLAIN = made()[0]
CONTENTLESS = made(content="none")[0]


@given(st.sampled_from(["generations", "predictions", "spans", "feedback"]), JSON)
def test_masking_never_raises_is_idempotent_and_leaks_nothing(kind: str, item: Any) -> None:
    before = copy.deepcopy(item)
    for masking in (MASKING, CONTENTLESS):
        once = masking.apply(kind, [item], "bot")
        assert not isinstance(once[0], Reject)
        assert item == before
        assert leaks(once) == []
        assert masking.apply(kind, once, "bot") == once


@given(JSON)
def test_json_in_text_is_json_afterwards(value: Any) -> None:
    text = json.dumps({"a": value})
    after = PLAIN.apply("generations", [{"x": text}])[0]["x"]
    assert set(json.loads(after)) == {"a"}
    assert leaks(after) == []


@given(
    st.recursive(st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.integers(-999, 999)), st.lists, max_leaves=9)
)
def test_what_is_not_text_stays(value: Any) -> None:
    item = {"a": value, "b": ALL}
    assert PLAIN.apply("generations", [item])[0]["a"] == value


@given(st.text(alphabet='{}[]":,\\nu0a@.1 ', max_size=60))
def test_broken_bodies_never_raise(text: str) -> None:
    for items in (decode_lines(text.encode()), decode(json.dumps(text).encode())):
        MASKING.apply("generations", items)
        CONTENTLESS.apply("generations", items)
    assert Batch("generations", [text], "test").items
