"""Phone numbers: international and North American forms wherever they stand, what a country writes at home with a word
beside it that says so."""

from __future__ import annotations

import re
from collections.abc import Iterator

from monitor.masking.recognisers.runs import matches, words_before

_PHONE = re.compile(
    r"(?<![\w.,@#$€£/+-])(?<!\d[ :])(?:\+ ?|\(\+)?\(?\d(?:[ .()/-]{0,2}\d){6,16}(?![ .()/-]{0,2}\d)"
    r"(?: ?(?:x|ext\.?|extension) ?\d{1,6})?(?![\w@%$€£]|[,:/-]\d|-\w)",
    re.IGNORECASE,
)
_WORDS = frozenset(
    [
        "phone", "phones", "phonenumber", "phoneno", "telephone", "telephones", "tel", "mobile", "mobiles", "mobilenumber",
        "cellphone", "cellular", "fax", "faxes", "call", "called", "calling", "dial", "dialed", "dialled", "dialing",
        "reach", "reached", "whatsapp", "sms", "texted", "messages", "answering", "registered", "hotline", "handset",
        "msisdn", "desk", "ring", "telefon", "telefono", "téléphone", "telefoonnummer", "handy", "rufnummer", "móvil",
        "celular", "portable",
    ]
)  # fmt: skip
_NAMES = frozenset(
    [
        "phone", "phones", "phonenumber", "phoneno", "telephone", "telephones", "tel", "mobile", "mobiles", "mobilenumber",
        "cell", "cellphone", "fax", "whatsapp", "handset", "msisdn", "telefon", "telefono", "telefoonnummer", "rufnummer",
        "celular",
    ]
)  # fmt: skip
_OTHERS = frozenset({"isbn", "issn", "doi"})
_CELL = re.compile(r"\bcell\b[ :.#\"\\]{0,6}$", re.IGNORECASE)  # right before it: biologists have cells too
_AFTER = re.compile(r"[ ,]{0,2}\(?(?:office|fax|mobile|cell|home|work|desk|phone|tel)\b", re.IGNORECASE)
_GROUP = re.compile(r"\d+")
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:1[6-9]|20)\d\d"
_DATE = re.compile(
    rf"{_YEAR}([-/. ]){_MONTH}\1{_DAY}(?!\d)|(?:{_DAY}([-/.]){_MONTH}|{_MONTH}([-/.]){_DAY})[-/.]{_YEAR}(?!\d)"
    rf"|{_YEAR} ?[-/] ?{_YEAR}$"
)
_THOUSANDS = re.compile(r"\d{1,3}([ .])\d{3}(?:\1\d{3})*$")


def places(text: str, hint: str = "") -> Iterator[tuple[int, int]]:
    for found in matches(_PHONE, text):
        start, end = found.span()
        if text[start] == "(" and ")" not in found[0]:
            start += 1  # it belongs to the sentence
        if (sure := sure_of(text[start:end])) is False:
            continue
        words = words_before(text, start)
        said = (
            not _WORDS.isdisjoint(words)
            or (hint and said_by(hint))
            or _AFTER.match(text, end)
            or _CELL.search(text, max(0, start - 10), start)
        )
        if (sure or said) and _OTHERS.isdisjoint(words):
            yield start, end


def said_by(name: str) -> bool:
    """Whether a field of this name holds phone numbers."""
    return not _NAMES.isdisjoint(words_before("", 0, name))


def sure_of(number: str) -> bool | None:
    """True: a phone number wherever it stands. None: where a word beside it says so. False: something else.

    >>> sure_of("+44 20 7946 0958"), sure_of("(212) 555-0142"), sure_of("785 8949"), sure_of("2026-03-01 12")
    (True, True, None, False)
    """
    main = re.split("[xXeE]", number, maxsplit=1)[0].strip()
    groups = _GROUP.findall(main)
    sizes = [len(g) for g in groups]
    size = sum(sizes)
    if size > 15 or _DATE.match(main):
        return False
    if main.startswith(("+", "(+")):
        return size >= 8
    if "." in main and "-" not in main and " " not in main and (len(groups) == 2 or _is_address(groups)):
        return False  # a fraction, an IP address
    american = groups[1:] if groups[0] in ("1", "001") else groups
    if [len(g) for g in american] == [3, 3, 4] and (
        len(american) < len(groups) or any(c in main for c in "-.(") or min(american[0][0], american[1][0]) > "1"
    ):
        return True
    if sizes == [3, 2, 4]:
        return False  # a social security number, or one that was never issued
    if _THOUSANDS.match(main) or len(groups) == 1 or max(sizes) > 8 or size > 13:
        return None
    return True if (main[0] == "(" and size >= 8) or (main[0] == "0" and 9 <= size <= 12) else None


def _is_address(groups: list[str]) -> bool:
    return len(groups) == 4 and all(len(g) <= 3 and int(g) <= 255 for g in groups)
