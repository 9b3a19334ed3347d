"""Fairness: are the groups of people treated alike?

Hardt, Price and Srebro, "Equality of opportunity in supervised learning", NIPS 2016 (the definitions); differences and ratios as
in Fairlearn (`method="between_groups"`, worst case for equalised odds), whose values these are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from detectors import labelled
from detectors.contract import (
    DetectorConfig,
    FloatArray,
    NotEnoughData,
    NotEvaluable,
    Outcome,
    Part,
    Reading,
    Window,
    Worse,
)
from detectors.groups import Grouping, groupings
from detectors.intervals import Interval, mean_interval, wilson
from detectors.labelled import Classes, same_class
from detectors.quality import BoolArray
from detectors.quality.binary import Binary
from detectors.quality.regression import Numbers

Metric = Literal["demographic_parity", "equal_opportunity", "equalised_odds", "calibration", "error"]

RATES: Mapping[Metric, tuple[str, ...]] = {
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("true_positive_rate",),
    "equalised_odds": ("true_positive_rate", "false_positive_rate"),
    "calibration": ("miss",),
    "error": ("error",),
}
"""What each compares between groups; of several, the one that differs most counts."""


@dataclass(frozen=True, slots=True)
class Values:
    """One number for each row it is defined on, whose mean in a group is the group's rate. `share`: it is 0 or 1."""

    value: FloatArray
    defined: BoolArray
    share: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """How far the groups of one attribute are apart in one metric: the largest less the smallest rate."""

    attribute: str
    metric: Metric
    value: float
    ratio: float | None  # of the smallest to the largest
    interval: Interval
    groups: int
    rows: int


class Fairness:
    """The largest gap between groups, over the attributes and, unless told otherwise, each two of them.

    Reads:  prediction and the attributes; label, unless only `demographic_parity` is asked for; probability for `calibration`.
    Gives:  the largest gap of `metric`: demographic_parity (share predicted positive), equal_opportunity (true positive rate),
            equalised_odds (true or false positive rate, the worse), calibration (mean of label - probability), error (share of
            wrong predictions; for `regression` the mean absolute error). The interval is simultaneous: that of each group's rate
            is Bonferroni's over all groups, Wilson's for shares and else by normal theory, and the gap lies between those.
            `metrics` has every gap that can be computed as METRIC:ATTRIBUTE, ratios as METRIC_ratio:ATTRIBUTE. The parts are
            the attributes, flagged where the gap is above 0 beyond chance, then the groups; one with fewer than `min_rows` rows
            (that the rate is of) is `not_enough_data` and has no part in a gap.
    Raises: NotEnoughData, when no attribute has two groups that are large enough.
            NotEvaluable: missing_column, wrong_type, not_numeric, no_labels.
    """

    name: ClassVar[str] = "fairness"
    version: ClassVar[str] = "1"
    inputs: frozenset[str] = frozenset({"prediction", "label"})
    reference: ClassVar[str] = "none"
    worse: ClassVar[Worse] = "higher"

    class Config(DetectorConfig):
        attributes: tuple[str, ...] = Field(min_length=1, description="features by which rows are grouped")
        task: Literal["binary", "regression"] = "binary"
        metric: Metric | None = Field(None, description="the reading; none: demographic_parity, for regression error")
        pairs: bool = Field(True, description="also the groups by each two attributes")
        edges: dict[str, tuple[float, ...]] = Field({}, description="of attributes that are numbers: where groups begin")
        positive: str = Field("1", description="the positive class, for binary; 1 also stands for true")
        min_rows: int = Field(30, ge=1, description="of a group, that the rate is of")
        confidence: float = Field(0.95, gt=0, lt=1, description="of the interval, over all groups")

        @field_validator("positive", mode="before")
        @classmethod
        def _positive_is_a_class(cls, raw: Any) -> Any:
            return same_class(str(raw)) if isinstance(raw, str | int | float) else raw

        @model_validator(mode="after")
        def _that_fit(self) -> Fairness.Config:
            if self.task == "regression" and self.metric not in (None, "error"):
                raise ValueError(f"metric {self.metric} is not for task regression; there is error")
            for name, edges in self.edges.items():
                if name not in self.attributes:
                    raise ValueError(f"edges of {name}, which is not among attributes ({', '.join(self.attributes)})")
                if not edges or list(edges) != sorted(set(edges)):
                    raise ValueError(f"edges of {name} must be rising numbers, at least one")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metric: Metric = config.metric or ("error" if config.task == "regression" else "demographic_parity")
        needed = {"prediction", *config.attributes}
        needed |= set() if self.metric == "demographic_parity" else {"label", "probability"}
        self.inputs = frozenset(needed)

    def compare(self, reference: Window | None, current: Window) -> Reading:
        c = self.config
        values = self._values(current)
        found = list(groupings(current, c.attributes, c.edges, pairs=c.pairs))
        every = max(1, sum(len(grouping.names) for grouping in found) * len(RATES[self.metric]))
        confidence = 1 - (1 - c.confidence) / every
        gaps: list[Gap] = []
        groups: list[Part] = []
        for grouping in found:
            for metric in RATES:
                if all(rate in values for rate in RATES[metric]):
                    gap, parts = self._gap(grouping, metric, values, confidence)
                    gaps += [gap] if gap else []
                    groups += parts if metric == self.metric else []
        asked = sorted((gap for gap in gaps if gap.metric == self.metric), key=lambda gap: -gap.value)
        if not asked:
            raise NotEnoughData(f"no attribute has two groups of {c.min_rows} rows")
        metrics = {f"{gap.metric}:{gap.attribute}": gap.value for gap in gaps}
        metrics |= {f"{gap.metric}_ratio:{gap.attribute}": gap.ratio for gap in gaps if gap.ratio is not None}
        attributes = [Part(g.attribute, self.metric, value=g.value, flagged=g.interval[0] > 0, n_current=g.rows) for g in asked]
        return Reading(
            asked[0].value,
            self.metric,
            n_current=int(values[RATES[self.metric][0]].defined.sum()),
            lower=max(gap.interval[0] for gap in asked),
            upper=max(gap.interval[1] for gap in asked),
            parts=(*attributes, *groups),
            metrics=metrics,
        )

    def _gap(
        self, grouping: Grouping, metric: Metric, values: Mapping[str, Values], confidence: float
    ) -> tuple[Gap | None, list[Part]]:
        gaps, parts, rows = [], [], 0
        for rate in RATES[metric]:
            rates, intervals = [], []
            for group, name in enumerate(grouping.names):
                inside = values[rate].value[grouping.members(group) & values[rate].defined]
                who = f"{grouping.attribute}={name}"
                if len(inside) < self.config.min_rows or (interval := _interval(inside, values[rate].share, confidence)) is None:
                    reason = f"{len(inside)} rows, min_rows is {self.config.min_rows}"
                    parts.append(Part(who, rate, Outcome.NOT_ENOUGH_DATA, reason=reason, n_current=len(inside)))
                    continue
                rates.append(float(inside.mean()))
                intervals.append(interval)
                rows += len(inside)
                parts.append(Part(who, rate, value=rates[-1], n_current=len(inside)))
            if len(rates) >= 2:
                gaps.append(_between(rates, intervals))
        if len(gaps) < len(RATES[metric]):
            return None, parts
        value = max(gap[0] for gap in gaps)
        ratio = min((gap[1] for gap in gaps if gap[1] is not None), default=None) if metric != "calibration" else None
        interval = max(gap[2][0] for gap in gaps), max(gap[2][1] for gap in gaps)
        return Gap(grouping.attribute, metric, value, ratio, interval, len(grouping.names), rows), parts

    def _values(self, window: Window) -> dict[str, Values]:
        """What can be averaged, by the name of the rate."""
        return dict(self._regression(window) if self.config.task == "regression" else self._binary(window))

    def _binary(self, window: Window) -> Iterator[tuple[str, Values]]:
        predictions = Classes(window.categories("prediction"))
        labelled.two_classes(predictions.seen(predictions.usable), self.config.positive)
        chosen = predictions.are(self.config.positive)
        yield "selection_rate", Values(chosen.astype(np.float64), predictions.usable, share=True)
        try:
            sample, used = labelled.read(window, labelled.Reading("binary", self.config.positive, min_labels=2))
        except (NotEnoughData, NotEvaluable):
            if self.metric == "demographic_parity":
                return  # which asks for no labels
            raise
        assert isinstance(sample, Binary)
        label, probability = np.zeros(window.rows, dtype=bool), np.full(window.rows, np.nan)
        label[used], probability[used] = sample.label, sample.probability
        yield "true_positive_rate", Values(chosen.astype(np.float64), used & label, share=True)
        yield "false_positive_rate", Values(chosen.astype(np.float64), used & ~label, share=True)
        yield "error", Values((chosen != label).astype(np.float64), used, share=True)
        there = ~np.isnan(probability)
        if there.any():
            yield "miss", Values(np.where(there, label - probability, 0.0), there, share=False)
        elif self.metric == "calibration":
            raise NotEvaluable("missing_column", "calibration needs the column probability, of labelled rows")

    def _regression(self, window: Window) -> Iterator[tuple[str, Values]]:
        sample, used = labelled.read(window, labelled.Reading("regression", min_labels=2))
        assert isinstance(sample, Numbers)
        errors = np.zeros(window.rows)
        errors[used] = np.abs(sample.prediction - sample.label)
        yield "error", Values(errors, used, share=False)


def _interval(inside: FloatArray, share: bool, confidence: float) -> Interval | None:
    return wilson(int(inside.sum()), len(inside), confidence) if share else mean_interval(inside, confidence)


def _between(rates: list[float], intervals: list[Interval]) -> tuple[float, float | None, Interval]:
    """Largest less smallest, smallest to largest where that is a ratio of shares or errors, and where the former can lie."""
    lowest, highest = min(rates), max(rates)
    least = max(0.0, max(low for low, _ in intervals) - min(high for _, high in intervals))
    most = max(high for _, high in intervals) - min(low for low, _ in intervals)
    ratio = lowest / highest if lowest >= 0 and highest > 0 else None
    return highest - lowest, ratio, (least, most)
