"""Folders and dashboards, as pkg/api/folder.go and dashboard.go answer."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

from tests.grafana.base import UID, Base, Json, Refused


class Library(Base):
    def __init__(self) -> None:
        super().__init__()
        self.folders: dict[str, Json] = {}
        self.dashboards: dict[str, Json] = {}
        self.meta: dict[str, Json] = {}
        self.versions: dict[str, list[Json]] = {}
        self.migrates = False  # a newer Grafana brings a dashboard to its own schema when it is read
        self._lock = threading.Lock()

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
