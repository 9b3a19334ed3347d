"""Scores on their way out: as the conventions have them, each at least once, and nobody waits for the endpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from pydantic import ValidationError

from monitor import configfile
from monitor.errors import ConfigError
from monitor.evaluations import events
from monitor.evaluations.config import OtlpExport
from monitor.evaluations.exporter import Evaluations
from monitor.faultpoints import arm
from monitor.otlp.http import OtlpHttpServer
from monitor.quarantine import Quarantine
from tests.monitor.otlpsink import GrpcSink, HttpSink, attributes
from tests.monitor.support import World, generation, sample
from tests.monitor.test_otlp_http import Receiver
from tests.monitor.tracing import chat, record_id, span_id, trace_id

CHECK = {"name": "bare", "model": "bot", "detector": "tests.plugins:Bareness", "every": "10m", "threshold": {"upper": 0.9}}


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world(checks=[CHECK])


@pytest.fixture
def sink() -> Iterator[HttpSink]:
    sink = HttpSink()
    yield sink
    sink.close()


Made = Callable[..., Evaluations]


@pytest.fixture
def exporter(sink: HttpSink) -> Iterator[Made]:
    """An exporter on a world; those made are stopped."""
    made: list[Evaluations] = []

    def make(world: World, **settings: Any) -> Evaluations:
        config = OtlpExport.model_validate({"endpoint": sink.url, **settings})
        made.append(Evaluations(config, world.store, clock=world.clock, metrics=world.metrics, chance=lambda: 0.0))
        made[-1].begin()
        return made[-1]

    yield make
    for one in made:
        one.stop()


def scored(world: World, *ids: str, **fields: Any) -> None:
    world.send("generations", *(generation(one, contexts=["one"], **fields) for one in ids))
    assert world.score() == len(ids)


def dropped(world: World, reason: str) -> float | None:
    return sample(world.metrics, "modelwatch_evaluations_dropped_total", reason=reason)


def failures(world: World, reason: str) -> float | None:
    return sample(world.metrics, "modelwatch_outbox_failures_total", sink="otlp", reason=reason)


def waiting(world: World) -> float | None:
    return sample(world.metrics, "modelwatch_outbox_messages", sink="otlp", state="waiting")


def test_a_score_goes_out_as_the_conventions_have_it_on_the_span_of_its_answer(
    world: World, sink: HttpSink, exporter: Made
) -> None:
    out = exporter(world)
    world.send("spans", chat("t", "answer"))
    world.settle()
    assert world.score() == 1
    assert out.step() == 1
    (record,) = sink.records
    assert record.event_name == "gen_ai.evaluation.result"
    assert (record.trace_id.hex(), record.span_id.hex()) == (trace_id("t"), span_id("answer"))
    assert record.time_unix_nano == int(world.clock.now().timestamp()) * 10**9
    (score,) = world.rows("scores", "bot")
    assert attributes(record) == {
        "gen_ai.evaluation.name": "bareness",
        "gen_ai.evaluation.score.value": 1.0,
        "gen_ai.evaluation.score.label": "flagged",
        "modelwatch.model": "bot",
        "modelwatch.record_id": record_id("t", "answer"),
        "modelwatch.revision": 1,
        "modelwatch.evaluator.id": "bareness",
        "modelwatch.evaluator.version": "1",
        "modelwatch.evaluator.settings_hash": score["settings_hash"],
        "log.record.uid": f"bot/{record_id('t', 'answer')}/1/{score['settings_hash']}",
    }
    (logs,) = sink.exports[0].resource_logs
    assert attributes(logs.resource)["service.name"] == "modelwatch"
    assert sample(world.metrics, "modelwatch_outbox_sent_total", sink="otlp") == 1
    assert waiting(world) == 0


def test_what_failed_has_an_error_and_no_score_and_what_does_not_apply_is_left_out(
    make_world: Callable[..., World], sink: HttpSink, exporter: Made
) -> None:
    world = make_world(checks=[CHECK], scoring={"attempts": 1})
    out = exporter(world)
    for name, question in (("fine", "why?"), ("failed", "raise"), ("not", "decline")):
        scored(world, name, question=question)
    outcomes = {row["record_id"]: row["outcome"] for row in world.rows("scores", "bot")}
    assert outcomes == {"fine": "ok", "failed": "failed", "not": "not_evaluable"}
    assert out.step() == 3
    said = {one["modelwatch.record_id"]: one for one in map(attributes, sink.records)}
    assert {name: ("error.type" in one, "gen_ai.evaluation.score.value" in one) for name, one in said.items()} == {
        "fine": (False, True),
        "failed": (True, False),
    }


def test_a_pushed_answer_is_named_by_the_id_of_its_response(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world)
    scored(world, "g", response_id="chatcmpl-7", trace_id=None)
    out.step()
    (record,) = sink.records
    assert attributes(record)["gen_ai.response.id"] == "chatcmpl-7"
    assert (record.trace_id, record.span_id) == (b"", b"")


def test_ids_that_are_none_and_texts_that_are_no_utf8_cost_no_event(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world)
    sent = generation("q\"'\\" * 20, trace_id="no trace", span_id="zz" * 8, contexts=["c"])
    assert world.send("generations", sent).accepted == 1
    world.settle()
    world.score()
    out.step()
    (record,) = sink.records
    assert (record.trace_id, record.span_id) == (b"", b"")
    row = {
        **dict.fromkeys(("trace_id", "span_id", "response_id", "stage", "detail", "reason")),
        "record_id": "\ud800",
        "revision": 1,
    }
    row |= {"settings_hash": "h", "detector": "d", "detector_version": "1", "outcome": "ok", "value": 0.5, "flagged": None}
    export = events.request("bot", [{**row, "received_at": world.clock.now()}], explanations=True)
    assert export.SerializeToString()


def test_an_explanation_goes_along_only_where_that_is_wanted(world: World) -> None:
    row: dict[str, Any] = dict.fromkeys(("trace_id", "span_id", "response_id", "stage", "reason"))
    row |= {
        "record_id": "r",
        "revision": 1,
        "settings_hash": "h",
        "detector": "d",
        "detector_version": "1",
        "outcome": "ok",
        "value": 0.5,
        "flagged": False,
    }
    row |= {"detail": '{"judge_reason": "it says so", "metric": "faithfulness", "raw": 3}', "received_at": world.clock.now()}

    def said(explanations: bool) -> dict[str, Any]:
        export = events.request("bot", [row], explanations=explanations)
        return attributes(export.resource_logs[0].scope_logs[0].log_records[0])

    assert said(True)["gen_ai.evaluation.explanation"] == "it says so"
    assert said(True)["gen_ai.evaluation.name"] == "faithfulness", "the judge's metric, and not the judge"
    assert "gen_ai.evaluation.explanation" not in said(False)


def test_the_first_start_begins_with_what_comes_and_a_restart_goes_on_where_it_stopped(
    world: World, sink: HttpSink, exporter: Made
) -> None:
    scored(world, "before")
    exporter(world).step()
    scored(world, "a", "b")
    world.seal()
    world.restart()
    exporter(world).step()
    scored(world, "c")
    world.restart()
    exporter(world).step()
    exporter(world).step()
    assert sink.ids == ["a", "b", "c"]


def test_killed_after_sending_it_sends_again_and_loses_nothing(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world)
    scored(world, "a")

    def die(name: str) -> None:
        if name == "evaluations.sent":
            raise KeyboardInterrupt

    arm(die)
    try:
        with pytest.raises(KeyboardInterrupt):
            out.step()
    finally:
        arm(None)
    world.restart()
    exporter(world).step()
    assert sink.ids == ["a", "a"]
    uids = {attributes(record)["log.record.uid"] for record in sink.records}
    assert len(uids) == 1


def test_a_score_of_a_new_revision_goes_out_as_well(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world)
    scored(world, "a")
    out.step()
    world.send("contexts", {"record_id": "a", "model": "bot", "contexts": ["two"]})
    assert world.score() == 1
    out.step()
    assert [attributes(r)["modelwatch.revision"] for r in sink.records] == [1, 2]


@pytest.mark.parametrize(
    ("status", "reason"), ((503, "server_error"), (500, "server_error"), (401, "unauthorised"), (404, "not_found"))
)
def test_an_endpoint_that_does_not_take_them_is_asked_again_later_and_has_them_all(
    world: World, sink: HttpSink, exporter: Made, status: int, reason: str
) -> None:
    out = exporter(world, batch_events=2)
    scored(world, "a", "b", "c")
    sink.answer = lambda export: (status, b"no", {})
    assert out.step() == 0
    assert out.step() == 0, "it is left alone for a while"
    assert (sink.asked, failures(world, reason), waiting(world)) == (1, 1, 3)
    asked_at = []
    for _ in range(8):
        before = sink.asked
        world.clock.move(1)
        out.step()
        asked_at.append(sink.asked - before)
    assert asked_at == [1, 0, 1, 0, 0, 0, 1, 0], "each wait is twice the one before"
    sink.answer = lambda export: (200, b"", {})
    world.clock.move(3600)
    assert [out.step(), out.step(), out.step()] == [2, 1, 0]
    assert sink.ids == ["a", "b", "c"]
    assert waiting(world) == 0


def test_the_wait_that_the_endpoint_asks_for_is_kept(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world)
    scored(world, "a")
    sink.answer = lambda export: (429, b"", {"Retry-After": "40"})
    out.step()
    assert failures(world, "rate_limited") == 1
    sink.answer = lambda export: (200, b"", {})
    world.clock.move(39)
    assert out.step() == 0
    world.clock.move(2)
    assert out.step() == 1


def test_nobody_there_is_a_failure_and_says_since_when_it_waits(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world, endpoint="http://127.0.0.1:9")
    since = world.clock.now().timestamp()
    scored(world, "a")
    world.clock.move(100)
    out.step()
    assert failures(world, "unreachable") == 1
    assert sample(world.metrics, "modelwatch_outbox_oldest_message_timestamp_seconds", sink="otlp") == since


def test_what_is_refused_for_what_it_is_is_counted_and_holds_up_nothing(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world, batch_events=1)
    scored(world, "bad", "good")
    sink.answer = lambda export: (400 if b"bad" in export.SerializeToString() else 200, b"", {})
    assert [out.step(), out.step(), out.step()] == [1, 1, 0]
    assert (sink.ids, dropped(world, "rejected")) == (["good"], 1)


def test_a_partial_success_counts_what_was_not_taken(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world)
    scored(world, "a", "b", "c")
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = 2
    sink.answer = lambda export: (200, answer.SerializeToString(), {})
    assert out.step() == 3
    assert dropped(world, "rejected") == 2
    assert sample(world.metrics, "modelwatch_outbox_sent_total", sink="otlp") == 1


def test_an_endpoint_that_takes_few_at_once_gets_few_at_once(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world)
    ids = [f"r{i}" for i in range(9)]
    scored(world, *ids)
    size = events.count

    sink.answer = lambda export: (413 if size(export) > 2 else 200, b"", {})
    while out.step():
        pass
    assert sink.ids == ids
    assert dropped(world, "rejected") == 0
    sink.answer = lambda export: (413, b"", {})
    scored(world, "huge")
    while out.step():
        pass
    assert (dropped(world, "rejected"), waiting(world)) == (1, 0)


def test_a_backlog_has_an_end_and_what_is_left_out_is_counted_once(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world, max_backlog_events=1000)
    world.send("generations", *(generation(f"r{i}", contexts=["one"]) for i in range(1005)))
    world.score()
    sink.answer = lambda export: (503, b"", {})
    out.step()
    world.clock.move(100)
    out.step()
    assert (dropped(world, "backlog"), waiting(world)) == (5, 1000)
    sink.answer = lambda export: (200, b"", {})
    world.clock.move(100)
    while out.step():
        pass
    assert sink.ids == [f"r{i}" for i in range(5, 1005)]


def test_scores_in_a_damaged_segment_are_passed_by_and_counted(world: World, sink: HttpSink, exporter: Made) -> None:
    out = exporter(world)
    scored(world, "lost", "as well")
    world.seal()
    for segment in world.state("SELECT file FROM manifest WHERE kind = 'scores'"):
        (world.store.root / segment["file"]).unlink()
    Quarantine(world.store, clock=world.clock, metrics=world.metrics).look()
    scored(world, "there")
    while out.step():
        pass
    assert (sink.ids, dropped(world, "unreadable"), waiting(world)) == (["there"], 2, 0)


def test_models_that_are_left_out_are_not_caught_up_with_when_they_are_wanted(
    make_world: Callable[..., World], sink: HttpSink, exporter: Made
) -> None:
    models = [{"name": name, "task": "llm"} for name in ("bot", "other")]
    world = make_world(models=models, checks=[CHECK, {**CHECK, "name": "bare2", "model": "other"}])
    out = exporter(world, models=["bot"])
    scored(world, "a")
    scored(world, "b", model="other")
    while out.step():
        pass
    assert sink.ids == ["a"]
    exporter(world, models=["bot"])
    out = exporter(world)
    scored(world, "c", model="other")
    while out.step():
        pass
    assert sink.ids == ["a", "c"]


def test_over_grpc_they_go_out_likewise(world: World, exporter: Made) -> None:
    sink = GrpcSink()
    try:
        out = exporter(world, endpoint=sink.url, protocol="grpc", headers={"Authorization": "Bearer x"})
        scored(world, "a")
        sink.refuse = (grpc.StatusCode.UNAVAILABLE, "not now")
        assert out.step() == 0
        assert failures(world, "unreachable") == 1
        sink.refuse = (grpc.StatusCode.INVALID_ARGUMENT, "never")
        world.clock.move(60)
        assert out.step() == 1
        assert dropped(world, "rejected") == 1
        sink.refuse = None
        scored(world, "b")
        assert out.step() == 1
        assert sink.ids == ["b"]
        assert sink.metadata[-1]["authorization"] == "Bearer x"
    finally:
        sink.close()


def test_headers_reach_the_endpoint_and_no_page(world: World, sink: HttpSink, exporter: Made) -> None:
    exporter(world, headers={"Authorization": "Bearer secret-7"})
    out = exporter(world, headers={"Authorization": "Bearer secret-7"})
    scored(world, "a")
    out.step()
    assert sink.seen[0]["Authorization"] == "Bearer secret-7"
    assert "secret-7" not in repr(OtlpExport.model_validate({"endpoint": sink.url, "headers": {"A": "secret-7"}}))


def test_our_own_receiver_takes_them_and_keeps_nothing_of_them(
    world: World, make_world: Callable[..., World], exporter: Made, tmp_path: Path
) -> None:
    other = make_world(root=tmp_path / "other")
    receiver = Receiver(other, OtlpHttpServer, None)
    try:
        out = exporter(world, endpoint=receiver.url)
        scored(world, "a", "b")
        assert out.step() == 2
        assert (failures(world, "rejected"), dropped(world, "rejected")) == (None, 0)
        assert sample(other.metrics, "modelwatch_ingest_logs_ignored_total") == 2
        assert other.rows("feedback", "bot") == []
    finally:
        receiver.close()


def test_an_endpoint_that_hangs_keeps_nobody_waiting(world: World, sink: HttpSink, exporter: Made) -> None:
    hung = threading.Event()
    go = threading.Event()

    def hang(export: object) -> tuple[int, bytes, dict[str, str]]:
        hung.set()
        go.wait(20)
        return 200, b"", {}

    sink.answer = hang
    out = exporter(world, timeout_seconds=60)
    out.start()
    scored(world, "a")
    assert hung.wait(10)
    scored(world, "b")
    out.stop()
    assert not go.is_set(), "it was given up, and not waited for"
    go.set()
    assert world.ids("scores", "bot") == ["a", "b"]


@pytest.mark.parametrize(
    ("settings", "message"),
    (
        ({"endpoint": "collector:4318"}, "no URL of http or https"),
        ({"endpoint": "http://c:4318/v1/logs"}, "leave that out"),
        ({"endpoint": "http://u:p@c:4318"}, "credentials as headers"),
        ({"endpoint": "http://c:99999"}, "no URL"),
        ({"endpoint": "http://c:4318", "headers": {"a b": "x"}}, "no name of a header"),
        ({"endpoint": "http://c:4318", "headers": {"a": "x\ny"}}, "no value that fits into a header"),
        ({"endpoint": "http://c:4318", "protocol": "udp"}, "'http' or 'grpc'"),
    ),
)
def test_what_cannot_work_is_said_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OtlpExport.model_validate(settings)


def test_a_secret_in_the_file_and_a_model_that_is_not_there_are_problems_with_a_path(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "models: [{name: bot, task: llm}]\n"
        "export: {otlp: {endpoint: 'http://c:4318', headers: {Authorization: Bearer x}, models: [bto]}}\n"
    )
    with pytest.raises(ConfigError) as found:
        configfile.load(file)
    said = "\n".join(found.value.problems)
    assert "export.otlp.headers.Authorization: a secret does not stand in the config file" in said
    assert "export.otlp.models.0" in said
    assert "bto" in said


def test_a_clock_that_is_set_back_holds_up_nothing(world: World, sink: HttpSink, exporter: Made) -> None:
    """Waits are counted on a clock that nobody sets."""
    out = exporter(world)
    scored(world, "a")
    sink.answer = lambda export: (503, b"", {})
    out.step()
    sink.answer = lambda export: (200, b"", {})
    world.clock._now -= timedelta(days=30)
    world.clock.move(2)
    assert out.step() == 1
    world.clock._now += timedelta(days=400)
    scored(world, "b")
    out.step()
    assert sink.ids == ["a", "b"]
    assert waiting(world) == 0
