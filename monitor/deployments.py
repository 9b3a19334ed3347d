"""Deployments: what was put into service, when, made of what, approved by whom. By push, or read from a registry."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from monitor.feedback import Keyed, Text
from monitor.fields import Rejected, content_hash, shown, timestamp
from monitor.keys import hash64

EVENTS = ("deployed", "registered", "alias", "stage")
_TEXTS = ("data_hash", "code_commit", "prompt_hash", "approver", "origin", "event", "alias")
_FIELDS = frozenset({*_TEXTS, "record_id", "model", "timestamp", "version"})


def read(item: dict[str, Any], record_id: str, received_at: datetime, text: Text) -> Keyed:
    """`record_id`: its own, or one made of its content.

    Raises:
        Rejected: it cannot be taken.
    """
    version = item.get("version")
    if isinstance(version, int) and not isinstance(version, bool):
        version = str(version)
    if version is None or version == "":
        raise Rejected("missing_field", "version is missing; say what is deployed")
    if not isinstance(version, str):
        raise Rejected("wrong_type", f"version: {shown(version)} is not text")
    values: dict[str, Any] = {name: text(item, name) for name in _TEXTS}
    values["origin"] = values["origin"] or "push"
    values["event"] = values["event"] or EVENTS[0]
    if values["event"] not in EVENTS:
        raise Rejected("wrong_type", f"event: {shown(values['event'])} is none of {', '.join(EVENTS)}")
    extra = {k: v for k, v in item.items() if k not in _FIELDS}
    values |= {
        "record_id": record_id,
        "event_time": timestamp(item.get("timestamp"), received_at),
        "version": text({"version": version}, "version"),
        "attributes": orjson.dumps(extra).decode() if extra else None,
    }
    return hash64(record_id), content_hash(item), values
