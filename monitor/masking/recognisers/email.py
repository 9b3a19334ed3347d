"""E-mail addresses, of any script, also where a query string or unread JSON writes the @ in another way."""

from __future__ import annotations

import re
from collections.abc import Iterator

_AT = re.compile(r"@|%40|\\u0040")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.#$&+-^_~%!*")
_MAX_LOCAL = 64
_NOT_PEOPLE = frozenset({"git", "hg", "svn"})  # git@host.example:path is how a program logs in


def may_stand_in(text: str) -> bool:
    return "@" in text or "%40" in text or "\\u0040" in text


def places(text: str, hint: str = "") -> Iterator[tuple[int, int]]:
    free = 0
    for at in _AT.finditer(text):
        domain = _DOMAIN.match(text, at.end())
        if domain is None:
            continue
        start = _local_part(text, at.start(), free)
        if start < at.start() and text[start : at.start()] not in _NOT_PEOPLE:
            yield start, domain.end()
            free = domain.end()


def _local_part(text: str, at: int, free: int) -> int:
    """Where the part before the @ begins."""
    first = max(free, at - _MAX_LOCAL)
    start = at
    while start > first and (_is_local(text[start - 1]) or (text[start - 1] == "\\" and text[start : start + 1] == "u")):
        start -= 1
    for mark in "&#":  # what leads it in a query string or an anchor
        start = max(start, text.rfind(mark, start, at) + 1)
    while start < at and text[start] in ".$^~%!*+-":
        start += 1
    return start


def _is_local(one: str) -> bool:
    return one in _LOCAL or (one > "\x7f" and one.isalnum())
