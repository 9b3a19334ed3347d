"""A Grafana for tests: a real HTTP server, written from the documentation of Grafana's HTTP API and held to what its handlers do.

It knows the paths, methods, parameters, headers and fields that the documentation names, and nothing else: whatever else is asked
of it stands in `strange`, and a test that ends with anything there fails. It answers as Grafana does: 404 before a thing is made,
412 with `version-mismatch` where a dashboard has another version by now, 400 "Cannot save provisioned dashboard", 401 without a
token it knows, 403 where the role of the token does not suffice, 409 where a name is taken. `next` holds what happens to the next
requests: nothing special (`pass`), a status, `busy` (429, with 40 s to wait), `hang`, `html`, `redirect`, `drop`, which does what
was asked and closes before it answers, or `late`, which closes and does what was asked right after the next annotation is made.

What stays unseen here: a Grafana. Sources: developers/http_api/{annotations,dashboard,dashboard_versions,data_source,folder,
alerting_provisioning}.md and pkg/api/{annotations,dashboard,datasources}.go of grafana/grafana.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.grafana.annotations import Annotations
from tests.grafana.base import Answer, Json, Refused
from tests.grafana.rules import Rules

TOKENS = {"glsa_admin": "Admin", "glsa_editor": "Editor", "glsa_viewer": "Viewer"}
RANK = {"Viewer": 0, "Editor": 1, "Admin": 2}


class GrafanaServer(Rules, Annotations):
    """Serves from `with` to its end, at `url`. `asked` are method and path of what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []
        self.next: deque[int | str] = deque()
        self.orgs = {1}
        self.prefix = ""
        self.tls: ssl.SSLContext | None = None
        self._open: set[socket.socket] = set()
        self._late: list[Callable[[], object]] = []
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def __enter__(self) -> GrafanaServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Also after `stop`, at the same address."""
        grafana = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                grafana._open.add(self.connection)

            def finish(self) -> None:
                grafana._open.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, OSError):
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return lambda: grafana._serve(self)
                raise AttributeError(name)

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._port = self._server.server_port
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for one in list(self._open):  # a client keeps its connection, and would be answered on
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self._port}{self.prefix}"

    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.asked if method != "GET"]

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        raw = handler.rfile.read(length)
        method, parts = handler.command, urlsplit(handler.path)
        with self._lock:
            event = self.next.popleft() if self.next else None
            self.asked.append((method, handler.path))
        if event == "hang":
            time.sleep(3)  # longer than any client of a test waits
            return
        if isinstance(event, int):
            self._reply(handler, event, {"message": f"status {event} was asked for"})
            return
        if event == "busy":
            self._reply(handler, 429, {"message": "too many requests"}, {"Retry-After": "40"})
            return
        if event == "html":
            self._reply(handler, 200, "<html>sign in</html>")
            return
        if event == "redirect":
            self._reply(handler, 302, "", {"Location": f"{self.url}/login"})
            return
        query = parse_qs(parts.query, keep_blank_values=True)
        if event == "late":
            self._late.append(lambda: self._answer(handler, method, parts.path, query, raw))
            handler.close_connection = True
            handler.connection.close()
            return
        with self._lock:
            try:
                status, body = self._answer(handler, method, parts.path, query, raw)
                if method == "POST" and parts.path.endswith("/annotations"):
                    while self._late:
                        self._late.pop()()
            except Answer as answer:
                status, body = answer.status, answer.body
        if event == "drop":
            handler.close_connection = True
            handler.connection.close()
            return
        self._reply(handler, status, body)

    def _reply(self, handler: BaseHTTPRequestHandler, status: int, body: Json, headers: dict[str, str] | None = None) -> None:
        text = isinstance(body, str)
        data = b"" if status == 204 else body.encode() if text else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html; charset=UTF-8" if text else "application/json; charset=UTF-8")
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _answer(self, handler: Any, method: str, path: str, query: dict[str, list[str]], raw: bytes) -> tuple[int, Json]:
        if not path.startswith(f"{self.prefix}/api/"):
            self._odd(f"{method} {path}")
            raise Refused(404, "Not found")
        path = path.removeprefix(f"{self.prefix}/api")
        role = self._role(handler)
        for pattern, verb, least, parameters, do in self._routes():
            if verb == method and (found := re.fullmatch(pattern, path)):
                if unknown := query.keys() - parameters:
                    self._odd(f"{method} {path}: parameters {sorted(unknown)}")
                body = self._body(handler, method, path, raw)
                if RANK[role] < RANK[least]:
                    raise Refused(
                        403,
                        "You'll need additional permissions to perform this action.",
                        title="Access denied",
                        accessErrorId="ACE1",
                    )
                return do(*[unquote(group) for group in found.groups()], **self._given(query, body))
        self._odd(f"{method} {path}")
        raise Refused(404, "Not found")

    @staticmethod
    def _given(query: dict[str, list[str]], body: Json) -> dict[str, Any]:
        return ({"query": query} if query else {}) | ({"body": body} if body is not None else {})

    def _role(self, handler: Any) -> str:
        kind, _, token = (handler.headers.get("Authorization") or "").partition(" ")
        if kind != "Bearer" or token not in TOKENS:
            raise Refused(401, "Unauthorized", messageId="session.token.notFound", statusCode=401)
        org = handler.headers.get("X-Grafana-Org-Id")
        if org is not None and (not org.isdigit() or int(org) not in self.orgs):
            raise Refused(401, "Unauthorized", messageId="auth.unauthorized", statusCode=401)
        if not (handler.headers.get("User-Agent") or "").startswith("modelwatch"):
            self._odd(f"User-Agent {handler.headers.get('User-Agent')}")
        return TOKENS[token]

    def _body(self, handler: Any, method: str, path: str, raw: bytes) -> Json:
        if method in ("GET", "DELETE"):
            if raw:
                self._odd(f"{method} {path}: has a body")
            return None
        if (handler.headers.get("Content-Type") or "").partition(";")[0] != "application/json":
            self._odd(f"{method} {path}: Content-Type {handler.headers.get('Content-Type')}")
            raise Refused(415, "Unsupported media type")
        try:
            body = json.loads(raw)
        except ValueError:
            raise Refused(400, "bad request data") from None
        if not isinstance(body, dict):
            raise Refused(400, "bad request data")
        return body

    def _routes(self) -> list[tuple[str, str, str, set[str], Callable[..., tuple[int, Json]]]]:
        versions = {"limit", "start"}
        found = {"from", "to", "limit", "alertId", "dashboardId", "dashboardUID", "panelId", "userId", "type", "tags", "matchAny"}
        group = r"/v1/provisioning/folder/([^/]+)/rule-groups/([^/]+)"
        return [
            (r"/folders/([^/]+)", "GET", "Viewer", set(), self._get_folder),
            (r"/folders", "POST", "Editor", set(), self._post_folder),
            (r"/datasources/uid/([^/]+)", "GET", "Admin", set(), self._get_datasource),
            (r"/datasources", "POST", "Admin", set(), self._post_datasource),
            (r"/datasources/uid/([^/]+)", "PUT", "Admin", set(), self._put_datasource),
            (r"/dashboards/uid/([^/]+)", "GET", "Viewer", set(), self._get_dashboard),
            (r"/dashboards/uid/([^/]+)/versions", "GET", "Editor", versions, self._get_versions),
            (r"/dashboards/db", "POST", "Editor", set(), self._post_dashboard),
            (r"/annotations", "GET", "Viewer", found, self._get_annotations),
            (r"/annotations", "POST", "Editor", set(), self._post_annotation),
            (r"/annotations/(\d+)", "PATCH", "Editor", set(), self._patch_annotation),
            (r"/annotations/(\d+)", "DELETE", "Editor", set(), self._delete_annotation),
            (r"/v1/provisioning/alert-rules", "GET", "Admin", set(), self._get_rules),
            (r"/v1/provisioning/alert-rules/([^/]+)", "DELETE", "Admin", set(), self._delete_rule),
            (group, "GET", "Admin", set(), self._get_group),
            (group, "PUT", "Admin", set(), self._put_group),
        ]
