"""How good were these predictions? Metrics and their intervals as functions of arrays, one file for each task.

Values equal scikit-learn's of the same names. Where scikit-learn answers an undefined metric with a warning and 0 or 1, the
answer here is None, and an average over classes leaves the undefined ones out (`zero_division=nan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.contract import Part, Worse
from detectors.intervals import Interval, Uncertainty

BoolArray = NDArray[np.bool_]
Task = Literal["binary", "multiclass", "multilabel", "regression", "ranking"]

WORSE: Mapping[Task, Mapping[str, Worse | None]] = {
    "binary": {
        "accuracy": "lower",
        "balanced_accuracy": "lower",
        "precision": "lower",
        "recall": "lower",
        "specificity": "lower",
        "f1": "lower",
        "roc_auc": "lower",
        "pr_auc": "lower",
        "log_loss": "higher",
        "brier": "higher",
        "ece": "higher",
    },
    "multiclass": {
        "accuracy": "lower",
        "balanced_accuracy": "lower",
        "precision_macro": "lower",
        "recall_macro": "lower",
        "f1_macro": "lower",
        "f1_micro": "lower",
        "f1_weighted": "lower",
        "roc_auc_ovr": "lower",
        "roc_auc_ovo": "lower",
        "pr_auc": "lower",
        "log_loss": "higher",
        "brier": "higher",
        "ece": "higher",
    },
    "multilabel": {
        "f1_micro": "lower",
        "f1_macro": "lower",
        "precision_micro": "lower",
        "recall_micro": "lower",
        "subset_accuracy": "lower",
        "hamming_loss": "higher",
    },
    "regression": {
        "mae": "higher",
        "rmse": "higher",
        "mape": "higher",
        "smape": "higher",
        "r2": "lower",
        "quantile_loss": "higher",
        "bias": None,
    },
    "ranking": {"ndcg": "lower", "map": "lower", "mrr": "lower", "recall_at_k": "lower"},
}
"""The metrics that can be judged, by task, the first by default, and in which direction each gets worse; None: in either."""

NEED_PROBABILITY = frozenset({"roc_auc", "roc_auc_ovr", "roc_auc_ovo", "pr_auc", "log_loss", "brier", "ece"})


class Sample(Protocol):
    """Labelled rows of one task, made by `detectors.labelled`."""

    @property
    def rows(self) -> int: ...

    @property
    def coverage(self) -> Mapping[str, float]:
        """How many rows there were to use: stands beside the metrics."""
        ...

    def metrics(self) -> dict[str, float | None]:
        """Every metric of the task, None where it is not defined on these rows, and counts."""
        ...

    def interval(self, metric: str, sure: Uncertainty) -> Interval | None: ...

    def parts(self) -> tuple[Part, ...]:
        """The classes, where there are several, the worst first."""
        ...
