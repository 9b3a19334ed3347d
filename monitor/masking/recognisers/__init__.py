"""What personal data and secrets look like in text: one file for each kind, and what puts `[EMAIL]`, `[CARD]` in their place.

Clean text is nearly all text, so a few searches for single bytes and words settle most of it before any pattern is tried.
Every pattern is bounded: the time grows with the length of a text, never with its square.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from monitor.masking.recognisers import card, email, iban, ip, key, name, phone, ssn
from monitor.masking.recognisers.written import plain

Place = tuple[int, int]

RECOGNISERS: dict[str, Callable[[str, str], Iterator[Place]]] = {
    "key": key.places,
    "email": email.places,
    "iban": iban.places,
    "card": card.places,
    "ssn": ssn.places,
    "ip": ip.places,
    "phone": phone.places,
    "name": name.places,
}
"""Kind -> (text, hint) -> where it stands. `hint` is the name of the field that the text is in. Where two kinds see something
in one place, the first listed names it."""

ORDER = tuple(RECOGNISERS)
NUMBERS = ("iban", "card", "ssn", "phone")
_ESCAPE = re.compile(r"\\[nrtbf]")
MAX_PASSES = 6  # what is replaced can leave beside it what only then reads as something else; twice has never been needed

# Each byte as a digit or something else; what stands between the digits of a number is left out on the way.
_DIGITS = bytes(48 if 48 <= i < 58 else 97 for i in range(256))
_BETWEEN = b" .()/-"
_FEWEST = b"0" * 7  # digits of a phone number; cards, accounts and social security numbers have more


class Recognisers:
    """The kinds that are asked for. Any thread may call it."""

    def __init__(self, kinds: Collection[str]) -> None:
        self.kinds = tuple(kind for kind in RECOGNISERS if kind in kinds)
        self._numbers = any(kind in kinds for kind in NUMBERS)
        self._email, self._key, self._ip, self._name = (kind in kinds for kind in ("email", "key", "ip", "name"))

    def suspects(self, text: str) -> list[str]:
        """Kinds that may stand in the text: none for most texts, at a fraction of the cost of looking."""
        text, _ = plain(text)
        data = text.encode("latin-1", "replace")  # one byte a character, whatever the script
        found = []
        if self._key and key.may_stand_in(text, data):
            found.append("key")
        if self._email and email.may_stand_in(text):
            found.append("email")
        if self._numbers and _FEWEST in data.translate(_DIGITS, _BETWEEN):
            found += [kind for kind in self.kinds if kind in NUMBERS]
        if self._ip and ip.may_stand_in(text):
            found.append("ip")
        if self._name:
            found.append("name")
        return found

    def find(self, text: str, hint: str = "", kinds: Collection[str] | None = None) -> list[tuple[int, int, str]]:
        """(start, end, kind) in order, none overlapping another. `kinds` are the suspects where they are known."""
        text, original = plain(text)
        if "\\" in text:  # in JSON that was not read, the n of \\n is no letter of what follows
            text = _ESCAPE.sub("  ", text)
        kinds = self.suspects(text) if kinds is None else kinds
        found = _apart((start, end, kind) for kind in kinds for start, end in RECOGNISERS[kind](text, hint))
        if original is None:
            return found
        return [(original[start], original[end - 1] + 1, kind) for start, end, kind in found]

    def masked(self, text: str, hint: str = "") -> tuple[str, Counter[str]]:
        """The text with what was recognised replaced, and how many of each kind. Masking what is masked changes nothing."""
        counts: Counter[str] = Counter()
        for _ in range(MAX_PASSES):
            if not (found := self.find(text, hint)):
                break
            pieces = []
            last = 0
            for start, end, kind in found:
                pieces += [text[last:start], token(kind)]
                last = end
                counts[kind] += 1
            text = "".join([*pieces, text[last:]])
        return text, counts


def token(kind: str) -> str:
    """What stands where something was masked."""
    return f"[{kind.upper()}]"


def _apart(places: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """What overlaps becomes one place, of the first kind among them: better too much than half a number. But the password of a
    URL reads as an e-mail address together with the host, and the host may stay."""
    kept: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(places):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end, kind))
            continue
        first, last, other = kept[-1]
        if (other, kind) != ("key", "email"):
            kept[-1] = (first, max(last, end), min(kind, other, key=ORDER.index))
    return kept
