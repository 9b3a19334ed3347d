"""What the toxicity head reads of a text: one spelling for many, and hashed character n-grams.

Abuse is written to pass filters: with digits for letters, stretched, spaced out, in emoji. `plain` undoes what can be undone
without a dictionary. `Grams` are hashed words, word pairs and character n-grams (Weinberger et al., "Feature Hashing", ICML
2009), all made by array operations, so that a page costs about a millisecond.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BITS = 17
LENGTHS = (3, 4, 5)
"""Characters of a gram; a word's edges count as one each."""

CHARACTERS_AT_ONCE = 16_384  # hashed together, in some megabytes

U64 = np.uint64
BASE = U64(0x9E3779B97F4A7C15)
INVERSE = U64(pow(0x9E3779B97F4A7C15, -1, 2**64))
LEET = str.maketrans("@$013457!", "asoieasti")
LEET_WORD = re.compile(r"(?<![\w@$!])(?=[\w@$!]*[a-z])[a-z0-9@$!]*[a-z0-9@$](?![\w@$])")
MIXED = re.compile(r"[a-z][013457@$!]+[a-z]|^[@$][a-z]{2}.*[a-z]$|[a-z]{2}[$@]+$")
# Single letters set apart by one and the same sign: s p a c e d, d.o.t.t.e.d
SPACED = re.compile(r"(?<![^\W_])([a-z])([ .\-_*])(?=[a-z]\2[a-z](?![a-z]))(?:[a-z]\2)+[a-z](?![^\W_])")
STRETCHED = re.compile(r"(.)\1{2,}")
SPACE = re.compile(r"\s+")
WORD = re.compile(r"[^\W_]+(?:'[a-z]+)?|[^\w\s]")
MENTION = re.compile(r"(?<!\w)@\w+")
LINK = re.compile(r"https?://\S+|www\.\S+")


@lru_cache(maxsize=4096)
def sign(character: str) -> str:
    """A symbol by its name, as text can be read; what changes no meaning is left out.

    >>> sign("🐍")
    ' snake '
    """
    category = unicodedata.category(character)
    if category == "So" or (category == "Sk" and ord(character) > 0x1F000):
        return f" {unicodedata.name(character, '').lower().replace('emoji modifier ', '')} "
    return "" if category in ("Cf", "Mn", "Cc") and not character.isspace() else character


def plain(text: str) -> str:
    """The text in one spelling: lower case, emoji by name, digits and signs in words as the letters they stand for.

    >>> plain("What a  st00pid 🐍, a.w.f.u.l!!!!!")
    'what a stoopid snake , awful!!'
    """
    lowered = unicodedata.normalize("NFKC", text).lower()
    if not lowered.isascii():
        lowered = "".join(c if c.isalnum() else sign(c) for c in lowered)
    lowered = MENTION.sub("user", LINK.sub("link", lowered))
    lowered = SPACED.sub(lambda m: m[0].replace(m[2], ""), lowered)
    lowered = LEET_WORD.sub(lambda m: m[0].translate(LEET) if MIXED.search(m[0]) else m[0], lowered)
    lowered = STRETCHED.sub(r"\1\1", lowered)
    return SPACE.sub(" ", lowered).strip()


@dataclass(frozen=True, slots=True)
class Grams:
    """Which hashed features each of n texts has: `columns[starts[i]:starts[i + 1]]`, each once, ascending."""

    columns: NDArray[np.int64]
    starts: NDArray[np.int64]  # (n + 1,)

    def sums(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weights, (2**BITS, k), added up over the features of each text and divided by the root of their number: (n, k)."""
        out = np.zeros((len(self.starts) - 1, weights.shape[1]))
        for i, (start, end) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            if end > start:
                # Text by text, so that the order of a sum does not depend on the batch.
                out[i] = weights[self.columns[start:end]].sum(axis=0, dtype=np.float64) / np.sqrt(end - start)
        return out


def grams(texts: Sequence[str]) -> Grams:
    """Of texts in their plain spelling."""
    columns: list[NDArray[np.int64]] = []
    many: list[NDArray[np.int64]] = []
    some: list[str] = []
    size = 0
    for text in texts:
        # Words with a space on either side; signs are words of their own.
        some.append(" " + " ".join(WORD.findall(text)) + " ")
        size += len(some[-1])
        if size > CHARACTERS_AT_ONCE:
            _add(some, columns, many)
            some, size = [], 0
    _add(some, columns, many)
    starts = np.concatenate([np.zeros(1, np.int64), *many]).cumsum()
    return Grams(np.concatenate(columns) if columns else np.zeros(0, np.int64), starts)


def _add(spaced: Sequence[str], columns: list[NDArray[np.int64]], many: list[NDArray[np.int64]]) -> None:
    """The features of some texts, hashed together: a substring's hash does not depend on where it stands."""
    lengths = np.array([len(text) for text in spaced], dtype=np.int64)
    codes = np.frombuffer("".join(spaced).encode("utf-32-le", "replace"), dtype=np.uint32).astype(U64) + U64(1)
    n = len(codes)
    owner = np.repeat(np.arange(len(spaced), dtype=np.int64), lengths)
    with np.errstate(over="ignore"):
        powers, inverse = (np.cumprod(np.concatenate([[U64(1)], np.full(n, base)]), dtype=U64) for base in (BASE, INVERSE))
        # prefix[j] = sum of codes[i] * BASE**i for i < j; a substring's is the difference, moved back to the power 0.
        prefix = np.concatenate([np.zeros(1, U64), np.cumsum(codes * powers[:-1], dtype=U64)])

        def hashed(start: NDArray[np.int64], end: NDArray[np.int64], kind: int) -> NDArray[np.int64]:
            value = (prefix[end] - prefix[start]) * inverse[start] + (end - start).astype(U64) * U64(0xD6E8FEB86659FD93)
            value = (value ^ (value >> U64(32)) ^ U64(kind * 0x2545F491)) * U64(0xD6E8FEB86659FD93)
            value ^= value >> U64(29)
            column = np.asarray((value * U64(0x9FB21C651E98DF25)) >> U64(64 - BITS), dtype=np.int64)
            return owner[start] << BITS | column

        found = [np.zeros(0, np.int64)]
        for length in LENGTHS:
            start = np.arange(max(0, n - length + 1), dtype=np.int64)
            start = start[owner[start] == owner[start + length - 1]]
            found.append(hashed(start, start + length, 1))
        spaces = np.flatnonzero((codes == U64(33)) & (lengths[owner] > 2)).astype(np.int64)
        for words in (1, 2):
            before, after = spaces[:-words], spaces[words:]
            inside = owner[before] == owner[after]
            found.append(hashed(before[inside] + 1, after[inside], 1 + words))
    features = np.unique(np.concatenate(found))
    columns.append(features & (2**BITS - 1))
    many.append(np.bincount(features >> BITS, minlength=len(spaced)))
