"""Sentences of real texts with one fact changed, and the same unchanged: what a reader of claims learns to compare with.

Kryscinski et al., "Evaluating the Factual Consistency of Abstractive Text Summarization" (FactCC, EMNLP 2020): a sentence of
the source is a supported claim; swap a name, a number or a date, negate it, or put a word's opposite, and it is one the source
denies. Claim and counterpart go through the same loosening (asides and adverbs dropped, the end cut off, other words for the
same), so that neither reads more like the source. No label is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from detectors.claims import words
from detectors.support import MONTHS
from detectors.training.lexicon import OPPOSITES, SYNONYMS

Random = np.random.Generator


class Edited(NamedTuple):
    """A claim made of a sentence, and what was done to it."""

    claim: str
    kind: str
    """`same`, or the name of the edit."""


NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?![\w-])")
MONTH = re.compile(rf"\b(?:{'|'.join(m for m in sorted(MONTHS) if m != 'May')})\b")
NAME = re.compile(r"\b[A-Z][\w'’-]+(?:\s(?:of\sthe\s|of\s|de\s|van\s|von\s)?[A-Z][\w'’.-]*\w)*")
WORD = re.compile(r"[A-Za-z]+")
AUXILIARY = re.compile(r"\b(?:is|was|are|were|has|had|can|will|did|does|could|would)\b(?!\s+not\b|n't)")
NEGATED = re.compile(r"\s+not\b|n't\b|\bnever\s+")
STARTS = words("The A An In On At He She It They This That These Those His Her Its Their After Before When While As For")
DROPPED = words("also very quite then just even still most several various own such")
ASIDE = re.compile(r"\s*\([^()]*\)|\s*\[[^\[\]]*\]")
LEAD = re.compile(
    r"^(?:However|Moreover|Furthermore|In addition|Additionally|Also|Later|Then|Meanwhile|Thus|Therefore),?\s+", re.I
)


def numbers(text: str, others: Sequence[str], rng: Random) -> str | None:
    found = list(NUMBER.finditer(text))
    if not found:
        return None
    one = found[int(rng.integers(len(found)))]
    digits = one[0].replace(",", "")
    there = {n for other in others for n in NUMBER.findall(other)} - set(NUMBER.findall(text))
    alike = sorted(n for n in there if len(n) == len(one[0]))
    if alike and rng.random() < 0.5:
        new = str(rng.choice(alike))
    elif "." in digits:
        new = f"{float(digits) * float(rng.choice([0.5, 0.8, 1.3, 2.0])):.1f}"
    else:
        value = int(digits[:12])
        step = int(rng.integers(1, max(2, min(60, value // 3 + 2))))
        new = str(max(0, value + step * int(rng.choice([-1, 1]))))
        if "," in one[0]:
            new = f"{int(new):,}"
    return None if new == one[0] else _put(text, one, new)


def months(text: str, others: Sequence[str], rng: Random) -> str | None:
    found = list(MONTH.finditer(text))
    if not found:
        return None
    one = found[int(rng.integers(len(found)))]
    return _put(text, one, str(rng.choice([m for m in sorted(MONTHS) if m != one[0]])))


def names_in(text: str) -> list[re.Match[str]]:
    return [m for m in NAME.finditer(text) if m[0] not in STARTS and m[0] not in MONTHS and (m.start() > 0 or " " in m[0])]


def names(text: str, others: Sequence[str], rng: Random) -> str | None:
    """Another name of the same text, with as many words where there is one."""
    found = names_in(text)
    if not found:
        return None
    one = found[int(rng.integers(len(found)))]
    there = {m[0] for other in others for m in names_in(other)}
    known = set(text.split())
    there = {name for name in there if not set(name.split()) & known}
    if not there:
        return None
    alike = sorted(name for name in there if len(name.split()) == len(one[0].split())) or sorted(there)
    return _put(text, one, str(rng.choice(alike)))


def roles(text: str, others: Sequence[str], rng: Random) -> str | None:
    """Two names of the sentence change places."""
    found = names_in(text)
    if len(found) < 2:
        return None
    i = int(rng.integers(len(found) - 1))
    first, second = found[i], found[i + 1]
    between = text[first.end() : second.start()]
    # Names in a list mean the same in any order.
    if first[0] == second[0] or len(between.split()) < 2 or re.fullmatch(r"\W*(?:and|or|,|&)?\W*", between):
        return None
    return text[: first.start()] + second[0] + between + first[0] + text[second.end() :]


def opposites(text: str, others: Sequence[str], rng: Random) -> str | None:
    found = [m for m in WORD.finditer(text) if m[0] in OPPOSITES or m[0].lower() in OPPOSITES]
    # Small words are everywhere; those that say more go first.
    content = [
        m for m in found if m[0].lower() not in ("he", "she", "his", "her", "to", "from", "for", "with", "all", "only", "also")
    ]
    found = content if content and rng.random() < 0.85 else found
    if not found:
        return None
    one = found[int(rng.integers(len(found)))]
    new = str(rng.choice(OPPOSITES.get(one[0]) or OPPOSITES[one[0].lower()]))
    return _put(text, one, new[0].upper() + new[1:] if one[0][0].isupper() else new)


def negations(text: str, others: Sequence[str], rng: Random) -> str | None:
    if found := NEGATED.search(text):
        return _put(text, found, "")
    all_found = list(AUXILIARY.finditer(text))
    if not all_found:
        return None
    one = all_found[0]
    new = f"{one[0]} never" if rng.random() < 0.25 else f"{one[0]} not"
    return _put(text, one, new)


Edit = Callable[[str, Sequence[str], Random], str | None]
# How often each is tried first. Negation is the easiest to tell and the rarest among people.
EDITS: dict[str, tuple[Edit, float]] = {
    "name": (names, 0.3),
    "number": (numbers, 0.2),
    "opposite": (opposites, 0.25),
    "role": (roles, 0.1),
    "month": (months, 0.05),
    "negation": (negations, 0.1),
}


def loosened(sentence: str, rng: Random) -> str:
    """The sentence as somebody would repeat it: without asides, sometimes without its end."""
    text = ASIDE.sub("", sentence) if rng.random() < 0.8 else sentence
    text = LEAD.sub("", text)
    if rng.random() < 0.5:
        cuts = [
            m.start()
            for m in re.finditer(r",\s+(?:and|but|which|who|where|while|with|although|as|making|including|after)\b|;", text)
        ]
        cuts = [at for at in cuts if len(text[:at].split()) >= 6]
        if cuts:
            text = text[: cuts[int(rng.integers(len(cuts)))]].rstrip() + "."
    words = []
    for word in text.split():
        bare = word.rstrip(",.;")
        if bare in SYNONYMS and rng.random() < 0.5:
            word = str(rng.choice(SYNONYMS[bare])) + word[len(bare) :]
        elif rng.random() < 0.35 and (bare.endswith("ly") or bare in DROPPED):
            word = word[len(bare) :]
        words.append(word)
    text = " ".join(words).replace(" ,", ",").replace(" .", ".")
    text = re.sub(r"\s+", " ", text).strip(" \"'“”")
    return text[:1].upper() + text[1:]


def edited(sentence: str, others: Sequence[str], rng: Random) -> Iterator[Edited]:
    """The sentence loosened, and so with one fact changed; nothing, where no fact can be. `others` lend names and numbers."""
    text = loosened(sentence, rng)
    weights = np.array([weight for _, weight in EDITS.values()])
    for i in rng.choice(len(EDITS), size=len(EDITS), replace=False, p=weights / weights.sum()):
        kind = list(EDITS)[int(i)]
        new = EDITS[kind][0](text, others, rng)
        if new is not None and new != text and not any(new in other for other in (sentence, *others)):
            yield Edited(text, "same")
            yield Edited(new, kind)
            return


def _put(text: str, at: re.Match[str], new: str) -> str:
    return text[: at.start()] + new + text[at.end() :]
