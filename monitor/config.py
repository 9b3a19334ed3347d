"""What the config file may say: declared once, with every bound on its field. `configfile` reads it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

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

from detectors import registry
from detectors.contract import ColumnKind, DetectorConfig
from monitor import crosschecks
from monitor.fields import MAX_FEATURE_NAME, columnable

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
    threads: int = Field(2, ge=1)
    seal_seconds: Seconds = 60
    seal_rows: int = Field(50_000, ge=100)
    compact_after_seconds: Seconds = 300
    compact_bytes: int = Field(2**30, ge=2**20)
    tail_seconds: Seconds = 15
    min_free_bytes: int = Field(512 * 2**20, ge=0)
    checkpoint_bytes: int = Field(64 * 2**20, ge=2**16)


class EncoderConfig(Section):
    path: Path | None = Field(None, description="a SentenceTransformer folder; default: the installed all-MiniLM-L6-v2")
    device: str = "auto"


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


class ModelConfig(Section):
    name: Name
    task: Literal["regression", "binary", "multiclass", "multilabel", "ranking", "llm"]
    features: dict[str, ColumnKind] | None = Field(None, description="default: inferred from what comes")
    max_features: int = Field(500, ge=1)
    masking: MaskingOverride | None = None
    match: dict[str, str] = Field({}, description="attributes of spans and of their resource, by which they are this model's")

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
    """What a window is compared with: one of a fixed range, a trailing period, or a file."""

    start: Instant | None = None
    end: Instant | None = None
    trailing: Seconds | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Reference:
        ways = [self.start is not None or self.end is not None, self.trailing is not None, self.file is not None]
        if sum(ways) != 1:
            raise ValueError("give exactly one of start and end, trailing, or file")
        if ways[0] and (self.start is None or self.end is None or self.start >= self.end):
            raise ValueError("start and end must both be given, start before end")
        return self


class Threshold(Section):
    """Fires when the value leaves [lower, upper]; resolves only when it is back inside by `margin`."""

    lower: float | None = Field(None, allow_inf_nan=False)
    upper: float | None = Field(None, allow_inf_nan=False)
    margin: float = Field(0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _a_bound(self) -> Threshold:
        if self.lower is None and self.upper is None:
            raise ValueError("give lower, upper or both")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower ({self.lower}) must be below upper ({self.upper})")
        if self.lower is not None and self.upper is not None and 2 * self.margin >= self.upper - self.lower:
            raise ValueError(f"margin ({self.margin}) leaves nothing between lower ({self.lower}) and upper ({self.upper})")
        return self


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
    breaches: int = Field(1, ge=1, description="windows in a row beyond the threshold before it fires")
    clear: int = Field(1, ge=1, description="windows in a row back inside before it resolves")
    severity: Severity = "warning"
    owner: str = ""

    @property
    def window_seconds(self) -> int:
        return self.window or self.every

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
    models: tuple[ModelConfig, ...] = ()
    checks: tuple[Check, ...] = ()
    sources: tuple[SourceConfig, ...] = ()
    cloudevents: CloudEvents = CloudEvents()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

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
