"""Alert rules, as the provisioning API takes them."""

from __future__ import annotations

import re

from tests.grafana.base import UID, Json, Refused
from tests.grafana.datasources import Datasources
from tests.grafana.library import Library

DURATION = re.compile(r"(\d+(ms|[smhdwy]))+")
RULE = {
    "uid", "title", "condition", "data", "noDataState", "execErrState", "for", "keep_firing_for", "annotations", "labels",
    "folderUID", "ruleGroup", "orgID", "isPaused", "missingSeriesEvalsToResolve",
}  # fmt: skip


class Rules(Library, Datasources):
    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[tuple[str, str], Json] = {}

    def _get_rules(self) -> tuple[int, Json]:
        return 200, [rule for group in self.groups.values() for rule in group["rules"]]

    def _delete_rule(self, uid: str) -> tuple[int, Json]:
        for group in self.groups.values():
            group["rules"] = [rule for rule in group["rules"] if rule["uid"] != uid]
        return 204, None

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
