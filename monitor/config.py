"""What the config file may say: declared once, with every bound on its field. `configfile` reads it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from detectors import embedding, registry
from detectors.contract import ColumnKind, DetectorConfig
from detectors.judging.endpoint import EndpointConfig
from monitor import crosschecks
from monitor.fields import MAX_FEATURE_NAME, columnable
from monitor.seasons import WEEK_SECONDS

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"


def _duration(raw: Any) -> Any:
    """`90`, `"90s"`, `"15m"`, `"2h"`, `"7d"`, `"1w"` as whole seconds."""
    if isinstance(raw, str):
        match = re.fullmatch(r"\s*(\d+)\s*([smhdw])\s*", raw)
        if not match:
            raise ValueError(f"{raw!r} is not a duration; write it like 30s, 15m, 2h, 7d or 1w")
        return int(match[1]) * int(UNITS[match[2]])
    return raw


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no time zone; end it with Z or an offset")
    return value.astimezone(UTC)


Seconds = Annotated[int, BeforeValidator(_duration), Field(ge=1)]
SecondsOrZero = Annotated[int, BeforeValidator(_duration), Field(ge=0)]
Instant = Annotated[datetime, AfterValidator(_aware)]
Name = Annotated[str, Field(pattern=NAME)]
Severity = Literal["critical", "warning", "info"]


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(f"no time zone {value!r}; give a name such as UTC or Europe/Berlin") from exc
    return value


Zone = Annotated[str, AfterValidator(_zone)]


def _differ_in_more_than_case(names: Iterable[str]) -> None:
    """Names become those of files, tables and columns, where case does not count."""
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.lower(), name)) is not name:
            raise ValueError(f"the name {name!r} is taken by {other!r}; names must differ in more than case")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(Section):
    cert_file: Path
    key_file: Path


class Listener(Section):
    """An address to bind. Anything but a loopback address needs TLS and tokens, or the word `insecure: true`."""

    listen: str = Field(pattern=r"^.+:\d{1,5}$")
    tls: Tls | None = None
    insecure: bool = False

    @field_validator("listen")
    @classmethod
    def _port(cls, value: str) -> str:
        if (port := int(value.rpartition(":")[2])) > 65535:
            raise ValueError(f"port {port} is above 65535")
        return value

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def public(self) -> bool:
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True  # a name: where it points is not ours to know

    def unguarded(self, tokens_file: Path | None) -> bool:
        return self.public and not self.insecure and (self.tls is None or tokens_file is None)


class Server(Listener):
    listen: str = Field("127.0.0.1:9710", pattern=r"^.+:\d{1,5}$")
    tokens_file: Path | None = None
    max_body_bytes: int = Field(20 * 2**20, ge=1024)
    max_text_bytes: int = Field(2 * 2**20, ge=1024)
    queue_records: int = Field(50_000, ge=1)
    queue_bytes: int = Field(256 * 2**20, ge=1024)
    bodies_bytes: int = Field(128 * 2**20, ge=1024)
    read_timeout_seconds: Seconds = 30
    intake_processes: int | None = Field(None, ge=0, le=64, description="default: by the processors there are")

    @model_validator(mode="after")
    def _guarded(self) -> Server:
        if self.unguarded(self.tokens_file):
            raise ValueError(
                f"{self.listen} is reachable from outside without tls and tokens_file; "
                "set both, listen on 127.0.0.1, or say insecure: true"
            )
        return self


class OtlpHttp(Listener):
    listen: str = Field("127.0.0.1:4318", pattern=r"^.+:\d{1,5}$")


class OtlpGrpc(Listener):
    listen: str = Field("127.0.0.1:4317", pattern=r"^.+:\d{1,5}$")


def _off(raw: Any) -> Any:
    """YAML reads `off` as false."""
    return None if raw is False else raw


class Otlp(Section):
    """Spans and log records. Its listeners take the tokens of `server.tokens_file`."""

    http: Annotated[OtlpHttp | None, BeforeValidator(_off)] = OtlpHttp()
    grpc: Annotated[OtlpGrpc | None, BeforeValidator(_off)] = OtlpGrpc()
    max_body_bytes: int = Field(20 * 2**20, ge=1024)
    default_model: Name | None = Field(None, description="for spans that name no monitored model")

    @property
    def listeners(self) -> dict[str, Listener]:
        """Those that are on, by key."""
        found = {"otlp.http": self.http, "otlp.grpc": self.grpc}
        return {name: one for name, one in found.items() if one is not None}


class Metrics(Listener):
    listen: str = Field("127.0.0.1:9711", pattern=r"^.+:\d{1,5}$")
    max_series: int = Field(1000, ge=10, description="label sets per metric; what is beyond is counted, not exported")
    top_features: int = Field(20, ge=0)

    @model_validator(mode="after")
    def _guarded(self) -> Metrics:
        if self.public and not self.insecure:
            raise ValueError(f"{self.listen} is reachable from outside; listen on 127.0.0.1, or say insecure: true")
        return self


class StoreConfig(Section):
    path: Path = Path("modelwatch-data")
    memory_limit: str = Field("2GB", pattern=r"^\d+(\.\d+)?\s?(MB|GB|MiB|GiB)$")
    threads: int | None = Field(None, ge=1, description="default: by the processors there are")
    seal_seconds: Seconds = 60
    seal_rows: int = Field(50_000, ge=100)
    compact_after_seconds: Seconds = 300
    compact_bytes: int = Field(2**30, ge=2**20)
    tail_seconds: Seconds = 15
    min_free_bytes: int = Field(512 * 2**20, ge=0)
    checkpoint_bytes: int = Field(64 * 2**20, ge=2**16)


class EncoderConfig(embedding.EncoderConfig):
    """The settings of `detectors.embedding`, as a section of the file."""


class Scoring(Section):
    settle_seconds: SecondsOrZero = 30
    batch_records: int = Field(32, ge=1)
    attempts: int = Field(3, ge=1)
    timeout_seconds: Seconds = 300
    nice: int = Field(19, ge=0, le=19)


MaskKind = Literal["email", "phone", "card", "iban", "ssn", "ip", "key", "name"]
MaskAction = Literal["keep", "mask", "hash", "drop"]
FieldPath = Annotated[str, Field(pattern=r"^[^\s]+$", max_length=256)]


class MaskingOverride(Section):
    """What a model has of its own; what is left out is as for all."""

    kinds: tuple[MaskKind, ...] | None = None
    fields: dict[FieldPath, MaskAction] = Field({}, description="added to those for all; for the same path these count")
    content: Literal["keep", "none"] | None = None


class MaskingConfig(Section):
    """What becomes of personal data and secrets before anything is stored."""

    kinds: tuple[MaskKind, ...] = ("email", "phone", "card", "iban", "ssn", "key")
    fields: dict[FieldPath, MaskAction] = Field({}, description="path with * for anything; the one with the most letters wins")
    content: Literal["keep", "none"] = "keep"
    hash_key: SecretStr | None = Field(None, min_length=16, description="for the action hash; as ${env:NAME} or ${file:PATH}")


class PricesConfig(Section):
    file: Path | None = Field(None, description="what LLMs cost; default: the table that comes along")


class JudgeBudget(Section):
    """What the judge may be asked in a day, by the clock of `timezone`. Without a limit there is none."""

    calls_per_day: int | None = Field(None, ge=0)
    usd_per_day: float | None = Field(None, ge=0, allow_inf_nan=False)
    timezone: Zone = Field("UTC", description="whose midnight begins a day")


class JudgeConfig(EndpointConfig):
    """Whom the detector `judge` asks: the settings of `detectors.judging.endpoint`, and what may be spent."""

    budget: JudgeBudget = JudgeBudget()
    give_up_seconds: Seconds = Field(6 * 3600, description="so long a record waits for a judge that cannot be asked")


class ModelConfig(Section):
    name: Name
    task: Literal["regression", "binary", "multiclass", "multilabel", "ranking", "llm"]
    features: dict[str, ColumnKind] | None = Field(None, description="default: inferred from what comes")
    max_features: int = Field(500, ge=1)
    masking: MaskingOverride | None = None
    match: dict[str, str] = Field({}, description="attributes of spans and of their resource, by which they are this model's")
    false_alarms_per_month: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of all calibrated checks together, in 30 days"
    )

    @field_validator("features")
    @classmethod
    def _columns(cls, value: dict[str, ColumnKind] | None) -> dict[str, ColumnKind] | None:
        for name in value or ():
            if not columnable(name):
                raise ValueError(f"{name!r} cannot be a column; a feature's name is 1 to {MAX_FEATURE_NAME} printable characters")
        _differ_in_more_than_case(value or ())
        return value

    @model_validator(mode="after")
    def _spans_are_of_llms(self) -> ModelConfig:
        if self.match and self.task != "llm":
            raise ValueError(f"match belongs to models of task llm; {self.name} has task {self.task}")
        return self


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
    owner: str = ""
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
        _differ_in_more_than_case([one.name for one in value if one.name is not None])
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


class Service(Section):
    """An inference service whose payloads are logged, and how they are to be read."""

    service: str = Field(min_length=1)
    model: Name
    features: tuple[str, ...] = ()
    prediction: str | None = None
    probability: str | None = None


class CloudEvents(Section):
    """What the payload loggers of KServe and Seldon send. Without an entry a service is the model of its name."""

    pair_seconds: Seconds = 600
    services: tuple[Service, ...] = ()


class SourceConfig(Section):
    """What every source has. The rest belongs to its class, which `type` names: see monitor/sources."""

    type: str
    name: Name
    model: Name | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_type(cls, raw: Any, handler: ModelWrapValidatorHandler[SourceConfig]) -> SourceConfig:
        if cls is not SourceConfig or not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
            return handler(raw)
        from monitor.sources import registry  # which imports sources, which import this

        try:
            found = registry.load(raw["type"])
        except registry.UnknownSource as exc:
            problem = PydanticCustomError("source", "{what}", {"what": str(exc)})
            raise ValidationError.from_exception_data(
                "source", [{"type": problem, "loc": ("type",), "input": raw["type"]}]
            ) from exc
        return found.Config.model_validate(raw)

    def models(self) -> Iterator[tuple[str, str]]:
        """The monitored models it names, each with the path of the key."""
        if self.model is not None:
            yield "model", self.model

    def anchored(self, folder: Path) -> SourceConfig:
        """With relative paths taken from `folder`."""
        return self.model_copy(update={name: folder / value for name, value in self if isinstance(value, Path)})


class Config(Section):
    store: StoreConfig = StoreConfig()
    server: Server = Server()
    otlp: Otlp = Otlp()
    metrics: Metrics = Metrics()
    encoder: EncoderConfig = EncoderConfig()
    scoring: Scoring = Scoring()
    masking: MaskingConfig = MaskingConfig()
    prices: PricesConfig = PricesConfig()
    judge: JudgeConfig | None = None
    models: tuple[ModelConfig, ...] = ()
    checks: tuple[Check, ...] = ()
    sources: tuple[SourceConfig, ...] = ()
    cloudevents: CloudEvents = CloudEvents()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("checks", mode="before")
    @classmethod
    def _tasks_of_models(cls, raw: Any, info: ValidationInfo) -> Any:
        """A detector that asks for the task is told that of the model, unless its settings name one."""
        tasks = {model.name: model.task for model in info.data.get("models", ())}
        return [_with_task(check, tasks) for check in raw] if isinstance(raw, (list, tuple)) else raw

    @field_validator("checks", mode="before")
    @classmethod
    def _llm_of_the_judge(cls, raw: Any, info: ValidationInfo) -> Any:
        """A judge is told the LLM of the endpoint, unless its settings name one: scores of another LLM are other scores."""
        judge: JudgeConfig | None = info.data.get("judge")
        if judge is None or not isinstance(raw, (list, tuple)):
            return raw
        return [_with_llm(check, judge.model) for check in raw]

    @field_validator("models", "checks", "sources")
    @classmethod
    def _names_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        _differ_in_more_than_case([item.name for item in value])
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if wrong := [*crosschecks.problems(crosschecks.Sound.of(self))]:
            raise ValueError("\n".join(wrong))
        return self


def _with_task(check: Any, tasks: Mapping[str, str]) -> Any:
    if not isinstance(check, dict) or not isinstance(check.get("detector"), str) or not isinstance(check.get("model"), str):
        return check
    settings, task = check.get("settings", {}), tasks.get(check["model"])
    if not isinstance(settings, dict) or "task" in settings:
        return check
    return {**check, "settings": {**settings, "task": task}} if task in asked_tasks(check["detector"]) else check


def _with_llm(check: Any, llm_model: str) -> Any:
    if isinstance(check, Check):
        check = check.model_dump()
    if not isinstance(check, dict) or check.get("detector") != "judge":
        return check
    settings = check.get("settings", {})
    if not isinstance(settings, dict) or settings.get("llm_model") is not None:
        return check
    return {**check, "settings": {**settings, "llm_model": llm_model}}


def asked_tasks(detector: str) -> frozenset[str]:
    """The tasks that a detector knows, where it has to be told one; else none."""
    try:
        field = registry.load(detector).Config.model_fields.get("task")
    except registry.UnknownDetector:
        return frozenset()
    # One that may be left out says something else by it.
    return frozenset() if field is None or field.default is None else frozenset(get_args(field.annotation))
