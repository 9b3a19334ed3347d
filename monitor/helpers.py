"""What runs inside the helper processes: the scorer (row detectors, torch) and the worker (isolated window detectors)."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from detectors import registry
from detectors.contract import (
    Frame,
    NotEnoughData,
    NotEvaluable,
    Outcome,
    Reading,
    Resources,
    Row,
    RowDetector,
    Score,
    WindowDetector,
)
from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.evidently_report import Plan, Rendered, render
from detectors.judging.endpoint import EndpointConfig
from detectors.reader import Reader
from monitor.limits import TooLong, limited


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A detector with its settings, as it crosses a process border."""

    name: str
    settings: str  # JSON, so that equal settings are equal text
    files_hash: str = ""  # of what they name: with another content it is built anew

    def build(self) -> Any:
        detector = registry.load(self.name)
        return detector(detector.Config.model_validate(json.loads(self.settings)))  # type: ignore[call-arg]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    detectors: tuple[DetectorSpec, ...]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """For vectors of texts. The answer is float32 (len(texts), dimension), of unit length."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """Scores by detector, in the order asked for; each list in the order of the rows.

    `device` is what the encoder computed on. `fallback` is True once it left its device for the CPU for lack of memory, and
    `out_of_memory` counts the batches that did not fit since the scorer started.
    """

    scores: Sequence[Sequence[Score]]
    device: str
    seconds: float
    fallback: bool = False
    out_of_memory: int = 0


SCORER_THREADS = 4
"""At most. Python computes in one thread at a time, so more would mostly wait for each other."""


def scorer(setup: Mapping[str, Any], judge: EndpointConfig | None = None) -> Callable[[Any], Any]:
    """`setup` is an `EncoderConfig` as JSON. The encoder loads when the first detector asks for it. `judge` is whom the detector
    `judge` asks: only where it is measured, as the daemon's has a process of its own.

    Detectors score side by side, in a thread for each core and at most `SCORER_THREADS`; one detector is asked by one thread at
    a time. Where there are fewer detectors than cores, the others go to their matrices.
    """
    config = EncoderConfig.model_validate(setup)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(cores, SCORER_THREADS)
    pool = ThreadPoolExecutor(most, thread_name_prefix="score")
    loading = threading.Lock()

    @cache
    def loaded() -> SentenceEncoder:
        return SentenceEncoder(config)

    def encoder() -> SentenceEncoder:
        with loading:
            return loaded()

    @cache
    def loaded_reader() -> Reader:
        return Reader(device=config.device, batch_tokens=config.batch_tokens)

    def reader() -> Reader:
        with loading:
            return loaded_reader()

    resources = Resources(encoder=encoder, reader=reader, judge=judge)

    @cache
    def detector(spec: DetectorSpec) -> RowDetector:
        built: RowDetector = spec.build()
        if callable(load := getattr(built, "load", None)):
            load(resources)
        return built

    def judged(spec: DetectorSpec, rows: Sequence[Row], side_by_side: int) -> list[Score]:
        # Torch keeps the number by thread. It is not imported for this: not every detector needs it.
        if set_threads := getattr(sys.modules.get("torch"), "set_num_threads", None):
            set_threads(max(1, cores // side_by_side))
        return _score(detector, spec, rows)

    def answer(request: ScoreRequest | EmbedRequest) -> Any:
        if isinstance(request, EmbedRequest):
            return encoder().encode(request.texts)
        started = time.monotonic()
        specs = dict.fromkeys(request.detectors)
        side_by_side = min(most, len(specs)) or 1
        asked = {spec: pool.submit(judged, spec, request.rows, side_by_side) for spec in specs}
        scores = [asked[spec].result() for spec in request.detectors]
        seconds = time.monotonic() - started
        models = [load() for load, there in ((encoder, loaded), (reader, loaded_reader)) if there.cache_info().currsize]
        if not models:
            return ScoreAnswer(scores, "cpu", seconds)
        fallback, out_of_memory = any(one.fallback_active for one in models), sum(one.out_of_memory for one in models)
        return ScoreAnswer(scores, models[0].device, seconds, fallback, out_of_memory)

    return answer


def _score(detector: Callable[[DetectorSpec], RowDetector], spec: DetectorSpec, rows: Sequence[Row]) -> list[Score]:
    """The detector's scores; where it raises on the batch, its scores on each row alone."""
    try:
        # Rows of its own: what one detector does to them must not be what the next one reads.
        scores = list(detector(spec).score([{**row, "contexts": [*row["contexts"]]} for row in rows]))
        if len(scores) != len(rows):
            raise ValueError(f"{spec.name} gave {len(scores)} scores for {len(rows)} rows")
        return scores
    except (Exception, SystemExit) as exc:  # what a detector calls off is its own
        if len(rows) > 1:
            return [_score(detector, spec, [row])[0] for row in rows]
        return [Score.failed(type(exc).__name__, error=str(exc)[:500])]


@dataclass(frozen=True, slots=True)
class CompareRequest:
    detector: DetectorSpec
    reference: Frame | None
    current: Frame


@dataclass(frozen=True, slots=True)
class CompareAnswer:
    """Exactly one of a reading and an outcome other than ok, with its reason."""

    reading: Reading | None = None
    outcome: Outcome = Outcome.OK
    reason: str | None = None


def compare(detector: WindowDetector, reference: Any, current: Any) -> CompareAnswer:
    """The detector's word on a window, with the two outcomes that are not failures told apart from the one that is."""
    try:
        reading = detector.compare(reference, current)
        if not isinstance(reading, Reading):
            raise TypeError(f"{detector.name} gave {reading!r:.80}, not a Reading")
        return CompareAnswer(reading)
    except NotEnoughData as exc:
        return CompareAnswer(outcome=Outcome.NOT_ENOUGH_DATA, reason=str(exc)[:500])
    except NotEvaluable as exc:
        return CompareAnswer(outcome=Outcome.NOT_EVALUABLE, reason=str(exc)[:500])


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """For a page of charts. The answer is one, or in words why there is none."""

    plan: Plan
    reference: Frame
    current: Frame
    seconds: float = 120.0
    memory_bytes: int = 3 * 2**30


def worker(setup: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Answers within the limits that a detector sets itself: `timeout_seconds` and `memory_bytes`, where it has them."""

    def answer(request: CompareRequest | ReportRequest) -> CompareAnswer | Rendered | str:
        if isinstance(request, ReportRequest):
            return _rendered(request)
        detector = request.detector.build()
        memory = getattr(detector, "memory_bytes", None)
        try:
            with limited(getattr(detector, "timeout_seconds", None), memory):
                return compare(detector, request.reference, request.current)
        except TooLong as exc:
            return CompareAnswer(outcome=Outcome.FAILED, reason=f"{exc}; lower max_rows or raise timeout_seconds")
        except MemoryError:
            return CompareAnswer(
                outcome=Outcome.FAILED, reason=f"more than {memory} bytes of memory; lower max_rows or raise memory_bytes"
            )

    return answer


def _rendered(request: ReportRequest) -> Rendered | str:
    try:
        with limited(request.seconds, request.memory_bytes):
            return render(request.plan, request.reference, request.current)
    except NotEnoughData as exc:
        return str(exc)
    except TooLong as exc:
        return f"{exc}: there is too much on this page"
    except MemoryError:
        return f"more than {request.memory_bytes} bytes of memory are needed"
    except Exception as exc:  # whatever the libraries below Evidently raise
        return f"Evidently failed: {type(exc).__name__}: {str(exc)[-500:]}"
