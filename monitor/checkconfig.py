"""What the config file may say of a check: its reference, its threshold, its slices."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from detectors import registry
from detectors.contract import DetectorConfig
from monitor.seasons import WEEK_SECONDS
from monitor.section import Instant, Name, Seconds, SecondsOrZero, Section, Severity, Zone, differ_in_more_than_case


class Reference(Section):
    """What a window is compared with: one of a fixed range, a trailing period, the same hours of earlier weeks, or a file."""

    start: Instant | None = None
    end: Instant | None = None
    trailing: Seconds | None = None
    seasonal: Seconds | None = Field(None, description="the same hours of so many weeks before")
    timezone: Zone = Field("UTC", description="whose clock says what the same hour is")
    file: Path | None = None

    @property
    def reach(self) -> int:
        """How long before a window its reference may change it, in seconds; 0 where it stays as it is."""
        return self.trailing or self.seasonal or 0

    @field_validator("seasonal")
    @classmethod
    def _whole_weeks(cls, value: int | None) -> int | None:
        if value is not None and value % WEEK_SECONDS:
            raise ValueError(f"{value} s are no whole weeks; give 1w, 4w and so on")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Reference:
        ways = [
            self.start is not None or self.end is not None,
            *(w is not None for w in (self.trailing, self.seasonal, self.file)),
        ]
        if sum(ways) != 1:
            raise ValueError("give exactly one of start and end, trailing, seasonal, or file")
        if self.timezone != "UTC" and self.seasonal is None:
            raise ValueError(f"timezone ({self.timezone}) belongs to seasonal; the others have no hours of the day")
        if ways[0] and (self.start is None or self.end is None or self.start >= self.end):
            raise ValueError("start and end must both be given, start before end")
        return self


class Baseline(Section):
    """A time that was good: its whole windows tell what the check reads then."""

    start: Instant
    end: Instant

    @model_validator(mode="after")
    def _in_order(self) -> Baseline:
        if self.start >= self.end:
            raise ValueError(f"start ({self.start.isoformat()}) must be before end ({self.end.isoformat()})")
        return self


class Threshold(Section):
    """Fires when the value leaves [lower, upper]; resolves only when it is back inside by `margin`. `kind` says what lower and
    upper are: numbers, quantiles or standard deviations of the baseline's readings; or p-values are judged. See `thresholds`."""

    kind: Literal["constant", "quantile", "std", "calibrated"] = "constant"
    lower: float | None = Field(None, allow_inf_nan=False)
    upper: float | None = Field(None, allow_inf_nan=False)
    margin: float = Field(0.0, ge=0, allow_inf_nan=False)
    alpha: float | None = Field(None, gt=0, lt=0.5, description="calibrated: how often a slot may fire by chance")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="calibrated: of its slots, in the budget of the model")
    baseline: Baseline | None = Field(None, description="default: the check's reference, where that is a fixed range")
    min_windows: int = Field(10, ge=2, description="of the baseline, with a reading")

    @model_validator(mode="after")
    def _belongs_to_kind(self) -> Threshold:
        if self.kind == "calibrated":
            if self.lower is not None or self.upper is not None or self.margin:
                raise ValueError("kind calibrated judges p-values; leave lower, upper and margin out, give alpha or a budget")
            return self
        if self.alpha is not None or self.weight != 1:
            raise ValueError(f"alpha and weight belong to kind calibrated; kind is {self.kind}")
        if self.kind == "constant" and self.baseline is not None:
            raise ValueError("baseline belongs to the kinds quantile, std and calibrated; kind is constant")
        return self

    @model_validator(mode="after")
    def _a_bound(self) -> Threshold:
        if self.kind == "calibrated":
            return self
        if self.lower is None and self.upper is None:
            raise ValueError("give lower, upper or both")
        for name, value in (("lower", self.lower), ("upper", self.upper)):
            if value is not None and self.kind == "quantile" and not 0 < value < 1:
                raise ValueError(f"{name} ({value}) is a quantile: between 0 and 1")
            if value is not None and self.kind == "std" and value <= 0:
                raise ValueError(f"{name} ({value}) counts standard deviations from the mean: above 0")
        if self.kind == "std":
            return self
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower ({self.lower}) must be below upper ({self.upper})")
        if self.kind == "quantile":
            return self
        if self.lower is not None and self.upper is not None and 2 * self.margin >= self.upper - self.lower:
            raise ValueError(f"margin ({self.margin}) leaves nothing between lower ({self.lower}) and upper ({self.upper})")
        return self


SliceValue = str | float | bool


class SliceConfig(Section):
    """A part of the traffic: rows with these values, or one part for each value of a field."""

    name: Name | None = Field(None, description="of one by where; those by a field are called FIELD=VALUE")
    where: dict[str, SliceValue | tuple[SliceValue, ...]] = Field({}, description="field: a value, or a list of them")
    by: str | None = Field(None, min_length=1, description="or: a field, each of whose values is a slice")
    top: int = Field(10, ge=1, le=100, description="by: so many values; the others are __other__")

    @model_validator(mode="after")
    def _one_way(self) -> SliceConfig:
        if (self.by is None) == (not self.where):
            raise ValueError("give exactly one of where and by")
        if self.by is None and self.name is None:
            raise ValueError("give the slice a name")
        if self.by is not None and self.name is not None:
            raise ValueError(f"slices by a field are called FIELD=VALUE; leave the name ({self.name}) out")
        if self.name in ("all", "__other__"):
            raise ValueError(f"the name {self.name!r} is taken; choose another")
        if empty := [field for field, values in self.where.items() if values == ()]:
            raise ValueError(f"where.{empty[0]}: an empty list; give a value")
        return self


MOST_SLICES = 200


class Check(Section):
    """One detector on one model, with a schedule, a window and a threshold."""

    name: Name
    model: Name
    detector: str
    settings: SerializeAsAny[DetectorConfig] = Field(default_factory=DetectorConfig, validate_default=True)
    every: Seconds
    window: Seconds | None = Field(None, description="default: every, so windows tumble")
    lateness: SecondsOrZero = 0
    idle_timeout: Seconds = 300
    columns: dict[str, str] = Field({}, description="window detectors: what stands for a column that the detector reads")
    reference: Reference | None = None
    threshold: Threshold
    min_records: int = Field(30, ge=1)
    flag: float | None = Field(
        None, allow_inf_nan=False, description="row detectors: at or beyond it a score is flagged; default: the detector's"
    )
    breaches: int | None = Field(
        None, ge=1, description="windows beyond the threshold before it fires; default: 1, or what a calibrated one needs"
    )
    of: int | None = Field(None, ge=1, le=50, description="so many of the last windows; default: breaches, so all in a row")
    clear: int = Field(1, ge=1, description="windows in a row back inside before it resolves")
    gone: int = Field(12, ge=1, description="windows in a row without a row of a slice before its incident is closed")
    severity: Severity = "warning"
    owner: str = Field("", max_length=128, description="default: the model's")
    slices: tuple[SliceConfig, ...] = Field((), description="parts of the traffic that are read beside the whole")

    @property
    def window_seconds(self) -> int:
        return self.window or self.every

    @property
    def needed_windows(self) -> int:
        return self.breaches or 1

    @property
    def of_windows(self) -> int:
        return self.of or self.needed_windows

    @property
    def baseline(self) -> tuple[datetime, datetime] | None:
        """Where the threshold learns, if it does and that is known."""
        if self.threshold.kind == "constant":
            return None
        if (given := self.threshold.baseline) is not None:
            return given.start, given.end
        if self.reference is not None and self.reference.start is not None and self.reference.end is not None:
            return self.reference.start, self.reference.end
        return None

    @field_validator("slices")
    @classmethod
    def _slices_differ(cls, value: tuple[SliceConfig, ...]) -> tuple[SliceConfig, ...]:
        differ_in_more_than_case([one.name for one in value if one.name is not None])
        by = [one.by for one in value if one.by is not None]
        if twice := sorted({field for field in by if by.count(field) > 1}):
            raise ValueError(f"{twice[0]!r} is sliced by twice; keep one of them")
        if (count := sum(1 if one.by is None else one.top + 1 for one in value)) > MOST_SLICES:
            raise ValueError(f"{count} slices; at most {MOST_SLICES}, lower top")
        return value

    @model_validator(mode="after")
    def _windows_suffice(self) -> Check:
        if self.of is not None and self.of < self.needed_windows:
            raise ValueError(f"of ({self.of}) must not be below breaches ({self.needed_windows})")
        if self.of is not None and self.breaches is None:
            raise ValueError(f"of ({self.of}) needs breaches: how many of these windows")
        if (span := self.baseline) is not None and (span[1] - span[0]).total_seconds() < 2 * self.window_seconds:
            raise ValueError(
                f"the threshold learns from {span[0].isoformat()} to {span[1].isoformat()}, which has no two windows of "
                f"{self.window_seconds} s; take a longer baseline"
            )
        if self.threshold.kind in ("quantile", "std") and span is None:
            raise ValueError(
                f"threshold of kind {self.threshold.kind} learns from the windows of a fixed range; give threshold.baseline with "
                "start and end, or a reference that has them"
            )
        return self

    @field_validator("detector")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            registry.load(name)
        except registry.UnknownDetector as exc:
            raise ValueError(str(exc)) from exc
        return name

    @field_validator("settings", mode="before")
    @classmethod
    def _settings_belong_to_detector(cls, raw: Any, info: ValidationInfo) -> Any:
        name = info.data.get("detector")
        if name is None:
            return DetectorConfig()  # the unknown detector has been reported already
        return registry.load(name).Config.model_validate(raw if not isinstance(raw, DetectorConfig) else raw.model_dump())

    @model_validator(mode="after")
    def _weeks_apart(self) -> Check:
        if self.reference is not None and self.reference.seasonal is not None and self.window_seconds > WEEK_SECONDS:
            raise ValueError(f"a window of {self.window_seconds} s overlaps the same hours of the week before; at most 1w")
        return self

    @model_validator(mode="after")
    def _reference_where_needed(self) -> Check:
        detector = registry.load(self.detector)
        needs = getattr(detector, "reference", "required") if registry.is_window(detector) else "none"
        if needs == "required" and self.reference is None:
            raise ValueError(f"detector {self.detector} compares with a reference; give reference")
        if needs == "none" and self.reference is not None:
            raise ValueError(f"detector {self.detector} uses no reference; leave reference out")
        if registry.is_window(detector) and self.flag is not None:
            raise ValueError(f"flag belongs to row detectors; {self.detector} gives one reading per window")
        return self

    @model_validator(mode="after")
    def _can_be_made(self) -> Check:
        detector = registry.load(self.detector)
        if registry.is_window(detector):  # a row detector is made where it runs, and may take long
            try:
                detector(self.settings)  # type: ignore[call-arg]
            except Exception as exc:  # whatever a plug-in does; better here than in the middle of a reload
                raise ValueError(f"detector {self.detector} cannot be made of these settings: {exc}") from exc
        return self
