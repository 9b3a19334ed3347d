"""The rows on budgets and on the hosts that serve. What is divided and foreseen there is recorded by the rules."""

from __future__ import annotations

from dashboards.frame import Row
from dashboards.panel import GREEN, Panel
from dashboards.promql import MODEL, largest

BUDGET = "model_environment_prompt_period:modelwatch_budget"
OF_BUDGET = 'model=~"$model"'  # a rule has summed over daemons: no job, no instance
OF_LLM = 'provider=~"$provider", llm_model=~"$llm_model"'
WHOSE = "{{model}} {{environment}} {{prompt}}, {{unit}} a {{period}}"
WHO = "{{model}} {{environment}} {{prompt}}, a {{period}}"
BY = "model, environment, prompt, period"
SERVED, THEIRS = "provider_llm_model:modelwatch_llm", "{{provider}} {{llm_model}}"
AT_THE_LIMIT = (*GREEN, ("orange", 0.8), ("red", 1.0))

BUDGETS: Row = (
    "What is left of the budgets?",
    [
        Panel(
            "budget-share",
            "Budget spent",
            "Share of the limit that is spent, at the least, and share of the period that is over.",
            "percentunit",
            [
                (f"{BUDGET}_spent:ratio{{{OF_BUDGET}}}", WHOSE),
                (f"{BUDGET}_elapsed:ratio{{{OF_BUDGET}}}", f"{WHO}: time"),
            ],
            thresholds=AT_THE_LIMIT,
        ),
        Panel(
            "budget-forecast",
            "Budget at the end of the period",
            "Share that will be spent at the present pace: of a day that of the last hour, of a month that of the last day.",
            "percentunit",
            [(f"{BUDGET}_forecast:ratio{{{OF_BUDGET}}}", WHOSE)],
            thresholds=AT_THE_LIMIT,
        ),
        Panel(
            "budget-burn",
            "Pace",
            "Share spent over share of the period that is over: above 1 the budget does not last.",
            "short",
            [(f"{BUDGET}_burn:ratio{{{OF_BUDGET}}}", WHOSE)],
            thresholds=(*GREEN, ("red", 1.0)),
        ),
        Panel(
            "budget-money",
            "Money of the period",
            "Spent, and the limit, in USD.",
            "currencyUSD",
            [
                (largest("modelwatch_budget_spent_usd", MODEL, BY), f"{WHO} spent"),
                (largest("modelwatch_budget_limit_usd", MODEL, BY), f"{WHO} limit"),
            ],
        ),
        Panel(
            "budget-tokens",
            "Tokens of the period",
            "Used, and the limit.",
            "short",
            [
                (largest("modelwatch_budget_spent_tokens", MODEL, BY), f"{WHO} used"),
                (largest("modelwatch_budget_limit_tokens", MODEL, BY), f"{WHO} limit"),
            ],
        ),
        Panel(
            "budget-unknown",
            "Calls outside the budgets",
            "Nobody knows what they cost, or how many tokens they had: what is spent is more than is shown.",
            "short",
            [(largest("modelwatch_budget_unknown_calls", MODEL, f"{BY}, unit"), WHOSE)],
        ),
    ],
)

SERVING: Row = (
    "Do those who serve keep up?",
    [
        Panel(
            "unavailable",
            "Requests that were not served",
            "Share of requests with an error that counts against availability, by provider and LLM, of all models together.",
            "percentunit",
            [(f"{SERVED}_unavailable:ratio_rate{window}{{{OF_LLM}}}", f"{THEIRS} {window}") for window in ("5m", "1h", "6h")],
        ),
        Panel(
            "quota",
            "Tokens and requests a minute",
            "By provider and LLM, of all models together. Quotas are in the config.",
            "short",
            [
                (f"{SERVED}_tokens_per_minute:rate2m{{{OF_LLM}}}", f"{THEIRS} tokens"),
                (
                    f"{SERVED}_requests_per_minute:rate2m{{{OF_LLM}}}",
                    f"{THEIRS} requests",
                ),
            ],
        ),
        Panel(
            "serving-queue",
            "Requests at the serving hosts",
            "Waiting and running, as vLLM says.",
            "short",
            [
                ('host_llm_model:serving_requests_waiting:sum{llm_model=~"$llm_model"}', "{{host}} {{llm_model}} waiting"),
                ('host_llm_model:serving_requests_running:sum{llm_model=~"$llm_model"}', "{{host}} {{llm_model}} running"),
            ],
        ),
        Panel(
            "serving-memory",
            "Memory of the serving hosts",
            "Of the GPUs, as dcgm-exporter says, and vLLM's cache of keys and values.",
            "percentunit",
            [
                ('host_gpu:serving_gpu_memory:ratio{host=~".+"}', "{{host}} GPU {{gpu}}"),
                ('host_llm_model:serving_cache:ratio{llm_model=~"$llm_model"}', "{{host}} {{llm_model}} cache"),
            ],
        ),
    ],
)
