"""`python -m tests.bench.quality [NAME ...] --data DIR`: how good detectors and masking are on labelled rows they have not seen.

DIR holds folders `faithfulness`, `toxicity` and `pii` with dev.jsonl.gz, and `tabular_employment`, `tabular_elec2` and
`tabular_bike_sharing`. Every figure of a detector of texts has a bootstrap interval over groups. Pooled AUROC rewards guessing
the source: what counts is the mean within sources.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.peers import NANNYML, environment
from tests.bench.quality import delays, fairness, faithfulness, false_alarms, hallucination, judge, masking, relevance, toxicity
from tests.bench.results import replaced

RESULTS = Path(__file__).parents[1] / "RESULTS.md"


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


SECTIONS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "faithfulness": ("faithfulness", faithfulness.section),
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
