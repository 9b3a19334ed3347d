"""Numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from detectors.contract import FloatArray, Part
from detectors.intervals import Interval, Uncertainty, bootstrap_rows, mean_interval, mean_loss_interval


@dataclass(frozen=True, slots=True)
class Numbers:
    """Rows of numbers, label and prediction. `quantile` is the one that the quantile loss is for."""

    label: FloatArray
    prediction: FloatArray
    coverage: Mapping[str, float] = field(default_factory=dict)
    quantile: float = 0.5

    @property
    def rows(self) -> int:
        return len(self.label)

    def metrics(self) -> dict[str, float | None]:
        error = self.prediction - self.label
        relative = relative_errors(self.label, self.prediction)
        return {
            "mae": float(np.abs(error).mean()),
            "rmse": math.sqrt(float((error**2).mean())),
            "mape": float(relative.mean()) if len(relative) else None,
            "smape": float(symmetric_errors(self.label, self.prediction).mean()),
            "r2": r2(self.label, self.prediction),
            "quantile_loss": float(quantile_losses(self.label, self.prediction, self.quantile).mean()),
            "bias": float(error.mean()),
        }

    def interval(self, metric: str, sure: Uncertainty) -> Interval | None:
        error = self.prediction - self.label
        match metric:
            case "mae":
                return mean_loss_interval(np.abs(error), sure.confidence)
            case "rmse":
                squares = mean_loss_interval(error**2, sure.confidence)
                return squares and (math.sqrt(squares[0]), math.sqrt(squares[1]))
            case "mape":
                return mean_loss_interval(relative_errors(self.label, self.prediction), sure.confidence)
            case "smape":
                return mean_loss_interval(symmetric_errors(self.label, self.prediction), sure.confidence)
            case "quantile_loss":
                return mean_loss_interval(quantile_losses(self.label, self.prediction, self.quantile), sure.confidence)
            case "bias":
                return mean_interval(error, sure.confidence)
            case "r2":
                return bootstrap_rows(partial(r2, self.label, self.prediction), self.rows, sure)
        return None

    def parts(self) -> tuple[Part, ...]:
        return ()


def relative_errors(label: FloatArray, prediction: FloatArray) -> FloatArray:
    """|prediction - label| / |label|, for the rows whose label is not 0; their mean is the MAPE (0.1 is ten percent)."""
    there = label != 0
    return np.asarray(np.abs((prediction[there] - label[there]) / label[there]), dtype=np.float64)


def symmetric_errors(label: FloatArray, prediction: FloatArray) -> FloatArray:
    """2 |prediction - label| / (|prediction| + |label|), 0 to 2, and 0 where both are 0; their mean is the sMAPE."""
    size = np.abs(label) + np.abs(prediction)
    return np.asarray(2 * np.abs(prediction - label) / np.where(size > 0, size, 1.0), dtype=np.float64)


def quantile_losses(label: FloatArray, prediction: FloatArray, quantile: float) -> FloatArray:
    """The pinball loss: `quantile` for each unit predicted too low, 1 - `quantile` for each too high."""
    short = label - prediction
    return np.asarray(np.maximum(quantile * short, (quantile - 1) * short), dtype=np.float64)


def r2(label: FloatArray, prediction: FloatArray, weights: FloatArray | None = None) -> float | None:
    """Share of the labels' variance that the predictions explain: at most 1, 0 for predicting the mean. None for constant
    labels. `weights` is how often each row counts."""
    w = np.ones(len(label)) if weights is None else weights
    counted = label[w > 0]
    # Not by a variance of 0: the mean of equal numbers need not be that number, to the last bit.
    if not len(counted) or counted.min() == counted.max():
        return None
    total = float(w @ (label - np.average(label, weights=w)) ** 2)
    return 1 - float(w @ (label - prediction) ** 2) / total if total > 0 else None
