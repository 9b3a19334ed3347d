"""Do two statements say the same? What tells a repeated answer from a changed one.

Vectors see the topic, so "It was built in 1889" and "It was built in 1890" are neighbours; what changes an answer is mostly a
number, a name or a `not`. So those are compared exactly (`support.wording`), and what a question already says counts for
nothing: of answers to one question that is what they all have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.support import Wording

FloatArray = NDArray[np.float64]

NEAR = 0.7
"""Cosine from which on two answers without a word of their own say the same."""
SHARED = 0.5
"""Share of the shorter answer's own words from which on two answers say the same."""


class Answer(NamedTuple):
    """An answer, and what it says beyond the question: stems and numbers."""

    wording: Wording
    own: frozenset[str]


def answer(said: Wording, question: Wording | None) -> Answer:
    known = question.words | question.numbers if question else frozenset()
    return Answer(said, (said.content | said.numbers) - known)


def overlap(a: Answer, b: Answer) -> float | None:
    """Of what the shorter one says beyond the question, the share that the other says too, 0 to 1; None where that is nothing."""
    fewer = min(len(a.own), len(b.own))
    return len(a.own & b.own) / fewer if fewer else None


def agrees(a: Answer, b: Answer, cosine: float) -> bool:
    """
    >>> from detectors.support import wording
    >>> asked = wording("When was the tower built?")
    >>> said = ("In 1889.", "The tower was built in 1889.", "It was built in 1890.")
    >>> one, same, other = (answer(wording(text), asked) for text in said)
    >>> agrees(one, same, 0.6), agrees(same, other, 0.9)
    (True, False)
    """
    if a.wording.negated != b.wording.negated or contradict(a, b):
        return False
    shared = overlap(a, b)
    return cosine >= NEAR if shared is None else shared >= SHARED


def contradict(a: Answer, b: Answer) -> bool:
    """Each has a number of its own that the other does not have."""
    return bool(a.own & a.wording.numbers - b.wording.numbers) and bool(b.own & b.wording.numbers - a.wording.numbers)


def clusters(agree: NDArray[np.bool_]) -> list[int]:
    """The cluster of each of n answers, from 0, in the order of their first members: an answer joins the first cluster whose
    first member it agrees with (Kuhn et al., "Semantic Uncertainty", ICLR 2023, algorithm 1). `agree` is (n, n), symmetric."""
    firsts: list[int] = []
    found: list[int] = []
    for i in range(len(agree)):
        here = next((k for k, first in enumerate(firsts) if agree[i, first]), None)
        if here is None:
            firsts.append(i)
            here = len(firsts) - 1
        found.append(here)
    return found


def entropy(members: Sequence[int]) -> float:
    """Entropy of the clusters' shares over its largest possible value, 0 (all say the same) to 1 (each says something else).

    The discrete semantic entropy of Farquhar et al., Nature 630 (2024), for which no token probabilities are needed.
    """
    if len(members) < 2:
        return 0.0
    shares = np.bincount(members) / len(members)
    return float(-(shares * np.log(shares)).sum() / np.log(len(members)))
