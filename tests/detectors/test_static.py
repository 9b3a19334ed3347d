"""The static encoder: what is shipped, what it promises, and how it is made."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.contract import Resources
from detectors.embedding import SentenceEncoder, find_model
from detectors.static import FOLDER, StaticDamaged, StaticEncoder, shared
from detectors.training import static as training
from tests.detectors import checkpoints
from tests.detectors.minilm import encoder

TEXTS = [
    "The Eiffel Tower was completed in 1889.",
    "",
    " \n",
    "東京は日本の首都です。",
    "A longer text, " * 4_000,
    "🦜 and e\u0301",
    "\ud800 alone",
    "\x00",
    "שלום עולם",
    "aGVsbG8gd29ybGQ=" * 300,
    "1 2 3 4",
]


def test_a_text_has_the_very_same_vector_alone_and_in_any_batch() -> None:
    fresh = StaticEncoder(cache_bytes=0)
    batch = fresh.encode(TEXTS)
    assert np.array_equal(batch, np.concatenate([fresh.encode([text]) for text in TEXTS]))
    assert np.array_equal(batch[::-1], fresh.encode(TEXTS[::-1]))
    assert np.array_equal(batch, shared().encode(TEXTS))


def test_every_text_has_a_vector_of_length_one() -> None:
    vectors = shared().encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), shared().dimension)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert shared().encode([]).shape == (0, shared().dimension)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec=None), max_size=80))
def test_no_text_breaks_it(text: str) -> None:
    assert np.isfinite(shared().encode([text])).all()


def test_it_ranks_pairs_much_as_minilm_does() -> None:
    texts = ["The film was long.", "It was a lengthy movie.", "Bananas are rich in potassium.", "Fruit holds minerals."]
    pairs = [(i, j) for i in range(len(texts)) for j in range(i)]
    ours, theirs = ([float(v[i] @ v[j]) for i, j in pairs] for v in (shared().encode(texts), encoder().encode(texts)))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.7


def test_a_process_has_one_and_lends_it() -> None:
    assert Resources(encoder=encoder).static() is shared()


def test_the_card_describes_the_files() -> None:
    card = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
    assert hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest() == card["sha256"]
    assert (card["name"], card["dimension"], card["teacher"]) == (shared().name, shared().dimension, encoder().name)
    assert (FOLDER / "model.safetensors").stat().st_size < 9_000_000
    assert (FOLDER / "tokenizer.json").read_bytes() == (find_model(None) / "tokenizer.json").read_bytes()
    assert all(found["correlation"] > 0.6 for found in card["cosines"].values())


@pytest.mark.parametrize("name", ("model.safetensors", "tokenizer.json", "card.json"))
def test_damaged_or_missing_files_are_refused(name: str, tmp_path: Path) -> None:
    for file in FOLDER.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2 if name != "card.json" else 0] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StaticDamaged, match="reinstall"):
        StaticEncoder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(StaticDamaged, match="reinstall"):
        StaticEncoder(tmp_path)


def test_what_lies_beyond_the_limit_does_not_count() -> None:
    head = "The tower stands in Paris. " * 200
    first, second = shared().encode([head + "Bananas.", head + "Quantum fields."])
    assert np.array_equal(first, second)


def test_importing_and_opening_it_takes_no_torch() -> None:
    program = "import sys; from detectors.static import shared; shared(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_distilling_runs_end_to_end_and_is_repeatable(tmp_path: Path) -> None:
    from detectors.embedding import EncoderConfig

    teacher = SentenceEncoder(EncoderConfig(path=checkpoints.encoder(tmp_path / "teacher", "bert")))
    rows = [{"text": f"The {noun} is {what}."} for noun in ("tower", "river", "film") for what in ("tall", "old", "long", "new")]
    for name in ("train", "dev"):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    made = []
    for out in (tmp_path / "one", tmp_path / "two"):
        card = training.distil([tmp_path], out, teacher, dimension=16)
        made.append((out / "model.safetensors").read_bytes())
        assert card["cosines"][tmp_path.name]["correlation"] > 0.9
        assert StaticEncoder(out).dimension == 16
    assert made[0] == made[1]
