"""Label drift: has the truth itself moved? Of the labels that have come."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from detectors.columnconfig import ColumnConfig
from detectors.contract import NotEvaluable, Reading, Window, Worse
from detectors.sides import of_columns
from detectors.univariate import Columns, reading_of


class LabelDrift:
    """Whether labels are distributed otherwise than in the reference.

    Reads:  label, numbers or classes. Rows without one are left out; those whose labels come late may differ from the others,
            so `label_coverage` stands in `metrics`.
    Gives:  as `data_drift`, with one part.
    Raises: NotEnoughData, NotEvaluable: as `data_drift`; no_labels, where a window has no such column.
    """

    name: ClassVar[str] = "label_drift"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"label"})
    worse: Worse = "higher"
    column_by_column: bool = False

    class Config(ColumnConfig):
        kind: Literal["auto", "number", "category"] = Field("auto", description="of the label; auto: a number where all are")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = config.worse
        self.column_by_column = config.policy == "evidently"
        self._columns = Columns(config)

    def compare(self, reference: Window | None, current: Window) -> Reading:
        if reference is None:
            raise NotEvaluable("no_reference", "label_drift compares with one")
        if not (reference.has("label") and current.has("label")):
            raise NotEvaluable("no_labels", "a window has no column label")
        kinds = of_columns(reference, current, self.config.kind)
        found = self._columns.compare(self.name, ["label"], kinds, reference, current)
        there = current.categories("label").codes >= 0
        return reading_of(found, self.config, reference, current, label_coverage=float(np.mean(there)))
