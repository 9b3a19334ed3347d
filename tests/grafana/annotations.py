"""Annotations, as pkg/api/annotations.go answers."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.grafana.base import Base, Json, Refused


class Annotations(Base):
    def __init__(self) -> None:
        super().__init__()
        self.annotations: list[Json] = []

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
