"""Data drift: which features are distributed otherwise than in the reference?

Each feature is compared alone (`detectors.univariate`); the reading is the share of features that drifted.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from detectors.columnconfig import ColumnConfig
from detectors.contract import NotEvaluable, Reading, Window, Worse
from detectors.sides import of_features
from detectors.univariate import Columns, reading_of


class DataDrift:
    """Share of the features whose distribution moved, between the reference and the current window.

    Reads:  features. Infinities and missing values are left out, on both sides.
    Gives:  `share_of_drifted_features`, 0..1, over the features that could be evaluated, or what `reading` names; `metrics`
            count them. One part for each feature, the strongest evidence first.

            Under `policy: calibrated` each part has a p-value: how often the reference is as far from windows of its own, of
            this size, drawn in blocks. Flagged are Benjamini and Hochberg's discoveries at `alpha`. `metrics` have the window's
            `p_value`, of the smallest of the features' p-values by the same draws, and `p_value_floor`, below which it cannot
            get. Values are over cells that the reference decides (`detectors.cells`).

            Under `policy: evidently` values, default choice, thresholds and bounds are those of Evidently 0.7.23, and
            `dataset_drift` in `metrics` is 1 from `drift_share` on. A part's `value` is then a distance or the size of the
            effect, and `judges` says whether value or p-value is compared with its threshold.
            From windows that have summaries (`contract.Summarised`) the same without their rows; a part's `basis` says so, and
            `detectors.summary` the error. A reference without rows is calibrated by its hours.
    Costs:  calibrated, of a reference and size of window not seen lately: resamples * window rows * features * 10 ns, the
            window counting as 10,000 rows at most. Else a sort of both columns for each number.
    Raises: NotEnoughData, when either side has fewer than `min_rows` rows, no feature has enough values, or the reference is
            too small to calibrate windows of this size.
            NotEvaluable, when there is no reference or no feature that can be evaluated.

    A feature that cannot be evaluated keeps its part, with outcome and reason, and does not touch the others: too few values
    (not_enough_data), no such column (missing_column), another kind than in the reference (type_changed), text in a column
    of numbers (not_numeric), one value only where a test needs two (constant), identifiers or free text in the reference, or a
    method that is not for this kind (wrong_type).
    """

    name: ClassVar[str] = "data_drift"
    version: ClassVar[str] = "2"
    inputs: ClassVar[frozenset[str]] = frozenset({"features"})
    worse: Worse = "higher"
    summaries: bool = False
    column_by_column: bool = False

    class Config(ColumnConfig):
        features: tuple[str, ...] | None = Field(None, min_length=1, description="none: all features of the model")
        drift_share: float = Field(0.5, gt=0, le=1, description="evidently: from this share on, `dataset_drift` is 1")

        @model_validator(mode="after")
        def _methods_belong_to_features(self) -> DataDrift.Config:
            if self.features is not None and (unknown := sorted(set(self.methods) - set(self.features))):
                raise ValueError(f"methods names {', '.join(unknown)}, which features leaves out")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = config.worse
        self.summaries = config.by_counts
        self.column_by_column = config.policy == "evidently"
        self._columns = Columns(config)

    def compare(self, reference: Window | None, current: Window) -> Reading:
        if reference is None:
            raise NotEvaluable("no_reference", "data_drift compares with one")
        names = self.config.features or tuple(dict.fromkeys((*reference.features, *current.features)))
        if not names:
            raise NotEvaluable("no_features")
        found = self._columns.compare("data_drift", names, of_features(reference, current), reference, current)
        if self.config.policy == "calibrated":
            return reading_of(found, self.config, reference, current)
        share = found.metrics["drifted_features"] / found.metrics["evaluated_features"]
        return reading_of(found, self.config, reference, current, dataset_drift=float(share >= self.config.drift_share))
