"""Payment cards: a range that cards are issued in, its lengths, and the check digit (ISO/IEC 7812)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from monitor.masking.recognisers.runs import matches

_CARD = re.compile(r"(?<![\w.+-])(?<!\d )[1-6]\d{2,}(?:[ .-]\d{2,})*(?![\w-])(?!\.\d)")
_FEWEST, _MOST = 12, 19
_GAPS = str.maketrans("", "", " .-")


def places(text: str, hint: str = "") -> Iterator[tuple[int, int]]:
    for found in matches(_CARD, text):
        digits = found[0].translate(_GAPS)
        if _FEWEST <= len(digits) <= _MOST:
            if is_card(digits) and _grouped(found[0]):
                yield found.span()
        elif len(digits) > _MOST:
            yield from _within(found[0], found.start())


def is_card(digits: str) -> bool:
    """
    >>> is_card("4111111111111111"), is_card("4111111111111112"), is_card("9111111111111111")
    (True, False, False)
    """
    first, two, four = digits[0], int(digits[:2]), int(digits[:4])
    lengths: Collection[int] = ()
    if first == "4":
        lengths = (13, 16, 19)
    elif two in (34, 37) or four in (2131, 1800):
        lengths = (15,)
    elif two in (30, 36, 38, 39):
        lengths = (14, 16, 19)
    elif two == 35 or 51 <= two <= 55 or 2221 <= four <= 2720:
        lengths = (16, 19) if two == 35 else (16,)
    elif two == 50 or 56 <= two <= 69:  # Maestro, Discover, UnionPay
        lengths = range(_FEWEST, _MOST + 1)
    return len(digits) in lengths and luhn(digits)


def luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _grouped(text: str) -> bool:
    groups = re.split("[ .-]", text)
    gaps = {c for c in text if c in " .-"}
    if "." in gaps and len(groups) < 3:
        return False  # a fraction
    return len(groups) == 1 or (len(gaps) == 1 and all(3 <= len(g) <= 7 for g in groups))


def _within(run: str, offset: int) -> Iterator[tuple[int, int]]:
    """Cards in a longer row of groups, as in a table: four groups of four, or 4-6-5."""
    groups = [(m.start(), m.end()) for m in re.finditer(r"\d+", run)]
    place = 0
    while place < len(groups):
        for count in (1, 4, 3):
            some = groups[place : place + count]
            if len(some) < count:
                continue
            sizes = [end - start for start, end in some]
            whole = sizes == [4, 4, 4, 4] or sizes == [4, 6, 5] or (count == 1 and _FEWEST <= sizes[0] <= _MOST)
            if whole and is_card(run[some[0][0] : some[-1][1]].translate(_GAPS)):
                yield offset + some[0][0], offset + some[-1][1]
                place += count - 1
                break
        place += 1
