"""Performance: how good were the predictions whose labels have come?

Two or more classes, sets of classes, numbers, rankings. The maths is in `detectors.quality` and gives scikit-learn's values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from scipy.special import ndtr

from detectors import labelled
from detectors.contract import DetectorConfig, NotEnoughData, NotEvaluable, Outcome, Part, Reading, Window, Worse
from detectors.intervals import Interval, Uncertainty, standard_error
from detectors.labelled import same_class
from detectors.quality import NEED_PROBABILITY, WORSE, Sample, Task


class Bound(BaseModel):
    """Where a metric is too bad: below `lower`, above `upper`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lower: float | None = Field(None, allow_inf_nan=False)
    upper: float | None = Field(None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _a_bound(self) -> Bound:
        if self.lower is None and self.upper is None:
            raise ValueError("give lower, upper or both")
        return self

    def beyond(self, interval: Interval) -> bool:
        """Whether the whole interval is."""
        low, high = interval
        return (self.upper is not None and low > self.upper) or (self.lower is not None and high < self.lower)


class Performance:
    """Quality of the labelled predictions of one window.

    Reads:  what `detectors.labelled` says for the task. Classes may be numbers, booleans or text; 1, 1.0, True and "true" are
            one class.
    Gives:  the setting `metric` as the reading, and every metric that is defined in `metrics`, with `label_coverage` (share
            of the rows that are labelled), `unusable_rows` (labelled, but prediction or label is missing, infinite or not of the
            task) and, for classes, `probability_coverage` (share of the rows used whose probability is in 0..1, and of
            `multiclass` whose probabilities sum to one) and counts by label and prediction. Classes are the parts.
            The interval (`lower`, `upper`) is
                Wilson's                        for accuracy, precision, recall, specificity, subset_accuracy
                DeLong's, by normal theory      for roc_auc, roc_auc_ovr, roc_auc_ovo
                of a mean, by normal theory     for losses and errors; of rmse the square root; of rankings over the queries
                a test turned around, seeded    for ece
                a percentile bootstrap, seeded  for all others
            With `metrics` the reading is the number of these that are too bad, so that one check can watch several: a window
            can have a lower MAE and a higher MAPE. Each is a part, its interval is in `metrics` as NAME_lower and NAME_upper.
            One with `bounds` is too bad when its whole interval is beyond them. One without is compared with the reference: it
            is too bad when it has become worse, by a normal test at `significance`, which they share (Bonferroni); `bias` when
            it has moved to either side.
    Costs:  sorts for the areas; `resamples` passes over the rows where the interval of a judged metric is a bootstrap over rows.
    Raises: NotEnoughData, when fewer than `min_labels` rows are labelled and usable, or less than `min_label_coverage` of them.
            NotEvaluable: no_labels, when the window has no such column; no_reference, where `metrics` needs one; constant, when
            the metric is not defined on one class or value; wrong_type, for other classes than the task has, and for
            probabilities that do not sum to one; missing_column, not_numeric.

    `worse` is that of the metric, so it belongs to the instance.
    """

    name: ClassVar[str] = "performance"
    version: ClassVar[str] = "2"
    inputs: frozenset[str] = frozenset({"prediction", "probability", "label"})
    reference: ClassVar[str] = "optional"
    worse: Worse = "lower"

    class Config(DetectorConfig):
        task: Task = "binary"
        metric: str | None = Field(None, description="the reading; none: the first of the task")
        metrics: tuple[str, ...] = Field((), description="instead of one metric: how many of these are too bad is the reading")
        bounds: dict[str, Bound] = Field({}, description="of metrics: lower, upper or both; without, the reference")
        significance: float = Field(0.01, gt=0, lt=1, description="of a metric being worse than in the reference, over all")
        positive: str = Field("1", description="the positive class, for binary; 1 also stands for true")
        classes: tuple[str, ...] = Field((), description="classes that there are, though none may come")
        query: str = Field("query", description="the column that names the query, for ranking")
        k: int = Field(10, ge=1, description="places that count, for ndcg and recall_at_k")
        relevant: float = Field(1.0, gt=0, description="label from which on an item is relevant, for map, mrr and recall_at_k")
        quantile: float = Field(0.5, gt=0, lt=1, description="of quantile_loss")
        bins: int = Field(10, ge=2, le=100, description="of equal width, for ece")
        min_labels: int = Field(30, ge=2)
        min_label_coverage: float = Field(0.0, ge=0, le=1, description="share of the rows that must be labelled")
        confidence: float = Field(0.95, gt=0, lt=1, description="of the interval")
        resamples: int = Field(200, ge=20, description="where the interval is a bootstrap")
        seed: int = Field(0, ge=0)

        @field_validator("positive", mode="before")
        @classmethod
        def _positive_is_a_class(cls, raw: Any) -> Any:
            return same_class(str(raw)) if isinstance(raw, str | int | float) else raw

        @field_validator("classes", mode="before")
        @classmethod
        def _classes_are_classes(cls, raw: Any) -> Any:
            return tuple(same_class(str(one)) for one in raw) if isinstance(raw, list | tuple) else raw

        @model_validator(mode="after")
        def _metrics_belong_to_task(self) -> Performance.Config:
            there = WORSE[self.task]
            for name in (*((self.metric,) if self.metric is not None else ()), *self.metrics, *self.bounds):
                if name not in there:
                    raise ValueError(f"metric {name} is not for task {self.task}; there are {', '.join(there)}")
            if self.metric is not None and self.metrics:
                raise ValueError("give metric or metrics, not both")
            if self.metric is not None and there[self.metric] is None:
                one_sided = ", ".join(name for name, worse in there.items() if worse)
                raise ValueError(f"metric {self.metric} is bad to either side; name it in metrics, or one of {one_sided}")
            if unjudged := sorted(set(self.bounds) - set(self.metrics)):
                raise ValueError(f"bounds of {', '.join(unjudged)}: not among metrics ({', '.join(self.metrics) or 'empty'})")
            return self

        @property
        def how(self) -> labelled.Reading:
            return labelled.Reading(
                self.task, self.positive, self.classes, self.query, self.min_labels, self.min_label_coverage,
                self.bins, self.k, self.relevant, self.quantile,
            )  # fmt: skip

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metric = config.metric or next(iter(WORSE[config.task]))
        self.worse = "higher" if config.metrics else WORSE[config.task][self.metric] or "higher"
        self.inputs = config.how.inputs()
        self._sure = Uncertainty(config.confidence, config.resamples, config.seed)

    def compare(self, reference: Window | None, current: Window) -> Reading:
        sample = labelled.read(current, self.config.how)[0]
        metrics = finite(sample)
        if self.config.metrics:
            return self._judged(reference, sample, metrics)
        value, interval = self._measured(sample, metrics, self.metric)
        lower, upper = interval or (None, None)
        return Reading(value, self.metric, n_current=sample.rows, lower=lower, upper=upper, parts=sample.parts(), metrics=metrics)

    def _judged(self, reference: Window | None, sample: Sample, metrics: dict[str, float]) -> Reading:
        against = None
        if any(name not in self.config.bounds for name in self.config.metrics):
            if reference is None:
                raise NotEvaluable("no_reference", "metrics without bounds are judged by a reference; give one, or bounds")
            before = labelled.read(reference, self.config.how)[0]
            against = before, finite(before)
        parts = [self._part(name, sample, metrics, against) for name in self.config.metrics]
        if not any(part.outcome is Outcome.OK for part in parts):
            raise NotEvaluable("constant", f"none of {', '.join(self.config.metrics)} is defined on these {sample.rows} rows")
        for part in parts:
            if part.outcome is Outcome.OK and (interval := self._interval(sample, part.name)):
                metrics |= {f"{part.name}_lower": interval[0], f"{part.name}_upper": interval[1]}
        parts.sort(key=lambda part: (not part.flagged, 1.0 if part.p_value is None else part.p_value))  # else as in the settings
        return Reading(
            float(sum(part.flagged for part in parts)),
            "metrics_too_bad",
            n_current=sample.rows,
            n_reference=against[0].rows if against else 0,
            parts=(*parts, *sample.parts()),
            metrics=metrics,
        )

    def _part(
        self, name: str, sample: Sample, metrics: Mapping[str, float], against: tuple[Sample, dict[str, float]] | None
    ) -> Part:
        part = Part(name, "bound" if name in self.config.bounds else "change", n_current=sample.rows)
        try:
            value, interval = self._measured(sample, metrics, name)
            part = replace(part, value=value)
            if (bound := self.config.bounds.get(name)) is not None:
                sides = [side for side in (bound.lower, bound.upper) if side is not None]
                return replace(part, flagged=bound.beyond(interval or (value, value)), threshold=sides[-1])
            assert against is not None
            before, interval_before = self._measured(against[0], against[1], name)
        except NotEvaluable as exc:
            return replace(part, value=None, outcome=Outcome.NOT_EVALUABLE, reason=exc.reason)
        except NotEnoughData as exc:
            return replace(part, value=None, outcome=Outcome.NOT_ENOUGH_DATA, reason=str(exc))
        part = replace(part, n_reference=against[0].rows)
        if interval is None or interval_before is None:
            return replace(part, value=None, outcome=Outcome.NOT_ENOUGH_DATA, reason="too few rows for its interval")
        errors = [standard_error(one, self.config.confidence) for one in (interval, interval_before)]
        p_value = worse_by_chance(value - before, math.hypot(*errors), WORSE[self.config.task][name])
        threshold = self.config.significance / len(self.config.metrics)
        return replace(part, p_value=p_value, threshold=threshold, flagged=p_value < threshold)

    def _measured(self, sample: Sample, metrics: Mapping[str, float], name: str) -> tuple[float, Interval | None]:
        if name not in metrics:
            raise self._undefined(sample, name)
        return metrics[name], self._interval(sample, name)

    def _interval(self, sample: Sample, name: str) -> Interval | None:
        with np.errstate(over="ignore", invalid="ignore"):
            return sample.interval(name, self._sure)

    def _undefined(self, sample: Sample, name: str) -> NotEvaluable | NotEnoughData:
        """Why there is no value of this metric."""
        coverage = sample.coverage.get("probability_coverage")
        if name in NEED_PROBABILITY and coverage is None:
            column = "probabilities" if self.config.task == "multiclass" else "probability"
            return NotEvaluable("missing_column", f"{name} needs the column {column}")
        if name in NEED_PROBABILITY and coverage is not None and coverage * sample.rows < self.config.min_labels:
            off = sample.coverage.get("probabilities_not_one", 0.0)
            if off >= self.config.min_labels:
                return NotEvaluable("wrong_type", f"in {off:.0f} of {sample.rows} rows the probabilities do not sum to one")
            return NotEnoughData(
                f"{coverage * sample.rows:.0f} labelled rows with a probability, min_labels is {self.config.min_labels}"
            )
        return NotEvaluable("constant", f"{name} is not defined on these {sample.rows} rows")


def finite(sample: Sample) -> dict[str, float]:
    """The metrics that are defined, and what covers them."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = sample.metrics()
    return {**{name: v for name, v in found.items() if v is not None and math.isfinite(v)}, **sample.coverage}


def worse_by_chance(change: float, error: float, worse: Worse | None) -> float:
    """p-value of a change for the worse that large, where there was none; of one in either direction where neither is worse.

    >>> round(worse_by_chance(-1.96, 1.0, "lower"), 3), round(worse_by_chance(-1.96, 1.0, "higher"), 3)
    (0.025, 0.975)
    >>> round(worse_by_chance(-1.96, 1.0, None), 3), worse_by_chance(0.0, 0.0, None), worse_by_chance(0.1, 0.0, "higher")
    (0.05, 1.0, 0.0)
    """
    if error == 0:
        z = 0.0 if change == 0 else math.copysign(math.inf, change)
    else:
        z = change / error
    if worse is None:
        return float(2 * ndtr(-abs(z)))
    if z == 0:
        return 0.5 if error else 1.0
    return float(ndtr(z if worse == "lower" else -z))
