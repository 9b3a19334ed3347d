"""International bank account numbers: the country's length (ISO 13616 registry) and the check digits (ISO 7064 mod 97)."""

from __future__ import annotations

from collections.abc import Iterator

from monitor.masking.recognisers.runs import shape

LENGTHS = {
    one[:2]: int(one[2:])
    for one in [
        "AD24", "AE23", "AL28", "AT20", "AZ28", "BA20", "BE16", "BG22", "BH22", "BI27", "BR29", "BY28", "CH21", "CR22",
        "CY28", "CZ24", "DE22", "DJ27", "DK18", "DO28", "EE20", "EG29", "ES24", "FI18", "FK18", "FO18", "FR27", "GB22",
        "GE22", "GI23", "GL18", "GR27", "GT28", "HN28", "HR21", "HU28", "IE22", "IL23", "IQ23", "IS26", "IT27", "JO30",
        "KW30", "KZ20", "LB28", "LC32", "LI21", "LT20", "LU20", "LV21", "LY25", "MC27", "MD24", "ME22", "MK19", "MN20",
        "MR27", "MT31", "MU30", "NI28", "NL18", "NO15", "OM23", "PK24", "PL28", "PS29", "PT25", "QA29", "RO24", "RS22",
        "RU33", "SA24", "SC31", "SD18", "SE24", "SI19", "SK24", "SM27", "SO23", "ST25", "SV28", "TL23", "TN24", "TR26",
        "UA29", "VA22", "VG24", "XK20", "YE30",
    ]
}  # fmt: skip
_HEAD = b"AA00"  # the shape of country and check digits
_GAPS = str.maketrans("", "", " -")


def places(text: str, hint: str = "") -> Iterator[tuple[int, int]]:
    shapes = shape(text.encode("latin-1", "replace"))
    start = shapes.find(_HEAD)
    while start >= 0:
        length = LENGTHS.get(text[start : start + 2].upper())
        if length and not (start and text[start - 1].isalnum()):
            end = _end(text, start, length)
            if end and mod97(text[start:end].translate(_GAPS)):
                yield start, end
        start = shapes.find(_HEAD, start + 1)


def mod97(iban: str) -> bool:
    """
    >>> mod97("GB82WEST12345698765432"), mod97("GB83WEST12345698765432")
    (True, False)
    """
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def _end(text: str, start: int, length: int) -> int | None:
    """Where `length` letters and digits end, single gaps between them; None where they stop before or go on."""
    place = start
    while length:
        if place == len(text):
            return None
        one = text[place]
        if one.isascii() and one.isalnum():
            length -= 1
        elif one not in " -" or text[place - 1] in " -":
            return None
        place += 1
    return None if place < len(text) and text[place].isalnum() else place
