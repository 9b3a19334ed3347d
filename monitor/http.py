"""HTTP as receivers need it: uvicorn on a thread of its own, with a limit on whatever a sender could make grow.

A request that has not come whole after `read_timeout_seconds` is cut off, its head is bounded, connections beyond
`max_connections` get a 503, and the bodies in hand have a budget. Every refusal that may pass says Retry-After.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from monitor.auth import Tokens
from monitor.clock import Clock
from monitor.config import Listener
from monitor.errors import BodyRejected
from monitor.metrics import Metrics
from monitor.otlp.inflate import inflate
from monitor.receiving import DECODERS, Budget, Hold, Trouble, refused, trouble_of, unauthorized

START_SECONDS = 10.0
MAX_HEAD_BYTES = 64 * 2**10
DISCONNECTED = Trouble(400, "disconnected", "the client went away before its body was read")

Work = Callable[[Request, Hold], Awaitable[Response]]


class Receiver(ABC):
    """One listener, from `start` to `stop`. Subclasses say what their paths do and how they speak of trouble."""

    transport: str  # a label value
    fault_status = 500
    max_connections = 1000

    def __init__(
        self, listener: Listener, *, tokens: Tokens, budget: Budget, max_body_bytes: int, read_timeout_seconds: float,
        clock: Clock, metrics: Metrics,
    ) -> None:  # fmt: skip
        self.tokens = tokens
        self.refusing: str | None = None
        self._budget = budget
        self._max_body = max_body_bytes
        self._clock = clock
        self._metrics = metrics
        self._decoders: anyio.CapacityLimiter | None = None
        routes = [Route(path, self._endpoint(work), methods=["POST"]) for path, work in self.paths().items()]
        routes += [Route(path, self._endpoint(work), methods=["GET"]) for path, work in self.pages().items()]
        limits = {"read_timeout": read_timeout_seconds, "max_connections": self.max_connections}
        self._server = HttpServer(listener, Starlette(routes=routes), type("Connection", (_Connection,), limits), self.transport)

    @abstractmethod
    def paths(self) -> Mapping[str, Work]:
        """What to do with a POST, by path."""

    def pages(self) -> Mapping[str, Work]:
        """What to do with a GET, by path."""
        return {}

    @abstractmethod
    def problem(self, request: Request, trouble: Trouble, headers: Mapping[str, str]) -> Response: ...

    def role(self, request: Request) -> str:
        """Whose token it takes."""
        return "ingest"

    @property
    def address(self) -> str:
        return self._server.address

    def start(self) -> None:
        """
        Raises:
            OSError: the address cannot be bound.
        """
        self._server.start()

    def refuse(self, why: str = "shutting down") -> None:
        """From now on whatever comes is told to come again."""
        self.refusing = why

    def stop(self, deadline_seconds: float = 5.0) -> None:
        """Refuse what is new, answer what is in hand."""
        self.refuse()
        self._server.stop(deadline_seconds)

    def _endpoint(self, work: Work) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            started = self._clock.monotonic()
            in_flight = self._metrics.in_flight.labels(self.transport)
            in_flight.inc()
            try:
                response = await self._answer(work, request)
            finally:
                in_flight.dec()
            self._metrics.requests.labels(self.transport, str(response.status_code)).inc()
            self._metrics.request_duration.labels(self.transport).observe(self._clock.monotonic() - started)
            return response

        return endpoint

    async def _answer(self, work: Work, request: Request) -> Response:
        role = self.role(request)
        if not self.tokens.allow(role, request.headers.get("Authorization"), basic=request.method == "GET"):
            return self._trouble(request, unauthorized(role))
        if self.refusing:
            return self._trouble(request, refused(self.refusing))
        with self._budget.hold() as hold:
            try:
                return await work(request, hold)
            except ClientDisconnect:
                return self._trouble(request, DISCONNECTED)
            except asyncio.CancelledError:
                # The deadline of `stop` has passed. Starlette would say 500, on which an exporter drops what it sent.
                return self._trouble(request, refused("shutting down"))
            except Exception as exc:
                return self._trouble(request, trouble_of(exc, self.transport, self.fault_status))

    def _trouble(self, request: Request, trouble: Trouble) -> Response:
        headers = {} if trouble.retry_after is None else {"Retry-After": str(trouble.retry_after)}
        if trouble.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="modelwatch", Bearer' if request.method == "GET" else "Bearer"
        return self.problem(request, trouble, headers)

    async def body(self, request: Request, hold: Hold) -> bytes:
        """The body as sent; `inflated` is for a worker's thread.

        Raises:
            BodyRejected: 413.
            InboxFull: too much is in hand.
            ClientDisconnect: it did not come whole, or not in time.
        """
        limit = self._max_body
        declared = request.headers.get("Content-Length", "")
        if declared.isdigit():
            if int(declared) > limit:
                raise BodyRejected(413, "too_large", f"{declared} bytes; max_body_bytes is {limit}; send smaller batches")
            hold.reach(int(declared))  # before it comes: half of what everybody sends is of no use to anybody
        pieces: list[bytes] = []
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise BodyRejected(413, "too_large", f"more than {limit} bytes, max_body_bytes; send smaller batches")
            hold.reach(size)
            pieces.append(piece)
        return b"".join(pieces)

    def inflated(self, request: Request, body: bytes, hold: Hold) -> bytes:
        """
        Raises:
            BodyRejected: 413, 415, or 400 when it is damaged.
            InboxFull: too much is in hand.
        """
        found = inflate(body, request.headers.get("Content-Encoding", ""), self._max_body)
        if found is not body:
            hold.reach(len(body) + len(found))
        return found

    async def in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        """Decoding and the like, a few at a time."""
        if self._decoders is None:
            self._decoders = anyio.CapacityLimiter(DECODERS)
        return await anyio.to_thread.run_sync(partial(work, *args), limiter=self._decoders)


class HttpServer:
    """Uvicorn on a thread of its own."""

    def __init__(self, listener: Listener, app: Any, connection: type[_Connection], name: str) -> None:
        self._listener = listener
        tls = listener.tls
        self._server = _Server(
            uvicorn.Config(
                app,
                host=listener.host,
                port=listener.port,
                http=connection,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=30,
                ssl_certfile=str(tls.cert_file) if tls else None,
                ssl_keyfile=str(tls.key_file) if tls else None,
            )
        )
        self._thread = threading.Thread(target=self._server.run, name=name, daemon=True)

    @property
    def address(self) -> str:
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        self._thread.start()
        if not self._server.bound.wait(START_SECONDS) or not self._server.started:
            raise OSError(f"{self._listener.listen}: cannot be bound; is another program listening there?")

    def stop(self, deadline_seconds: float) -> None:
        self._server.should_exit = True
        self._thread.join(deadline_seconds)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join()


class _Connection(HttpToolsProtocol):
    """A connection whose sender has so long, and so many bytes of head, for a request. Uvicorn has a limit on neither."""

    read_timeout: float
    max_connections: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._app = self.app
        self._timer: asyncio.TimerHandle | None = None
        self._head = 0  # bytes since the last request ended, while its successor's head is not complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._hurry()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relax()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._hurry()
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._hurry()

    def on_headers_complete(self) -> None:
        self._head = -(2**62)  # what comes now is body
        self.app = self._app if len(self.connections) <= self.max_connections else _too_many
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head = 0
        self._relax()
        super().on_message_complete()

    def _hurry(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.read_timeout, self.transport.abort)

    def _relax(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _too_many(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app for connections beyond the limit."""
    headers = {"Retry-After": "1", "Connection": "close"}
    await Response(b"too many connections\n", 503, headers, "text/plain")(scope, receive, send)


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling, telling when its sockets are bound or could not be."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.bound = threading.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: Any = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # how uvicorn says that the address is taken
            self.should_exit = True
        finally:
            self.bound.set()
