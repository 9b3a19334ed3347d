"""OTLP over gRPC: TraceService, LogsService and MetricsService on one port.

OK: durable, with what was rejected under partial success. UNAVAILABLE and RESOURCE_EXHAUSTED with RetryInfo: nothing was
taken, send it again; without RetryInfo, and every other code: it would not help.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from monitor.auth import Tokens
from monitor.clock import Clock
from monitor.config import Config, OtlpGrpc
from monitor.metrics import Metrics
from monitor.otlp import exports
from monitor.otlp.exports import SIGNALS, Signal
from monitor.otlp.wire import PROTOBUF
from monitor.receiving import DECODERS, Budget, Inbox, Trouble, refused, trouble_of, unauthorized

START_SECONDS = 10.0
MAX_CALLS = 1000
RECEIVING = 16
"""Messages that come in at once. How large one is nobody knows before it is there, so the budget for bodies cannot refuse it
in time; the others wait, with the few KB that flow control lets through."""
MAX_METADATA_BYTES = 16 * 2**10
IDLE_MS = 5 * 60 * 1000

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
TOO_MANY = Trouble(429, "too_many_calls", f"{MAX_CALLS} calls are in hand; send it again", 1)
LATE = Trouble(503, "late", "the call's message did not come in time; send it again", 1)

Context = grpc.aio.ServicerContext[Any, Any]


class OtlpGrpcServer:
    """A gRPC server with an event loop on a thread of its own, from `start` to `stop`."""

    transport = "otlp_grpc"
    max_connections = 1000  # one beyond is closed at once, which its client takes for UNAVAILABLE; idle ones cost memory too

    def __init__(
        self, listener: OtlpGrpc, config: Config, inbox: Inbox, *, tokens: Tokens, budget: Budget, clock: Clock, metrics: Metrics
    ) -> None:
        self._listener = listener
        self._inbox = inbox
        self.tokens = tokens
        self.refusing: str | None = None
        self._budget = budget
        self._limit = config.otlp.max_body_bytes
        self._read_timeout = config.server.read_timeout_seconds
        self._clock = clock
        self._metrics = metrics
        self._calls = 0
        self._port = 0
        self._failed: BaseException | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.transport, daemon=True)

    @property
    def address(self) -> str:
        host = self._listener.host
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"

    def start(self) -> None:
        """
        Raises:
            OSError: the address cannot be bound, or the certificate cannot be used.
        """
        self._thread.start()
        if not self._begun.wait(START_SECONDS) or self._failed:
            raise OSError(f"{self._listener.listen}: cannot be bound; is another program listening there?") from self._failed

    def refuse(self, why: str = "shutting down") -> None:
        """From now on whatever comes is told to come again."""
        self.refusing = why

    def stop(self, deadline_seconds: float = 5.0) -> None:
        """Refuse what is new, answer what is in hand."""
        self.refuse()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(partial(self._ending.set_result, deadline_seconds))
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            self._failed = exc
        finally:
            self._begun.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[float] = self._loop.create_future()
        self._receiving = asyncio.Semaphore(RECEIVING)
        self._decoders = ThreadPoolExecutor(DECODERS, "otlp-grpc-decoder")
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._limit),  # before and after it is inflated
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.so_reuseport", 0),  # else a second daemon would share the port, and take half of what comes
                ("grpc.max_connection_idle_ms", IDLE_MS),
                ("grpc.max_allowed_incoming_connections", self.max_connections),
                ("grpc.server_handshake_timeout_ms", self._read_timeout * 1000),
            ]
        )
        server.add_generic_rpc_handlers([_Handler(self)])
        address = self._listener.listen
        if tls := self._listener.tls:
            pair = tls.key_file.read_bytes(), tls.cert_file.read_bytes()
            self._port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            self._port = server.add_insecure_port(address)
        await server.start()
        self._begun.set()
        grace = await self._ending
        await server.stop(grace)
        self._decoders.shutdown(wait=False)  # one that hangs has had its time, and nobody waits for its answer any more

    async def export(self, signal: Signal, requests: AsyncIterator[bytes], context: Context) -> bytes:
        started = self._clock.monotonic()
        in_flight = self._metrics.in_flight.labels(self.transport)
        in_flight.inc()
        self._calls += 1
        code = grpc.StatusCode.UNKNOWN
        trouble = None
        answer = b""
        try:
            with self._budget.hold() as hold:
                answer = await self._take(signal, requests, context, hold)
            code = grpc.StatusCode.OK
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except _Refused as exc:
            trouble = exc.trouble
        except Exception as exc:
            trouble = trouble_of(exc, self.transport, 503)
        finally:  # before the sender hears of it
            code = CODES[trouble.status] if trouble else code
            self._calls -= 1
            in_flight.dec()
            self._metrics.requests.labels(self.transport, code.name).inc()
            self._metrics.request_duration.labels(self.transport).observe(self._clock.monotonic() - started)
        if trouble:
            await _abort(context, code, trouble)
        return answer

    async def _take(self, signal: Signal, requests: AsyncIterator[bytes], context: Context, hold: Any) -> bytes:
        # All this before the message is asked for: what is refused need not come.
        sent = dict(context.invocation_metadata() or ())
        authorization = sent.get("authorization")
        if not self.tokens.allow("ingest", authorization if isinstance(authorization, str) else None):
            raise _Refused(unauthorized())
        if self.refusing:
            raise _Refused(refused(self.refusing))
        if self._calls > MAX_CALLS:
            raise _Refused(TOO_MANY)
        try:
            async with asyncio.timeout(self._read_timeout), self._receiving:
                body = await anext(aiter(requests))
        except TimeoutError:
            raise _Refused(LATE) from None
        except StopAsyncIteration:
            # One that is too long is refused by gRPC itself, before we see it, and looks the same from here.
            why = f"the call has no message, or one of more than {self._limit} bytes (otlp.max_body_bytes)"
            raise _Refused(Trouble(413, "too_large", why)) from None
        hold.reach(len(body))
        work = partial(exports.put, self._inbox, signal, body, PROTOBUF, source=self.transport)
        taken = await self._loop.run_in_executor(self._decoders, work)
        message = await exports.answer(signal, taken)
        if signal.kind is None:
            self._metrics.discarded.labels(self.transport).inc()
        return message.SerializeToString()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: OtlpGrpcServer) -> None:
        self._methods: dict[str, Any] = {
            # A stream on our side, and one message on the sender's: so that it is read when we ask for it, with a deadline.
            signal.service: grpc.stream_unary_rpc_method_handler(partial(server.export, signal))
            for signal in SIGNALS
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)


class _Refused(Exception):
    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.message)
        self.trouble = trouble


async def _abort(context: Context, code: grpc.StatusCode, trouble: Trouble) -> NoReturn:
    message = f"{trouble.reason}: {trouble.message}"
    trailing: tuple[tuple[str, bytes], ...] = ()
    if trouble.retry_after is not None:
        retry = RetryInfo(retry_delay=Duration(seconds=trouble.retry_after))
        details = Packed()
        details.Pack(retry)
        number: int = code.value[0]
        trailing = (
            ("grpc-status-details-bin", Status(code=number, message=message, details=[details]).SerializeToString()),
            ("google.rpc.retryinfo-bin", retry.SerializeToString()),  # where the Python exporter looks
        )
    await context.abort(code, message, trailing)
    raise AssertionError("abort returned")
