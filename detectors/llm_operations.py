"""What running an LLM comes to in a window: errors, retries, tokens, cost, latency, time to the first token.

Intervals: Wilson's for shares; of means by normal theory; of quantiles by order statistics (David and Nagaraja, "Order
Statistics", 2003, section 7.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from pydantic import Field
from scipy.special import ndtri

from detectors.contract import DetectorConfig, FloatArray, NotEnoughData, NotEvaluable, Reading, Window, Worse
from detectors.intervals import Interval, mean_interval, share_interval
from detectors.quality import BoolArray

Metric = Literal[
    "error_ratio", "retry_ratio", "unpriced_ratio", "cached_ratio",
    "requests", "calls", "input_tokens", "output_tokens", "cost_usd",
    "input_tokens_per_call", "output_tokens_per_call", "cost_usd_per_request", "output_tokens_per_second",
    "duration_p50_seconds", "duration_p95_seconds", "duration_p99_seconds",
    "time_to_first_token_p50_seconds", "time_to_first_token_p95_seconds", "time_to_first_token_p99_seconds",
]  # fmt: skip
BETTER_HIGH = frozenset({"cached_ratio", "output_tokens_per_second", "requests", "calls"})
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Found:
    """A number, where it can lie, and of how many calls or requests it is. Totals have no interval: they are what came."""

    value: float
    n: int
    interval: Interval | None = None


class LlmOperations:
    """One number of how the calls of a window went, and the others in `metrics`.

    Reads:  per call: request_id, attempt, failed (0 or 1), operation, input_tokens, output_tokens, cache_read_tokens, cost_usd,
            duration_seconds, time_to_first_token_seconds. What a row lacks is not in the numbers made of it.
    Gives:  `metric`, with an interval where it has one:
            error_ratio                 requests whose last attempt failed
            retry_ratio                 calls that are not the first attempt of their request
            unpriced_ratio              calls with tokens and without a cost
            cached_ratio                tokens in that came from a cache, of the tokens in (no interval)
            requests, calls, input_tokens, output_tokens, cost_usd
                                        totals of the window (no interval)
            ..._per_call, ..._per_request
                                        means; of cost, over the requests with a cost
            output_tokens_per_second    median over the calls that have both
            ..._pNN_seconds             quantiles of the calls; no interval where so few calls do not bound it
            With `reading: change` it is the same number divided by the reference's, less 1; the interval then is that of the
            quotient at worst.
    Raises: NotEnoughData, when fewer than `min_rows` calls or requests have what the metric is of, on either side.
            NotEvaluable: missing_column; no_reference; constant, when the reference's number is 0.
    """

    name: ClassVar[str] = "llm_operations"
    version: ClassVar[str] = "1"
    inputs: frozenset[str] = frozenset(
        {
            "request_id", "attempt", "failed", "operation", "input_tokens", "output_tokens", "cache_read_tokens", "cost_usd",
            "duration_seconds", "time_to_first_token_seconds",
        }
    )  # fmt: skip
    reference: ClassVar[str] = "optional"
    every_call: ClassVar[bool] = True  # those for embeddings cost money too
    worse: Worse = "higher"

    class Config(DetectorConfig):
        metric: Metric = Field("error_ratio", description="the reading")
        reading: Literal["value", "change"] = Field("value", description="change: compared with the reference, which is required")
        operations: tuple[str, ...] = Field((), description="such as chat, embeddings; none: every call")
        min_rows: int = Field(30, ge=1, description="calls or requests that the metric is of, on either side")
        confidence: float = Field(0.95, gt=0, lt=1, description="of the interval")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = "lower" if config.metric in BETTER_HIGH else "higher"

    def compare(self, reference: Window | None, current: Window) -> Reading:
        c = self.config
        if c.reading == "change" and reference is None:
            raise NotEvaluable("no_reference", "reading change compares with one")
        found = self._measured(current)
        now = self._asked(found)
        value, interval, n_reference = now.value, now.interval, 0
        metrics = {name: one.value for name, one in found.items()}
        if c.reading == "change" and reference is not None:
            before = self._asked(self._measured(reference))
            value, interval, n_reference = _quotient(now, before)
            metrics["reference"] = before.value
        low, high = interval or (None, None)
        statistic = c.metric if c.reading == "value" else f"{c.metric} change"
        return Reading(value, statistic, n_current=now.n, n_reference=n_reference, lower=low, upper=high, metrics=metrics)

    def _asked(self, found: Mapping[str, Found]) -> Found:
        one = found.get(self.config.metric)
        if one is None or one.n < self.config.min_rows:
            n = one.n if one is not None else 0
            raise NotEnoughData(f"{self.config.metric}: {n} calls or requests to have it of, min_rows is {self.config.min_rows}")
        return one

    def _measured(self, window: Window) -> dict[str, Found]:
        c = self.config
        chosen = np.ones(window.rows, dtype=bool)
        if c.operations:
            operation = window.categories("operation")
            wanted = [operation.names.index(name) for name in c.operations if name in operation.names]
            chosen = np.isin(operation.codes, wanted)
        return {name: one for name, one in measured(_columns(window, chosen), c.confidence).items() if one is not None}


Columns = Mapping[str, FloatArray]


def _columns(window: Window, chosen: BoolArray) -> Columns:
    names = (
        "attempt", "failed", "input_tokens", "output_tokens", "cache_read_tokens", "cost_usd", "duration_seconds",
        "time_to_first_token_seconds",
    )  # fmt: skip
    columns = {name: window.numbers(name)[chosen] for name in names}
    # Infinities come from nobody's meter.
    clean = {name: np.where(np.isfinite(values), values, np.nan) for name, values in columns.items()}
    return clean | {"request_id": window.categories("request_id").codes[chosen].astype(np.float64)}


def measured(calls: Columns, confidence: float) -> dict[str, Found | None]:
    """Every metric of these calls; None where there is nothing to have it of."""
    n = len(calls["attempt"])
    went_in, came_out, cost = calls["input_tokens"], calls["output_tokens"], calls["cost_usd"]
    with_tokens = ~np.isnan(went_in) | ~np.isnan(came_out)
    last = last_attempts(calls["request_id"], calls["attempt"])
    errors = calls["failed"][last] > 0
    retried = np.nan_to_num(calls["attempt"]) > 0
    found: dict[str, Found | None] = {
        "requests": Found(float(len(last)), len(last)),
        "calls": Found(float(n), n),
        "error_ratio": _share(errors, confidence),
        "retry_ratio": _share(retried, confidence),
        "unpriced_ratio": _share(np.isnan(cost)[with_tokens], confidence),
        "input_tokens_per_call": _mean(went_in, confidence),
        "output_tokens_per_call": _mean(came_out, confidence),
        "cost_usd_per_request": _mean(per_request(calls["request_id"], cost), confidence),
    }
    for name, values in (("input_tokens", went_in), ("output_tokens", came_out), ("cost_usd", cost)):
        there = int((~np.isnan(values)).sum())
        found[name] = Found(float(np.nansum(values)), there) if there else None
    counted = ~np.isnan(went_in)
    total = float(went_in[counted].sum())
    cached = float(np.nansum(calls["cache_read_tokens"][counted]))
    found["cached_ratio"] = Found(cached / total, int(counted.sum())) if total > 0 else None
    seconds = calls["duration_seconds"]
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = np.where(seconds > 0, came_out / seconds, np.nan)
    found["output_tokens_per_second"] = _quantile(speed, 0.5, confidence)
    for name, values in (("duration", seconds), ("time_to_first_token", calls["time_to_first_token_seconds"])):
        for q in QUANTILES:
            found[f"{name}_p{round(100 * q)}_seconds"] = _quantile(values, q, confidence)
    assert set(found) == set(get_args(Metric))
    return found


def last_attempts(request: FloatArray, attempt: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Place of the last attempt of each request. A call without a request is one of its own."""
    order = np.lexsort((np.arange(len(request)), np.nan_to_num(attempt), request))
    ordered = request[order]
    final = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)] | (ordered < 0)
    return order[final].astype(np.int64)


def per_request(request: FloatArray, values: FloatArray) -> FloatArray:
    """Sum over the calls of each request that have a value."""
    there = ~np.isnan(values)
    alone = values[there & (request < 0)]
    codes, kept = request[there & (request >= 0)], values[there & (request >= 0)]
    _, place = np.unique(codes, return_inverse=True)
    return np.concatenate([np.bincount(place, weights=kept), alone]) if len(codes) else alone


def _share(hits: BoolArray, confidence: float) -> Found | None:
    n = len(hits)
    return Found(float(hits.mean()), n, share_interval(int(hits.sum()), n, confidence)) if n else None


def _mean(values: FloatArray, confidence: float) -> Found | None:
    there = values[~np.isnan(values)]
    if not len(there):
        return None
    interval = mean_interval(there, confidence)
    return Found(float(there.mean()), len(there), interval and (max(0.0, interval[0]), interval[1]))


def _quantile(values: FloatArray, q: float, confidence: float) -> Found | None:
    """Between two order statistics, whose ranks a binomial count stays between, by its normal approximation.

    >>> _quantile(np.arange(1000.0), 0.95, 0.95)
    Found(value=949.05, n=1000, interval=(935.0, 963.0))
    """
    there = np.sort(values[~np.isnan(values)])
    n = len(there)
    if not n:
        return None
    half = float(ndtri(0.5 + confidence / 2)) * math.sqrt(n * q * (1 - q))
    low, high = math.floor(n * q - half) - 1, math.ceil(n * q + half) - 1
    value = float(np.quantile(there, q))
    return Found(value, n, (float(there[low]), float(there[high])) if low >= 0 and high < n else None)


def _quotient(now: Found, before: Found) -> tuple[float, Interval | None, int]:
    if before.value == 0:
        raise NotEvaluable("constant", "the reference's number is 0, and nothing can be compared with that")
    interval = None
    if now.interval and before.interval and before.interval[0] > 0:
        interval = now.interval[0] / before.interval[1] - 1, now.interval[1] / before.interval[0] - 1
    return now.value / before.value - 1, interval, before.n
