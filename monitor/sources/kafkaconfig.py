"""What the config says of a Kafka source."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from monitor.config import Name, Section
from monitor.sources.polling import PollingConfig

OURS: dict[str, str] = {
    "bootstrap.servers": "brokers",
    "group.id": "group",
    "auto.offset.reset": "start",
    "enable.auto.commit": "offsets are stored with the records",
    "enable.auto.offset.store": "offsets are stored with the records",
    "partition.assignment.strategy": "it is always cooperative-sticky",
    "statistics.interval.ms": "poll_seconds and lag_seconds",
}
"""Settings of librdkafka that are not the user's, and what stands in for them."""


class Topic(Section):
    """Messages of one topic. `kind` belongs to JSON; OTLP says itself what it is."""

    name: str = Field(min_length=1)
    format: Literal["json", "otlp_traces", "otlp_logs"] = "json"
    kind: Literal["predictions", "labels", "generations", "contexts", "feedback", "deployments"] | None = None
    model: Name | None = None

    @model_validator(mode="after")
    def _of_some_kind(self) -> Topic:
        if (self.kind is None) == (self.format == "json"):
            raise ValueError("give kind for JSON" if self.kind is None else f"{self.format} has no kind; leave it out")
        return self


class KafkaConfig(PollingConfig):
    """Topics of a Kafka cluster, as a member of a consumer group."""

    type: Literal["kafka"]
    brokers: tuple[str, ...] = Field(min_length=1)
    topics: tuple[Topic, ...] = Field(min_length=1)
    group: str = Field("modelwatch", min_length=1)
    start: Literal["earliest", "latest"] = "earliest"
    batch_records: int = Field(1000, ge=1, le=50_000)
    poll_seconds: float = Field(0.2, gt=0, le=10)
    lag_seconds: float = Field(5.0, gt=0)
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict, repr=False)

    @field_validator("type")
    @classmethod
    def _installed(cls, value: str) -> str:
        if importlib.util.find_spec("confluent_kafka") is None:
            raise ValueError('kafka needs the package confluent-kafka; pip install "modelwatch[kafka]"')
        return value

    @field_validator("settings")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in sorted(value.keys() & OURS.keys()):
            raise ValueError(f"{name}: not to be set here; {OURS[name]}")
        return value

    @field_validator("topics")
    @classmethod
    def _once(cls, value: tuple[Topic, ...]) -> tuple[Topic, ...]:
        if len({topic.name for topic in value}) < len(value):
            raise ValueError("a topic stands there twice")
        return value

    def models(self) -> Iterator[tuple[str, str]]:
        yield from super().models()
        for i, topic in enumerate(self.topics):
            if topic.model is not None:
                yield f"topics.{i}.model", topic.model
