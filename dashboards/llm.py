"""LLM: what is asked of models, what it costs, how long it takes, what fails, and whether the answers are any good."""

from __future__ import annotations

from dashboards.answers import ANSWERS
from dashboards.frame import Row, dashboard, variable
from dashboards.judge import JUDGE
from dashboards.panel import CASES, Panel
from dashboards.promql import MODEL, increase, quantiles, rate, share
from dashboards.spending import BUDGETS, SERVING

LLM = f'{MODEL}, provider=~"$provider", llm_model=~"$llm_model"'
WHO, BY = "{{model}} {{provider}} {{llm_model}}", "model, provider, llm_model"


def _rate(what: str, by: str = BY) -> str:
    return rate(f"modelwatch_llm_{what}_total", LLM, by)


TRAFFIC: Row = (
    "Is it answered, and by whom?",
    [
        Panel(
            "llm-requests",
            "Requests",
            "To an LLM, however often each was tried. Counted when its trace settles, as all of this dashboard.",
            "reqps",
            [(_rate("requests"), WHO)],
            stacked=True,
            links=[CASES],
        ),
        Panel(
            "llm-errors",
            "Errors by class",
            "Requests whose last attempt failed: timeout, server (5xx), rate_limit (429), auth, content_filter, other.",
            "reqps",
            [(_rate("errors", f"{BY}, class"), f"{WHO} {{{{class}}}}")],
            stacked=True,
            links=[CASES],
        ),
        Panel(
            "llm-error-share",
            "Share of requests that failed",
            "Over $__rate_interval; no line while nothing is asked.",
            "percentunit",
            [(share(_rate("errors"), _rate("requests")), WHO)],
            links=[CASES],
        ),
        Panel(
            "llm-retries",
            "Attempts after the first",
            "By the application or its client. Many of them cost time and money although requests succeed.",
            "reqps",
            [(_rate("retries"), WHO)],
        ),
    ],
)

MONEY: Row = (
    "What does it cost?",
    [
        Panel(
            "llm-cost",
            "Cost",
            "USD an hour: as reported, or from the price table. Calls without a price are not in it: see beside.",
            "currencyUSD",
            [(f"{_rate('cost_usd')} * 3600", WHO)],
            stacked=True,
        ),
        Panel(
            "llm-unpriced",
            "Calls without a price",
            "They have tokens, and neither a reported cost nor a line in the price table. Their cost is unknown, not zero.",
            "short",
            [(increase("modelwatch_llm_unpriced_total", LLM, BY), WHO)],
        ),
        Panel(
            "llm-tokens",
            "Tokens",
            "In, cached ones included; out, reasoning included.",
            "short",
            [(_rate("input_tokens"), f"{WHO} in"), (_rate("output_tokens"), f"{WHO} out")],
        ),
        Panel(
            "llm-token-kinds",
            "Tokens from and to caches, and of reasoning",
            "Cached tokens are part of those in, reasoning is part of those out.",
            "short",
            [
                (_rate("cache_read_tokens"), f"{WHO} from cache"),
                (_rate("cache_write_tokens"), f"{WHO} to cache"),
                (_rate("reasoning_tokens"), f"{WHO} reasoning"),
            ],
        ),
    ],
)

TIME: Row = (
    "How long does it take?",
    [
        Panel(
            "llm-duration",
            "Time of a call",
            "From the request to the end of the answer. Points are single traces.",
            "s",
            quantiles("modelwatch_llm_duration_seconds", LLM, BY, WHO),
            exemplars=True,
            links=[CASES],
        ),
        Panel(
            "llm-first-token",
            "Time to the first token",
            "Of streamed answers that say so. Points are single traces.",
            "s",
            quantiles("modelwatch_llm_time_to_first_token_seconds", LLM, BY, WHO),
            exemplars=True,
            links=[CASES],
        ),
        Panel(
            "llm-per-token",
            "Time per output token",
            "Of each token after the first, in answers that say when the first came. Points are single traces.",
            "s",
            quantiles("modelwatch_llm_time_per_output_token_seconds", LLM, BY, WHO),
            exemplars=True,
            links=[CASES],
        ),
        Panel(
            "llm-context",
            "Use of the context window",
            "Tokens in, of the most that the LLM takes. Near 1 it forgets, or refuses. Only of LLMs whose window is known.",
            "percentunit",
            quantiles("modelwatch_llm_context_window_ratio", LLM, BY, WHO),
            exemplars=True,
            links=[CASES],
        ),
    ],
)


LLM_DASHBOARD = dashboard(
    "modelwatch-llm",
    "Tokens, cost, latency, errors, safety, faithfulness, and the judge.",
    [TRAFFIC, MONEY, BUDGETS, TIME, ANSWERS, SERVING, JUDGE],
    [
        variable("provider", f"label_values(modelwatch_llm_requests_total{{{MODEL}}}, provider)"),
        variable("llm_model", f'label_values(modelwatch_llm_requests_total{{{MODEL}, provider=~"$provider"}}, llm_model)'),
    ],
)
