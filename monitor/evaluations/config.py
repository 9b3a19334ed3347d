"""What the config file may say of the way out: scores as OpenTelemetry events, to whatever takes OTLP."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from monitor.section import Name, Seconds, Section

HEADER = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # RFC 9110, section 5.6.2


class OtlpExport(Section):
    """Each score goes out once it is stored, as an event `gen_ai.evaluation.result`."""

    endpoint: str = Field(description="http or https, host and port; over HTTP /v1/logs is put after it")
    protocol: Literal["http", "grpc"] = "http"
    headers: dict[str, SecretStr] = Field({}, description="such as Authorization; values as ${env:NAME} or ${file:PATH}")
    models: tuple[Name, ...] = Field((), description="whose scores; none: of all")
    explanations: bool = Field(False, description="what a judge says to a score goes along; it may quote the answer")
    batch_events: int = Field(500, ge=1, le=10_000)
    timeout_seconds: Seconds = Field(10, le=300)
    max_backlog_events: int = Field(1_000_000, ge=1_000, description="of a model; older ones are left out, and counted")

    @field_validator("endpoint")
    @classmethod
    def _reachable(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError as exc:
            raise ValueError(f"{value!r} is no URL; give one such as http://collector:4318") from exc
        if not fits or not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(f"{value!r} is no URL of http or https; give one such as http://collector:4318")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("a user, query or fragment has no place in an endpoint; give credentials as headers")
        if parts.path.rstrip("/").endswith("/v1/logs"):
            raise ValueError(f"{value!r}: /v1/logs is put after it; leave that out")
        return value.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _fit_into_a_request(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            text = secret.get_secret_value()
            if not re.fullmatch(HEADER, name):
                raise ValueError(f"{name!r} is no name of a header")
            if not text or not text.isascii() or not text.isprintable():
                raise ValueError(f"{name}: no value that fits into a header: give printable ASCII characters, on one line")
        return value


class ExportConfig(Section):
    """What is told to others without being asked."""

    otlp: OtlpExport | None = None
