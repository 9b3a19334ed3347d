"""What the config file may say: declared once, with every bound on its field. `configfile` reads it.

A section with much of its own to say has a module beside its subject; all are to be had from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from detectors import embedding, registry
from detectors.contract import ColumnKind
from detectors.judging.endpoint import EndpointConfig
from monitor import crosschecks
from monitor.budgets import config as budgeting
from monitor.checkconfig import Baseline, Check, Reference, SliceConfig, Threshold
from monitor.evaluations.config import ExportConfig
from monitor.external import ExternalUrl
from monitor.fields import MAX_FEATURE_NAME, columnable
from monitor.grafana.config import GrafanaConfig
from monitor.listeners import Listener, Metrics, Otlp, OtlpGrpc, OtlpHttp, Server, Tls
from monitor.maintenance.windows import Window
from monitor.recordrules.config import RecordRule
from monitor.section import (
    Instant,
    Name,
    Seconds,
    SecondsOrZero,
    Section,
    Severity,
    Zone,
    differ_in_more_than_case,
)
from monitor.serving import RulesConfig, ServingConfig, SloConfig
from monitor.webhooks.config import Webhook

__all__ = [
    "Baseline",
    "Check",
    "CloudEvents",
    "Config",
    "EncoderConfig",
    "Instant",
    "JudgeBudget",
    "JudgeConfig",
    "Listener",
    "MaskingConfig",
    "MaskingOverride",
    "Metrics",
    "ModelConfig",
    "Name",
    "Otlp",
    "OtlpGrpc",
    "OtlpHttp",
    "PricesConfig",
    "Reference",
    "Scoring",
    "Seconds",
    "SecondsOrZero",
    "Section",
    "Server",
    "Service",
    "Severity",
    "SliceConfig",
    "SourceConfig",
    "StoreConfig",
    "Threshold",
    "Tls",
    "Zone",
    "asked_tasks",
]


class StoreConfig(Section):
    path: Path = Path("modelwatch-data")
    memory_limit: str = Field("2GB", pattern=r"^\d+(\.\d+)?\s?(MB|GB|MiB|GiB)$")
    threads: int | None = Field(None, ge=1, description="default: by the processors there are")
    seal_seconds: Seconds = 60
    seal_rows: int = Field(24_576, ge=100)
    compact_after_seconds: Seconds = 300
    compact_bytes: int = Field(2**30, ge=2**20)
    tail_seconds: Seconds = 15
    min_free_bytes: int = Field(512 * 2**20, ge=0)
    checkpoint_bytes: int = Field(16 * 2**20, ge=2**16)


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
    owner: str = Field("", max_length=128, description="of its checks that name none")
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
        differ_in_more_than_case(value or ())
        return value

    @model_validator(mode="after")
    def _spans_are_of_llms(self) -> ModelConfig:
        if self.match and self.task != "llm":
            raise ValueError(f"match belongs to models of task llm; {self.name} has task {self.task}")
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
    external_url: ExternalUrl | None = Field(None, description="where people open the API's pages; links are built from it")
    maintenance: tuple[Window, ...] = Field((), description="windows of maintenance and freezes")
    record_rules: tuple[RecordRule, ...] = Field((), description="one record that opens an incident at once")
    webhooks: tuple[Webhook, ...] = Field((), description="who is told of an incident that opens")
    budgets: Annotated[tuple[budgeting.BudgetConfig, ...], AfterValidator(budgeting.once)] = ()
    serving: ServingConfig = ServingConfig()
    slo: SloConfig = SloConfig()
    rules: RulesConfig = RulesConfig()
    export: ExportConfig = ExportConfig()
    grafana: GrafanaConfig | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("checks", mode="before")
    @classmethod
    def _tasks_of_models(cls, raw: Any, info: ValidationInfo) -> Any:
        """A detector that asks for the task is told that of the model, unless its settings name one."""
        tasks = {model.name: model.task for model in info.data.get("models", ())}
        return [_with_task(check, tasks) for check in raw] if isinstance(raw, (list, tuple)) else raw

    @field_validator("checks", "record_rules")
    @classmethod
    def _owners_of_models(cls, value: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        owners = {model.name: model.owner for model in info.data.get("models", ())}
        return tuple(c if c.owner else c.model_copy(update={"owner": owners.get(c.model, "")}) for c in value)

    @field_validator("checks", mode="before")
    @classmethod
    def _llm_of_the_judge(cls, raw: Any, info: ValidationInfo) -> Any:
        """A judge is told the LLM of the endpoint, unless its settings name one: scores of another LLM are other scores."""
        judge: JudgeConfig | None = info.data.get("judge")
        if judge is None or not isinstance(raw, (list, tuple)):
            return raw
        return [_with_llm(check, judge.model) for check in raw]

    @field_validator("models", "checks", "sources", "maintenance", "record_rules", "webhooks")
    @classmethod
    def _names_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        differ_in_more_than_case([item.name for item in value])
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
