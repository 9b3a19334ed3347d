"""How well supported answers are told from others by the shipped heads, reader and cascade, beside single rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from detectors.faithfulness import Faithfulness, read_heads
from detectors.reader import shared
from detectors.static import StaticEncoder
from detectors.support import FEATURES
from detectors.training.faithfulness import cascaded, staged
from detectors.training.figures import calibration_error, figures, lead, macro, reliability
from detectors.training.table import tabulate

SEED = 0
BOOTSTRAPS = 1_000


def section(path: Path) -> str:
    """The section of RESULTS.md. `path` is dev.jsonl.gz of `faithfulness`."""
    table = tabulate(path, StaticEncoder(), SEED, reader=shared(), made_up=False)
    heads, card = read_heads(), json.loads((files("detectors") / "weights" / "faithfulness.json").read_text("utf-8"))
    first, _ = staged(heads, table)
    shipped = cascaded(heads, table, Faithfulness.Config().unsure_around)
    rules = {name: table.mean(sign * table.features[:, i]) for i, (name, sign) in enumerate(FEATURES.items()) if sign}
    best = max(rules, key=lambda name: macro(table, rules[name]))
    scores = {
        "faithfulness, as shipped": shipped,
        "its first stage alone": first,
        "every claim read by the cross-encoder": table.mean(heads.cross_encoder.probabilities(table.closer)),
        f"best single rule: {best}": rules[best],
        "length of the answer alone (shorter is better)": -table.characters,
    }
    found = {name: figures(table, score, BOOTSTRAPS, SEED) for name, score in scores.items()}
    sources = [str(s) for s in np.unique(table.source)]
    head = f"| AUROC | macro (95 %) | pooled (95 %) | {' | '.join(sources)} |\n| --- | --- | --- |{' --- |' * len(sources)}\n"
    rows = "".join(_row(name, one, sources) for name, one in found.items())
    middle, low, high = lead(table, shipped, rules[best], BOOTSTRAPS, SEED)
    left_out, both = card["auroc_leave_one_source_out"], card["auroc_out_of_fold_train_and_dev"]
    folds = "".join(f"| {s} | {both[s][0]:.3f} ({both[s][1]:.3f}-{both[s][2]:.3f}) | {left_out[s]:.3f} |\n" for s in sources)
    curve = "".join(
        f"| {one['value']:.2f} | {one['supported']:.2f} | {one['answers']} |\n" for one in reliability(table, shipped)
    )
    return (
        "## Quality: faithfulness\n\n"
        f"Dev, {len(table.supported)} answers, {np.mean(shipped != first):.0%} of them read closer; macro is the mean within "
        "sources.\n\n"
        f"`python -m tests.bench.quality faithfulness --data DIR` · {datetime.now(UTC):%Y-%m-%d}\n\n{head}{rows}\n"
        f"Over the best single rule: {middle:.3f} ({low:.3f}-{high:.3f}, paired bootstrap); the goal is 0.05.\n\n"
        "From the card: every labelled answer of train and dev, judged by a reader and heads that saw nothing of its group (goal "
        f"for fm2: 0.70), and dev judged by those that saw nothing of its source (macro {left_out['macro']:.3f}).\n\n"
        f"| AUROC | grouped, train and dev (95 %) | source left out, dev |\n| --- | --- | --- |\n{folds}\n"
        f"Calibration error (ECE, sources and labels weighing equally): {calibration_error(table, shipped):.3f}. Reliability:\n\n"
        f"| mean value | share supported | answers |\n| ---: | ---: | ---: |\n{curve}"
    )


def _row(name: str, one: dict[str, Any], sources: Sequence[str]) -> str:
    cells = [f"{one[kind]:.3f} ({one[f'{kind}_95'][0]:.3f}-{one[f'{kind}_95'][1]:.3f})" for kind in ("macro", "pooled")]
    return f"| {name} | {' | '.join(cells)} | {' | '.join(f'{one[s]:.3f}' for s in sources)} |\n"
