"""What a model call cost: as reported, else from a price table that users can replace (prices.yaml says how it is written)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from monitor.errors import ConfigError
from monitor.genai import yamltable
from monitor.genai.canonical import Canonical

FILE = Path(__file__).with_name("prices.yaml")
MILLION = 1_000_000
LONG = 200_000  # input tokens, above which some models have another price
DATED = re.compile(r"[-@](20\d\d-?\d\d-?\d\d)$")
KNOWN = 2048  # models whose price is remembered

Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rates(BaseModel):
    """USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Usd
    output: Usd = 0.0
    cache_read: Usd | None = None
    cache_write: Usd | None = None

    def cost(self, given: int, read: int, written: int, answered: int) -> float:
        """Cached tokens are part of `given`; each token is paid once."""
        fresh = max(given - read - written, 0)
        of_read = self.input if self.cache_read is None else self.cache_read
        of_written = self.input if self.cache_write is None else self.cache_write
        return (fresh * self.input + read * of_read + written * of_written + answered * self.output) / MILLION


class Price(Rates):
    provider: str
    model: str
    source: str
    above_200k: Rates | None = None
    context_window: int | None = Field(None, ge=1, description="most tokens it takes")

    @field_validator("model", "provider")
    @classmethod
    def _lower(cls, text: str) -> str:
        return text.lower()


class ContextWindow(BaseModel):
    """Of a model without a price, or one that is served with another window than its maker's. No provider: of any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str | None = None
    model: str
    tokens: int = Field(ge=1)

    @field_validator("model", "provider")
    @classmethod
    def _lower(cls, text: str | None) -> str | None:
        return text and text.lower()


Entry = TypeVar("Entry", Price, ContextWindow)


class _Patterns(Generic[Entry]):
    """Entries by provider and pattern of the model. Safe to use from several threads."""

    def __init__(self, entries: list[Entry]) -> None:
        # Longest pattern first, so that the first that fits is the one that says most.
        self.entries: list[Entry] = sorted(entries, key=lambda p: (-len(p.model.replace("*", "")), p.model))
        self._known: dict[tuple[str | None, str], Entry | None] = {}

    def find(self, provider: str | None, model: str) -> Entry | None:
        key = (provider, model)
        if key not in self._known:
            if len(self._known) >= KNOWN:  # names come from outside and may be without end
                self._known = {}
            self._known[key] = self._search(provider.lower() if provider else None, model.lower())
        return self._known[key]

    def _search(self, provider: str | None, model: str) -> Entry | None:
        bare = model.rpartition("/")[2]  # models/gemini-2.5-pro, openai/gpt-4o: as gateways write them
        names = {model, bare, DATED.sub("", bare)}
        for one in self.entries:
            fits = provider is None or one.provider is None or one.provider == provider
            if fits and any(fnmatchcase(name, one.model) for name in names):
                return one
        return None


class Prices:
    """The table, looked up by provider and model. Safe to use from several threads."""

    def __init__(self, prices: list[Price], windows: list[ContextWindow]) -> None:
        self._prices = _Patterns(prices)
        self._windows = _Patterns(windows)

    @property
    def prices(self) -> list[Price]:
        return self._prices.entries

    def find(self, provider: str | None, model: str) -> Price | None:
        return self._prices.find(provider, model)

    def window_of(self, fields: Mapping[str, Any]) -> int | None:
        """The most tokens that the LLM of a generation takes, None where nobody says so."""
        provider = fields.get("provider")
        for name in ("llm_model", "request_model"):
            if model := fields.get(name):
                if (found := self._windows.find(provider, model)) is not None:
                    return found.tokens
                if (price := self.find(provider, model)) is not None and price.context_window is not None:
                    return price.context_window
        return None

    def cost(self, canonical: Canonical) -> tuple[float | None, str | None]:
        """USD and where it comes from: `reported`, `table`, or (None, None) where there are no tokens or no price."""
        return self.cost_of(canonical.fields)

    def cost_of(self, fields: Mapping[str, Any]) -> tuple[float | None, str | None]:
        """The same for columns of a generation."""
        if fields.get("cost_usd") is not None:
            return fields["cost_usd"], "reported"
        given, answered = fields.get("input_tokens"), fields.get("output_tokens")
        if given is None or (answered is None and fields.get("operation") != "embeddings"):
            return None, None
        price = self._of(fields)
        if price is None:
            return None, None
        rates = price.above_200k if price.above_200k and given > LONG else price
        cached = fields.get("cache_read_tokens") or 0, fields.get("cache_write_tokens") or 0
        return rates.cost(given, *cached, answered or 0), "table"

    def unpriced(self, fields: Mapping[str, Any]) -> bool:
        """Whether there were tokens but nobody knows what they cost."""
        used = (fields.get("input_tokens") or 0) + (fields.get("output_tokens") or 0)
        return used > 0 and fields.get("cost_usd") is None and self._of(fields) is None

    def _of(self, fields: Mapping[str, Any]) -> Price | None:
        provider = fields.get("provider")
        for name in ("llm_model", "request_model"):
            if (model := fields.get(name)) and (price := self.find(provider, model)):
                return price
        return None


def load(file: Path = FILE) -> Prices:
    """Raises: ConfigError, with every problem of the file at once."""
    try:
        raw = yamltable.read(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError([f"{file}: cannot be read as YAML ({exc}); see prices.yaml of modelwatch for its form"]) from exc
    if not isinstance(raw, dict) or not isinstance(raw.get("prices"), list) or not isinstance(raw.get("sources", {}), dict):
        raise ConfigError([f"{file}: wanted are `sources` and a list `prices`; see prices.yaml of modelwatch for its form"])
    prices: list[Price] = []
    problems: list[str] = []
    for i, entry in enumerate(raw["prices"]):
        try:
            price = Price.model_validate(entry)
        except ValidationError as exc:
            problems += [f"{file}: prices.{i}.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors()]
            continue
        if price.source not in raw.get("sources", {}):
            problems.append(f"{file}: prices.{i}.source: {price.source!r} is not one of `sources`; say there where it is from")
        prices.append(price)
    windows: list[ContextWindow] = []
    given = raw.get("windows", [])
    if not isinstance(given, list):
        problems.append(f"{file}: windows: {given!r} is not a list; each entry has model, tokens and, if need be, provider")
        given = []
    for i, entry in enumerate(given):
        try:
            windows.append(ContextWindow.model_validate(entry))
        except ValidationError as exc:
            problems += [f"{file}: windows.{i}.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors()]
    if problems:
        raise ConfigError(problems)
    return Prices(prices, windows)
