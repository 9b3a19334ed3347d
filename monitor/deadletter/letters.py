"""The dead letter: what could not be stored or evaluated, with its reason and as much of it as a replay needs."""

from __future__ import annotations

import base64
import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from monitor.decode import decode
from monitor.errors import BodyRejected
from monitor.otlp.spans import revive
from monitor.records import MAX_ID, Reject

if TYPE_CHECKING:
    from monitor.reader import Reader
    from monitor.transaction import Transaction

MAX_PAYLOAD = 2**20
OTLP = ("spans", "logs")


class NotReplayable(Exception):
    """A dead letter from which no record can be made. The message says why, and what to do."""


def set_aside(
    transaction: Transaction,
    rejects: Sequence[Reject],
    *,
    kind: str,
    source: str | Sequence[str],
    model: str | None,
    batch_id: str,
    received_at: datetime,
) -> None:
    """`source`: one for each reject, or one for all. `model`: what stands in for those that name none."""
    payloads = [encode(r.payload) for r in rejects]
    transaction.append(
        "deadletters",
        "",
        {
            "source": source if isinstance(source, str) else list(source),
            "kind": kind,
            "reason": [r.reason for r in rejects],
            "message": [clean(r.message) for r in rejects],
            "record_id": [r.record_id and clean(r.record_id) for r in rejects],
            "record_index": [r.index for r in rejects],
            "monitored_model": [_model(r.payload, model) for r in rejects],
            "payload": [text for _, text, _ in payloads],
            "payload_encoding": [encoding for encoding, _, _ in payloads],
            "payload_bytes": [r.size or size for r, (_, _, size) in zip(rejects, payloads, strict=True)],
            "batch_id": batch_id,
            "received_at": received_at,
        },
    )


def encode(payload: Any) -> tuple[str | None, str | None, int]:
    """Encoding, text cut at `MAX_PAYLOAD`, and the size of the whole. `json` is a record (a span as JSON of its fields), `text`
    and `base64` are what came and could not be read."""
    if payload is None:
        return None, None, 0
    if isinstance(payload, bytes):
        try:
            encoding, text = "text", payload.decode()
        except UnicodeDecodeError:
            return "base64", base64.b64encode(payload[: MAX_PAYLOAD // 4 * 3]).decode(), len(payload)
    else:
        encoding, text = _written(payload)
    whole = text.encode()
    # No half character at the end.
    return encoding, text if len(whole) <= MAX_PAYLOAD else whole[:MAX_PAYLOAD].decode(errors="ignore"), len(whole)


def _written(payload: Any) -> tuple[str, str]:
    if isinstance(payload, str):
        return "text", clean(payload)
    for dumps in (lambda value: orjson.dumps(value).decode(), json.dumps):  # the second goes deeper
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            return "json", dumps(payload)
    with contextlib.suppress(RecursionError):
        return "text", clean(repr(payload))
    return "text", "nested too deep to be shown"


def items(letter: Mapping[str, Any]) -> list[Any]:
    """What the inbox would be handed had the letter come just now: one record, or all of a body that could not be read.

    Raises:
        NotReplayable: see there.
    """
    payload, kind = letter["payload"], letter["kind"]
    if payload is None:
        raise NotReplayable("it was kept without its payload; send the record again from where it came")
    encoding = letter["payload_encoding"]
    came = base64.b64decode(payload) if encoding == "base64" else payload.encode()
    whole, kept = letter["payload_bytes"], len(came)
    if whole is not None and whole > kept:
        raise NotReplayable(f"of its payload of {whole} bytes only {kept} were kept; send the record again from where it came")
    if encoding is None:  # of a store from before version 2
        encoding = "json" if _is_object(payload) else "text"
    try:
        if encoding != "json":
            if found := _read_again(kind, came, encoding):
                return found
            raise NotReplayable("nothing can be read of it")
        record = orjson.loads(payload)
        return [revive(kind, record) if kind in OTLP else record]
    except BodyRejected as exc:
        raise NotReplayable(f"it still cannot be read: {exc}") from exc
    except ValueError as exc:
        raise NotReplayable(f"it is not a record: {exc}") from exc


def open_by_reason(reader: Reader) -> Counter[str]:
    """How many are neither replayed nor dropped."""
    letters: Counter[str] = Counter()
    for sign, kind in ((1, "deadletters"), (-1, "resolutions")):
        for row in reader.query(f"SELECT reason, count(*) AS n FROM {reader.source(kind, '')} GROUP BY reason"):
            letters[row["reason"]] += sign * row["n"]
    return letters


def _read_again(kind: str, body: bytes, encoding: str) -> list[Any]:
    if kind not in OTLP:
        return decode(body)
    from monitor.otlp import wire as otlp

    content_type = otlp.PROTOBUF if encoding == "base64" else otlp.JSON
    return list((otlp.decode_traces if kind == "spans" else otlp.decode_logs)(body, content_type))


def _is_object(payload: str) -> bool:
    try:
        return isinstance(orjson.loads(payload), dict)
    except ValueError:
        return False


def _model(payload: Any, default: str | None) -> str | None:
    named = payload.get("model") if isinstance(payload, dict) else None
    return clean(named)[:MAX_ID] if isinstance(named, str) else default


def clean(text: str) -> str:
    """Text that can be stored: lone surrogates are written out."""
    return text.encode(errors="backslashreplace").decode()
