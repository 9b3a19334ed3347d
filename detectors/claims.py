"""Splits an answer into claims, the pieces that can be supported or not: sentences and list items, with their offsets.

Rules, not a model: Grefenstette and Tapanainen, "What is a word, what is a sentence?" (1994) for the abbreviations, and
Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary Detection" (2006) for judging a doubtful full stop by the word
after it. Chosen over pysbd, which keeps list markers in its spans, knows no code, headings or small-letter chat, takes ten
times as long on a page and more than linearly so beyond, and had its last release in 2021.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """`text[start:end]`, without white space at either end."""

    start: int
    end: int


class Claims(NamedTuple):
    spans: tuple[Span, ...]
    truncated: bool
    """There was more than `max_claims`."""


def split_claims(answer: str, max_claims: int = 64) -> Claims:
    """The first `max_claims` claims of `answer`. Time is linear in the length of the answer.

    A question claims nothing, nor do headings, code blocks, the line that introduces a list (it ends with a colon), and
    what has no letter or digit in it.

    >>> answer = "Paris has 2.1 million people. It lies on the Seine, e.g. near Rouen. Anything else?"
    >>> [answer[start:end] for start, end in split_claims(answer).spans]
    ['Paris has 2.1 million people.', 'It lies on the Seine, e.g. near Rouen.']
    """
    found: list[Span] = []
    for span in sentences(answer):
        if answer[span.start : span.end].rstrip(CLOSERS).endswith(("?", "？", "؟", ":", "：")):
            continue
        if len(found) == max_claims:
            return Claims(tuple(found), True)
        found.append(span)
    return Claims(tuple(found), False)


def sentences(text: str) -> Iterator[Span]:
    """Sentences and list items in order. None is longer than `MAX_CHARS`, none is without a letter or digit."""
    for block in blocks(text):
        start = block.start
        for end in boundaries(text, block):
            yield from pieces(text, start, end)
            start = end
        yield from pieces(text, start, block.end)


MAX_CHARS = 600
CLOSERS = "\"'”’»)]}」』）*_ "

FENCE = re.compile(r"[ \t]*(```|~~~)")
HEADING = re.compile(r"[ \t]*(#{1,6}[ \t]|={3,}[ \t]*$|-{3,}[ \t]*$)")
# `A.` marks no item: it is an initial more often.
ITEM = re.compile(r"[ \t>]*(?:[-*+•‣◦▪·–—]|\(?\d{1,3}[.)]|\(?[A-Za-z]\))[ \t]+")
# A full stop needs white space behind it (so urls, decimals and file names stay whole); its wide forms do not. The
# look-behind and the possessive `++` keep a megabyte of exclamation marks linear.
STOP = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]*_]*+(?=\s)|[。！？｡؟।॥]++[」』”’）)\"]*+")
WORD_BEFORE = re.compile(r"[^\s(\[\"'“‘]*\Z")
WORD_AFTER = re.compile(r"[\s\"'“‘(\[*_]*+(\w{1,24})")


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Never the end of a sentence: a title before a name, a number's mark before a number, and what goes on in any case.
TITLES = words("Mr Mrs Ms Dr Prof Rev Hon Gen Col Capt Lt Sgt Cmdr Adm Gov Sen Rep Pres Mt St Ste Messrs Mme Mlle")
NUMBERED = words("no nos nr fig figs eq eqs sec ch pp p vol art approx ca c v")
LINKING = words("e.g eg i.e ie cf viz vs bzw z.b d.h u.a")
# These may end a sentence: they do when what follows starts one.
DOUBTFUL = words(
    "etc inc ltd co corp bros jr sr esq al u.s u.k u.n e.u d.c a.m p.m a.d b.c ph.d m.d b.a m.a m.sc b.sc "
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun ave blvd rd est min max sq ft"
)
STARTERS = words(
    "the a an it its he she they we i you this that these those there his her their our my in on at as for from by "
    "with when while after before since until if although though because however but and so then also both each some "
    "many most all one two during under over between according what which who how why where not no "
    "do does did have can could would should"
)


def blocks(text: str) -> Iterator[Span]:
    """Paragraphs and list items: what a sentence cannot run across. List markers, headings and code are left out."""
    start = end = -1
    before = fence = ""
    for line in lines(text):
        content = text[line.start : line.end]
        if marker := FENCE.match(content):
            fence = "" if fence == marker[1] else fence or marker[1]
        prose = not (fence or marker or HEADING.match(content)) and not content.isspace() and content != ""
        item = ITEM.match(content) if prose else None
        if start >= 0 and not (prose and not item and wraps(before, content)):
            yield Span(start, end)
            start = -1
        if prose:
            start = start if start >= 0 else line.start + (item.end() if item else 0)
            end, before = line.end, content
    if start >= 0:
        yield Span(start, end)


def lines(text: str) -> Iterator[Span]:
    start = 0
    for found in re.finditer(r"\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]|\Z", text):
        yield Span(start, found.start())
        start = found.end()


def wraps(before: str, after: str) -> bool:
    """Does the line `after` go on with `before`, as in text broken at a column, or start anew, as in a list?"""
    if before.rstrip()[-1:] in set(".!?:;。！？"):
        return False
    return after.lstrip()[:1].islower() or len(before) > 60


def boundaries(text: str, block: Span) -> Iterator[int]:
    """Where in the block a sentence ends."""
    for stop in STOP.finditer(text, block.start, block.end):
        if in_code(text, block.start, stop.start()):
            continue
        if stop[0][0] in ".!?…" and not ends(text, block, stop):
            continue
        yield stop.end()


def ends(text: str, block: Span, stop: re.Match[str]) -> bool:
    """Whether this stop ends a sentence, judged by the words on both sides."""
    # No word that matters here is longer than 24 characters, so the look back stays bounded.
    found = WORD_BEFORE.search(text, max(block.start, stop.start() - 24), stop.start())
    word = found[0] if found else ""
    after = WORD_AFTER.match(text, stop.end(), block.end)
    if not after:
        return True
    starts = after[1].lower() in STARTERS
    if stop[0] == "." and word:
        if word in TITLES or word.lower() in LINKING or (word.lower() in NUMBERED and after[1][0].isdigit()):
            return False
        initial = len(word) == 1 and word.isupper()
        if initial or word.lower() in DOUBTFUL or re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]", word):
            return starts and after[1][0].isupper()
    # A small letter goes on with the sentence (`"Is it?" he asked.`, `it went... on`), but for people who write like
    # this. they begin with the words that sentences begin with, and put no quote or dots before them.
    return not after[1][0].islower() or (starts and stop[0] in set(".!?") and word.isalpha())


def in_code(text: str, start: int, at: int) -> bool:
    """Inside `inline code`. Looks back at most `MAX_CHARS`."""
    return text.count("`", max(start, at - MAX_CHARS), at) % 2 == 1


def pieces(text: str, start: int, end: int) -> Iterator[Span]:
    """`text[start:end]` trimmed, and cut at white space where it is longer than `MAX_CHARS`."""
    while start < end:
        stop = end
        if end - start > MAX_CHARS:
            space = max(text.rfind(" ", start, start + MAX_CHARS), text.rfind("\n", start, start + MAX_CHARS))
            stop = space if space > start else start + MAX_CHARS
        piece = text[start:stop]
        if any(char.isalnum() for char in piece):
            left = start + len(piece) - len(piece.lstrip())
            yield Span(left, start + len(piece.rstrip()))
        start = stop + (stop < end and text[stop : stop + 1].isspace())
