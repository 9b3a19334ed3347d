"""Relevance of answers and of passages, with the shipped heads and the real encoders."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detectors
from detectors.answer_relevance import AnswerRelevance
from detectors.cascade import NOWHERE, Band
from detectors.context_relevance import USED, ContextRelevance
from detectors.contract import DetectorConfig, Outcome, Score
from detectors.faithfulness import HeadDamaged
from detectors.relevance import FILE, pair, read_heads
from detectors.support import FUNCTION_WORDS
from detectors.testing import check_detector
from detectors.training import relevance as training
from detectors.training.bands import auroc
from detectors.training.faithfulness import SOURCES
from detectors.training.pairs import answers, passages, tabulate
from tests.detectors.minilm import encoder, resources, sample

QUESTION = "When was the Eiffel Tower completed?"
TOWER = "The Eiffel Tower was completed in 1889. It stands in Paris and is 330 metres tall."
BREAD = "Rye bread needs a sourdough starter. Let the dough rest for twelve hours before it is baked."
SEA = "Blue whales feed on krill and can weigh as much as thirty elephants."
BOTH: tuple[Any, ...] = (AnswerRelevance, ContextRelevance)


@cache
def loaded(detector: Any, **settings: Any) -> Any:
    built = detector(detector.Config(**settings))
    built.load(resources())
    return built


def answer(response: object, question: object = QUESTION, **settings: Any) -> Score:
    found: Score = loaded(AnswerRelevance, **settings).score([{"question": question, "response": response}])[0]
    return found


def context(*contexts: str, question: object = QUESTION, response: object = None, **settings: Any) -> Score:
    row = {"question": question, "contexts": list(contexts), "response": response}
    found: Score = loaded(ContextRelevance, **settings).score([row])[0]
    return found


def value(score: Score) -> float:
    assert score.value is not None, score
    return score.value


def card(detector: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files("detectors") / "weights" / FILE).read_text("utf-8"))["cards"][detector.name]
    return found


def labelled() -> list[dict[str, Any]]:
    """Rows with the names of labels that training reads."""
    unfit = {row["id"] for row in sample() if row["dataset"] == "factcheck_gpt" and row["label"]}
    return [{**row, "label_name": "irrelevant" if row["id"] in unfit else "supports"} for row in sample()]


@pytest.mark.parametrize("detector", BOTH)
def test_it_keeps_the_contract(detector: Any) -> None:
    check_detector(detector, resources=resources())
    check_detector(detector, {"unsure_width": 1.0}, resources=resources())


# --- what they say ---------------------------------------------------------------------------------------------------


def test_an_answer_to_the_question_scores_high_and_one_to_another_question_is_flagged() -> None:
    assert value(answer(TOWER)) > 0.8
    for other in (BREAD, SEA):
        assert value(answer(other)) <= AnswerRelevance.flag


def test_a_sentence_of_answer_in_an_answer_about_something_else_is_found_and_named() -> None:
    text = f"{BREAD} The Eiffel Tower was completed in 1889."
    found = answer(text)
    start, end = found.detail["span"]
    assert text[start:end] == "The Eiffel Tower was completed in 1889."
    assert value(found) > value(answer(BREAD)) + 0.2


def test_passages_are_judged_one_by_one_in_the_order_given() -> None:
    found = context(BREAD, "", TOWER)
    bread, empty, tower = found.detail["passages"]
    assert empty is None
    assert bread < 0.35 < 0.8 < tower
    assert found.value == found.detail["best"] == tower
    assert found.detail["best_passage"] == 2
    assert found.detail["mean"] == pytest.approx((bread + tower) / 2)
    assert found.detail["irrelevant"] == sum(p <= ContextRelevance.flag for p in (bread, tower))


def test_the_mean_is_the_value_where_it_is_asked_for() -> None:
    found = context(BREAD, TOWER, value="mean")
    assert found.value == found.detail["mean"] < found.detail["best"]


def test_a_passage_is_worth_the_same_whatever_stands_beside_it() -> None:
    alone = context(TOWER, unsure_width=0.0).detail["passages"]
    beside = context(BREAD, TOWER, SEA, unsure_width=0.0).detail["passages"]
    assert beside[1] == pytest.approx(alone[0], abs=1e-9)


def test_passages_that_the_answer_did_not_use_are_counted() -> None:
    found = context(TOWER, BREAD, SEA, response="The Eiffel Tower was completed in 1889.")
    assert found.detail["unused"] == 2
    assert context(TOWER, BREAD, SEA, response=f"{TOWER} {SEA}").detail["unused"] == 1


@pytest.mark.parametrize("response", (None, "", "Yes, it is.", 7, "Which tower do you mean?"))
def test_where_an_answer_says_too_little_nothing_is_said_of_unused_passages(response: object) -> None:
    assert "unused" not in context(TOWER, BREAD, response=response).detail


# --- what cannot be judged -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    (
        ({"question": None, "response": TOWER}, "no_question"),
        ({"question": " \n", "response": TOWER}, "no_question"),
        ({"response": TOWER}, "no_question"),
        ({"question": QUESTION, "response": ""}, "empty_answer"),
        ({"question": QUESTION, "response": " \u00a0\n"}, "empty_answer"),
        ({"question": QUESTION, "response": None}, "content_off"),
        ({"question": 7, "response": TOWER}, "wrong_type"),
        ({"question": QUESTION, "response": [TOWER]}, "wrong_type"),
    ),
)
def test_an_answer_that_cannot_be_judged_has_its_reason(row: dict[str, Any], reason: str) -> None:
    [found] = loaded(AnswerRelevance).score([row])
    assert (found.outcome, found.reason) == (Outcome.NOT_EVALUABLE, reason)


@pytest.mark.parametrize(
    ("row", "reason"),
    (
        ({"question": None, "contexts": [TOWER]}, "no_question"),
        ({"question": "", "contexts": [TOWER]}, "no_question"),
        ({"question": QUESTION, "contexts": []}, "no_context"),
        ({"question": QUESTION, "contexts": ["", " \n"]}, "no_context"),
        ({"question": QUESTION, "contexts": None}, "no_context"),
        ({"question": QUESTION, "contexts": [None, 3]}, "no_context"),
        ({"question": QUESTION, "contexts": TOWER}, "wrong_type"),
        ({"question": ["?"], "contexts": [TOWER]}, "wrong_type"),
    ),
)
def test_passages_that_cannot_be_judged_have_their_reason(row: dict[str, Any], reason: str) -> None:
    [found] = loaded(ContextRelevance).score([row])
    assert (found.outcome, found.reason) == (Outcome.NOT_EVALUABLE, reason)


def test_what_is_left_out_is_said() -> None:
    many = context(*(f"Passage {i} says that the tower {i} is tall." for i in range(500)))
    assert len(many.detail["passages"]) == ContextRelevance.Config().max_passages
    assert many.detail["contexts_truncated"] is True
    assert context("The tower stands in Paris. " * 40_000).detail["contexts_truncated"] is True
    assert answer("The tower stands in Paris. " * 40_000).detail["truncated"] is True
    assert "truncated" not in answer(TOWER).detail
    assert "contexts_truncated" not in context(TOWER).detail


def test_a_question_of_function_words_alone_fits_nothing_by_its_words() -> None:
    assert {"what", "is", "it"} <= FUNCTION_WORDS
    assert value(answer(BREAD, "What is it?")) < value(answer(BREAD, "What does rye bread need?"))


# --- the cascade -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", BOTH)
def test_the_encoder_reads_what_the_first_stage_leaves_open(detector: Any) -> None:
    row = {"question": QUESTION, "response": TOWER, "contexts": [TOWER]}
    assert loaded(detector, unsure_width=0.0).band == NOWHERE
    assert loaded(detector, unsure_width=0.0).score([row])[0].stage == "static"
    assert loaded(detector, unsure_width=1.0).score([row])[0].stage == "minilm"
    assert loaded(detector, unsure_width=1.0).score([row])[0].detail["unclear"] is True


@pytest.mark.parametrize("detector", BOTH)
def test_a_batch_gives_what_its_rows_give_alone(detector: Any) -> None:
    rows = [row for row in sample() if row["question"]]
    together = loaded(detector).score(rows)
    for row, found in zip(rows, together, strict=True):
        [alone] = loaded(detector).score([row])
        assert (alone.stage, alone.outcome) == (found.stage, found.outcome)
        assert alone.value == pytest.approx(found.value, abs=1e-5)
    assert {found.stage for found in together} == {"static", "minilm"}


@pytest.mark.parametrize("detector", BOTH)
def test_defaults_are_those_of_the_card(detector: Any) -> None:
    told, config = card(detector), detector.Config()
    assert detector.flag == told["flag"]
    assert (config.unsure_around, config.unsure_width) == (told["cascade"]["unsure_around"], told["cascade"]["unsure_width"])
    around, width = config.unsure_around, config.unsure_width
    assert detector().band == Band(around - width, around + width)
    assert detector.version == told["version"]


def test_what_counts_as_used_is_what_was_measured() -> None:
    assert json.loads((files("detectors") / "weights" / FILE).read_text("utf-8"))["unused"]["threshold"] == USED


# --- quality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", BOTH)
def test_the_lead_over_shared_keywords_is_no_chance(detector: Any) -> None:
    low, middle, high = card(detector)["lead_over_rule"]
    assert 0 < low < middle < high


def test_real_answers_and_passages_score_above_those_of_others() -> None:
    rows = [row for row in sample() if row["dataset"] == "begin_wow"]
    for detector, column in ((AnswerRelevance, "response"), (ContextRelevance, "contexts")):
        swapped = [{**row, column: rows[i - 1][column]} for i, row in enumerate(rows)]
        scores = np.array([value(score) for score in loaded(detector).score([*rows, *swapped])])
        assert auroc(np.arange(len(scores)) < len(rows), scores) > 0.75


def test_heads_are_fitted_written_and_read_back(tmp_path: Path) -> None:
    """On a few rows: the script's way from rows to files, and back into a detector."""
    rows = labelled()
    few = {name: tabulate(make(rows, 0), resources().static(), encoder()) for name, make in training.MAKE.items()}
    heads = {name: training.fit_both(table, "static-256", "all-MiniLM-L6-v2") for name, table in few.items()}
    training.write(heads, tmp_path, {}, {})
    for name, table in few.items():
        again = read_heads(name, tmp_path)
        expected = heads[name].minilm.probabilities(table.second)
        assert np.array_equal(again.minilm.probabilities(table.second), expected)
        assert auroc(table.relevant, expected) > 0.7


def test_negatives_have_the_source_of_their_question_and_another_group() -> None:
    rows = labelled()
    for made in (answers(rows, 0), passages(rows, 0)):
        real = {(one.group, one.text) for one in made if one.relevant}
        shuffled = [one for one in made if not one.relevant and one.source != "factcheck_gpt"]
        assert shuffled
        assert not any((one.group, one.text) in real for one in shuffled)
        assert {(one.source, one.text) for one in shuffled} <= {(one.source, one.text) for one in made if one.relevant}


def test_weights_that_are_not_the_cards_are_refused(tmp_path: Path) -> None:
    content = json.loads((files("detectors") / "weights" / FILE).read_text("utf-8"))
    content["heads"]["answer_relevance"]["static"]["bias"] += 0.5
    (tmp_path / FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(HeadDamaged, match="not those its card describes"):
        read_heads("answer_relevance", tmp_path)


@pytest.mark.parametrize("detector", BOTH)
def test_a_detector_that_has_loaded_nothing_says_what_to_do(detector: Any) -> None:
    with pytest.raises(RuntimeError, match=r"call load\(resources\)"):
        detector().score([{"question": QUESTION, "response": TOWER, "contexts": [TOWER]}])


def test_a_text_without_a_sentence_is_no_pair() -> None:
    assert pair("Why?", " \n ", 100) is None


@pytest.mark.parametrize("detector", BOTH)
def test_the_readme_has_the_figures_of_the_card(detector: Any) -> None:
    text = (Path(detectors.__file__).parent / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {detector.name}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found
    told = card(detector)
    for name in ("auroc", "best_overlap_rule", "length_alone"):
        figures = told[name]
        for kind in ("macro", "pooled"):
            low, high = figures[f"{kind}_95"]
            assert f"{figures[kind]:.3f} ({low:.3f} to {high:.3f})" in found[1], (name, kind)
        sources = [source for source in SOURCES if source in figures]
        assert all(f"{figures[source]:.3f}" in found[1] for source in sources)
    low, middle, high = told["lead_over_rule"]
    assert f"{middle:.3f} ({low:.3f} to {high:.3f})" in found[1]
    assert f"flagged at {told['flag']} or below" in found[1]
    assert issubclass(detector.Config, DetectorConfig)
