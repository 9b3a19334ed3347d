"""Where digits crowd in a text. The patterns for numbers look only there: over a whole text each would take ten times longer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

# Each byte as a shape: a digit, what may stand between the digits of a number, a letter, or something else.
_SHAPE = bytes(
    48 if 48 <= i < 58 else 45 if chr(i) in " .()/-" else 65 if i < 128 and chr(i).isalpha() else 97 for i in range(256)
)
_RUN = re.compile(rb"0[0-]{5,}0")
_FEWEST = 7  # digits of a phone number; cards and social security numbers have more
_NEAR = 48  # characters before a number in which a word may say what it is
_WORD = re.compile(r"[^\W\d_]+")
BEFORE, AFTER = 3, 16  # what may belong to a number around its digits: a plus and a parenthesis, an extension


def shape(data: bytes) -> bytes:
    """Of a text at one byte a character, so that places are those of the text."""
    return data.translate(_SHAPE)


@lru_cache(maxsize=4)
def runs(text: str) -> tuple[tuple[int, int], ...]:
    """From the first digit to the last, where at least seven stand with no more than separators between them. Remembered, as
    each kind of number asks for those of the same text."""
    shapes = shape(text.encode("latin-1", "replace"))
    return tuple(found.span() for found in _RUN.finditer(shapes) if shapes.count(b"0", *found.span()) >= _FEWEST)


def matches(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Those of the pattern that begin in a run."""
    for start, end in runs(text):
        for found in pattern.finditer(text, max(0, start - BEFORE), min(len(text), end + AFTER)):
            if found.start() >= end:
                break
            yield found


def words_before(text: str, start: int, hint: str = "") -> set[str]:
    """Words close before a place, and those of the field's name, in lower case."""
    return set(_WORD.findall(f"{hint} {text[max(0, start - _NEAR) : start]}".lower()))
