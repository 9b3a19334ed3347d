"""How much a text is about a question: the features, and the heads that make a probability of them.

A text is cut into sentences. Meaning: cosines of the question with them. Wording: the share of the question's words that occur
there. A logistic regression for each detector and stage, trained by `detectors.training.relevance`, weighs them: the first sees
static vectors alone, the second also what MiniLM says of the sentence that was nearest. Cards, figures and limits:
`## answer_relevance` and `## context_relevance` in the README.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.cascade import Answer, Stage, run
from detectors.claims import Span, sentences
from detectors.contract import Encoder, Resources
from detectors.faithfulness import MAX_QUESTION_CHARS, Head, HeadDamaged
from detectors.support import Wording, union, wording

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

FILE = "relevance.json"
MAX_SENTENCES = 200
TOP = 3

# Feature, and the sign its weight must have: more of what was asked for never makes a text less relevant. 0: the training's.
FEATURES = {
    "cosine_best": 1,  # the nearest sentence
    "cosine_top": 1,  # mean of the nearest three
    "cosine_whole": 1,  # the mean of all sentences
    "content": 1,  # share of the question's content words found anywhere
    "content_best": 1,  # ... in the best single sentence
    "matched": 1,  # log(1 + content words found)
    "names": 1,  # share of the question's names found anywhere
    "length": 0,  # log(1 + words)
    "asked": 0,  # log(1 + words of the question)
}
CLOSER = {
    "closer": 1,  # cosine of MiniLM with the nearest sentence
}


class Pair(NamedTuple):
    """A question, and a text that may be about it."""

    question: str
    asked: Wording
    spans: tuple[Span, ...]
    """Offsets of the text's sentences. There is at least one."""
    sentences: tuple[str, ...]
    truncated: bool = False


class Look(NamedTuple):
    """What was found in a text. `nearest`: index of the sentence that comes nearest to the question."""

    features: FloatArray
    nearest: int


def asked(question: object) -> str | None:
    """What of a question is read, or None where there is none."""
    return question[:MAX_QUESTION_CHARS] if isinstance(question, str) and question.strip() else None


def pair(question: str, text: str, max_chars: int) -> Pair | None:
    """None where the text has no sentence."""
    spans = tuple(islice(sentences(text[:max_chars]), MAX_SENTENCES + 1))
    if not spans:
        return None
    truncated = len(text) > max_chars or len(spans) > MAX_SENTENCES
    spans = spans[:MAX_SENTENCES]
    return Pair(question, wording(question), spans, tuple(text[start:end] for start, end in spans), truncated)


def look(pairs: Sequence[Pair], encoder: Encoder) -> list[Look]:
    """Every pair by its sentences. All texts go to the encoder at once, so that it can fill its batches."""
    vectors = encoder.encode([text for one in pairs for text in (one.question, *one.sentences)])
    found: list[Look] = []
    at = 0
    for one in pairs:
        question = vectors[at].astype(np.float64)
        there = vectors[at + 1 : at + 1 + len(one.sentences)].astype(np.float64)
        at += 1 + len(one.sentences)
        found.append(_look(one, there, question))
    return found


def _look(one: Pair, there: FloatArray, question: FloatArray) -> Look:
    cosines = there @ question
    mean = there.mean(axis=0)
    said = [wording(text) for text in one.sentences]
    wanted = one.asked.content
    matched = [len(wanted & w.content) for w in said]
    everywhere = union(w.content for w in said)
    hits = len(wanted & everywhere)
    # Half a weight for the words, as in `support`: the encoder finds the topic, the words find the sentence.
    nearest = int(np.argmax(cosines + 0.5 * np.array(matched) / max(1, len(wanted))))
    values = {
        "cosine_best": cosines.max(),
        "cosine_top": np.sort(cosines)[-TOP:].mean(),
        "cosine_whole": mean @ question / max(1e-12, math.sqrt(mean @ mean)),
        # Nothing asked for is nothing found: else a question of function words alone would fit every text.
        "content": hits / max(1, len(wanted)),
        "content_best": max(matched) / max(1, len(wanted)),
        "matched": math.log1p(hits),
        "names": len(one.asked.names & everywhere) / max(1, len(one.asked.names)),
        "length": math.log1p(sum(w.length for w in said)),
        "asked": math.log1p(one.asked.length),
    }
    return Look(np.array([values[name] for name in FEATURES], dtype=np.float64), nearest)


def look_closer(pairs: Sequence[Pair], looks: Sequence[Look], encoder: Encoder) -> FloatArray:
    """Features for the second head, (pairs, features): those of the first look, and the encoder's cosine."""
    texts = [text for one, seen in zip(pairs, looks, strict=True) for text in (one.question, one.sentences[seen.nearest])]
    vectors = encoder.encode(texts).astype(np.float64)
    # Pair by pair: one product of matrices may sum in another order for another number of pairs.
    closer = np.array([[vectors[at] @ vectors[at + 1]] for at in range(0, len(texts), 2)], dtype=np.float64)
    return np.hstack([features_of(looks), closer.reshape(len(looks), len(CLOSER))])


class Judged(NamedTuple):
    """What was found in each text of a row, and the probability that it is relevant."""

    looks: Sequence[Look]
    values: FloatArray


class Cascade:
    """The two stages, for rows of one question and one text or several. Both relevance detectors are made of it."""

    def __init__(self, name: str, resources: Resources, unsure: Callable[[Judged], bool], *, closer: int, asks: bool) -> None:
        """`name` is the detector's. Of a row the `closer` best texts are looked at closer; `asks`: whether any ever are.
        Raises `HeadDamaged`."""
        self._heads = load_heads(name, resources, asks)
        self._resources = resources
        self._closer = closer
        self._stages = [Stage("static", self._quick, unsure), Stage("minilm", self._close, unsure)]

    def __call__(self, cases: Sequence[Sequence[Pair]]) -> list[Answer[Judged]]:
        return run(cases, self._stages)

    def _quick(self, cases: Sequence[Sequence[Pair]], before: Sequence[Judged | None]) -> list[Judged]:
        looks = look([one for case in cases for one in case], self._resources.static())
        values = self._heads.static.probabilities(features_of(looks))
        ends = np.cumsum([len(case) for case in cases]).tolist()
        return [Judged(looks[a:b], values[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    def _close(self, cases: Sequence[Sequence[Pair]], before: Sequence[Judged | None]) -> list[Judged]:
        seen = [one for one in before if one is not None]
        best = [np.argsort(-one.values, kind="stable")[: self._closer] for one in seen]
        places = [(row, int(i)) for row, indices in enumerate(best) for i in indices]
        closer = look_closer(
            [cases[row][i] for row, i in places], [seen[row].looks[i] for row, i in places], self._resources.encoder()
        )
        values = [one.values.copy() for one in seen]
        for (row, i), p in zip(places, self._heads.minilm.probabilities(closer), strict=True):
            values[row][i] = p
        return [Judged(one.looks, found) for one, found in zip(seen, values, strict=True)]


def features_of(looks: Sequence[Look]) -> FloatArray:
    return np.array([one.features for one in looks], dtype=np.float64).reshape(len(looks), len(FEATURES))


# --- the heads -------------------------------------------------------------------------------------------------------


class Heads(NamedTuple):
    """One for each stage, named as the stage is."""

    static: Head
    minilm: Head


def load_heads(name: str, resources: Resources, closer: bool) -> Heads:
    """The heads of the detector `name`, with a warning where the encoders are others than those it was trained on."""
    heads = read_heads(name)
    used = {"static": resources.static().name} | ({"minilm": resources.encoder().name} if closer else {})
    for stage, encoder in used.items():
        if encoder != (trained := getattr(heads, stage).model):
            log.warning(
                f"{name} was trained on another encoder; train it again with detectors.training.relevance",
                extra={"trained": trained, "used": encoder},
            )
    return heads


def read_heads(name: str, folder: Traversable | None = None) -> Heads:
    """The heads of the detector `name` in `folder`, by default those that are shipped. Raises `HeadDamaged`."""
    card = json.loads(((folder or files("detectors") / "weights") / FILE).read_text(encoding="utf-8"))
    heads = card["heads"]
    if digest(heads) != card["sha256"]:
        raise HeadDamaged(f"the weights in {FILE} are not those its card describes; reinstall modelwatch")
    if card["features"] != [*FEATURES, *CLOSER]:
        raise HeadDamaged(f"{FILE} was trained on other features; run detectors.training.relevance")
    static, minilm = (read_head(heads[name][stage]) for stage in Heads._fields)
    return Heads(static, minilm)


def read_head(found: dict[str, Any]) -> Head:
    mean, scale, weights = (np.array(found[part], dtype=np.float64) for part in ("mean", "scale", "weights"))
    return Head(mean, scale, weights, float(found["bias"]), str(found["encoder"]))


def written(head: Head) -> dict[str, Any]:
    """What `read_head` reads. Python writes a float so that it comes back the same."""
    arrays = {"mean": head.mean, "scale": head.scale, "weights": head.weights}
    return {"encoder": head.model, "bias": head.bias} | {name: values.tolist() for name, values in arrays.items()}


def digest(heads: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(heads, sort_keys=True).encode()).hexdigest()
