"""Why an incident opened: which features and which parts of the traffic account for the change of its window.

Asked after the incident is stored and shown, since it takes seconds: nobody is woken later for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from detectors import registry, why
from detectors.contract import ColumnKind, FloatArray, NotEnoughData, NotEvaluable, Window, WindowDetector
from monitor.config import Check, ModelConfig
from monitor.reader import Reader
from monitor.readings import Meter, Rows
from monitor.slices import Slice
from monitor.traffic import Make, Traffic
from monitor.windows import TableWindow


@dataclass(frozen=True, slots=True)
class Needs:
    """Stands in for a detector where rows are asked for: what is to be read."""

    inputs: frozenset[str]
    every_call: bool = False


class Reasons:
    """Of one check. What is compared is what the check compares; without a reference, its baseline or the window before."""

    def __init__(self, check: Check, model: ModelConfig, make: Make, meter: Meter | None = None) -> None:
        """`meter`: the check's own, which has a sample where there are many rows."""
        self._check = check
        self._model = model
        self._meter = meter
        detector = registry.load(check.detector)
        inputs = frozenset(detector.inputs) if registry.is_row(detector) else _inputs(detector, check)
        self._loss = _loss(detector, inputs, check)
        # Where the check itself reads all features, what it reads is what it was about, and of many rows it has a sample.
        self._own_rows = self._loss[2] is None and "features" in inputs and not registry.is_row(detector) and not check.columns
        wanted = {"features", *self._loss[1]}
        self._traffic: Traffic | None
        try:
            self._traffic = make(check, cast(WindowDetector, Needs(frozenset(wanted))))
        except ValueError:  # rows of this model have not what it would take
            self._traffic = None

    def of(self, reader: Reader, slot: datetime, part: Slice, features: Mapping[str, ColumnKind]) -> dict[str, Any] | None:
        """For the window that ends at `slot`; None where nothing can be said.

        Raises:
            ChildFailed, duckdb.Error: the rows are away.
        """
        if self._traffic is None:
            return None
        if (declared := self._model.features) is not None:
            features = {f: k for f, k in features.items() if f in declared}
        start = slot - timedelta(seconds=self._check.window_seconds)
        name, _, loss = self._loss
        try:
            with reader.whole():
                reference, current = self._sides(reader, start, slot, part, features)
            if loss is None:
                return why.drift(reference, current).to_dict()
            return why.worse(reference, current, (loss(reference), loss(current)), name=name).to_dict()
        except (NotEnoughData, NotEvaluable):
            return None

    def _sides(
        self, reader: Reader, start: datetime, slot: datetime, part: Slice, features: Mapping[str, ColumnKind]
    ) -> tuple[TableWindow, TableWindow]:
        """The rows to be compared: the reference's, and the window's."""
        assert self._traffic is not None
        if self._own_rows and self._meter is not None:
            look = self._meter.look(reader, slot, features)
            if isinstance(look, Rows):
                before, now = look.sides(part)
                if before is not None:
                    return before, now
        current = self._part(self._traffic.between(reader, start, slot, features), part)
        return self._part(self._before(reader, start, features), part), current

    def _part(self, window: TableWindow, part: Slice) -> TableWindow:
        assert self._traffic is not None
        found = part.of(window).without(self._traffic.added)
        # What the loss is made of is no feature, and neither is what says who or when.
        return TableWindow(found.table, {f: k for f, k in found.features.items() if f not in self._loss[1]})

    def _before(self, reader: Reader, start: datetime, features: Mapping[str, ColumnKind]) -> TableWindow:
        assert self._traffic is not None
        reference, baseline = self._check.reference, self._check.baseline
        if reference is not None and reference.file is not None:
            return self._traffic.from_file(reader, reference.file, features)
        if reference is not None and reference.start is not None and reference.end is not None:
            return self._traffic.between(reader, reference.start, reference.end, features)
        if reference is not None and reference.trailing is not None:
            return self._traffic.between(reader, start - timedelta(seconds=reference.trailing), start, features)
        if baseline is not None:
            return self._traffic.between(reader, *baseline, features)
        return self._traffic.between(reader, start - timedelta(seconds=self._check.window_seconds), start, features)


def _inputs(detector: Any, check: Check) -> frozenset[str]:
    return frozenset(detector(check.settings).inputs)


def _loss(detector: Any, inputs: frozenset[str], check: Check) -> tuple[str, tuple[str, ...], Any]:
    """What changed, of which columns it is made, and how; None for how where the distribution is what changed."""
    if registry.is_row(detector):
        column = f"flagged.{check.name}"
        return "flagged", (column,), lambda window: _numbers(window, column)
    if detector.name == "performance_estimate":
        if check.settings.task == "binary":  # type: ignore[attr-defined]
            return "expected_error", ("probability",), why.expected_errors_of
        return "drift", (), None  # it moves with the features alone, and labels have not come yet
    if {"label", "prediction"} <= inputs:
        regression = getattr(check.settings, "task", "regression") == "regression"
        return "error", ("label", "prediction"), lambda window: why.errors_of(window, regression=regression)
    return "drift", (), None


def _numbers(window: Window, column: str) -> FloatArray:
    return window.numbers(column)
