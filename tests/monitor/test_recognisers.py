"""What counts as personal data or a secret, what does not, and that nobody can make the search slow."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.masking.recognisers import RECOGNISERS, Recognisers
from tests.bench.quality.masking import KINDS, count

ALL = Recognisers(RECOGNISERS)
USUAL = Recognisers([kind for kind in RECOGNISERS if kind not in ("ip", "name")])
SAMPLE = Path(__file__).parents[1] / "data" / "pii_sample.jsonl"

FOUND = {
    "email": {
        "mail bob.smith+news@mail.example.co.uk today": "mail [EMAIL] today",
        "Bob<bob@example.com>,ann@example.org": "Bob<[EMAIL]>,[EMAIL]",
        "?to=bob%40example.com&x=1": "?to=[EMAIL]&x=1",
        r"a\nbob@example.com\u000abob@example.com": r"a\n[EMAIL][EMAIL]",
        r"andr\u00e9@example.com": "[EMAIL]",
        "пошта: олена@приклад.укр.": "пошта: [EMAIL].",
        "é bob\u200b@exam\u00adple.c\u2060om!": "é [EMAIL]!",
        "bob\uff20example\uff0ecom": "[EMAIL]",
    },
    "card": {
        "card 4111 1111 1111 1111 please": "card [CARD] please",
        "378282246310005, 5555-5555-5555-4444": "[CARD], [CARD]",
        '{"n":4111111111111111}': '{"n":[CARD]}',
        "4111.1111.1111.1111 or 4111\u00a01111\u00a01111\u00a01111": "[CARD] or [CARD]",
        "4111\u20131111\u20131111\u20131111": "[CARD]",
        "号：\uff14" + "\uff11" * 15 + "。": "号：[CARD]。",
    },
    "iban": {
        "to DE89 3704 0044 0532 0130 00 today": "to [IBAN] today",
        "gb82west12345698765432": "[IBAN]",
    },
    "ssn": {"my ssn is 078-05-1120.": "my ssn is [SSN].", "SSN: 078051120": "SSN: [SSN]"},
    "phone": {
        "call +44 20 7946 0958 or (212) 555-0142 x12": "call [PHONE] or [PHONE]",
        "212-555-0142": "[PHONE]",
        r'{"a": "me:\n212-555-0142\t': r'{"a": "me:\n[PHONE]\t',
        "my phone is 785 8949": "my phone is [PHONE]",
        "0049 30 901820": "[PHONE]",
    },
    "ip": {"from 203.0.113.7 and 2001:db8::8a2e:370:7334": "from [IP] and [IP]"},
    "name": {"Dear Mr. John Smith, my name is Ana": "Dear Mr. [NAME], my name is [NAME]"},
    "key": {
        "use sk-proj-" + "a1B2" * 10: "use [KEY]",
        "AKIAIOSFODNN7EXAMPLE": "[KEY]",
        "(ghp_" + "a1B2" * 9 + ")": "([KEY])",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP-mB92K27uhbU": "[KEY]",
        "Authorization: Bearer abcdef0123456789abcdef": "Authorization: Bearer [KEY]",
        "postgres://bob:hunter2@db.example:5432/x": "postgres://[KEY]@db.example:5432/x",
        "api_key='9f86d081884c7d659a2f'": "api_key='[KEY]'",
        'password = "hunter2!"': 'password = "[KEY]"',
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- and": "[KEY] and",
        "-----BEGIN PRIVATE KEY-----\nMIIE, and then it was cut": "[KEY]",
    },
}

LEFT = [
    "On 2026-03-01 12:00 and 11/15/1979, from 1999-2004, at 14:56:41",
    "1 000 000 people, 1,234,567 dollars, 3.14159265358979, v10.20.30, 100 2000 30",
    "ISBN 0-85177-593-4, pages 2206-2221, (1797-1801), epoch 1772366400",
    "4111 1111 1111 1112 has a wrong check digit, and so has DE89 3704 0044 0532 0130 01",
    "git@github.com:org/repo, react@18.2.0, @app.route, a @ b",
    "the key: it is a token, password: please, max_tokens=1000000, cache_key: user-profile-2020",
    "api_key=os.environ['KEY'], password=${env:PASSWORD}, token: <your token here>",
    "sk-learn, task-force, chatcmpl-9f86d081884c7d659a2feaa0c55ad015, call_9f86d081884c7d659a2f",
    "std::vector a::b 12:34:56",
    "3612345.1234560, 411111.1111111111, 4111.1111.1111.1112",
    "naïve – a dash – and\u00a0a space, \u200bunseen, “quoted”, ２０２６",
    "000-12-3456, 666-12-3456, 900-12-3456 were never issued",
]


@pytest.mark.parametrize(
    ("text", "masked"), [(text, masked) for some in FOUND.values() for text, masked in some.items()], ids=lambda v: v[:24]
)
def test_it_is_found_and_nothing_around_it_goes(text: str, masked: str) -> None:
    assert ALL.masked(text)[0] == masked


@pytest.mark.parametrize("kind", list(RECOGNISERS))
def test_only_the_kinds_asked_for_are_masked(kind: str) -> None:
    for text, masked in FOUND[kind].items():
        assert Recognisers([kind]).masked(text)[0] == masked
        others = Recognisers([other for other in RECOGNISERS if other != kind]).masked(text)[0]
        assert f"[{kind.upper()}]" not in others


@pytest.mark.parametrize("text", LEFT, ids=lambda text: text[:24])
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert USUAL.masked(text) == (text, {})


def test_no_id_is_taken_for_a_number_of_a_person() -> None:
    random = Random(0)
    for _ in range(5_000):
        bits = random.getrandbits(128)
        for one in (str(uuid.UUID(int=bits)), f"{bits:032x}", f"{bits:032x}-{bits % 2**64:016x}", f"h-{bits % 2**64:016x}"):
            assert ALL.masked(one)[0] == one


def test_a_field_that_says_what_it_holds_is_believed() -> None:
    assert USUAL.masked("7858949", "customer.phone")[0] == "[PHONE]"
    assert USUAL.masked("078051120", "ssn")[0] == "[SSN]"
    assert USUAL.masked("7858949", "gen_ai.tool.call.id")[0] == "7858949"


PARTS = [text for some in FOUND.values() for text in some] + [
    "555",
    "4111",
    "@",
    ".com",
    "+1 ",
    "-",
    " ",
    "key=",
    '"',
    "\\",
    "[EMAIL]",
]


@given(st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=8)), max_size=8).map("".join))
def test_masking_twice_is_masking_once(text: str) -> None:
    once, _ = ALL.masked(text)
    assert ALL.masked(once) == (once, {})


@given(st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=8)), max_size=8).map("".join))
def test_places_are_in_order_apart_and_within_the_text(text: str) -> None:
    last = 0
    for start, end, kind in ALL.find(text):
        assert last <= start < end <= len(text)
        assert kind in RECOGNISERS
        last = end


@given(st.text(alphabet="aZ09 .,:;=@+-_/()[]{}\"'\\\n%#ßé", max_size=200))
def test_no_text_makes_it_raise(text: str) -> None:
    ALL.masked(text, "phone")


HOSTILE: dict[str, Callable[[int], str]] = {
    "ats": lambda n: "a@" * (n // 2),
    "domains": lambda n: "a@" + "a." * (n // 2),
    "letters behind an at": lambda n: ("a" * 62 + "@") * (n // 63),
    "digits": lambda n: "4" * n,
    "pairs of digits": lambda n: "44 " * (n // 3),
    "dashed digits": lambda n: "4-" * (n // 2),
    "groups of digits": lambda n: "4444 " * (n // 5),
    "numbers in parentheses": lambda n: "(4)" * (n // 3),
    "phone numbers": lambda n: "+1 212 555 0142, " * (n // 17),
    "colons": lambda n: ":" * n,
    "hex and colons": lambda n: "a:" * (n // 2),
    "dots": lambda n: "1." * (n // 2),
    "keys": lambda n: "key" * (n // 3),
    "assignments": lambda n: "key=" * (n // 4),
    "password and spaces": lambda n: "password" + " " * n,
    "tokens": lambda n: "eyJ" * (n // 3),
    "long words": lambda n: "a" * n,
    "key prefixes": lambda n: "sk-" * (n // 3),
    "begin": lambda n: "-----BEGIN " * (n // 11),
    "private keys without an end": lambda n: "-----BEGIN PRIVATE KEY-----" * (n // 27),
    "users of urls": lambda n: "://a:" * (n // 5),
    "accounts": lambda n: "GB82 " * (n // 5),
    "account letters": lambda n: "GB82" * (n // 4),
    "greetings": lambda n: "Dear " * (n // 5),
    "capitals": lambda n: "Mr Aa " * (n // 6),
    "escapes": lambda n: "\\u0040" * (n // 6),
    "assigned digits": lambda n: "key=a1b" * (n // 7),
    "quotes": lambda n: '"' * n,
    "dotted digits": lambda n: "4444." * (n // 5) + "a",
    "unseen": lambda n: "4\u200b" * (n // 2),
    "digits of full width": lambda n: "\uff14" * n,
}


@pytest.mark.parametrize("shape", list(HOSTILE))
def test_time_grows_with_the_text_and_not_with_its_square(shape: str) -> None:
    """Eight times the text: a square would take 64 times as long. The bound leaves room for a busy machine."""

    def seconds(size: int) -> float:
        text = HOSTILE[shape](size)
        started = time.thread_time()
        ALL.find(text)
        return time.thread_time() - started

    small, large = 2**14, 2**17
    assert seconds(large) < 24 * max(seconds(small), seconds(small), 0.001)


def test_the_rates_of_the_sample_are_kept() -> None:
    rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    counts = count(rows, ALL)
    assert set(counts) == set(KINDS.values())
    for kind, one in counts.items():
        if kind != "name":  # a name without a title or greeting before it is not seen, as the README says
            assert one.labelled >= 3
            assert one.recall >= 0.9, f"{kind}: {one}"
            assert one.precision >= 0.95, f"{kind}: {one}"
