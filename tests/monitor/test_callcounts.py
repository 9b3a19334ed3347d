"""What the LLM metrics say of calls: by provider, LLM and class of error; times by token, and how full the window was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from monitor.genai.errorclass import CLASSES, class_of
from monitor.otlp.spans import Span
from tests.monitor.support import NOON, World, check, generation, sample
from tests.monitor.tracing import chat


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


def of(world: World, name: str, llm: str = "small", provider: str = "openai", **labels: str) -> float | None:
    return sample(world.metrics, f"modelwatch_llm_{name}", model="bot", provider=provider, llm_model=llm, **labels)


def errors(world: World, llm: str = "small", provider: str = "openai") -> dict[str, float]:
    """Those that are not 0; all classes are there."""
    found = {name: of(world, "errors_total", llm, provider, **{"class": name}) for name in CLASSES}
    assert None not in found.values()
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize(
    ("error_type", "expected"),
    (
        ("APITimeoutError", "timeout"),
        ("ReadTimeout", "timeout"),
        ("408", "timeout"),
        ("DEADLINE_EXCEEDED", "timeout"),
        ("InternalServerError", "server"),
        ("500", "server"),
        ("504", "server"),
        ("OverloadedError", "server"),
        ("ServiceUnavailable", "server"),
        ("APIConnectionError", "server"),
        ("RateLimitError", "rate_limit"),
        ("429", "rate_limit"),
        ("ThrottlingException", "rate_limit"),
        ("insufficient_quota", "rate_limit"),
        ("AuthenticationError", "auth"),
        ("PermissionDeniedError", "auth"),
        ("403", "auth"),
        ("AccessDeniedException", "auth"),
        ("ContentPolicyViolationError", "content_filter"),
        ("content_filter", "content_filter"),
        ("BadRequestError", "other"),
        ("404", "other"),
        ("_OTHER", "other"),
        ("", "other"),
        ("9" * 5000, "other"),
        ('\N{FIRE}\n"' * 5000, "other"),
    ),
)
def test_an_error_has_one_of_six_classes_whatever_it_is_called(error_type: str, expected: str) -> None:
    assert class_of(error_type) == expected


def failing(name: str, message: str | None = None, **attributes: Any) -> Span:
    span = chat(name, name, failed=True, **attributes)
    span.status_message = message
    return span


def test_errors_are_counted_by_class_and_each_class_begins_at_0(world: World) -> None:
    world.send(
        "spans",
        chat("fine", "a"),
        failing("b", error__type="openai.RateLimitError"),
        failing("c", http__response__status_code=503),
        failing("d", message="Error code: 401 - {'error': ...}"),
        failing("e", message="Error code: 400 - ... 'code': 'content_filter'", error__type="BadRequestError"),
        failing("f", message="it broke"),
    )
    world.settle()
    assert errors(world) == {"rate_limit": 1, "server": 1, "auth": 1, "content_filter": 1, "other": 1}
    assert of(world, "requests_total") == 6


def test_requests_are_told_apart_by_who_serves_the_llm(world: World) -> None:
    world.send(
        "generations",
        generation("1", provider="openai", llm_model="big"),
        generation("2", provider="azure", llm_model="big", error_type="Timeout"),
        generation("3", llm_model="big"),
    )
    assert [of(world, "requests_total", "big", provider) for provider in ("openai", "azure", "unknown")] == [1, 1, 1]
    assert errors(world, "big", "azure") == {"timeout": 1}
    assert errors(world, "big", "openai") == {}


def test_a_retry_that_comes_late_takes_nothing_back_and_counts_no_second_request(world: World) -> None:
    root = chat("t", "root", end=9, gen_ai__provider__name="gateway")
    world.send("spans", root, failing_in("t", "first", 1, 2))
    world.settle()
    assert (of(world, "requests_total"), errors(world)) == (1, {"rate_limit": 1})
    world.send("spans", chat("t", "second", "root", 3, 4))
    world.settle()
    assert (of(world, "requests_total"), of(world, "retries_total"), errors(world)) == (1, 1, {"rate_limit": 1})


def failing_in(trace: str, name: str, start: float, end: float) -> Span:
    return chat(trace, name, "root", start, end, failed=True, error__type="RateLimitError")


def test_a_token_takes_the_time_after_the_first_over_the_tokens_after_the_first(world: World) -> None:
    times: dict[str, Any] = {"provider": "p", "llm_model": "m", "duration_seconds": 3.0, "time_to_first_token_seconds": 1.0}
    world.send(
        "generations",
        generation("a", **times, input_tokens=5, output_tokens=21),
        generation("one token", **times, input_tokens=5, output_tokens=1),
        generation("no tokens", **times),
        generation("no stream", **times | {"time_to_first_token_seconds": None}, output_tokens=9),
        generation("backwards", **times | {"duration_seconds": 0.5}, output_tokens=9),
    )
    assert of(world, "time_per_output_token_seconds_count", "m", "p") == 1
    assert of(world, "time_per_output_token_seconds_sum", "m", "p") == pytest.approx(0.1)


def test_a_window_nobody_knows_is_absent_and_never_empty(make_world: Callable[..., World], tmp_path: Path) -> None:
    table = tmp_path / "prices.yaml"
    table.write_text(
        "sources: {us: {document: ours, as_of: 2026-01-01}}\n"
        "prices:\n- {provider: p, model: priced, input: 1, context_window: 1000, source: us}\n"
        "windows:\n- {model: 'own-*', tokens: 200}\n- {provider: q, model: priced, tokens: 400}\n"
    )
    world = make_world(prices={"file": table})
    for provider, llm, tokens in (("p", "priced", 900), ("q", "priced", 100), ("p", "own-7b", 50), ("p", "else", 50)):
        world.send(
            "generations", generation(f"{provider} {llm}", provider=provider, llm_model=llm, input_tokens=tokens, output_tokens=1)
        )
    found = {key: of(world, "context_window_ratio_sum", *key) for key in (("priced", "p"), ("priced", "q"), ("own-7b", "p"))}
    assert found == {("priced", "p"): 0.9, ("priced", "q"): 0.25, ("own-7b", "p"): 0.25}
    assert of(world, "context_window_ratio_count", "else", "p") is None
    windows = {row["record_id"]: row["context_window"] for row in world.rows("generations", "bot")}
    assert windows == {"p priced": 1000, "q priced": 400, "p own-7b": 200, "p else": None}


def test_the_shipped_table_knows_the_window_of_every_llm_it_prices(world: World) -> None:
    world.send("spans", chat("t", "a", llm="gpt-4o", tokens=(64_000, 1)))
    world.settle()
    assert of(world, "context_window_ratio_sum", "gpt-4o") == 0.5


def test_a_trace_that_is_settled_again_is_observed_once(world: World) -> None:
    world.send("spans", chat("t", "root", end=9, llm="gpt-4o"))
    world.settle()
    world.send("spans", chat("t", "late", "root", 1, 2, llm="gpt-4o"))
    world.settle()
    world.restart()
    assert of(world, "duration_seconds_count", "gpt-4o") is None
    world.send("spans", chat("t", "later", "root", 3, 4, llm="gpt-4o"))
    world.settle()
    assert of(world, "duration_seconds_count", "gpt-4o") == 1


def test_how_full_the_window_was_is_a_column_that_checks_read(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("full", model="bot", columns={"prediction": "context_window_ratio"})])
    early = NOON - timedelta(minutes=15)
    for name, llm in (("a", "gpt-4o"), ("b", "gpt-4o"), ("c", "nobody-knows")):
        world.send("generations", generation(name, early, provider="openai", llm_model=llm, input_tokens=64_000, output_tokens=1))
    world.settle()
    world.look()
    world.look(600)
    (reading,) = world.readings("full", "bot").values()
    assert reading[:2] == ("ok", 0.5)
