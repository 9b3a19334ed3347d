"""Faithfulness with the real encoder and the shipped head."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from detectors.contract import Outcome, Resources, Row, Score
from detectors.faithfulness import READING, Faithfulness, Head, HeadDamaged, reaches, read_heads
from detectors.reader import shared as reader
from detectors.static import shared
from detectors.support import FEATURES, NEAR, numbers, stem, wording
from detectors.testing import check_detector
from detectors.training import faithfulness as training
from detectors.training.bands import auroc
from detectors.training.contrasts import contrasts
from detectors.training.examples import labelled
from detectors.training.table import Read
from tests.detectors.minilm import encoder, resources, sample

CONTEXTS = [
    "Paris is the capital of France. It has 2.1 million inhabitants.",
    "The Eiffel Tower was completed in 1889. It is 330 metres tall and stands in Paris. Gustave Eiffel's company built it.",
]


@cache
def loaded() -> Faithfulness:
    detector = Faithfulness()
    detector.load(resources())
    return detector


def card() -> dict[str, Any]:
    loaded_card: dict[str, Any] = json.loads((files("detectors") / "weights" / "faithfulness.json").read_text("utf-8"))
    return loaded_card


def score(response: object, contexts: object = CONTEXTS, detector: Faithfulness | None = None) -> Score:
    row: Row = {"record_id": "r", "response": response, "contexts": contexts}
    return (detector or loaded()).score([row])[0]


def value(response: str) -> float:
    found = score(response).value
    assert found is not None
    return found


def test_it_keeps_the_contract() -> None:
    check_detector(Faithfulness, resources=resources())


# --- what it says ----------------------------------------------------------------------------------------------------


def test_what_the_context_says_is_supported_and_what_it_does_not_say_is_not() -> None:
    assert value("The Eiffel Tower was completed in 1889.") > 0.85
    assert value("It is 330 metres tall and stands in Paris.") > 0.85
    assert value("Bananas are rich in potassium.") < 0.15


@pytest.mark.parametrize(
    "changed",
    (
        pytest.param("The Eiffel Tower was completed in 1899.", id="number"),
        pytest.param("The Eiffel Tower was completed in 1889 by Renault.", id="name"),
        pytest.param("The Eiffel Tower was not completed in 1889.", id="negation"),
        pytest.param("I think the Eiffel Tower was completed in 1889.", id="opinion"),
        pytest.param("The Eiffel Tower was completed in March 1889.", id="month"),
    ),
)
def test_one_changed_fact_costs_support(changed: str) -> None:
    assert value(changed) < value("The Eiffel Tower was completed in 1889.") - 0.05


def test_evidence_names_the_claim_and_the_context_it_stands_in() -> None:
    answer = "Well: the tower is 330 metres tall.\n- Paris is the capital of France."
    found = score(answer)
    assert [answer[c.start : c.end] for c in found.claims] == [
        "Well: the tower is 330 metres tall.",
        "Paris is the capital of France.",
    ]
    assert [c.context for c in found.claims] == [1, 0]


def test_the_value_is_the_mean_support_and_the_share_counts_claims() -> None:
    found = score("Paris is the capital of France. Bananas are rich in potassium. The tower stands in Paris.")
    supports = [claim.support for claim in found.claims]
    assert found.value == pytest.approx(np.mean(supports))
    assert found.detail["lowest"] == min(supports) == supports[1]
    assert (found.detail["claims_total"], found.detail["supported"]) == (3, 2)
    assert found.detail["share"] == pytest.approx(2 / 3)


def test_the_threshold_decides_what_counts_as_supported() -> None:
    strict = Faithfulness(Faithfulness.Config(claim_threshold=0.999))
    strict.load(resources())
    assert score("Paris is the capital of France.", detector=strict).detail["supported"] == 0
    assert score("Paris is the capital of France.").detail["supported"] == 1


def test_contexts_that_are_not_text_are_passed_over_and_the_rest_keep_their_index() -> None:
    found = score("The Eiffel Tower was completed in 1889.", [None, "", 3, CONTEXTS[1]])
    assert found.claims[0].context == 3


# --- the cascade ---------------------------------------------------------------------------------------------------


def by(width: float, closer_claims: int = 64) -> Faithfulness:
    detector = Faithfulness(Faithfulness.Config(unsure_width=width, closer_claims=closer_claims))
    detector.load(resources())
    return detector


def test_what_is_clear_is_judged_by_the_static_encoder_alone() -> None:
    found = score(" ".join(f"The tower number {i} is of bananas." for i in range(20)))
    assert found.stage == "static"
    assert "claims_closer" not in found.detail
    assert "unclear" not in found.detail


def test_what_is_near_the_flag_is_read_closer_and_says_so() -> None:
    answer = "The Eiffel Tower was completed in 1889. Bananas are rich in potassium. It stands in Paris."
    closer, none = score(answer, detector=by(1.0)), score(answer, detector=by(0.0))
    assert (closer.stage, closer.detail["claims_closer"]) == ("cross_encoder", 3)
    assert closer.value is not None
    assert closer.detail.get("unclear", False) is (abs(closer.value - Faithfulness.flag) <= Faithfulness.Config().unclear_width)
    assert none.stage == "static"
    assert closer.value != none.value
    assert [c.context for c in closer.claims][::2] == [c.context for c in none.claims][::2] == [1, 1]


def test_only_the_least_clear_claims_are_looked_at_closer() -> None:
    answer = "The Eiffel Tower was completed in 1889. Bananas are rich in potassium. It is a tall tower of the French."
    around = score(answer, detector=by(0.0)).value
    assert around is not None
    narrow = Faithfulness(Faithfulness.Config(unsure_width=1.0, unsure_around=around, closer_claims=1))
    narrow.load(resources())
    one, none = score(answer, detector=narrow), score(answer, detector=by(0.0))
    changed = [a.support != b.support for a, b in zip(one.claims, none.claims, strict=True)]
    assert one.detail["claims_closer"] == 1
    assert sum(changed) == 1
    supports = [c.support for c in none.claims]
    assert changed.index(True) == int(np.argmin(np.abs(np.array(supports) - Faithfulness.Config().claim_threshold)))


def test_a_claim_is_read_with_the_sentences_nearest_to_it() -> None:
    read: list[tuple[str, str]] = []

    class Listening:
        name = reader().name

        def read(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
            read.extend(pairs)
            return reader().read(pairs)

    detector = Faithfulness(Faithfulness.Config(unsure_width=1.0))
    detector.load(Resources(encoder=encoder, reader=Listening))
    contexts = [f"Sentence number {i} is about the town of Place{i}." for i in range(30)]
    score("Place7 is a town.", contexts, detector)
    [(claim, evidence)] = read
    assert claim == "Place7 is a town."
    assert "Sentence number 7 is about the town of Place7." in evidence
    assert sum(context in evidence for context in contexts) == NEAR


def test_the_more_claims_the_nearer_the_flag_must_be_for_a_closer_look() -> None:
    assert reaches(np.array([1.0, 2.0, 8.0]), 2).tolist() == [1.0, 1.0, 0.25]
    claims = ["Paris is the capital of France.", "Bananas are rich in potassium.", "Cows eat grass."]
    few, many = score(" ".join(claims)), score(" ".join(claims * 8))
    assert (few.stage, few.detail["claims_closer"]) == ("cross_encoder", Faithfulness.Config().closer_claims)
    assert (many.stage, "claims_closer" in many.detail) == ("static", False)


def test_which_stage_answers_does_not_depend_on_the_batch() -> None:
    rows = sample()
    together = loaded().score(rows)
    alone = [loaded().score([row])[0] for row in rows]
    assert [s.stage for s in together] == [s.stage for s in alone]
    assert {s.stage for s in together} == {"static", "cross_encoder", ""} - ({""} if all(s.stage for s in together) else set())
    assert all(a.value == pytest.approx(b.value, abs=1e-5) for a, b in zip(together, alone, strict=True) if b.value is not None)


# --- what it cannot judge --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "contexts", "reason"),
    (
        pytest.param(None, CONTEXTS, "content_off", id="no response"),
        pytest.param(7, CONTEXTS, "wrong_type", id="response a number"),
        pytest.param("It is tall.", {"a": 1}, "wrong_type", id="contexts a mapping"),
        pytest.param("", CONTEXTS, "empty_answer", id="empty"),
        pytest.param(" \n\t", CONTEXTS, "empty_answer", id="white space"),
        pytest.param("It is tall.", [], "no_context", id="no contexts"),
        pytest.param("It is tall.", None, "no_context", id="contexts None"),
        pytest.param("It is tall.", ["", " ", "..."], "no_context", id="contexts say nothing"),
        pytest.param("😀!!!", CONTEXTS, "no_claims", id="only signs"),
        pytest.param("Shall I look it up?", CONTEXTS, "no_claims", id="only a question"),
    ),
)
def test_not_evaluable(response: object, contexts: object, reason: str) -> None:
    found = score(response, contexts)
    assert (found.outcome, found.reason) == (Outcome.NOT_EVALUABLE, reason)


def test_a_row_without_keys_is_not_evaluable() -> None:
    assert loaded().score([{}])[0].outcome is Outcome.NOT_EVALUABLE


def test_scoring_before_load_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="call load"):
        Faithfulness().score([])


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_a_megabyte_of_answer_is_bounded_and_said_so() -> None:
    started = time.perf_counter()
    found = score("The tower number %d stands in Paris. " * 27_000)
    assert time.perf_counter() - started < 10
    assert len(found.claims) == Faithfulness.Config().max_claims
    assert found.detail["claims_truncated"] is True
    assert "contexts_truncated" not in found.detail


def test_contexts_beyond_the_limits_are_left_out_and_said_so() -> None:
    few = Faithfulness(Faithfulness.Config(max_passages=1))
    few.load(resources())
    short = Faithfulness(Faithfulness.Config(max_context_chars=100))
    short.load(resources())
    claim = "Gustave Eiffel's company built it."
    for detector in (few, short):
        found = score(claim, detector=detector)
        assert found.detail["contexts_truncated"] is True
        assert found.value is not None
        assert found.value < value(claim) - 0.2
    assert "contexts_truncated" not in score(claim).detail


def test_a_batch_gives_what_the_rows_alone_give() -> None:
    rows = sample()[::4]
    batch = loaded().score(rows)
    fresh = loaded().score(rows[::-1])[::-1]
    alone = [loaded().score([row])[0] for row in rows]
    for a, b, c in zip(batch, fresh, alone, strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-5)
        assert a.value == pytest.approx(c.value, abs=1e-5)
        assert [claim.context for claim in a.claims] == [claim.context for claim in c.claims]


# --- quality ---------------------------------------------------------------------------------------------------------


def test_it_tells_supported_from_unsupported_on_rows_it_was_not_trained_on() -> None:
    rows = sample()
    found = [(row["label"] == 0, s.value) for row, s in zip(rows, loaded().score(rows), strict=True) if s.value is not None]
    supported, values = zip(*found, strict=True)
    assert len(found) >= 55
    assert roc_auc_score(supported, values) > 0.85


def test_the_defaults_are_what_training_found() -> None:
    assert Faithfulness.Config().claim_threshold == card()["claim_threshold"]
    assert Faithfulness.flag == card()["flag"] == Faithfulness.Config().unsure_around
    assert Faithfulness.Config().unsure_width == card()["cascade"]["unsure_width"]


def test_the_cascade_loses_no_more_than_it_may() -> None:
    figures = card()["cascade"]
    assert max(figures["loss_macro"][1], figures["loss_pooled"][1]) <= figures["most_loss"] <= 0.01
    config = Faithfulness.Config()
    assert (figures["unsure_width"], figures["closer_claims"]) == (config.unsure_width, config.closer_claims)


def test_the_card_describes_the_weights() -> None:
    content = (files("detectors") / "weights" / "faithfulness.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == card()["sha256"]
    assert len(content) < 1_000_000
    assert card()["models"] == {"static": shared().name, "cross_encoder": reader().name}
    assert card()["version"] == Faithfulness.version
    assert [head.weights.shape for head in read_heads()] == [(len(FEATURES),), (len(READING),)]


def test_the_card_says_better_than_the_best_single_rule() -> None:
    figures = card()
    assert figures["auroc"]["macro"] > figures["best_single_rule"]["macro"]
    assert figures["auroc"]["macro_95"][0] < figures["auroc"]["macro"] < figures["auroc"]["macro_95"][1]


def test_more_of_the_claim_in_the_evidence_never_counts_against_it() -> None:
    for head, signs in zip(read_heads(), (FEATURES, READING), strict=True):
        for (name, sign), weight in zip(signs.items(), head.weights, strict=True):
            assert sign * weight >= 0, name


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    for name in ("faithfulness.json", "faithfulness.safetensors"):
        (tmp_path / name).write_bytes((files("detectors") / "weights" / name).read_bytes())
    read_heads(tmp_path)
    damaged = bytearray((tmp_path / "faithfulness.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "faithfulness.safetensors").write_bytes(damaged)
    with pytest.raises(HeadDamaged, match="reinstall"):
        read_heads(tmp_path)


def test_another_reader_than_the_trained_one_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    class Other:
        name = "other"
        read = staticmethod(reader().read)

    Faithfulness().load(Resources(encoder=encoder, reader=Other))
    assert "another model" in caplog.text


# --- wording ---------------------------------------------------------------------------------------------------------


def test_numbers_are_compared_in_one_spelling() -> None:
    def of(text: str) -> frozenset[str]:
        return wording(text).numbers

    assert of("It has 2,100,000 people") == of("There are 2.1 million of them") == {"2100000"}
    assert of("He won three races") == of("It won 3") == {"3"}
    assert of("It is 1.50 now") == of("at 1.5") == {"1.5"}
    assert of("open at 10:30") == {"10:30"}
    assert of("It was on 3 May 1889") == {"3", "May", "1889"}
    assert of("May I come") == frozenset()
    assert numbers([]) == frozenset()


@pytest.mark.parametrize(
    ("one", "other"), (("visited", "visits"), ("cities", "city"), ("Eiffel's".lower(), "eiffel"), ("making", "makes"))
)
def test_forms_of_a_word_share_a_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_scripts_without_spaces_overlap_by_character() -> None:
    assert wording("東京は首都").words & wording("首都は東京です").words == set("東京は首都")


# --- training --------------------------------------------------------------------------------------------------------


def test_training_runs_end_to_end_and_is_repeatable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The sample says supported or not; readers are trained on more than that.
    rows = [{**row, "label_name": "partially-support" if row["label"] else "supports"} for row in sample()]
    for name, part in (("train", rows[::2]), ("dev", rows[1::2])):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in part)
    examples = [one for part in ("train", "dev") for one in labelled(tmp_path / f"{part}.jsonl.gz")]
    logits = reader().read([(one.claim, one.evidence) for one in examples])
    rows_read, claims = [one.row for one in examples], [one.claim for one in examples]
    np.savez(tmp_path / "logits.npz", row=rows_read, claim=claims, folds=logits, source=logits)
    read = Read.of(tmp_path / "logits.npz")
    heads = []
    for out in (tmp_path / "one", tmp_path / "two"):
        assert training.train(tmp_path, out, read, reader(), bootstraps=20) is not None
        heads.append((out / "faithfulness.safetensors").read_bytes())
        assert read_heads(out).cross_encoder.model == reader().name
    assert heads[0] == heads[1]


def test_auroc_is_the_one_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    label, values = rng.random(200) < 0.3, rng.integers(0, 20, 200).astype(np.float64)
    assert auroc(label, values) == pytest.approx(roc_auc_score(label, values))
    assert np.isnan(auroc(np.ones(3, dtype=bool), np.ones(3)))


def test_a_contrast_changes_one_fact_of_a_supported_answer() -> None:
    row = {"dataset": "s", "group": "g", "context": ["c"], "label": 0, "response": "The tower of Gustave was built in 1889."}
    other = {**row, "label": 1, "response": "The bridge of Charles is new."}
    pairs = contrasts([row, other], seed=0)
    kinds = {pair["dataset"]: pair["response"] for pair in pairs if pair["label"] == 1}
    assert kinds["contrast_negation"] == "The tower of Gustave was not built in 1889."
    assert kinds["contrast_number"].startswith("The tower of Gustave was built in 18")
    assert kinds["contrast_number"] != row["response"]
    assert all(pair["origin"] == "s" for pair in pairs)
    assert len(pairs) == 2 * len(kinds)


def test_a_claim_that_is_far_from_the_boundary_has_a_probability_without_a_warning() -> None:
    head = Head(np.zeros(1), np.full(1, 1e-3), np.ones(1), 0.0, "e")
    assert head.probabilities(np.array([[-1e6], [1e6]])).tolist() == pytest.approx([0.0, 1.0])


def test_the_head_gives_probabilities_row_by_row() -> None:
    head = Head(np.zeros(2), np.ones(2), np.array([1.0, -1.0]), 0.0, "e")
    assert head.probabilities(np.array([[0.0, 0.0], [2.0, 0.0]])).tolist() == pytest.approx([0.5, 1 / (1 + np.exp(-2))])
