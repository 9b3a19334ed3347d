"""Estimate gap: the late truth less what was expected of it. Where it is not chance, the concept has drifted.

The estimate holds while the features mean for the label what they meant in the reference. So what it misses, beyond sampling
error, is what has changed in that meaning: a fall in quality that no drift of the features explains.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from scipy.special import ndtr

from detectors.contract import NotEvaluable, Reading, Window, Worse
from detectors.intervals import around
from detectors.performance_estimate import HIGHER_IS_BETTER, EstimateConfig, FittedOnce


class EstimateGap:
    """Realised less estimated metric, of the labelled rows of one window.

    Reads:  as `performance_estimate`, and the labels of the window.
    Gives:  the gap, with its interval by normal theory: 0 lies outside where the concept has drifted. The standard error is, for
            classes, how the metric varies when labels are drawn with the calibrated probabilities; for regression, how the loss
            varies about what was expected of each row; and in both cases that of a reference of its size. `metrics` has
            `estimated`, `realised`, `standard_error`, `p_value` (of a gap so large to either side) and `label_coverage`.
    Costs:  that of the estimate, and `resamples` times the metric.
    Raises: as `performance_estimate`; no_labels for the window, too.
    """

    name: ClassVar[str] = "estimate_gap"
    version: ClassVar[str] = "1"
    inputs: frozenset[str] = frozenset({"prediction", "probability", "label"})
    reference: ClassVar[str] = "required"
    worse: Worse = "lower"

    class Config(EstimateConfig):
        resamples: int = Field(200, ge=20, description="draws of the labels")

    def __init__(self, config: Config) -> None:
        self.config = config
        self._plan = config.plan
        self.inputs = config.inputs()
        self.worse = "lower" if self._plan.metric in HIGHER_IS_BETTER else "higher"
        self._estimators = FittedOnce(self._plan)

    def compare(self, reference: Window | None, current: Window) -> Reading:
        estimator = self._estimators.to(reference)
        found = estimator.gap(current, self.config.resamples)
        gap, error = found.realised - found.estimated, found.standard_error
        if not math.isfinite(gap) or not math.isfinite(error):
            raise NotEvaluable("not_numeric", "labels or predictions are too large for their errors to be compared")
        lower, upper = around(gap, error, self.config.confidence)
        p_value = float(2 * ndtr(-abs(gap) / error)) if error > 0 else float(gap == 0)
        return Reading(
            gap,
            f"{self._plan.metric}_gap",
            n_current=found.rows,
            n_reference=estimator.rows,
            lower=lower,
            upper=upper,
            metrics={
                "estimated": found.estimated,
                "realised": found.realised,
                "standard_error": error,
                "p_value": p_value,
                **found.coverage,
            },
        )
