"""What detectors read of an exchange beside its texts: other answers to its prompt, log-probabilities of tokens, earlier turns.

Samples are what the sender calls so, else the further choices of the call, else the answers of other calls of the same trace to
the same prompt: that is how one samples without `n`. Calls of other traces are no samples: which of them are stored by then is
chance, and a score must come out the same when it is made again. Of one trace that is not yet so for the first of several calls,
which may be scored before the others are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import orjson

from detectors.ways import choices, tokens_of
from monitor.genai import yamltable
from monitor.genai.dialecttable import FILE
from monitor.genai.messages import parsed
from monitor.reader import Reader

NAMES = frozenset({"messages", "samples", "logprobs"})
"""Keys of a row that are read for those detectors that ask for them."""
COLUMNS = ("messages", "attributes")
CLOCKS = timedelta(seconds=1)
MAX_DEPTH = 12
MAX_SIBLINGS = 200  # calls of a trace that are looked at, by one answer


@cache
def _keys() -> dict[str, list[str]]:
    found: dict[str, list[str]] = yamltable.read(FILE)["exchange"]
    return found


def fill(reader: Reader, model: str, rows: Sequence[dict[str, Any]], wanted: frozenset[str]) -> None:
    """Put into each row, which has `COLUMNS` of its generation, what is wanted of `NAMES`; and take `attributes` out."""
    of_spans = _of_spans(reader, model, rows) if wanted & {"samples", "logprobs"} else {}
    for row in rows:
        row["messages"] = _json(row["messages"])
        attributes = _json(row.pop("attributes"))
        attributes = attributes if isinstance(attributes, dict) else {}
        span = of_spans.get(row["record_id"], {})
        if "samples" in wanted:
            row["samples"] = _texts(attributes.get("samples")) or next(
                (found for key in _keys()["samples"] if (found := _texts(parsed(span.get(key))))), []
            )
        if "logprobs" in wanted:
            row["logprobs"] = attributes.get("logprobs") or next(
                (found for key in _keys()["logprobs"] if (found := logprobs_in(parsed(span.get(key)))) is not None), None
            )
    if "samples" in wanted:
        alone = [row for row in rows if not row["samples"] and len(choices(row["messages"])) < 2 and row["response"]]
        if alone:
            _add_siblings(reader, model, alone)


def logprobs_in(value: Any, depth: int = 0) -> Any:
    """The first log-probabilities inside an answer of an API, as it came; None where there are none."""
    if depth > MAX_DEPTH:
        return None
    if not depth and tokens_of(value, 1) is not None:
        return value
    if isinstance(value, Mapping):
        if (own := value.get("logprobs")) is not None and tokens_of(own, 1) is not None:
            return own
        inside: Iterable[Any] = value.values()
    elif isinstance(value, list):
        inside = value
    else:
        return None
    return next((found for one in inside if (found := logprobs_in(one, depth + 1)) is not None), None)


def _json(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _texts(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str) and one.strip()] if isinstance(value, list) else []


def _of_spans(reader: Reader, model: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Attributes of the spans that generations were made of. A pushed one has none, and attributes of its own."""
    ids = [row["record_id"] for row in rows if row["attributes"] is None]
    if not ids:
        return {}
    times = [row["event_time"] for row in rows]
    spans = reader.source("spans", model, since=min(times) - CLOCKS, until=max(times) + CLOCKS)
    marks = ", ".join("?" * len(ids))
    keys = sorted({key for keys in _keys().values() for key in keys})
    chosen = ", ".join(f"json_extract_string(attributes, '$.\"{key}\"')" for key in keys)
    found = reader.query(f"SELECT record_id, [{chosen}] AS found FROM {spans} WHERE record_id IN ({marks})", ids)
    return {row["record_id"]: dict(zip(keys, row["found"], strict=True)) for row in found}


def _add_siblings(reader: Reader, model: str, rows: Sequence[dict[str, Any]]) -> None:
    """Answers of the other calls that count in the trace of each row, to the same prompt."""
    hashes = sorted({row["trace_hash"] for row in rows if row["trace_hash"] is not None})
    if not hashes:
        return
    marks = ", ".join(str(int(h)) for h in hashes)
    calls, generations = (
        reader.source(kind, model, places=reader.places("traces", kind, model, hashes)) for kind in ("calls", "generations")
    )
    latest = "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1"
    others = reader.query(
        f"SELECT record_id, trace_hash, question, system, response, messages FROM {generations} SEMI JOIN "
        f"(SELECT record_id FROM (SELECT * FROM {calls} WHERE trace_hash IN ({marks}) {latest}) WHERE counted AND NOT failed) "
        f"USING (record_id) WHERE trace_hash IN ({marks}) AND response IS NOT NULL ORDER BY seq "
        f"LIMIT {MAX_SIBLINGS * len(hashes)}"
    )
    by_prompt: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in others:
        by_prompt.setdefault(_prompt(one, _json(one["messages"])), []).append(one)
    for row in rows:
        same = by_prompt.get(_prompt(row, row["messages"]), [])
        row["samples"] = [one["response"] for one in same if one["record_id"] != row["record_id"]]


def _prompt(row: Mapping[str, Any], messages: Any) -> tuple[Any, ...]:
    """What was asked, the whole of it; without a question nothing is asked twice."""
    if row["question"] is None:
        return (row["record_id"],)
    said = messages if isinstance(messages, list) else []
    last = max((i for i, one in enumerate(said) if isinstance(one, Mapping) and one.get("role") != "assistant"), default=-1)
    return row["trace_hash"], row["question"], row["system"], orjson.dumps(said[: last + 1])
