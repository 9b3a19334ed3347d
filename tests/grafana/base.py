"""What the parts of the Grafana for tests share: how a request is refused, and where what is strange is noted."""

from __future__ import annotations

import re
from typing import Any

Json = Any
UID = re.compile(r"[A-Za-z0-9_-]{1,40}")


class Answer(Exception):
    """Ends a request with this status and body."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class Refused(Answer):
    def __init__(self, code: int, message: str, **more: Any) -> None:
        super().__init__(code, {"message": message, **more})


class Base:
    def __init__(self) -> None:
        self.strange: list[str] = []
        self._id = 0

    def _odd(self, what: str) -> None:
        self.strange.append(what)

    def _new_id(self) -> int:
        self._id += 1
        return self._id

    def _known(self, what: str, body: Json, fields: set[str]) -> None:
        if unknown := body.keys() - fields:
            self._odd(f"{what}: fields {sorted(unknown)}")
