"""The shipped reader of claims, and the edits it learned from."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from detectors.reader import ANSWERS, CLAIM_TOKENS, FOLDER, PAIR_TOKENS, Reader, ReaderDamaged, joined, shared
from detectors.training.edits import edited, loosened, numbers, opposites, roles

EVIDENCE = "The Eiffel Tower was completed in 1889 by the company of Gustave Eiffel. It stands in Paris and is 330 metres tall."


@cache
def support(claim: str, evidence: str = EVIDENCE) -> float:
    logits = shared().read([(claim, evidence)])[0]
    return float(logits[0] - np.logaddexp(logits[1], logits[2]))


@pytest.mark.parametrize(
    "changed",
    (
        "The Eiffel Tower was completed in 1899.",
        "The Eiffel Tower was not completed in 1889.",
        "The Eiffel Tower stands in London.",
        "The Eiffel Tower was destroyed in 1889.",
        "Bananas are rich in potassium.",
    ),
)
def test_a_claim_that_the_evidence_does_not_bear_out_has_less_support(changed: str) -> None:
    assert support(changed) < support("The Eiffel Tower was completed in 1889.") - 1.0
    assert support(changed) < support("The Eiffel Tower stands in Paris.") - 1.0


def test_a_batch_gives_what_the_pairs_alone_give() -> None:
    pairs = [
        ("It is tall.", EVIDENCE),
        ("It stands in Paris.", EVIDENCE * 9),
        ("", ""),
        ("\ud800 \U0001f600", "x"),
        ("It is tall.", EVIDENCE),
    ]
    together = shared().read(pairs)
    assert together.shape == (5, len(ANSWERS))
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    for pair, found in zip(pairs, together, strict=True):
        assert found == pytest.approx(shared().read([pair])[0], abs=1e-4)
    assert shared().read([]).shape == (0, len(ANSWERS))


def test_a_megabyte_is_read_up_to_the_limit() -> None:
    assert np.isfinite(shared().read([("tall " * 200_000, "tower " * 200_000)])).all()
    tokens = joined(list(range(1_000)), list(range(1_000)), 101, 102)
    assert (len(tokens), tokens.first) == (PAIR_TOKENS, CLAIM_TOKENS + 2)


def test_files_that_the_card_does_not_describe_are_refused(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "reader")
    content = bytearray((tmp_path / "reader" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "reader" / "model.safetensors").write_bytes(content)
    with pytest.raises(ReaderDamaged, match="reinstall"):
        Reader(tmp_path / "reader")
    with pytest.raises(ReaderDamaged, match="cannot be read"):
        Reader(tmp_path / "nothing")


def test_a_reader_made_for_another_minilm_is_refused(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "reader")
    card = json.loads((tmp_path / "reader" / "card.json").read_text("utf-8"))
    (tmp_path / "reader" / "card.json").write_text(json.dumps({**card, "base_sha256": "0" * 64}), encoding="utf-8")
    with pytest.raises(ReaderDamaged, match="another all-MiniLM-L6-v2"):
        Reader(tmp_path / "reader")


def test_what_is_shipped_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5_000_000


# --- edits -----------------------------------------------------------------------------------------------------------


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_an_edit_comes_with_the_sentence_it_was_made_of() -> None:
    sentence = "The tower (in French: la tour) was built by Gustave Eiffel in 1889."
    others = ["The bridge of Charles Garnier is older than 1850."]
    for seed in range(20):
        made = list(edited(sentence, others, np.random.default_rng(seed)))
        assert [made[0].kind, made[1].kind == "same"] == ["same", False]
        assert made[0].claim != made[1].claim
        assert made[1].claim not in sentence


def test_each_edit_changes_what_it_is_named_for() -> None:
    assert opposites("He lived in northern Spain.", [], rng()) != "He lived in northern Spain."
    assert numbers("It has 1,200 rooms.", [], rng()) not in (None, "It has 1,200 rooms.")
    assert numbers("It has rooms.", [], rng()) is None
    assert roles("In a final Graf Steffi beat the player Monica Seles.", [], rng()) is not None
    assert roles("Then John and Paul came.", [], rng()) is None  # a list means the same in any order


def test_loosening_keeps_facts() -> None:
    for seed in range(20):
        text = loosened(
            "However, the film (a comedy) began in 1889, and he usually liked it very much.", np.random.default_rng(seed)
        )
        assert "1889" in text
        assert "However" not in text
