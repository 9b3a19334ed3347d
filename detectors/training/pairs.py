"""Question and text pairs of real data, with and without what belongs to them, as a table of features.

Positives are pairs as they stand; a negative has the text of another group of the same source, of similar length, so that
neither the source nor the length tells them apart. Of factcheck_gpt the negatives are people's: passages that a search found for
a claim and that annotators called irrelevant.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.contract import Encoder
from detectors.relevance import Pair, asked, features_of, look, look_closer, pair

FloatArray = NDArray[np.float64]
MAX_CHARS = 20_000
CANDIDATES = 10  # a negative is drawn from so many texts of other groups that are nearest in length
NEGATIVES = 3  # for each positive


@dataclass(frozen=True)
class Example:
    source: str
    group: str
    question: str
    text: str
    relevant: bool


@dataclass(frozen=True)
class Pairs:
    """One row a pair."""

    first: FloatArray  # (pairs, features): as the first stage sees them
    second: FloatArray  # (pairs, features): as the second does
    source: NDArray[np.str_]
    group: NDArray[np.str_]
    relevant: NDArray[np.bool_]

    def where(self, keep: NDArray[Any]) -> Pairs:
        return replace(self, **{name: getattr(self, name)[keep] for name in self.__dataclass_fields__})

    def balance(self) -> FloatArray:
        """A weight for each pair, 1 in sum: every label of every source weighs the same."""
        weights = np.zeros(len(self.source))
        for source in np.unique(self.source):
            for label in (False, True):
                cell = (self.source == source) & (self.relevant == label)
                weights[cell] = 1.0 / max(1, cell.sum())
        return np.asarray(weights / weights.sum())


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def answers(rows: Sequence[dict[str, Any]], seed: int) -> list[Example]:
    """Turns of a dialogue and the answers given to them."""
    found = [_example(row, row["question"], row["response"]) for row in rows if asked(row["question"])]
    return [*found, *shuffled(found, seed)]


def passages(rows: Sequence[dict[str, Any]], seed: int) -> list[Example]:
    """Turns or claims, and the passages that were found for them.

    Not of begin_cmu: there the passage is the description of the film, whatever was said.
    """
    found = [
        _example(row, row["question"] or row["response"], "\n".join(row["context"]), row["label_name"] != "irrelevant")
        for row in rows
        if row["dataset"] != "begin_cmu" and any(text.strip() for text in row["context"])
    ]
    made = [one for one in found if one.source != "factcheck_gpt"]
    return [*found, *shuffled(made, seed)]


def _example(row: dict[str, Any], question: str, text: str, relevant: bool = True) -> Example:
    return Example(row["dataset"], f"{row['dataset']} {row['group']}", question, text, relevant)


def shuffled(found: Sequence[Example], seed: int) -> Iterator[Example]:
    rng = np.random.default_rng(seed)
    texts: dict[str, set[str]] = {}
    for one in found:
        texts.setdefault(one.group, set()).add(one.text)
    for one in found:
        # A text that stands in both groups belongs to the question, too.
        others = [o for o in found if o.source == one.source and o.group != one.group and o.text not in texts[one.group]]
        others.sort(key=lambda o: abs(len(o.text) - len(one.text)))
        near = others[:CANDIDATES]
        for i in rng.permutation(len(near))[:NEGATIVES]:
            yield replace(one, text=near[i].text, relevant=False)


def tabulate(examples: Sequence[Example], static: Encoder, encoder: Encoder) -> Pairs:
    cut = [(one, pair(str(asked(one.question)), one.text, MAX_CHARS)) for one in examples]
    kept = [(one, found) for one, found in cut if isinstance(found, Pair)]
    pairs = [found for _, found in kept]
    looks = look(pairs, static)
    return Pairs(
        first=features_of(looks),
        second=look_closer(pairs, looks, encoder),
        source=np.array([one.source for one, _ in kept]),
        group=np.array([one.group for one, _ in kept]),
        relevant=np.array([one.relevant for one, _ in kept]),
    )
