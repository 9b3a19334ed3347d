"""`python -m tests.bench.quality [NAME ...] --data DIR`: how good detectors and masking are on labelled rows they have not seen.

DIR holds folders `faithfulness`, `toxicity` and `pii` with dev.jsonl.gz, and `tabular_employment`, `tabular_elec2` and
`tabular_bike_sharing`. Every figure of a detector of texts has a bootstrap interval over groups. Pooled AUROC rewards guessing
the source: what counts is the mean within sources.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.faithfulness import Faithfulness, read_heads
from detectors.static import StaticEncoder
from detectors.support import FEATURES
from detectors.training.faithfulness import cascaded, staged
from detectors.training.figures import calibration_error, figures
from detectors.training.table import tabulate
from tests.bench.peers import NANNYML, environment
from tests.bench.quality import delays, fairness, false_alarms, hallucination, judge, masking, relevance, toxicity
from tests.bench.results import replaced

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
SEED = 0
BOOTSTRAPS = 1_000
RULE = "words"  # the best single rule: share of the answer's words that stand in the passages


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quality", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--data", type=Path, required=True, help="folder with faithfulness/dev.jsonl.gz and pii/dev.jsonl.gz")
    parser.add_argument("--peers", type=Path, help="delays: NannyML too, in an environment that is made in this folder")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {RESULTS.name}")
    asked = parser.parse_args(argv)
    if unknown := [name for name in asked.names if name not in SECTIONS]:
        parser.error(f"no figures of {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    for name, (folder, section) in SECTIONS.items():
        if name in asked.names or not asked.names:
            path = asked.data / folder / "dev.jsonl.gz"
            peer = environment(asked.peers, *NANNYML) if name == "delays" and asked.peers is not None else None
            text = section(path) if peer is None else delays.section(path, nannyml=peer)
            print(text)
            if asked.write:
                RESULTS.write_text(replaced(RESULTS.read_text(encoding="utf-8"), f"Quality: {name}", text), encoding="utf-8")
    return 0


def faithfulness(path: Path) -> str:
    """The section of RESULTS.md for the shipped heads and their cascade."""
    table = tabulate(path, StaticEncoder(), SentenceEncoder(EncoderConfig(cache_bytes=2**28)), SEED)
    table = table.where(~table.made_up)  # real answers only
    heads, detector = read_heads(), Faithfulness()
    first, second = staged(heads, table)
    shipped = cascaded(heads, table, detector.band)
    scores = {
        "faithfulness, as shipped": shipped,
        "its first stage alone": first,
        "the second for all": second,
        f"single rule: share of {RULE} found": table.mean(table.features[:, list(FEATURES).index(RULE)]),
        "length of the answer alone": table.mean(table.features[:, list(FEATURES).index("length")]),
    }
    found = {name: figures(table, score, BOOTSTRAPS, SEED) for name, score in scores.items()}
    sources = [str(s) for s in np.unique(table.source)]
    head = f"| AUROC | macro (95 %) | pooled (95 %) | {' | '.join(sources)} |\n| --- | --- | --- |{' --- |' * len(sources)}\n"
    rows = "".join(_row(name, one, sources) for name, one in found.items())
    return (
        "## Quality: faithfulness\n\n"
        f"Dev, {len(table.supported)} answers, {np.mean(shipped != first):.0%} of them looked at closer; macro is the mean "
        "within sources.\n\n"
        f"`python -m tests.bench.quality --data DIR` · {datetime.now(UTC):%Y-%m-%d}\n\n{head}{rows}\n"
        f"Calibration error (ECE, sources and labels weighing equally): "
        f"{calibration_error(table, shipped):.3f}\n"
    )


def _row(name: str, one: dict[str, Any], sources: Sequence[str]) -> str:
    cells = [f"{one[kind]:.3f} ({one[f'{kind}_95'][0]:.3f}-{one[f'{kind}_95'][1]:.3f})" for kind in ("macro", "pooled")]
    return f"| {name} | {' | '.join(cells)} | {' | '.join(f'{one[s]:.3f}' for s in sources)} |\n"


SECTIONS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "faithfulness": ("faithfulness", faithfulness),
    "hallucination": ("faithfulness", hallucination.section),
    "judge": ("faithfulness", judge.section),
    "relevance": ("faithfulness", relevance.section),
    "toxicity": ("toxicity", toxicity.section),
    "masking": ("pii", masking.section),
    "fairness": ("tabular_employment", fairness.section),
    "false_alarms": ("tabular_employment", false_alarms.section),
    "delays": ("tabular_employment", delays.section),
}
"""Name -> folder of its data, and what makes its section of RESULTS.md."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
