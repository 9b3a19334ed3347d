"""US social security numbers that can have been issued, written 3-2-4, or otherwise with a word beside them that says so."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitor.masking.recognisers.runs import matches, words_before

_ISSUED = r"(?!000|666|9)\d{3}%s(?!00)\d{2}%s(?!0000)\d{4}"
_DASHED = re.compile(r"(?<![\w.-])" + _ISSUED % ("-", "-") + r"(?![\w-])")
_BARE = re.compile(r"(?<![\w.-])" + _ISSUED % ("[ .]?", "[ .]?") + r"(?![\w-])(?!\.\d)")
_WORDS = frozenset({"ssn", "ssns", "social"})


def places(text: str, hint: str = "") -> Iterator[tuple[int, int]]:
    for found in matches(_DASHED, text):
        yield found.span()
    for found in matches(_BARE, text):
        if not _WORDS.isdisjoint(words_before(text, found.start(), hint)):
            yield found.span()


def said_by(name: str) -> bool:
    """Whether a field of this name holds social security numbers."""
    return not _WORDS.isdisjoint(words_before("", 0, name))
