"""Pairs of a claim and its evidence to train a reader on: those that people labelled, and edited sentences."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detectors.faithfulness import Case, Faithfulness, look_up, read_row
from detectors.reader import ANSWERS
from detectors.static import StaticEncoder
from detectors.support import Evidence, wording
from detectors.training.edits import edited

EDITS_MOST = {"fm2": 7_000, "factcheck_gpt": 3_500, "begin_wow": 500, "begin_cmu": 800}
EDITS_ROUNDS = 4
EDITS_SENTENCES = 3  # that are read for an edit; of people's claims it is `support.NEAR`
ABSENT = 0.25  # share of the edited sentences that are also taken out of the evidence
# What people's labels say in the words of natural language inference.
LABELS = {
    "supports": "supported",
    "completely-support": "supported",
    "Fully attributable": "supported",
    "refutes": "contradicted",
    "refute": "contradicted",
    "partially-support": "neither",
    "irrelevant": "neither",
    "Not fully attributable": "neither",
}


class Example(NamedTuple):
    """A claim, the sentences that it is read with, and the answer (index in `ANSWERS`)."""

    source: str
    group: str
    row: str
    claim: str
    evidence: str
    answer: int
    share: float
    """1 / claims of the row."""
    kind: str = ""
    """What was done to an edited sentence."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def cases_of(path: Path) -> Iterator[tuple[dict[str, Any], Case]]:
    for row in rows_of(path):
        case = read_row({**row, "contexts": row["context"]}, Faithfulness.Config())
        if isinstance(case, Case):
            yield row, case


def labelled(path: Path) -> list[Example]:
    """Each claim of each row that can be scored, in order, with the sentences that the detector would read it with."""
    static, found = StaticEncoder(), []
    for row, case in cases_of(path):
        for claim, look in zip(case.claims, look_up([case], static)[0], strict=True):
            found.append(
                Example(
                    row["dataset"],
                    f"{row['dataset']} {row['group']}",
                    row["id"],
                    claim,
                    case.evidence.passage(look.near),
                    ANSWERS.index(LABELS[row["label_name"]]),
                    1 / len(case.claims),
                )
            )
    return found


def edits(path: Path) -> list[Example]:
    """Sentences of the contexts, as they are, with a fact changed, and with themselves taken out of the evidence."""
    rng, static = np.random.default_rng(0), StaticEncoder()
    cases = [(row["dataset"], f"{row['dataset']} {row['group']}", case.evidence.texts) for row, case in cases_of(path)]
    texts_of: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for _, group, texts in cases:
        texts_of[group].update(dict.fromkeys(texts))
    found: list[Example] = []
    count: Counter[str] = Counter()
    used: set[str] = set()

    def add(source: str, group: str, claim: str, texts: Sequence[str], answer: str, kind: str) -> None:
        evidence = Evidence([(0, text) for text in texts], split=False)
        vectors = static.encode([claim, *evidence.texts]).astype(np.float64)
        near = evidence.find(wording(claim), vectors[1:] @ vectors[0], None).near[:EDITS_SENTENCES]
        found.append(Example(source, group, "", claim, evidence.passage(near), ANSWERS.index(answer), 1.0, kind))

    for _ in range(EDITS_ROUNDS):
        for i in rng.permutation(len(cases)):
            source, group, texts = cases[i]
            choice = [text for text in texts if 6 <= len(text.split()) <= 45 and text not in used]
            if count[source] >= EDITS_MOST[source] or not choice:
                continue
            text = choice[int(rng.integers(len(choice)))]
            made = list(edited(text, [other for other in texts_of[group] if other != text], rng))
            if not made:
                continue
            used.add(text)
            count[source] += len(made)
            for claim, kind in made:
                add(source, group, claim, texts, "supported" if kind == "same" else "contradicted", kind)
            if rng.random() < ABSENT and len(texts) > 2:
                add(source, group, made[0].claim, [other for other in texts if other != text], "neither", "absent")
    return found
