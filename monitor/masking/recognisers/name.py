"""Names of people behind a title, a greeting or an introduction. A name without such words before it is not seen."""

from __future__ import annotations

import re
from collections.abc import Iterator

_ONE = r"[^\W\d_a-z][^\W\d_A-Z]{1,24}(?:[-'’][^\W\d_]{2,24})?"
_TITLE = r"(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Herr|Frau|Monsieur|Madame|Señora?)\b\.?\s{1,2}"
_NAMES = re.compile(
    rf"(?:\b{_TITLE}"
    rf"|\b(?:[Dd]ear|[Hh]i|[Hh]ello|[Hh]ey)\s(?:{_TITLE})?"
    r"|\b(?:[Mm]y name is|[Mm]y name's|[Tt]his is|I am|I'm|[Nn]ame:|[Ss]igned,|[Rr]egards,|[Ss]incerely,)\s{1,2})"
    rf"({_ONE}(?:[ \t](?:[A-Z]\.?[ \t])?{_ONE}){{0,2}})"
)
_OTHERS = frozenset(
    [
        "Mr", "Mrs", "Ms", "Miss", "Mx", "Dr", "Prof",
        "I", "The", "A", "An", "All", "Sir", "Madam", "Everyone", "Team", "There", "Customer", "Friend", "Friends", "World",
        "It", "This", "That", "Not", "In", "On", "At", "Is", "Very", "So", "Sorry", "Happy", "Looking", "From", "Monday",
        "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "Support", "Hiring", "Manager",
    ]
)  # fmt: skip


def places(text: str, hint: str = "") -> Iterator[tuple[int, int]]:
    for found in _NAMES.finditer(text):
        if found[1].split()[0] not in _OTHERS:
            yield found.span(1)
