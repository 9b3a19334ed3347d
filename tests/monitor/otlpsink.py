"""Somebody who takes OTLP logs, over HTTP or gRPC, and answers as told: what the daemon's scores are sent to in tests."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceServicer, add_LogsServiceServicer_to_server
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

PLAIN = {"string_value", "int_value", "double_value", "bool_value"}


def attributes(record: Any) -> dict[str, Any]:
    """Of a log record or a resource."""
    found = {}
    for one in record.attributes:
        kind = one.value.WhichOneof("value")
        assert kind in PLAIN
        found[one.key] = getattr(one.value, kind)
    return found


class Taken:
    def __init__(self) -> None:
        self.exports: list[ExportLogsServiceRequest] = []

    @property
    def records(self) -> list[LogRecord]:
        return [r for e in self.exports for one in e.resource_logs for scope in one.scope_logs for r in scope.log_records]

    @property
    def ids(self) -> list[str]:
        """Which record each event is of, in the order they came."""
        return [attributes(r)["modelwatch.record_id"] for r in self.records]


class HttpSink(Taken):
    """`answer` gives the status, body and headers for an export; what gets a 2xx is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Callable[[ExportLogsServiceRequest], tuple[int, bytes, dict[str, str]]] = lambda export: (200, b"", {})
        self.asked = 0
        self.seen: list[dict[str, str]] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Encoding"] == "gzip"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                export = ExportLogsServiceRequest.FromString(gzip.decompress(body))
                sink.asked += 1
                sink.seen.append(dict(self.headers))
                status, said, more = (404, b"", {}) if self.path != "/v1/logs" else sink.answer(export)
                if 200 <= status < 300:
                    sink.exports.append(export)
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class GrpcSink(Taken):
    """`refuse`: the code and words with which every export is refused while it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse: tuple[grpc.StatusCode, str] | None = None
        self.metadata: list[dict[str, str]] = []
        sink = self

        class Service(LogsServiceServicer):
            def Export(self, request: Any, context: Any) -> ExportLogsServiceResponse:  # noqa: N802
                sink.metadata.append({m.key: m.value for m in context.invocation_metadata()})
                if sink.refuse is not None:
                    context.abort(*sink.refuse)
                sink.exports.append(request)
                return ExportLogsServiceResponse()

        self._server = grpc.server(ThreadPoolExecutor(2))
        add_LogsServiceServicer_to_server(Service(), self._server)  # type: ignore[no-untyped-call]
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait()
