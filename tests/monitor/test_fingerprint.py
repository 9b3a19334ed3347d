"""The same template has the same fingerprint, another one another."""

from __future__ import annotations

import pytest
import yaml

from monitor.genai.dialecttable import FILE
from monitor.genai.fingerprint import Fingerprints

MARKS = Fingerprints(yaml.safe_load(FILE.read_text(encoding="utf-8"))["variable_sections"])

RAG = """You are a support agent of ACME. Today is {date}. Ticket {ticket}.
Answer in at most 3 sentences, citing the documents.

<documents>
{documents}
</documents>

Customer name: "{name}"
## Rules
- Be kind.
"""


def rag(**more: str) -> str:
    values = {"date": "Saturday, Nov 21, 2026", "ticket": "a3f9c2d1e8b7", "documents": "Paris is big.", "name": "Bob"}
    return RAG.format(**{**values, **more})


@pytest.mark.parametrize(
    "more",
    (
        {"date": "Monday, Feb 3, 2027"},
        {"ticket": "0b1c2d3e4f5a"},
        {"documents": "# Rome\nRome is old.\nNote: it lies on the Tiber."},
        {"name": "Alice O'Hara"},
    ),
)
def test_what_is_filled_in_does_not_change_it(more: dict[str, str]) -> None:
    assert MARKS.of(rag(**more), "hi") == MARKS.of(rag(), "hi")


@pytest.mark.parametrize(("old", "new"), (("Be kind", "Be strict"), ("citing", "without citing"), ("## Rules", "## Manners")))
def test_what_the_developer_wrote_does(old: str, new: str) -> None:
    assert MARKS.of(rag().replace(old, new), "hi") != MARKS.of(rag(), "hi")


def test_a_template_in_the_user_message_is_known_by_its_labels_and_headings() -> None:
    one = "Context:\nParis is big.\n\nQuestion: How big?\nAnswer:"
    two = "Context:\nRome is old, and has 2.8 million people.\nIt lies on the Tiber.\n\nQuestion: How old?\nAnswer:"
    assert MARKS.of(None, one) == MARKS.of(None, two) is not None
    assert MARKS.of(None, one.replace("Context:", "Passages:")) != MARKS.of(None, one)


def test_a_free_question_without_instructions_has_none() -> None:
    assert MARKS.of(None, "How big is Paris?") is None
    assert MARKS.of(None, None) is None
    assert MARKS.of("", "") is None


def test_a_template_that_the_sender_tells_decides_alone() -> None:
    assert MARKS.of("one system", "hi", "Answer {question}") == MARKS.of("another", "ho", "Answer   {question}\n")
    assert MARKS.of(None, None, "Answer {question}") != MARKS.of(None, None, "Reply {question}")


def test_what_is_remembered_has_an_end() -> None:
    marks = Fingerprints(["context"])
    for i in range(2000):
        marks.of(f"Be brief. {'x' * i}", None)
    assert len(marks._known) <= 512


def test_a_text_made_to_be_slow_is_not() -> None:
    for text in ("<" * 20_000, "a:" * 10_000, '"' * 20_000, "0" * 20_000, "- " * 10_000, "=" * 20_000, "[[ ## " * 3000):
        MARKS.of(text, text)
