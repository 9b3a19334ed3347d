"""Direct loss estimation (DLE): a second model learns how wrong the first one is where.

As in NannyML 0.13.1, with scikit-learn's histogram gradient boosting in place of LightGBM at its defaults (100 trees of 31 leaves
with 20 rows or more, rate 0.1, 255 bins). The two grow nearly the same trees; they differ in how they place bins, and in how they
split categories. That decides nothing: on the ten chunks of NannyML's car prices, whose true error is known to 8 each, LightGBM's
estimates are 9.0, 10.3, 11.3 and 12.2 from the truth with 255, 200, 127 and 63 bins, and these 11.3, 9.6, 10.1 and 9.7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.contract import FloatArray

Loss = Callable[[FloatArray, FloatArray], FloatArray]

LOSSES: dict[str, Loss] = {
    "absolute": lambda y, z: np.abs(y - z),
    "squared": lambda y, z: np.square(y - z),
    "relative": lambda y, z: np.abs(y - z) / np.maximum(np.finfo(np.float64).eps, np.abs(y)),
    "squared_log": lambda y, z: np.square(np.log1p(y) - np.log1p(z)),
}
"""Of each row, by label and prediction."""

METRICS = {
    "mae": ("absolute", False),
    "rmse": ("squared", True),
    "mape": ("relative", False),
    "mse": ("squared", False),
    "msle": ("squared_log", False),
    "rmsle": ("squared_log", True),
}
"""The loss whose mean each is, and whether of that the root."""

MOST_CATEGORIES = 254
"""More than the boosting takes: the rarest are missing values then."""


@dataclass(frozen=True, slots=True)
class LossEstimator:
    """Fitted on a reference with labels. `models` by loss; `spread` is each loss' (mean, standard deviation) in the reference."""

    models: dict[str, Any]
    spread: dict[str, tuple[float, float]]

    @classmethod
    def fit(
        cls, X: FloatArray, categorical: list[bool], label: FloatArray, prediction: FloatArray, metric: str, seed: int = 0
    ) -> LossEstimator:
        """`X` float64 (rows, features), the prediction among them; NaN where missing, codes from 0 where categorical."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        name = METRICS[metric][0]
        losses = LOSSES[name](label, prediction)
        model = HistGradientBoostingRegressor(
            max_iter=100, categorical_features=categorical if any(categorical) else None, early_stopping=False, random_state=seed
        ).fit(X, losses)
        # NannyML takes the spread of the relative loss over the label with its sign; for positive labels that is the same.
        return cls({name: model}, {name: (float(losses.mean()), float(losses.std()))})

    def losses(self, X: FloatArray, metric: str) -> FloatArray:
        """The loss to be expected of each row, 0 or more."""
        return np.maximum(0.0, np.asarray(self.models[METRICS[metric][0]].predict(X), dtype=np.float64))

    def estimate(self, X: FloatArray, metric: str) -> float:
        return of_losses(self.losses(X, metric), metric)

    def sampling_error(self, metric: str, rows: int) -> float:
        """Standard error of the metric of so many rows like those of the reference."""
        name, rooted = METRICS[metric]
        mean, deviation = self.spread[name]
        if rooted:
            return deviation / (2 * math.sqrt(rows * mean)) if mean > 0 else 0.0
        return deviation / math.sqrt(rows)


def of_losses(losses: FloatArray, metric: str) -> float:
    mean = float(losses.mean())
    return math.sqrt(mean) if METRICS[metric][1] else mean
