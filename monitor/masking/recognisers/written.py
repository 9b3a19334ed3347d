"""Other ways to write the same: a digit of full width, a space that does not break, a dash for a hyphen, and what has no width.

The recognisers look at the text as it would stand in ASCII; where they find something is told in places of the text itself.
"""

from __future__ import annotations

import re

SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
HYPHENS = "\u2010-\u2015\u2043\u2212\ufe58\ufe63\uff0d"
DOTS = "\u00b7\u2024\uff0e"
SIGNS = "\uff20\uff0b\ufe6b"
DIGITS = "\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\uff10-\uff19"
UNSEEN = "\u00ad\u180e\u200b-\u200f\u2060-\u2064\ufeff"
"""Soft hyphens, joiners, marks of direction: nobody sees them, and they are left out."""

_OTHERWISE = re.compile(f"[{SPACES}{HYPHENS}{DOTS}{SIGNS}{DIGITS}{UNSEEN}]")
_UNSEEN = re.compile(f"[{UNSEEN}]")
ESCAPED = re.compile(
    r"\\u(?:00|(?:1680|180e|20(?:0[0-9a-f]|1[0-5]|24|2f|43|5f|6[0-4])|2212|3000|06[6f][0-9]|096[6-9a-f]"
    r"|fe(?:58|63|6b|ff)|ff(?:0[bde]|1[0-9]|20)))",
    re.IGNORECASE,
)
"""The same in JSON that only speaks ASCII."""


def _each(chars: str) -> list[str]:
    """The characters of a class, whose ranges have a hyphen."""
    ends = re.findall("(.)-(.)|(.)", chars)
    return [chr(code) for low, high, one in ends for code in range(ord(low or one), ord(high or one) + 1)]


_PLAIN = (
    dict.fromkeys(_each(SPACES), " ")
    | dict.fromkeys(_each(HYPHENS), "-")
    | dict.fromkeys(_each(DOTS), ".")
    | {"\uff20": "@", "\ufe6b": "@", "\uff0b": "+"}
    | {one: str(int(one)) for one in _each(DIGITS)}
)
_ASCII = bytes(range(128))


def plain(text: str) -> tuple[str, list[int] | None]:
    """The text in ASCII's way, and of each of its characters the place in `text`; None where the places are the same.

    >>> plain("4\N{EN DASH}\N{FULLWIDTH DIGIT TWO}"), plain("a\N{ZERO WIDTH SPACE}b")
    (('4-2', None), ('ab', [0, 2]))
    """
    if text.isascii():
        return text, None
    # Of a text in Latin letters little is left without ASCII, and that much sooner than a pattern is through with it.
    others = text.encode(errors="replace").translate(None, _ASCII).decode()
    if not (found := set(_OTHERWISE.findall(others))):
        return text, None
    for one in found:  # few, and each replaced in one go: `translate` would ask for every character of the text
        text = text.replace(one, _PLAIN.get(one, one))
    if not _UNSEEN.search(text):
        return text, None
    places = [i for i, one in enumerate(text) if not _UNSEEN.match(one)]
    return _UNSEEN.sub("", text), places
