"""What a judge reads of an answer: what local detectors read, and of its attributes and messages what a metric asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from detectors.contract import NotEvaluable
from detectors.judge import Judge
from monitor.inputs import inputs
from monitor.reader import Reader

Work = Mapping[str, Any]


def read(
    reader: Reader, work: Sequence[Work], settings: Mapping[str, Judge.Config]
) -> tuple[list[tuple[Work, dict[str, Any]]], list[Work]]:
    """Each with its row, in their order, and those that cannot be read for now. `settings` by hash."""
    found: list[tuple[Work, dict[str, Any]]] = []
    away: list[Work] = []
    for model in dict.fromkeys(one["model"] for one in work):
        of_model = [one for one in work if one["model"] == model]
        try:
            readable = list(zip(of_model, inputs(reader, model, of_model), strict=True))
        except NotEvaluable:
            readable = []
            for one in of_model:
                try:
                    readable.append((one, inputs(reader, model, [one])[0]))
                except NotEvaluable:
                    away.append(one)
        sources = {hash_: _sources(settings[hash_]) for hash_ in {one["settings_hash"] for one in of_model}}
        if readable and any(sources.values()):
            more = _more(reader, model, readable)
            readable = [(one, {**row, **more.get(row["record_id"], {})}) for one, row in readable]
        found += readable
    return found, away


def _sources(config: Judge.Config) -> set[str]:
    """The fields it reads that are not among the common ones."""
    named = {config.source(argument) for argument in (*config.reads, *config.may_read)}
    return {source for source in named if source == "messages" or source.startswith("attributes.")}


def _more(reader: Reader, model: str, readable: Sequence[tuple[Work, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Attributes and messages by record: those of the record, else of its span, else of what sent it."""
    seqs = sorted({int(work["seq"]) for work, _ in readable})
    ids = sorted({row["record_id"] for _, row in readable})
    times = [row["event_time"] for _, row in readable]
    marks = ", ".join("?" * len(ids))
    generations = reader.source("generations", model, after_seq=seqs[0] - 1)
    second = timedelta(seconds=1)
    spans = reader.source("spans", model, since=min(times) - second, until=max(times) + second)
    attributes: dict[str, dict[str, Any]] = {}
    for span in reader.query(f"SELECT record_id, attributes, resource FROM {spans} WHERE record_id IN ({marks})", ids):
        attributes[span["record_id"]] = {**_object(span["resource"]), **_object(span["attributes"])}
    found: dict[str, dict[str, Any]] = {}
    chosen = ", ".join(map(str, seqs))
    for row in reader.query(f"SELECT record_id, attributes, messages FROM {generations} WHERE seq IN ({chosen})"):
        own = {**attributes.get(row["record_id"], {}), **_object(row["attributes"])}
        found[row["record_id"]] = {"attributes": own, "messages": row["messages"]}
    return found


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
