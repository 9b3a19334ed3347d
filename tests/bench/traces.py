"""RAG traces of real texts: a question, five passages of 1,500 characters, an answer of eight sentences."""

from __future__ import annotations

import gzip
import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

from detectors.claims import sentences, split_claims

SAMPLE = Path(__file__).parents[1] / "data" / "faithfulness_sample.jsonl"
PASSAGES = 5
PASSAGE_CHARACTERS = 1_500
ANSWER_SENTENCES = 8
SEED = 0


def labelled(data: Path | None, most: int) -> list[dict[str, Any]]:
    """Rows of dev in the folder of data sets, where one is given, else the vendored ones."""
    with (
        gzip.open(data / "faithfulness" / "dev.jsonl.gz", "rt", encoding="utf-8")
        if data
        else SAMPLE.open(encoding="utf-8") as file
    ):
        return [json.loads(line) for line in islice(file, most)]


def traces(data: Path | None, most: int) -> list[dict[str, Any]]:
    """Rows as the scorer gets them. The first passages hold a row's own context, the rest is other rows'; of the answer's
    sentences half stand in the passages, and half are answers to this and to other questions."""
    rows = labelled(data, 1_000)
    rng = random.Random(SEED)
    texts = [text for row in rows for text in row["context"] if len(text) > 40]
    answers = [row["response"][span.start : span.end] for row in rows for span in split_claims(row["response"]).spans]
    return [trace(i, rows[i % len(rows)], texts, answers, rng) for i in range(most)]


def trace(number: int, row: dict[str, Any], texts: list[str], answers: list[str], rng: random.Random) -> dict[str, Any]:
    left = [*row["context"], *rng.choices(texts, k=PASSAGES * PASSAGE_CHARACTERS // 40)]
    passages = []
    for _ in range(PASSAGES):
        passage = ""
        while len(passage) < PASSAGE_CHARACTERS:
            passage = f"{passage} {left.pop(0)}".strip()
        passages.append(passage[:PASSAGE_CHARACTERS])
    told = [row["response"], *rng.choices(answers, k=ANSWER_SENTENCES // 2 - 1)]
    told += [passage[span.start : span.end] for passage in passages if (span := next(sentences(passage), None))]
    return {
        "record_id": f"trace-{number}",
        "question": row["question"] or "What is known about it?",
        "response": " ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in told[:ANSWER_SENTENCES]),
        "contexts": passages,
    }


def texts_of(trace: dict[str, Any]) -> list[str]:
    """What an encoder would read of it: the question, each passage, each sentence of the answer."""
    answer = trace["response"]
    return [trace["question"], *trace["contexts"], *(answer[s.start : s.end] for s in split_claims(answer).spans)]
