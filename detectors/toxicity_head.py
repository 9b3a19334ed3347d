"""The trained toxicity heads: two stages of linear models, read from one file of numbers.

The first stage sees hashed words and characters and the static vector of a window, the second the vector of the shared
encoder besides. Made by `detectors.training.toxicity`; the card says from what.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import numpy as np
from numpy.typing import NDArray

from detectors.cascade import Band
from detectors.toxicity_text import BITS, Grams

LABELS = ("toxicity", "abuse", "identity_attack")
NAME = "toxicity"


class HeadDamaged(ValueError):
    """The trained weights are not the ones the card describes, or not for this code."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A linear model of the labels in `LABELS`, calibrated: its logits are those of probabilities."""

    grams: NDArray[np.float32]  # (2**BITS, labels)
    vector: NDArray[np.float32]  # (dimension, labels)
    bias: NDArray[np.float64]  # (labels,)

    def probabilities(self, grams: Grams, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, labels) of n texts, from their hashed features and their vectors (n, dimension)."""
        # Summed row by row: a matrix product may sum in another order for another number of rows.
        seen = (vectors[:, :, None].astype(np.float64) * self.vector[None]).sum(axis=1)
        return np.asarray(1.0 / (1.0 + np.exp(-(grams.sums(self.grams) + seen + self.bias))), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Head:
    """Both stages, the band of the first one's toxicity in which the second one is asked, and whose vectors they were made of."""

    first: Stage
    second: Stage
    band: Band
    static: str
    encoder: str

    @property
    def dimensions(self) -> tuple[int, int]:
        """Of the static encoder and of the shared one."""
        static = self.first.vector.shape[0]
        return static, self.second.vector.shape[0] - static


def save_head(head: Head) -> bytes:
    """As it is shipped: weights of hashed features in bytes, with one scale for each label, else float32."""
    from safetensors.numpy import save

    arrays: dict[str, NDArray[np.generic]] = {"band": np.array(head.band, dtype=np.float64)}
    for name, stage in (("first", head.first), ("second", head.second)):
        scale = np.maximum(np.abs(stage.grams).max(axis=0), 1e-12) / 127
        arrays[f"{name}.grams"] = np.round(stage.grams / scale).astype(np.int8)
        arrays[f"{name}.scale"] = scale.astype(np.float32)
        arrays[f"{name}.vector"] = stage.vector.astype(np.float32)
        arrays[f"{name}.bias"] = stage.bias.astype(np.float64)
    return save(arrays)


def load_head(content: bytes, static: str, encoder: str) -> Head:
    from safetensors.numpy import load

    arrays = load(content)

    def stage(name: str) -> Stage:
        grams = arrays[f"{name}.grams"].astype(np.float32) * arrays[f"{name}.scale"]
        return Stage(grams, arrays[f"{name}.vector"], arrays[f"{name}.bias"])

    low, high = arrays["band"].tolist()
    return Head(stage("first"), stage("second"), Band(low, high), static, encoder)


def read_head(folder: Traversable | None = None) -> Head:
    """The head in `folder`, by default the one that is shipped. Raises `HeadDamaged`."""
    folder = folder or files("detectors") / "weights"
    card = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    content = (folder / f"{NAME}.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise HeadDamaged(f"{NAME}.safetensors is not the file its card describes; reinstall modelwatch")
    if (card["labels"], card["bits"]) != (list(LABELS), BITS):
        raise HeadDamaged(f"{NAME}.safetensors was trained on other features; run detectors.training.toxicity")
    return load_head(content, card["static"], card["encoder"])
