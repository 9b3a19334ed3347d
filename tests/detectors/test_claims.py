"""Claims and where they lie in the answer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detectors.claims import MAX_CHARS, sentences, split_claims


def claims(answer: str) -> list[str]:
    return [answer[start:end] for start, end in split_claims(answer).spans]


CASES: dict[str, tuple[str, list[str]]] = {
    "two sentences": ("It is tall. It is old.", ["It is tall.", "It is old."]),
    "no full stop at the end": ("It is tall. It is old", ["It is tall.", "It is old"]),
    "white space around": ("  \n It is tall. \t ", ["It is tall."]),
    "titles": ("Dr. Smith met Prof. Jones. They spoke.", ["Dr. Smith met Prof. Jones.", "They spoke."]),
    "latin": ("Fruit, e.g. Apples, i.e. Red ones. Good.", ["Fruit, e.g. Apples, i.e. Red ones.", "Good."]),
    "initials": ("J. K. Rowling met George W. Bush. Fine.", ["J. K. Rowling met George W. Bush.", "Fine."]),
    "initials at the start of a line": ("J. Smith won.\nK. Jones lost.", ["J. Smith won.", "K. Jones lost."]),
    "one letter at the end": ("It has vitamin C. It is good.", ["It has vitamin C.", "It is good."]),
    "abbreviation inside": ("The U.S. Senate met at 5 p.m. in D.C. again.", ["The U.S. Senate met at 5 p.m. in D.C. again."]),
    "abbreviation at the end": ("He moved to the U.S. The rest stayed.", ["He moved to the U.S.", "The rest stayed."]),
    "company": ("Apple Inc. Chief Tim Cook left. He did.", ["Apple Inc. Chief Tim Cook left.", "He did."]),
    "numbered things": ("See No. 5 and fig. 3 there. Done.", ["See No. 5 and fig. 3 there.", "Done."]),
    "the answer no": ("No. That is wrong.", ["No.", "That is wrong."]),
    "decimals": ("It costs 3.50 now. It was 2.1 then.", ["It costs 3.50 now.", "It was 2.1 then."]),
    "number at the end": ("It opened in 1889. Paris paid.", ["It opened in 1889.", "Paris paid."]),
    "urls": ("See https://a.b/c.d?x=1. It is at www.x.org now.", ["See https://a.b/c.d?x=1.", "It is at www.x.org now."]),
    "file names and versions": ("Run main.py with v1.2.3. It works.", ["Run main.py with v1.2.3.", "It works."]),
    "inline code": ("Call `a.b. C` first. Then stop.", ["Call `a.b. C` first.", "Then stop."]),
    "code block": ("Run this.\n```py\nx = 1. \nPrint it.\n```\nIt prints.", ["Run this.", "It prints."]),
    "code block left open": ("Run this.\n~~~\nx = 1", ["Run this."]),
    "bullets": ("We sell:\n- apples\n* red pears. Ripe\n• figs", ["apples", "red pears.", "Ripe", "figs"]),
    "numbers of a list": ("1. Open it.\n2) Close it\n(3) Lock it\nb) Leave", ["Open it.", "Close it", "Lock it", "Leave"]),
    "nested bullets": ("- fruit\n  - apples\n    - red", ["fruit", "apples", "red"]),
    "headings": ("# Paris\nIt is big.\n\nHistory\n-------\nIt is old.", ["It is big.", "History", "It is old."]),
    "broken at a column": (
        "The tower stands in Paris, where it was built for the fair of 1889 by\nEiffel. It is tall.",
        ["The tower stands in Paris, where it was built for the fair of 1889 by\nEiffel.", "It is tall."],
    ),
    "small letter on the next line": ("The tower stands\nin Paris.", ["The tower stands\nin Paris."]),
    "short lines stand alone": ("Red\nGreen\nBlue", ["Red", "Green", "Blue"]),
    "windows line ends": ("It is tall.\r\nIt is old.\r\n", ["It is tall.", "It is old."]),
    "paragraphs": ("the tower\n\nthe bridge", ["the tower", "the bridge"]),
    "quotes": ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
    "curly quotes": ("He said “Go.” Then he left.", ["He said “Go.”", "Then he left."]),
    "speech goes on": ('"Is it tall?" he asked. It is.', ['"Is it tall?" he asked.', "It is."]),
    "brackets": ("It is tall (330 m.) and old. Yes.", ["It is tall (330 m.) and old.", "Yes."]),
    "bold": ("**It is tall.** It is old.", ["**It is tall.**", "It is old."]),
    "dots inside": ("It went... on and on. Then it ended...", ["It went... on and on.", "Then it ended..."]),
    "many marks": ("Wow!! It is tall!?! Fine.", ["Wow!!", "It is tall!?!", "Fine."]),
    "small letters": ("that's sad. the film was long. i left", ["that's sad.", "the film was long.", "i left"]),
    "spaces before stops": ("Stuff . It has evolved .", ["Stuff .", "It has evolved ."]),
    "chinese": ("东京是首都。人口1300万！好", ["东京是首都。", "人口1300万！", "好"]),
    "japanese quotes": ("彼は「行く。」と言った。終わり。", ["彼は「行く。」", "と言った。", "終わり。"]),
    "hindi": ("यह शहर है। यह बड़ा है।", ["यह शहर है।", "यह बड़ा है।"]),
    "questions claim nothing": ("It is tall. Shall I go on? 本当？", ["It is tall."]),
    "only a question": ("How are you?", []),
    "only signs": ("😀 !!! ... — **", []),
    "nothing": ("", []),
    "white space": (" \n\t\u00a0\u2028", []),
}


@pytest.mark.parametrize(("answer", "expected"), CASES.values(), ids=CASES)
def test_an_answer_splits_into(answer: str, expected: list[str]) -> None:
    assert claims(answer) == expected


PROSE = ["It is", " tall", ". ", "\n", "- ", "。", "Dr.", '"', "?", " ", "\u2028", "é", "😀", "\ud800"]
prose = st.lists(st.sampled_from(PROSE), max_size=60).map("".join)
anything = st.lists(st.sampled_from([*PROSE, "```", "1.", "# "]), max_size=60).map("".join)


@given(st.one_of(st.text(max_size=300), anything))
@example("a\x85b")
def test_spans_are_in_order_apart_trimmed_and_say_something(text: str) -> None:
    spans = list(sentences(text))
    assert all(before.end <= after.start for before, after in pairwise(spans))
    for start, end in spans:
        claim = text[start:end]
        assert claim == claim.strip()
        assert 0 < len(claim) <= MAX_CHARS
        assert any(char.isalnum() for char in claim)


@given(prose)
def test_no_letter_of_prose_is_lost(text: str) -> None:
    found = "".join(text[start:end] for start, end in sentences(text))
    assert list(filter(str.isalnum, found)) == list(filter(str.isalnum, text))


def test_claims_beyond_the_limit_are_left_out_and_said_so() -> None:
    answer = "It is tall. " * 10
    assert len(split_claims(answer, max_claims=3).spans) == 3
    assert split_claims(answer, max_claims=3).truncated
    assert not split_claims(answer, max_claims=10).truncated


def test_a_question_after_the_last_claim_is_no_truncation() -> None:
    assert not split_claims("It is tall. Is it old?", max_claims=1).truncated


def test_a_sentence_without_end_is_cut_at_white_space() -> None:
    text = "word " * 1_000
    assert all(text[start:end].split()[0] == "word" for start, end in sentences(text))
    assert "".join(text[start:end] for start, end in sentences(text)).replace(" ", "") == "word" * 1_000


HOSTILE = ("a. ", "A. ", "word ", "!", "`", "\n", "x\n", "a", "- ", "“", "… ", "Mr. ", "。", '." ', "word\n", "=", "\n```")


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_costs_linear_work(unit: str) -> None:
    """A quadratic step over this much text would take minutes, not a second."""
    text = unit * (300_000 // len(unit))
    assert sum(1 for _ in sentences(text)) <= len(text)
