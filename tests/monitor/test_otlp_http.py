"""OTLP over HTTP, as exporters need it: answers, retries, limits."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import ssl
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import SpanExportResult

from monitor.auth import Tokens
from monitor.config import Tls
from monitor.errors import InboxFull, StoreUnavailable
from monitor.otlp.http import OtlpHttpServer
from monitor.otlp.spans import Span
from monitor.otlp.wire import JSON, PROTOBUF
from monitor.receiving import Budget
from tests.monitor.otlp import Witness, as_json, export, finished, log_export, logged, of_size
from tests.monitor.support import World, sample, wait_for

GZIP = {"Content-Encoding": "gzip"}
MIB = 2**20


class Receiver:
    """A receiver before a world's inbox, with a witness in between."""

    def __init__(self, world: World, kind: type[OtlpHttpServer], tokens: Path | None) -> None:
        http = world.config.otlp.http
        assert http is not None
        self.world = world
        self.witness = Witness(world)
        self.budget = Budget(world.config.server.bodies_bytes)
        self.server = kind(
            http, world.config, self.witness, tokens=Tokens(tokens), budget=self.budget, clock=world.clock, metrics=world.metrics
        )
        self.server.start()
        scheme = "https" if http.tls else "http"
        self.url = f"{scheme}://{self.server.address}"
        verify = ssl.create_default_context(cafile=str(http.tls.cert_file)) if http.tls else False
        self.client = httpx.Client(base_url=self.url, timeout=30, verify=verify)

    def close(self) -> None:
        self.client.close()
        self.server.stop()

    def post(self, body: bytes, content_type: str = PROTOBUF, path: str = "/v1/traces", **headers: str) -> httpx.Response:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, content=body, headers={"Content-Type": content_type, **more})

    def counted(self, code: str) -> float | None:
        return sample(self.world.metrics, "modelwatch_ingest_requests_total", transport="otlp_http", code=code)

    def in_flight(self) -> float | None:
        return sample(self.world.metrics, "modelwatch_ingest_requests_in_flight", transport="otlp_http")

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        host, port = self.server.address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as one:
            yield one

    def exporter(self, **settings: Any) -> OTLPSpanExporter:
        return OTLPSpanExporter(f"{self.url}/v1/traces", **settings)


@pytest.fixture
def make(make_world: Callable[..., World]) -> Iterator[Callable[..., Receiver]]:
    with ExitStack() as stack:

        def make(
            kind: type[OtlpHttpServer] = OtlpHttpServer,
            tokens: Path | None = None,
            tls: Mapping[str, Any] | None = None,
            otlp: Mapping[str, Any] = {},
            **sections: Any,
        ) -> Receiver:
            listener = {"listen": "127.0.0.1:0", "tls": tls}
            world = make_world(otlp={"http": listener, "default_model": "bot", **otlp}, **sections)
            made = Receiver(world, kind, tokens)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def receiver(make: Callable[..., Receiver]) -> Receiver:
    return make()


def status_of(response: httpx.Response) -> Status:
    """The body of an error, in the encoding it says."""
    if response.headers["Content-Type"] == JSON:
        return json_format.Parse(response.content, Status())
    assert response.headers["Content-Type"] == PROTOBUF
    return Status.FromString(response.content)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("compression", COMPRESS)
def test_an_export_is_answered_in_its_encoding_once_it_is_taken(receiver: Receiver, compression: str) -> None:
    compress, named = COMPRESS[compression], {"Content_Encoding": compression} if compression else {}
    made = export("one", "two")
    response = receiver.post(compress(made.SerializeToString()), **named)
    assert (response.status_code, response.content, response.headers["Content-Type"]) == (200, b"", PROTOBUF)
    response = receiver.post(compress(as_json(made)), JSON, **named)
    assert (response.status_code, response.content, response.headers["Content-Type"]) == (200, b"{}", JSON)
    first, second = receiver.witness.batches
    assert [*first.items] == [*second.items]
    assert receiver.witness.names() == ["one", "two"]  # once, though they came twice
    assert (first.kind, first.source, first.size) == ("spans", "otlp_http", len(made.SerializeToString()))
    assert receiver.counted("200") == 2


def test_log_records_have_their_own_path(receiver: Receiver) -> None:
    response = receiver.post(log_export("a", "b").SerializeToString(), path="/v1/logs")
    assert (response.status_code, response.content) == (200, b"")
    assert receiver.witness.bodies() == ["a", "b"]


def test_metrics_are_answered_counted_and_thrown_away(receiver: Receiver) -> None:
    for body, content_type in ((b"\x0a\x00", PROTOBUF), (b'{"resourceMetrics": []}', JSON)):
        assert receiver.post(body, content_type, "/v1/metrics").status_code == 200
    assert receiver.witness.batches == []
    assert sample(receiver.world.metrics, "modelwatch_ingest_requests_discarded_total", transport="otlp_http") == 2


def test_what_is_rejected_is_a_partial_success_that_says_why(receiver: Receiver) -> None:
    made = export("good", "bad", "worse")
    spans = made.resource_spans[0].scope_spans[0].spans
    spans[1].span_id = b""
    spans[2].trace_id = bytes(16)
    response = receiver.post(made.SerializeToString())
    assert response.status_code == 200
    partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    assert partial.rejected_spans == 2
    assert "1 bad_span_id (record 1: spanId: is missing" in partial.error_message
    assert "1 bad_trace_id (record 2" in partial.error_message
    assert receiver.witness.names() == ["good"]
    said = orjson.loads(receiver.post(as_json(made), JSON).content)
    assert said["partialSuccess"]["rejectedSpans"] == "2"  # 64 bits are text in JSON


def test_log_records_sent_to_the_path_of_the_traces_are_rejected_and_the_spans_beside_them_taken(receiver: Receiver) -> None:
    logs = log_export("x" * 300, "short").SerializeToString()
    response = receiver.post(export("span").SerializeToString() + logs)
    assert response.status_code == 200
    assert ExportTraceServiceResponse.FromString(response.content).partial_success.rejected_spans == 2
    assert receiver.witness.names() == ["span"]


def test_spans_sent_to_the_path_of_the_logs_are_no_fault_of_the_server(receiver: Receiver) -> None:
    response = receiver.post(export("span").SerializeToString() + log_export("log").SerializeToString(), path="/v1/logs")
    assert response.status_code == 200
    assert "log" in receiver.witness.bodies()
    rejected = ExportLogsServiceResponse.FromString(response.content).partial_success.rejected_log_records
    assert rejected + len(receiver.witness.bodies()) == 2


BAD: dict[str, tuple[bytes, dict[str, str], int]] = {
    "no export": (b"hello, world", {}, 400),
    "no JSON": (b"{", {"content_type": JSON}, 400),
    "no gzip": (b"hello", {"Content_Encoding": "gzip"}, 400),
    "another encoding": (b"", {"Content_Encoding": "br"}, 415),
    "another type": (b"", {"content_type": "text/plain"}, 415),
}


@pytest.mark.parametrize("name", BAD)
def test_a_body_that_is_no_good_is_refused_for_good(receiver: Receiver, name: str) -> None:
    body, headers, code = BAD[name]
    response = receiver.post(body, **headers)
    assert response.status_code == code
    assert "Retry-After" not in response.headers
    assert status_of(response).message
    assert receiver.counted(str(code)) == 1
    assert receiver.budget.taken == 0


def test_a_body_that_cannot_be_read_is_kept_for_the_dead_letter(receiver: Receiver) -> None:
    receiver.post(b"hello, world")
    receiver.post(b"{", JSON, "/v1/logs")
    letters = receiver.world.rows("deadletters", "", "kind, reason, payload")
    assert [tuple(letter.values()) for letter in letters] == [
        ("spans", "undecodable", "hello, world"),
        ("logs", "bad_json", "{"),
    ]


# Made anew each time: an exception that has been raised holds on to all that it passed.
FAULTS: dict[str, tuple[Callable[[], Exception], int]] = {
    "a full inbox": (lambda: InboxFull("full"), 429),
    "a store without space": (lambda: StoreUnavailable("no space"), 503),
    "a fault of ours": (lambda: ZeroDivisionError("oops"), 503),
}


@pytest.mark.parametrize("content_type", (PROTOBUF, JSON))
@pytest.mark.parametrize("name", FAULTS)
def test_what_may_pass_is_never_a_500_and_says_when_to_come_again(receiver: Receiver, name: str, content_type: str) -> None:
    fault, code = FAULTS[name]
    receiver.witness.faults = [fault()]
    made = export("one")
    body = as_json(made) if content_type == JSON else made.SerializeToString()
    response = receiver.post(body, content_type)
    assert response.status_code == code
    assert response.headers["Retry-After"] in ("1", "2")
    assert status_of(response).code in (8, 14)  # RESOURCE_EXHAUSTED, UNAVAILABLE
    assert "oops" not in status_of(response).message
    assert receiver.budget.taken == 0
    assert receiver.post(body, content_type).status_code == 200
    assert receiver.witness.names() == ["one"]


def test_an_export_of_20_mib_is_taken_and_one_byte_more_is_not(receiver: Receiver) -> None:
    limit = receiver.world.config.otlp.max_body_bytes
    assert limit == 20 * MIB
    assert receiver.post(of_size(limit).SerializeToString()).status_code == 200
    assert len(receiver.witness.names()) == 20
    larger = of_size(limit + 1).SerializeToString()
    for sent, headers in ((larger, {}), (gzip.compress(larger, 1), {"Content_Encoding": "gzip"})):
        response = receiver.post(sent, **headers)
        assert (response.status_code, status_of(response).code) == (413, 8)
        assert "Retry-After" not in response.headers
    assert receiver.witness.seen == 1


def test_a_gzip_bomb_is_refused_before_it_is_inflated(receiver: Receiver) -> None:
    bomb = gzip.compress(bytes(200 * MIB), 9)
    assert len(bomb) < 210_000
    tracemalloc.start()
    try:
        response = receiver.post(bomb, Content_Encoding="gzip")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert response.status_code == 413
    assert peak < 60 * MIB


def test_bodies_in_hand_have_a_budget_over_all_connections(make: Callable[..., Receiver]) -> None:
    receiver = make(server={"bodies_bytes": MIB})
    big = export("big", size=MIB * 3 // 4).SerializeToString()
    receiver.witness.hold()
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(receiver.post, big)
        wait_for(lambda: receiver.witness.batches, "the first in hand")
        for body, headers in ((big, {}), (gzip.compress(big), {"Content_Encoding": "gzip"})):
            refused = receiver.post(body, **headers)
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        small = pool.submit(receiver.post, export("small").SerializeToString())
        receiver.witness.release()
        assert taken.result(10).status_code == small.result(10).status_code == 200
    assert receiver.budget.taken == 0
    assert receiver.post(big).status_code == 200


def test_a_body_larger_than_the_budget_is_taken_when_it_is_alone(make: Callable[..., Receiver]) -> None:
    receiver = make(server={"bodies_bytes": 2000})
    assert receiver.post(gzip.compress(export("big", size=5000).SerializeToString()), Content_Encoding="gzip").status_code == 200
    assert receiver.budget.taken == 0


def test_the_parts_of_a_body_of_unknown_length_count_as_they_come(make: Callable[..., Receiver]) -> None:
    receiver = make(otlp={"max_body_bytes": 2000})
    response = receiver.client.post("/v1/traces", content=iter([b"\x0a" * 1500] * 3), headers={"Content-Type": PROTOBUF})
    assert response.status_code == 413
    assert receiver.budget.taken == 0


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"ingest:{digest('old')}\ningest:{digest('new')}\nquery:{digest('only-looking')}\n")
    return path


def test_without_a_token_of_the_role_ingest_nothing_is_taken(make: Callable[..., Receiver], tokens: Path) -> None:
    receiver = make(tokens=tokens)
    body = export("one").SerializeToString()
    for header in ({}, {"Authorization": "Bearer only-looking"}, {"Authorization": "Basic new"}, {"Authorization": "new"}):
        for content_type in (PROTOBUF, JSON):
            response = receiver.post(body, content_type, **header)
            assert (response.status_code, status_of(response).code) == (401, 16)
            assert response.headers["WWW-Authenticate"] == "Bearer"
    assert receiver.witness.seen == 0
    for token in ("old", "new"):
        assert receiver.post(body, Authorization=f"Bearer {token}").status_code == 200


def test_with_a_certificate_it_speaks_tls(make: Callable[..., Receiver], tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests heeds them more than what the exporter is told
        monkeypatch.delenv(name, raising=False)
    receiver = make(tls=tls.model_dump())
    assert receiver.post(export("one").SerializeToString()).status_code == 200
    exporter = receiver.exporter(certificate_file=str(tls.cert_file))
    assert exporter.export(finished("two")) is SpanExportResult.SUCCESS
    assert receiver.witness.names() == ["one", "two"]


# --- senders that mean no good, or whose network is none ---


@pytest.mark.parametrize(
    "head",
    (
        b"",
        b"POST /v1/tra",
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Le",
        b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 5000\r\n\r\n\x0a",
        b"POST /v1/nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n\x0a",
    ),
)
def test_a_sender_that_never_ends_its_request_is_cut_off(make: Callable[..., Receiver], head: bytes) -> None:
    receiver = make(server={"read_timeout_seconds": 1})
    with receiver.connected() as slow:
        slow.sendall(head)
        began = time.monotonic()
        while not closed(slow):  # a byte now and then does not help
            assert time.monotonic() - began < 10
    wait_for(lambda: not receiver.in_flight(), "the request to be given up")
    assert receiver.budget.taken == 0
    assert receiver.post(export("one").SerializeToString()).status_code == 200


def closed(one: socket.socket) -> bool:
    """Whether the other side is gone; sends it a byte more if not."""
    one.settimeout(0.1)
    try:
        while one.recv(4096):
            pass
        return True
    except TimeoutError:
        pass
    except OSError:
        return True
    try:
        one.sendall(b"x")
    except OSError:
        return True
    return False


def test_a_connection_may_be_idle_between_requests_longer_than_a_request_may_take(make: Callable[..., Receiver]) -> None:
    receiver = make(server={"read_timeout_seconds": 1})
    body = export("one").SerializeToString()
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    with receiver.connected() as one:
        one.sendall(head + body)
        assert one.recv(4096).startswith(b"HTTP/1.1 200")
        one.settimeout(1.5)
        with pytest.raises(TimeoutError):
            one.recv(1)
        one.sendall(head + body)
        assert one.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_head_without_end_is_cut_off(receiver: Receiver) -> None:
    with receiver.connected() as one:
        one.sendall(b"POST /v1/traces HTTP/1.1\r\nX-Long: ")
        sent = 0
        try:
            while sent < 100 * MIB:
                sent += one.send(b"x" * 100_000)
        except OSError:
            pass
        assert sent < 100 * MIB
    assert receiver.post(export("one").SerializeToString()).status_code == 200


class Small(OtlpHttpServer):
    max_connections = 2


def test_connections_beyond_the_limit_are_told_to_come_again(make: Callable[..., Receiver]) -> None:
    receiver = make(Small)
    body = export("one").SerializeToString()
    with receiver.connected(), receiver.connected():
        refused = httpx.post(f"{receiver.url}/v1/traces", content=body, headers={"Content-Type": PROTOBUF}, timeout=10)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    wait_for(lambda: receiver.post(body).status_code == 200, "room for one more")


def test_while_it_stops_what_is_in_hand_is_answered_and_what_is_new_is_refused(receiver: Receiver) -> None:
    body = export("one").SerializeToString()
    head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    receiver.witness.hold()
    with ThreadPoolExecutor(2) as pool, receiver.connected() as late:
        late.sendall(head)  # a connection from before, whose request is not whole yet
        wait_for(lambda: receiver.in_flight() == 1, "the request that is on its way")
        taken = pool.submit(receiver.post, body)
        wait_for(lambda: receiver.witness.batches, "a batch in hand")
        receiver.server.refuse()
        refused = httpx.post(f"{receiver.url}/v1/traces", content=body, headers={"Content-Type": PROTOBUF}, timeout=10)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
        stopping = pool.submit(receiver.server.stop)
        late.sendall(body)  # it had come in before: it is in hand, too
        wait_for(lambda: len(receiver.witness.batches) == 2, "the rest of it")
        receiver.witness.release()
        assert taken.result(10).status_code == 200
        assert late.recv(4096).startswith(b"HTTP/1.1 200")
        stopping.result(10)
    with pytest.raises(httpx.TransportError):
        receiver.post(body)


# --- the exporters of the OpenTelemetry SDK ---


@pytest.mark.parametrize("compression", Compression)
def test_the_exporter_of_the_sdk_delivers(receiver: Receiver, compression: Compression) -> None:
    assert receiver.exporter(compression=compression).export(finished("one", "two")) is SpanExportResult.SUCCESS
    one = receiver.witness.batches[0].items[0]
    assert isinstance(one, Span)
    assert receiver.witness.names() == ["one", "two"]
    assert one.resource["telemetry.sdk.language"] == "python"
    assert one.scope == "tests"
    exporter = OTLPLogExporter(f"{receiver.url}/v1/logs", compression=compression)
    assert exporter.export(logged("said")) is LogRecordExportResult.SUCCESS
    (record,) = receiver.witness.batches[1].items
    assert (record.body, record.event_name) == ("said", "gen_ai.choice")


def test_the_metrics_of_the_sdk_are_taken_without_an_error(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{receiver.url}/v1/metrics"), export_interval_millis=60_000)
    provider = MeterProvider([reader])
    provider.get_meter("tests").create_counter("requests").add(1)
    assert provider.force_flush()
    provider.shutdown()
    assert (
        sample(receiver.world.metrics, "modelwatch_ingest_requests_discarded_total", transport="otlp_http") == 2
    )  # the second at its end
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_exporter_sends_again_after_a_refusal_arrives_once(receiver: Receiver, name: str) -> None:
    receiver.witness.faults = [FAULTS[name][0]()]
    assert receiver.exporter().export(finished("one")) is SpanExportResult.SUCCESS
    assert (receiver.witness.seen, receiver.witness.names()) == (2, ["one"])


def test_the_exporter_does_not_send_again_what_was_rejected_in_part(receiver: Receiver) -> None:
    # The SDK makes no wrong ids, so that the bytes of its export are damaged on their way.
    made = ExportTraceServiceRequest.FromString(export("good", "bad").SerializeToString())
    made.resource_spans[0].scope_spans[0].spans[1].span_id = b"short"
    assert receiver.exporter()._client.export(made.SerializeToString()).success
    assert (receiver.witness.seen, receiver.witness.names()) == (1, ["good"])


def test_the_exporter_gives_up_at_once_on_a_wrong_token_and_delivers_with_a_right_one(
    make: Callable[..., Receiver], tokens: Path
) -> None:
    receiver = make(tokens=tokens)
    assert receiver.exporter(headers={"authorization": "Bearer wrong"}).export(finished("one")) is SpanExportResult.FAILURE
    assert receiver.counted("401") == 1
    assert receiver.exporter(headers={"authorization": "Bearer new"}).export(finished("two")) is SpanExportResult.SUCCESS
    assert receiver.witness.names() == ["two"]


def test_a_failed_exporter_is_no_reason_for_the_next_to_fail(receiver: Receiver) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: receiver.exporter().export(finished(f"span {n}")), range(40)))
    assert set(results) == {SpanExportResult.SUCCESS}
    assert sorted(receiver.witness.names()) == sorted(f"span {n}" for n in range(40))


def test_random_bytes_never_make_a_500(receiver: Receiver) -> None:
    for path in ("/v1/traces", "/v1/logs", "/v1/metrics"):
        for content_type in (PROTOBUF, JSON):
            for encoding in ("", "gzip", "deflate"):
                response = receiver.post(os.urandom(500), content_type, path, Content_Encoding=encoding)
                assert response.status_code in (200, 400)
