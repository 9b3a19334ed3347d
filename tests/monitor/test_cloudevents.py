"""Inference events as KServe and Seldon log them: halves that come in any order, once, and across restarts.

The events are built by the CloudEvents project's own library; types and attributes are those of the loggers' sources.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import orjson
import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from monitor.auth import Tokens
from monitor.cloudevents import envelope as cloudevents
from monitor.cloudevents.envelope import Event
from monitor.cloudevents.pairing import Pairs
from monitor.deadletter.replay import Asked, Outcome, Replayer
from monitor.deadletter.selection import Selection
from monitor.errors import BodyRejected
from monitor.faultpoints import arm
from monitor.receiving import Budget
from monitor.records import Reject
from monitor.server import PushServer
from tests.monitor.support import NOON, Held, World, sample, wait_for

KSERVE, SELDON = "org.kubeflow.serving.inference.", "io.seldon.serving.inference."
Post = Callable[..., httpx.Response]


def event(half: str, data: Any, id: str = "r1", kind: str = KSERVE, service: str = "houses", **more: Any) -> CloudEvent:
    attributes = {
        "id": id, "source": "http://localhost:9081/", "type": kind + half, "datacontenttype": "application/json",
        "inferenceservicename": service, "namespace": "default", "component": "predictor", "endpoint": "default",
        "time": NOON, **more,
    }  # fmt: skip
    return CloudEvent(attributes=attributes, data=data)


ASKED = {"instances": [[70.0, "Oslo"]]}
ANSWERED = {"predictions": [1.5]}


class Loggers:
    """A daemon that payload loggers post to; it may be restarted behind them."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.world = world
        self._stack = stack
        self.open()

    def open(self) -> None:
        world = self.world
        self.pairs = pairs = Pairs(world.config, world.inbox, world.store, clock=world.clock)
        self._stack.callback(pairs.stop)
        server = PushServer(
            world.config.server, world.inbox, tokens=Tokens(None), budget=Budget(2**27), clock=world.clock,
            metrics=world.metrics, pairs=self.pairs,
        )  # fmt: skip
        server.start()
        self._stack.callback(server.stop)
        self.client = self._stack.enter_context(httpx.Client(base_url=f"http://{server.address}", timeout=30))

    def restart(self) -> None:
        self.world.restart()
        self.open()

    def post(self, *events: CloudEvent, mode: str = "binary", **params: str) -> tuple[int, dict[str, Any]]:
        if mode == "batch":
            headers = {"Content-Type": "application/cloudevents-batch+json"}
            body = b"[" + b",".join(to_structured_event(e).body for e in events) + b"]"
        else:
            (one,) = events
            message = to_binary_event(one) if mode == "binary" else to_structured_event(one)
            headers, body = dict(message.headers), message.body
        response = self.client.post("/v1/cloudevents", content=body, headers=headers, params=params)
        return response.status_code, response.json()

    def serve(self, *services: dict[str, Any], **more: Any) -> None:
        """Reload with other services."""
        section = {**self.world.config.cloudevents.model_dump(), "services": services}
        self.world.config = type(self.world.config).model_validate(
            {**self.world.config.model_dump(), "cloudevents": section, **more}
        )
        self.world.inbox.configure(self.world.config)
        self.pairs.configure(self.world.config)

    def replay(self, *, dry: bool = False) -> Outcome:
        replayer = Replayer(self.world.store, self.world.inbox, metrics=self.world.metrics, pairs=self.pairs)
        return replayer.replay(Selection(everything=True), Asked("ann@desk"), dry=dry)

    def halves(self) -> int:
        return len(self.world.state("SELECT * FROM halves"))


@pytest.fixture
def make(make_world: Callable[..., World]) -> Iterator[Callable[..., Loggers]]:
    with ExitStack() as stack:
        yield lambda **sections: Loggers(make_world(server={"listen": "127.0.0.1:0"}, **sections), stack)


@pytest.fixture
def loggers(make: Callable[..., Loggers]) -> Loggers:
    service = {"service": "house-prices", "model": "houses", "features": ["size", "city"]}
    return make(cloudevents={"services": [service]})


def counts(accepted: int = 0, duplicates: int = 0, waiting: int = 0, rejected: int = 0) -> dict[str, int]:
    return {"accepted": accepted, "duplicates": duplicates, "waiting": waiting, "rejected": rejected}


def numbers(answer: tuple[int, dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    return answer[0], {k: v for k, v in answer[1].items() if k != "errors"}


@pytest.mark.parametrize("mode", ("binary", "structured"))
@pytest.mark.parametrize("order", (("request", "response"), ("response", "request")))
@pytest.mark.parametrize("kind", (KSERVE, SELDON))
def test_a_request_and_its_response_are_a_prediction(loggers: Loggers, mode: str, order: tuple[str, str], kind: str) -> None:
    data = {"request": ASKED, "response": ANSWERED}
    first, second = (event(half, data[half], kind=kind, service="house-prices") for half in order)
    assert numbers(loggers.post(first, mode=mode)) == (200, counts(waiting=1))
    assert loggers.world.ids("predictions") == []
    assert numbers(loggers.post(second, mode=mode)) == (200, counts(accepted=1))
    (row,) = loggers.world.rows("predictions")
    assert (row["record_id"], row["event_time"], row["prediction"]) == ("r1", NOON, 1.5)
    assert (row["f_size"], row["f_city"]) == (70.0, "Oslo")
    assert json.loads(row["extra"])["endpoint"] == "default"
    assert loggers.halves() == 0


def test_a_restart_between_the_two_loses_neither(loggers: Loggers) -> None:
    loggers.post(event("request", ASKED))
    loggers.restart()
    assert numbers(loggers.post(event("response", ANSWERED))) == (200, counts(accepted=1))
    assert loggers.world.ids("predictions") == ["r1"]


def test_an_event_sent_again_is_known_before_and_after_the_other_came(loggers: Loggers) -> None:
    loggers.post(event("request", ASKED))
    assert numbers(loggers.post(event("request", ASKED))) == (200, counts(duplicates=1))
    loggers.post(event("response", ANSWERED))
    assert numbers(loggers.post(event("response", ANSWERED))) == (200, counts(duplicates=1))
    loggers.restart()
    assert numbers(loggers.post(event("request", ASKED))) == (200, counts(duplicates=1))
    assert loggers.world.ids("predictions") == ["r1"]
    assert loggers.halves() == 0


def test_a_batch_holds_pairs_and_halves(loggers: Loggers) -> None:
    events = [event("response", ANSWERED, "a"), event("request", ASKED, "b"), event("request", ASKED, "a")]
    events.append(event("request", ASKED, "c", service="unheard-of"))
    status, answer = loggers.post(*events, mode="batch")
    assert (status, numbers((status, answer))[1]) == (200, counts(accepted=1, waiting=1, rejected=1))
    assert [(e["index"], e["record_id"], e["reason"]) for e in answer["errors"]] == [(3, "c", "unknown_model")]
    assert loggers.world.ids("predictions") == ["a"]
    assert numbers(loggers.post(event("response", ANSWERED, "b"))) == (200, counts(accepted=1))


def test_seldon_joins_by_the_id_of_the_request_and_not_of_the_event(loggers: Loggers) -> None:
    asked = {"data": {"names": ["size", "city"], "ndarray": [[70, "Oslo"], [80, "Rome"]]}}
    answered = {"data": {"names": ["price"], "ndarray": [[1.5], [2.5]]}, "meta": {}}
    loggers.post(event("request", asked, "e1", SELDON, requestid="q7"))
    loggers.post(event("response", answered, "e2", SELDON, requestid="q7"))
    rows = loggers.world.rows("predictions")
    assert [(r["record_id"], r["f_size"], r["prediction"]) for r in rows] == [("q7#0", 70.0, 1.5), ("q7#1", 80.0, 2.5)]


def test_tensors_name_their_features_and_the_response_its_version(loggers: Loggers) -> None:
    asked = {
        "inputs": [
            {"name": "size", "shape": [2, 1], "datatype": "FP64", "data": [70.0, 80.0]},
            {"name": "city", "shape": [2], "datatype": "BYTES", "data": ["Oslo", "Rome"]},
        ]
    }
    answered = {
        "model_name": "m",
        "model_version": "3",
        "outputs": [{"name": "price", "shape": [2], "datatype": "FP64", "data": [1.5, 2.5]}],
    }
    loggers.post(event("request", asked))
    loggers.post(event("response", answered))
    rows = loggers.world.rows("predictions")
    assert [(r["f_size"], r["f_city"], r["prediction"], r["model_version"]) for r in rows] == [
        (70.0, "Oslo", 1.5, "3"),
        (80.0, "Rome", 2.5, "3"),
    ]


def test_outputs_are_chosen_by_the_config_and_features_named_by_the_model(make: Callable[..., Loggers]) -> None:
    loggers = make(
        models=[{"name": "churn", "task": "binary", "features": {"age": "number", "plan": "category"}}],
        cloudevents={"services": [{"service": "s", "model": "churn", "prediction": "label", "probability": "p"}]},
    )
    loggers.post(event("request", {"instances": [[30, "free"]]}, service="s", traceparent=f"00-{'a' * 32}-{'b' * 16}-01"))
    loggers.post(event("response", {"predictions": [{"label": 1, "p": 0.9, "why": "x"}]}, service="s"))
    (row,) = loggers.world.rows("predictions", "churn")
    assert (row["f_age"], row["f_plan"], row["prediction"], row["probability"]) == (30.0, "free", 1.0, 0.9)
    assert row["trace_id"] == "a" * 32


def test_a_service_may_be_any_model_by_the_address(loggers: Loggers) -> None:
    status, answer = loggers.post(event("request", ASKED, service="other"))
    assert (status, answer["errors"][0]["reason"]) == (422, "unknown_model")
    assert "cloudevents.services" in answer["errors"][0]["message"]
    assert numbers(loggers.post(event("request", ASKED, service="other"), model="houses")) == (200, counts(waiting=1))


def test_two_halves_that_do_not_fit_are_set_aside_together(loggers: Loggers) -> None:
    loggers.post(event("request", ASKED))
    status, answer = loggers.post(event("response", {"predictions": [1, 2]}))
    assert (status, answer["errors"][0]["message"]) == (422, "1 instances in the request and 2 in the response")
    (letter,) = loggers.world.rows("deadletters", "")
    assert (letter["reason"], letter["source"], letter["record_id"]) == ("undecodable", "cloudevents", "r1")
    assert json.loads(letter["payload"])["request"][0]["features"] == {"f0": 70.0, "f1": "Oslo"}
    assert loggers.halves() == 0


def test_a_half_that_stays_alone_goes_to_the_dead_letter_and_no_other(make: Callable[..., Loggers]) -> None:
    loggers = make(cloudevents={"pair_seconds": "1m"})
    loggers.post(event("request", ASKED, "old"))
    loggers.world.clock.move(59)
    loggers.post(event("request", ASKED, "young"))
    assert loggers.pairs.expire() == 0
    loggers.world.clock.move(2)
    assert loggers.pairs.expire() == 1
    assert loggers.pairs.expire() == 0
    (letter,) = loggers.world.rows("deadletters", "")
    assert (letter["reason"], letter["record_id"]) == ("unpaired", "old")
    assert letter["message"] == "an inference request whose response did not come in 60 s"
    assert numbers(loggers.post(event("response", ANSWERED, "young"))) == (200, counts(accepted=1))


def test_what_is_kept_for_the_other_half_is_masked(loggers: Loggers) -> None:
    loggers.post(event("request", {"instances": [{"size": 70.0, "note": "write to ada@example.org"}]}))
    (row,) = loggers.world.state("SELECT payload FROM halves")
    assert "ada@example.org" not in row["payload"]
    loggers.post(event("response", ANSWERED))
    (stored,) = loggers.world.rows("predictions")
    assert "ada@example.org" not in json.dumps(stored, default=str)
    assert stored["f_note"].startswith("write to ")


# --- out of the dead letter ---

NEW = {"service": "new", "model": "houses", "features": ["size", "city"]}


def summary(outcome: Outcome) -> tuple[int, list[str]]:
    return outcome.replayed, [one["reason"] for one in outcome.refused]


@pytest.mark.parametrize("mode", ("binary", "structured"))
@pytest.mark.parametrize("order", (("request", "response"), ("response", "request")))
def test_events_of_a_service_that_was_not_known_become_a_prediction_once_it_is(
    loggers: Loggers, mode: str, order: tuple[str, str]
) -> None:
    data = {"request": ASKED, "response": ANSWERED}
    for half in order:
        assert loggers.post(event(half, data[half], service="new"), mode=mode)[0] == 422
    assert summary(loggers.replay()) == (0, ["unknown_model"] * 2)
    assert len(loggers.world.rows("deadletters", "")) == 2  # refused again is not set aside again
    loggers.serve(NEW)
    assert summary(loggers.replay(dry=True)) == (2, [])
    assert (loggers.world.ids("predictions"), loggers.halves(), loggers.world.rows("resolutions", "")) == ([], 0, [])
    assert summary(loggers.replay()) == (2, [])
    (row,) = loggers.world.rows("predictions")
    assert (row["record_id"], row["event_time"], row["prediction"], row["f_city"]) == ("r1", NOON, 1.5, "Oslo")
    assert [(r["deadletter_seq"], r["result"]) for r in loggers.world.rows("resolutions", "")] == [(1, "taken"), (2, "taken")]
    assert (loggers.halves(), loggers.replay().matched) == (0, 0)
    assert sample(loggers.world.metrics, "modelwatch_deadletter_records", reason="unknown_model") == 0


def test_a_replayed_half_waits_for_the_other_and_meets_it(loggers: Loggers) -> None:
    loggers.post(event("request", ASKED, service="new"))
    loggers.serve(NEW)
    assert summary(loggers.replay()) == (1, [])
    assert loggers.halves() == 1
    loggers.restart()
    assert numbers(loggers.post(event("response", ANSWERED, service="new"))) == (200, counts(accepted=1))
    assert loggers.world.ids("predictions") == ["r1"]


def test_a_replayed_half_meets_the_one_that_waits_and_one_sent_again_is_known(loggers: Loggers) -> None:
    loggers.post(event("request", ASKED, service="new"))
    loggers.serve(NEW)
    loggers.post(event("response", ANSWERED, service="new"))
    assert loggers.halves() == 1
    assert summary(loggers.replay()) == (1, [])
    assert (loggers.world.ids("predictions"), loggers.halves()) == (["r1"], 0)
    assert numbers(loggers.post(event("request", ASKED, service="new"))) == (200, counts(duplicates=1))


def test_an_event_without_a_time_is_replayed_as_of_when_it_came(loggers: Loggers) -> None:
    came = loggers.world.clock.now()
    for half, data in (("request", ASKED), ("response", ANSWERED)):
        one = orjson.loads(to_structured_event(event(half, data, service="new")).body)
        del one["time"]
        loggers.client.post("/v1/cloudevents", json=one, headers={"Content-Type": "application/cloudevents+json"})
    loggers.world.clock.move(7200)
    loggers.serve(NEW)
    assert summary(loggers.replay()) == (2, [])
    assert [row["event_time"] for row in loggers.world.rows("predictions")] == [came]


def test_a_model_named_by_the_address_is_kept_for_the_replay(loggers: Loggers) -> None:
    loggers.post(event("request", ASKED, service="new"), model="latecomer")
    loggers.post(event("response", ANSWERED, service="new"), model="latecomer")
    models = [*(m.model_dump() for m in loggers.world.config.models), {"name": "latecomer", "task": "regression"}]
    loggers.serve(models=models)
    assert summary(loggers.replay()) == (2, [])
    assert loggers.world.ids("predictions", "latecomer") == ["r1"]


def test_two_halves_that_both_came_too_early_meet_in_a_replay(make: Callable[..., Loggers]) -> None:
    loggers = make(cloudevents={"pair_seconds": "1m"})
    loggers.post(event("request", ASKED))
    loggers.world.clock.move(61)
    loggers.pairs.expire()
    loggers.post(event("response", ANSWERED))
    loggers.world.clock.move(61)
    loggers.pairs.expire()
    assert [row["reason"] for row in loggers.world.rows("deadletters", "")] == ["unpaired"] * 2
    assert summary(loggers.replay()) == (2, [])
    assert (loggers.world.ids("predictions"), loggers.halves()) == (["r1"], 0)


def test_a_pair_that_is_refused_in_a_replay_has_a_letter_that_holds_it(loggers: Loggers) -> None:
    loggers.post(event("request", ASKED, service="new"))
    loggers.post(event("response", {"predictions": [1, 2]}, service="new"))
    loggers.serve(NEW)
    assert summary(loggers.replay(dry=True)) == (1, ["undecodable"])
    assert summary(loggers.replay()) == (1, ["undecodable"])
    letters = loggers.world.rows("deadletters", "")
    assert [(row["seq"], row["reason"]) for row in letters] == [(1, "unknown_model"), (2, "unknown_model"), (3, "undecodable")]
    assert json.loads(letters[2]["payload"]).keys() == {"request", "response"}
    assert [row["deadletter_seq"] for row in loggers.world.rows("resolutions", "")] == [1, 2]
    assert summary(loggers.replay()) == (0, ["undecodable"])
    assert len(loggers.world.rows("deadletters", "")) == 3


@pytest.mark.parametrize("place", ("commit.before", "commit.after"))
@pytest.mark.parametrize("commit", (1, 2), ids=("of the halves", "of the prediction"))
def test_a_replay_that_dies_at_a_commit_is_done_once(loggers: Loggers, place: str, commit: int) -> None:
    loggers.post(event("request", ASKED, service="new"))
    loggers.post(event("response", ANSWERED, service="new"))
    loggers.serve(NEW)
    left = commit

    def die(name: str) -> None:
        nonlocal left
        left -= name == place
        if not left:
            arm(None)
            raise RuntimeError("killed")

    arm(die)
    try:
        with pytest.raises(RuntimeError, match="killed"):
            loggers.replay()
    finally:
        arm(None)
    loggers.restart()
    loggers.replay()
    assert (loggers.world.ids("predictions"), loggers.halves()) == (["r1"], 0)
    assert sorted(row["deadletter_seq"] for row in loggers.world.rows("resolutions", "")) == [1, 2]
    assert len(loggers.world.rows("deadletters", "")) == 2


BAD: dict[str, tuple[dict[str, str], bytes, int, str]] = {
    "no event": ({"content-type": "application/json"}, b"{}", 400, "bad_json"),
    "no JSON": ({"content-type": "application/cloudevents+json"}, b"{", 400, "bad_json"),
    "a batch that is none": ({"content-type": "application/cloudevents-batch+json"}, b"{}", 400, "bad_json"),
    "no id": ({"ce-type": "t", "ce-source": "s", "ce-specversion": "1.0"}, b"{}", 422, "missing_field"),
    "an unknown version": (
        {"ce-id": "a", "ce-type": "t", "ce-source": "s", "ce-specversion": "2.0"}, b"{}", 422, "undecodable",
    ),
    "data that is no JSON": (
        {"ce-id": "a", "ce-type": KSERVE + "request", "ce-source": "s", "ce-specversion": "1.0"}, b"\x00", 422, "bad_json",
    ),
    "another type": (
        {"ce-id": "a", "ce-type": "io.seldon.serving.feedback", "ce-source": "s", "ce-specversion": "1.0"}, b"{}", 422,
        "wrong_signal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_inference_event_is_refused_with_a_reason(loggers: Loggers, name: str) -> None:
    headers, body, status, reason = BAD[name]
    response = loggers.client.post("/v1/cloudevents", content=body, headers=headers)
    assert response.status_code == status
    answer = response.json()
    assert (answer["error"] if status == 400 else answer["errors"][0]["reason"]) == reason
    assert [row["reason"] for row in loggers.world.rows("deadletters", "")] == [reason]


def test_an_event_whose_data_cannot_be_read_is_set_aside_with_its_attributes(loggers: Loggers) -> None:
    headers, body, _, reason = BAD["data that is no JSON"]
    loggers.client.post("/v1/cloudevents", content=body, headers=headers)
    (letter,) = loggers.world.rows("deadletters", "")
    assert json.loads(letter["payload"])["type"] == KSERVE + "request"
    assert summary(loggers.replay()) == (0, [reason])


def test_events_of_every_mode_are_read_alike() -> None:
    one = event("request", ASKED, "é 1")
    binary, structured = to_binary_event(one), to_structured_event(one)
    read = [cloudevents.read(dict(m.headers), m.body)[0] for m in (binary, structured)]
    encoded = {k: v for k, v in orjson.loads(structured.body).items() if k != "data"}
    encoded["data_base64"] = base64.b64encode(orjson.dumps(ASKED)).decode()
    read += cloudevents.read({"content-type": "application/cloudevents-batch+json"}, orjson.dumps([encoded]))
    assert all(isinstance(one, Event) for one in read)
    assert {(e.id, e.type, str(e.data)) for e in read if isinstance(e, Event)} == {("é 1", KSERVE + "request", str(ASKED))}


def test_a_structured_event_that_is_none_does_not_spoil_the_batch() -> None:
    good = orjson.loads(to_structured_event(event("request", ASKED)).body)
    bad = {**good, "data_base64": "!"}
    del bad["data"]
    found = cloudevents.read({"content-type": "application/cloudevents-batch+json"}, orjson.dumps([1, good, bad]))
    assert [one.reason if isinstance(one, Reject) else one.id for one in found] == ["not_an_object", "r1", "undecodable"]
    with pytest.raises(BodyRejected):
        cloudevents.read({}, b"")


def test_what_many_send_at_once_is_stored_together_and_everybody_hears_of_their_own(loggers: Loggers) -> None:
    def of(half: str, n: int) -> Event:
        attributes = {"inferenceservicename": "houses", "namespace": "default"}
        data = {"instances": [[n]]} if half == "request" else {"predictions": [float(n)]}
        if n == 13 and half == "response":
            data = {"predictions": [1.0, 2.0]}  # which do not fit its request
        return Event(f"r{n}", f"{KSERVE}{half}", "s", attributes, data)

    pairs, world = loggers.pairs, loggers.world
    assert pairs.submit([of("request", n) for n in range(5)], None, 100).result(10).waiting == 5
    held = Held(world.store)
    first = pairs.submit([of("response", 0)], None, 10)  # which the writer has not begun, so that the rest gathers
    wait_for(lambda: len(world.store._queue) == 1, "the first of them")
    sent = {n: pairs.submit([of("response", n)], None, 10) for n in range(1, 5)}
    sent[10] = pairs.submit([of("request", 10), of("response", 10), of("response", 1)], None, 10)
    sent[13] = pairs.submit([of("request", 13), of("response", 13)], None, 10)
    held.release()
    assert first.result(10).accepted == 1
    assert [sent[n].result(10).as_json()["accepted"] for n in range(1, 5)] == [1, 1, 1, 1]
    mixed, bad = sent[10].result(10), sent[13].result(10)
    assert (mixed.accepted, mixed.duplicates, mixed.rejects) == (1, 1, [])
    assert (bad.accepted, [r.index for r in bad.rejects]) == (0, [1])
    assert sorted(world.ids("predictions")) == ["r0", "r1", "r10", "r2", "r3", "r4"]
    assert world.letters() == [("r13", "undecodable")]
    assert len(world.rows("batches", "")) <= 4
    assert loggers.halves() == 0
