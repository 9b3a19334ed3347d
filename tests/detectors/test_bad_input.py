"""What senders send: every row detector on the worst of it, with its real models, beside a row that is good."""

from __future__ import annotations

import base64
import time
from functools import cache
from typing import Any

import pytest

from detectors import registry
from detectors.contract import Outcome, RowDetector, Score
from tests.detectors.minilm import resources

CONTEXTS = ["The Eiffel Tower was completed in 1889. It stands in Paris and is 330 metres tall."]
GOOD = {
    "record_id": "good",
    "question": "When was the Eiffel Tower completed?",
    "response": "The Eiffel Tower was completed in 1889.",
    "contexts": CONTEXTS,
}
SETTINGS: dict[str, dict[str, Any]] = {"judge": {"metric": "quoted_spans_alignment"}}  # which asks nobody
ROW_DETECTORS = sorted(name for name in registry.SHIPPED if registry.is_row(registry.load(name)))
SECONDS = 10.0  # of processor time, where a page takes milliseconds; a busy machine makes threads wait for each other


def bad(**fields: Any) -> dict[str, Any]:
    return {**GOOD, "record_id": "bad", **fields}


MEGABYTE = 2**20
CASES = {
    "empty": bad(response=""),
    "white space": bad(response=" \n\t\u00a0\u2003"),
    "a megabyte of sentences": bad(response="The tower stands in Paris and was built long ago. " * (MEGABYTE // 50)),
    "a megabyte without a space": bad(response="x" * MEGABYTE),
    "a megabyte of full stops": bad(response="." * MEGABYTE),
    "a megabyte of line breaks": bad(response="\n" * MEGABYTE),
    "a megabyte of signs": bad(response="😀!? " * (MEGABYTE // 4)),
    "a megabyte of question": bad(question="Why is it so? " * (MEGABYTE // 14)),
    "500 passages": bad(contexts=[f"Passage {i} says that the tower {i} is tall." for i in range(500)]),
    "a megabyte of passage": bad(contexts=["The tower stands in Paris. " * (MEGABYTE // 27)]),
    "right to left": bad(response="برج إيفل اكتمل عام 1889.", contexts=["اكتمل بناء برج إيفل في عام 1889."]),
    "emoji": bad(response="🗼 1889 🎉. 👩‍👩‍👧‍👦!"),
    "code": bad(response="```python\nfor i in range(10):\n    print(i)\n```\nUse `print`."),
    "base64": bad(response=base64.b64encode(bytes(range(256)) * 40).decode()),
    "only numbers": bad(response="1889 330 2.1 1,200", contexts=["1889", "330"]),
    "lone surrogates": bad(
        response="\ud800 The tower \udfff stands.", question="\ud800", contexts=["\udfff tower \ud800 stands"]
    ),
    "null bytes": bad(response="The tower\x00 stands.\x00"),
    "of the wrong type": bad(response=["The tower"], question=7, contexts="The tower"),
    "nothing at all": {},
}


@cache
def loaded(name: str) -> RowDetector:
    detector: Any = registry.load(name)
    built: RowDetector = detector(detector.Config(**SETTINGS.get(name, {})))
    if callable(load := getattr(built, "load", None)):
        load(resources())
    return built


def scored(name: str, rows: list[dict[str, Any]]) -> list[Score]:
    found = loaded(name).score(rows)
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ROW_DETECTORS)
def test_what_is_sent_costs_little_and_hurts_no_other_row(name: str, case: str) -> None:
    [alone] = scored(name, [GOOD])
    before = time.process_time()
    first, found, last = scored(name, [GOOD, CASES[case], GOOD])
    assert time.process_time() - before < SECONDS
    assert found.outcome is not Outcome.FAILED, found.detail
    for other in (first, last):
        assert other.outcome is alone.outcome
        assert other.value == pytest.approx(alone.value, abs=1e-4)


@pytest.mark.parametrize(
    ("case", "mark"),
    (
        ("a megabyte of sentences", "claims_truncated"),
        ("500 passages", "contexts_truncated"),
        ("a megabyte of passage", "contexts_truncated"),
    ),
)
def test_what_faithfulness_leaves_out_is_recorded_with_the_score(case: str, mark: str) -> None:
    [found] = scored("faithfulness", [CASES[case]])
    assert found.outcome is Outcome.OK
    assert found.detail[mark] is True


@pytest.mark.parametrize(
    ("case", "reason"), (("empty", "empty_answer"), ("white space", "empty_answer"), ("nothing at all", "content_off"))
)
def test_what_faithfulness_cannot_judge_has_its_reason(case: str, reason: str) -> None:
    [found] = scored("faithfulness", [CASES[case]])
    assert (found.outcome, found.reason) == (Outcome.NOT_EVALUABLE, reason)
