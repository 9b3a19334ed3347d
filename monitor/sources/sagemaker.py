"""SageMaker data capture: one JSON line for each request to an endpoint, with what went in and what came out."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from monitor.cloudevents import inference
from monitor.cloudevents.inference import NoInference, Row
from monitor.sources.mapping import Columns


def predictions(line: Any, columns: Columns) -> list[dict[str, Any]]:
    """The predictions of one captured request: of several instances where a batch was sent.

    The id is the inferenceId, by which SageMaker joins ground truth too, else the eventId.

    Raises:
        NoInference: the line is no capture, or cannot be read.
    """
    if not isinstance(line, Mapping) or not isinstance(line.get("captureData"), Mapping):
        raise NoInference("no captureData; is it a file of SageMaker data capture?")
    data = line["captureData"]
    meta = line.get("eventMetadata") if isinstance(line.get("eventMetadata"), Mapping) else {}
    assert isinstance(meta, Mapping)
    names = columns.columns.get("features", ())
    asked = _side(data.get("endpointInput"), () if isinstance(names, str) else names, question=True)
    answered = _side(data.get("endpointOutput"), (), question=False)
    if not asked and not answered:
        raise NoInference("captureData holds neither endpointInput nor endpointOutput")
    if len(asked) > 1 and len(answered) == 1 and len(answered[0]) == len(asked):
        answered = [{"output": value} for value in answered[0].values()]  # a batch answered in one line of CSV
    record_id = meta.get("inferenceId") or meta.get("eventId")
    custom = meta.get("customAttributes")
    return inference.records(
        asked, answered, columns, record_id=record_id, timestamp=meta.get("inferenceTime"), custom_attributes=custom
    )


def _side(side: Any, names: Sequence[str], *, question: bool) -> list[Row]:
    if side is None:
        return []
    if not isinstance(side, Mapping) or not isinstance(side.get("data"), str):
        raise NoInference("a side of the capture without data")
    text, kind = side["data"], str(side.get("observedContentType", "")).partition(";")[0].strip().lower()
    if side.get("encoding") == "BASE64":
        try:
            text = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as exc:
            raise NoInference(f"{kind or 'data'} in BASE64 is no text: {exc}") from exc
    if side.get("encoding") == "CSV" or kind == "text/csv":
        payload: Any = [inference.cells(line) for line in text.splitlines() if line.strip()]
    elif kind in ("application/jsonlines", "application/jsonlines+json", "application/x-ndjson"):
        payload = [_json(line) for line in text.splitlines() if line.strip()]
        return [row for one in payload for row in (inference.features(one, names) if question else inference.outputs(one))]
    else:
        payload = _json(text)
    return inference.features(payload, names) if question else inference.outputs(payload)


def _json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise NoInference(f"neither CSV nor JSON: {exc}") from exc
