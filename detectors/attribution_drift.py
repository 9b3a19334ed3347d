"""Attribution drift: does the model decide by other features than it did?

Attributions (SHAP values and the like) are sent by the client as features called `attribution.NAME`, one number for each
prediction and feature.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from detectors.columnconfig import ColumnConfig
from detectors.contract import FloatArray, NotEvaluable, Outcome, Reading, Window, Worse
from detectors.sides import finite, of_features
from detectors.univariate import Columns, reading_of


class AttributionDrift:
    """Whether attributions are distributed otherwise than in the reference, and whether features changed places by importance.

    Reads:  features whose names begin with `prefix`.
    Gives:  as `data_drift`, one part for each attribution. `metrics` also have `ndcg`, 1 where features are as important in the
            order they were, and less the more important ones fell; `rank_changes`, how many have another place by mean absolute
            attribution; and `largest_rank_change` in places.
    Raises: NotEnoughData, NotEvaluable: as `data_drift`; no_features, where there is no attribution.

    The discounted cumulative gain of the reference's importances in the window's order is after Järvelin and Kekäläinen, ACM
    Trans. Inf. Syst. 20 (2002).
    """

    name: ClassVar[str] = "attribution_drift"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"features"})
    worse: Worse = "higher"
    column_by_column: bool = False

    class Config(ColumnConfig):
        prefix: str = Field("attribution.", min_length=1, description="of the names of the columns")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = config.worse
        self.column_by_column = config.policy == "evidently"
        self._columns = Columns(config)

    def compare(self, reference: Window | None, current: Window) -> Reading:
        if reference is None:
            raise NotEvaluable("no_reference", "attribution_drift compares with one")
        names = [n for n in dict.fromkeys((*reference.features, *current.features)) if n.startswith(self.config.prefix)]
        if not names:
            raise NotEvaluable("no_features", f"none is called {self.config.prefix}...")
        found = self._columns.compare(self.name, names, of_features(reference, current), reference, current)
        known = sorted(
            part.name for part in found.parts if part.outcome is Outcome.OK and reference.features[part.name] == "number"
        )
        if not known:
            raise NotEvaluable("not_numeric", "no attribution is a number")
        with np.errstate(over="ignore"):
            before, now = (
                np.array([float(np.abs(finite(window.numbers(name))).mean()) for name in known])
                for window in (reference, current)
            )
        moved = np.abs(places(before) - places(now))
        return reading_of(
            found,
            self.config,
            reference,
            current,
            ndcg=ndcg(before, now),
            rank_changes=float((moved > 0).sum()),
            largest_rank_change=float(moved.max()),
        )


def places(importance: FloatArray) -> FloatArray:
    """0 for the most important; of equals the one that comes first."""
    return np.argsort(np.argsort(-importance, kind="stable"), kind="stable").astype(np.float64)


def ndcg(before: FloatArray, now: FloatArray) -> float:
    """Gain of `before` in the order of `now`, discounted by place, as a share of the best there is.

    >>> ndcg(np.array([3.0, 2.0, 1.0]), np.array([30.0, 20.0, 10.0]))
    1.0
    >>> round(ndcg(np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0])), 4)
    0.79
    """
    if not np.isfinite(before).all() or (best := _gain(before, places(before))) == 0:
        return 1.0
    return _gain(before, places(now)) / best


def _gain(importance: FloatArray, place: FloatArray) -> float:
    scale = importance.max() or 1.0
    return float((importance / scale / np.log2(place + 2)).sum())
