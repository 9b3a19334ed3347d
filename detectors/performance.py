"""Performance: how good were the predictions whose labels have come?

Two classes or numbers. The maths is in `detectors.quality` and gives scikit-learn's values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from detectors import quality
from detectors.contract import (
    Categories,
    DetectorConfig,
    FloatArray,
    NotEnoughData,
    NotEvaluable,
    Reading,
    Window,
    Worse,
)
from detectors.intervals import wilson
from detectors.quality import BoolArray, Confusion, Interval, bootstrap_counts, bootstrap_rows, mean_loss_interval

Task = Literal["binary", "regression"]
Metric = Literal[
    "accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "log_loss", "brier",
    "mae", "rmse", "mape", "r2",
]  # fmt: skip

WORSE: dict[Task, dict[Metric, Worse]] = {
    "binary": {
        "accuracy": "lower",
        "balanced_accuracy": "lower",
        "precision": "lower",
        "recall": "lower",
        "f1": "lower",
        "roc_auc": "lower",
        "log_loss": "higher",
        "brier": "higher",
    },
    "regression": {"mae": "higher", "rmse": "higher", "mape": "higher", "r2": "lower"},
}
"""The metrics that can be the reading of a task, the first by default, and in which direction each gets worse."""

NEED_PROBABILITY = frozenset({"roc_auc", "log_loss", "brier"})

LARGEST = 1e150
"""Numbers beyond it count as infinite: their squares would be."""


class Performance:
    """Quality of the labelled predictions of one window. It compares with nothing.

    Reads:  prediction and label; for two classes also probability (of the positive class), where it is there. Classes may be
            numbers, booleans or text; 1, 1.0, True and "true" are one class.
    Gives:  the setting `metric` as the reading, and every metric that is defined in `metrics`, with `label_coverage` (share
            of the rows that are labelled), `unusable_rows` (labelled, but prediction or label is missing, infinite or not a
            number) and, for two classes, `probability_coverage` (share of the rows used that have a probability in 0..1).
            `bias` is the mean of prediction - label: it stands in `metrics` only, since neither side of 0 is worse.
            The interval (`lower`, `upper`) is
                Wilson's                        for accuracy, precision, recall
                DeLong's, by normal theory      for roc_auc
                of a mean, by normal theory     for log_loss, brier, mae, mape; for rmse its square root
                a bootstrap, seeded             for balanced_accuracy, f1, r2
    Costs:  a sort for roc_auc; `resamples` passes over the rows for the interval of r2.
    Raises: NotEnoughData, when fewer than `min_labels` rows are labelled and usable.
            NotEvaluable: no_labels, when the window has no such column; constant, when the metric is not defined on one
            class or value; wrong_type, for more than two classes; missing_column, not_numeric.

    `worse` is that of the metric, so it belongs to the instance.
    """

    name: ClassVar[str] = "performance"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"prediction", "probability", "label"})
    reference: ClassVar[str] = "none"
    worse: Worse = "lower"

    class Config(DetectorConfig):
        task: Task = "binary"
        metric: Metric | None = Field(None, description="the reading; none: accuracy for binary, mae for regression")
        positive: str = Field("1", description="the positive class, for binary; 1 also stands for true")
        min_labels: int = Field(30, ge=2)
        confidence: float = Field(0.95, gt=0, lt=1, description="of the interval")
        resamples: int = Field(200, ge=20, description="where the interval is a bootstrap")
        seed: int = Field(0, ge=0)

        @field_validator("positive", mode="before")
        @classmethod
        def _positive_is_a_class(cls, raw: Any) -> Any:
            return same_class(str(raw)) if isinstance(raw, str | int | float) else raw

        @model_validator(mode="after")
        def _metric_belongs_to_task(self) -> Performance.Config:
            if self.metric is not None and self.metric not in WORSE[self.task]:
                raise ValueError(f"metric {self.metric} is not for task {self.task}; there are {', '.join(WORSE[self.task])}")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        first, *_ = WORSE[config.task]
        self.metric: Metric = first if config.metric is None else config.metric
        self.worse = WORSE[config.task][self.metric]

    def compare(self, reference: Window | None, current: Window) -> Reading:
        if not current.has("label"):
            raise NotEvaluable("no_labels", "the window has no column label")
        with np.errstate(over="ignore", invalid="ignore"):
            sample = self._classes(current) if self.config.task == "binary" else self._numbers(current)
            metrics = {name: value for name, value in sample.metrics().items() if value is not None and math.isfinite(value)}
            if self.metric not in metrics:
                raise NotEvaluable("constant", f"{self.metric} is not defined on these {sample.rows} rows")
            lower, upper = sample.interval(self.metric, self.config) or (None, None)
        return Reading(
            metrics[self.metric],
            self.metric,
            n_current=sample.rows,
            lower=lower,
            upper=upper,
            metrics={**metrics, **sample.coverage},
        )

    def _classes(self, window: Window) -> Classified:
        labels, predictions = Classes(window.categories("label")), Classes(window.categories("prediction"))
        used, coverage = self._used(labels.there, labels.usable & predictions.usable)
        positive = self.config.positive
        seen = labels.seen(used) | predictions.seen(used)
        if len(seen) > 2 or (len(seen) == 2 and positive not in seen):
            raise NotEvaluable(
                "wrong_type", f"classes {', '.join(sorted(seen)[:5])}: binary needs {positive} (setting positive) and one other"
            )
        label, prediction = labels.are(positive)[used], predictions.are(positive)[used]
        probable = None
        if window.has("probability"):
            probability = window.numbers("probability")[used]
            there = (probability >= 0) & (probability <= 1)
            coverage["probability_coverage"] = float(there.mean())
            if there.sum() >= self.config.min_labels:
                probable = label[there], probability[there]
            elif self.metric in NEED_PROBABILITY:
                raise NotEnoughData(f"{there.sum()} labelled rows with a probability, min_labels is {self.config.min_labels}")
        elif self.metric in NEED_PROBABILITY:
            raise NotEvaluable("missing_column", f"{self.metric} needs the column probability")
        return Classified(Confusion.of(label, prediction), probable, coverage)

    def _numbers(self, window: Window) -> Estimated:
        label, prediction = window.numbers("label"), window.numbers("prediction")
        usable = (np.abs(label) <= LARGEST) & (np.abs(prediction) <= LARGEST)
        used, coverage = self._used(~np.isnan(label), usable)
        return Estimated(label[used], prediction[used], coverage)

    def _used(self, labelled: BoolArray, usable: BoolArray) -> tuple[BoolArray, dict[str, float]]:
        """The rows to use, and the metrics that say how many those are."""
        used = labelled & usable
        n, n_labelled = int(used.sum()), int(labelled.sum())
        if n < self.config.min_labels:
            raise NotEnoughData(
                f"performance: {n} labelled rows with a prediction (of {n_labelled} labelled), "
                f"min_labels is {self.config.min_labels}"
            )
        return used, {"label_coverage": n_labelled / len(labelled), "unusable_rows": float(n_labelled - n)}


@dataclass(frozen=True, slots=True)
class Classified:
    """Rows of two classes: how they were predicted and, for those that have one, label and probability."""

    confusion: Confusion
    probable: tuple[BoolArray, FloatArray] | None
    coverage: dict[str, float]

    @property
    def rows(self) -> int:
        return sum(self.confusion)

    def metrics(self) -> dict[str, float | None]:
        found = {
            "accuracy": quality.accuracy(self.confusion),
            "balanced_accuracy": quality.balanced_accuracy(self.confusion),
            "precision": quality.precision(self.confusion),
            "recall": quality.recall(self.confusion),
            "f1": quality.f1(self.confusion),
        }
        if self.probable is not None:
            found["roc_auc"] = quality.roc_auc(*self.probable)
            found["log_loss"] = float(quality.log_losses(*self.probable).mean())
            found["brier"] = float(quality.brier_losses(*self.probable).mean())
        return found

    def interval(self, metric: Metric, c: Performance.Config) -> Interval | None:
        tp, fp, fn, tn = self.confusion
        match metric, self.probable:
            case "accuracy", _:
                return wilson(tp + tn, self.rows, c.confidence)
            case "precision", _:
                return wilson(tp, tp + fp, c.confidence)
            case "recall", _:
                return wilson(tp, tp + fn, c.confidence)
            case "balanced_accuracy", _:
                return bootstrap_counts(quality.balanced_accuracy, self.confusion, c.confidence, c.resamples, c.seed)
            case "f1", _:
                return bootstrap_counts(quality.f1, self.confusion, c.confidence, c.resamples, c.seed)
            case "roc_auc", (label, probability):
                return quality.roc_auc_interval(label, probability, c.confidence)
            case "log_loss", (label, probability):
                return mean_loss_interval(quality.log_losses(label, probability), c.confidence)
            case "brier", (label, probability):
                return mean_loss_interval(quality.brier_losses(label, probability), c.confidence)
        return None


@dataclass(frozen=True, slots=True)
class Estimated:
    """Rows of numbers, label and prediction."""

    label: FloatArray
    prediction: FloatArray
    coverage: dict[str, float]

    @property
    def rows(self) -> int:
        return len(self.label)

    def metrics(self) -> dict[str, float | None]:
        error = self.prediction - self.label
        relative = quality.relative_errors(self.label, self.prediction)
        return {
            "mae": float(np.abs(error).mean()),
            "rmse": math.sqrt(float((error**2).mean())),
            "mape": float(relative.mean()) if len(relative) else None,
            "bias": float(error.mean()),
            "r2": quality.r2(self.label, self.prediction),
        }

    def interval(self, metric: Metric, c: Performance.Config) -> Interval | None:
        error = self.prediction - self.label
        match metric:
            case "mae":
                return mean_loss_interval(np.abs(error), c.confidence)
            case "rmse":
                squares = mean_loss_interval(error**2, c.confidence)
                return squares and (math.sqrt(squares[0]), math.sqrt(squares[1]))
            case "mape":
                return mean_loss_interval(quality.relative_errors(self.label, self.prediction), c.confidence)
            case "r2":
                weighted = partial(quality.r2, self.label, self.prediction)
                return bootstrap_rows(weighted, self.rows, c.confidence, c.resamples, c.seed)
        return None


class Classes:
    """A column of classes under names that do not depend on how a class was written."""

    def __init__(self, column: Categories) -> None:
        self._codes = column.codes
        self._names = [same_class(name) for name in column.names]
        self.there: BoolArray = column.codes >= 0
        self.usable: BoolArray = self._where([name not in NOT_A_CLASS for name in self._names])

    def are(self, name: str) -> BoolArray:
        return self._where([other == name for other in self._names])

    def seen(self, used: BoolArray) -> set[str]:
        return {self._names[code] for code in np.unique(self._codes[used])}

    def _where(self, of_names: list[bool]) -> BoolArray:
        # The last entry answers for -1, a missing value.
        return np.array([*of_names, False])[self._codes]


NOT_A_CLASS = frozenset({"inf", "-inf", "nan"})


def same_class(name: str) -> str:
    """One name for the ways to write a class.

    >>> [same_class(name) for name in ("1.0", "True", "false", "01", "yes")]
    ['1', '1', '0', '01', 'yes']
    """
    if name.lower() in ("true", "false"):
        return str(int(name.lower() == "true"))
    return name[:-2] if name.endswith(".0") and name[:-2].lstrip("-").isdecimal() else name
