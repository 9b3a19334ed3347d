"""IP addresses, version 4 and 6."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

_V4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_V6 = re.compile(r"(?<![\w.:])[0-9A-Fa-f:]{2,45}(?:(?<=:)\d{1,3}(?:\.\d{1,3}){3})?(?![\w:]|\.\d)")
_SHORTEST_WORD = 5  # a::b is also a word of some programming languages


def may_stand_in(text: str) -> bool:
    return text.count(".") >= 3 or "::" in text or text.count(":") >= 7


def places(text: str, hint: str = "") -> Iterator[tuple[int, int]]:
    for found in _V4.finditer(text):
        if all(int(part) <= 255 for part in found[0].split(".")):
            yield found.span()
    if text.count(":") < 2:
        return
    for found in _V6.finditer(text):
        if found[0].count(":") >= 2 and (len(found[0]) > _SHORTEST_WORD or found[0] == "::1"):
            try:
                ipaddress.IPv6Address(found[0])
            except ValueError:
                continue
            yield found.span()
