"""What runs inside the helper processes, asked directly."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import pytest

from detectors.contract import DetectorConfig, Frame, NotEnoughData, NotEvaluable, Outcome, Reading, Worse
from monitor import helpers
from monitor.helpers import CompareRequest, DetectorSpec, ScoreRequest

BARENESS = DetectorSpec("tests.plugins:Bareness", '{"scale": 1.0}')
SCORER = helpers.scorer({"device": "cpu"})


def row(question: str = "why?", **fields: Any) -> dict[str, Any]:
    return {"record_id": "r", "question": question, "response": "so", "contexts": ["one"], **fields}


def test_scores_come_by_detector_in_the_order_of_the_rows() -> None:
    half = DetectorSpec("tests.plugins:Bareness", '{"scale": 0.5}')
    answer = SCORER(ScoreRequest((BARENESS, half), [row(), row(contexts=[])]))
    assert [[s.value for s in scores] for scores in answer.scores] == [[0.5, 1.0], [0.25, 0.5]]
    assert answer.device == "cpu"


def test_a_row_that_raises_fails_alone() -> None:
    answer = SCORER(ScoreRequest((BARENESS,), [row(), row("raise"), row("decline"), row()]))
    assert [(s.outcome.value, s.reason) for s in answer.scores[0]] == [
        ("ok", None),
        ("failed", "RuntimeError"),
        ("not_evaluable", "no_context"),
        ("ok", None),
    ]
    assert answer.scores[0][1].detail == {"error": "asked to"}


def test_a_detector_that_calls_it_a_day_fails_its_row_and_ends_no_process() -> None:
    answer = SCORER(ScoreRequest((BARENESS,), [row("exit"), row()]))
    assert [(s.outcome.value, s.reason) for s in answer.scores[0]] == [("failed", "SystemExit"), ("ok", None)]


def test_what_one_detector_does_to_its_rows_no_other_reads() -> None:
    half = DetectorSpec("tests.plugins:Bareness", '{"scale": 0.5}')
    answer = SCORER(ScoreRequest((BARENESS, half), [row("meddle")]))
    assert [scores[0].detail["passages"] for scores in answer.scores] == [2, 2]


def test_a_detector_that_cannot_be_built_fails_its_rows_and_no_others() -> None:
    broken = DetectorSpec("tests.plugins:Bareness", '{"scale": 0}')
    answer = SCORER(ScoreRequest((broken, BARENESS), [row()]))
    assert [scores[0].outcome for scores in answer.scores] == [Outcome.FAILED, Outcome.OK]


@pytest.mark.skipif(os.cpu_count() == 1, reason="detectors score one after another on one core")
def test_detectors_score_side_by_side() -> None:
    two = tuple(DetectorSpec("tests.plugins:Meeting", f'{{"scale": {scale}}}') for scale in (1.0, 0.5))
    answer = SCORER(ScoreRequest(two, [row()]))
    assert [[s.value for s in scores] for scores in answer.scores] == [[0.5], [0.25]]


def test_checks_of_the_same_detector_and_settings_share_its_scores() -> None:
    answer = SCORER(ScoreRequest((BARENESS, BARENESS), [row()]))
    assert answer.scores[0] is answer.scores[1]


class Stub:
    """A window detector that does one thing."""

    name: ClassVar[str] = "stub"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"features"})
    worse: ClassVar[Worse] = "higher"
    Config: ClassVar[type[DetectorConfig]] = DetectorConfig

    def __init__(self, what: Any) -> None:
        self._what = what

    def compare(self, reference: Any, current: Any) -> Any:
        if isinstance(self._what, Exception):
            raise self._what
        return self._what


def test_the_two_outcomes_that_are_no_failures_are_told_apart_from_the_one_that_is() -> None:
    frame = Frame({"x": [1.0]})
    reading = Reading(1.0, "x", n_current=1)
    assert helpers.compare(Stub(reading), None, frame).reading == reading
    few = helpers.compare(Stub(NotEnoughData("2 rows")), None, frame)
    assert (few.outcome, few.reason, few.reading) == (Outcome.NOT_ENOUGH_DATA, "2 rows", None)
    no = helpers.compare(Stub(NotEvaluable("constant", "all 1")), None, frame)
    assert (no.outcome, no.reason) == (Outcome.NOT_EVALUABLE, "constant: all 1")
    with pytest.raises(ZeroDivisionError):
        helpers.compare(Stub(ZeroDivisionError()), None, frame)


@pytest.mark.parametrize("what", (None, 0.5, (1, 2)))
def test_what_is_no_reading_is_a_failure_that_says_so(what: Any) -> None:
    with pytest.raises(TypeError, match=r"stub gave .*, not a Reading"):
        helpers.compare(Stub(what), None, Frame({"x": [1.0]}))


def test_the_worker_builds_what_it_is_asked_for() -> None:
    spec = DetectorSpec("tests.plugins:Mean", '{"column": "x"}')
    answer = helpers.worker({})(CompareRequest(spec, None, Frame({"x": [1.0, 3.0]})))
    assert answer.reading is not None
    assert answer.reading.value == 2.0
