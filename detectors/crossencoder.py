"""Reads two texts together: the last and slowest look of a cascade, for what vectors cannot tell.

Any sequence classifier in a local folder that sentence-transformers opens as a `CrossEncoder` will do (Nogueira and Cho, "Passage
Re-ranking with BERT", 2019; NLI models). Nothing is ever downloaded, and no code of a checkpoint runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from detectors.batching import Batches, Model, OutOfDeviceMemory
from detectors.embedding import Precision, clean, precision_on, without_progress_bar
from detectors.modelfolder import ModelUnfit, find_model, weight_shapes

Pair = tuple[str, str]
Probabilities = NDArray[np.float32]


class CrossConfig(BaseModel):
    """Settings of a cross-encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="folder of a sequence classifier with safetensors")
    device: str = Field(default="auto", description="auto (CUDA where there is one, else CPU), or a torch device: cuda:1")
    precision: Precision = Field(default="auto", description="as of the encoder")
    batch_tokens: int | None = Field(default=None, ge=256, description="padded tokens in a batch; none: by the device")
    max_tokens: int = Field(default=512, ge=8, description="tokens read of a pair; the second text is cut first")


class CrossScorer:
    """Probabilities of a classifier's labels for pairs of texts. Safe to call from several threads: one computes at a time.

    Gives:  of a classifier with one label its sigmoid, of one with several their softmax; the same alone and in a batch up to
            1e-5 in float32.
    Costs:  one pass of the model for each distinct pair; nothing is kept.
    Raises: ModelMissing or ModelUnfit, on construction.

    `labels` are the checkpoint's own names, in the order of the columns; `fallback_active` and `out_of_memory` as of the encoder.
    """

    labels: tuple[str, ...]

    def __init__(self, config: CrossConfig, *, load: Callable[[Path, CrossConfig], LocalCrossEncoder] | None = None) -> None:
        self.config = config
        model = (load or LocalCrossEncoder)(find_model(config.path), config)
        self.labels = model.labels
        self.model: Model[Pair, Any] = model
        self._batches = Batches(self.model, config.batch_tokens)
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        return self.model.device

    @property
    def fallback_active(self) -> bool:
        return self._batches.fallback_active

    @property
    def out_of_memory(self) -> int:
        return self._batches.out_of_memory

    def predict(self, pairs: Sequence[Pair]) -> Probabilities:
        """float32 (len(pairs), len(labels)), in the order of `pairs`."""
        return self.predict_and_tell(pairs)[0]

    def predict_and_tell(self, pairs: Sequence[Pair]) -> tuple[Probabilities, NDArray[np.bool_]]:
        """The same, and which pairs were longer than what the model reads, (len(pairs),)."""
        most = self.config.max_tokens
        cleaned = [(clean(first, most), clean(second, most)) for first, second in pairs]
        distinct = {pair: place for place, pair in enumerate(dict.fromkeys(cleaned))}
        with self._lock:
            found = self._batches.run(list(distinct))
            full = np.array(getattr(self.model, "full", []) if distinct else [], dtype=bool)
        places = [distinct[pair] for pair in cleaned]
        shorter = np.array([len(a) + len(b) < len(x) + len(y) for (a, b), (x, y) in zip(cleaned, pairs, strict=True)], dtype=bool)
        return np.asarray(found[places], dtype=np.float32), (full[places] if len(full) else np.zeros(len(pairs), bool)) | shorter


class LocalCrossEncoder:
    """A sequence classifier from a folder of safetensors. Raises `ModelUnfit`."""

    def __init__(self, path: Path, config: CrossConfig) -> None:
        # Imported here because torch takes seconds and hundreds of megabytes.
        import torch
        from sentence_transformers import CrossEncoder

        self._out_of_memory = torch.OutOfMemoryError
        self.device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            with without_progress_bar():
                loaded: Any = CrossEncoder(
                    str(path),
                    device=self.device,
                    local_files_only=True,
                    trust_remote_code=False,
                    model_kwargs={"use_safetensors": True},
                )
            self._model: Any = loaded.model.eval()
            self.precision = precision_on(self.device, config.precision)
            if self.precision != "float32" and not self.device.startswith("cpu"):
                self._model.to(getattr(torch, self.precision))
            self._tokenizer: Any = loaded.tokenizer
            names = self._model.config.id2label
            self.labels = tuple(str(names[i]) for i in range(self._model.config.num_labels))
            self.width = len(self.labels)
            self._limit = int(min(config.max_tokens, self._tokenizer.model_max_length, positions(self._model, config.max_tokens)))
            if drawn := untrained(self._model, weight_shapes(path)):
                raise ValueError(f"its files hold no weights for {', '.join(drawn)}: it is no classifier")
            probabilities = self.compute(self.tokenize([("premise", "hypothesis")]))
        except Exception as exc:  # whatever a folder can hold that is no such model
            raise ModelUnfit(
                f"{path}: cannot be used as a cross-encoder ({type(exc).__name__}: {str(exc)[:300]}); "
                "set the path to a sequence classifier, or copy all its files again"
            ) from exc
        if not np.isfinite(probabilities).all():
            raise ModelUnfit(f"{path}: its answers are not finite in {self.precision}; set its precision to float32")

    def tokenize(self, texts: list[Pair]) -> list[Tokens]:
        found = self._tokenizer(
            [first for first, _ in texts], [second for _, second in texts], truncation="longest_first", max_length=self._limit
        )
        self.full = [len(ids) >= self._limit for ids in found["input_ids"]]  # of the pairs tokenized last
        types = found.get("token_type_ids") or [None] * len(texts)
        return [Tokens(ids, kinds) for ids, kinds in zip(found["input_ids"], types, strict=True)]

    def compute(self, tokens: list[Tokens]) -> Probabilities:
        import torch

        given = {"input_ids": [one.ids for one in tokens]}
        if tokens[0].types is not None:
            given["token_type_ids"] = [one.types or [] for one in tokens]
        half = getattr(torch, self.precision)
        try:
            padded = {name: tensor.to(self.device) for name, tensor in self._tokenizer.pad(given, return_tensors="pt").items()}
            with (
                torch.inference_mode(),
                torch.autocast("cpu", dtype=half, enabled=self.device == "cpu" and self.precision != "float32"),
            ):
                logits = self._model(**padded).logits.float()
            found = logits.sigmoid() if self.width == 1 else logits.softmax(dim=1)
            return np.asarray(found.cpu().numpy(), dtype=np.float32)
        except self._out_of_memory as exc:
            raise OutOfDeviceMemory(f"{len(tokens)} pairs do not fit on {self.device}") from exc

    def to_cpu(self) -> None:
        self._model.to("cpu").float()
        self.device, self.precision = "cpu", "float32"


def positions(model: Any, otherwise: int) -> int:
    """Tokens that a model has positions for; tokenizers do not always know. RoBERTa and MPNet count from after the padding."""
    found = getattr(model.config, "max_position_embeddings", otherwise)
    padding = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    return int(found if padding is None else found - padding - 1)


def untrained(model: Any, shapes: Mapping[str, Any]) -> list[str]:
    """Weights of the head that loading has drawn at random, as the files do not hold them."""
    inside = f"{model.base_model_prefix}."
    return [name for name, _ in model.named_parameters() if not name.startswith(inside) and name not in shapes]


class Tokens:
    """One pair, tokenized. Its length is that of its ids."""

    __slots__ = ("ids", "types")

    def __init__(self, ids: list[int], types: list[int] | None) -> None:
        self.ids = ids
        self.types = types

    def __len__(self) -> int:
        return len(self.ids)
