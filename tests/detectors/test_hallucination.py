"""Hallucination: which way a row is judged by, what it says of it, and what may alert."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from detectors import hallucination_head
from detectors.contract import Outcome, Resources
from detectors.faithfulness import Faithfulness
from detectors.hallucination import WAYS, Hallucination
from detectors.hallucination_head import FEATURES, FILE, LEAST, Head, HeadDamaged, calibrated_on, digest, read_heads, written
from detectors.testing import check_detector
from tests.detectors.minilm import encoder, resources, sample
from tests.detectors.test_ways import CONTENT, said

CONTEXT = "The Eiffel Tower stands in Paris. It was completed in 1889 and is 330 metres tall."
TRUE, FALSE = "The Eiffel Tower was completed in 1889.", "It is made of chocolate and sugar."
ROW = {"record_id": "r", "question": "When was the Eiffel Tower completed?", "response": f"{TRUE} {FALSE}", "contexts": []}
TURNS = [said("user", "Tell me."), said("assistant", "The Eiffel Tower was completed in 1920."), said("user", "When, again?")]
EVIDENCE: dict[str, dict[str, Any]] = {
    "context": {"contexts": [CONTEXT]},
    "samples": {"samples": ["In 1889.", "It was finished by Napoleon in 1801."]},
    "logprobs": {"logprobs": {"content": CONTENT}},
    "turns": {"messages": [*TURNS, said("assistant", TRUE)]},
}


@cache
def loaded(**settings: Any) -> Hallucination:
    detector = Hallucination(Hallucination.Config(**settings))
    detector.load(resources())
    return detector


def with_all(*ways: str) -> dict[str, Any]:
    return {**ROW, **{key: value for way in ways for key, value in EVIDENCE[way].items()}}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_says_its_name_and_a_probability(way: str) -> None:
    [score] = loaded().score([with_all(way)])
    assert (score.outcome, score.detail["way"]) == (Outcome.OK, way)
    assert score.value is not None
    assert 0 < score.value < 1
    assert way == "context" or score.stage == way
    json.dumps(dict(score.detail), allow_nan=False)


def test_the_first_way_that_a_row_has_evidence_for_is_taken() -> None:
    rows = [with_all(*WAYS[at:]) for at in range(len(WAYS))]
    assert [score.detail["way"] for score in loaded().score(rows)] == [*WAYS]
    reordered = loaded(ways=("turns", "logprobs", "samples"))
    assert [score.detail["way"] for score in reordered.score(rows[1:])] == ["turns"] * 3
    assert [score.detail.get("way") for score in loaded(ways=("logprobs",)).score(rows)] == ["logprobs"] * 3 + [None]


def test_without_any_evidence_it_is_not_evaluable_and_says_what_is_missing() -> None:
    bare, blank = loaded().score([ROW, {**ROW, "contexts": [" \n"], "samples": [""], "logprobs": {"content": None}}])
    for score in (bare, blank):
        assert (score.outcome, score.reason, score.detail["missing"]) == (Outcome.NOT_EVALUABLE, "no_context", [*WAYS])


@pytest.mark.parametrize(
    ("changed", "reason"),
    (
        ({"response": None}, "content_off"),
        ({"response": " \n"}, "empty_answer"),
        ({"response": 7}, "wrong_type"),
        ({"contexts": "text"}, "wrong_type"),
        ({"response": "Is it?"}, "no_claims"),
        ({"response": "Is it?", "contexts": [], "messages": EVIDENCE["turns"]["messages"]}, "no_claims"),
    ),
)
def test_what_cannot_be_judged_has_its_reason(changed: dict[str, Any], reason: str) -> None:
    [score] = loaded().score([{**with_all("context"), **changed}])
    assert (score.outcome, score.reason) == (Outcome.NOT_EVALUABLE, reason)


def test_an_unsupported_claim_raises_it_and_is_named_with_its_offsets() -> None:
    good, bad = loaded().score([{**ROW, "response": TRUE, "contexts": [CONTEXT]}, with_all("context")])
    assert good.value is not None
    assert bad.value is not None
    assert good.value < 0.5 < bad.value
    assert [ROW["response"][claim.start : claim.end] for claim in bad.claims] == [FALSE]
    assert (good.claims, good.detail["unsupported"], bad.detail["unsupported"], bad.detail["claims_total"]) == ((), 0, 1, 2)


def test_samples_that_disagree_raise_it_and_a_repetition_of_the_answer_counts_once() -> None:
    agreeing = {**ROW, "response": "In 1889.", "samples": ["It was completed in 1889.", "1889."]}
    other = {**agreeing, "samples": ["It was completed in 1905.", "It was Napoleon's."]}
    low, high = loaded().score([agreeing, other])
    assert low.value is not None
    assert high.value is not None
    assert low.value < high.value
    assert (low.detail["agreeing"], high.detail["agreeing"], high.detail["clusters"]) == (2, 0, 3)
    of_n = [
        said("user", "When?"),
        *(said("assistant", text, finish_reason="stop") for text in ("In 1889.", "In 1889.", "In 1905.")),
    ]
    [chosen] = loaded().score([{**ROW, "response": "In 1889.", "messages": of_n}])
    assert (chosen.detail["way"], chosen.detail["samples"], chosen.detail["agreeing"]) == ("samples", 2, 1)


def test_unsure_tokens_raise_it() -> None:
    sure, unsure = loaded().score([{**ROW, "logprobs": [-0.01] * 20}, {**ROW, "logprobs": [-0.01] * 10 + [-3.0] * 10}])
    assert sure.value is not None
    assert unsure.value is not None
    assert sure.value < unsure.value


def test_a_contradiction_with_an_earlier_turn_raises_it_and_is_named() -> None:
    row = {**with_all("turns"), "response": TRUE}
    same = {**row, "messages": [said("user", "?"), said("assistant", TRUE.replace("The ", "So the ")), said("user", "When?")]}
    other, repeated = loaded().score([row, same])
    assert other.value is not None
    assert repeated.value is not None
    assert repeated.value < other.value
    assert [TRUE[claim.start : claim.end] for claim in other.claims] == [TRUE]
    assert repeated.claims == ()


def test_a_way_that_is_too_weak_is_marked_and_may_not_alert() -> None:
    heads = read_heads()
    for way, head in heads.items():
        [score] = loaded().score([with_all(way)])
        assert score.may_alert is head.may_alert
        assert score.detail.get("cannot_alert", False) is not head.may_alert
    assert heads["context"].may_alert, "else nothing would ever alert"


def test_the_prior_of_the_traffic_moves_the_probability_by_its_odds() -> None:
    [even], [rare] = loaded().score([with_all("context")]), loaded(prior=0.1).score([with_all("context")])
    assert even.value is not None
    assert rare.value is not None
    assert rare.value / (1 - rare.value) == pytest.approx(even.value / (1 - even.value) / 9)


def test_work_is_shared_with_faithfulness_of_the_same_settings() -> None:
    class Counting:
        name = encoder().name
        dimension = encoder().dimension

        def __init__(self) -> None:
            self.texts = 0

        def encode(self, texts: Any) -> Any:
            self.texts += len(texts)
            return encoder().encode(texts)

    counting = Counting()
    shared = Resources(encoder=lambda: counting)
    everywhere = {"unsure_width": 1.0}
    faithfulness, hallucination = (
        Faithfulness(Faithfulness.Config(**everywhere)),
        Hallucination(Hallucination.Config(**everywhere)),
    )
    for detector in (faithfulness, hallucination):
        detector.load(shared)
    rows = [with_all("context"), {**with_all("context"), "response": TRUE}]
    supports = [[claim.support for claim in score.claims] for score in faithfulness.score(rows)]
    before = counting.texts
    weakest = [score.detail["weakest"] for score in hallucination.score(rows)]
    assert weakest == [min(found) for found in supports]
    assert counting.texts == before


def test_it_keeps_the_contract_by_every_way() -> None:
    check_detector(Hallucination, resources=resources())
    check_detector(Hallucination, {"ways": ["samples", "turns", "logprobs"], "prior": 0.2}, resources=resources())


def test_a_batch_gives_what_its_rows_alone_give() -> None:
    rows = [with_all(*WAYS[at:]) for at in range(len(WAYS))] + [ROW, {}, *sample()[:6]]
    batch = loaded().score(rows)
    for row, score in zip(rows, batch, strict=True):
        detector = Hallucination()
        detector.load(replace(resources()))
        [alone] = detector.score([row])
        assert (alone.outcome, alone.reason, alone.stage, alone.detail.get("way")) == (
            score.outcome, score.reason, score.stage, score.detail.get("way"),
        )  # fmt: skip
        assert alone.value == pytest.approx(score.value, abs=1e-5)


def test_more_than_the_limits_is_left_out_and_said() -> None:
    many = {**ROW, "samples": ["In 1889."] * 20}
    long = {**ROW, "samples": ["In 1889. " * 2_000]}
    tokens = {**ROW, "logprobs": [-0.5] * 100}
    scores = loaded(max_logprobs=50).score([many, long, tokens])
    assert [score.detail.get("truncated") for score in scores] == [True, True, True]
    assert (scores[0].detail["samples"], scores[2].detail["tokens"]) == (10, 50)


def test_ways_are_named_once_and_known() -> None:
    for ways in ((), ("samples", "samples"), ("guess",)):
        with pytest.raises(ValidationError, match="ways"):
            Hallucination.Config(ways=ways)


# --- the head --------------------------------------------------------------------------------------------------------


def test_it_was_calibrated_on_the_supports_that_faithfulness_gives() -> None:
    card = json.loads((files("detectors") / "weights" / "faithfulness.json").read_text("utf-8"))
    assert calibrated_on() == card["sha256"], "run detectors.training.hallucination after detectors.training.faithfulness"


def test_heads_come_back_as_they_were_written_and_damage_is_noticed(tmp_path: Path) -> None:
    heads = {}
    for way, names in FEATURES.items():
        mean, scale, weights = (np.arange(len(names), dtype=np.float64) + i + 0.1 for i in range(3))
        heads[way] = written(way, Head(mean, scale, weights, bias=0.3, may_alert=way == "context"))
    (tmp_path / FILE).write_text(json.dumps({"heads": heads, "sha256": digest(heads)}))
    found = read_heads(tmp_path)
    assert {way: written(way, head) for way, head in found.items()} == heads
    heads["turns"]["bias"] = 0.4
    (tmp_path / FILE).write_text(json.dumps({"heads": heads, "sha256": "0"}))
    with pytest.raises(HeadDamaged, match="reinstall"):
        read_heads(tmp_path)
    heads["turns"]["features"] = ["other"]
    (tmp_path / FILE).write_text(json.dumps({"heads": heads, "sha256": digest(heads)}))
    with pytest.raises(HeadDamaged, match="other features"):
        read_heads(tmp_path)


def test_more_evidence_against_an_answer_never_lowers_its_probability() -> None:
    """The signs of the weights are held in training."""
    for way, head in read_heads().items():
        for i, sign in enumerate(FEATURES[way].values()):
            step = np.zeros(len(FEATURES[way]))
            step[i] = 1.0
            moved = head.probability(head.mean + step) - head.probability(head.mean)
            assert moved * sign >= 0


def test_the_flag_is_the_one_the_card_chose() -> None:
    card = json.loads((Path(hallucination_head.__file__).parent / "weights" / FILE).read_text(encoding="utf-8"))
    assert Hallucination.flag == card["ways"]["context"]["flag"]
    for way, head in read_heads().items():
        found = card["ways"][way]
        least = min(found[name]["macro"] for name in ("auroc", "auroc_leave_one_source_out") if name in found)
        assert head.may_alert is (least >= LEAST)


def test_it_is_calibrated_on_the_faithfulness_that_is_shipped() -> None:
    """Else train it again: `python -m detectors.training.hallucination --data DIR`."""
    folder = Path(hallucination_head.__file__).parent / "weights"
    card = json.loads((folder / FILE).read_text(encoding="utf-8"))
    assert card["faithfulness"] == {
        "version": Faithfulness.version,
        "sha256": hashlib.sha256((folder / "faithfulness.safetensors").read_bytes()).hexdigest(),
    }
