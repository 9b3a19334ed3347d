"""What the calls of an LLM come to: worked by hand, and bounded where a number is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from detectors.contract import Frame, NotEnoughData, NotEvaluable, Reading
from detectors.llm_operations import LlmOperations

HAND = {
    # Request a was tried twice and went well in the end; b failed for good; c has no tokens; d was an embedding.
    "request_id": ["a", "a", "b", "c", "d"],
    "attempt": [0, 1, 0, 0, 0],
    "failed": [1, 0, 1, 0, 0],
    "operation": ["chat", "chat", "chat", "chat", "embeddings"],
    "input_tokens": [100, 100, 50, math.nan, 10],
    "output_tokens": [math.nan, 20, math.nan, math.nan, math.nan],
    "cache_read_tokens": [math.nan, 50, math.nan, math.nan, math.nan],
    "cost_usd": [0.01, 0.03, math.nan, math.nan, 0.001],
    "duration_seconds": [1.0, 2.0, 0.5, 4.0, 0.25],
    "time_to_first_token_seconds": [math.nan, 0.5, math.nan, math.nan, math.nan],
}


def calls(**columns: Any) -> Frame:
    kept = {**HAND, **columns}
    return Frame({name: np.array(v, dtype=object if name in ("request_id", "operation") else float) for name, v in kept.items()})


def many(n: int, *, seconds: float = 1.0, failed: float = 0.0, seed: int = 0) -> Frame:
    rng = np.random.default_rng(seed)
    return calls(
        request_id=[f"r{i}" for i in range(n)],
        attempt=np.zeros(n),
        failed=rng.random(n) < failed,
        operation=["chat"] * n,
        duration_seconds=rng.exponential(seconds, n),
        **{name: np.full(n, 10.0) for name in ("input_tokens", "output_tokens", "cost_usd")},
        **{name: np.full(n, math.nan) for name in ("cache_read_tokens", "time_to_first_token_seconds")},
    )


def measure(current: Frame, reference: Frame | None = None, **settings: Any) -> Reading:
    return LlmOperations(LlmOperations.Config(**{"min_rows": 1, **settings})).compare(reference, current)


@pytest.mark.parametrize(
    ("metric", "value", "n"),
    (
        ("requests", 4, 4),
        ("calls", 5, 5),
        ("error_ratio", 1 / 4, 4),
        ("retry_ratio", 1 / 5, 5),
        ("unpriced_ratio", 1 / 4, 4),
        ("cached_ratio", 50 / 260, 4),
        ("input_tokens", 260, 4),
        ("output_tokens", 20, 1),
        ("cost_usd", 0.041, 3),
        ("input_tokens_per_call", 65, 4),
        ("cost_usd_per_request", (0.04 + 0.001) / 2, 2),
        ("output_tokens_per_second", 10, 1),
        ("duration_p50_seconds", 1, 5),
        ("time_to_first_token_p99_seconds", 0.5, 1),
    ),
)
def test_the_numbers_are_those_worked_by_hand(metric: str, value: float, n: int) -> None:
    reading = measure(calls(), metric=metric)
    assert reading.value == pytest.approx(value)
    assert (reading.n_current, reading.statistic) == (n, metric)
    assert reading.metrics[metric] == reading.value


def test_operations_choose_calls() -> None:
    assert measure(calls(), metric="calls", operations=("embeddings",)).value == 1
    assert measure(calls(), metric="requests", operations=("chat",)).value == 3
    with pytest.raises(NotEnoughData, match="calls: 0 calls"):
        measure(calls(), metric="calls", operations=("rerank",))


def test_a_change_is_bounded_by_both_sides_intervals() -> None:
    reading = measure(many(800, seconds=2.0, seed=1), many(800), metric="duration_p95_seconds", reading="change")
    assert reading.lower is not None
    assert reading.upper is not None
    assert reading.lower < 1 < reading.upper
    assert reading.lower < reading.value < reading.upper
    assert (reading.n_current, reading.n_reference, reading.statistic) == (800, 800, "duration_p95_seconds change")
    assert reading.metrics["duration_p95_seconds"] / reading.metrics["reference"] - 1 == pytest.approx(reading.value)


def test_the_interval_of_a_quantile_holds_the_truth_as_often_as_it_says() -> None:
    truth = -math.log(0.05)
    inside = 0
    for seed in range(300):
        reading = measure(many(400, seed=seed), metric="duration_p95_seconds")
        assert reading.lower is not None
        assert reading.upper is not None
        inside += reading.lower <= truth <= reading.upper
    assert 0.92 < inside / 300 < 0.99


def test_few_calls_bound_no_high_quantile() -> None:
    assert measure(many(50), metric="duration_p99_seconds").upper is None
    assert measure(many(50), metric="duration_p50_seconds").upper is not None


def test_what_nobody_sent_is_not_enough_data_and_never_zero() -> None:
    silent = many(50)
    with pytest.raises(NotEnoughData, match="time_to_first_token_p95_seconds: 0 calls or requests"):
        measure(silent, metric="time_to_first_token_p95_seconds")
    assert "time_to_first_token_p95_seconds" not in measure(silent, metric="calls").metrics
    with pytest.raises(NotEnoughData, match="min_rows is 60"):
        measure(silent, metric="error_ratio", min_rows=60)


def test_infinite_seconds_are_none() -> None:
    seconds = np.array([1.0, math.inf, 3.0, -math.inf, 2.0])
    assert measure(calls(duration_seconds=seconds), metric="duration_p50_seconds").value == 2.0


def test_a_change_needs_something_to_compare_with() -> None:
    with pytest.raises(NotEvaluable, match="no_reference"):
        measure(many(50), metric="error_ratio", reading="change")
    with pytest.raises(NotEvaluable, match="constant: the reference's number is 0"):
        measure(many(50, failed=0.5), many(50), metric="error_ratio", reading="change")


def test_lower_is_worse_only_where_more_is_good() -> None:
    assert LlmOperations(LlmOperations.Config(metric="output_tokens_per_second")).worse == "lower"
    assert LlmOperations(LlmOperations.Config(metric="cost_usd")).worse == "higher"
