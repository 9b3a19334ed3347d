"""RAG traces a second through the detectors of tier 0 as shipped, beside plain SentenceTransformer.encode of the same texts.

A trace is a question, five passages of 1,500 characters and an answer of eight sentences, all real, in the batches that the
daemon sends. Once in this process, once through the scorer process and its pipe, as the daemon has it. The plain side encodes
question, passages and sentences of the answer in one call with default settings; it gives vectors and no scores. Every repeat
starts with empty caches, and no text comes twice but sentences of passages that stand in several traces.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import psutil
from prometheus_client import CollectorRegistry

from detectors import registry, static, support
from detectors.contract import Outcome
from detectors.modelfolder import find_model
from monitor.child import Child
from monitor.clock import SystemClock
from monitor.config import Scoring
from monitor.helpers import DetectorSpec, ScoreAnswer, ScoreRequest, scorer
from monitor.metrics import Metrics
from tests.bench.harness import Options, Row, each, measured
from tests.bench.traces import texts_of, traces

Ask = Callable[[ScoreRequest], ScoreAnswer]
TIER_0 = ("toxicity", "faithfulness", "hallucination", "answer_relevance", "context_relevance", "relevance")
SPECS = tuple(DetectorSpec(name, "{}") for name in TIER_0 if name in registry.SHIPPED)
SETUP = {"device": "cpu"}
WARM = {"record_id": "warm", "question": "Is it warm?", "response": "It is warm.", "contexts": ["It is warm today."]}
TIMEOUT_SECONDS = 600.0


def run(options: Options) -> list[Row]:
    rows = traces(options.data, options.pick(400, 60, 3))
    plain_rows = rows[: options.pick(40, 10, 1)]
    nice = options.pick(Scoring().nice, Scoring().nice, 0)
    stages: dict[str, Counter[str]] = {}
    resident: list[float] = []
    sides: dict[str, Callable[[], float]] = {
        "plain": lambda: len(plain_rows) / plainly([text for row in plain_rows for text in texts_of(row)]),
        "here": lambda: len(rows) / timed(fresh(), rows, stages),
        "child": lambda: len(rows) / through_child(rows, nice, resident),
    }
    turns = list(sides) * options.pick(5, 3, 1)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for name, rate in zip(turns, each(options, turns, "scoring", lambda name: sides[name]()), strict=True):
        found[name].append(rate)
    plain, here, child = (statistics.median(found[name]) for name in ("plain", "here", "child"))
    names = ", ".join(spec.name for spec in SPECS)
    return [
        measured("traces, in process", found["here"], "traces/s", f"{names}; {len(rows)} traces; cpu", better="higher"),
        measured("traces, through the scorer process", found["child"], "traces/s", "niced as in the daemon", better="higher"),
        measured("plain encode of the same texts", found["plain"], "traces/s", f"{len(plain_rows)} traces", better="higher"),
        Row("in process, to plain encode", here / plain, "x", "of medians"),
        Row("through the scorer process, to plain encode", child / plain, "x", "of medians"),
        *(alone(spec, rows) for spec in SPECS),
        *(
            Row(f"- {name}: answered by stage {stage}", 100 * count / sum(counts.values()), "%", "of those with a value")
            for name, counts in stages.items()
            for stage, count in sorted(counts.items())
        ),
        Row("scorer process, resident", max(resident), "MiB", "after all traces"),
    ]


def fresh() -> Ask:
    """A scorer in this process, with nothing in its caches."""
    static.shared.cache_clear()
    support.wording.cache_clear()
    support.stem.cache_clear()
    return scorer(SETUP)


def timed(ask: Ask, rows: Sequence[dict[str, Any]], stages: dict[str, Counter[str]] | None = None) -> float:
    """Seconds for all rows, once everything is loaded. Every trace must have been scored."""
    ask(ScoreRequest(SPECS, [WARM]))
    size = Scoring().batch_records
    started = time.perf_counter()
    answers = [ask(ScoreRequest(SPECS, rows[at : at + size])) for at in range(0, len(rows), size)]
    seconds = time.perf_counter() - started
    for place, spec in enumerate(SPECS):
        scores = [score for answer in answers for score in answer.scores[place]]
        if failed := [score for score in scores if score.outcome is Outcome.FAILED]:
            raise RuntimeError(f"{spec.name} failed on {len(failed)} traces; the first: {failed[0]}")
        if stages is not None:
            stages[spec.name] = Counter(score.stage or "only one" for score in scores if score.outcome is Outcome.OK)
    return seconds


def alone(spec: DetectorSpec, rows: Sequence[dict[str, Any]]) -> Row:
    """Processor time of one detector with nothing in the caches. Other programs do not count, so one run will do."""
    ask, few = fresh(), rows[:100]
    ask(ScoreRequest((spec,), [WARM]))
    before = time.process_time()
    size = Scoring().batch_records
    for at in range(0, len(few), size):
        ask(ScoreRequest((spec,), few[at : at + size]))
    return Row(f"- {spec.name} alone, processor time", (time.process_time() - before) / len(few) * 1e3, "ms/trace")


def through_child(rows: Sequence[dict[str, Any]], nice: int, resident: list[float]) -> float:
    metrics = Metrics(CollectorRegistry())
    child = Child("scorer", "monitor.helpers:scorer", SETUP, nice=nice, clock=SystemClock(), metrics=metrics)
    try:
        seconds = timed(lambda request: child.call(request, TIMEOUT_SECONDS), rows)
        resident.append(psutil.Process(child.pid).memory_info().rss / 2**20)
        return seconds
    finally:
        child.stop()


def plainly(texts: Sequence[str]) -> float:
    from sentence_transformers import SentenceTransformer

    from detectors.embedding import without_progress_bar

    with without_progress_bar():  # its bar of loaded weights would break ours
        model = SentenceTransformer(str(find_model(None)), device="cpu", local_files_only=True)
    model.encode(["It is warm."], show_progress_bar=False)
    started = time.perf_counter()
    model.encode(list(texts), show_progress_bar=False)
    return time.perf_counter() - started
