"""How much of the labelled personal data in synthetic texts is masked, and how much of what is masked was labelled."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monitor.masking.recognisers import RECOGNISERS, Recognisers

KINDS = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "US_SSN": "ssn",
    "IP_ADDRESS": "ip",
    "PERSON": "name",
}
"""Type in the data -> kind. The data has no keys or tokens."""


@dataclass(slots=True)
class Rates:
    labelled: int = 0
    covered: int = 0  # labelled, and masked from its first character to its last as its own kind
    masked: int = 0
    right: int = 0  # masked, and something of its own kind was labelled there

    @property
    def recall(self) -> float:
        return self.covered / self.labelled if self.labelled else float("nan")

    @property
    def precision(self) -> float:
        return self.right / self.masked if self.masked else float("nan")


def count(rows: Iterable[Mapping[str, Any]], recognisers: Recognisers) -> dict[str, Rates]:
    rates = {kind: Rates() for kind in KINDS.values()}
    for row in rows:
        labelled = [(span["start"], span["end"], KINDS[span["type"]]) for span in row["spans"] if span["type"] in KINDS]
        found = [one for one in recognisers.find(row["text"]) if one[2] in rates]
        for start, end, kind in labelled:
            rates[kind].labelled += 1
            rates[kind].covered += any(s <= start and e >= end and k == kind for s, e, k in found)
        for start, end, kind in found:
            rates[kind].masked += 1
            rates[kind].right += any(s < end and start < e and k == kind for s, e, k in labelled)
    return rates


def section(path: Path) -> str:
    """The section of RESULTS.md. `path` is a file of rows with `text` and `spans`; train.jsonl.gz stands beside it."""
    dev, train = _read(path), _read(path.with_name("train.jsonl.gz"))
    recognisers = Recognisers(RECOGNISERS)
    unseen, seen = count(dev, recognisers), count(train, recognisers)
    others = Counter(span["type"] for row in (*dev, *train) for span in row["spans"] if span["type"] not in KINDS)
    table = (
        "| kind | recall, dev | precision, dev | labelled | masked | recall, train | precision, train | labelled | masked |\n"
        f"| --- |{' ---: |' * 8}\n"
    )
    for kind in unseen:
        table += f"| {kind} | {_cells(unseen[kind])} | {_cells(seen[kind])} |\n"
    return (
        "## Quality: masking\n\n"
        f"All recognisers on synthetic texts, {len(dev)} of dev, {len(train)} of train. The patterns were written on train, so "
        "where dev has none labelled there is no unseen figure. Recall: the whole of a labelled value is masked as its own kind. "
        "Precision: what is masked was labelled so.\n\n"
        f"`python -m tests.bench.quality --data DIR` · {datetime.now(UTC):%Y-%m-%d}\n\n{table}\n"
        f"Without a recogniser: {', '.join(f'{kind} {many}' for kind, many in sorted(others.items()))}. "
        "`key` has no labelled data here: tests/monitor/test_recognisers.py has its forms. `name` sees only names behind a "
        "title, a greeting or an introduction, and is off by default.\n"
    )


def _read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _cells(one: Rates) -> str:
    return f"{_figure(one.recall)} | {_figure(one.precision)} | {one.labelled} | {one.masked}"


def _figure(rate: float) -> str:
    return "-" if rate != rate else f"{rate:.3f}"
