"""A text cut into windows of a sentence or a few, so that one bad sentence in a long answer is not averaged away."""

from __future__ import annotations

import re
from typing import NamedTuple

# A sentence ends at its stop, or with its line. Possessive, so that a megabyte of dots stays linear.
SENTENCE = re.compile(r"[^\n.!?…。！？]*+(?:\n++|[.!?…。！？]++[\"'”’»)\]]*+\s*+|\Z)")


class Window(NamedTuple):
    """`text[start:end]`, without white space at its ends."""

    start: int
    end: int


def windows(text: str, size: int, most: int, *, least: int) -> list[Window]:
    """Sentences; short ones together until they have `least` characters, long ones cut at `size`, at a space where there is one.

    The first `most` of them; ask for one more to see whether there are more.

    >>> [tuple(w) for w in windows("One. Two! A third one?", 12, 9, least=6)]
    [(0, 9), (10, 22)]
    >>> windows(" ", 12, 9, least=6)
    []
    """
    found: list[Window] = []
    start = end = 0
    for sentence in SENTENCE.finditer(text):
        if end > start and (end - start >= least or sentence.end() - start > size):
            _add(found, text, start, end, size)
            start = end
        end = sentence.end()
        if len(found) >= most:
            return found[:most]
        if end == len(text):
            break
    _add(found, text, start, end, size)
    return found[:most]


def _add(found: list[Window], text: str, start: int, end: int, size: int) -> None:
    while start < end:
        cut = end
        if end - start > size:
            space = text.rfind(" ", start + size // 2, start + size)
            cut = space if space > 0 else start + size
        piece = text[start:cut]
        left = len(piece) - len(piece.lstrip())
        if kept := piece.strip():
            found.append(Window(start + left, start + left + len(kept)))
        start = cut
