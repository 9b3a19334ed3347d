"""Cross-encoders from small checkpoints of several architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detectors.cascade import EVERYWHERE, Stage, run
from detectors.crossencoder import CrossConfig, CrossScorer
from detectors.modelfolder import ModelMissing, ModelUnfit
from tests.detectors import checkpoints

PAIRS = [
    ("The tower was completed in 1889.", "When was it built?"),
    ("", ""),
    ("A longer text. " * 400, "short"),
    ("東京", "🦜 \ud800"),
    ("The tower was completed in 1889.", "When was it built?"),
]


@pytest.mark.parametrize(("kind", "labels"), (("bert", 1), ("distilbert", 3), ("mpnet", 2)))
def test_it_says_what_sentence_transformers_says(kind: str, labels: int, tmp_path: Path) -> None:
    folder = checkpoints.classifier(tmp_path / "model", kind, labels)
    scorer = CrossScorer(CrossConfig(path=folder))
    found = scorer.predict(PAIRS)
    assert found.shape == (len(PAIRS), labels) == (len(PAIRS), len(scorer.labels))
    from sentence_transformers import CrossEncoder
    from torch import nn

    plain = CrossEncoder(str(folder), device="cpu", activation_fn=nn.Sigmoid() if labels == 1 else nn.Softmax(dim=-1))
    theirs = np.array(plain.predict([PAIRS[0], PAIRS[1]])).reshape(2, labels)
    assert np.abs(found[:2] - theirs).max() < 1e-5
    alone = np.concatenate([scorer.predict([pair]) for pair in PAIRS])
    assert np.abs(found - alone).max() < 1e-5
    assert scorer.predict([]).shape == (0, labels)


def test_a_folder_without_a_classifier_says_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="nothing is downloaded"):
        CrossScorer(CrossConfig(path=tmp_path))
    folder = checkpoints.encoder(tmp_path / "model", "bert")
    with pytest.raises(ModelUnfit, match=r"no weights for classifier\.weight, classifier\.bias") as caught:
        CrossScorer(CrossConfig(path=folder))
    assert str(folder) in str(caught.value)


def test_it_is_the_last_stage_of_a_cascade(tmp_path: Path) -> None:
    scorer = CrossScorer(CrossConfig(path=checkpoints.classifier(tmp_path / "model", "bert", 1)))
    stages = [
        Stage[tuple[str, str], float]("static", lambda items, before: [0.5 for _ in items], EVERYWHERE.holds),
        Stage[tuple[str, str], float]("cross_encoder", lambda items, before: [float(p[0]) for p in scorer.predict(items)]),
    ]
    answers = run(PAIRS, stages)
    assert {answer.stage for answer in answers} == {"cross_encoder"}
    assert answers[0] == answers[4]
