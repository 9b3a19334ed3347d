"""How much of a claim stands in the evidence: the features that the faithfulness head weighs.

Three looks at the same claim. Meaning: cosines with the evidence's sentences. Wording: the share of the claim's words and
word pairs that occur there (overlap as in ROUGE, Lin 2004, taken from the claim's side). Facts: numbers, dates and names
are compared exactly, because an encoder hardly sees the difference between 1982 and 1983.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.claims import sentences

# Feature, and the sign its weight must have: +1 more of it speaks for the claim, -1 against it, 0 left to the training.
# With the signs held, a claim that finds more of itself in the evidence never scores lower for it.
FEATURES = {
    "cosine_best": 1,  # the nearest sentence
    "cosine_chosen": 1,  # the sentence shown as evidence: near, and with the claim's words
    "cosine_top": 1,  # mean of the nearest three
    "words": 1,  # share of all words found anywhere
    "content": 1,  # share of content words found anywhere
    "content_top": 1,  # ... in the best three sentences together
    "content_best": 1,  # ... in the best single sentence
    "content_pairs": 1,  # share of neighbouring content words that are neighbours in a sentence of the evidence
    "pairs_chosen": 1,  # share of neighbouring words that are neighbours in the chosen sentence
    "missing_chosen": -1,  # log(1 + content words that the chosen sentence lacks)
    "number_missing": -1,  # a number or month that stands nowhere in the evidence
    "number_missing_top": -1,  # ... not in the best three sentences
    "number_conflict": -1,  # claim and chosen sentence each have a number that the other lacks
    "name_missing": -1,  # share of names found nowhere
    "name_missing_chosen": -1,  # ... not in the chosen sentence
    "negation_mismatch": -1,  # one of claim and chosen sentence is negated
    "speaker": -1,  # says I, we or you: an opinion or an experience, which no document holds
    "in_question": 0,  # share of content words that the question had already
    "length": 0,  # log(1 + words)
}
TOP = 3
NEAR = 5  # sentences that a claim is read with

# A script without spaces gives one word per character.
WORD = re.compile(r"\d+(?:[.,:]\d+)*|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]+(?:['’][^\W\d_]+)?")


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTION_WORDS = words(
    "a an the this that these those it its they them their he him his she her hers we us our ours you your yours "
    "i me my mine who whom whose which what when where why how there here is are was were be been being am do "
    "does did doing done have has had having will would can could shall should may might must of in on at to from "
    "by for with about into onto over under after before between during through within without against among as "
    "than then so such and or but nor if while because since until though although also too very just even only "
    "both either each every some any all more most much many few other another own same up down out off again "
    "further once s t d ll re ve m o not no yes yeah well oh "
)
NEGATIONS = words("not no never none nobody nothing neither nor without cannot unable fail fails failed refuse refused")
SPEAKER = words("i me my mine myself we us our you your im i'm i've i'd i'll we're we've you're")
MONTHS = words("January February March April May June July August September October November December")
# From two on: "one", "first" and "second" are seldom numbers.
CARDINALS = """two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty"""
ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth"
NUMBER_WORDS = {
    word: number for start, names in ((2, CARDINALS), (3, ORDINALS)) for number, word in enumerate(names.split(), start)
}
MAGNITUDES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


@dataclass(frozen=True, slots=True)
class Wording:
    """What a sentence says, in sets of stems."""

    words: frozenset[str]
    content: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    content_pairs: frozenset[tuple[str, str]]
    numbers: frozenset[str]
    names: frozenset[str]
    negated: bool
    speaker: bool
    length: int


# Of a context that goes with several answers, or is read by several detectors, each sentence is analysed once.
@lru_cache(maxsize=4_096)
def wording(text: str) -> Wording:
    found = WORD.findall(text)
    lower = [word.lower().replace("’", "'") for word in found]
    stems = [stem(word) for word in lower]
    content = [s for s, word in zip(stems, lower, strict=True) if word not in FUNCTION_WORDS]
    # The first word is in capitals in any case.
    names = {s for s, word, low in zip(stems[1:], found[1:], lower[1:], strict=True) if is_name(word, low)}
    return Wording(
        words=frozenset(stems),
        content=frozenset(content),
        pairs=frozenset(pairwise(stems)),
        content_pairs=frozenset(pairwise(content)),
        numbers=numbers(found),
        names=frozenset(names),
        negated=any(word in NEGATIONS or word.endswith("n't") for word in lower),
        speaker=any(word in SPEAKER for word in lower),
        length=len(found),
    )


def is_name(word: str, lower: str) -> bool:
    return word[0].isupper() and lower not in FUNCTION_WORDS


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Enough of a stemmer for `visited` to meet `visits`; wrong alike on both sides, which is what counts."""
    word = word.removesuffix("'s")
    for suffix in ("ingly", "edly", "ings", "ing", "ies", "ied", "ers", "ed", "ly", "es", "er", "s"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word.removesuffix(suffix).rstrip("e") + ("y" if suffix in ("ies", "ied") else "")
    return word.rstrip("e") if len(word) > 3 else word


def numbers(found: Sequence[str]) -> frozenset[str]:
    """Numbers and months, in one spelling each.

    >>> sorted(numbers(["In", "May", "1,200", "and", "1.2", "million", "and", "three"]))
    ['1200', '1200000', '3', 'May']
    """
    seen: set[str] = set()
    for at, word in enumerate(found):
        if word in MONTHS and at:
            seen.add(word)
            continue
        digits = word.replace(",", "")
        value = NUMBER_WORDS.get(word.lower(), digits if digits[0].isdigit() else None)
        if value is None:
            continue
        factor = MAGNITUDES.get(found[at + 1].lower()) if at + 1 < len(found) else None
        try:
            seen.add(f"{float(value) * (factor or 1):.12g}" if factor or "." in digits else str(value))
        except ValueError:  # 10:30 and 1.2.3 stand for themselves
            seen.add(str(value))
    return frozenset(seen)


class Look(NamedTuple):
    """What was found for one claim."""

    features: NDArray[np.float64]
    """In the order of `FEATURES`."""
    context: int
    """Index of the context it stands in best."""
    near: NDArray[np.intp]
    """The sentences to read the claim with, at most `NEAR`, the likeliest first."""


class Evidence:
    """The sentences of a row's contexts, each analysed once."""

    def __init__(self, contexts: Iterable[tuple[int, str]], split: bool = True) -> None:
        """`contexts` are (index in the row, text); with `split` False each is one sentence already."""
        first: dict[str, int] = {}
        for index, text in contexts:
            for start, end in sentences(text) if split else [(0, len(text))]:
                first.setdefault(text[start:end], index)
        self.texts = list(first)
        self.context = list(first.values())
        self.wordings = [wording(text) for text in self.texts]
        self.words = union(w.words for w in self.wordings)
        self.content = union(w.content for w in self.wordings)
        self.numbers = union(w.numbers for w in self.wordings)
        self.content_pairs = frozenset(pair for w in self.wordings for pair in w.content_pairs)

    def find(self, c: Wording, cosines: NDArray[np.float64], question: Wording | None) -> Look:
        """Look for a claim in all sentences. `cosines` are the claim's with them."""
        content = np.array([share(c.content, there.content) for there in self.wordings])
        # Half a weight for the words: the encoder finds the topic, the words find the sentence.
        ranked = np.argsort(-(cosines + 0.5 * content), kind="stable")
        order = ranked[:TOP]
        best = int(order[0])
        chosen = self.wordings[best]
        top = [self.wordings[i] for i in order]
        top_numbers = union(w.numbers for w in top)
        values = {
            "cosine_best": cosines.max(),
            "cosine_chosen": cosines[best],
            "cosine_top": np.sort(cosines)[-TOP:].mean(),
            "words": share(c.words, self.words),
            "content": share(c.content, self.content),
            "content_top": share(c.content, union(w.content for w in top)),
            "content_best": content.max(),
            "content_pairs": share(c.content_pairs, self.content_pairs),
            "pairs_chosen": share(c.pairs, chosen.pairs),
            "missing_chosen": math.log1p(len(c.content - chosen.content)),
            "number_missing": bool(c.numbers - self.numbers),
            "number_missing_top": bool(c.numbers - top_numbers),
            "number_conflict": bool(c.numbers - chosen.numbers) and bool(chosen.numbers - c.numbers),
            "name_missing": 1.0 - share(c.names, self.content),
            "name_missing_chosen": 1.0 - share(c.names, chosen.content),
            "negation_mismatch": c.negated != chosen.negated,
            "speaker": c.speaker,
            "in_question": share(c.content, question.content) if question else 0.0,
            "length": math.log1p(c.length),
        }
        features = np.array([values[name] for name in FEATURES], dtype=np.float64)
        return Look(features, self.context[best], ranked[:NEAR])

    def passage(self, sentences: NDArray[np.intp]) -> str:
        """These sentences, in the order in which they stand."""
        return " ".join(self.texts[i] for i in np.sort(sentences))


def share(wanted: AbstractSet[object], there: AbstractSet[object]) -> float:
    """Of what is wanted, how much is there; 1 where nothing is wanted."""
    return len(wanted & there) / len(wanted) if wanted else 1.0


def union(sets: Iterable[AbstractSet[str]]) -> frozenset[str]:
    return frozenset().union(*sets)
