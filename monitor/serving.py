"""What the config file may say of those who serve LLMs, of objectives, and of how the rules call things.

The daemon does nothing with it but check it: `modelwatch rules render` (`rendering.py`) writes it into the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import Field, field_validator, model_validator

from monitor.genai.errorclass import ErrorClass
from monitor.section import Name, Section

MetricName = Annotated[str, Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$", max_length=200)]
LabelName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=200)]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Share = Annotated[float, Field(ge=0.5, lt=1, description="of all that should be good, such as 0.995")]


class _Llm(Section):
    """An LLM of a provider; what is left out is any."""

    provider: Text | None = Field(None, description="as in the label `provider`")
    llm_model: Text | None = Field(None, description="as in the label `llm_model`")

    @property
    def labels(self) -> dict[str, str]:
        given = {"provider": self.provider, "llm_model": self.llm_model}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def words(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.labels.items()) or "any LLM"


L = TypeVar("L", bound=_Llm)


class Objective(_Llm):
    objective: Share

    @model_validator(mode="after")
    def _of_somebody(self) -> Objective:
        if not self.labels:
            raise ValueError("give provider, llm_model or both; for all of them there is serving.availability.objective")
        return self


class Quota(_Llm):
    tokens_per_minute: float | None = Field(None, gt=0, allow_inf_nan=False)
    requests_per_minute: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _a_limit(self) -> Quota:
        if self.tokens_per_minute is None and self.requests_per_minute is None:
            raise ValueError(f"give tokens_per_minute, requests_per_minute or both for {self.words}")
        if not self.labels:
            raise ValueError("a quota is somebody's; give provider, llm_model or both")
        return self


class Availability(Section):
    """Requests that were answered, of all: an objective for each provider and LLM."""

    objective: Share = 0.99
    errors: tuple[ErrorClass, ...] = Field(
        ("timeout", "server", "rate_limit"), min_length=1, description="classes of errors that count against it"
    )
    min_requests: int = Field(100, ge=1, description="in the longer window of a burn rate; fewer say nothing")
    objectives: tuple[Objective, ...] = Field((), description="of some; the one that says more of an LLM counts")

    @field_validator("objectives")
    @classmethod
    def _once(cls, value: tuple[Objective, ...]) -> tuple[Objective, ...]:
        return _each_once(value)


class Hosts(Section):
    """What dcgm-exporter and vLLM call things, in the Prometheus that the rules run in."""

    gpu_memory_used: MetricName = "DCGM_FI_DEV_FB_USED"
    gpu_memory_free: MetricName = "DCGM_FI_DEV_FB_FREE"
    gpu: LabelName = Field("gpu", description="label that tells the GPUs of a host apart")
    gpu_host: LabelName = Field("instance", description="label of those series that names the host; a port is left out")
    waiting: MetricName = Field("vllm:num_requests_waiting", description="requests that wait for a place")
    running: MetricName = Field("vllm:num_requests_running", description="requests being answered")
    cache_usage: tuple[MetricName, ...] = Field(
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), min_length=1, description="the first that is there"
    )
    served_model: LabelName = Field("model_name", description="label of those series that names the LLM")
    served_host: LabelName = Field("instance", description="label of those series that names the host; a port is left out")
    max_waiting: int = Field(20, ge=1, description="requests waiting on a host for an LLM before it is an alert")
    max_memory: float = Field(0.97, gt=0, le=1, description="share of the GPU's memory, and of the cache, that is full")
    expected: bool = Field(False, description="their series are there; when they are not, that is an alert")


class ServingConfig(Section):
    availability: Availability = Availability()
    quotas: tuple[Quota, ...] = ()
    hosts: Hosts = Hosts()

    @field_validator("quotas")
    @classmethod
    def _once(cls, value: tuple[Quota, ...]) -> tuple[Quota, ...]:
        return _each_once(value)


class Flagged(Section):
    """Of the answers of a model that a detector has scored, so many should not be flagged."""

    model: Name
    detector: Text = Field(description="as in the label `detector`: the name of a row detector")
    objective: Share


class SloConfig(Section):
    flagged: tuple[Flagged, ...] = ()
    min_records: int = Field(100, ge=1, description="scored in the longer window of a burn rate; fewer say nothing")

    @field_validator("flagged")
    @classmethod
    def _once(cls, value: tuple[Flagged, ...]) -> tuple[Flagged, ...]:
        seen: dict[tuple[str, str], int] = {}
        for i, one in enumerate(value):
            if (first := seen.setdefault((one.model, one.detector), i)) != i:
                raise ValueError(f"{first} and {i} are both of model {one.model}, detector {one.detector}; keep one of them")
        return value


class RulesConfig(Section):
    job: Text = Field("modelwatch", pattern=r"^[^\"'\\\n{}]+$", description="job_name of the daemon in Prometheus")
    runbook_url: str = Field(
        "https://github.com/modelwatch/modelwatch/blob/main/rules/RUNBOOK.md",
        pattern=r"^https?://[^\s\"'{}]+$",
        description="where people find the runbook; an alert adds its heading",
    )
    grafana_url: str | None = Field(
        None, pattern=r"^https?://[^\s\"'{}]+$", description="where people open Grafana; by default grafana.url"
    )


def _each_once(value: tuple[L, ...]) -> tuple[L, ...]:
    seen: dict[tuple[tuple[str, str], ...], int] = {}
    for i, one in enumerate(value):
        if (first := seen.setdefault(tuple(one.labels.items()), i)) != i:
            raise ValueError(f"{first} and {i} are both of {one.words}; keep one of them")
    return value


def matchers(labels: Mapping[str, str]) -> str:
    """As PromQL has them; nothing where there are none.

    >>> matchers({"provider": "openai", "llm_model": 'a"b'})
    '{provider="openai", llm_model="a\\\\"b"}'
    """
    if not labels:
        return ""
    quoted = {name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()}
    return "{" + ", ".join(f'{name}="{value}"' for name, value in quoted.items()) + "}"
