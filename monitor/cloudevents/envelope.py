"""The envelope: CloudEvents 1.0 and 0.3 over HTTP, in binary, structured and batch mode."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from monitor.errors import BodyRejected
from monitor.records import Reject

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
VERSIONS = ("1.0", "0.3")
RAW = "data_text"  # in a dead letter, the data of an event in binary mode as it came; no attribute has such a name


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    type: str
    source: str
    attributes: Mapping[str, str]  # all of them, extensions included
    data: Any  # decoded JSON


def read(headers: Mapping[str, str], body: bytes) -> list[Event | Reject]:
    """The events of a request in order, a `Reject` where one is no good. Names in `headers` are lower case, or do not care.

    Raises:
        BodyRejected: 400, when there is no event in it.
    """
    content_type = headers.get("content-type", "")
    base = content_type.partition(";")[0].strip().lower()
    if base in (STRUCTURED, BATCH):
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise BodyRejected(400, "bad_json", f"the body is not JSON: {exc}; it says it is {base}") from exc
        if isinstance(found, list) != (base == BATCH):
            raise BodyRejected(400, "bad_json", f"{base} is {'an array of events' if base == BATCH else 'one event'}")
        return [structured(index, one) for index, one in enumerate(found if base == BATCH else [found])]
    attributes = {name.lower()[3:]: unquote(value) for name, value in headers.items() if name.lower().startswith("ce-")}
    if not attributes:
        raise BodyRejected(400, "bad_json", f"no CloudEvent: neither ce- headers nor a Content-Type of {STRUCTURED} or {BATCH}")
    attributes["datacontenttype"] = content_type
    # In the dead letter its data is worth nothing without what it belongs to.
    return [event(0, attributes, body, {**attributes, RAW: body.decode(errors="backslashreplace")})]


def structured(index: int, item: Any) -> Event | Reject:
    """One event in structured mode, or a `Reject` where it is no good."""
    if not isinstance(item, Mapping):
        return Reject(index, "not_an_object", "an event that is no JSON object", None, item)
    attributes = {name: value if isinstance(value, str) else str(value) for name, value in item.items() if name != "data"}
    encoded = attributes.pop("data_base64", None)
    if encoded is None and "data" in item:
        data = item["data"]
        if isinstance(data, str) and "json" in attributes.get("datacontenttype", ""):
            data = data.encode()  # JSON in a string, as some senders have it
        return event(index, attributes, data, item)
    try:
        return event(index, attributes, base64.b64decode(encoded or "", validate=True), item)
    except binascii.Error as exc:
        return Reject(index, "undecodable", f"data_base64 is no base64: {exc}", _id(attributes), item)


def event(index: int, attributes: Mapping[str, str], data: Any, payload: Any) -> Event | Reject:
    """`data`: bytes are JSON. `payload`: what is set aside where the event is no good."""
    missing = [name for name in ("id", "source", "type", "specversion") if not attributes.get(name)]
    if missing:
        return Reject(index, "missing_field", f"an event without {', '.join(missing)}", _id(attributes), payload)
    if attributes["specversion"] not in VERSIONS:
        message = f"specversion: {attributes['specversion']} is none of {', '.join(VERSIONS)}"
        return Reject(index, "undecodable", message, _id(attributes), payload)
    if isinstance(data, bytes):
        try:
            data = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            message = f"data is not JSON: {exc}; {attributes.get('datacontenttype') or 'no content type'}"
            return Reject(index, "bad_json", message, _id(attributes), payload)
    return Event(attributes["id"], attributes["type"], attributes["source"], attributes, data)


def _id(attributes: Mapping[str, str]) -> str | None:
    return attributes.get("id", "")[:256] or None
