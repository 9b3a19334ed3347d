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

    def of(self, texts: NDArray[np.int64]) -> Grams:
        """Those of some of the texts."""
        parts = [self.columns[self.starts[i] : self.starts[i + 1]] for i in texts]
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return Grams(np.concatenate(parts) if parts else np.zeros(0, np.int64), starts)

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
    columns = [_columns(text) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(c) for c in columns], dtype=np.int64)]).astype(np.int64)
    return Grams(np.concatenate(columns) if columns else np.zeros(0, np.int64), starts)


def _columns(text: str) -> NDArray[np.int64]:
    # Words with a space on either side; signs are words of their own.
    spaced = " " + " ".join(re.findall(r"[^\W_]+(?:'[a-z]+)?|[^\w\s]", text)) + " "
    codes = np.frombuffer(spaced.encode("utf-32-le", "replace"), dtype=np.uint32).astype(U64) + U64(1)
    n = len(codes)
    if n < 3:
        return np.zeros(0, np.int64)
    with np.errstate(over="ignore"):
        powers, inverse = (np.cumprod(np.concatenate([[U64(1)], np.full(n, base)]), dtype=U64) for base in (BASE, INVERSE))
        # prefix[j] = sum of codes[i] * BASE**i for i < j; a substring's is the difference, moved back to the power 0.
        prefix = np.concatenate([np.zeros(1, U64), np.cumsum(codes * powers[:-1], dtype=U64)])

        def hashed(start: NDArray[np.int64], end: NDArray[np.int64], kind: int) -> NDArray[np.int64]:
            value = (prefix[end] - prefix[start]) * inverse[start] + (end - start).astype(U64) * U64(0xD6E8FEB86659FD93)
            value = (value ^ (value >> U64(32)) ^ U64(kind * 0x2545F491)) * U64(0xD6E8FEB86659FD93)
            value ^= value >> U64(29)
            return np.asarray((value * U64(0x9FB21C651E98DF25)) >> U64(64 - BITS), dtype=np.int64)

        found = []
        for length in LENGTHS:
            if n >= length:
                start = np.arange(n - length + 1, dtype=np.int64)
                found.append(hashed(start, start + length, 1))
        spaces = np.flatnonzero(codes == U64(33)).astype(np.int64)
        found.append(hashed(spaces[:-1] + 1, spaces[1:], 2))  # words
        found.append(hashed(spaces[:-2] + 1, spaces[2:], 3))  # pairs of words
    return np.asarray(np.unique(np.concatenate(found)), dtype=np.int64)
