"""One set of masking rules, applied to a value of any shape: which fields are kept, masked, hashed or dropped.

What the rules do not name is masked: text goes through the recognisers, everything else stays as it is. Nothing is changed
in place; a value that needs no masking comes back as the same object.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from monitor.masking.recognisers import NUMBERS, Recognisers, key, phone, ssn, token
from monitor.masking.recognisers.card import is_card
from monitor.masking.recognisers.written import ESCAPED

Count = Callable[[str, int], None]
"""(kind, how many): what was masked, hashed or dropped."""

HASH = "hash:"
_HASHED = re.compile(r"hash:[0-9a-f]{32}")
_CACHED, _SHORT = 4096, 64  # texts known to be clean, and names of fields; the longest of them
_MAX_JSON = 8  # JSON in JSON in JSON
_CARD_DIGITS = range(12, 20)
_FEWEST_CARD, _FEWEST_DIGITS = 10**11, 10**6  # smaller integers are neither cards nor phone numbers
_SAME_TOGETHER = frozenset((*NUMBERS, "key"))
_JSON_BEGINS = frozenset('{["')
_SECRET_MASKED = re.compile(r"(?:[A-Za-z]{1,16} )?\[KEY\]")


class Policy:
    """Any thread may call it."""

    def __init__(self, kinds: tuple[str, ...], fields: Mapping[str, str], hash_key: bytes | None, count: Count) -> None:
        """`fields`: path with * for anything -> keep, mask, hash or drop. The pattern with the most letters wins."""
        self.recognisers = Recognisers(kinds)
        self.kinds = kinds
        self.fields = dict(fields)
        self.count = count
        self._key = hash_key
        by_weight = sorted(fields.items(), key=lambda rule: len(rule[0].replace("*", "")))
        self._rules = [(re.compile(_pattern(path), re.DOTALL), action) for path, action in reversed(by_weight)]
        self._actions: dict[str, str | None] = {}
        self._clean: set[str] = set()
        self._names: set[str] = set()
        self._names_told: dict[str, str] = {}

    @property
    def removes(self) -> bool:
        """Whether some field may not be stored in any form that can be read."""
        return not {"hash", "drop"}.isdisjoint(self.fields.values())

    def masked(self, value: Any, path: str = "", *, numbers: bool = True) -> Any:
        """`value` as it may be stored; `numbers`: whether an integer can be a card or phone number too.

        Raises:
            RecursionError: it is nested too deep.
        """
        if not self._rules:
            return value if self._is_clean(value, numbers) else self._value(value, path.rpartition(".")[2], None, numbers, 0)
        if not path:
            return self._value(value, "", "", numbers, 0)
        return self.masked_at(value, path, numbers=numbers)

    def masked_at(self, value: Any, path: str, *, numbers: bool = True) -> Any:
        """The same where a rule may name the value itself; None where it is dropped."""
        new = self._field(value, path.rpartition(".")[2], path, numbers)
        return None if new is _DROPPED else new

    def text(self, text: str, hint: str = "", depth: int = 0) -> str:
        """`hint` is the name of the field it stands in, which may say what it is."""
        what = self._told(hint) if hint else ""
        if what == "secret" and text and "key" in self.kinds:
            if _SECRET_MASKED.fullmatch(text):
                return text
            self.count("key", 1)
            return token("key")
        if not what and text in self._clean:
            return text
        if depth < _MAX_JSON and text[:1] in _JSON_BEGINS and (read := parsed(text)) is not None:
            # On the values, not on the JSON: what was replaced there could end in the middle of an escape.
            value, dumped = read
            new = self._value(value, hint, None, True, depth + 1)
            return text if new is value else dumped(new)
        new_text, counts = self.recognisers.masked(text, hint if what else "")
        for kind, many in counts.items():
            self.count(kind, many)
        if not counts and not what and len(text) <= _SHORT:
            self._remember(self._clean, text)
        return new_text

    def hashed(self, value: Any) -> Any:
        """The same for equal values under one key, in whatever field they stand."""
        if value is None or self._key is None or (isinstance(value, str) and _HASHED.fullmatch(value)):
            return value
        text = value if isinstance(value, str) else _dumped(value)
        self.count("hashed", 1)
        return HASH + keyed(self._key, text.encode(errors="surrogatepass"))

    def action(self, path: str) -> str | None:
        if path in self._actions:
            return self._actions[path]
        found = next((action for pattern, action in self._rules if pattern.fullmatch(path)), None)
        if len(self._actions) >= _CACHED:
            self._actions.clear()
        self._actions[path] = found
        return found

    # --- values ---

    def _is_clean(self, value: Any, numbers: bool) -> bool:
        """Whether there is nothing to mask anywhere in it: all its texts are looked at in one go."""
        texts: list[str] = []
        if not self._gathered(value, texts, numbers):
            return False
        text = "\n".join(texts)
        if "\\" in text and ("\\/" in text or ESCAPED.search(text)):  # escapes of JSON, behind which no pattern sees anything
            return False
        suspects = self.recognisers.suspects(text)
        # A date is a suspect, and common, and so is the word "passage". What is a number or a key in one text is one in all of
        # them together.
        if not suspects:
            return True
        if not _SAME_TOGETHER.issuperset(suspects) or self.recognisers.find(text, kinds=suspects):
            return False
        for one in texts:  # next time the name of a model, with the date in it, is no suspect any more
            if len(one) <= _SHORT:
                self._remember(self._clean, one)
        return True

    def _gathered(self, value: Any, texts: list[str], numbers: bool) -> bool:
        """Puts the texts in; False when something needs a closer look anyway."""
        kind = type(value)
        if kind is str:
            if value not in self._clean:
                texts.append(value)
        elif kind is dict:
            for name, one in value.items():
                if name not in self._names and not self._plain_name(name):
                    return False
                kind = type(one)
                if kind is str:
                    if one not in self._clean:
                        texts.append(one)
                elif kind is dict or kind is list:
                    if not self._gathered(one, texts, numbers):
                        return False
                elif kind is int and numbers and one > _FEWEST_CARD and self._is_card(one):
                    return False
        elif kind is list:
            for one in value:
                if type(one) is str:
                    if one not in self._clean:
                        texts.append(one)
                elif not self._gathered(one, texts, numbers):
                    return False
        elif kind is int and numbers and value > _FEWEST_CARD and self._is_card(value):
            return False
        return True

    def _plain_name(self, name: Any) -> bool:
        """Whether a field's name neither holds something itself nor says that its value does."""
        if not isinstance(name, str) or len(name) > _SHORT or self._told(name):
            return False
        if self.recognisers.suspects(name) and self.recognisers.find(name):
            return False
        self._remember(self._names, name)
        return True

    def _value(self, value: Any, hint: str, path: str | None, numbers: bool, depth: int) -> Any:
        """`path` is None where no rule can apply."""
        if isinstance(value, str):
            return self.text(value, hint, depth)
        if isinstance(value, dict):
            return self._dict(value, path, numbers, depth)
        if isinstance(value, list):
            new = []
            for i, one in enumerate(value):
                here = None if path is None else f"{path}.{i}"
                masked = self._value(one, hint, None, numbers, depth) if here is None else self._field(one, hint, here, numbers)
                if masked is not _DROPPED:
                    new.append(masked)
            return value if len(new) == len(value) and all(map(_is, new, value)) else new
        if numbers and type(value) is int and value >= _FEWEST_DIGITS:
            return self._number(value, hint)
        return value

    def _dict(self, value: dict[Any, Any], path: str | None, numbers: bool, depth: int) -> dict[Any, Any]:
        new: dict[Any, Any] = {}
        changed = False
        for name, one in value.items():
            masked: Any
            if path is None:
                masked = self._value(one, str(name), None, numbers, depth)
            else:
                masked = self._field(one, str(name), f"{path}.{name}" if path else str(name), numbers)
            masked_name = name if name in self._names or not isinstance(name, str) else self._name(name)
            if masked is _DROPPED:
                changed = True
                continue
            if masked is not one or masked_name is not name:
                changed = True
            while masked_name in new:  # two names that masking made one
                masked_name = f"{masked_name}+"
            new[masked_name] = masked
        return new if changed else value

    def _name(self, name: str) -> str:
        new, counts = self.recognisers.masked(name)
        for kind, many in counts.items():
            self.count(kind, many)
        return new if counts else name

    def _field(self, value: Any, name: str, path: str, numbers: bool) -> Any:
        match self.action(path):
            case "drop":
                self.count("dropped", 1)
                return _DROPPED
            case "hash":
                return self.hashed(value)
            case "keep" if not isinstance(value, (dict, list)):
                return value
            case "keep":
                return self._kept(value, path)
            case _:
                return self._value(value, name, path, numbers, 0)

    def _kept(self, value: Any, path: str) -> Any:
        """As it is, but for what a longer pattern names below it."""
        if all(action == "keep" for action in self.fields.values()):
            return value
        return self._value(value, "", path, False, 0)

    def _number(self, value: int, hint: str) -> Any:
        """An integer becomes text where it is a card, or where the field's name says what it is."""
        digits = str(value)
        kind = ""
        if self._is_card(value):
            kind = "card"
        elif hint and len(digits) <= 15 and self._told(hint) == "number":
            found = self.recognisers.find(digits, hint)
            kind = found[0][2] if found else ""
        if not kind:
            return value
        self.count(kind, 1)
        return token(kind)

    def _is_card(self, value: int) -> bool:
        digits = str(value)
        return "card" in self.kinds and len(digits) in _CARD_DIGITS and is_card(digits)

    def _told(self, name: str) -> str:
        """What a field's name says of its value: secret, number (of a phone, of social security), or nothing."""
        if (told := self._names_told.get(name)) is None:
            if len(self._names_told) >= _CACHED:
                self._names_told.clear()
            end = name[-_SHORT:]
            told = "secret" if key.is_secret_name(end) else "number" if phone.said_by(end) or ssn.said_by(end) else ""
            self._names_told[name] = told
        return told

    def _remember(self, known: set[str], text: str) -> None:
        if len(known) >= _CACHED:
            known.clear()
        known.add(text)


_DROPPED = object()


def keyed(key: bytes, data: bytes) -> str:
    """32 hex digits that nobody without the key can make, or try values against."""
    return hashlib.blake2b(data, key=hashlib.blake2b(key).digest(), digest_size=16).hexdigest()


def _is(one: Any, other: Any) -> bool:
    return one is other


def _pattern(path: str) -> str:
    """A field's rule is that of everything in it."""
    return ".*".join(map(re.escape, path.split("*"))) + r"(?:\..*)?"


def parsed(text: str) -> tuple[Any, Callable[[Any], str]] | None:
    """The value, and what writes it again as it was read; None when the text is not JSON."""
    try:
        return orjson.loads(text), _dumped
    except ValueError:
        try:
            return json.loads(text), json.dumps  # which takes NaN and lone surrogates
        except (ValueError, RecursionError):
            return None


def _dumped(value: Any) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):
        return json.dumps(value, default=str)
