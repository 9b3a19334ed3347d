"""How well the shipped toxicity heads tell abuse and hate from the rest, on rows they were not trained on."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from detectors.cascade import EVERYWHERE
from detectors.contract import Resources
from detectors.embedding import SentenceEncoder
from detectors.evaluation import Figure, Measured, evaluate
from detectors.toxicity import Toxicity
from detectors.toxicity_head import read_head
from detectors.training.bands import losses

COLUMNS = ("auroc", "average_precision", "tpr", "fpr", "ece")
RESAMPLES = 1_000


def section(path: Path) -> str:
    """The section of RESULTS.md. `path` is dev.jsonl.gz of the labelled texts; the folders `faithfulness` and `prompt_injection`
    beside its own have ordinary answers and prompts."""
    detector, full = Toxicity(), Toxicity()
    resources = Resources(encoder=cache(SentenceEncoder))
    detector.load(resources)
    full.load(resources, replace(read_head(), band=EVERYWHERE))
    rows = read(path)
    started = time.process_time()
    scores = detector.score([{"response": row["text"]} for row in rows])
    seconds = time.process_time() - started
    value = np.array([score.value for score in scores], dtype=np.float64)
    label = np.array([row["label"] == 1 for row in rows])
    found = evaluate(
        label, value, worse="higher", flag=Toxicity.flag, groups=[row["source"] for row in rows], resamples=RESAMPLES
    )
    stages = Counter(score.stage for score in scores)
    closer = np.array([score.value for score in full.score([{"response": row["text"]} for row in rows])], dtype=np.float64)
    source, alone = np.array([row["source"] for row in rows]), np.arange(len(rows)).astype(str)
    lost = losses(label, source, alone, closer, value, draws=RESAMPLES)
    ordinary = ordinary_texts(path.parents[1])
    harmless = detector.score([{"response": text} for text in ordinary])
    flagged = sum(score.value is not None and score.value >= Toxicity.flag for score in harmless)
    asked = sum(score.stage == "minilm" for score in harmless)
    lines = [_row("mean of the sources", None, found.macro), _row("pooled", found.pooled, found.pooled.figures)]
    lines += [_row(name, one, one.figures) for name, one in found.groups.items()]
    head = f"| dev | rows (toxic) | {' | '.join(COLUMNS)} |\n|{' --- |' * (2 + len(COLUMNS))}\n"
    low, high = read_head().band
    loss = "; ".join(f"{name} {mean:.4f} ({least:.4f} to {most:.4f})" for name, (least, mean, most) in lost._asdict().items())
    return (
        "## Quality: toxicity\n\n"
        f"The shipped heads through the detector, flagged at {Toxicity.flag:g}; 95 % intervals by bootstrap over rows. "
        f"MiniLM is asked where the first stage says {low:g} to {high:g}: {100 * stages['minilm'] / len(rows):.1f} % of these. "
        f"{len(rows) / seconds:,.0f} texts a second of processor time. "
        f"AUROC lost against MiniLM for every window, in a paired bootstrap: {loss}.\n\n"
        f"`python -m tests.bench.quality toxicity --data DIR` · {datetime.now(UTC):%Y-%m-%d}\n\n{head}{''.join(lines)}\n"
        f"Of {len(ordinary):,} ordinary answers and prompts {100 * flagged / max(1, len(ordinary)):.2f} % are flagged, "
        f"and MiniLM is asked about {100 * asked / max(1, len(ordinary)):.1f} %.\n\n{left_out()}"
    )


def left_out() -> str:
    """Leave-one-source-out, which takes training: from the card that training wrote."""
    card: dict[str, Any] = json.loads((files("detectors") / "weights" / "toxicity.json").read_text(encoding="utf-8"))
    found = card["leave_one_source_out"]
    head = "| trained without that source (from the card) | AUROC | logistic regression on MiniLM | second stage |\n"
    lines = [
        f"| {name} | {_cell(one['auroc'], one['auroc_95'])} | {_cell(one['plain'], one['plain_95'])} "
        f"| {100 * one['second_stage']:.0f} % |\n"
        for name, one in found["sources"].items()
    ]
    mean = f"| mean | {_cell(found['mean'], found['mean_95'])} | {_cell(found['plain'], found['plain_95'])} | |\n"
    return (
        f"{head}| --- | --- | --- | --- |\n{mean}{''.join(lines)}\nGain of the mean: {_cell(found['gain'], found['gain_95'])}.\n"
    )


def ordinary_texts(data: Path) -> list[str]:
    """Of both dev sets, as far as they are there, what nobody meant to be toxic."""
    found: list[str] = []
    for folder in ("faithfulness", "prompt_injection"):
        if (path := data / folder / "dev.jsonl.gz").exists():
            found += [row.get("response") or row["text"] for row in read(path) if row.get("source") in (None, "halueval_queries")]
    return [text for text in found if text.strip()]


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _row(name: str, rows: Measured | None, figures: dict[str, Figure]) -> str:
    many = f"{rows.rows} ({rows.bad})" if rows else ""
    cells = [_cell(f.value, (f.low, f.high)) if f.value is not None else "-" for f in (figures[c] for c in COLUMNS)]
    return f"| {name} | {many} | {' | '.join(cells)} |\n"


def _cell(value: float, interval: Sequence[float | None]) -> str:
    low, high = interval
    return f"{value:.3f} ({low:.3f}-{high:.3f})"
