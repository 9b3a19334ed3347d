"""The static encoder: a vector for each token, a text is their mean. A hundred times as fast as the model it was made from.

Distilled from all-MiniLM-L6-v2 by `detectors.training.static`, which says how; card and figures stand in
`weights/static/card.json` and in the README. The idea is Arora, Liang and Ma's ("A Simple but Tough-to-Beat Baseline for
Sentence Embeddings", ICLR 2017). It sees which words there are and not how they stand: a cascade asks MiniLM where that
may decide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.vectors import VectorCache, Vectors

FOLDER = Path(__file__).parent / "weights" / "static"
MAX_TOKENS = 512
CACHE_BYTES = 32 * 2**20


class StaticDamaged(ValueError):
    """The static encoder's files are not the ones its card describes."""


class StaticEncoder:
    """Implements `contract.Encoder`. Safe to call from several threads.

    Gives:  the same vector for a text alone and in any batch, bit for bit. A text without a single token has that of [UNK].
    Reads:  the first 512 tokens of a text.
    Costs:  construction 0.1 s and 32 MB; imports torch on the first call of `encode`.
    Raises: StaticDamaged, on construction.
    """

    name: str
    dimension: int

    def __init__(self, folder: Path = FOLDER, *, max_tokens: int = MAX_TOKENS, cache_bytes: int = CACHE_BYTES) -> None:
        card, table, scale = read_static(folder)
        self.name = str(card["name"])
        self.dimension = table.shape[1]
        self.tokenizer = read_tokenizer(folder / "tokenizer.json", max_tokens)
        self._table = table.astype(np.float32) * scale[:, None]
        self._unknown: int = self.tokenizer.token_to_id("[UNK]") or 0
        self._most_characters = max_tokens * 32
        self._cache = VectorCache(self.dimension, cache_bytes)
        self._weights: Any = None

    def encode(self, texts: Sequence[str]) -> Vectors:
        # What is cut here is beyond the last token in anything but a text without spaces.
        cleaned = [text[: self._most_characters].encode("utf-8", "replace").decode() for text in texts]
        return self._cache.through(cleaned, self._compute)

    def _compute(self, texts: list[str]) -> Vectors:
        import torch

        if self._weights is None:
            self._weights = torch.from_numpy(self._table)
        ids = [found.ids or [self._unknown] for found in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        flat = torch.tensor([token for one in ids for token in one], dtype=torch.int64)
        starts = np.cumsum([0, *(len(one) for one in ids[:-1])])
        with torch.inference_mode():
            mean = torch.nn.functional.embedding_bag(flat, self._weights, torch.from_numpy(starts), mode="mean").numpy()
        # Row by row, so that a text has the same length whatever stands beside it.
        lengths = np.sqrt((mean * mean).sum(axis=1, keepdims=True))
        return np.asarray(mean / np.maximum(lengths, 1e-12), dtype=np.float32)

    def as_sentence_transformer(self) -> Any:
        """The same encoder as a `SentenceTransformer` of a `StaticEmbedding`, for other tools."""
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
        from tokenizers import Tokenizer

        module = StaticEmbedding(Tokenizer.from_str(self.tokenizer.to_str()), torch.from_numpy(self._table.copy()))
        return SentenceTransformer(modules=[module, Normalize()], device="cpu")


@cache
def shared() -> StaticEncoder:
    """The one that is shipped, for everybody in this process."""
    return StaticEncoder()


def read_static(folder: Path) -> tuple[dict[str, Any], NDArray[np.int8], NDArray[np.float32]]:
    """Card, table (tokens, dimension) and scale (tokens,). Raises `StaticDamaged`."""
    from safetensors.numpy import load

    try:
        card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        content = (folder / "model.safetensors").read_bytes()
        words = (folder / "tokenizer.json").read_bytes()
    except (OSError, ValueError) as exc:
        raise StaticDamaged(f"the static encoder in {folder} cannot be read ({exc}); reinstall modelwatch") from exc
    for name, found, said in (("model.safetensors", content, "sha256"), ("tokenizer.json", words, "tokenizer_sha256")):
        if hashlib.sha256(found).hexdigest() != card[said]:
            raise StaticDamaged(f"{folder / name} is not the file its card describes; reinstall modelwatch")
    arrays = load(content)
    return card, arrays["table"], arrays["scale"]


def read_tokenizer(path: Path, max_tokens: int) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
