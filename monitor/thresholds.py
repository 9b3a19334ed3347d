"""By what a reading is judged: bounds from the config, from the check's own windows of a time that was good, or from chance.

`constant`    the bounds as they stand in the config.
`quantile`    quantiles of the readings of the baseline's windows.
`std`         their mean, less and plus so many of their standard deviations, as NannyML has it (ddof 0).
`calibrated`  the reading's p-value against alpha: the detector's own where it gives one (`metrics["p_value"]`), else how many of
              the baseline's windows read as badly.

What is learned of a baseline is frozen with its values and their hash. Where nothing can be learned there is no threshold: the
verdict says why, and nothing fires. Alpha is the check's own or its share of the model's `false_alarms_per_month`
(`detectors.false_alarms`); where a p-value cannot get as low, a row of windows that share no rows is asked for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson

from detectors import false_alarms
from detectors.calibration import Null
from detectors.contract import Worse
from detectors.false_alarms import MONTH_SECONDS, MOST_WINDOWS, Stake
from monitor import slices
from monitor.config import Check, Config, Threshold
from monitor.readings import Measured
from monitor.verdicts import Bounds

UNREACHABLE = "budget_unreachable"


@dataclass(frozen=True, slots=True)
class Learned:
    """What the baseline's windows said, on one slice: readings and, where the detector gives them, p-values, in the order of
    time. Fixed once it is ok."""

    values: tuple[float, ...] = ()
    p_values: tuple[float, ...] | None = None
    floor: float | None = None  # the largest of the least p-values there can be
    reason: str | None = None  # why it is too little

    @property
    def ok(self) -> bool:
        return self.reason is None

    @property
    def hash(self) -> str:
        """Sixteen hex digits over the numbers."""
        return hashlib.sha256(orjson.dumps([self.values, self.p_values])).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Word:
    """A reading as it is to be judged: the ends of its interval, or the p-value twice; and by what."""

    low: float | None
    high: float | None
    bounds: Bounds | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a check fires by chance: per slot, as set and as seen on the baseline's windows, with an exact interval."""

    nominal: float | None = None
    achieved: float | None = None
    lower: float | None = None
    upper: float | None = None


class Judge:
    """The threshold of one check on one slice."""

    def __init__(self, check: Check, alpha: float | None, worse: Worse) -> None:
        """`alpha` for `calibrated`: how often a slot may fire by chance. `worse`: the direction of the detector."""
        self._check = check
        self._threshold = check.threshold
        self.alpha = alpha
        self._worse = worse
        self._null: Null | None = None
        self._bounds: Bounds | None = None
        self.learned: Learned | None = None
        t = self._threshold
        if t.kind == "constant":
            self._bounds = self.plain(t.lower, t.upper)

    @property
    def kind(self) -> str:
        return self._threshold.kind

    @property
    def bounds(self) -> Bounds | None:
        """In force for every reading; None where they depend on it, or there are none."""
        return self._bounds

    @property
    def reach(self) -> int:
        """How many windows matter to any of its bounds."""
        check = self._check
        auto = self.kind == "calibrated" and check.breaches is None
        return Bounds(of=MOST_WINDOWS if auto else check.of_windows, stride=self.stride).reach

    @property
    def stride(self) -> int:
        """For `calibrated`, so many slots further on a window shares no row with this one."""
        check = self._check
        return math.ceil(check.window_seconds / check.every) if self.kind == "calibrated" else 1

    def plain(self, lower: float | None, upper: float | None) -> Bounds:
        check = self._check
        return Bounds(lower, upper, self._threshold.margin, needed=check.needed_windows, of=check.of_windows)

    def stored(self, lower: float | None, upper: float | None, needed: int | None, of: int | None) -> Bounds:
        """As a verdict was judged, from what is stored of it."""
        calibrated = self.kind == "calibrated"
        check = self._check
        return Bounds(
            lower,
            upper,
            self._threshold.margin,
            calibrated,
            needed if needed is not None else check.needed_windows,
            of if of is not None else check.of_windows,
            self.stride,
        )

    def learn(self, learned: Learned) -> None:
        """Take what the baseline says. The same values give the same bounds."""
        self.learned, self._bounds, self._null = learned, None, None
        t, values = self._threshold, np.array(learned.values)
        if t.kind == "constant":
            return
        if (why := learned.reason or enough(t, learned.values)) is not None:
            self.learned = replace(learned, reason=why)
            return
        if t.kind == "quantile":
            found = [None if q is None else float(np.quantile(values, q)) for q in (t.lower, t.upper)]
            self._bounds = self.plain(*found)
        elif t.kind == "std":
            mean, deviation = float(values.mean()), float(values.std())
            below, above = (None if k is None else k * deviation for k in (t.lower, t.upper))
            self._bounds = self.plain(None if below is None else mean - below, None if above is None else mean + above)
        elif learned.p_values is None:
            self._null = Null.of(values if self._worse == "higher" else -values)

    def word(self, measured: Measured) -> Word:
        """How a reading is to be judged. A pure function of it and of what was learned."""
        reading = measured.reading
        if reading is None:
            return Word(None, None, self._bounds)  # shown and stored, though there is nothing to compare
        if self.kind != "calibrated":
            low = reading.value if reading.lower is None else reading.lower
            high = reading.value if reading.upper is None else reading.upper
            return Word(low, high, self._bounds, self._missing() if self._bounds is None else None)
        found = self._p_value(reading.value, reading.metrics)
        if found is None:
            return Word(None, None, None, self._missing())
        p_value, floor = found
        bounds, note = self._row(floor)
        return Word(p_value, p_value, bounds, note)

    def _p_value(self, value: float, metrics: Mapping[str, float]) -> tuple[float, float] | None:
        """And the least it can be."""
        if "p_value" in metrics:
            return metrics["p_value"], metrics.get("p_value_floor", 0.0)
        if self._null is None:
            return None
        return self._null.p_value(value if self._worse == "higher" else -value), self._null.floor

    def _row(self, floor: float) -> tuple[Bounds, str | None]:
        """Which level and how many windows keep to alpha, given the least p-value there can be."""
        assert self.alpha is not None
        check, alpha = self._check, self.alpha
        if check.breaches is not None:
            needed, of = check.needed_windows, check.of_windows
            level = false_alarms.level(alpha, needed, of)
        elif (found := false_alarms.persistence(alpha, floor)) is not None:
            needed, of, level = found.needed, found.of, found.level
        else:
            needed, of, level = 1, 1, alpha
        bounds = Bounds(level, None, 0.0, True, needed, of, self.stride)
        if level < floor * (1 - 1e-9):
            return bounds, (
                f"{UNREACHABLE}: {needed} of {of} windows at {alpha:.3g} a slot ask for a p-value of {level:.3g}, and the "
                f"least there can be is {floor:.3g}; raise the budget, alpha, resamples or breaches, or check less often"
            )
        return bounds, None

    def _missing(self) -> str:
        if self.learned is not None and not self.learned.ok:
            return f"not_enough_data: {self.learned.reason}"
        if self.kind == "calibrated":
            return (
                f"not_evaluable: {self._check.detector} gives no p-value with these settings; give threshold.baseline, so that "
                "its windows tell what chance comes to"
            )
        return "not_enough_data: the baseline has not been read yet"

    def rate(self) -> Rate:
        """As set, and as the baseline's windows, which share no rows, would have fired."""
        nominal = self.alpha if self.kind == "calibrated" else None
        learned = self.learned
        if learned is None or not learned.ok:
            return Rate(nominal)
        if self.kind == "calibrated":
            if learned.p_values is None:
                return Rate(nominal)  # of windows that are their own null every share is as set
            bounds, numbers = self._row(learned.floor or 0.0)[0], learned.p_values
        elif self._bounds is not None:
            bounds, numbers = self._bounds, learned.values
        else:
            return Rate(nominal)
        beyond = [bounds.beyond(number, number, False) for number in numbers]
        rows = [beyond[i : i + bounds.of] for i in range(len(beyond) - bounds.of + 1)]
        if not rows:
            return Rate(nominal)
        hits = sum(row[-1] and sum(row) >= bounds.needed for row in rows)
        return Rate(nominal, hits / len(rows), *false_alarms.exact_interval(hits, len(rows)))


def enough(threshold: Threshold, values: Sequence[float]) -> str | None:
    """Why these are too few to learn from; None where they are not."""
    n = len(values)
    if n < threshold.min_windows:
        return f"{n} windows of the baseline gave a reading, min_windows is {threshold.min_windows}; take a longer one"
    if threshold.kind == "quantile":
        for name, outside in (("lower", threshold.lower), ("upper", threshold.upper and 1 - threshold.upper)):
            if outside is not None and n * outside < 1 - 1e-9:
                return (
                    f"{n} windows of the baseline gave a reading, {math.ceil(1 / outside - 1e-9)} are needed for the quantile "
                    f"{name}: {getattr(threshold, name)}; take a longer one, or kind: std"
                )
    return None


# --- the budget ----------------------------------------------------------------------------------------------------------


def alphas(config: Config) -> dict[str, float]:
    """How often a slot of each calibrated check may fire by chance. What checks with an alpha of their own may come to is taken
    off the budget first."""
    found: dict[str, float] = {}
    budgets = {model.name: model.false_alarms_per_month for model in config.models}
    shared: dict[str, dict[str, Stake]] = {}
    for check in config.checks:
        if check.threshold.kind != "calibrated":
            continue
        if check.threshold.alpha is not None:
            found[check.name] = check.threshold.alpha
        else:
            shared.setdefault(check.model, {})[check.name] = Stake(slots_per_month(check), check.threshold.weight)
    for model, stakes in shared.items():
        budget = budgets.get(model)
        if budget is not None:
            found |= false_alarms.alphas(max(budget - spent(config.checks, model), 1e-12), stakes)
    return found


def spent(checks: Sequence[Check], model: str) -> float:
    """False alarms a month of the calibrated checks of a model that have an alpha of their own."""
    own = [c for c in checks if c.model == model and c.threshold.kind == "calibrated" and c.threshold.alpha is not None]
    return sum((c.threshold.alpha or 0.0) * slots_per_month(c) for c in own)


def slots_per_month(check: Check) -> float:
    """Over all slices it may come to: the budget must not shrink as values of a field come up."""
    return MONTH_SECONDS / check.every * slices.most(check.slices)


def warnings(config: Config) -> list[str]:
    """What cannot be kept, or perhaps not, as far as it shows before any window was read."""
    found = []
    for name, alpha in alphas(config).items():
        i, check = next((i, c) for i, c in enumerate(config.checks) if c.name == name)
        least, why = _least_p_value(check)
        if least is None or alpha >= least:
            continue
        where = f"checks.{i}.threshold"
        row = false_alarms.persistence(alpha, least)
        if check.breaches is None and row is not None and row.needed > 1:
            found.append(
                f"{where}: {UNREACHABLE} by one window: alpha is {alpha:.3g} a slot, {why}; {row.needed} windows in a row at "
                f"{row.level:.3g} will be asked for where that is so"
            )
        elif check.breaches is None or false_alarms.level(alpha, check.needed_windows, check.of_windows) < least:
            found.append(
                f"{where}: {UNREACHABLE}: alpha is {alpha:.3g} a slot, {why}; raise models.{check.model}.false_alarms_per_month, "
                "alpha or resamples, or check less often"
            )
    return found


def _least_p_value(check: Check) -> tuple[float | None, str]:
    """The least p-value that is sure to be reached, as far as the settings tell."""
    settings: dict[str, Any] = check.settings.model_dump()
    if settings.get("policy") == "calibrated" or ("resamples" in settings and "policy" not in settings):
        least = 1 / (settings["resamples"] + 1)
        return least, f"and {settings['resamples']} resamples tell p-values down to {least:.3g}, or a hundredth where a tail fits"
    span = check.baseline
    if span is None:
        return None, ""
    windows = int((span[1] - span[0]).total_seconds() // check.window_seconds)
    least = 1 / (windows + 1)
    return least, f"and {windows} windows of the baseline tell p-values down to {least:.3g}, or a hundredth where a tail fits"
