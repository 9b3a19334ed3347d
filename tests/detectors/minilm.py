"""The real encoder, loaded once for all tests that need it: it takes seconds."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from detectors.contract import Resources
from detectors.embedding import SentenceEncoder

SAMPLE = Path(__file__).parents[1] / "data" / "faithfulness_sample.jsonl"


@cache
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def resources() -> Resources:
    return Resources(encoder=encoder)


def sample() -> list[dict[str, Any]]:
    """Labelled rows as `score` takes them."""
    rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    return [{**row, "record_id": row["id"], "contexts": row["context"]} for row in rows]
