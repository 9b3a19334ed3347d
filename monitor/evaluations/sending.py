"""One export over the wire, as the OTLP specification has it: over HTTP as protobuf, or over gRPC."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import grpc
import httpx
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

import monitor
from monitor import retryafter
from monitor.clock import Clock, SystemClock
from monitor.evaluations.config import OtlpExport
from monitor.outbox import Later, Never

MOST_BYTES = 2**20  # of an answer
MOST_WAIT = 300.0


class TooLarge(Exception):
    """Fewer events at once may be taken."""


class Sender(Protocol):
    def send(self, export: ExportLogsServiceRequest) -> tuple[int, str]:
        """How many of the events were refused for what they are, and what the receiver says to that.

        Raises:
            TooLarge: the whole, for its size.
            Later: it was not taken, and may be when it is tried again.
            Never: it was refused for what it is, and will be again.
        """
        ...

    def close(self) -> None: ...


class HttpSender:
    """Other than for a body that is no good, every answer is one to try again: a wrong token or path is put right some day, and
    the scores are still there then."""

    def __init__(self, config: OtlpExport, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._url = f"{config.endpoint}/v1/logs"
        headers = {name: secret.get_secret_value() for name, secret in config.headers.items()}
        self._client = httpx.Client(
            timeout=config.timeout_seconds,
            headers={
                **headers,
                "Content-Type": "application/x-protobuf",
                "Content-Encoding": "gzip",
                "User-Agent": f"modelwatch/{monitor.__version__}",
            },
        )

    def send(self, export: ExportLogsServiceRequest) -> tuple[int, str]:
        body = gzip.compress(export.SerializeToString(), 1)
        try:
            with self._client.stream("POST", self._url, content=body) as answer:
                said = b""
                for part in answer.iter_bytes():
                    said += part
                    if len(said) > MOST_BYTES:
                        break
        except httpx.TimeoutException as exc:
            raise Later("timeout", str(exc)) from exc
        except (httpx.HTTPError, httpx.StreamError) as exc:
            raise Later("unreachable", str(exc)) from exc
        status = answer.status_code
        if status == 413:
            raise TooLarge
        if status in (400, 422):
            raise Never("rejected", f"{status}: {said[:200]!r}")
        if not 200 <= status < 300:
            known = {401: "unauthorised", 403: "unauthorised", 404: "not_found", 429: "rate_limited"}
            reason = known.get(status, "server_error" if status >= 500 else "unexpected_answer")
            raise Later(reason, f"{self._url} answered {status}", self._wait(answer.headers.get("Retry-After")))
        try:
            partial = ExportLogsServiceResponse.FromString(said).partial_success
        except DecodeError:
            return 0, ""  # it was taken, by somebody who answers in other words
        return partial.rejected_log_records, partial.error_message

    def _wait(self, retry_after: str | None) -> float | None:
        wait = retryafter.seconds(retry_after, self._clock.now())
        return None if wait is None else min(wait, MOST_WAIT)

    def close(self) -> None:
        self._client.close()


class GrpcSender:
    """Likewise."""

    def __init__(self, config: OtlpExport) -> None:
        parts = urlsplit(config.endpoint)
        target = f"{parts.hostname if ':' not in (parts.hostname or '') else f'[{parts.hostname}]'}:{parts.port or 4317}"
        options = [("grpc.max_receive_message_length", MOST_BYTES)]
        self._channel = (
            grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
            if parts.scheme == "https"
            else grpc.insecure_channel(target, options)
        )
        self._stub = LogsServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._timeout = config.timeout_seconds
        self._metadata = [(name.lower(), secret.get_secret_value()) for name, secret in config.headers.items()]

    def send(self, export: ExportLogsServiceRequest) -> tuple[int, str]:
        try:
            answer = self._stub.Export(export, timeout=self._timeout, metadata=self._metadata, compression=grpc.Compression.Gzip)
        except grpc.RpcError as exc:
            code, words = exc.code(), exc.details() or ""
            if code is grpc.StatusCode.INVALID_ARGUMENT:
                raise Never("rejected", words) from exc
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in words:
                raise TooLarge from exc
            known = {
                grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
                grpc.StatusCode.UNAVAILABLE: "unreachable",
                grpc.StatusCode.UNAUTHENTICATED: "unauthorised",
                grpc.StatusCode.PERMISSION_DENIED: "unauthorised",
                grpc.StatusCode.UNIMPLEMENTED: "not_found",
                grpc.StatusCode.RESOURCE_EXHAUSTED: "rate_limited",
            }
            raise Later(known.get(code, "server_error"), f"{code.name}: {words}") from exc
        return answer.partial_success.rejected_log_records, answer.partial_success.error_message

    def close(self) -> None:
        self._channel.close()


Make = Callable[[OtlpExport], Sender]


def sender(config: OtlpExport) -> Sender:
    return HttpSender(config) if config.protocol == "http" else GrpcSender(config)
