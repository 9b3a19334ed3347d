"""How well answers and passages of a question are told from those of another, by the shipped heads, beside shared keywords."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from detectors.answer_relevance import AnswerRelevance
from detectors.context_relevance import ContextRelevance
from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.relevance import FEATURES, read_heads
from detectors.static import StaticEncoder
from detectors.training.bands import losses
from detectors.training.pairs import read, tabulate
from detectors.training.relevance import MAKE, RULES, calibration_error, cascaded, figures, lead, macro

SEED = 0
BOOTSTRAPS = 1_000
SOURCES = ("begin_cmu", "begin_wow", "factcheck_gpt", "fm2")


def section(path: Path) -> str:
    """The section of RESULTS.md. `path` is dev.jsonl.gz of `faithfulness`."""
    rows, static, encoder = read(path), StaticEncoder(), SentenceEncoder(EncoderConfig(cache_bytes=2**28))
    table, notes = "", ""
    for detector in (AnswerRelevance(), ContextRelevance()):
        pairs, heads = tabulate(MAKE[detector.name](rows, SEED), static, encoder), read_heads(detector.name)
        shipped, first = cascaded(heads, pairs, detector.band), heads.static.probabilities(pairs.first)
        rules = {name: pairs.first[:, list(FEATURES).index(name)] for name in RULES}
        best = max(rules, key=lambda name: macro(pairs, rules[name]))
        scores = {
            "as shipped": shipped,
            "its first stage alone": first,
            "the second for all": heads.minilm.probabilities(pairs.second),
            f"keywords alone ({best})": rules[best],
            "length of the text alone": pairs.first[:, list(FEATURES).index("length")],
        }
        for name, score in scores.items():
            table += _row(f"{detector.name}, {name}", figures(pairs, score, BOOTSTRAPS))
        lost = losses(pairs.relevant, pairs.source, pairs.group, scores["the second for all"], shipped, draws=BOOTSTRAPS)
        low, middle, high = lead(pairs, shipped, rules[best], BOOTSTRAPS)
        notes += (
            f"- `{detector.name}`: {pairs.relevant.sum()} pairs and {(~pairs.relevant).sum()} others, "
            f"{np.mean(shipped != first):.0%} looked at closer; over keywords {middle:.3f} ({low:.3f}-{high:.3f}); "
            f"ECE {calibration_error(pairs, shipped):.3f}; lost against the second stage for all, in a paired bootstrap: "
            f"{'; '.join(f'{kind} {mean:.4f} ({low:.4f} to {high:.4f})' for kind, (low, mean, high) in lost._asdict().items())}\n"
        )
    return (
        "## Quality: relevance\n\n"
        "Dev, real pairs against texts of another group of the same source and of similar length (factcheck_gpt: passages that "
        "people called irrelevant); macro is the mean within sources.\n\n"
        f"`python -m tests.bench.quality relevance --data DIR` · {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"| AUROC | macro (95 %) | pooled (95 %) | {' | '.join(SOURCES)} |\n| --- | --- | --- |{' --- |' * len(SOURCES)}\n"
        f"{table}\n{notes}"
    )


def _row(name: str, one: dict[str, Any]) -> str:
    cells = [f"{one[kind]:.3f} ({one[f'{kind}_95'][0]:.3f}-{one[f'{kind}_95'][1]:.3f})" for kind in ("macro", "pooled")]
    return f"| {name} | {' | '.join(cells)} | {' | '.join(f'{one[s]:.3f}' if s in one else '-' for s in SOURCES)} |\n"
