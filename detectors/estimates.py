"""How good a model is likely to be, chunk by chunk, before labels come and after: `detectors.estimate`.

Estimates, bands and what comes true are those of `performance_estimate`. Thresholds are NannyML's: the mean of the metric as it
came true in the chunks of the reference, and so many of its standard deviations to either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from detectors.chunks import Chunk, Chunking, Period
from detectors.contract import NotEnoughData, NotEvaluable, Outcome
from detectors.estimation.estimators import Estimator, Task, fit
from detectors.held import Held
from detectors.performance_estimate import EstimateConfig, band, possible
from detectors.roles import Roles, roles
from detectors.tables import table_of
from detectors.withlabels import Read, read

SHOWN: Mapping[Task, tuple[str, ...]] = {
    "binary": ("roc_auc", "f1", "precision", "recall", "specificity", "accuracy", "pr_auc"),
    "multiclass": ("f1", "roc_auc", "precision", "recall", "specificity", "accuracy", "pr_auc"),
    "regression": ("mae", "rmse", "mape", "mse"),
}
"""The metrics where nobody names any; msle and rmsle are for numbers from 0 on."""

FEW_CHUNKS = 5


@dataclass(frozen=True, slots=True)
class ChunkEstimate:
    """A metric of one chunk. Rows `start` to `end` (not included), in the order of time where there are times. `rows` could be
    used, `labelled` of them have a label; `realised` is of those. What is None has its reason in `why` or `realised_why`."""

    name: str
    start: int
    end: int
    first: str | None
    last: str | None
    outcome: Outcome
    estimate: float | None = None
    sampling_error: float | None = None
    lower: float | None = None
    upper: float | None = None
    alert: bool = False
    rows: int = 0
    realised: float | None = None
    realised_alert: bool = False
    labelled: int = 0
    reason: str | None = None
    why: str | None = None
    realised_why: str | None = None


@dataclass(frozen=True, slots=True)
class MetricEstimates:
    """One metric: `reference_value` in the whole reference, `reference` its chunks as they came true, from which the thresholds
    are, and `chunks` of the analysis."""

    name: str
    reference_value: float
    lower_threshold: float | None
    upper_threshold: float | None
    reference: tuple[ChunkEstimate, ...]
    chunks: tuple[ChunkEstimate, ...]

    @property
    def told(self) -> str:
        """The plot in words."""
        known = [chunk.estimate for chunk in self.chunks if chunk.estimate is not None]
        words = f"{self.name}: {self.reference_value:.4g} in the reference"
        if known:
            words += f", estimated from {min(known):.4g} to {max(known):.4g} over {len(known)} chunks"
        ends = [f"{value:.4g}" for value in (self.lower_threshold, self.upper_threshold) if value is not None]
        words += f"; thresholds {' and '.join(ends)}" if ends else "; no thresholds"
        beyond = [chunk.name for chunk in self.chunks if chunk.alert]
        return words + (
            f"; alerts: {', '.join(beyond[:10])}{' and more' if len(beyond) > 10 else ''}" if beyond else "; no alerts"
        )


@dataclass(frozen=True)
class Estimates:
    """What `estimate` found. `outcome` is ok when there is an estimate of any chunk; `notes` say what was made of odd rows."""

    task: Task
    outcome: Outcome
    reason: str | None
    roles: Roles
    rows_reference: int
    rows_analysis: int
    confidence: float
    metrics: tuple[MetricEstimates, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def alerts(self) -> tuple[tuple[str, str], ...]:
        """(metric, chunk) of each estimate beyond its thresholds."""
        return tuple((metric.name, chunk.name) for metric in self.metrics for chunk in metric.chunks if chunk.alert)

    @property
    def verdict(self) -> str:
        if self.outcome is not Outcome.OK:
            return f"Nothing could be estimated: {self.reason}."
        if not (alerts := self.alerts):
            return "No alert."
        which = dict.fromkeys(name for name, _ in alerts)
        return f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''}, of {', '.join(which)}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `modelwatch estimate --json` prints them."""

        def plain(chunks: Sequence[ChunkEstimate]) -> list[dict[str, Any]]:
            return [{**asdict(chunk), "outcome": chunk.outcome.value} for chunk in chunks]

        return {
            "task": self.task,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "alerts": [{"metric": metric, "chunk": chunk} for metric, chunk in self.alerts],
            "rows": {"reference": self.rows_reference, "analysis": self.rows_analysis},
            "roles": self.roles.to_dict(),
            "confidence": self.confidence,
            "metrics": [
                {
                    "name": metric.name,
                    "reference_value": metric.reference_value,
                    "lower_threshold": metric.lower_threshold,
                    "upper_threshold": metric.upper_threshold,
                    "reference": plain(metric.reference),
                    "chunks": plain(metric.chunks),
                }
                for metric in self.metrics
            ],
            "notes": list(self.notes),
        }

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each metric and chunk of the analysis."""
        import pandas

        rows = [
            {
                "metric": metric.name,
                **asdict(chunk),
                "lower_threshold": metric.lower_threshold,
                "upper_threshold": metric.upper_threshold,
            }
            for metric in self.metrics
            for chunk in metric.chunks
        ]
        names = ["metric", *ChunkEstimate.__dataclass_fields__, "lower_threshold", "upper_threshold"]
        return pandas.DataFrame(rows, columns=names)

    def to_html(self, title: str = "Estimate") -> str:
        """A page of its own, with a plot for each metric: no scripts, nothing that is loaded."""
        from detectors.report.of_estimates import of_estimates

        return of_estimates(self, title)

    def _repr_html_(self) -> str:
        from detectors.report.of_estimates import of_estimates
        from detectors.report.pages import in_notebook

        return in_notebook(of_estimates(self, "Estimate"))


def estimate(
    reference: Any,
    analysis: Any,
    labels: Any = None,
    *,
    task: Task,
    metrics: Sequence[str] | None = None,
    prediction: str | None = None,
    probability: str | None = None,
    probabilities: Mapping[str, str] | None = None,
    label: str | None = None,
    timestamp: str | None = None,
    id: str | None = None,
    features: Sequence[str] | None = None,
    chunk_size: int | None = None,
    chunk_number: int | None = None,
    chunk_period: Period | None = None,
    timezone: str = "UTC",
    threshold_std: float = 3.0,
    seen: Callable[[str], None] | None = None,
    **settings: Any,
) -> Estimates:
    """What quality to expect of the predictions in `analysis`, chunk by chunk; and, where there are labels, what came true.

    `reference` has labels and predictions that were not learnt from. Data may be what `compare` takes. Labels that came late are
    a table of their own, joined by `id`. Columns that nobody names are found by their names (`detectors.roles`), and `roles` of
    the result says how. Chunks are ten on either side, or of `chunk_size` rows, or by the calendar of `timezone`; with a
    `timestamp` rows are put in order first.

    An estimate alerts when it is beyond the thresholds: the mean of the metric in the chunks of the reference, and
    `threshold_std` standard deviations of it to either side. `settings` are those of `performance_estimate`: `positive`,
    `values`, `min_rows`, `confidence` and `seed`.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> p = rng.uniform(size=4000)
    >>> rows = {"y_pred_proba": p, "y_pred": p > 0.5, "y_true": rng.uniform(size=4000) < p}
    >>> later = {"y_pred_proba": p[:2000] / 4 + 0.375, "y_pred": p[:2000] > 0.5}
    >>> found = estimate(rows, later, task="binary", metrics=["accuracy"], chunk_size=1000)
    >>> [(chunk.name, round(chunk.estimate, 2), chunk.alert) for chunk in found.metrics[0].chunks]
    [('0:999', 0.55, True), ('1000:1999', 0.55, True)]

    Raises:
        TypeError, ValueError: what is given is no table, a column cannot be told, or a setting is none.
    """
    configs = [EstimateConfig.model_validate({"task": task, "metric": name, **settings}) for name in metrics or (None,)]
    chunking = Chunking(chunk_size, chunk_number, chunk_period, timezone)
    if not threshold_std > 0:
        raise ValueError(f"threshold_std ({threshold_std}) must be above 0")
    tables = table_of(reference), table_of(analysis)
    given = {"prediction": prediction, "probability": probability, "label": label, "timestamp": timestamp, "id": id}
    needs = ("timestamp",) if chunk_period is not None else ()
    chosen = roles(
        task, tables[0].types, tables[1].types, given=given, probabilities=probabilities, features=features, needs=needs
    )
    names = tuple(metrics or (*SHOWN[task], *(("business_value",) if configs[0].values else ())))
    common = (chosen, tables[0].rows, tables[1].rows, configs[0].confidence)
    try:
        sides = read(task, chosen, *tables, labels=None if labels is None else table_of(labels))
    except NotEvaluable as exc:
        return Estimates(task, Outcome.NOT_EVALUABLE, str(exc), *common, ())
    cut = [chunking.cut(side.window.rows, side.times) for side in sides]
    measured: list[MetricEstimates] = []
    problem: tuple[Outcome, str] | None = None
    fitted: Estimator | None = None
    for name in names:
        try:
            plan = configs[0].model_copy(update={"metric": name}).plan
            # Of classes one model gives all metrics; of numbers each loss has its own.
            if fitted is None or task == "regression":
                fitted = fit(plan, sides[0].window)
            reference_value = fitted.realise(sides[0].window)[0].get(name)
            if reference_value is None or not math.isfinite(reference_value):
                raise NotEvaluable("constant", f"{name} is not defined in the reference")
        except NotEnoughData as exc:
            problem = problem or (Outcome.NOT_ENOUGH_DATA, f"reference: {exc}")
            continue
        except NotEvaluable as exc:
            problem = problem or (Outcome.NOT_EVALUABLE, f"reference: {exc}")
            continue
        before = tuple(_chunk(fitted, name, one, sides[0], None) for one in cut[0])
        ends = thresholds(name, [chunk.realised for chunk in before], threshold_std)
        now = []
        for one in cut[1]:
            if seen is not None:
                seen(name)
            now.append(_judged(_chunk(fitted, name, one, sides[1], configs[0].confidence), ends))
        measured.append(MetricEstimates(name, reference_value, *ends, before, tuple(now)))
    chunks = [chunk for metric in measured for chunk in metric.chunks]
    if problem is None and not any(chunk.outcome is Outcome.OK for chunk in chunks):
        first = next(iter(chunks), None)
        problem = (
            (first.outcome, f"{first.name}: {first.why}") if first else (Outcome.NOT_ENOUGH_DATA, "the analysis has no rows")
        )
    done = any(chunk.outcome is Outcome.OK for chunk in chunks)
    outcome, reason = (Outcome.OK, None) if done or problem is None else problem
    notes = [note for side in sides for note in side.notes]
    if chosen.left_out:
        notes.append(
            f"not learnt from, as they are called as a prediction, a label, a time or an id is: {', '.join(chosen.left_out)}; "
            "name all features where they are some"
        )
    if done and problem is not None:
        notes.append(f"not all metrics: {problem[1]}")
    if done and 2 <= len(cut[0]) < FEW_CHUNKS:
        notes.append(
            f"the thresholds come from {len(cut[0])} chunks of the reference, which is few: smaller chunks make surer ones"
        )
    return Estimates(task, outcome, reason, *common, tuple(measured), tuple(notes))


def thresholds(metric: str, values: Sequence[float | None], deviations: float) -> tuple[float | None, float | None]:
    """Mean and standard deviations of what came true in the chunks of the reference, within what the metric can be.

    >>> thresholds("accuracy", [0.8, 0.9, None], 3.0)
    (0.7, 1.0)
    >>> thresholds("accuracy", [0.8], 3.0)
    (None, None)
    """
    known = np.array([value for value in values if value is not None])
    if len(known) < 2:
        return None, None
    mean, away = float(known.mean()), deviations * float(known.std())
    lower, upper = possible(metric, mean - away, mean + away)
    return round(lower, 15), round(upper, 15)


def _chunk(fitted: Estimator, metric: str, chunk: Chunk, side: Read, confidence: float | None) -> ChunkEstimate:
    """`confidence` is None for a chunk of the reference: nothing is estimated of what the estimator has learnt from."""
    window: Held = side.window.take(slice(chunk.start, chunk.end))
    found: dict[str, Any] = {"outcome": Outcome.OK}
    if confidence is not None:
        found |= _estimated(fitted, metric, window, confidence)
    if window.has("label"):
        try:
            values, labelled = fitted.realise(window)
            found |= {"realised": _finite(values.get(metric)), "labelled": labelled}
            if found["realised"] is None:
                found["realised_why"] = f"{metric} is not defined on these labels"
        except (NotEnoughData, NotEvaluable) as exc:
            found["realised_why"] = str(exc)
    return ChunkEstimate(chunk.name, chunk.start, chunk.end, chunk.first, chunk.last, **found)


def _estimated(fitted: Estimator, metric: str, window: Held, confidence: float) -> dict[str, Any]:
    try:
        values, rows = fitted.estimate(window)
        value = _finite(values.get(metric))
        if value is None:
            raise NotEvaluable("constant", f"{metric} cannot be expected of these {rows} rows")
    except NotEnoughData as exc:
        return {"outcome": Outcome.NOT_ENOUGH_DATA, "reason": "not_enough_data", "why": str(exc)}
    except NotEvaluable as exc:
        return {"outcome": Outcome.NOT_EVALUABLE, "reason": exc.reason, "why": str(exc)}
    found: dict[str, Any] = {"estimate": value, "rows": rows}
    if math.isfinite(error := fitted.sampling_error(rows, metric)):
        lower, upper = band(metric, value, error, confidence)
        found |= {"sampling_error": error, "lower": lower, "upper": upper}
    return found


def _judged(chunk: ChunkEstimate, ends: tuple[float | None, float | None]) -> ChunkEstimate:
    def beyond(value: float | None) -> bool:
        lower, upper = ends
        return value is not None and ((lower is not None and value < lower) or (upper is not None and value > upper))

    found = asdict(chunk)
    found["outcome"] = chunk.outcome
    return ChunkEstimate(**{**found, "alert": beyond(chunk.estimate), "realised_alert": beyond(chunk.realised)})


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
