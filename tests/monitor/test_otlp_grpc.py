"""OTLP over gRPC, as exporters need it: codes, RetryInfo, limits."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import SpanExportResult

from monitor.auth import Tokens
from monitor.config import OtlpGrpc, Tls
from monitor.errors import InboxFull, StoreUnavailable
from monitor.inbox import Answer, Batch
from monitor.otlp.exports import SIGNALS
from monitor.otlp.grpc import OtlpGrpcServer
from monitor.receiving import Budget
from tests.monitor.otlp import Witness, export, finished, log_export, logged, of_size
from tests.monitor.support import World, sample, wait_for

TRACES, LOGS, METRICS = (signal.service for signal in SIGNALS)
MIB = 2**20
UNLIMITED = [("grpc.max_send_message_length", -1)]
SECONDS = 30


class Receiver:
    """A receiver before a world's inbox, with a witness in between, and a channel to it."""

    def __init__(self, world: World, tokens: Path | None) -> None:
        self.world = world
        self.witness = Witness(world)
        self.budget = Budget(world.config.server.bodies_bytes)
        self.server = self.another()
        self.server.tokens = Tokens(tokens)
        self.server.start()
        self.channel: Any
        if tls := self.listener.tls:
            self.channel = grpc.secure_channel(self.server.address, grpc.ssl_channel_credentials(tls.cert_file.read_bytes()))
        else:
            self.channel = grpc.insecure_channel(self.server.address, options=UNLIMITED)

    @property
    def listener(self) -> OtlpGrpc:
        found = self.world.config.otlp.grpc
        assert found is not None
        return found

    def another(self, **listener: Any) -> OtlpGrpcServer:
        world = self.world
        return OtlpGrpcServer(
            self.listener.model_copy(update=listener), world.config, self.witness, tokens=Tokens(None), budget=self.budget,
            clock=world.clock, metrics=world.metrics,
        )  # fmt: skip

    def close(self) -> None:
        self.channel.close()
        self.server.stop()

    def call(self, body: bytes, method: str = TRACES, **more: Any) -> bytes:
        answer: bytes = self.channel.unary_unary(method)(body, timeout=SECONDS, **more)
        return answer

    def refusal(self, body: bytes, method: str = TRACES, **more: Any) -> Any:
        with pytest.raises(grpc.RpcError) as refused:
            self.call(body, method, **more)
        return refused.value

    def counted(self, code: str) -> float | None:
        return sample(self.world.metrics, "modelwatch_ingest_requests_total", transport="otlp_grpc", code=code)

    def exporter(self, **settings: Any) -> OTLPSpanExporter:
        return OTLPSpanExporter(self.server.address, insecure=True, **settings)


@pytest.fixture
def make(make_world: Callable[..., World]) -> Iterator[Callable[..., Receiver]]:
    with ExitStack() as stack:

        def make(tokens: Path | None = None, tls: Tls | None = None, **sections: Any) -> Receiver:
            listener = {"listen": "127.0.0.1:0", "tls": tls}
            made = Receiver(make_world(otlp={"grpc": listener, "default_model": "bot"}, **sections), tokens)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def receiver(make: Callable[..., Receiver]) -> Receiver:
    return make()


def delay_of(refused: Any) -> int | None:
    """Seconds of the RetryInfo, where the status has one; both places say the same."""
    trailing = dict(refused.trailing_metadata())
    if "google.rpc.retryinfo-bin" not in trailing:
        assert "grpc-status-details-bin" not in trailing
        return None
    status, retry = Status.FromString(trailing["grpc-status-details-bin"]), RetryInfo()
    assert status.code == refused.code().value[0]
    assert status.details[0].Unpack(retry)
    assert retry == RetryInfo.FromString(trailing["google.rpc.retryinfo-bin"])
    seconds: int = retry.retry_delay.seconds
    return seconds


@pytest.mark.parametrize("compression", (grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate))
def test_an_export_is_answered_once_it_is_taken(receiver: Receiver, compression: grpc.Compression) -> None:
    body = export("one", "two").SerializeToString()
    assert receiver.call(body, compression=compression) == b""
    (batch,) = receiver.witness.batches
    assert receiver.witness.names() == ["one", "two"]
    assert (batch.kind, batch.source, batch.size) == ("spans", "otlp_grpc", len(body))
    assert receiver.counted("OK") == 1
    assert receiver.budget.taken == 0


def test_log_records_and_metrics_have_services_of_their_own(receiver: Receiver) -> None:
    assert receiver.call(log_export("a").SerializeToString(), LOGS) == b""
    assert receiver.witness.bodies() == ["a"]
    assert receiver.call(b"\x0a\x00", METRICS) == b""
    assert sample(receiver.world.metrics, "modelwatch_ingest_requests_discarded_total", transport="otlp_grpc") == 1
    assert len(receiver.witness.batches) == 1


def test_what_is_rejected_is_a_partial_success(receiver: Receiver) -> None:
    made = export("good", "bad")
    made.resource_spans[0].scope_spans[0].spans[1].span_id = b""
    body = made.SerializeToString() + log_export("x" * 300).SerializeToString()
    partial = ExportTraceServiceResponse.FromString(receiver.call(body)).partial_success
    assert partial.rejected_spans == 2
    assert "bad_span_id" in partial.error_message
    assert receiver.witness.names() == ["good"]


# Made anew each time: an exception that has been raised holds on to all that it passed.
FAULTS: dict[str, tuple[Callable[[], Exception], grpc.StatusCode]] = {
    "a full inbox": (lambda: InboxFull("full"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    "a store without space": (lambda: StoreUnavailable("no space"), grpc.StatusCode.UNAVAILABLE),
    "a fault of ours": (lambda: ZeroDivisionError("oops"), grpc.StatusCode.UNAVAILABLE),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_may_pass_says_when_to_come_again(receiver: Receiver, name: str) -> None:
    fault, code = FAULTS[name]
    receiver.witness.faults = [fault()]
    body = export("one").SerializeToString()
    refused = receiver.refusal(body)
    assert refused.code() is code
    assert delay_of(refused) in (1, 2)
    assert "oops" not in refused.details()
    assert receiver.counted(code.name) == 1
    assert receiver.budget.taken == 0
    assert receiver.call(body) == b""


def test_what_cannot_pass_does_not(receiver: Receiver) -> None:
    refused = receiver.refusal(b"hello, world")
    assert (refused.code(), delay_of(refused)) == (grpc.StatusCode.INVALID_ARGUMENT, None)
    assert receiver.world.letters() == [(None, "undecodable")]
    assert receiver.refusal(b"", "/opentelemetry.Nowhere/Export").code() is grpc.StatusCode.UNIMPLEMENTED
    nothing = receiver.channel.stream_unary(TRACES)
    with pytest.raises(grpc.RpcError) as refusal:
        nothing(iter(()), timeout=SECONDS)
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_export_of_20_mib_is_taken_and_one_byte_more_is_not(receiver: Receiver) -> None:
    limit = receiver.world.config.otlp.max_body_bytes
    assert limit == 20 * MIB
    assert receiver.call(of_size(limit).SerializeToString()) == b""
    assert len(receiver.witness.names()) == 20
    larger = of_size(limit + 1).SerializeToString()
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        refused = receiver.refusal(larger, compression=compression)
        assert (refused.code(), delay_of(refused)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
    assert receiver.witness.seen == 1
    wait_for(lambda: receiver.counted("RESOURCE_EXHAUSTED") == 2, "both to be counted as the sender sees them")


def test_a_gzip_bomb_is_refused(receiver: Receiver) -> None:
    refused = receiver.refusal(bytes(200 * MIB), compression=grpc.Compression.Gzip)
    assert (refused.code(), delay_of(refused)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
    assert receiver.witness.batches == []


def test_bodies_in_hand_have_a_budget_over_all_connections(make: Callable[..., Receiver]) -> None:
    receiver = make(server={"bodies_bytes": MIB})
    big = export("big", size=MIB * 3 // 4).SerializeToString()
    receiver.witness.hold()
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(receiver.call, big)
        wait_for(lambda: receiver.witness.batches, "the first in hand")
        refused = receiver.refusal(big)
        assert (refused.code(), delay_of(refused)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1)
        receiver.witness.release()
        assert taken.result(10) == b""
    assert receiver.call(big) == b""
    assert receiver.budget.taken == 0


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("".join(f"{role}:{hashlib.sha256(token).hexdigest()}\n" for role, token in TOKENS))
    return path


TOKENS = (("ingest", b"old"), ("ingest", b"new"), ("query", b"only-looking"))


def test_without_a_token_of_the_role_ingest_nothing_is_taken(make: Callable[..., Receiver], tokens: Path) -> None:
    receiver = make(tokens)
    body = export("one").SerializeToString()
    for metadata in ((), (("authorization", "Bearer only-looking"),), (("authorization", "new"),)):
        refused = receiver.refusal(body, metadata=metadata)
        assert (refused.code(), delay_of(refused)) == (grpc.StatusCode.UNAUTHENTICATED, None)
    assert receiver.witness.seen == 0
    for token in ("old", "new"):
        assert receiver.call(body, metadata=(("authorization", f"Bearer {token}"),)) == b""


def test_with_a_certificate_it_speaks_tls(make: Callable[..., Receiver], tls: Tls) -> None:
    receiver = make(tls=tls)
    assert receiver.call(export("one").SerializeToString()) == b""
    credentials = grpc.ssl_channel_credentials(tls.cert_file.read_bytes())
    exporter = OTLPSpanExporter(f"https://{receiver.server.address}", credentials=credentials)
    assert exporter.export(finished("two")) is SpanExportResult.SUCCESS
    assert receiver.witness.names() == ["one", "two"]


def test_a_sender_that_never_sends_its_message_is_cut_off(make: Callable[..., Receiver]) -> None:
    receiver = make(server={"read_timeout_seconds": 1})
    never = threading.Event()

    def messages() -> Iterator[bytes]:
        never.wait()
        yield b""

    try:
        with pytest.raises(grpc.RpcError) as refused:
            receiver.channel.stream_unary(TRACES)(messages(), timeout=SECONDS)
    finally:
        never.set()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert delay_of(refused.value) == 1
    in_flight = sample(receiver.world.metrics, "modelwatch_ingest_requests_in_flight", transport="otlp_grpc")
    assert in_flight == 0


def test_senders_that_never_send_their_message_do_not_keep_the_others_out_for_longer(make: Callable[..., Receiver]) -> None:
    receiver = make(server={"read_timeout_seconds": 1})
    never = threading.Event()

    def messages() -> Iterator[bytes]:
        never.wait()
        yield b""

    try:
        slow = [receiver.channel.stream_unary(TRACES).future(messages(), timeout=SECONDS) for _ in range(40)]
        assert {call.code() for call in slow} == {grpc.StatusCode.UNAVAILABLE}
        assert receiver.call(export("one").SerializeToString()) == b""
    finally:
        never.set()
    assert receiver.witness.names() == ["one"]


def test_a_sender_that_goes_away_is_counted_and_holds_nothing(receiver: Receiver) -> None:
    receiver.witness.hold()
    call = receiver.channel.unary_unary(TRACES).future(export("one").SerializeToString())
    wait_for(lambda: receiver.witness.batches, "a batch in hand")
    call.cancel()
    wait_for(lambda: receiver.counted("CANCELLED") == 1, "the end of the call")
    assert receiver.budget.taken == 0
    receiver.witness.release()
    assert receiver.call(export("two").SerializeToString()) == b""


def test_an_address_that_is_taken_is_an_error_that_names_it(receiver: Receiver) -> None:
    with pytest.raises(OSError, match=receiver.server.address):
        receiver.another(listen=receiver.server.address).start()


def test_while_it_stops_what_is_in_hand_is_answered_and_what_is_new_is_refused(receiver: Receiver) -> None:
    body = export("one").SerializeToString()
    receiver.witness.hold()
    with ThreadPoolExecutor(2) as pool:
        taken = pool.submit(receiver.call, body)
        wait_for(lambda: receiver.witness.batches, "a batch in hand")
        receiver.server.refuse()
        refused = receiver.refusal(body)
        assert (refused.code(), delay_of(refused)) == (grpc.StatusCode.UNAVAILABLE, 2)
        stopping = pool.submit(receiver.server.stop)
        receiver.witness.release()
        assert taken.result(10) == b""
        stopping.result(10)
    assert receiver.refusal(body).code() is grpc.StatusCode.UNAVAILABLE
    assert len(receiver.witness.batches) == 1


# --- the exporters of the OpenTelemetry SDK ---


@pytest.mark.parametrize("compression", (grpc.Compression.NoCompression, grpc.Compression.Gzip))
def test_the_exporters_of_the_sdk_deliver(receiver: Receiver, compression: grpc.Compression) -> None:
    exporter = receiver.exporter(compression=compression)
    assert exporter.export(finished("one", "two")) is SpanExportResult.SUCCESS
    assert receiver.witness.names() == ["one", "two"]
    logs = OTLPLogExporter(receiver.server.address, insecure=True, compression=compression)
    assert logs.export(logged("said")) is LogRecordExportResult.SUCCESS
    assert receiver.witness.bodies() == ["said"]
    exporter.shutdown()
    logs.shutdown()


def test_the_metrics_of_the_sdk_are_taken_without_an_error(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    exporter = OTLPMetricExporter(receiver.server.address, insecure=True)
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=60_000)])
    provider.get_meter("tests").create_counter("requests").add(1)
    assert provider.force_flush()
    provider.shutdown()
    assert (sample(receiver.world.metrics, "modelwatch_ingest_requests_discarded_total", transport="otlp_grpc") or 0) >= 1
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == []


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_exporter_sends_again_after_a_refusal_arrives_once(receiver: Receiver, name: str) -> None:
    receiver.witness.faults = [FAULTS[name][0]()]
    exporter = receiver.exporter()
    assert exporter.export(finished("one")) is SpanExportResult.SUCCESS
    exporter.shutdown()
    assert (receiver.witness.seen, receiver.witness.names()) == (2, ["one"])


def test_the_exporter_gives_up_at_once_on_a_wrong_token_and_delivers_with_a_right_one(
    make: Callable[..., Receiver], tokens: Path
) -> None:
    receiver = make(tokens)
    wrong, right = (receiver.exporter(headers={"authorization": f"Bearer {token}"}) for token in ("wrong", "new"))
    assert wrong.export(finished("one")) is SpanExportResult.FAILURE
    assert receiver.counted("UNAUTHENTICATED") == 1
    assert right.export(finished("two")) is SpanExportResult.SUCCESS
    assert receiver.witness.names() == ["two"]
    for exporter in (wrong, right):
        exporter.shutdown()


def test_many_exporters_at_once_all_deliver(receiver: Receiver) -> None:
    def send(n: int) -> SpanExportResult:
        exporter = receiver.exporter()
        try:
            return exporter.export(finished(f"span {n}"))
        finally:
            exporter.shutdown()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(40))) == {SpanExportResult.SUCCESS}
    assert sorted(receiver.witness.names()) == sorted(f"span {n}" for n in range(40))


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty settings


def idle(address: str) -> socket.socket:
    """A client that says hello and no more."""
    host, _, port = address.rpartition(":")
    one = socket.create_connection((host, int(port)), timeout=SECONDS)
    one.sendall(PREFACE)
    return one


def once(address: str, body: bytes) -> bytes:
    """An export over a connection of its own."""
    channel: Any
    with grpc.insecure_channel(address) as channel:
        answer: bytes = channel.unary_unary(TRACES)(body, timeout=SECONDS)
    return answer


def test_connections_beyond_the_limit_are_closed_and_make_room_when_they_go(receiver: Receiver) -> None:
    server = receiver.another()
    server.max_connections = 5
    server.start()
    with ExitStack() as stack:
        stack.callback(server.stop)
        held = [stack.enter_context(idle(server.address)) for _ in range(5)]
        assert all(one.recv(9) for one in held), "settings of the server"
        assert [stack.enter_context(idle(server.address)).recv(9) for _ in range(20)] == [b""] * 20
        body = export("one").SerializeToString()
        with pytest.raises(grpc.RpcError) as refused:
            once(server.address, body)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE, "so an exporter sends it again"
        for one in held:
            one.close()

        def taken() -> bool:
            with suppress(grpc.RpcError):
                return once(server.address, body) == b""
            return False

        wait_for(taken, "room for another")
    assert receiver.witness.names() == ["one"]


def test_a_stop_does_not_wait_for_a_body_that_nobody_can_open(receiver: Receiver) -> None:
    begun, end = threading.Event(), threading.Event()

    class Hanging:
        def put(self, batch: Batch, /) -> Future[Answer]:
            begun.set()
            end.wait(SECONDS)
            raise StoreUnavailable("the store is closed")

    server = OtlpGrpcServer(
        receiver.listener, receiver.world.config, Hanging(), tokens=Tokens(None), budget=receiver.budget,
        clock=receiver.world.clock, metrics=receiver.world.metrics,
    )  # fmt: skip
    server.start()
    try:
        with grpc.insecure_channel(server.address) as channel:
            method: Any = channel.unary_unary(TRACES)
            waiting = method.future(export("one").SerializeToString(), timeout=SECONDS)
            assert begun.wait(SECONDS)
            server.stop(deadline_seconds=0.1)
            assert not end.is_set()
            assert waiting.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        end.set()
