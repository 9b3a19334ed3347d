"""Settings of every detector that compares column by column."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from detectors.contract import DetectorConfig, Worse
from detectors.stattests import STATTESTS
from detectors.text_drift import TEXT_TESTS

MethodName = Literal[
    "ks", "t_test", "mannw", "mannw_two_sided", "es", "anderson", "cramer_von_mises", "empirical_mmd", "wasserstein", "ed",
    "psi", "jensenshannon", "kl_div", "hellinger",
    "z", "chisquare", "chisquare_independence", "g_test", "g_independence", "fisher_exact", "TVD",
    "perc_text_content_drift", "abs_text_content_drift",
]  # fmt: skip
Policy = Literal["calibrated", "evidently"]


class ColumnConfig(DetectorConfig):
    """What is compared how, and when it counts as drift."""

    policy: Policy = Field("calibrated", description="how it is decided that a column drifted")
    method: Literal["auto"] | MethodName = Field("auto", description="for every column that `methods` does not name")
    methods: dict[str, MethodName] = Field(default_factory=dict, description="by column")
    feature_threshold: float | None = Field(
        None, gt=0, description="evidently: threshold of `method`, none: its own; calibrated: smallest value that counts as drift"
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="calibrated: false discoveries among the columns flagged")
    resamples: int = Field(1000, ge=100, description="calibrated: splits of the reference")
    block_rows: int | None = Field(None, ge=1, description="calibrated: rows drawn together; none: by their autocorrelation")
    min_rows: int | None = Field(None, ge=2, description="on either side, and of values; none: 100, or 2 under evidently")
    max_distinct_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="a category with more distinct values a value is none; none: 0.5, or 1 under evidently",
    )

    reading: Literal["share", "value", "p_value"] = Field(
        "share", description="share of the columns that drifted; value of the first part; p-value of the window, calibrated only"
    )

    @model_validator(mode="after")
    def _reading_belongs_to_policy(self) -> ColumnConfig:
        if self.reading == "p_value" and self.policy != "calibrated":
            raise ValueError("reading p_value needs policy calibrated: Evidently has no p-value of a window")
        return self

    @model_validator(mode="after")
    def _threshold_belongs_to_a_method(self) -> ColumnConfig:
        if self.feature_threshold is not None:
            if self.method == "auto":
                raise ValueError(
                    f"feature_threshold ({self.feature_threshold}) would be a p-value for some columns and a distance for others "
                    "under method auto; name a method"
                )
            of_p_values = self.method in STATTESTS and STATTESTS[self.method].judges == "p_value"
            if self.policy == "evidently" and of_p_values and self.feature_threshold >= 1:
                raise ValueError(f"feature_threshold ({self.feature_threshold}) is a p-value for {self.method}: below 1")
        return self

    @property
    def worse(self) -> Worse:
        return "lower" if self.reading == "p_value" else "higher"

    @property
    def by_counts(self) -> bool:
        """What is compared needs no rows, but of texts."""
        return self.policy == "calibrated" and not {self.method, *self.methods.values()} & TEXT_TESTS.keys()

    @property
    def fewest(self) -> int:
        return self.min_rows if self.min_rows is not None else 100 if self.policy == "calibrated" else 2

    @property
    def most_distinct(self) -> float:
        return self.max_distinct_share if self.max_distinct_share is not None else 0.5 if self.policy == "calibrated" else 1.0
