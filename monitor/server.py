"""The push API: `POST /v1/predictions`, `/v1/labels`, `/v1/generations`, `/v1/contexts`. JSON array, object or NDJSON.

The answer comes after the commit. 200: stored, with what was set aside listed; 422: every record was set aside; 400 and
413: the body as a whole is no good; 429 and 503 with Retry-After: nothing was taken, send it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from monitor import log
from monitor.auth import Tokens
from monitor.clock import Clock
from monitor.config import Server
from monitor.decode import decode
from monitor.errors import BodyRejected, InboxFull, StoreUnavailable
from monitor.inbox import MAX_PAYLOAD, Batch, Inbox
from monitor.metrics import Metrics
from monitor.records import KINDS, Reject

TRANSPORT = "push"
MAX_KEY = 256
START_SECONDS = 10.0
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class PushServer:
    """Uvicorn on a thread of its own, from `start` to `stop`."""

    def __init__(self, config: Server, inbox: Inbox, *, tokens: Tokens, clock: Clock, metrics: Metrics) -> None:
        self._config = config
        self._inbox = inbox
        self.tokens = tokens
        self._clock = clock
        self._metrics = metrics
        self.refusing: str | None = None
        routes = [Route(f"/v1/{kind}", self._endpoint(kind), methods=["POST"]) for kind in KINDS]
        tls = config.tls
        self._server = _Server(
            uvicorn.Config(
                Starlette(routes=routes),
                host=config.host,
                port=config.port,
                http="httptools",
                lifespan="off",
                access_log=False,
                log_config=None,
                timeout_keep_alive=30,
                limit_concurrency=1000,
                ssl_certfile=str(tls.cert_file) if tls else None,
                ssl_keyfile=str(tls.key_file) if tls else None,
            )
        )
        self._thread = threading.Thread(target=self._server.run, name="push", daemon=True)

    @property
    def address(self) -> str:
        host, port = self._server.servers[0].sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """
        Raises:
            OSError: the address cannot be bound.
        """
        self._thread.start()
        if not self._server.bound.wait(START_SECONDS) or not self._server.started:
            raise OSError(f"{self._config.listen}: cannot be bound; is another program listening there?")

    def stop(self, deadline_seconds: float = 5.0) -> None:
        """Refuse what is new, answer what is in hand."""
        self.refusing = "shutting down"
        self._server.should_exit = True
        self._thread.join(deadline_seconds)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join()

    def _endpoint(self, kind: str) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            started = self._clock.monotonic()
            in_flight = self._metrics.in_flight.labels(TRANSPORT)
            in_flight.inc()
            try:
                response = await self._answer(kind, request)
            finally:
                in_flight.dec()
            self._metrics.requests.labels(TRANSPORT, str(response.status_code)).inc()
            self._metrics.request_duration.labels(TRANSPORT).observe(self._clock.monotonic() - started)
            return response

        return endpoint

    async def _answer(self, kind: str, request: Request) -> Response:
        if not self.tokens.allow("ingest", request.headers.get("Authorization")):
            return _problem(401, "unauthorized", "send Authorization: Bearer with a token of the role ingest", CHALLENGE)
        if self.refusing:
            return _problem(503, "unavailable", self.refusing, _later(2))
        try:
            body = await self._body(request)
            batch, unreadable = await run_in_threadpool(self._batch, kind, request, body)
            done = await run_in_threadpool(self._inbox.put, batch)
            answer = await asyncio.wrap_future(done)
            if unreadable:
                raise unreadable
        except BodyRejected as exc:
            return _problem(exc.status, exc.reason, str(exc))
        except InboxFull as exc:
            return _problem(429, "inbox_full", str(exc), _later(exc.retry_after_seconds))
        except StoreUnavailable as exc:
            return _problem(503, "unavailable", str(exc), _later(2))
        except ClientDisconnect:
            return _problem(400, "disconnected", "the client went away before its body was read")
        except Exception as exc:
            log.error("a request failed", exc, kind=kind)
            return _problem(500, "internal", "a fault of the daemon; its log says more")
        shown = answer.as_json()
        nothing = shown["rejected"] and not shown["accepted"] and not shown["duplicates"]
        return JSONResponse(shown, status_code=422 if nothing else 200)

    async def _body(self, request: Request) -> bytes:
        limit = self._config.max_body_bytes
        declared = request.headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) > limit:
            raise BodyRejected(413, "too_large", f"{declared} bytes; server.max_body_bytes is {limit}; send smaller batches")
        pieces: list[bytes] = []
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise BodyRejected(413, "too_large", f"more than {limit} bytes, server.max_body_bytes; send smaller batches")
            pieces.append(piece)
        return b"".join(pieces)

    def _batch(self, kind: str, request: Request, body: bytes) -> tuple[Batch, BodyRejected | None]:
        """The batch and, where the body as a whole cannot be read, why: its beginning is then all there is to keep."""
        encoding = request.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise BodyRejected(415, "bad_encoding", f"Content-Encoding: {encoding} is not taken here; send it plain")
        key = request.headers.get("Idempotency-Key")
        if key is not None and not 0 < len(key) <= MAX_KEY:
            raise BodyRejected(400, "bad_key", f"Idempotency-Key: {len(key)} characters; 1 to {MAX_KEY} are allowed")
        unreadable = None
        try:
            items = decode(body, request.headers.get("Content-Type", "application/json"))
        except BodyRejected as exc:
            unreadable = exc
            items = [Reject(0, exc.reason, str(exc), None, body[:MAX_PAYLOAD].decode(errors="replace"))]
        batch = Batch(
            kind,
            items,
            TRANSPORT,
            model=request.query_params.get("model"),
            key=key,
            body_hash=hashlib.sha256(body).hexdigest() if key else None,
            size=len(body),
        )
        return batch, unreadable


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


def _problem(status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason, "message": message}, status_code=status, headers=headers)


def _later(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}
