"""From the start of the process to ready, to the first score, and what it all keeps in memory.

The daemon has a drift check and a faithfulness check, so that both helper processes run and the encoder is loaded. "Ready" is
its own word: records are taken from then on. One answer is sent at once; when its score is in the store, the model is loaded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from tests.bench.daemon import MIB, Daemon
from tests.bench.harness import Options, Row, each, measured

ANSWER = {
    "record_id": "first",
    "model": "bot",
    "question": "How long does the battery last?",
    "response": "The battery lasts ten hours.",
    "contexts": ["A full charge of the battery lasts for ten hours of use."],
}
SCORED_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Run:
    ready: float
    scored: float
    memory: dict[str, float]
    """MiB resident, by process."""


def config(detector: str) -> dict[str, Any]:
    drift = {"detector": "data_drift", "every": "1h", "reference": {"trailing": "7d"}, "threshold": {"upper": 0.5}}
    answers = {"detector": detector, "every": "1h", "threshold": {"upper": 0.2}}
    return {
        "models": [{"name": "shop", "task": "regression"}, {"name": "bot", "task": "llm"}],
        "checks": [{"name": "shop-drift", "model": "shop", **drift}, {"name": "bot-answers", "model": "bot", **answers}],
    }


def run(options: Options) -> list[Row]:
    whole = config(options.pick("faithfulness", "faithfulness", "tests.plugins:Bareness"))
    runs = each(options, [whole] * options.pick(5, 3, 1), "start", lambda whole: one(options.folder, whole))
    memory = {part: [r.memory[part] for r in runs] for part in runs[0].memory}
    return [
        measured("start to ready", [r.ready for r in runs], "s", "files in the page cache"),
        measured("start to the first score", [r.scored for r in runs], "s", "the encoder loaded in the scorer"),
        *(measured(f"resident: {part}", values, "MiB") for part, values in memory.items()),
        measured("resident: all", [sum(r.memory.values()) for r in runs], "MiB", "pages that they share count each time"),
    ]


def one(folder: Path, whole: dict[str, Any]) -> Run:
    with TemporaryDirectory(dir=folder) as place, Daemon(Path(place), whole) as daemon:
        answer = daemon.post("/v1/generations", orjson.dumps([ANSWER]))
        assert answer["accepted"] == 1, answer
        while daemon.scrape().get("modelwatch_detector_evaluations_total", 0.0) < 1:
            if time.monotonic() - daemon.started_at > SCORED_SECONDS:
                raise RuntimeError("the first answer was not scored in time")
            time.sleep(0.05)
        scored = time.monotonic() - daemon.started_at
        memory = {"owner": daemon.resident()}
        # A helper is named by the last word of its command. The first intake process stands for all of them.
        held = {c.cmdline()[-1]: float(c.memory_info().rss) / MIB for c in daemon.process.children()}
        memory |= {"worker": held["worker"], "scorer": held["scorer"], "intake": held["intake-1"]}
        return Run(daemon.ready_seconds, scored, memory)
