"""Score drift: has any one column of numbers moved, such as a score that the application sends with its predictions?"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from detectors.columnconfig import ColumnConfig
from detectors.contract import NotEvaluable, Reading, Window, Worse
from detectors.sides import of_columns
from detectors.univariate import Columns, reading_of


class ScoreDrift:
    """Whether one column of numbers is distributed otherwise than in the reference.

    Reads:  the column of the setting `column`.
    Gives:  as `data_drift`, with one part; of a feature likewise from summaries, where windows have them.
    Raises: NotEnoughData, NotEvaluable: as `data_drift`.
    """

    name: ClassVar[str] = "score_drift"
    version: ClassVar[str] = "1"
    inputs: frozenset[str] = frozenset({"features"})
    worse: Worse = "higher"
    summaries: bool = False
    column_by_column: bool = False

    class Config(ColumnConfig):
        column: str = Field(min_length=1, description="a feature, or prediction, probability, label")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.inputs = frozenset({config.column})
        self.worse = config.worse
        self.summaries = config.by_counts
        self.column_by_column = config.policy == "evidently"
        self._columns = Columns(config)

    def compare(self, reference: Window | None, current: Window) -> Reading:
        if reference is None:
            raise NotEvaluable("no_reference", "score_drift compares with one")
        kinds = of_columns(reference, current, "number")
        found = self._columns.compare(self.name, [self.config.column], kinds, reference, current)
        return reading_of(found, self.config, reference, current)
