"""Keys and tokens: by the prefixes that providers publish, by form (JWT, PEM, bearer, credentials in a URL), and values that
look random and are assigned to a telling name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from math import log2

_PREFIXED = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-[A-Za-z0-9_-]{20,512}"  # OpenAI, Anthropic, OpenRouter, DeepSeek, Langfuse
    r"|pk-lf-[A-Za-z0-9-]{20,64}|sess-[A-Za-z0-9]{30,64}"
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,64}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{16,255}|xapp-[A-Za-z0-9-]{20,255}"  # Slack
    r"|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,512}|GOCSPX-[A-Za-z0-9_-]{20,64}"  # Google
    r"|(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,255}|whsec_[A-Za-z0-9+/=]{20,255}"  # Stripe
    r"|hf_[A-Za-z0-9]{30,64}|gsk_[A-Za-z0-9]{20,128}|xai-[A-Za-z0-9]{20,128}|pplx-[A-Za-z0-9]{20,128}|r8_[A-Za-z0-9]{30,64}"
    r"|nvapi-[A-Za-z0-9_-]{20,128}|tvly-[A-Za-z0-9-]{20,64}|pcsk_[A-Za-z0-9_]{20,128}|jina_[A-Za-z0-9_-]{20,128}"
    r"|fw_[A-Za-z0-9]{20,64}|lsv2_(?:pt|sk)_[A-Za-z0-9_]{30,128}|phc_[A-Za-z0-9]{30,64}"
    r"|npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{30,512}|dop_v1_[a-f0-9]{64}|dapi[a-f0-9]{32}|gls?[ac]_[A-Za-z0-9_+/=]{20,512}"
    r"|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}|lin_api_[A-Za-z0-9]{32,64}|SK[a-f0-9]{32}"
    r"|SG\.[A-Za-z0-9_-]{20,64}(?:\.[A-Za-z0-9_-]{16,128})?|key-[a-f0-9]{32}|\d{8,10}:AA[A-Za-z0-9_-]{33}"
    r")"
)
_LEAD = 12  # how far before its longest unbroken piece such a key may begin: 1234567890:AA...
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{4,16384}(?:\.[A-Za-z0-9_-]{0,8192}){0,3}")
_PEM = re.compile(r"-----BEGIN (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_USERINFO = re.compile(r"://([^\s/@:\"'<>\\]{0,256}:[^\s/@\"'<>\\]{1,256})@")
_BEARER = re.compile(r"[ \t]{1,4}([A-Za-z0-9._~+/=-]{16,8192})")
_ASSIGNED = re.compile(
    r"[A-Za-z0-9_.-]{0,24}\\{0,3}[\"'`]?\]?[ \t]{0,3}(?:=>|:=|==?|:)[ \t]{0,3}"
    r"(?:[bru]?\\{0,3}[\"'`])?([^\s\"'`,;&<>(){}\\]{6,512})"
)
_ASSIGNED_TO = (b"key", b"secret", b"token", b"pass", b"pwd", b"credential")
_COMPOUNDS = (b"api", b"access", b"secret", b"private", b"auth", b"account", b"refresh", b"signing", b"client", b"bot")
_SCHEMES = (b"bearer", b"basic")
_SECRET_NAME = re.compile(
    r"(?:^|[^a-z])(?:pass(?:word|wd|phrase)|pwd|secret|credentials?|authorization|(?:set-)?cookie|x-api-key"
    r"|[a-z]*api[_-]?(?:key|token)|(?:access|auth|refresh|id|bearer|session|bot)[_-]?token|(?:secret|private|access|account)[_-]?key"
    r"|client[_-]?secret|[a-z]+[_-]secret|[a-z]+[_-]pass(?:word|wd))$"
)
_LOOKED_AT = 64  # characters of a value that tell whether it is random
_RANDOM_BITS = 3.0  # entropy per character that words and numbers of this length do not reach together

# Each byte as a shape: part of a token, or something else.
_SHAPE = bytes(97 if i < 128 and (chr(i).isalnum() or chr(i) in "_-") else 32 for i in range(256))
_LONG, _GAP = b"a" * 20, 32


def may_stand_in(text: str, data: bytes) -> bool:
    """`data` is the text at one byte a character."""
    if b"eyJ" in data or b"-----BEGIN" in data:
        return True
    if b"://" in data and b"@" in data:
        return True
    shape = data.translate(_SHAPE)
    if _LONG in shape and next(_prefixed(text, shape), None) is not None:
        return True
    # Words that nearly every text has: "token", "pass" in "passage". They are looked at here and not left to `places`.
    low = data.lower()
    return next(_after_words(text, low), None) is not None


def places(text: str, hint: str = "") -> Iterator[tuple[int, int]]:
    data = text.encode("latin-1", "replace")  # one byte a character, so that places are those of the text
    shape = data.translate(_SHAPE)
    yield from _prefixed(text, shape)
    for start in _each(data, b"eyJ"):
        if (start == 0 or shape[start - 1] == _GAP) and (found := _JWT.match(text, start)):
            yield found.span()
    yield from _private_keys(text)
    if "://" in text and "@" in text:
        yield from (found.span(1) for found in _USERINFO.finditer(text))
    yield from _after_words(text, data.lower())


def _after_words(text: str, low: bytes) -> Iterator[tuple[int, int]]:
    """What stands behind a word that says it is a secret. `low` is the text in lower case, one byte a character."""
    for scheme in _SCHEMES:
        if scheme in low:
            for start in _each(low, scheme):
                found = _BEARER.match(text, start + len(scheme))
                if found and found[1][0].isalnum() and any(c.isdigit() for c in found[1]):
                    yield found.span(1)
    for word in _ASSIGNED_TO:
        if word in low:
            for start in _each(low, word):
                found = _ASSIGNED.match(text, start + len(word))
                if found and _named(low, start, word) and _is_secret(found[1], word):
                    yield found.span(1)


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret, whatever its value looks like.

    >>> [is_secret_name(n) for n in ("http.request.header.authorization", "apiKey", "max_tokens", "token")]
    [True, True, False, False]
    """
    return _SECRET_NAME.search(name.lower()) is not None


def entropy(text: str) -> float:
    """Bits per character, by the text's own characters.

    >>> entropy("aaaa"), entropy("abcd")
    (0.0, 2.0)
    """
    size = len(text)
    return abs(sum(n / size * log2(n / size) for n in Counter(text).values()))


def _is_secret(value: str, word: bytes) -> bool:
    if value[0] in "$%[*" or value.startswith(("os.", "process.", "env.", "hash:", "http")) or "..." in value:
        return False  # where it is to be found, not what it is
    value = value[:_LOOKED_AT]
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    if word in (b"pass", b"pwd"):
        return mixed or (len(value) >= 8 and any(c in "!@#$%^*+=~" for c in value))
    # Words and numbers strung together (`user-profile-2020`) are names; in a key some piece mixes letters and digits.
    pieces = [piece for piece in re.split("[-_./:]", value) if len(piece) >= 6]
    random = any(not piece.isalpha() and not piece.isdigit() for piece in pieces)
    return len(value) >= 12 and mixed and random and entropy(value) >= _RANDOM_BITS


def _named(low: bytes, start: int, word: bytes) -> bool:
    """Whether the word stands alone or ends a name as secrets have: apikey, but neither monkey nor Bibkey."""
    before = low[max(0, start - 8) : start]
    return word not in (b"key", b"token") or not before[-1:].isalpha() or before.endswith(_COMPOUNDS)


def _prefixed(text: str, shape: bytes) -> Iterator[tuple[int, int]]:
    """Looks only where something is as long as a key: a search of a whole text for any of forty beginnings is slow."""
    place = shape.find(_LONG)
    while place >= 0:
        end = shape.find(b" ", place)
        end = len(text) if end < 0 else end
        start = max(0, shape.rfind(b" ", 0, place) + 1 - _LEAD)
        while (found := _PREFIXED.search(text, start, end)) is not None:
            whole = _PREFIXED.match(text, found.start()) or found
            yield whole.span()
            start = whole.end()
        place = shape.find(_LONG, end)


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    head = _PEM.search(text) if "-----BEGIN" in text else None
    while head is not None:
        tail = text.find("-----END ", head.end())
        close = text.find("-----", tail + 9) if tail >= 0 else -1
        end = close + 5 if close >= 0 else len(text)  # one that was cut off ends with the text
        yield head.start(), end
        head = _PEM.search(text, end)


def _each(data: bytes, word: bytes) -> Iterator[int]:
    place = data.find(word)
    while place >= 0:
        yield place
        place = data.find(word, place + len(word))
