"""Checkpoints that users bring for faithfulness and hallucination: small ones of several architectures, made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from detectors.contract import Outcome
from detectors.crossencoder import CrossConfig, CrossScorer
from detectors.entailment import Asked, Backend, TokenJudge, column, load, pieces_of
from detectors.faithfulness import Faithfulness
from detectors.hallucination import Hallucination
from detectors.modelfolder import ModelMissing, ModelUnfit
from detectors.testing import check_detector
from tests.detectors import checkpoints
from tests.detectors.minilm import resources

NLI = ("contradiction", "neutral", "entailment")
CONTEXT = "The Eiffel Tower stands in Paris. It was completed in 1889 and is 330 metres tall. Birds sing."
ANSWER = "The tower was completed in 1889. It is made of chocolate! Is it? It stands in Paris."
ROW = {"record_id": "r", "question": "When was it built?", "response": ANSWER, "contexts": ["Nothing of use.", CONTEXT]}


def checkpoint(folder: Path, backend: str, kind: str) -> Path:
    match backend:
        case "nli":
            return checkpoints.classifier(folder, kind, 3, NLI)
        case "hhem":
            return checkpoints.classifier(folder, kind, 1)
    return checkpoints.token_classifier(folder, kind)


def loaded(backend: str, folder: Path, **settings: Any) -> Faithfulness:
    detector = Faithfulness(Faithfulness.Config(backend=backend, checkpoint=folder, **settings))
    detector.load(resources())
    return detector


@pytest.mark.parametrize(("backend", "kind"), (("nli", "bert"), ("hhem", "mpnet"), ("lettucedetect", "distilbert")))
def test_every_claim_has_the_support_that_the_checkpoint_gives_it(backend: str, kind: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", backend, kind)
    [score] = loaded(backend, folder).score([ROW])
    assert (score.outcome, score.stage) == (Outcome.OK, backend)
    claims = [ANSWER[c.start : c.end] for c in score.claims]
    assert claims == ["The tower was completed in 1889.", "It is made of chocolate!", "It stands in Paris."]
    supports = [c.support for c in score.claims]
    assert score.value == pytest.approx(np.mean(supports))
    assert {c.context for c in score.claims} == {1}
    assert len(set(supports)) > 1
    if backend == "lettucedetect":
        return
    # The nearest sentences stand in the order of the contexts: here they are all there are.
    premise = "Nothing of use. The Eiffel Tower stands in Paris. It was completed in 1889 and is 330 metres tall. Birds sing."
    said = CrossScorer(CrossConfig(path=folder)).predict([(premise, claim) for claim in claims])
    assert supports == pytest.approx(said[:, NLI.index("entailment") if backend == "nli" else 0].tolist(), abs=1e-5)


def test_a_token_classifier_is_read_as_its_own_library_reads_it(tmp_path: Path) -> None:
    """Probabilities of the answer's tokens behind question and passages, the worst of each claim's."""
    import torch
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    folder = checkpoints.token_classifier(tmp_path / "model", "bert", names=("supported", "hallucinated"))
    spans = [(0, 32), (33, 57)]
    asked = Asked(ANSWER, "When?", spans, ["", ""], [CONTEXT])
    [found] = TokenJudge(folder, "cpu").support([asked])
    [piece] = pieces_of(asked, 160)
    tokenizer, net = AutoTokenizer.from_pretrained(folder), AutoModelForTokenClassification.from_pretrained(folder).eval()
    given = tokenizer(piece.prompt, piece.text, return_offsets_mapping=True, return_tensors="pt")
    offsets, of_answer = given.pop("offset_mapping")[0].tolist(), given.sequence_ids(0)
    with torch.inference_mode():
        made_up = net(**given).logits.softmax(dim=-1)[0, :, 1].tolist()
    worst = [
        max(made_up[k] for k, (a, b) in enumerate(offsets) if of_answer[k] == 1 and a < end and b > start) for start, end in spans
    ]
    assert found.support.tolist() == pytest.approx([1 - p for p in worst], abs=1e-5)
    assert not found.truncated


@pytest.mark.parametrize("backend", ("nli", "hhem", "lettucedetect"))
def test_a_checkpoint_keeps_the_contract_on_the_worst_of_input(backend: str, tmp_path: Path) -> None:
    settings = {"backend": backend, "checkpoint": str(checkpoint(tmp_path / "model", backend, "bert")), "max_claims": 8}
    check_detector(Faithfulness, settings, resources=resources())


def test_hallucination_takes_what_the_checkpoint_says_of_the_weakest_claim(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", "nli", "bert")
    [faithful] = loaded("nli", folder).score([ROW])
    detector = Hallucination(Hallucination.Config(backend="nli", checkpoint=folder))
    detector.load(resources())
    [score] = detector.score([ROW])
    assert score.value == pytest.approx(1 - min(c.support for c in faithful.claims))
    assert (score.stage, score.detail["way"], score.detail["uncalibrated"], score.may_alert) == ("nli", "context", True, True)


def test_what_is_longer_than_the_model_reads_is_said(tmp_path: Path) -> None:
    long = {**ROW, "contexts": ["The tower of Paris is made of iron and stands at the river for all to see " * 30]}
    for backend in ("hhem", "lettucedetect"):
        detector = loaded(backend, checkpoint(tmp_path / backend, backend, "bert"))
        whole, cut = detector.score([ROW, long])
        assert ("truncated" in whole.detail, cut.detail.get("truncated")) == (False, True)


def test_pieces_of_an_answer_hold_whole_claims_and_their_offsets() -> None:
    response = "One is here. Two is there. Three is gone."
    spans = [(0, 12), (13, 26), (27, 41)]
    asked = Asked(response, None, spans, ["", "", ""], ["a", "b"])
    for most, together in ((1, [1, 1, 1]), (26, [2, 1]), (1_000, [3])):
        pieces = pieces_of(asked, most)
        assert [len(piece.spans) for piece in pieces] == together
        claims = [piece.text[start:end] for piece in pieces for start, end in piece.spans]
        assert claims == ["One is here.", "Two is there.", "Three is gone."]
    assert pieces[0].prompt == "passage 1: a\npassage 2: b"


@pytest.mark.parametrize(
    ("backend", "labels", "says"),
    (
        ("nli", ("LABEL_0", "LABEL_1", "LABEL_2"), "one of which says entailment, and this one has LABEL_0, LABEL_1, LABEL_2"),
        ("nli", ("toxic",), "one of which says entailment"),
        ("nli", ("entailment", "entailed", "neutral"), "one of which says entailment"),
        ("hhem", ("positive", "negative"), "one of them consistent, and this one has positive, negative"),
        ("hhem", ("LABEL_0", "LABEL_1", "LABEL_2"), "one logit, or two labels"),
    ),
)
def test_labels_that_say_nothing_of_support_are_refused(backend: Any, labels: tuple[str, ...], says: str) -> None:
    with pytest.raises(ModelUnfit, match=says):
        column(backend, labels, Path("model"))


@pytest.mark.parametrize(
    ("labels", "at"),
    (
        (("entailment", "neutral", "contradiction"), 0),
        (("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), 2),
        (("not_entailment", "entailment"), 1),
        (("entailment", "non-entailment"), 0),
    ),
)
def test_labels_of_nli_models_are_found_whatever_their_order(labels: tuple[str, ...], at: int) -> None:
    assert column("nli", labels, Path("model")) == at


def test_detectors_of_one_checkpoint_share_it_until_its_files_change(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", "nli", "bert")
    one = load("nli", folder, "cpu")
    assert load("nli", folder, "cpu") is one
    assert load("hhem", checkpoint(tmp_path / "other", "hhem", "bert"), "cpu") is not one
    (folder / "README.md").write_text("retrained")
    assert load("nli", folder, "cpu") is not one


def test_a_checkpoint_of_another_kind_is_refused_at_the_start_with_its_place(tmp_path: Path) -> None:
    encoder = checkpoints.encoder(tmp_path / "encoder", "bert")
    pairs = checkpoint(tmp_path / "pairs", "nli", "bert")
    refused: tuple[tuple[Backend, Path, str], ...] = (
        ("nli", encoder, "it is no classifier"),
        ("lettucedetect", encoder, "it is no token classifier"),
        ("lettucedetect", pairs, "has 3 labels"),
    )
    for backend, folder, says in refused:
        with pytest.raises(ModelUnfit, match=says) as caught:
            load(backend, folder, "cpu")
        assert str(folder) in str(caught.value)
    with pytest.raises(ModelMissing, match=r"there is no config\.json in it"):
        load("nli", tmp_path, "cpu")
    config = json.loads((pairs / "config.json").read_text())
    (pairs / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    problem = Faithfulness.problem(Faithfulness.Config(backend="nli", checkpoint=pairs))
    assert problem is not None
    assert "copy all files of one model again" in problem


def test_a_backend_and_its_checkpoint_belong_together() -> None:
    with pytest.raises(ValidationError, match="modelwatch models how hhem"):
        Faithfulness.Config(backend="hhem")
    with pytest.raises(ValidationError, match="checkpoint belongs to another backend"):
        Hallucination.Config(checkpoint=Path("model"))
