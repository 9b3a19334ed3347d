"""What Alertmanager would tell somebody."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from monitor.demo.stack import HOST


class Webhook:
    """Receives notifications from `start` to `stop`."""

    def __init__(self) -> None:
        self.notifications: list[dict[str, Any]] = []  # as they came
        self._received: list[dict[str, Any]] = []
        notifications, received = self.notifications, self._received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                notifications.append(body)
                received.extend(body["alerts"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Not into the test's output."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def told(self, status: str, name: str, **labels: str) -> list[dict[str, Any]]:
        """Notifications of that status ("firing" or "resolved") about alerts with these labels."""
        wanted = {"alertname": name, **labels}
        return [a for a in list(self._received) if a["status"] == status and wanted.items() <= a["labels"].items()]

    def about(self, model: str) -> list[dict[str, Any]]:
        """Notifications, each to one receiver, that name the model."""
        return [n for n in list(self.notifications) if any(a["labels"].get("model") == model for a in n["alerts"])]
