"""`/metrics` and the lifecycle endpoints, on a thread of their own: a busy ingest never makes the daemon look dead."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from monitor import log
from monitor.config import Listener
from monitor.page import encoder

SLOW_CLIENT_SECONDS = 10.0
STOP_SECONDS = 0.1


class Exposition:
    """Serves from `start` to `stop`.

    `ready` gives None, or why records are not taken. `reload` gives None, or why the old config stays. `note` gives what an
    operator should know although records are taken. `broken` gives None, or what only a restart can mend.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self,
        listener: Listener,
        registry: CollectorRegistry,
        *,
        ready: Callable[[], str | None],
        reload: Callable[[], str | None],
        note: Callable[[], str | None] = lambda: None,
        broken: Callable[[], str | None] = lambda: None,
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = SLOW_CLIENT_SECONDS
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                if path == "/metrics":
                    write, content_type = encoder(self.headers.get("Accept", ""))
                    self._answer(200, write(registry), content_type)
                elif path == "/-/healthy":
                    wrong = broken()
                    self._answer(503 if wrong else 200, f"{wrong or 'healthy'}\n".encode())
                elif path == "/-/ready":
                    reason = ready()
                    self._answer(503 if reason else 200, f"{reason or '; '.join(filter(None, ('ready', note())))}\n".encode())
                else:
                    self._answer(404, b"there are /metrics, /-/healthy, /-/ready and, by POST, /-/reload\n")

            def do_POST(self) -> None:
                self.close_connection = True  # nobody reads the body, and the next request must not begin with it
                if urlsplit(self.path).path != "/-/reload":
                    self._answer(404, b"there is /-/reload\n")
                    return
                problem = reload()
                self._answer(500 if problem else 200, f"{problem or 'reloaded'}\n".encode())

            def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                if self.close_connection:
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """A scrape every few seconds is not worth a line."""

        try:
            self._server = _Server((listener.host, listener.port), Handler)
        except OSError as exc:
            raise OSError(f"{listener.listen}: cannot be bound ({exc.strerror}); is another program listening there?") from exc
        if listener.tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(listener.tls.cert_file, listener.tls.key_file)
            # The handshake waits for the first read, on the client's own thread: here it would keep all others waiting.
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(STOP_SECONDS,), name="exposition", daemon=True)

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away or cannot speak TLS is worth a line, not a traceback."""
        log.warning("a request to the metrics address failed", client=client_address[0], error=sys.exception())
