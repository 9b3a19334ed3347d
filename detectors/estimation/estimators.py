"""From windows to estimates: an estimator for each task, fitted on a reference with labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from detectors import labelled
from detectors.contract import FloatArray, NotEnoughData, NotEvaluable, Window
from detectors.estimation import confidence_based, direct_loss
from detectors.estimation.confidence_based import BinaryEstimator, MulticlassEstimator
from detectors.estimation.direct_loss import LossEstimator, of_losses
from detectors.labelled import Classes, class_probabilities
from detectors.quality import BoolArray
from detectors.quality.binary import pr_auc

Task = Literal["binary", "multiclass", "regression"]

METRICS: Mapping[Task, tuple[str, ...]] = {
    "binary": confidence_based.METRICS,
    "multiclass": confidence_based.METRICS,
    "regression": tuple(direct_loss.METRICS),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to estimate, and how: the settings of `performance_estimate`."""

    task: Task
    metric: str
    positive: str
    values: tuple[tuple[float, ...], ...]
    min_rows: int
    seed: int


@dataclass(frozen=True, slots=True)
class Gap:
    """An estimate and what came true, of the same rows, and the standard error of the difference where nothing has changed."""

    estimated: float
    realised: float
    standard_error: float
    rows: int
    coverage: Mapping[str, float]


class Estimator(Protocol):
    """Fitted on a reference. `realised` is the metric in that reference, `rows` how many of its rows were used."""

    realised: float
    rows: int

    def estimate(self, window: Window) -> tuple[dict[str, float], int]:
        """Every metric that can be estimated of this window, and of how many rows.

        Raises:
            NotEnoughData, NotEvaluable.
        """
        ...

    def sampling_error(self, rows: int, metric: str | None = None) -> float:
        """Of the plan's metric, or of any other that `estimate` gives."""
        ...

    def realise(self, window: Window) -> tuple[dict[str, float], int]:
        """The same metrics as they came true, of the labelled rows, and how many those are.

        Raises:
            NotEnoughData, NotEvaluable.
        """
        ...

    def gap(self, window: Window, resamples: int) -> Gap: ...


def fit(plan: Plan, reference: Window) -> Estimator:
    """Raises NotEnoughData or NotEvaluable: what the reference lacks."""
    makers: dict[Task, Any] = {"binary": ForBinary, "multiclass": ForMulticlass, "regression": ForRegression}
    made: Estimator = makers[plan.task](plan, reference)
    return made


class ForBinary:
    def __init__(self, plan: Plan, reference: Window) -> None:
        self._plan = plan
        label, prediction, score, _ = self._labelled(reference)
        if label.all() or not label.any():
            raise NotEvaluable("constant", "labels of one class only")
        values = np.array(plan.values, dtype=np.float64) if plan.values else None
        self._model = BinaryEstimator.fit(label, prediction, score, values, plan.seed)
        self.rows = len(label)
        self.realised = _defined(self._model.measure(plan.metric, prediction, score, label.astype(np.float64)), plan.metric)

    def estimate(self, window: Window) -> tuple[dict[str, float], int]:
        prediction, score, used = self._predicted(window)
        prediction, score = _enough(self._plan, used, prediction, score)
        probability = self._model.calibrate(score)
        names = [m for m in confidence_based.METRICS if m != "business_value" or self._plan.values]
        found = {m: self._model.measure(m, prediction, score, probability) for m in names}
        return {m: value for m, value in found.items() if value is not None}, len(score)

    def sampling_error(self, rows: int, metric: str | None = None) -> float:
        return self._model.sampling_error(metric or self._plan.metric, rows)

    def realise(self, window: Window) -> tuple[dict[str, float], int]:
        label, prediction, score, _ = self._labelled(window)
        known = label.astype(np.float64)
        names = [m for m in confidence_based.METRICS if m != "business_value" or self._plan.values]
        found = {m: self._model.measure(m, prediction, score, known) for m in names}
        found["pr_auc"] = pr_auc(label, score)  # of labels that are known, rows of one score are one step
        return {m: value for m, value in found.items() if value is not None}, len(label)

    def gap(self, window: Window, resamples: int) -> Gap:
        metric = self._plan.metric
        label, prediction, score, coverage = self._labelled(window)
        probability = self._model.calibrate(score)
        rng = np.random.default_rng(self._plan.seed)
        drawn = (rng.random(len(score)) < probability for _ in range(resamples))
        chance = [self._model.measure(metric, prediction, score, labels.astype(np.float64)) for labels in drawn]
        return Gap(
            _defined(self._model.measure(metric, prediction, score, probability), metric),
            _defined(self._model.measure(metric, prediction, score, label.astype(np.float64)), metric),
            _with_reference(chance, self.sampling_error(self.rows), metric, len(label) / self.rows),
            len(label),
            coverage,
        )

    def _predicted(self, window: Window) -> tuple[BoolArray, FloatArray, BoolArray]:
        if not window.has("probability"):
            raise NotEvaluable("missing_column", "the estimate needs the column probability")
        predictions, score = Classes(window.categories("prediction")), window.numbers("probability")
        labelled.two_classes(predictions.seen(predictions.usable), self._plan.positive)
        return predictions.are(self._plan.positive), score, predictions.usable & (score >= 0) & (score <= 1)

    def _labelled(self, window: Window) -> tuple[BoolArray, BoolArray, FloatArray, dict[str, float]]:
        labels = _labels(window)
        prediction, score, used = self._predicted(window)
        labelled.two_classes(labels.seen(labels.usable), self._plan.positive)
        used = used & labels.usable
        label, prediction, score = _enough(self._plan, used, labels.are(self._plan.positive), prediction, score)
        return label, prediction, score, {"label_coverage": float(labels.there.mean())}


class ForMulticlass:
    def __init__(self, plan: Plan, reference: Window) -> None:
        self._plan = plan
        found = class_probabilities(reference, sorted(_labels(reference).every()))
        if found is None:
            raise NotEvaluable("missing_column", "neither probabilities nor a column probability:CLASS")
        self._classes = found[0]
        label, prediction, score, _ = self._labelled(reference)
        if missing := [name for c, name in enumerate(self._classes) if not (label == c).any()]:
            raise NotEvaluable("constant", f"no label is {', '.join(missing)}")
        values = np.array(plan.values, dtype=np.float64) if plan.values else None
        if values is not None and len(values) != len(self._classes):
            raise NotEvaluable("wrong_type", f"values are for {len(values)} classes; there are {', '.join(self._classes)}")
        self._model = MulticlassEstimator.fit(label, prediction, score, values, plan.seed)
        self.rows = len(label)
        self.realised = _defined(self._model.measure(plan.metric, prediction, score, self._known(label)), plan.metric)

    def estimate(self, window: Window) -> tuple[dict[str, float], int]:
        prediction, score, used = self._predicted(window)
        prediction, score = _enough(self._plan, used, prediction, score)
        probability = self._model.probabilities(score)
        names = [m for m in confidence_based.METRICS if m != "business_value" or self._plan.values]
        found = {m: self._model.measure(m, prediction, score, probability) for m in names}
        return {m: value for m, value in found.items() if value is not None}, len(score)

    def sampling_error(self, rows: int, metric: str | None = None) -> float:
        return self._model.sampling_error(metric or self._plan.metric, rows)

    def realise(self, window: Window) -> tuple[dict[str, float], int]:
        label, prediction, score, _ = self._labelled(window)
        names = [m for m in confidence_based.METRICS if m != "business_value" or self._plan.values]
        found = {m: self._model.measure(m, prediction, score, self._known(label)) for m in names}
        areas = [pr_auc(label == c, score[:, c]) for c in range(len(self._classes))]
        defined = [area for area in areas if area is not None]
        found["pr_auc"] = float(np.mean(defined)) if len(defined) == len(areas) else None
        return {m: value for m, value in found.items() if value is not None}, len(label)

    def gap(self, window: Window, resamples: int) -> Gap:
        metric = self._plan.metric
        label, prediction, score, coverage = self._labelled(window)
        probability = self._model.probabilities(score)
        rng = np.random.default_rng(self._plan.seed)
        steps = np.cumsum(probability, axis=1)
        steps[:, -1] = 1.0  # whatever the sum of floats came to
        drawn = ((steps > rng.random((len(steps), 1))).argmax(1) for _ in range(resamples))
        chance = [self._model.measure(metric, prediction, score, self._known(labels)) for labels in drawn]
        return Gap(
            _defined(self._model.measure(metric, prediction, score, probability), metric),
            _defined(self._model.measure(metric, prediction, score, self._known(label)), metric),
            _with_reference(chance, self.sampling_error(self.rows), metric, len(label) / self.rows),
            len(label),
            coverage,
        )

    def _known(self, label: NDArray[np.int64]) -> FloatArray:
        return np.eye(len(self._classes))[label]

    def _predicted(self, window: Window) -> tuple[NDArray[np.int64], FloatArray, BoolArray]:
        found = class_probabilities(window, self._classes)
        if found is None:
            raise NotEvaluable("missing_column", "the estimate needs probabilities")
        if unknown := sorted(set(found[0]) - set(self._classes)):
            raise NotEvaluable("wrong_type", f"probabilities of classes that the reference has not: {', '.join(unknown[:5])}")
        score = np.zeros((window.rows, len(self._classes)))
        for name, column in zip(found[0], found[1].T, strict=True):
            score[:, self._classes.index(name)] = column
        whole = np.abs(score.sum(1) - 1) <= labelled.SUM_TOLERANCE
        likeliest = np.where(whole, score.argmax(1), -1)
        prediction = Classes(window.categories("prediction")).index(self._classes) if window.has("prediction") else likeliest
        return prediction.astype(np.int64), score, whole & (prediction >= 0)

    def _labelled(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray, dict[str, float]]:
        labels = _labels(window)
        prediction, score, used = self._predicted(window)
        label = labels.index(self._classes).astype(np.int64)
        kept = _enough(self._plan, used & (label >= 0), label, prediction, score)
        return kept[0], kept[1], kept[2], {"label_coverage": float(labels.there.mean())}


class ForRegression:
    def __init__(self, plan: Plan, reference: Window) -> None:
        self._plan = plan
        self._kinds = {name: kind for name, kind in reference.features.items() if reference.has(name)}
        if not self._kinds:
            raise NotEvaluable("no_features", "direct loss estimation learns from features")
        self._names = {
            name: {value: code for code, value in enumerate(reference.categories(name).names)}
            for name, kind in self._kinds.items()
            if kind == "category"
        }
        X, label, prediction, _ = self._labelled(reference)
        categorical = [self._kinds[name] == "category" for name in self._kinds] + [False]
        self._model = LossEstimator.fit(X, categorical, label, prediction, plan.metric, plan.seed)
        self.rows = len(label)
        self.realised = of_losses(self._losses(label, prediction), plan.metric)

    def estimate(self, window: Window) -> tuple[dict[str, float], int]:
        X, _, used = self._predicted(window)
        (X,) = _enough(self._plan, used, X)
        return {self._plan.metric: self._model.estimate(X, self._plan.metric)}, len(X)

    def sampling_error(self, rows: int, metric: str | None = None) -> float:
        return self._model.sampling_error(self._plan.metric, rows)

    def realise(self, window: Window) -> tuple[dict[str, float], int]:
        _, label, prediction, _ = self._labelled(window)
        return {self._plan.metric: of_losses(self._losses(label, prediction), self._plan.metric)}, len(label)

    def gap(self, window: Window, resamples: int) -> Gap:
        metric = self._plan.metric
        X, label, prediction, coverage = self._labelled(window)
        expected, real = self._model.losses(X, metric), self._losses(label, prediction)
        estimated, realised = of_losses(expected, metric), of_losses(real, metric)
        error = float((real - expected).std(ddof=1)) / math.sqrt(len(real))
        if direct_loss.METRICS[metric][1]:
            error /= max(estimated + realised, 1e-300)  # the difference of two roots is that of the squares over their sum
        return Gap(estimated, realised, math.hypot(error, self.sampling_error(self.rows)), len(real), coverage)

    def _losses(self, label: FloatArray, prediction: FloatArray) -> FloatArray:
        return direct_loss.LOSSES[direct_loss.METRICS[self._plan.metric][0]](label, prediction)

    def _predicted(self, window: Window) -> tuple[FloatArray, FloatArray, BoolArray]:
        prediction = window.numbers("prediction")
        used = np.abs(prediction) <= labelled.LARGEST
        if "log" in self._plan.metric or self._plan.metric == "rmsle":
            used &= prediction >= 0
        columns = [self._codes(window, name) if name in self._names else _finite(window.numbers(name)) for name in self._kinds]
        return np.column_stack([*columns, _finite(prediction)]), prediction, used

    def _codes(self, window: Window, name: str) -> FloatArray:
        """Codes as in the reference, NaN for what was not there, and for all beyond what the model can tell apart."""
        column = window.categories(name)
        known = self._names[name]
        codes = [float(known.get(value, math.nan)) for value in column.names]
        codes = [code if code <= direct_loss.MOST_CATEGORIES else math.nan for code in codes]
        return np.array([*codes, math.nan])[column.codes]

    def _labelled(self, window: Window) -> tuple[FloatArray, FloatArray, FloatArray, dict[str, float]]:
        if not window.has("label"):
            raise NotEvaluable("no_labels", "no column label")
        label = window.numbers("label")
        X, prediction, used = self._predicted(window)
        used = used & (np.abs(label) <= labelled.LARGEST)
        if self._plan.metric in ("msle", "rmsle"):
            used &= label >= 0
        kept = _enough(self._plan, used, X, label, prediction)
        return kept[0], kept[1], kept[2], {"label_coverage": float((~np.isnan(label)).mean())}


def _labels(window: Window) -> Classes:
    if not window.has("label"):
        raise NotEvaluable("no_labels", "no column label")
    return Classes(window.categories("label"))


def _enough(plan: Plan, used: BoolArray, *columns: Any) -> tuple[Any, ...]:
    if (n := int(used.sum())) < plan.min_rows:
        raise NotEnoughData(f"{n} usable rows of {len(used)}, min_rows is {plan.min_rows}")
    return tuple(column[used] for column in columns)


def _finite(values: FloatArray) -> FloatArray:
    return np.where(np.abs(values) <= labelled.LARGEST, values, np.nan)


def _defined(value: float | None, metric: str) -> float:
    if value is None or not math.isfinite(value):
        raise NotEvaluable("constant", f"{metric} is not defined on these rows")
    return value


def _with_reference(chance: list[float | None], of_reference: float, metric: str, share: float) -> float:
    """Standard error of a gap: how the metric varies when labels are drawn with the calibrated probabilities, and how well a
    reference of its size could say those."""
    defined = [value for value in chance if value is not None]
    if len(defined) < 0.95 * len(chance):
        raise NotEnoughData(f"{metric} is not defined in {len(chance) - len(defined)} of {len(chance)} draws of the labels")
    of_reference *= share if metric == "business_value" else 1.0  # a sum, over other rows than these
    return math.hypot(float(np.std(defined)), of_reference if math.isfinite(of_reference) else 0.0)
