"""Performance estimate: how good are the predictions likely to be, though no label has come?

Classes by confidence-based estimation, numbers by direct loss estimation: `detectors.estimation` says where these are published.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from detectors.contract import DetectorConfig, NotEnoughData, NotEvaluable, Reading, Window, Worse
from detectors.estimation.estimators import METRICS, Estimator, Plan, Task, fit
from detectors.intervals import Interval, around
from detectors.labelled import same_class

HIGHER_IS_BETTER = frozenset(METRICS["binary"])


def band(metric: str, value: float, error: float, confidence: float) -> Interval:
    """Where the metric itself may lie, given the standard error of so many rows; within what it can be."""
    return possible(metric, *around(value, error, confidence))


def possible(metric: str, lower: float, upper: float) -> Interval:
    """Both cut to the values that the metric can have."""
    if metric != "business_value":
        lower = max(0.0, lower)
    if metric in HIGHER_IS_BETTER - {"business_value"}:
        upper = min(1.0, upper)
    return lower, upper


class EstimateConfig(DetectorConfig):
    """What an estimate and its gap have in common."""

    task: Task = "binary"
    metric: str | None = Field(None, description="none: roc_auc for binary, f1 for multiclass, mae for regression")
    positive: str = Field("1", description="the positive class, for binary; 1 also stands for true")
    values: tuple[tuple[float, ...], ...] = Field((), description="what a row is worth, by label and prediction in sorted order")
    min_rows: int = Field(100, ge=20, description="usable rows on either side")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the interval")
    seed: int = Field(0, ge=0)

    @field_validator("positive", mode="before")
    @classmethod
    def _positive_is_a_class(cls, raw: Any) -> Any:
        return same_class(str(raw)) if isinstance(raw, str | int | float) else raw

    @model_validator(mode="after")
    def _metric_belongs_to_task(self) -> EstimateConfig:
        if self.metric is not None and self.metric not in METRICS[self.task]:
            raise ValueError(
                f"metric {self.metric} cannot be estimated for {self.task}; there are {', '.join(METRICS[self.task])}"
            )
        if (self.metric == "business_value") > bool(self.values):
            raise ValueError("metric business_value needs values")
        if self.values and (self.task == "regression" or {len(row) for row in self.values} != {len(self.values)}):
            raise ValueError("values is a list for each class, of as many numbers as there are classes")
        if self.values and self.task == "binary" and len(self.values) != 2:
            raise ValueError("values of binary are two by two")
        return self

    @property
    def plan(self) -> Plan:
        default = {"binary": "roc_auc", "multiclass": "f1", "regression": "mae"}[self.task]
        return Plan(self.task, self.metric or default, self.positive, self.values, self.min_rows, self.seed)

    def inputs(self) -> frozenset[str]:
        """Also the label: the reference must have it."""
        more = {"binary": {"probability"}, "multiclass": {"probabilities"}, "regression": {"features"}}[self.task]
        return frozenset({"prediction", "label"} | more)


class FittedOnce:
    """Fits an estimator when the reference is another than last time."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._fitted: tuple[Window, Estimator] | None = None

    def to(self, reference: Window | None) -> Estimator:
        """Raises NotEnoughData or NotEvaluable: what the reference lacks."""
        if reference is None:
            raise NotEvaluable("no_reference", "an estimate learns from a reference with labels")
        if self._fitted is None or self._fitted[0] is not reference:
            try:
                self._fitted = reference, fit(self._plan, reference)
            except NotEnoughData as exc:
                raise NotEnoughData(f"reference: {exc}") from exc
            except NotEvaluable as exc:
                raise NotEvaluable(exc.reason, f"reference: {str(exc).removeprefix(exc.reason).lstrip(': ')}") from exc
        return self._fitted[1]


class PerformanceEstimate:
    """The metric to be expected of the predictions of one window.

    Reads:  prediction; probability, for `multiclass` the probabilities, for `regression` the features. The reference has labels.
    Gives:  the estimate of `metric`, with the band that the metric itself may lie in for so many rows: normal theory, from the
            spread in the reference, as NannyML has it. `metrics` has every metric that can be estimated (for regression this
            one), the `sampling_error`, and what was true in the reference as `reference_METRIC`.
    Costs:  a fit for each new reference: isotonic regressions, or 100 trees for regression.
    Raises: NotEnoughData, with fewer than `min_rows` usable rows on either side.
            NotEvaluable: no_reference, no_labels (in the reference), no_features, missing_column, wrong_type, constant.

    It cannot see concept drift: what the features mean for the label must be as in the reference. `estimate_gap` sees that.
    """

    name: ClassVar[str] = "performance_estimate"
    version: ClassVar[str] = "1"
    inputs: frozenset[str] = frozenset({"prediction", "probability", "label"})
    reference: ClassVar[str] = "required"
    worse: Worse = "lower"

    class Config(EstimateConfig):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config
        self._plan = config.plan
        self.inputs = config.inputs()
        self.worse = "lower" if self._plan.metric in HIGHER_IS_BETTER else "higher"
        self._estimators = FittedOnce(self._plan)

    def compare(self, reference: Window | None, current: Window) -> Reading:
        metric = self._plan.metric
        estimator = self._estimators.to(reference)
        found, rows = estimator.estimate(current)
        if metric not in found:
            raise NotEvaluable("constant", f"{metric} cannot be expected of these {rows} rows")
        error = estimator.sampling_error(rows)
        metrics = {f"estimated_{name}": value for name, value in found.items() if math.isfinite(value)}
        metrics[f"reference_{metric}"] = estimator.realised
        lower, upper = None, None
        if math.isfinite(error):
            metrics["sampling_error"] = error
            lower, upper = band(metric, found[metric], error, self.config.confidence)
        return Reading(
            found[metric],
            f"estimated_{metric}",
            n_current=rows,
            n_reference=estimator.rows,
            lower=lower,
            upper=upper,
            metrics=metrics,
        )
