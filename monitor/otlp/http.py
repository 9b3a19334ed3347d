"""OTLP over HTTP: `POST /v1/traces`, `/v1/logs`, `/v1/metrics`, in protobuf or JSON; gzip, deflate or plain.

The answer comes after the commit and speaks as the request did. 200: durable, with what was rejected under partial
success; 429 and 503 with Retry-After: nothing was taken, send it again; any other status: it would not help. Exporters
drop what gets a 500, so a fault of ours is a 503, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from starlette.requests import Request
from starlette.responses import Response

from monitor.auth import Tokens
from monitor.clock import Clock
from monitor.config import Config, OtlpHttp
from monitor.errors import BodyRejected
from monitor.http import Receiver, Work
from monitor.metrics import Metrics
from monitor.otlp import exports
from monitor.otlp.exports import SIGNALS, Signal
from monitor.otlp.wire import JSON, PROTOBUF, encoding_of
from monitor.receiving import Budget, Hold, Inbox, Trouble

CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    503: Code.UNAVAILABLE,
}


class OtlpHttpServer(Receiver):
    transport = "otlp_http"
    fault_status = 503

    def __init__(
        self, listener: OtlpHttp, config: Config, inbox: Inbox, *, tokens: Tokens, budget: Budget, clock: Clock, metrics: Metrics
    ) -> None:
        self._inbox = inbox
        super().__init__(
            listener,
            tokens=tokens,
            budget=budget,
            max_body_bytes=config.otlp.max_body_bytes,
            read_timeout_seconds=config.server.read_timeout_seconds,
            clock=clock,
            metrics=metrics,
        )

    def paths(self) -> Mapping[str, Work]:
        return {signal.path: partial(self._take, signal) for signal in SIGNALS}

    def problem(self, request: Request, trouble: Trouble, headers: Mapping[str, str]) -> Response:
        status = Status(code=CODES.get(trouble.status, Code.UNKNOWN), message=f"{trouble.reason}: {trouble.message}")
        return self._message(request, status, trouble.status, headers)

    async def _take(self, signal: Signal, request: Request, hold: Hold) -> Response:
        body = await self.body(request, hold)
        taken = await self.in_thread(self._put, signal, request, body, hold)
        message = await exports.answer(signal, taken)
        if signal.kind is None:
            self._metrics.discarded.labels(self.transport).inc()
        return self._message(request, message, 200, {})

    def _put(self, signal: Signal, request: Request, sent: bytes, hold: Hold) -> exports.Put:
        body = self.inflated(request, sent, hold)
        content_type = request.headers.get("Content-Type", "")
        return exports.put(self._inbox, signal, body, content_type, source=self.transport)

    def _message(self, request: Request, message: Message, status: int, headers: Mapping[str, str]) -> Response:
        try:
            encoding = encoding_of(request.headers.get("Content-Type", ""))
        except BodyRejected:
            encoding = PROTOBUF
        content = json_format.MessageToJson(message, indent=None) if encoding == JSON else message.SerializeToString()
        return Response(content, status, dict(headers), encoding)
