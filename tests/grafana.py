"""A Grafana for tests: a real HTTP server, written from the documentation of Grafana's HTTP API and held to what its handlers do.

It knows the paths, methods, parameters, headers and fields that the documentation names, and nothing else: whatever else is asked
of it stands in `strange`, and a test that ends with anything there fails. It answers as Grafana does: 404 before a thing is made,
412 with `version-mismatch` where a dashboard has another version by now, 400 "Cannot save provisioned dashboard", 401 without a
token it knows, 403 where the role of the token does not suffice, 409 where a name is taken. `next` holds what happens to the next
requests: nothing special (`pass`), a status, `hang`, `html`, `redirect`, `drop`, which does what was asked and closes before it
answers, or `late`, which closes and does what was asked right after the next annotation is made.

What stays unseen here: a Grafana. Sources: developers/http_api/{annotations,dashboard,dashboard_versions,data_source,folder,
alerting_provisioning}.md and pkg/api/{annotations,dashboard,datasources}.go of grafana/grafana.
"""

from __future__ import annotations

import copy
import json
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Json = Any
TOKENS = {"glsa_admin": "Admin", "glsa_editor": "Editor", "glsa_viewer": "Viewer"}
RANK = {"Viewer": 0, "Editor": 1, "Admin": 2}
UID = re.compile(r"[A-Za-z0-9_-]{1,40}")
DURATION = re.compile(r"(\d+(ms|[smhdwy]))+")
RULE = {
    "uid", "title", "condition", "data", "noDataState", "execErrState", "for", "keep_firing_for", "annotations", "labels",
    "folderUID", "ruleGroup", "orgID", "isPaused", "missingSeriesEvalsToResolve",
}  # fmt: skip
DATASOURCE = {
    "uid", "name", "type", "access", "url", "user", "database", "basicAuth", "basicAuthUser", "withCredentials", "isDefault",
    "jsonData", "secureJsonData", "version",
}  # fmt: skip


class Answer(Exception):
    """Ends a request with this status and body."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class Refused(Answer):
    def __init__(self, code: int, message: str, **more: Any) -> None:
        super().__init__(code, {"message": message, **more})


class GrafanaServer:
    """Serves from `with` to its end, at `url`. `asked` are method and path of what was asked."""

    def __init__(self) -> None:
        self.folders: dict[str, Json] = {}
        self.datasources: dict[str, Json] = {}
        self.dashboards: dict[str, Json] = {}
        self.meta: dict[str, Json] = {}
        self.versions: dict[str, list[Json]] = {}
        self.annotations: list[Json] = []
        self.groups: dict[tuple[str, str], Json] = {}
        self.asked: list[tuple[str, str]] = []
        self.strange: list[str] = []
        self.next: deque[int | str] = deque()
        self.orgs = {1}
        self.prefix = ""
        self.tls: ssl.SSLContext | None = None
        self.migrates = False  # a newer Grafana brings a dashboard to its own schema when it is read
        self._late: list[Callable[[], object]] = []
        self._id = 0
        self._lock = threading.Lock()
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

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self._port}{self.prefix}"

    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.asked if method != "GET"]

    def edited(self, uid: str, change: Callable[[Json], object], by: str = "jo") -> None:
        """What a person does who edits a dashboard and saves it."""
        with self._lock:
            change(self.dashboards[uid])
            self._version(uid, "", by)

    def provisioned(self, uid: str, dashboard: Json) -> None:
        """A dashboard that Grafana read from a file."""
        self.dashboards[uid] = {**dashboard, "id": self._new_id(), "uid": uid, "version": 0}
        self.meta[uid] = {"provisioned": True, "provisionedExternalId": f"{uid}.json", "folderUid": "", "canSave": True}
        self._version(uid, "", "")

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
        data = body.encode() if text else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "text/html; charset=UTF-8" if text else "application/json; charset=UTF-8")
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _odd(self, what: str) -> None:
        self.strange.append(what)

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
            (group, "GET", "Admin", set(), self._get_group),
            (group, "PUT", "Admin", set(), self._put_group),
        ]

    def _new_id(self) -> int:
        self._id += 1
        return self._id

    def _known(self, what: str, body: Json, fields: set[str]) -> None:
        if unknown := body.keys() - fields:
            self._odd(f"{what}: fields {sorted(unknown)}")

    # folders

    def _get_folder(self, uid: str) -> tuple[int, Json]:
        if uid not in self.folders:
            raise Refused(404, "folder not found", status="not-found")
        return 200, self.folders[uid]

    def _post_folder(self, *, body: Json) -> tuple[int, Json]:
        self._known("folder", body, {"uid", "title", "parentUid"})
        uid, title = body.get("uid") or f"f{self._new_id()}", body.get("title")
        if not title:
            raise Refused(400, "folder title cannot be empty")
        if not UID.fullmatch(uid):
            raise Refused(400, "uid contains illegal characters")
        if uid in self.folders or any(one["title"] == title for one in self.folders.values()):
            raise Refused(409, "a folder with the same name already exists in the current location")
        self.folders[uid] = {"id": self._new_id(), "uid": uid, "title": title, "url": f"/dashboards/f/{uid}/", "version": 1}
        return 200, self.folders[uid]

    # datasources

    def _get_datasource(self, uid: str) -> tuple[int, Json]:
        if uid not in self.datasources:
            raise Refused(404, "Data source not found")
        return 200, {key: value for key, value in self.datasources[uid].items() if key != "secureJsonData"}

    def _post_datasource(self, *, body: Json) -> tuple[int, Json]:
        self._check_datasource(body)
        if any(one["name"] == body["name"] or one["uid"] == body.get("uid") for one in self.datasources.values()):
            raise Refused(409, "data source with the same name already exists")
        uid = body.get("uid") or f"d{self._new_id()}"
        made = {
            "basicAuth": False, "isDefault": False, "jsonData": {}, "user": "", "database": "", "withCredentials": False,
            "readOnly": False, **body, "id": self._new_id(), "uid": uid, "orgId": 1, "version": 1,
        }  # fmt: skip
        made["secureJsonFields"] = dict.fromkeys(body.get("secureJsonData", {}), True)
        self.datasources[uid] = made
        return 200, {"datasource": made, "id": made["id"], "message": "Datasource added", "name": made["name"]}

    def _put_datasource(self, uid: str, *, body: Json) -> tuple[int, Json]:
        self._check_datasource(body)
        if uid not in self.datasources:
            raise Refused(404, "Data source not found")
        there = self.datasources[uid]
        if there["readOnly"]:
            raise Refused(403, "Cannot update read-only data source")
        if body.get("version", 0) and body["version"] != there["version"]:
            raise Refused(409, "Datasource has already been updated by someone else. Please reload and try again")
        # All of it is replaced: what is left out of the body is gone. Only secrets stay.
        secrets = there.get("secureJsonData", {}) | body.get("secureJsonData", {})
        blank = {"basicAuth": False, "isDefault": False, "jsonData": {}, "user": "", "database": "", "withCredentials": False}
        kept = {key: there[key] for key in ("id", "orgId", "readOnly")}
        self.datasources[uid] = {**blank, **body, **kept, "uid": body.get("uid") or uid, "version": there["version"] + 1}
        self.datasources[uid] |= {"secureJsonData": secrets, "secureJsonFields": dict.fromkeys(secrets, True)}
        return 200, {"id": there["id"], "message": "Datasource updated", "name": body["name"]}

    def _check_datasource(self, body: Json) -> None:
        self._known("datasource", body, DATASOURCE)
        if not body.get("name") or not body.get("type") or body.get("access") not in ("proxy", "direct"):
            raise Refused(400, "bad request data")
        if not re.match(r"https?://", body.get("url", "")):
            raise Refused(400, "Validation error, invalid URL")

    # dashboards

    def _version(self, uid: str, message: str, by: str) -> None:
        number = self.dashboards[uid]["version"] + 1
        self.dashboards[uid]["version"] = number
        one = {
            "id": self._new_id(), "uid": uid, "version": number, "parentVersion": number - 1, "message": message, "createdBy": by,
            "created": "2026-03-01T12:00:00Z", "data": copy.deepcopy(self.dashboards[uid]),
        }  # fmt: skip
        self.versions.setdefault(uid, []).insert(0, one)

    def _get_dashboard(self, uid: str) -> tuple[int, Json]:
        if uid not in self.dashboards:
            raise Refused(404, "Dashboard not found", status="not-found")
        shown = copy.deepcopy(self.dashboards[uid])
        if self.migrates:
            shown["schemaVersion"] = 42
            for panel in shown.get("panels", []):
                panel.pop("description", None)
        return 200, {"dashboard": shown, "meta": {"slug": uid, "isFolder": False, **self.meta[uid]}}

    def _get_versions(self, uid: str, *, query: Any = None) -> tuple[int, Json]:
        if uid not in self.versions:
            raise Refused(404, "Dashboard not found", status="not-found")
        found = [{k: v for k, v in one.items() if k != "data"} for one in self.versions[uid]]
        found = found[: int((query or {}).get("limit", ["0"])[0]) or None]
        return 200, {"continueToken": "", "versions": found} if self.migrates else found

    def _post_dashboard(self, *, body: Json) -> tuple[int, Json]:
        self._known("dashboards/db", body, {"dashboard", "folderUid", "folderId", "message", "overwrite"})
        dashboard = body.get("dashboard")
        if not isinstance(dashboard, dict):
            raise Refused(400, "bad request data")
        if not dashboard.get("title"):
            raise Refused(400, "Dashboard title cannot be empty", status="empty-name")
        if len(body.get("message") or "") > 500:
            raise Refused(400, "message too long, max 500 characters")
        uid = dashboard.get("uid") or f"u{self._new_id()}"
        if not UID.fullmatch(uid):
            raise Refused(400, "uid contains illegal characters")
        if (folder := body.get("folderUid") or "") and folder not in self.folders:
            raise Refused(400, "folder not found")
        there = self.dashboards.get(uid)
        if dashboard.get("id") and (there is None or there["id"] != dashboard["id"]):
            raise Refused(404, "Dashboard not found", status="not-found")
        if there is not None:
            if self.meta[uid].get("provisioned"):
                raise Refused(400, "Cannot save provisioned dashboard")
            if dashboard.get("version", 0) != there["version"] and not body.get("overwrite"):
                raise Refused(412, "The dashboard has been changed by someone else", status="version-mismatch")
        number, made = (there["version"], there["id"]) if there is not None else (0, self._new_id())
        self.dashboards[uid] = {**copy.deepcopy(dashboard), "id": made, "uid": uid, "version": number}
        self.meta[uid] = {"folderUid": folder, "provisioned": False, "canSave": True}
        self._version(uid, body.get("message") or "", "sa-modelwatch")
        answer = {"id": made, "uid": uid, "url": f"/d/{uid}/x", "status": "success", "version": number + 1, "slug": "x"}
        return 200, {**answer, "folderUid": folder}

    # annotations

    def _get_annotations(self, *, query: Any = None) -> tuple[int, Json]:
        query = query or {}
        wanted, any_of = query.get("tags", []), "true" in query.get("matchAny", [])

        def has(one: Json, tag: str) -> bool:
            return tag in one["tags"] or (":" not in tag and any(mine.split(":")[0] == tag for mine in one["tags"]))

        found = [one for one in self.annotations if not wanted or (any if any_of else all)(has(one, tag) for tag in wanted)]
        found.sort(key=lambda one: (one["time"], one["id"]), reverse=True)
        return 200, found[: int(query.get("limit", ["100"])[0])]

    def _post_annotation(self, *, body: Json) -> tuple[int, Json]:
        self._known("annotation", body, {"dashboardUID", "dashboardId", "panelId", "time", "timeEnd", "tags", "text", "data"})
        if not body.get("text"):
            raise Refused(400, "Failed to save annotation")
        start, end = self._times(body)
        if not start:
            start = end or int(time.time() * 1000)
        end = end or start
        tags = self._tags(body)
        one = {
            "id": self._new_id(), "alertId": 0, "dashboardId": 0, "dashboardUID": None, "panelId": body.get("panelId") or 0,
            "userId": 0, "time": min(start, end), "timeEnd": max(start, end), "text": body["text"], "tags": tags or [],
            "data": {},
        }  # fmt: skip
        self.annotations.append(one)
        return 200, {"message": "Annotation added", "id": one["id"]}

    def _patch_annotation(self, annotation: str, *, body: Json) -> tuple[int, Json]:
        self._known("annotation", body, {"time", "timeEnd", "tags", "text", "data"})
        one = self._annotation(annotation)
        start, end = self._times(body)
        tags = self._tags(body)
        if tags is not None:  # an empty list is a list: it takes the tags away
            one["tags"] = tags
        one["text"] = body.get("text") or one["text"]
        one["time"], one["timeEnd"] = start or one["time"], end or one["timeEnd"]
        return 200, {"message": "Annotation patched"}

    def _delete_annotation(self, annotation: str) -> tuple[int, Json]:
        self.annotations.remove(self._annotation(annotation))
        return 200, {"message": "Annotation deleted"}

    def _annotation(self, annotation: str) -> Json:
        for one in self.annotations:
            if one["id"] == int(annotation):
                return one
        raise Refused(404, "Annotation not found")

    def _times(self, body: Json) -> tuple[int, int]:
        found = [body.get("time") or 0, body.get("timeEnd") or 0]
        if not all(isinstance(one, int) and 0 <= one < 2**63 for one in found):
            raise Refused(400, "bad request data")
        if any(0 < one < 10**11 for one in found):
            self._odd(f"annotation: {found} are no milliseconds of this century")
        return found[0], found[1]

    def _tags(self, body: Json) -> list[str] | None:
        tags = body.get("tags")
        if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
            raise Refused(400, "bad request data")
        if tags is not None and len(json.dumps(tags)) > 500:
            raise Refused(400, f"Tags length ({len(json.dumps(tags))}) exceeds the maximum allowed (500)")
        if any(len(part) > 100 for tag in tags or () for part in tag.split(":", 1)):
            raise Refused(500, "Failed to save annotation")  # the column is as wide
        return tags

    # alert rules

    def _get_group(self, folder: str, group: str) -> tuple[int, Json]:
        if (folder, group) not in self.groups:
            raise Refused(404, "rule group not found")
        return 200, self.groups[folder, group]

    def _put_group(self, folder: str, group: str, *, body: Json) -> tuple[int, Json]:
        self._known("rule group", body, {"title", "folderUid", "interval", "rules"})
        if folder not in self.folders:
            raise Refused(400, "folder does not exist")
        if not isinstance(body.get("interval"), int) or body["interval"] <= 0 or body["interval"] % 10:
            raise Refused(400, "invalid alert rule: interval should be a multiple of 10 seconds")
        elsewhere = [rule for key, one in self.groups.items() if key != (folder, group) for rule in one["rules"]]
        others, uids = {rule["title"] for rule in elsewhere}, {rule["uid"] for rule in elsewhere}
        rules = []
        for rule in body.get("rules", []):
            self._check_rule(rule, folder, group)
            if rule["title"] in others or rule.get("uid") in uids:
                raise Refused(400, "a conflicting alert rule is found: title under the same folder should be unique")
            others.add(rule["title"])
            rules.append({**rule, "id": self._new_id(), "orgID": 1, "updated": "2026-03-01T12:00:00Z", "provenance": "api"})
        self.groups[folder, group] = {"title": group, "folderUid": folder, "interval": body["interval"], "rules": rules}
        return 200, self.groups[folder, group]

    def _check_rule(self, rule: Json, folder: str, group: str) -> None:
        self._known("rule", rule, RULE)

        def wrong(what: str) -> Refused:
            return Refused(400, f"invalid alert rule {rule.get('title')!r}: {what}")

        for name in ("title", "condition", "data", "noDataState", "execErrState", "for"):
            if name not in rule:
                raise wrong(f"{name} is required")
        if not rule["title"] or len(rule["title"]) > 190 or not UID.fullmatch(rule.get("uid", "x")):
            raise wrong("title or uid")
        if rule.get("folderUID", folder) != folder or rule.get("ruleGroup", group) != group:
            raise wrong("belongs to another group")
        if rule["noDataState"] not in ("NoData", "OK", "Alerting", "KeepLast"):
            raise wrong("unknown noDataState")
        if rule["execErrState"] not in ("Error", "OK", "Alerting", "KeepLast"):
            raise wrong("unknown execErrState")
        if not all(DURATION.fullmatch(rule[name]) for name in ("for", "keep_firing_for") if name in rule):
            raise wrong("not a valid duration")
        for name in ("labels", "annotations"):
            if not all(isinstance(one, str) for pair in rule.get(name, {}).items() for one in pair):
                raise wrong(f"{name} are strings")
        if rule["condition"] not in [query["refId"] for query in rule["data"]]:
            raise wrong("condition is none of its queries")
        for query in rule["data"]:
            self._known("query", query, {"refId", "queryType", "relativeTimeRange", "datasourceUid", "model"})
            if query["datasourceUid"] not in {"__expr__", *self.datasources}:
                raise wrong("data source not found")
            span = query.get("relativeTimeRange", {"from": 0, "to": 0})
            if query["datasourceUid"] != "__expr__" and not span["from"] > span["to"] >= 0:
                raise wrong("invalid relative time range")
