"""Datasources, as pkg/api/datasources.go answers."""

from __future__ import annotations

import re

from tests.grafana.base import Base, Json, Refused

DATASOURCE = {
    "uid", "name", "type", "access", "url", "user", "database", "basicAuth", "basicAuthUser", "withCredentials", "isDefault",
    "jsonData", "secureJsonData", "version",
}  # fmt: skip


class Datasources(Base):
    def __init__(self) -> None:
        super().__init__()
        self.datasources: dict[str, Json] = {}

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
