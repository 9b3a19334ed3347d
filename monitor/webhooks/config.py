"""What the config file may say of a webhook."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from monitor.section import Name, Seconds, Section, Severity

PREFIX = "whsec_"  # before a key in base64, as Standard Webhooks writes it
FEWEST_KEY_BYTES = 16


class Webhook(Section):
    """Where to send a message when an incident opens."""

    name: Name
    url: str = Field(max_length=2048)
    secret: SecretStr = Field(description="whsec_ and a key in base64, or any text; as ${env:NAME} or ${file:PATH}")
    models: tuple[Name, ...] = Field((), description="of these; default: of all")
    checks: tuple[Name, ...] = Field((), description="checks and record rules; default: all")
    severity: tuple[Severity, ...] = Field((), description="default: any")
    slices: bool = Field(False, description="also incidents of a part of the traffic")
    timeout_seconds: Seconds = Field(10, le=15, description="a stop waits for the message in hand")
    give_up_seconds: Seconds = Field(3 * 86_400, description="so long a message is tried")
    ca_file: Path | None = Field(None, description="who may have signed the receiver's certificate")
    insecure: bool = Field(False, description="plain http to another machine")

    @field_validator("url")
    @classmethod
    def _a_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            host, port = parts.hostname, parts.port
        except ValueError as exc:
            raise ValueError(f"{value!r} is no URL; give one such as https://ci.example/hooks/retrain") from exc
        if parts.scheme not in ("http", "https") or not host or port == 0 or not value.isprintable() or " " in value:
            raise ValueError(f"{value!r} is no URL of http or https; give one such as https://ci.example/hooks/retrain")
        if parts.username is not None or parts.fragment:
            raise ValueError("a user, password or fragment does not belong in the URL; the message is signed with secret")
        return value

    @field_validator("secret")
    @classmethod
    def _a_key(cls, value: SecretStr) -> SecretStr:
        if (size := len(key_of(value.get_secret_value()))) < FEWEST_KEY_BYTES:
            raise ValueError(f"a key of {size} bytes is too short; give at least {FEWEST_KEY_BYTES}: openssl rand -base64 32")
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Webhook:
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not self.insecure and not _is_loopback(parts.hostname or ""):
            # Not the whole of it: some receivers have a token in the path.
            raise ValueError(f"plain http to {parts.hostname}, another machine; use https, or say insecure: true")
        if self.ca_file is not None and parts.scheme == "http":
            raise ValueError("ca_file belongs to https; leave it out")
        return self


def key_of(secret: str) -> bytes:
    """The bytes to sign with.

    Raises:
        ValueError: what follows whsec_ is not base64.
    """
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as exc:
        raise ValueError(f"what follows {PREFIX} is not base64 ({exc}); correct it, or give a text without {PREFIX}") from exc


def problems(webhooks: Mapping[int, Webhook], models: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Each as `path.to.key: what is wrong; what to do`. `names`: of checks and record rules."""
    for i, one in webhooks.items():
        for key, given, there in (("models", one.models, models), ("checks", one.checks, names)):
            for j, name in enumerate(given):
                if name not in there:
                    what = "model" if key == "models" else "check or record rule"
                    yield f"webhooks.{i}.{key}.{j}: no {what} {name!r}; there are {', '.join(sorted(there)) or 'none'}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
