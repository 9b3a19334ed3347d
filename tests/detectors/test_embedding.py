"""The shared encoder: with a counting fake where the machine matters, with MiniLM where the vectors do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from detectors.batching import OutOfDeviceMemory, batches
from detectors.embedding import EncoderConfig, ModelMissing, ModelUnfit, SentenceEncoder, TextModel, Vectors, find_model
from detectors.static import StaticEncoder
from detectors.vectors import OVERHEAD_BYTES
from tests.detectors import checkpoints
from tests.detectors.minilm import encoder

TOLERANCE = 1e-6


class CountingModel:
    """One token per character; a text's vector points in a direction of its own. Remembers its batches."""

    width = 4

    def __init__(self, device: str = "cpu", fits: int = 1_000) -> None:
        """`fits`: texts that the device's memory holds at once."""
        self.device = device
        self.fits = fits
        self.batches: list[list[str]] = []

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [[ord(char) for char in text] for text in texts]

    def compute(self, tokens: list[list[int]]) -> Vectors:
        if self.device != "cpu" and len(tokens) > self.fits:
            raise OutOfDeviceMemory(f"{len(tokens)} texts")
        texts = ["".join(map(chr, one)) for one in tokens]
        self.batches.append(texts)
        raw = np.array([[len(t), sum(map(ord, t)) % 97, t.count("a"), 1] for t in texts], dtype=np.float32)
        return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), dtype=np.float32)

    def to_cpu(self) -> None:
        self.device = "cpu"


def opened(model: CountingModel) -> Callable[[Path, EncoderConfig], TextModel]:
    return lambda path, config: model


def alone(texts: list[str]) -> Vectors:
    """What the model gives without any batching."""
    model = CountingModel()
    return model.compute(model.tokenize(texts))


def room_for(vectors: int) -> EncoderConfig:
    return EncoderConfig(cache_bytes=vectors * (4 * CountingModel.width + OVERHEAD_BYTES))


def encoder_over(model: CountingModel, config: EncoderConfig | None = None) -> SentenceEncoder:
    return SentenceEncoder(config, load=opened(model))


def test_each_distinct_text_is_encoded_once() -> None:
    model = CountingModel()
    shared = encoder_over(model)
    vectors = shared.encode(["a", "b", "a"])
    again = shared.encode(["b", "c"])
    assert sorted(text for batch in model.batches for text in batch) == ["a", "b", "c"]
    assert np.array_equal(vectors[0], vectors[2])
    assert np.array_equal(vectors[1], again[0])


def test_the_cache_forgets_what_was_not_used_longest() -> None:
    model = CountingModel()
    shared = encoder_over(model, room_for(2))
    for text in ("old", "new", "old", "newest", "old", "new"):
        shared.encode([text])
    assert model.batches == [["old"], ["new"], ["newest"], ["new"]]


def test_more_texts_than_the_cache_holds_still_come_back_in_order() -> None:
    model = CountingModel()
    texts = [f"text {'a' * i}" for i in range(50)]
    assert np.array_equal(encoder_over(model, room_for(3)).encode(texts), alone(texts))


def test_a_change_to_a_result_does_not_reach_the_cache() -> None:
    shared = encoder_over(CountingModel())
    before = shared.encode(["a"]).copy()
    shared.encode(["a"])[:] = 0
    assert np.array_equal(shared.encode(["a"]), before)


class Meeting(CountingModel):
    """Computes once two threads are there, and fails where one has to wait for the other."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.there = threading.Barrier(2)
        self.inside = threading.Lock()

    def compute(self, tokens: list[list[int]]) -> Vectors:
        if self.device == "cpu":
            self.there.wait(timeout=30)
            return super().compute(tokens)
        assert self.inside.acquire(blocking=False), "two threads share the memory of a device"
        try:
            return super().compute(tokens)
        finally:
            self.inside.release()


@pytest.mark.parametrize("device", ("cpu", "cuda"))
def test_threads_compute_side_by_side_on_a_cpu_and_one_by_one_elsewhere(device: str) -> None:
    shared, texts = encoder_over(Meeting(device)), ["one", "three"]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda text: shared.encode([text]), texts))
    assert np.array_equal(np.concatenate(found), alone(texts))


def test_memory_running_out_halves_the_batch() -> None:
    model = CountingModel(device="cuda", fits=3)
    texts = [f"text {'a' * i}" for i in range(8)]
    shared = encoder_over(model)
    assert np.array_equal(shared.encode(texts), alone(texts))
    assert [len(batch) for batch in model.batches] == [2, 2, 2, 2]
    assert (shared.fallback_active, shared.out_of_memory) == (False, 3)
    assert model.device == "cuda"


def test_a_device_with_no_room_for_one_text_is_left_for_the_cpu_and_says_so() -> None:
    model = CountingModel(device="cuda", fits=0)
    texts = ["a", "bb", "ccc"]
    shared = encoder_over(model)
    assert np.array_equal(shared.encode(texts), alone(texts))
    assert shared.fallback_active
    assert model.device == "cpu"


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(256, 2_000))
def test_batches_hold_each_text_once_and_stay_under_the_limit(lengths: list[int], limit: int) -> None:
    found = list(batches(lengths, limit))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= limit


def test_batches_put_like_lengths_together() -> None:
    lengths = [5, 200] * 8
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches(lengths, 1_000))
    assert padded < 1.5 * sum(lengths)


def test_a_missing_model_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="set the encoder's path") as caught:
        SentenceEncoder(EncoderConfig(path=tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_the_installed_model_is_found_without_importing_torch() -> None:
    program = "import sys; from detectors.embedding import find_model; find_model(None); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_model_can_be_named_by_its_folder() -> None:
    shared = SentenceEncoder(EncoderConfig(path=find_model(None)), load=opened(CountingModel()))
    assert shared.name == find_model(None).name


@pytest.mark.parametrize("wrong", ({"batch_tokens": 1}, {"cache_bytes": -1}, {"precision": "int8"}, {"max_token": 128}))
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        EncoderConfig.model_validate(wrong)


# --- MiniLM ----------------------------------------------------------------------------------------------------------

TEXTS = [
    "The Eiffel Tower was completed in 1889.",
    "",
    "Paris",
    "東京は日本の首都です。",
    "A longer text, " * 40,
    "🦜 and e\u0301",
    "\ud800 alone",
    "\x00",
]


def test_vectors_are_float32_of_length_one_for_any_text() -> None:
    vectors = encoder().encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), encoder().dimension) == (len(TEXTS), 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert encoder().encode([]).shape == (0, 384)


def test_a_text_has_the_same_vector_alone_as_in_a_batch() -> None:
    fresh = SentenceEncoder(EncoderConfig(cache_bytes=0), load=lambda path, config: encoder().model)
    single = np.concatenate([fresh.encode([text]) for text in TEXTS])
    assert np.abs(single - fresh.encode(TEXTS)).max() <= TOLERANCE


def test_several_threads_get_the_vectors_that_one_gets() -> None:
    many = [[f"Sentence number {i} of {thread % 2}." for i in range(12)] for thread in range(4)]
    fresh = SentenceEncoder(EncoderConfig(device="cpu"))
    with ThreadPoolExecutor(4) as pool:
        for texts, found in zip(many, pool.map(fresh.encode, many), strict=True):
            assert np.abs(found - encoder().encode(texts)).max() <= TOLERANCE


def test_meaning_is_nearer_than_wording() -> None:
    film, same, other = encoder().encode(["The film was long.", "It was a lengthy movie.", "The fish was long."])
    assert film @ same > film @ other


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(codec=None), max_size=80))
def test_no_text_breaks_it(text: str) -> None:
    assert np.isfinite(encoder().encode([text])).all()


def test_a_megabyte_costs_no_more_than_a_page() -> None:
    page, more = "word " * 2_000, "word " * 200_000
    assert np.array_equal(*encoder().encode([page, more]))


def test_what_lies_beyond_the_limit_does_not_count() -> None:
    head = "The tower stands in Paris. " * 60
    first, second = encoder().encode([head + "Bananas.", head + "Quantum fields."])
    assert np.array_equal(first, second)


# --- other checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(checkpoints.KINDS))
def test_any_architecture_and_dimension_will_do(kind: str, tmp_path: Path) -> None:
    folder = checkpoints.encoder(tmp_path / "model", kind)
    shared = SentenceEncoder(EncoderConfig(path=folder, cache_bytes=0))
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(folder), device="cpu").encode(TEXTS[:6], normalize_embeddings=True)
    assert shared.dimension == plain.shape[1] != 384
    assert np.abs(shared.encode(TEXTS[:6]) - plain).max() <= TOLERANCE
    single = np.concatenate([shared.encode([text]) for text in TEXTS])
    assert np.abs(single - shared.encode(TEXTS)).max() <= TOLERANCE


def test_a_static_embedding_is_an_encoder_too(tmp_path: Path) -> None:
    pupil = StaticEncoder()
    pupil.as_sentence_transformer().save(str(tmp_path / "model"))
    shared = SentenceEncoder(EncoderConfig(path=tmp_path / "model"))
    texts = [text for text in TEXTS if text.strip("\0")]
    assert np.abs(shared.encode(texts) - pupil.encode(texts)).max() <= TOLERANCE


def test_half_precision_stays_near() -> None:
    half = SentenceEncoder(EncoderConfig(precision="bfloat16", cache_bytes=0))
    assert half.encode(TEXTS[:5]).dtype == np.float32
    assert ((half.encode(TEXTS[:5]) * encoder().encode(TEXTS[:5])).sum(axis=1) > 0.999).all()


def test_weights_of_another_shape_than_the_configuration_says_are_refused_before_torch(tmp_path: Path) -> None:
    folder = checkpoints.encoder(tmp_path / "model", "bert")
    config = json.loads((folder / "config.json").read_text())
    for wrong, message in (
        ({"hidden_size": 64}, "hidden_size 64"),
        ({"vocab_size": 7}, "vocab_size 7"),
        ({"num_hidden_layers": 9}, "config.json says 9"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **wrong}))
        with pytest.raises(ModelUnfit, match=message) as caught:
            find_model(folder)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    (
        pytest.param("model.safetensors", b"not weights", id="weights"),
        pytest.param("config.json", b"{", id="cut json"),
        pytest.param("config.json", b"[]", id="another json"),
    ),
)
def test_a_damaged_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    folder = checkpoints.encoder(tmp_path / "model", "bert")
    (folder / name).write_bytes(content)
    with pytest.raises(ModelUnfit, match="copy it again") as caught:
        find_model(folder)
    assert str(folder / name) in str(caught.value)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = checkpoints.encoder(tmp_path / "model", "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelUnfit, match="pickled"):
        find_model(folder)


def test_what_cannot_be_loaded_says_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(ModelUnfit, match="set the encoder's path to one") as caught:
        SentenceEncoder(EncoderConfig(path=tmp_path))
    assert str(tmp_path) in str(caught.value)
