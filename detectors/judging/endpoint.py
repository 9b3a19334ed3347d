"""Whom to ask, and within which limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rates(BaseModel):
    """USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Usd
    output: Usd = 0.0

    def cost(self, given: int, answered: int) -> float:
        return (given * self.input + answered * self.output) / 1_000_000


class EndpointConfig(BaseModel):
    """A server that speaks as OpenAI's does: its own, vLLM, Ollama, llama.cpp, LiteLLM and so on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(description="with its /v1")
    model: str = Field(min_length=1, description="the LLM that judges, as the endpoint calls it")
    api_key: SecretStr | None = Field(None, description="as ${env:NAME} or ${file:PATH}; leave it out where none is asked for")
    mode: Literal["json", "md_json", "json_schema"] = Field(
        "json", description="how an answer in JSON is asked for: response_format json_object, in words alone, or by schema"
    )
    max_tokens: int = Field(4096, ge=256, description="of an answer; below 4096 long answers are cut and lost")
    temperature: float = Field(0.01, ge=0, le=2)
    top_p: float = Field(0.1, gt=0, le=1)
    reasks: int = Field(1, ge=0, le=5, description="how often an answer that is no JSON of the wanted form is asked for again")
    concurrency: int = Field(4, ge=1, le=256, description="scores under way at once")
    call_seconds: float = Field(60.0, gt=0, description="longest wait for one call")
    score_seconds: float = Field(180.0, gt=0, description="longest time for one score")
    score_calls: int = Field(12, ge=1, description="most calls for one score")
    price: Rates | None = Field(None, description="USD per million tokens of `model`; default: from the table of prices")

    @field_validator("api_key")
    @classmethod
    def _goes_into_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        key = value.get_secret_value().strip()  # a line's end of a file or a variable is no part of it
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError("no key that fits into a header: give printable ASCII characters, on one line")
        return SecretStr(key)

    @field_validator("base_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError(f"{value!r} is no http:// or https:// address; write it like http://127.0.0.1:11434/v1")
        return value.rstrip("/")


Prices = Mapping[str, Rates]
"""By model, as the endpoint calls it."""
