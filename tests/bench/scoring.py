"""Answers a second through the faithfulness detector, beside plain SentenceTransformer.encode of the same texts.

Real answers with their passages, in the batches that the daemon sends. Once in this process, once through the scorer process
and its pipe, as the daemon has it. The plain side encodes what the detector would encode, each distinct text once, in one call
with default settings; it gives vectors and no scores. Every repeat starts with an empty cache of vectors.
"""

from __future__ import annotations

import gzip
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from detectors.contract import Outcome, Resources
from detectors.embedding import DEFAULT_NAME, find_model
from detectors.faithfulness import Faithfulness
from monitor.child import Child
from monitor.clock import SystemClock
from monitor.config import Scoring
from monitor.helpers import DetectorSpec, ScoreAnswer, ScoreRequest, scorer
from monitor.metrics import Metrics
from tests.bench.harness import Options, Row, each, measured
from tests.bench.push import SAMPLE

Ask = Callable[[ScoreRequest], ScoreAnswer]
SPEC = DetectorSpec("faithfulness", "{}")
SETUP = {"device": "cpu"}
WARM = {"record_id": "warm", "question": None, "response": "It is warm.", "contexts": ["It is warm today."]}
TIMEOUT_SECONDS = 600.0


def run(options: Options) -> list[Row]:
    rows = read(options.data, options.pick(400, 60, 3))
    texts = encoded_texts(rows)
    nice = options.pick(Scoring().nice, Scoring().nice, 0)
    sides: dict[str, Callable[[], float]] = {
        "plain": lambda: plainly(texts),
        "here": lambda: timed(scorer(SETUP), rows),
        "child": lambda: through_child(rows, nice),
    }
    turns = list(sides) * options.pick(5, 3, 1)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for name, seconds in zip(turns, each(options, turns, "scoring", lambda name: sides[name]()), strict=True):
        found[name].append(seconds)
    plain, here, child = found["plain"], found["here"], found["child"]
    n = len(rows)
    about = f"{n} answers, {len(texts)} distinct texts; cpu"
    return [
        measured("faithfulness, in process", [n / s for s in here], "answers/s", about, better="higher"),
        measured(
            "faithfulness, through the scorer process",
            [n / s for s in child],
            "answers/s",
            "niced as in the daemon",
            better="higher",
        ),
        measured("plain encode of the same texts", [n / s for s in plain], "answers/s", "vectors only", better="higher"),
        Row("faithfulness, in process, to plain encode", middle(plain) / middle(here), "x", "of medians"),
        Row("faithfulness, scorer process, to plain encode", middle(plain) / middle(child), "x", "of medians"),
    ]


def read(data: Path | None, most: int) -> list[dict[str, Any]]:
    """Rows as the scorer gets them: of `dev.jsonl.gz` in the folder, where one is given, else the vendored ones."""
    with gzip.open(data / "dev.jsonl.gz", "rt", encoding="utf-8") if data else SAMPLE.open(encoding="utf-8") as file:
        raw = [json.loads(line) for line in islice(file, most)]
    return [{"record_id": r["id"], "question": r["question"], "response": r["response"], "contexts": r["context"]} for r in raw]


def encoded_texts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the detector hands to its encoder, each text once."""

    class Recorder:
        name = DEFAULT_NAME  # whose vectors the head was trained on; else it warns
        dimension = 8
        seen: list[str] = []  # noqa: RUF012

        def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
            self.seen.extend(texts)
            return np.full((len(texts), self.dimension), self.dimension**-0.5, dtype=np.float32)

    recorder = Recorder()
    detector = Faithfulness()
    detector.load(Resources(encoder=lambda: recorder))
    detector.score(rows)
    return list(dict.fromkeys(recorder.seen))


def timed(ask: Ask, rows: Sequence[dict[str, Any]]) -> float:
    """Seconds for all rows, once everything is loaded. Every answer must have been scored."""
    ask(ScoreRequest((SPEC,), [WARM]))
    size = Scoring().batch_records
    started = time.perf_counter()
    answers = [ask(ScoreRequest((SPEC,), rows[at : at + size])) for at in range(0, len(rows), size)]
    seconds = time.perf_counter() - started
    if failed := [score for a in answers for score in a.scores[0] if score.outcome is Outcome.FAILED]:
        raise RuntimeError(f"{len(failed)} answers could not be scored; the first: {failed[0]}")
    return seconds


def through_child(rows: Sequence[dict[str, Any]], nice: int) -> float:
    metrics = Metrics(CollectorRegistry())
    child = Child("scorer", "monitor.helpers:scorer", SETUP, nice=nice, clock=SystemClock(), metrics=metrics)
    try:
        return timed(lambda request: child.call(request, TIMEOUT_SECONDS), rows)
    finally:
        child.stop()


def plainly(texts: Sequence[str]) -> float:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    quiet: Any = logging
    quiet.disable_progress_bar()  # its bar of loaded weights would break ours
    model = SentenceTransformer(str(find_model(None)), device="cpu", local_files_only=True)
    model.encode(["It is warm."], show_progress_bar=False)
    started = time.perf_counter()
    model.encode(list(texts), show_progress_bar=False)
    return time.perf_counter() - started


def middle(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)
