"""What the demo replays, with event times moved to the last days. Where it is from: README.md beside this file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monitor.demo.build import BAD, FEATURES, GOOD

FOLDER = Path(__file__).parent
REFERENCE = FOLDER / "bike_reference.parquet"
PRODUCTION = FOLDER / "bike_production.parquet"
ANSWERS = FOLDER / "answers.jsonl"

BIKE, BOT = "bike-rental", "support-bot"
FASTER = 168
"""A week is replayed as an hour, so the labels' delay of 48 hours becomes 17 minutes."""
WEEK = timedelta(weeks=1)
BETWEEN_ANSWERS = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records as a client sends them, with one request."""

    kind: str
    model: str
    records: Sequence[dict[str, Any]]


def bike(end: datetime, *, weeks: int | None = None) -> list[Batch]:
    """Predictions day by day, each day followed by the labels that came in on it. The stream ends at `end`.

    `weeks`: only so many from its beginning. It begins with the quarter that the model was fitted on, the reference.
    """
    rows = pa.concat_tables([pq.read_table(REFERENCE), pq.read_table(PRODUCTION)]).to_pylist()
    first: datetime = rows[0]["timestamp"]
    if weeks is not None:
        rows = [row for row in rows if row["timestamp"] < first + weeks * WEEK]
    last: datetime = rows[-1]["timestamp"]

    def moved(when: datetime) -> str:
        return (end - (last - when) / FASTER).isoformat()

    known = iter(groupby(rows, key=lambda row: row["label_available_at"].date()))
    day_of_labels, labels = next(known)
    batches = []
    for day, made in groupby(rows, key=lambda row: row["timestamp"].date()):
        batches.append(Batch("predictions", BIKE, [prediction(row, moved(row["timestamp"])) for row in made]))
        while day_of_labels is not None and day_of_labels <= day:
            came = [label(row, moved(row["label_available_at"])) for row in labels if row["label_available_at"] <= last]
            batches += [Batch("labels", BIKE, came)] if came else []
            day_of_labels, labels = next(known, (None, iter(())))
    return batches


def prediction(row: dict[str, Any], timestamp: str) -> dict[str, Any]:
    features = {name: row[name] for name in FEATURES}
    return {"record_id": row["record_id"], "timestamp": timestamp, "features": features, "prediction": row["prediction"]}


def label(row: dict[str, Any], timestamp: str) -> dict[str, Any]:
    return {"record_id": row["record_id"], "timestamp": timestamp, "label": row["label"]}


def answers(end: datetime, *, each: int | None = None) -> tuple[list[Batch], list[Batch]]:
    """Answers of the good release and of the bad one after it, one a minute, the last at `end`, four to a request.

    `each`: only so many of each release.
    """
    with ANSWERS.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    good, bad = ([row for row in rows if row["prompt_version"] == release][:each] for release in (GOOD, BAD))
    times = [end - n * BETWEEN_ANSWERS for n in reversed(range(len(good) + len(bad)))]
    generations = [generation(row, when) for row, when in zip(good + bad, times, strict=True)]
    return list(_fours(generations[: len(good)])), list(_fours(generations[len(good) :]))


def _fours(generations: Sequence[dict[str, Any]]) -> Iterator[Batch]:
    for start in range(0, len(generations), 4):
        yield Batch("generations", BOT, generations[start : start + 4])


def generation(row: dict[str, Any], when: datetime) -> dict[str, Any]:
    """As a bot would send it: without the human's word on whether it is supported."""
    sent = {name: row[name] for name in ("record_id", "prompt_version", "question", "contexts", "response")}
    return {**sent, "timestamp": when.isoformat(), "prompt_name": "answer-from-passages"}


def now() -> datetime:
    return datetime.now(UTC)
