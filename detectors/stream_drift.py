"""Stream drift: at which row did it change? For who wants to know within minutes, on one column or on the errors of the model.

ADWIN: Bifet and Gavalda, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007. Page-Hinkley: Page, "Continuous
Inspection Schemes", Biometrika 41 (1954). KSWIN: Raab, Heusinger and Schleif, "Reactive Soft Prototype Computing for Concept
Drift Streams", Neurocomputing 416 (2020). All three are river's (https://riverml.xyz), an optional extra.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from detectors.contract import DetectorConfig, FloatArray, NotEnoughData, NotEvaluable, Part, Reading, Window, Worse
from detectors.labelled import LARGEST, Classes

Method = Literal["adwin", "page_hinkley", "kswin"]

ERROR, ABSOLUTE_ERROR = "error", "absolute_error"

MOST_PARTS = 20


class Changes(Protocol):
    """What river's detectors have in common."""

    drift_detected: bool

    def update(self, x: float) -> Any: ...


class StreamDrift:
    """How many changes a streaming detector finds in a window, value by value, in the order of time.

    Reads:  the column of the setting `column`; of `error` and `absolute_error` prediction and label. Missing and infinite values
            are left out.
    Gives:  `changes`, 0 or more: each time the detector says that the values before and those after differ, after which it begins
            anew. The detector is first fed the end of the reference, where there is one, so it knows what is usual; changes in
            there are `metrics["reference_changes"]`. `first_change_row` and `last_change_row` count the rows of the window from
            0, and say when it was noticed, which is later than when it happened. Of each change a part has the mean of the values
            since, less that before, in the column's own unit.
    Costs:  a value 0.2 us with adwin, 0.5 with page_hinkley, 300 with kswin, which is fed `kswin_window_rows` of the reference.
    Raises: NotEnoughData, with fewer than `min_rows` values in the window, or in the reference where there is one.
            NotEvaluable: not_installed (river); missing_column, not_numeric; no_labels.

    Nothing is remembered from one window to the next: equal reference and window give an equal reading, also in a replay.
    """

    name: ClassVar[str] = "stream_drift"
    version: ClassVar[str] = "1"
    inputs: frozenset[str] = frozenset({"features"})
    reference: ClassVar[str] = "optional"
    worse: Worse = "higher"

    class Config(DetectorConfig):
        column: str = Field(min_length=1, description="a feature, prediction, probability, label; error or absolute_error")
        method: Method = Field("adwin", description="adwin, page_hinkley or kswin")
        scale: Literal["reference", "none"] = Field("reference", description="unit of the values that are fed")
        min_rows: int = Field(30, ge=2, description="values in the window, and in the reference where there is one")
        warmup_rows: int = Field(10_000, ge=0, description="values of the reference that are fed first, the last ones")
        adwin_delta: float = Field(0.002, gt=0, lt=1, description="adwin: probability of a false change, at each look")
        page_hinkley_delta: float = Field(0.1, ge=0, description="page_hinkley: a move of the mean that is tolerated")
        page_hinkley_threshold: float = Field(50.0, gt=0, description="page_hinkley: sum of what is beyond that")
        page_hinkley_direction: Literal["both", "up", "down"] = Field("both", description="page_hinkley: of the moves that count")
        kswin_alpha: float = Field(1e-5, gt=0, lt=1, description="kswin: p-value of a change, at each row")
        kswin_window_rows: int = Field(300, ge=20, description="kswin: values that are remembered")
        kswin_stat_rows: int = Field(100, ge=10, description="kswin: of these so many, the last ones, against as many others")
        seed: int = Field(0, ge=0, description="kswin: of the others that are drawn")

        @model_validator(mode="after")
        def _windows_fit(self) -> StreamDrift.Config:
            if 2 * self.kswin_stat_rows > self.kswin_window_rows:
                sizes = f"kswin_stat_rows ({self.kswin_stat_rows}) may be at most half of kswin_window_rows"
                raise ValueError(f"{sizes} ({self.kswin_window_rows})")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self.inputs = frozenset({"prediction", "label"} if config.column in (ERROR, ABSOLUTE_ERROR) else {config.column})

    def compare(self, reference: Window | None, current: Window) -> Reading:
        c = self.config
        found, rows = _known(self._values(current))
        if len(found) < c.min_rows:
            raise NotEnoughData(f"stream_drift: {len(found)} values in the window, min_rows is {c.min_rows}")
        before = np.zeros(0)
        if reference is not None:
            before, _ = _known(self._values(reference))
            if len(before) < c.min_rows:
                raise NotEnoughData(f"stream_drift: {len(before)} values in the reference, min_rows is {c.min_rows}")
        start, unit = self._scaling(before) if len(before) else (0.0, 1.0)
        detector = self._detector()
        last = c.kswin_window_rows if c.method == "kswin" else c.warmup_rows
        warm_up = before[max(len(before) - min(last, c.warmup_rows), 0) :]
        with np.errstate(over="ignore"):
            earlier = changes(detector, (warm_up - start) / unit)
            places = changes(detector, (found - start) / unit)
        return self._reading(found, rows, places, before, len(earlier))

    def _reading(self, found: FloatArray, rows: FloatArray, places: list[int], before: FloatArray, earlier: int) -> Reading:
        metrics: dict[str, float] = {"reference_changes": float(earlier), "missing_rows": float(rows[-1] + 1 - len(found))}
        if places:
            metrics |= {"first_change_row": float(rows[places[0]]), "last_change_row": float(rows[places[-1]])}
            metrics["values_since_change"] = float(len(found) - 1 - places[-1])
        parts = []
        borders = [0, *(place + 1 for place in places), len(found)]
        for i, place in enumerate(places[:MOST_PARTS]):
            earlier_values = found[borders[i] : borders[i + 1]]
            if i == 0 and len(before):
                earlier_values = before
            # The values that made the detector notice are counted to those before: only it knows where the change began.
            later = found[borders[i + 1] : borders[i + 2]]
            moved = float(later.mean() - earlier_values.mean()) if len(later) else 0.0
            part = Part(f"row {int(rows[place])}", self.config.method, value=moved, flagged=True)
            parts.append(replace(part, n_reference=len(before), n_current=len(later)))
        return Reading(
            float(len(places)), "changes", n_current=len(found), n_reference=len(before), parts=tuple(parts), metrics=metrics
        )

    def _values(self, window: Window) -> FloatArray:
        """(rows,), NaN where there is none."""
        column = self.config.column
        if column not in (ERROR, ABSOLUTE_ERROR):
            return window.numbers(column)
        if not window.has("label"):
            raise NotEvaluable("no_labels", f"{column} needs the column label")
        if column == ABSOLUTE_ERROR:
            with np.errstate(over="ignore", invalid="ignore"):
                return np.abs(window.numbers("prediction") - window.numbers("label"))
        predictions, labels = Classes(window.categories("prediction")), Classes(window.categories("label"))
        classes = sorted(predictions.every() | labels.every())
        wrong = (predictions.index(classes) != labels.index(classes)).astype(np.float64)
        return np.where(predictions.usable & labels.usable, wrong, np.nan)

    def _scaling(self, before: FloatArray) -> tuple[float, float]:
        """What is 0 and what is 1: for adwin, whose bound is for values from 0 to 1, the range of the reference; for the others
        its mean and standard deviation. Errors of classes are 0 and 1 already."""
        if self.config.scale == "none" or (self.config.method == "adwin" and self.config.column == ERROR):
            return 0.0, 1.0
        if self.config.method == "adwin":
            start, unit = float(before.min()), float(before.max() - before.min())
        else:
            start, unit = float(before.mean()), float(before.std())
        return (start, unit) if unit > 0 else (start, 1.0)

    def _detector(self) -> Changes:
        c = self.config
        try:
            drift: Any = import_module("river.drift")  # which takes seconds
        except ImportError as exc:
            raise NotEvaluable("not_installed", 'stream_drift needs river: pip install "modelwatch[streaming]"') from exc
        made: dict[Method, Callable[[], Changes]] = {
            "adwin": lambda: drift.ADWIN(delta=c.adwin_delta),
            "page_hinkley": lambda: drift.PageHinkley(
                delta=c.page_hinkley_delta, threshold=c.page_hinkley_threshold, mode=c.page_hinkley_direction
            ),
            "kswin": lambda: drift.KSWIN(
                alpha=c.kswin_alpha, window_size=c.kswin_window_rows, stat_size=c.kswin_stat_rows, seed=c.seed
            ),
        }
        return made[c.method]()


def _known(values: FloatArray) -> tuple[FloatArray, Any]:
    """The values that are there, and which rows those are. Beyond `LARGEST` a value counts as infinite: its square would be."""
    rows = np.flatnonzero(np.abs(values) <= LARGEST)
    return values[rows], rows


def changes(detector: Changes, values: FloatArray) -> list[int]:
    """After which of the values, fed one by one, the detector says that they have changed."""
    found = []
    for i, value in enumerate(values.tolist()):
        detector.update(value)
        if detector.drift_detected:
            found.append(i)
    return found
