"""Detoxify's models: the numbers of its own `predict`, and clear words about files that are no checkpoint."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from detectors.contract import Resources, Row
from detectors.modelfolder import ModelMissing, ModelUnfit
from detectors.testing import check_detector
from detectors.toxicity import Toxicity
from detectors.toxicity_detoxify import Detoxify, checkpoint_problem
from detectors.toxicity_windows import windows
from tests.detectors import tinydetoxify

TEXTS = [
    "you are a stupid one", "what a lovely friend", "This is AWFUL!", "ok", "🙂 ünï 東京 12345", "silly " * 200,
    "the nice man said so. what a loser", "\u202eabc", "x = [i for i in range(10)]",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinydetoxify.make(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "tiny"))


def nothing() -> Any:
    raise AssertionError("the shared encoder is not needed")


def toxicity(checkpoint: Path, **settings: Any) -> Toxicity:
    detector = Toxicity(Toxicity.Config(backend="detoxify", checkpoint=checkpoint, device="cpu", **settings))
    detector.load(Resources(encoder=nothing, static=nothing))
    return detector


def predicted(folder: Path, texts: list[str]) -> dict[str, list[float]]:
    """What the package detoxify says of the same file."""
    import detoxify

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it unpickles
        model = detoxify.Detoxify(checkpoint=str(folder / "tiny.ckpt"))
        model.tokenizer.model_max_length = 64  # what its published models have in their tokenizers, 512
        found: dict[str, list[float]] = model.predict(texts)
    return found


def test_the_probabilities_are_those_of_detoxify(checkpoint: Path) -> None:
    ours = Detoxify(checkpoint, "cpu", "toxicity")
    theirs = predicted(checkpoint, TEXTS)
    judged = ours.judge(TEXTS)
    assert ours.labels == tuple(theirs)
    for i, label in enumerate(ours.labels):
        assert judged.labels[:, i].tolist() == pytest.approx(theirs[label], abs=1e-5), label
    assert judged.value.tolist() == judged.labels[:, 0].tolist()


@pytest.mark.parametrize("name", tinydetoxify.PUBLISHED)
def test_each_of_its_models_runs_by_config_with_its_numbers(name: str, tmp_path: Path) -> None:
    kind, classes, numbers = tinydetoxify.PUBLISHED[name]
    folder = tinydetoxify.make(tmp_path / name, kind, classes, numbers)
    theirs = predicted(folder, TEXTS)
    judged = Detoxify(folder, "cpu", "toxicity").judge(TEXTS)
    for i, label in enumerate(theirs):
        assert judged.labels[:, i].tolist() == pytest.approx(theirs[label], abs=1e-5), label
    assert np.ptp(judged.labels, axis=0).min() > 1e-3, "texts that all score alike would prove nothing"
    detector = Toxicity(Toxicity.Config.model_validate({"backend": "detoxify", "checkpoint": str(folder), "device": "cpu"}))
    detector.load(Resources(encoder=nothing, static=nothing))
    found = detector.score([row(text) for text in TEXTS[:3]])
    assert [one.value for one in found] == pytest.approx(theirs["toxicity"][:3], abs=1e-5)
    assert tuple(found[0].detail["labels"]) == tuple(theirs)


def test_outputs_behind_the_named_classes_are_left_out(tmp_path: Path) -> None:
    folder = tinydetoxify.make(tmp_path / "wide", classes=("toxicity", "insult"), numbers=9)
    judged = Detoxify(folder, "cpu", "insult").judge(TEXTS)
    theirs = predicted(folder, TEXTS)
    assert judged.labels.shape == (len(TEXTS), 2)
    assert judged.value.tolist() == pytest.approx(theirs["insult"], abs=1e-5)


def test_it_keeps_the_contract(checkpoint: Path) -> None:
    check_detector(
        Toxicity,
        {"backend": "detoxify", "checkpoint": str(checkpoint), "device": "cpu"},
        resources=Resources(encoder=nothing, static=nothing),
    )


def test_a_rude_answer_is_flagged_and_its_place_named(checkpoint: Path) -> None:
    rude, kind = toxicity(checkpoint).score([row("what a stupid idiot"), row("what a lovely friend")])
    assert rude.value is not None
    assert kind.value is not None
    assert rude.value > Toxicity.flag > 0.2 > kind.value
    assert rude.stage == "detoxify"
    assert rude.detail["span"] == [0, 19]
    assert rude.detail["labels"]["insult"] > 0.8 > 0.2 > rude.detail["labels"]["threat"]


def test_the_worst_window_of_a_long_answer_counts(checkpoint: Path) -> None:
    text = "what a lovely friend. " * 30 + "you are a stupid one. " + "this is nice. " * 30
    detector = toxicity(checkpoint)
    [found] = detector.score([row(text)])
    least, size = Detoxify(checkpoint, "cpu", "toxicity").window_chars
    alone = [score.value for score in detector.score([row(text[a:b]) for a, b in windows(text, size, 99, least=least)])]
    assert found.value == pytest.approx(max(value for value in alone if value is not None), abs=1e-6)
    assert found.detail["windows"] == len(alone) > 5
    start, end = found.detail["span"]
    assert detector.score([row(text[start:end])])[0].value == pytest.approx(found.value, abs=1e-6)
    assert "truncated" not in found.detail


def test_a_window_of_more_tokens_than_the_model_reads_is_said_to_be_cut(checkpoint: Path) -> None:
    [found] = toxicity(checkpoint).score([row("a b " * 40)])  # a token for each letter
    assert found.detail["truncated"] is True
    assert found.detail["windows"] == 1


def test_another_label_can_be_the_value(checkpoint: Path) -> None:
    [found] = toxicity(checkpoint, label="threat").score([row("what a stupid idiot")])
    assert found.value == found.detail["labels"]["threat"]
    with pytest.raises(ModelUnfit, match="label 'anger' is none of this checkpoint's; there are toxicity, severe_toxicity"):
        toxicity(checkpoint, label="anger")


def test_a_classifier_in_safetensors_will_do(checkpoint: Path, tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "hub"
    loaded = torch.load(checkpoint / "tiny.ckpt", weights_only=True)
    config = transformers.BertConfig.from_pretrained(checkpoint, id2label=dict(enumerate(tinydetoxify.LABELS)))
    model: Any = transformers.BertForSequenceClassification(config)
    model.load_state_dict(loaded["state_dict"])
    model.save_pretrained(folder)
    transformers.BertTokenizer.from_pretrained(checkpoint).save_pretrained(folder)
    ours, hub = (Detoxify(path, "cpu", "toxicity") for path in (checkpoint, folder))
    assert hub.labels == ours.labels
    assert hub.judge(TEXTS).labels == pytest.approx(ours.judge(TEXTS).labels, abs=1e-6)


# --- what is no checkpoint -------------------------------------------------------------------------------------------


def test_a_checkpoint_is_asked_for_where_there_is_none(checkpoint: Path) -> None:
    with pytest.raises(ValidationError, match=r"backend detoxify needs a checkpoint.*nothing is downloaded"):
        Toxicity.Config(backend="detoxify")
    with pytest.raises(ValidationError, match="checkpoint belongs to backend: detoxify"):
        Toxicity.Config(checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("spoil", "word"),
    (
        pytest.param(lambda f: shutil.rmtree(f), "there is no folder ", id="nothing"),
        pytest.param(lambda f: (f / "config.json").unlink(), "no config.json in it", id="no configuration"),
        pytest.param(lambda f: (f / "tiny.ckpt").unlink(), "one file of weights .* there is none", id="no weights"),
        pytest.param(lambda f: shutil.copy(f / "tiny.ckpt", f / "b.pt"), "there is b.pt, tiny.ckpt", id="two"),
        pytest.param(
            lambda f: [(f / n).unlink() for n in ("tokenizer.json", "vocab.txt")], "no tokenizer in it", id="no tokenizer"
        ),
    ),
)
def test_files_that_are_missing_are_seen_before_anything_is_loaded(copied: Path, spoil: Callable[[Path], Any], word: str) -> None:
    assert checkpoint_problem(copied) is None
    spoil(copied)
    with pytest.raises(ModelMissing, match=word):
        toxicity(copied)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    loaded = torch.load(folder / "tiny.ckpt", weights_only=True)
    change(loaded)
    torch.save(loaded, folder / "tiny.ckpt")


def narrow(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))


@pytest.mark.parametrize(
    ("spoil", "word"),
    (
        pytest.param(lambda f: (f / "tiny.ckpt").write_bytes(b"PK\3\4 nothing"), "tiny.ckpt: ", id="damaged"),
        pytest.param(
            lambda f: rewritten(f, lambda c: c.pop("config")), "no checkpoint of Detoxify: it has no 'config'", id="keys"
        ),
        pytest.param(
            lambda f: rewritten(f, lambda c: c["state_dict"].popitem()), "there is no classifier.bias in it", id="tensor"
        ),
        pytest.param(
            lambda f: rewritten(f, lambda c: c["config"]["arch"]["args"].update(model_name="Trainer")),
            "wants Trainer",
            id="class",
        ),
        pytest.param(narrow, r"is \[\d+, 32\], the configuration says \[\d+, 64\]; copy all files of one model", id="shape"),
    ),
)
def test_files_of_another_kind_are_refused_with_their_name(copied: Path, spoil: Callable[[Path], Any], word: str) -> None:
    spoil(copied)
    with pytest.raises(ModelUnfit, match=word):
        toxicity(copied)


def test_code_in_a_checkpoint_is_never_run(copied: Path) -> None:
    ran = copied / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    torch.save({"config": Hostile(), "state_dict": {}}, copied / "tiny.ckpt", pickle_module=pickle)
    with pytest.raises(ModelUnfit, match="more than tensors and settings"):
        toxicity(copied)
    assert not ran.exists()


def row(response: str) -> Row:
    return {"record_id": "r", "question": None, "response": response, "contexts": []}
