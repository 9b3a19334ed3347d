"""What a sender gets, for good input and bad, over HTTP."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import socket
import ssl
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from monitor.auth import Tokens
from monitor.config import Tls
from monitor.receiving import Budget
from monitor.server import PushServer
from tests.monitor.support import (
    NOON,
    Door,
    Held,
    World,
    append_labels,
    contexts,
    generation,
    label,
    prediction,
    sample,
    wait_for,
)

NDJSON = "application/x-ndjson"
GOOD = b'{"record_id": "good", "model": "houses", "prediction": 1}'


class Since:
    """What a test has added to a door that others use as well."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._before = self._all()

    def _all(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        families = self._door.world.metrics.registry.collect()
        return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}

    def counted(self, name: str, **labels: str) -> float:
        key = name, frozenset(labels.items())
        return self._all()[key] - self._before.get(key, 0)


def bad(**fields: Any) -> bytes:
    return json.dumps({"record_id": "bad", "model": "houses", "prediction": 1, **fields}).encode()


BAD_PREDICTIONS = {
    # name: (the record as sent, reason, part of the message)
    "not an object": (b'"text"', "not_an_object", "'text' is not a JSON object"),
    "no id": (b'{"model": "houses", "prediction": 1}', "missing_id", "record_id is missing"),
    "empty id": (bad(record_id=""), "missing_id", "record_id is missing"),
    "an id that is a list": (bad(record_id=[1]), "wrong_type", "record_id: [1] is not text"),
    "an id that is too long": (bad(record_id="x" * 257), "too_large", "257 characters; the limit is 256"),
    "no model": (b'{"record_id": "bad", "prediction": 1}', "missing_model", "names no model"),
    "an unknown model": (bad(model="cars"), "unknown_model", "'cars' is not configured; there are bot, houses"),
    "a model that is a number": (bad(model=3), "unknown_model", "3 is not configured"),
    "a model of another task": (bad(model="bot"), "wrong_task", "task llm, which takes no predictions"),
    "nothing predicted": (b'{"record_id": "bad", "model": "houses"}', "missing_field", "neither features nor prediction"),
    "a prediction that is a list": (bad(prediction=[1]), "wrong_type", "prediction: [1] is neither a number nor text"),
    "features that are a list": (bad(features=[1]), "wrong_type", "features: [1] is not an object"),
    "a probability above 1": (bad(probability=1.5), "wrong_type", "1.5 is not within 0..1"),
    "a probability in words": (bad(probability="high"), "wrong_type", "probability: 'high' is not a number"),
    "a version that is a number": (bad(model_version=2), "wrong_type", "model_version: 2 is not text"),
    "NaN": (b'{"record_id": "bad", "model": "houses", "prediction": NaN}', "not_finite", "NaN or an infinity"),
    "Infinity": (b'{"record_id": "bad", "model": "houses", "prediction": -Infinity}', "not_finite", "NaN or an infinity"),
    "1e999": (b'{"record_id": "bad", "model": "houses", "features": {"rooms": 1e999}}', "not_finite", "NaN or an infinity"),
    "a huge integer": (
        b'{"record_id": "bad", "model": "houses", "prediction": 1' + b"0" * 5000 + b"}", "not_finite", "NaN or an infinity"
    ),
    "bytes that are not UTF-8": (b'{"record_id": "bad", "model": "houses", "prediction": "\xff\xfe"}', "invalid_utf8", "UTF-8"),
    "a lone surrogate": (
        b'{"record_id": "bad", "model": "houses", "prediction": 1, "features": {"city": "\\ud800"}}', "invalid_utf8", "UTF-8"
    ),
    "a lone surrogate in a name": (
        b'{"record_id": "bad", "model": "houses", "prediction": 1, "features": {"\\udfff": 1}}', "invalid_utf8", "UTF-8"
    ),
    "a time without a zone": (bad(timestamp="2026-03-01T12:00:00"), "bad_timestamp", "has no time zone"),
    "a time that is none": (bad(timestamp="noon"), "bad_timestamp", "'noon' is no RFC 3339 time"),
    "a time in milliseconds": (bad(timestamp=1772366400000), "bad_timestamp", "nor seconds since 1970"),
    "a time before the first year": (bad(timestamp="0001-01-01T00:00:00+14:00"), "bad_timestamp", "outside the years 1000 to"),
    "a time in the last year": (bad(timestamp="9999-12-31T23:59:59Z"), "bad_timestamp", "outside the years 1000 to 5000"),
    "a time that is a boolean": (bad(timestamp=True), "bad_timestamp", "neither an RFC 3339 time"),
    "a text that is too long": (bad(features={"text": "x" * (2**21 + 1)}), "too_large", "server.max_text_bytes is 2097152"),
    "nesting as deep as is read": (bad(extra=json.loads("[" * 900 + "]" * 900)), "too_large", "nested too deep"),
    "deep nesting": (bad(extra=json.loads("[" * 500 + "]" * 500)), "too_large", "nested too deep"),
    "deep nesting and NaN": (
        b'{"record_id": "bad", "model": "houses", "prediction": NaN, "extra": ' + b"[" * 500 + b"]" * 500 + b"}",
        "not_finite", "NaN or an infinity",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PREDICTIONS)
def test_a_bad_record_is_set_aside_and_the_good_one_beside_it_is_stored(long_door: Door, name: str) -> None:
    record, reason, message = BAD_PREDICTIONS[name]
    good = json.dumps(prediction(f"good beside {name}")).encode()
    since, letters = Since(long_door), long_door.world.letters()
    for form, content_type in ((b"[" + record + b",\n" + good + b"]", "application/json"), (record + b"\n" + good, NDJSON)):
        response = long_door.post("predictions", form, content_type)
        answer = response.json()
        assert response.status_code == 200
        assert (answer["accepted"] + answer["duplicates"], answer["rejected"]) == (1, 1)
        assert answer["errors"][0]["index"] == 0
        assert answer["errors"][0]["reason"] == reason
        assert message in answer["errors"][0]["message"]
    assert f"good beside {name}" in long_door.world.ids("predictions")
    assert "bad" not in long_door.world.ids("predictions")
    assert [r for _, r in long_door.world.letters()[len(letters) :]] == [reason, reason]
    assert since.counted("modelwatch_ingest_records_rejected_total", kind="predictions", reason=reason) == 2
    assert since.counted("modelwatch_deadletter_records", reason=reason) == 2
    assert since.counted("modelwatch_ingest_records_total", model="houses", kind="predictions") == 1
    assert since.counted("modelwatch_ingest_records_duplicate_total", model="houses", kind="predictions") == 1


BAD_LABELS: dict[str, tuple[dict[str, Any], str]] = {
    "no label": ({"record_id": "bad"}, "missing_field"),
    "a label that is an object": ({"record_id": "bad", "label": {}}, "wrong_type"),
    "a negative revision": ({"record_id": "bad", "label": 1, "revision": -1}, "wrong_type"),
    "half a revision": ({"record_id": "bad", "label": 1, "revision": 0.5}, "wrong_type"),
    "a revision that no column holds": ({"record_id": "bad", "label": 1, "revision": 2**40}, "wrong_type"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_a_bad_label_is_set_aside_and_the_good_one_beside_it_is_stored(long_door: Door, name: str) -> None:
    record, reason = BAD_LABELS[name]
    response = long_door.post("labels", [{"model": "houses", **record}, label(f"good beside {name}")])
    assert response.status_code == 200
    assert response.json()["errors"][0]["reason"] == reason
    assert long_door.world.ids("labels")[-1] == f"good beside {name}"
    assert long_door.world.letters()[-1] == ("bad", reason)


BAD_GENERATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "an answer that is a list": ({"response": ["so"]}, "wrong_type"),
    "messages that are text": ({"messages": "hi"}, "wrong_type"),
    "tokens below zero": ({"input_tokens": -1}, "wrong_type"),
    "half a token": ({"output_tokens": 1.5}, "wrong_type"),
    "a cost in words": ({"cost_usd": "cheap"}, "wrong_type"),
    "contexts that are text": ({"contexts": "passage"}, "wrong_type"),
    "a context that is a number": ({"contexts": ["passage", 3]}, "wrong_type"),
    "a context without text": ({"contexts": [{"document_id": "d"}]}, "wrong_type"),
    "an answer that is too long": ({"response": "ä" * (2**20 + 1)}, "too_large"),
}


@pytest.mark.parametrize("name", BAD_GENERATIONS)
def test_a_bad_generation_is_set_aside_and_the_good_one_beside_it_is_stored(long_door: Door, name: str) -> None:
    fields, reason = BAD_GENERATIONS[name]
    good = generation(f"good beside {name}", contexts=["a passage"])
    response = long_door.post("generations", [generation("bad", **fields), good])
    assert response.status_code == 200
    assert response.json()["errors"][0]["reason"] == reason
    assert long_door.world.ids("generations", "bot")[-1] == f"good beside {name}"
    assert long_door.world.ids("contexts", "bot")[-1] == f"good beside {name}"
    assert long_door.world.letters()[-1] == ("bad", reason)


def test_a_batch_of_nothing_but_bad_records_is_a_422(long_door: Door) -> None:
    since = Since(long_door)
    response = long_door.post("predictions", [{"model": "houses"}, 3])
    assert response.status_code == 422
    assert [e["reason"] for e in response.json()["errors"]] == ["missing_field", "not_an_object"]
    assert since.counted("modelwatch_ingest_requests_total", transport="push", code="422") == 1


def test_at_most_100_errors_are_listed_and_the_rest_are_counted(long_door: Door) -> None:
    answer = long_door.post("predictions", [3] * 150).json()
    assert (answer["rejected"], len(answer["errors"]), answer["errors_not_shown"]) == (150, 100, 50)


BAD_BODIES = {"no JSON": b'[{"half": ', "nothing": b"", "nesting without end": b"[" * 100_000, "no text": b"\xff\xfe\x00{"}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_cannot_be_read_is_refused_as_a_whole_and_kept(long_door: Door, name: str) -> None:
    since = Since(long_door)
    response = long_door.post("predictions", BAD_BODIES[name])
    assert (response.status_code, response.json()["error"]) == (400, "bad_json")
    letter = long_door.world.rows("deadletters", "")[-1]
    assert (letter["reason"], letter["kind"], letter["record_index"]) == ("bad_json", "predictions", 0)
    kept = letter["payload"].encode() if letter["payload_encoding"] == "text" else base64.b64decode(letter["payload"])
    assert kept == BAD_BODIES[name]
    assert since.counted("modelwatch_ingest_requests_total", transport="push", code="400") == 1
    assert since.counted("modelwatch_ingest_records_rejected_total", kind="predictions", reason="bad_json") == 1


def test_a_line_that_is_not_json_costs_only_itself(long_door: Door) -> None:
    response = long_door.post(
        "predictions", GOOD + b'\n{"half": \n\n' + b"[" * 5000 + b"\n" + GOOD.replace(b"good", b"last"), NDJSON
    )
    assert response.status_code == 200
    assert [(e["index"], e["reason"]) for e in response.json()["errors"]] == [(1, "bad_json"), (2, "bad_json")]
    assert long_door.world.ids("predictions")[-2:] == ["good", "last"]


def test_a_body_of_20_mb_is_taken_and_one_byte_more_than_the_limit_is_not(long_door: Door) -> None:
    limit = long_door.world.config.server.max_body_bytes
    text = "x" * 1_000_000
    records = [generation(f"big{i}", response=text) for i in range(20)]
    body = json.dumps(records).encode()
    padded = body + b" " * (limit - len(body))
    response = long_door.post("generations", padded)
    assert (response.status_code, response.json()["accepted"]) == (200, 20)
    stored = long_door.world.rows("generations", "bot", "length(response) AS n", "record_id LIKE 'big%'")
    assert {row["n"] for row in stored} == {1_000_000}
    refused = long_door.post("generations", padded + b" ")
    assert (refused.status_code, refused.json()["error"]) == (413, "too_large")
    assert "max_body_bytes is 20971520" in refused.json()["message"]


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(make_door: Callable[..., Door]) -> None:
    door = make_door(server={"max_body_bytes": 2000})
    response = door.client.post("/v1/predictions", content=iter([b"[" + b" " * 1500, b" " * 1500 + b"]"]))
    assert (response.status_code, response.json()["error"]) == (413, "too_large")


@pytest.mark.parametrize(("encoding", "compress"), (("gzip", gzip.compress), ("deflate", zlib.compress)))
def test_a_compressed_body_is_inflated(long_door: Door, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    body = orjson.dumps([prediction(f"in {encoding}")])
    assert long_door.post("predictions", compress(body), Content_Encoding=encoding).json()["accepted"] == 1
    assert long_door.world.ids("predictions")[-1] == f"in {encoding}"


def test_a_body_in_an_unknown_encoding_is_refused_by_name(long_door: Door) -> None:
    response = long_door.post("predictions", GOOD, Content_Encoding="br")
    assert (response.status_code, response.json()["error"]) == (415, "bad_encoding")


def test_a_small_body_that_inflates_beyond_the_limit_is_refused(long_door: Door) -> None:
    bomb = gzip.compress(b" " * (200 * 2**20), 9)
    assert len(bomb) < 210_000
    response = long_door.post("predictions", bomb, Content_Encoding="gzip")
    assert (response.status_code, response.json()["error"]) == (413, "too_large")


def test_a_text_of_a_megabyte_is_stored_as_it_came(long_door: Door) -> None:
    text = "Füße 🦶 " * 80_000
    assert long_door.post("generations", generation("mega", response=text)).json()["accepted"] == 1
    assert long_door.world.rows("generations", "bot", "response", "record_id = 'mega'") == [{"response": text}]


def test_a_model_named_with_dots_and_dashes_takes_records(make_door: Callable[..., Door]) -> None:
    door = make_door(models=[{"name": "a.b-c_1", "task": "binary"}])
    response = door.client.post("/v1/predictions?model=a.b-c_1", json={"record_id": "r", "features": {"x": 1}})
    assert response.json()["accepted"] == 1
    door.world.seal()
    door.world.restart()
    assert door.world.rows("predictions", "a.b-c_1", "record_id, f_x") == [{"record_id": "r", "f_x": 1.0}]


def test_numbers_that_no_double_holds_exactly_are_taken_as_the_nearest(long_door: Door) -> None:
    body = b'[{"record_id": 12345678901234567, "model": "houses", "prediction": 123456789012345678901234567890}]'
    assert long_door.post("predictions", body).json()["accepted"] == 1
    assert long_door.world.rows("predictions", columns="record_id, prediction", where="record_id LIKE '1234%'") == [
        {"record_id": "12345678901234567", "prediction": 1.2345678901234568e29}
    ]


def test_what_is_sent_again_gets_the_same_answer_and_is_stored_once(long_door: Door) -> None:
    since, letters = Since(long_door), long_door.world.letters()
    records = [prediction("one", features={"rooms": 3}), prediction("two", timestamp=None)]
    first, second = long_door.post("predictions", records), long_door.post("predictions", records)
    assert (first.status_code, first.json()["accepted"], first.json()["duplicates"]) == (200, 2, 0)
    assert (second.status_code, second.json()["accepted"], second.json()["duplicates"]) == (200, 0, 2)
    assert long_door.world.ids("predictions")[-2:] == ["one", "two"]
    assert long_door.world.letters() == letters
    assert since.counted("modelwatch_ingest_records_duplicate_total", model="houses", kind="predictions") == 2


def test_an_id_sent_again_with_other_content_is_a_conflict_and_the_first_stays(long_door: Door) -> None:
    since = Since(long_door)
    long_door.post("predictions", prediction("twice", prediction=1))
    response = long_door.post("predictions", [prediction("twice", prediction=2), prediction("once")])
    assert response.status_code == 200
    assert (response.json()["accepted"], response.json()["rejected"]) == (1, 1)
    error = response.json()["errors"][0]
    assert (error["index"], error["record_id"], error["reason"]) == (0, "twice", "conflict")
    assert "send a new id" in error["message"]
    assert [(r["record_id"], r["prediction"]) for r in long_door.world.rows("predictions")[-2:]] == [
        ("twice", 1.0),
        ("once", 1.0),
    ]
    letter = long_door.world.rows("deadletters", "")[-1]
    assert json.loads(letter["payload"])["prediction"] == 2
    assert since.counted("modelwatch_ingest_records_rejected_total", kind="predictions", reason="conflict") == 1


def test_a_conflict_within_one_batch_is_seen(long_door: Door) -> None:
    answer = long_door.post(
        "predictions", [prediction("within"), prediction("within", prediction=2), prediction("within")]
    ).json()
    assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (1, 1, 1)
    assert answer["errors"][0]["index"] == 1


def test_a_full_inbox_answers_429_and_loses_nothing(make_door: Callable[..., Door]) -> None:
    door = make_door(server={"queue_records": 2})
    held = Held(door.world.store)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(door.post, "predictions", [prediction("a"), prediction("b")])
        wait_for(lambda: sample(door.world.metrics, "modelwatch_queue_records", queue="inbox") == 2, "a batch in the queue")
        refused = door.post("predictions", [prediction("c")])
        held.release()
        assert taken.result(10).json()["accepted"] == 2
    assert (refused.status_code, refused.json()["error"]) == (429, "inbox_full")
    assert refused.headers["Retry-After"] in ("1", "2")
    assert sample(door.world.metrics, "modelwatch_ingest_requests_total", transport="push", code="429") == 1
    assert door.post("predictions", [prediction("c")]).json()["accepted"] == 1
    assert door.world.ids("predictions") == ["a", "b", "c"]


def test_a_store_without_space_answers_503_until_there_is_some(make_door: Callable[..., Door]) -> None:
    door = make_door()
    full = door.world.config.store.model_copy(update={"min_free_bytes": 2**62})
    door.world.store._config = full  # the disk is the outside, and it cannot be made full here
    door.world.clock.move(5)
    wait_for(lambda: door.world.store.unavailable, "the store to see that space is low")
    refused = door.post("predictions", [prediction("a")])
    assert (refused.status_code, refused.json()["error"]) == (503, "unavailable")
    assert "bytes free" in refused.json()["message"]
    assert refused.headers["Retry-After"] in ("1", "2")
    assert sample(door.world.metrics, "modelwatch_store_degraded") == 1
    assert sample(door.world.metrics, "modelwatch_ingest_requests_total", transport="push", code="503") == 1
    door.world.store._config = door.world.config.store
    door.world.clock.move(5)
    wait_for(lambda: not door.world.store.unavailable, "the store to see that space is back")
    assert door.post("predictions", [prediction("a")]).json()["accepted"] == 1
    assert sample(door.world.metrics, "modelwatch_store_degraded") == 0


def test_a_closed_store_answers_503(door: Door) -> None:
    door.world.store.close()
    response = door.post("predictions", [prediction("a")])
    assert (response.status_code, response.headers["Retry-After"]) == (503, "2")


def test_a_fault_of_ours_is_a_500_that_is_counted_and_hurts_nobody_else(door: Door) -> None:
    # A column that the writer cannot fill stands for a mistake in the writer's code.
    door.world.store.run(lambda t: t.execute("ALTER TABLE labels RENAME COLUMN label TO truth"))
    response = door.post("labels", [label("a")])
    assert (response.status_code, response.json()["error"]) == (500, "internal")
    assert "label" not in response.json()["message"]
    assert sample(door.world.metrics, "modelwatch_ingest_requests_total", transport="push", code="500") == 1
    assert sample(door.world.metrics, "modelwatch_ingest_requests_in_flight", transport="push") == 0
    assert door.post("predictions", [prediction("a")]).json()["accepted"] == 1


def test_a_batch_sent_again_under_its_key_gets_the_answer_of_the_first_time(door: Door) -> None:
    body = [prediction("a"), {"model": "houses"}]
    first = door.post("predictions", body, Idempotency_Key="k1")
    again = door.post("predictions", body, Idempotency_Key="k1")
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["errors"][0]["reason"] == "missing_field"
    assert again.json() == {**first.json(), "replayed": True}
    assert door.world.ids("predictions") == ["a"]
    assert len(door.world.letters()) == 1
    assert len(door.world.rows("batches", "")) == 1
    assert sample(door.world.metrics, "modelwatch_ingest_records_total", model="houses", kind="predictions") == 1
    assert sample(door.world.metrics, "modelwatch_ingest_records_duplicate_total", model="houses", kind="predictions") == 1


def test_a_batch_of_nothing_but_bad_records_stays_a_422_when_sent_again(door: Door) -> None:
    answers = [door.post("predictions", [3], Idempotency_Key="k1") for _ in range(2)]
    assert [a.status_code for a in answers] == [422, 422]
    assert len(door.world.letters()) == 1


def test_a_key_is_recognised_after_sealing_and_after_a_restart(world: World) -> None:
    one = {"key": "k1", "body_hash": "h"}
    first = world.send("predictions", prediction("a"), **one).as_json()
    world.seal()
    assert world.send("predictions", prediction("a"), **one).as_json() == {**first, "replayed": True}
    world.restart()
    assert world.send("predictions", prediction("a"), **one).as_json() == {**first, "replayed": True}


@pytest.mark.parametrize("other", ("/v1/contexts", "/v1/generations?model=bot"))
def test_a_key_used_again_at_another_place_is_no_replay(door: Door, other: str) -> None:
    body = orjson.dumps([{**contexts("a", "one"), "response": "so"}])
    first = door.client.post("/v1/generations", content=body, headers={"Idempotency-Key": "k1"})
    second = door.client.post(other, content=body, headers={"Idempotency-Key": "k1"})
    assert first.json()["accepted"] == 1
    assert (second.status_code, second.json()["errors"][0]["reason"]) == (422, "conflict")


def test_a_key_used_again_for_other_records_is_a_conflict_of_all_of_them(door: Door) -> None:
    door.post("predictions", [prediction("a")], Idempotency_Key="k1")
    misused = door.post("predictions", [prediction("b"), prediction("c")], Idempotency_Key="k1")
    assert misused.status_code == 422
    assert [e["reason"] for e in misused.json()["errors"]] == ["conflict", "conflict"]
    assert "use a new key" in misused.json()["errors"][0]["message"]
    assert door.world.ids("predictions") == ["a"]
    assert [r for _, r in door.world.letters()] == ["conflict", "conflict"]


def test_a_key_that_is_too_long_is_refused(long_door: Door) -> None:
    response = long_door.post("predictions", [prediction("a")], Idempotency_Key="k" * 257)
    assert (response.status_code, response.json()["error"]) == (400, "bad_key")


def test_many_senders_at_once_are_all_stored_in_few_commits(door: Door) -> None:
    def send(n: int) -> httpx.Response:
        return door.post("predictions", [prediction(f"{n}-{i}") for i in range(20)])

    with ThreadPoolExecutor(8) as pool:
        answers = [r.json() for r in pool.map(send, range(40))]
    assert [a["accepted"] for a in answers] == [20] * 40
    assert [r["seq"] for r in door.world.rows("predictions")] == list(range(1, 801))
    assert (sample(door.world.metrics, "modelwatch_store_commits_total") or 99) <= 41


def test_who_waits_beyond_the_deadline_of_a_stop_is_told_to_come_again(make_door: Callable[..., Door]) -> None:
    door = make_door()
    held = Held(door.world.store)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(door.post, "predictions", [prediction("a")])
        wait_for(lambda: sample(door.world.metrics, "modelwatch_queue_records", queue="inbox"), "the batch to be queued")
        door.server.stop(deadline_seconds=0.1)
        held.release()
        answer = waiting.result(10)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


def test_without_a_token_of_the_role_ingest_nothing_is_taken(make_door: Callable[..., Door], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ingest:{sha256('let-me-in')}\nquery:{sha256('only-looking')}\nadmin:{sha256('boss')}\n")
    door = make_door(tokens=tokens)
    for header in ({}, {"Authorization": "Bearer only-looking"}, {"Authorization": "Basic let-me-in"}):
        refused = door.post("predictions", [prediction("a")], **header)
        assert (refused.status_code, refused.json()["error"]) == (401, "unauthorized")
        assert "WWW-Authenticate" in refused.headers
    for token in ("let-me-in", "boss"):
        assert door.post("predictions", [prediction(token)], Authorization=f"Bearer {token}").status_code == 200
    assert door.world.ids("predictions") == ["let-me-in", "boss"]
    assert sample(door.world.metrics, "modelwatch_ingest_requests_total", transport="push", code="401") == 3


def test_with_a_certificate_it_speaks_tls(make_door: Callable[..., Door], tls: Tls) -> None:
    door = make_door(server={"tls": tls.model_dump()})
    trust = ssl.create_default_context(cafile=str(tls.cert_file))
    answer = httpx.post(f"https://{door.server.address}/v1/predictions", json=prediction("a"), verify=trust, timeout=10)
    assert answer.json()["accepted"] == 1
    with pytest.raises(httpx.TransportError):
        door.post("predictions", prediction("b"))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_an_unknown_path_or_method_is_no_fault_of_the_server(long_door: Door) -> None:
    assert long_door.client.post("/v1/spans").status_code == 404
    assert long_door.client.get("/v1/predictions").status_code == 405


def test_an_address_that_is_taken_is_an_error_that_names_it(door: Door) -> None:
    host, port = door.server.address.split(":")
    config = door.world.config.server.model_copy(update={"listen": f"{host}:{port}"})
    second = PushServer(
        config, door.world.inbox, tokens=Tokens(None), budget=Budget(1), clock=door.world.clock, metrics=door.world.metrics
    )
    with pytest.raises(OSError, match=port):
        second.start()


def test_while_it_stops_what_is_in_hand_is_answered_and_what_is_new_is_refused(door: Door) -> None:
    held = Held(door.world.store)
    with ThreadPoolExecutor(2) as pool:
        taken = pool.submit(door.post, "predictions", [prediction("a")])
        wait_for(lambda: sample(door.world.metrics, "modelwatch_queue_records", queue="inbox") == 1, "a batch in the queue")
        stopping = pool.submit(door.server.stop)
        wait_for(lambda: door.server.refusing, "the server to stop")
        held.release()
        assert taken.result(10).json()["accepted"] == 1
        stopping.result(10)
    with pytest.raises(httpx.TransportError):
        door.post("predictions", [prediction("b")])
    assert door.world.ids("predictions") == ["a"]


def test_a_client_that_goes_away_before_its_answer_does_not_harm_the_next(door: Door) -> None:
    held = Held(door.world.store)
    body = json.dumps([prediction("a")]).encode()
    host, port = door.server.address.split(":")
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        wait_for(lambda: sample(door.world.metrics, "modelwatch_queue_records", queue="inbox") == 1, "a batch in the queue")
    held.release()
    assert door.post("predictions", [prediction("b")]).json()["accepted"] == 1
    assert door.world.ids("predictions") == ["a", "b"]


def test_a_client_that_goes_away_within_its_body_leaves_nothing(door: Door) -> None:
    host, port = door.server.address.split(":")
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n[")
        wait_for(lambda: sample(door.world.metrics, "modelwatch_ingest_requests_in_flight", transport="push"), "the request")
    wait_for(lambda: not sample(door.world.metrics, "modelwatch_ingest_requests_in_flight", transport="push"), "its end")
    assert door.world.rows("batches", "") == []


def test_records_of_every_kind_are_taken_with_all_their_fields(door: Door) -> None:
    full = generation(
        "g", trace_id="t" * 32, span_id="s" * 16, llm_model="m", provider="p", operation="chat", system="be kind",
        messages=[{"role": "user", "content": "why?"}], input_tokens=3, output_tokens=4, cost_usd=0.1, duration_seconds=1.5,
        time_to_first_token_seconds=0.2, finish_reason="stop", error_type=None, conversation_id="c", user_id="u",
        prompt_name="n", prompt_version="v", model_version="7", anything={"else": [1]},
    )  # fmt: skip
    full["contexts"] = ["one", {"text": "two", "score": 0.5, "document_id": "d"}]
    assert door.post("generations", full).json()["accepted"] == 1
    row = door.world.rows("generations", "bot")[0]
    assert {k: row[k] for k in full if k in row and k != "messages"} == {
        k: v for k, v in full.items() if k in row and k != "messages"
    }
    assert json.loads(row["attributes"]) == {"anything": {"else": [1]}}
    assert [(r["position"], r["text"], r["retrieval_score"], r["document_id"]) for r in door.world.rows("contexts", "bot")] == [
        (0, "one", None, None),
        (1, "two", 0.5, "d"),
    ]
    assert door.post("contexts", contexts("g", "three")).json()["accepted"] == 1
    assert door.post("labels", label("p", "sold", revision=2)).json()["accepted"] == 1
    assert door.world.rows("labels")[0]["label_text"] == "sold"


def test_times_from_1970_and_2100_are_stored_and_do_not_move_the_watermark(door: Door) -> None:
    door.post("predictions", prediction("now"))
    answer = door.post(
        "predictions", [prediction("old", timestamp="1970-01-01T00:00:00Z"), prediction("far", timestamp=4102444800)]
    )
    assert answer.json()["accepted"] == 2
    assert [r["event_time"].year for r in door.world.rows("predictions")] == [2026, 1970, 2100]
    assert door.world.store.watermark("houses") == NOON
    door.world.restart()
    assert door.world.store.watermark("houses") == NOON


def test_a_record_without_a_time_has_the_time_it_came(long_door: Door) -> None:
    long_door.post("predictions", {"record_id": "timeless", "model": "houses", "prediction": 1})
    assert long_door.world.rows("predictions")[-1]["event_time"] == NOON
    assert datetime.now(UTC) != NOON


def test_another_job_in_the_queue_is_no_concern_of_a_sender(door: Door) -> None:
    door.world.store.run(append_labels(door.world.store, ["own"]))
    assert door.post("labels", label("sent")).json()["accepted"] == 1
    assert [r["seq"] for r in door.world.rows("labels")] == [1, 2]
