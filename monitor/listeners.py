"""What the config file may say of the addresses that are bound, and of what may come in there."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from monitor.section import Name, Seconds, Section


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
