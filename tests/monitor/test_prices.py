"""What a call cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monitor.errors import ConfigError
from monitor.genai.canonical import Canonical
from monitor.genai.prices import load

TABLE = """
sources: {list: {document: our contract, as_of: 2026-01-01}}
prices:
  - {provider: openai, model: "gpt-4o*", input: 100, output: 100, source: list}
  - {provider: openai, model: gpt-4o-mini, input: 1, cache_read: 0.5, cache_write: 2, output: 4, source: list}
  - {provider: openai, model: gpt-4o-mini-2024-01-01, input: 9, output: 9, source: list}
  - {provider: azure.ai.openai, model: gpt-4o-mini, input: 3, output: 3, source: list}
  - {provider: gcp.gemini, model: gemini-2.5-pro, input: 1, output: 10, above_200k: {input: 2, output: 15}, source: list}
  - {provider: openai, model: embed, input: 0.02, source: list}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "prices.yaml"
    file.write_text(TABLE)
    return file


def call(model: str | None = "gpt-4o-mini", given: int | None = 1000, answered: int | None = 100, **more: Any) -> dict[str, Any]:
    fields = {"provider": "openai", "llm_model": model, "input_tokens": given, "output_tokens": answered, **more}
    return {k: v for k, v in fields.items() if v is not None}


@pytest.mark.parametrize(
    ("fields", "usd"),
    (
        (call(), 0.0014),
        (call(cache_read_tokens=400), (600 * 1 + 400 * 0.5 + 100 * 4) / 1e6),
        (call(cache_read_tokens=400, cache_write_tokens=100), (500 * 1 + 400 * 0.5 + 100 * 2 + 100 * 4) / 1e6),
        (call("gpt-4o"), 0.11),
        (call("gpt-4o-mini-2024-07-18"), 0.0014),
        (call("gpt-4o-mini-20240718"), 0.0014),
        (call("gpt-4o-mini-2024-01-01"), 0.0099),
        (call("openai/GPT-4o-mini"), 0.0014),
        (call(provider="azure.ai.openai"), 0.0033),
        (call("gemini-2.5-pro", provider="gcp.gemini"), 0.002),
        (call("models/gemini-2.5-pro", 300_000, provider="gcp.gemini"), 0.6015),
        (call("embed", 1000, None, operation="embeddings"), 0.00002),
        (call("unheard-of", request_model="gpt-4o-mini"), 0.0014),
    ),
)
def test_the_table_says_what_a_call_cost_and_each_token_is_paid_once(table: Path, fields: dict[str, Any], usd: float) -> None:
    prices = load(table)
    cost, source = prices.cost(Canonical("llm", fields))
    assert cost == pytest.approx(usd)
    assert source == "table"
    assert not prices.unpriced(fields)


def test_a_reported_cost_wins_even_if_it_is_nothing(table: Path) -> None:
    assert load(table).cost_of(call(cost_usd=0.5)) == (0.5, "reported")
    assert load(table).cost_of(call(cost_usd=0.0)) == (0.0, "reported")


def test_an_unknown_model_keeps_its_tokens_costs_nothing_known_and_is_counted(table: Path) -> None:
    prices = load(table)
    for fields in (call("llama-70b"), call(provider="ollama"), call(None)):
        assert prices.cost_of(fields) == (None, None)
        assert prices.unpriced(fields)


def test_without_tokens_there_is_nothing_to_price_or_to_count(table: Path) -> None:
    prices = load(table)
    assert prices.cost_of(call(given=None, answered=None)) == (None, None)
    assert prices.cost_of(call(answered=None)) == (None, None)
    assert not prices.unpriced(call("llama-70b", None, None))
    assert not prices.unpriced(call("llama-70b", 0, 0))


def test_without_a_provider_the_model_alone_decides(table: Path) -> None:
    fields = call("gpt-4o-mini")
    del fields["provider"]
    assert load(table).cost_of(fields)[1] == "table"


def test_a_wrong_table_says_every_problem_at_once(table: Path) -> None:
    table.write_text(TABLE.replace("input: 1,", "input: -1,", 1).replace("output: 3, source: list", "outptu: 3, source: nowhere"))
    with pytest.raises(ConfigError) as caught:
        load(table)
    text = str(caught.value)
    assert "prices.1.input" in text
    assert "prices.3.outptu" in text
    table.write_text(TABLE.replace("source: list", "source: nowhere", 1))
    with pytest.raises(ConfigError, match="'nowhere' is not one of `sources`"):
        load(table)
    for text in ("[", "prices: 7", "- 1"):
        table.write_text(text)
        with pytest.raises(ConfigError):
            load(table)


def test_the_shipped_table_loads_and_knows_the_models_of_the_recorded_calls() -> None:
    prices = load()
    assert len(prices.prices) >= 60
    for provider, model in (
        ("openai", "gpt-4o-mini-2024-07-18"),
        ("openai", "text-embedding-3-small"),
        ("anthropic", "claude-sonnet-4-6"),
        ("anthropic", "claude-3-7-sonnet-20250219"),
        ("gcp.gemini", "gemini-2.5-pro"),
    ):
        assert prices.find(provider, model) is not None, model
    # LiteLLM's own figure for this recorded call of gpt-4o-mini, as its span reports it
    assert prices.cost_of(call("gpt-4o-mini-2024-07-18", 148, 39))[0] == pytest.approx(4.56e-05)


def test_what_is_remembered_of_names_from_outside_has_an_end(table: Path) -> None:
    prices = load(table)
    for i in range(5000):
        prices.find("openai", f"made-up-{i}")
    assert len(prices._prices._known) <= 2048
