"""The trained weights of `hallucination`: for each way a calibrated logistic regression over a few features.

They stand in `weights/hallucination.json`, made by `detectors.training.hallucination`, with the figures of the card. The file
also says which ways are good enough to alert: those whose AUROC on answers they have not seen is `LEAST` or more.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.ways import LOGPROBS, SAMPLES, TURNS

FloatArray = NDArray[np.float64]

FILE = "hallucination.json"
LEAST = 0.65
"""AUROC from which on a way may alert."""
CONTEXT = {"weakest": -1, "mean": -1}
"""Log-odds of the support of the weakest claim, and of the mean support."""
FEATURES = {"context": CONTEXT, "samples": SAMPLES, "logprobs": LOGPROBS, "turns": TURNS}
"""By way: its features with the signs that their weights are held to; 0: either."""


class HeadDamaged(ValueError):
    """The trained weights are not the ones the card describes, or not for this code."""


@dataclass(frozen=True, slots=True)
class Head:
    """Of one way."""

    mean: FloatArray  # (features,)
    scale: FloatArray  # (features,)
    weights: FloatArray  # (features,)
    bias: float
    may_alert: bool

    def probability(self, features: FloatArray, prior: float = 0.5) -> float:
        """That something is unsupported. `prior`: the share of such answers where it is used; it was trained at one half
        (Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori Probabilities", 2002)."""
        logit = float(((features - self.mean) / self.scale * self.weights).sum()) + self.bias
        return float(1.0 / (1.0 + np.exp(-np.clip(logit + np.log(prior / (1.0 - prior)), -700.0, 700.0))))


def read_heads(folder: Traversable | None = None) -> dict[str, Head]:
    """By way, those in `folder`, by default those that are shipped. Raises `HeadDamaged`."""
    card = json.loads(((folder or files("detectors") / "weights") / FILE).read_text(encoding="utf-8"))
    if digest(card["heads"]) != card["sha256"]:
        raise HeadDamaged(f"the weights in {FILE} are not those its card describes; reinstall modelwatch")
    if {way: found["features"] for way, found in card["heads"].items()} != {way: [*names] for way, names in FEATURES.items()}:
        raise HeadDamaged(f"{FILE} was trained on other features; run detectors.training.hallucination")
    return {way: _head(found) for way, found in card["heads"].items()}


def calibrated_on(folder: Traversable | None = None) -> str:
    """SHA-256 of the weights of `faithfulness` whose supports the way `context` was calibrated on."""
    card = json.loads(((folder or files("detectors") / "weights") / FILE).read_text(encoding="utf-8"))
    return str(card["faithfulness"]["sha256"])


def _head(found: dict[str, Any]) -> Head:
    mean, scale, weights = (np.array(found[part], dtype=np.float64) for part in ("mean", "scale", "weights"))
    return Head(mean, scale, weights, float(found["bias"]), bool(found["may_alert"]))


def written(way: str, head: Head) -> dict[str, Any]:
    """What `read_heads` reads. Python writes a float so that it comes back the same."""
    arrays = {"mean": head.mean, "scale": head.scale, "weights": head.weights}
    return {
        "features": [*FEATURES[way]],
        "bias": head.bias,
        "may_alert": head.may_alert,
        **{name: values.tolist() for name, values in arrays.items()},
    }


def digest(heads: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(heads, sort_keys=True).encode()).hexdigest()
