"""Spans to rows, and traces to calls: processor time of the way in and of settling, in one process without a network.

Every span goes through the real inbox into a real store; then all traces are settled, with sealed segments beside the hot rows.
Traces of one span are those that the load of `otlp` brings; the others are an agent's: ten spans, of which four are calls, one
inside another, two are retrievals and one is a reranker.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import CollectorRegistry

from monitor.clock import SystemClock
from monitor.config import Config
from monitor.inbox import Batch, Inbox
from monitor.metrics import Metrics
from monitor.otlp.spans import Span
from monitor.segments import Sealer
from monitor.settling.settler import Settling
from monitor.store import Store
from tests.bench.harness import Options, Row, each, measured
from tests.bench.push import sample_texts
from tests.monitor.tracing import agent, chat, reranker, retriever, span

BATCH = 512
LATER = timedelta(seconds=60)

Make = Callable[[random.Random, int, Sequence[str]], list[Span]]
"""The spans of a trace, from its number and some texts."""


@dataclass(frozen=True, slots=True)
class Result:
    """Processor seconds, of all threads."""

    spans: int
    traces: int
    taken: float
    settled: float
    lasted: float
    """Seconds that settling took, on the wall."""


def run(options: Options) -> list[Row]:
    spans, repeats = options.pick(50_000, 10_000, 600), options.pick(3, 1, 1)
    rows: list[Row] = []
    loads: list[tuple[str, Make, int]] = [("single spans of 2 KB", single, 1), ("agents of 10 spans", of_agent, 10)]
    for name, make, size in loads:
        runs = each(options, [spans // size] * repeats, f"settle: {name}", partial(one, options.folder, make))
        rows += [
            measured(f"{name}: settled", [r.traces / r.lasted for r in runs], "traces/s", better="higher"),
            measured("- processor time a trace", [r.settled / r.traces * 1e6 for r in runs], "µs", "all threads"),
            measured("- at 5,000 spans a second", [5e3 * r.settled / r.spans * 100 for r in runs], "% of a core"),
            measured("- way in, processor time a span", [r.taken / r.spans * 1e6 for r in runs], "µs", "without decoding"),
        ]
    return rows


class Later(SystemClock):
    """So that every trace is due."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


def one(folder: Path, make: Make, traces: int) -> Result:
    rng, texts = random.Random(0), sample_texts()
    spans = [span for number in range(traces) for span in make(rng, number, texts)]
    with TemporaryDirectory(dir=folder) as place:
        config = Config.model_validate(
            {"models": [{"name": "bot", "task": "llm"}], "store": {"path": place, "min_free_bytes": 0}}
        )
        clock, metrics = Later(), Metrics(CollectorRegistry())
        store = Store(config.store, clock=clock, metrics=metrics, queue_records=10**7, queue_bytes=2**40)
        inbox = Inbox(config, store, clock=clock, metrics=metrics)
        settling = Settling(store, inbox.passages, clock=clock, metrics=metrics)
        sealer = Sealer(store, clock=clock, metrics=metrics, seal_seconds=60, seal_rows=config.store.seal_rows)
        started = time.process_time()
        answers = [inbox.put(Batch("spans", spans[i : i + BATCH], "bench")) for i in range(0, len(spans), BATCH)]
        accepted = sum(answer.result().accepted for answer in answers)
        taken = time.process_time() - started
        if accepted != len(spans):
            raise RuntimeError(f"{len(spans)} spans were sent and {accepted} taken")
        for kind in ("spans", "generations"):
            sealer.seal(kind, "bot")  # up to seal_rows of each: what is looked for lies on both sides
        clock.ahead = LATER
        begun, started = time.perf_counter(), time.process_time()
        settled = 0
        while done := settling.step():
            settled += done
        result = Result(len(spans), settled, taken, time.process_time() - started, time.perf_counter() - begun)
        store.close()
        if settled != traces:
            raise RuntimeError(f"{traces} traces were sent and {settled} settled")
        return result


def single(rng: random.Random, number: int, texts: Sequence[str]) -> list[Span]:
    said = "".join(rng.choices(texts, k=4))[:1500].translate({ord('"'): "'", ord("\\"): " ", ord("\n"): " "})
    return [chat(f"{number}", "call", question=said[:150], response=said[150:])]


def of_agent(rng: random.Random, number: int, texts: Sequence[str]) -> list[Span]:
    name = f"{number}"
    passages = rng.sample(texts, 6)
    return [
        agent(name, "root", end=20),
        chat(name, "plan", "root", 0.1, 0.4),
        retriever(name, "search", *passages, parent="root", start=0.5, end=1),
        retriever(name, "more", *passages[:2], parent="search", start=0.6, end=0.7),
        reranker(name, "rank", *passages[:3], parent="root", start=1, end=1.5),
        chat(name, "client", "root", 2, 9),
        chat(name, "gateway", "client", 2.1, 8),
        span(name, "tool", "root", 10, 11, gen_ai__operation__name="execute_tool"),
        span(name, "http", "tool", 10, 11),
        chat(name, "last", "root", 12, 13, question="and then?"),
    ]
