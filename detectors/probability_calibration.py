"""Calibration of probabilities: does what is given 70 % happen seven times in ten, and has that changed?

Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015 (the error); Guo et
al., "On calibration of modern neural networks", ICML 2017 (several classes: of the likeliest).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from detectors import labelled
from detectors.contract import DetectorConfig, FloatArray, NotEnoughData, NotEvaluable, Part, Reading, Window, Worse
from detectors.intervals import Uncertainty, wilson
from detectors.labelled import same_class
from detectors.quality import BoolArray
from detectors.quality.binary import Binary
from detectors.quality.calibration import Strategy, bin_edges, curve, ece_interval, recalibrated
from detectors.quality.multiclass import Multiclass, confidences


class ProbabilityCalibration:
    """The calibration curve of one window.

    Reads:  label, prediction and probability, or for `multiclass` the probabilities: see `detectors.labelled`.
    Gives:  with `metric` ece, the expected calibration error with its interval; with `metric` drift, the p-value that outcomes
            miss the probabilities as they did in the reference, so small is bad. The parts are the bins, the most telling first:
            how much more often it happened than was said, flagged where Wilson's interval of how often leaves out what was said.
            `metrics` has the curve (`predicted:BIN`, `happened:BIN`), `ece`, the largest miss, and both means.
    Raises: NotEnoughData, with fewer than `min_labels` labelled rows with a probability.
            NotEvaluable: no_labels; missing_column; no_reference, for drift without one; wrong_type; constant, when no bin has
            five rows on both sides.
    """

    name: ClassVar[str] = "probability_calibration"
    version: ClassVar[str] = "1"
    inputs: frozenset[str] = frozenset({"prediction", "probability", "label"})
    reference: ClassVar[str] = "optional"
    worse: Worse = "higher"

    class Config(DetectorConfig):
        task: Literal["binary", "multiclass"] = "binary"
        metric: Literal["ece", "drift"] = "ece"
        positive: str = Field("1", description="the positive class, for binary; 1 also stands for true")
        bins: int = Field(10, ge=2, le=100)
        strategy: Strategy = Field("uniform", description="bins of equal width, or (quantile) with equally many rows")
        min_labels: int = Field(100, ge=2)
        confidence: float = Field(0.95, gt=0, lt=1, description="of the interval and of the bins'")
        resamples: int = Field(200, ge=20, description="a fifth of the draws for the interval")
        seed: int = Field(0, ge=0)

        @field_validator("positive", mode="before")
        @classmethod
        def _positive_is_a_class(cls, raw: Any) -> Any:
            return same_class(str(raw)) if isinstance(raw, str | int | float) else raw

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = "higher" if config.metric == "ece" else "lower"
        self._how = labelled.Reading(config.task, config.positive, min_labels=config.min_labels)
        self.inputs = self._how.inputs()

    def compare(self, reference: Window | None, current: Window) -> Reading:
        c = self.config
        label, probability = self._probable(current)
        before = None
        if c.metric == "drift":
            if reference is None:
                raise NotEvaluable("no_reference", "drift of the calibration is against a reference")
            before = self._probable(reference)
        both = probability if before is None else np.concatenate([probability, before[1]])
        edges = bin_edges(both, c.bins, c.strategy)
        found = curve(label, probability, edges)
        names = [f"{edges[i]:.3g}-{edges[i + 1]:.3g}" for i in found.place]
        metrics = {"ece": found.ece, "largest_miss": float(np.abs(found.happened - found.predicted).max())}
        metrics |= {"mean_probability": float(probability.mean()), "positive_ratio": float(label.mean())}
        for i, name in enumerate(names):
            metrics |= {f"predicted:{name}": float(found.predicted[i]), f"happened:{name}": float(found.happened[i])}
        parts = [
            self._bin(name, int(n), float(p), float(y))
            for name, n, p, y in zip(names, found.rows, found.predicted, found.happened, strict=True)
        ]
        parts.sort(key=lambda part: -abs(part.value or 0.0) * part.n_current)
        if before is None:
            interval = ece_interval(label, probability, c.bins, Uncertainty(c.confidence, c.resamples, c.seed), c.strategy)
            lower, upper = interval or (None, None)
            return Reading(found.ece, "ece", n_current=len(label), lower=lower, upper=upper, parts=tuple(parts), metrics=metrics)
        p_value = recalibrated((label, probability), before, edges)
        if p_value is None:
            raise NotEvaluable("constant", "no bin has five rows in both windows")
        metrics["reference_ece"] = curve(*before, edges).ece
        return Reading(p_value, "p_value", n_current=len(label), n_reference=len(before[0]), parts=tuple(parts), metrics=metrics)

    def _bin(self, name: str, n: int, predicted: float, happened: float) -> Part:
        lower, upper = wilson(round(happened * n), n, self.config.confidence)
        return Part(name, "miss", value=happened - predicted, flagged=not lower <= predicted <= upper, n_current=n)

    def _probable(self, window: Window) -> tuple[BoolArray, FloatArray]:
        """What was said and whether it happened, of the rows that have both."""
        sample = labelled.read(window, self._how)[0]
        assert isinstance(sample, Binary | Multiclass)
        if "probability_coverage" not in sample.coverage:
            raise NotEvaluable("missing_column", f"{self.name} needs probabilities")
        if isinstance(sample, Binary):
            found = sample.probable
        else:
            several = sample.probable
            found = several and confidences(*several)
        if found is None:
            share = sample.coverage["probability_coverage"]
            off = sample.coverage.get("probabilities_not_one", 0.0)
            why = f", in {off:.0f} they do not sum to one" if off else ""
            raise NotEnoughData(
                f"{share * sample.rows:.0f} labelled rows with probabilities{why}, min_labels is {self.config.min_labels}"
            )
        return found
