"""Prediction drift: does the model answer otherwise than it did? It needs no labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from detectors.columnconfig import ColumnConfig
from detectors.contract import NotEvaluable, Reading, Window, Worse
from detectors.sides import of_columns
from detectors.univariate import Columns, reading_of


class PredictionDrift:
    """Whether predictions and their probabilities are distributed otherwise than in the reference.

    Reads:  prediction (numbers, or classes under names), and probability, where both windows have it.
    Gives:  as `data_drift`, with one part for each of the two.
    Raises: NotEnoughData, NotEvaluable: as `data_drift`; type_changed, where numbers became names.
    """

    name: ClassVar[str] = "prediction_drift"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"prediction", "probability"})
    worse: Worse = "higher"
    column_by_column: bool = False

    class Config(ColumnConfig):
        kind: Literal["auto", "number", "category"] = Field("auto", description="of the prediction; auto: a number where all are")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = config.worse
        self.column_by_column = config.policy == "evidently"
        self._columns = Columns(config)

    def compare(self, reference: Window | None, current: Window) -> Reading:
        if reference is None:
            raise NotEvaluable("no_reference", "prediction_drift compares with one")
        names = ["prediction", *(["probability"] if reference.has("probability") and current.has("probability") else [])]
        asked, other = of_columns(reference, current, self.config.kind), of_columns(reference, current, "number")
        found = self._columns.compare(
            self.name, names, lambda name: asked(name) if name == "prediction" else other(name), reference, current
        )
        return reading_of(found, self.config, reference, current)
