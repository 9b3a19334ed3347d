"""Supported answers with one fact changed: what an invented number, name or negation looks like.

The labelled sets hold few answers that are wrong in one detail only, so from them alone the head learns that a missing number
hardly matters. Each supported answer that has a number, a name or an auxiliary verb gives pairs here: itself, and itself
changed, in a source of its own (`contrast_number`, `contrast_name`, `contrast_negation`) that weighs less than a real one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

PREFIX = "contrast_"

NUMBER = re.compile(r"\d+")
NAME = re.compile(r"(?<=[a-z] )[A-Z][a-z]{3,}")
AUXILIARY = re.compile(r"\b(?:is|was|are|were|has|had|can|will|did|does)\b")
NEGATED = re.compile(r"n't\b|\bnot\b")


def contrasts(rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Pairs of rows, the original (label 0) before the changed one (label 1). `origin` is the row's own source."""
    rng = np.random.default_rng(seed)
    names: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        names[row["dataset"]] += NAME.findall(row["response"])
    pairs: list[dict[str, Any]] = []
    for row in rows:
        if row["label"] == 0:
            for kind, response in changes(row, names[row["dataset"]], rng):
                common = {**row, "origin": row["dataset"], "dataset": PREFIX + kind}
                pairs += [common, {**common, "response": response, "label": 1}]
    return pairs


def changes(row: Mapping[str, Any], names: Sequence[str], rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    response, context = row["response"], " ".join(row["context"])
    if found := NUMBER.search(response):
        # Never back to itself, and near: a year stays a year.
        number = max(0, int(found[0][:9]) + int(rng.integers(1, 10)) * int(rng.choice([-1, 1])))
        if str(number) != found[0]:
            yield "number", replaced(response, found, str(number))
    if found := NAME.search(response):
        other = str(rng.choice(names))
        if other not in response and other not in context:
            yield "name", replaced(response, found, other)
    if (found := AUXILIARY.search(response)) and not NEGATED.search(response):
        yield "negation", replaced(response, found, f"{found[0]} not")


def replaced(text: str, found: re.Match[str], by: str) -> str:
    return text[: found.start()] + by + text[found.end() :]
