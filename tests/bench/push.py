"""Records acknowledged by a real daemon, clients included, while it checkpoints and seals.

Four client processes on the same machine send batches over loopback, each the next one as soon as the last is answered. An
answer comes after the sync of the commit that holds the batch. Nothing is scored: the models have no checks.
"""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.client import MODELS, Form, Kind, Plan, Sent, batch, filled, serve
from tests.bench.daemon import ROOT, Daemon, Watch
from tests.bench.harness import Options, Row, each, measured, percentile

CLIENTS = 4
REQUESTS_APART = 10_000_000  # numbers of requests that one client may use
SAMPLE = ROOT / "tests" / "data" / "faithfulness_sample.jsonl"


@dataclass(frozen=True, slots=True)
class Load:
    about: str
    kind: Kind
    form: Form
    records: int


LOADS = (
    Load("predictions, 30 features, JSON, 500 a request", "predictions", "json", 500),
    Load("predictions, 30 features, NDJSON, 500 a request", "predictions", "ndjson", 500),
    Load("generations, 2 KB with contexts, JSON, 100 a request", "generations", "json", 100),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One load on a fresh daemon."""

    rate: float
    answers: list[float]
    refused: int
    processor: float
    """Seconds of the owner and its intake processes for each record."""
    grown: float
    peak: float
    seals: float
    checkpoints: int
    mean_group: float


def run(options: Options) -> list[Row]:
    seconds = options.pick(30.0, 5.0, 0.3)
    repeats = options.pick(3, 1, 1)
    config = {
        "models": [{"name": MODELS["predictions"], "task": "regression"}, {"name": MODELS["generations"], "task": "llm"}],
        "store": {"seal_seconds": options.pick(5, 2, 1), "tail_seconds": 15},
    }
    rows: list[Row] = []
    for load in LOADS[: options.pick(None, None, 1)]:
        about = f"push: {load.about.partition(' a ')[0]}"
        runs = each(options, [load] * repeats, about, lambda load: one(options.folder, config, load, seconds))
        rows += summary(load, runs)
    return rows


def one(folder: Path, config: dict[str, Any], load: Load, seconds: float) -> Run:
    texts = sample_texts() if load.kind == "generations" else []
    with TemporaryDirectory(dir=folder) as place, Daemon(Path(place), config) as daemon:
        plans = [Plan(daemon.api, load.kind, load.form, load.records, seconds, REQUESTS_APART * i, texts) for i in range(CLIENTS)]
        # The first batch of a model's life makes its columns: that is not what is measured here.
        first = Plan(daemon.api, load.kind, "json", load.records, 0, 0, texts)
        accepted = daemon.post(f"/v1/{load.kind}", filled(load.kind, batch(first, 1), REQUESTS_APART * CLIENTS))["accepted"]
        with Watch(daemon) as watch:
            sent = all_at_once(plans)
        counted = daemon.scrape()
        stored, acknowledged = counted["modelwatch_ingest_records_total"], accepted + sum(s.records for s in sent)
        if stored != acknowledged:
            raise RuntimeError(f"{acknowledged} records were acknowledged and {stored:.0f} counted as stored")
        return Run(
            rate=sum(s.records / s.seconds for s in sent),
            answers=[a for s in sent for a in s.answers],
            refused=sum(s.refused for s in sent),
            processor=watch.processor / sum(s.records for s in sent),
            grown=watch.after - watch.before,
            peak=watch.peak,
            seals=counted.get("modelwatch_seal_segments_total", 0.0),
            checkpoints=watch.checkpoints,
            mean_group=stored / counted["modelwatch_store_commits_total"],
        )


def all_at_once(plans: list[Plan]) -> list[Sent]:
    """Each plan in a process of its own, begun together once all have encoded their batches."""
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in plans]
    processes = [spawn.Process(target=serve, args=(plan, end), daemon=True) for plan, (_, end) in zip(plans, pipes, strict=True)]
    for process, (_, theirs) in zip(processes, pipes, strict=True):
        process.start()
        theirs.close()
    controls = [ours for ours, _ in pipes]
    for control in controls:
        control.recv()
    for control in controls:
        control.send("begin")
    sent = [control.recv() for control in controls]
    for process, control in zip(processes, controls, strict=True):
        control.close()
        process.join()
    return sent


def summary(load: Load, runs: list[Run]) -> list[Row]:
    seals, checkpoints = min(r.seals for r in runs), min(r.checkpoints for r in runs)
    note = f"at least {seals:.0f} seals and {checkpoints} checkpoints a run; {runs[0].mean_group:,.0f} records a commit"
    if refused := sum(r.refused for r in runs):
        note += f"; {refused} requests had to be sent again (429)"

    def answers(share: float) -> list[float]:
        return [percentile(r.answers, share) * 1000 for r in runs]

    return [
        measured(f"{load.about}: acknowledged", [r.rate for r in runs], "records/s", note, better="higher"),
        measured("- answer time, p50", answers(0.5), "ms"),
        measured("- answer time, p99", answers(0.99), "ms"),
        measured("- answer time, longest", answers(1.0), "ms"),
        measured("- processor time a record", [r.processor * 1e6 for r in runs], "µs"),
        measured("- owner's memory, growth", [r.grown for r in runs], "MiB", f"peak {max(r.peak for r in runs):,.0f} MiB"),
    ]


def sample_texts() -> list[str]:
    with SAMPLE.open(encoding="utf-8") as file:
        return [text for line in file for text in json.loads(line)["context"]]
