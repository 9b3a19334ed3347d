"""How well each way tells a made-up answer, out of fold, and whether its probabilities come true."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from detectors.contract import Outcome, Resources
from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.hallucination import Hallucination
from detectors.hallucination_head import read_heads
from detectors.training.hallucination import CLOSED_BOOK, as_row, measured, of_changed, read, tabulate

BOOTSTRAPS = 1_000
EVIDENCE = {
    "context": "answers of dev",
    "samples": "short answers of an LLM of 135M parameters, five samples each",
    "logprobs": "the same answers",
    "turns": "claims of FM2, the evidence standing for an earlier turn",
}


def section(path: Path) -> str:
    """The section of RESULTS.md. `path` is dev.jsonl.gz of `faithfulness`."""
    encoder = SentenceEncoder(EncoderConfig(cache_bytes=2**28))
    dev = read(path)
    tables = tabulate(read(path.with_name("train.jsonl.gz")), dev, read(CLOSED_BOOK), encoder)
    found = {way: measured(way, table, BOOTSTRAPS) for way, table in tables.items()}
    heads = read_heads()
    rows = "".join(
        f"| {way} | {EVIDENCE[way]} | {one['rows']} | {_auroc(one['auroc'])} | {_left_out(one)} | "
        f"{one['calibration_error']:.3f} | {'yes' if heads[way].may_alert else 'no'} |\n"
        for way, one in found.items()
    )
    curve = "".join(f"- {way}: {', '.join(map(_bin, one['reliability']))}\n" for way, one in found.items())
    changed = measured("turns", of_changed(dev), 200)["auroc"]
    detector = Hallucination()
    detector.load(Resources(encoder=lambda: encoder))
    scores = [s for at in range(0, len(dev), 64) for s in detector.score([as_row(row) for row in dev[at : at + 64]])]
    away = sum(score.outcome is not Outcome.OK for score in scores)
    return (
        "## Quality: hallucination\n\n"
        "AUROC of the probability that something is unsupported, by a model that saw nothing of the row's group (out of fold), "
        "as the mean within sources; then by one that saw nothing of its source. A way may alert where the latter, or the former "
        "where there is one source only, is at least 0.65.\n\n"
        f"`python -m tests.bench.quality hallucination --data DIR` · {datetime.now(UTC):%Y-%m-%d}\n\n"
        "| way | labelled answers | n | AUROC (95 %) | without its source (95 %) | ECE | may alert |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        f"{rows}\n"
        f"Of dev's {len(dev)} answers with passages {away / len(dev):.1%} are not evaluable (no claims in them); an answer with "
        "neither passages, samples, log-probabilities nor earlier turns is none for any.\n\n"
        f"`turns` against dev's answers with one fact changed by rule: {_auroc(changed)}, "
        f"{', '.join(f'{name} {value:.3f}' for name, value in changed.items() if name.startswith('contrast_'))}.\n\n"
        "Said → happened (answers), by tenths of the probability, sources and labels weighing equally:\n\n"
        f"{curve}"
    )


def _auroc(one: dict[str, Any]) -> str:
    return f"{one['macro']:.3f} ({one['macro_95'][0]:.3f}-{one['macro_95'][1]:.3f})"


def _bin(one: dict[str, Any]) -> str:
    return f"{one['said']:.2f} → {one['happened']:.2f} ({one['rows']})"


def _left_out(one: dict[str, Any]) -> str:
    return _auroc(one["auroc_leave_one_source_out"]) if "auroc_leave_one_source_out" in one else "one source"
