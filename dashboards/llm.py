"""LLM: what is asked of models, what it costs, how long it takes, what fails, and whether the answers are any good."""

from __future__ import annotations

from dashboards.frame import Row, dashboard, variable
from dashboards.panel import CASES, RED_FROM_ONE, Panel
from dashboards.promql import MODEL, TARGET, increase, largest, quantile, quantiles, rate, share

LLM = f'{MODEL}, provider=~"$provider", llm_model=~"$llm_model"'
WHO, BY = "{{model}} {{provider}} {{llm_model}}", "model, provider, llm_model"
SCORES, EVALUATIONS = "modelwatch_detector_score_ratio", "modelwatch_detector_evaluations_total"
SUPPORT = f'{MODEL}, detector=~"faithfulness|hallucination"'
SAFETY = f'{MODEL}, detector=~"toxicity.*|pii|prompt_injection"'
RELEVANCE = f'{MODEL}, detector=~".*_relevance"'
RETRIEVAL = f'{MODEL}, detector="retrieval"'


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

ANSWERS: Row = (
    "Are the answers any good, and safe?",
    [
        Panel(
            "flagged",
            "Share of answers flagged",
            "By each detector, of the answers it could tell of. Points beyond a check's bound open an incident.",
            "percentunit",
            [
                (
                    share(
                        rate("modelwatch_detector_flagged_total", MODEL, "model, detector"),
                        rate(EVALUATIONS, MODEL, "model, detector"),
                    ),
                    "{{model}} {{detector}}",
                )
            ],
            links=[CASES],
        ),
        Panel(
            "score",
            "Scores",
            "Median and 95th percentile of what each detector gave. Points are single answers, and lead to their traces.",
            "percentunit",
            quantiles(SCORES, MODEL, "model, detector", "{{model}} {{detector}}", (0.5, 0.95)),
            exemplars=True,
            links=[CASES],
        ),
        Panel(
            "faithfulness",
            "Faithfulness and hallucination",
            "Median score of the detectors that read the claims of an answer against its passages.",
            "percentunit",
            [
                (
                    quantile(0.5, SCORES, SUPPORT, "model, detector"),
                    "{{model}} {{detector}}",
                )
            ],
            exemplars=True,
            links=[CASES],
        ),
        Panel(
            "safety",
            "Safety",
            "95th percentile of toxicity and its like: the worst twentieth of the answers.",
            "percentunit",
            [
                (
                    quantile(0.95, SCORES, SAFETY, "model, detector"),
                    "{{model}} {{detector}}",
                )
            ],
            exemplars=True,
            links=[CASES],
        ),
        Panel(
            "relevance",
            "Relevance",
            "Median of what the detectors of relevance gave.",
            "percentunit",
            [(quantile(0.5, SCORES, RELEVANCE, "model, detector"), "{{model}} {{detector}}")],
            exemplars=True,
            links=[CASES],
        ),
        Panel(
            "retrieval",
            "Retrieval",
            "Readings of checks of retrieval: shares of empty answers, of irrelevant or unused passages, and precision.",
            "short",
            [
                (
                    largest("modelwatch_reading", RETRIEVAL, "model, check, slice"),
                    "{{model}} {{check}} {{slice}}",
                )
            ],
            links=[CASES],
        ),
        Panel(
            "not-evaluable",
            "Answers a detector could not tell of",
            "By reason; they count for nothing, neither good nor bad.",
            "cps",
            [
                (
                    rate("modelwatch_detector_not_evaluable_total", MODEL, "model, detector, reason"),
                    "{{model}} {{detector}} {{reason}}",
                )
            ],
            stacked=True,
        ),
        Panel(
            "traces",
            "Traces",
            "Settled: their calls were counted and their answers can be scored. Failed: their calls count one by one.",
            "cps",
            [
                (rate("modelwatch_traces_settled_total", MODEL, "model"), "{{model}} settled"),
                (rate("modelwatch_traces_failed_total", MODEL, "model"), "{{model}} failed"),
            ],
        ),
    ],
)

JUDGE: Row = (
    "What does the judge do, and what is left to it?",
    [
        Panel(
            "judge-up",
            "Judge away",
            "1 after three failures in a row, until it answers.",
            "short",
            [(f"1 - min(modelwatch_judge_up{{{TARGET}}})", "away")],
            "stat",
            4,
            8,
            RED_FROM_ONE,
        ),
        Panel(
            "judge-budget",
            "Budget left",
            "Share of the day's calls and money that is left. At 0 what is chosen is not evaluable until midnight.",
            "percentunit",
            [(f"min by (instance, kind) (modelwatch_judge_budget_left_ratio{{{TARGET}}})", "{{instance}} {{kind}}")],
            width=8,
        ),
        Panel(
            "judge-calls",
            "Calls to the judge",
            "By the LLM that is asked and what came of it: HTTP status, timeout, connection or cancelled.",
            "reqps",
            [(rate("modelwatch_judge_calls_total", TARGET, "llm_model, code"), "{{llm_model}} {{code}}")],
        ),
        Panel(
            "judge-cost",
            "Cost of the judge",
            "USD an hour, by its tokens and price; 0 where the price is not known.",
            "currencyUSD",
            [(f"{rate('modelwatch_judge_cost_usd_total', TARGET, 'llm_model')} * 3600", "{{llm_model}}")],
        ),
        Panel(
            "judge-tokens",
            "Tokens of the judge",
            "As its endpoint reports them, else estimated.",
            "short",
            [
                (rate("modelwatch_judge_input_tokens_total", TARGET, "llm_model"), "{{llm_model}} in"),
                (rate("modelwatch_judge_output_tokens_total", TARGET, "llm_model"), "{{llm_model}} out"),
            ],
        ),
        Panel(
            "judge-selected",
            "Answers chosen to be judged",
            "sampled: by the rate of the check; escalated: a local detector was unsure of them.",
            "cps",
            [(rate("modelwatch_judge_selected_total", MODEL, "model, metric, why"), "{{model}} {{metric}} {{why}}")],
            stacked=True,
        ),
        Panel(
            "judge-waits",
            "Waits for the judge",
            "Records that wait, and scores that were put off to be tried again, by reason.",
            "short",
            [
                (f'sum(modelwatch_queue_records{{{TARGET}, queue="judging"}})', "waiting"),
                (increase("modelwatch_judge_put_off_total", TARGET, "reason"), "put off: {{reason}}"),
            ],
        ),
        Panel(
            "judge-duration",
            "Time of a score by the judge",
            "All calls of one score together.",
            "s",
            quantiles("modelwatch_judge_score_duration_seconds", TARGET),
        ),
    ],
)

LLM_DASHBOARD = dashboard(
    "modelwatch-llm",
    "Tokens, cost, latency, errors, safety, faithfulness, and the judge.",
    [TRAFFIC, MONEY, TIME, ANSWERS, JUDGE],
    [
        variable("provider", f"label_values(modelwatch_llm_requests_total{{{MODEL}}}, provider)"),
        variable("llm_model", f'label_values(modelwatch_llm_requests_total{{{MODEL}, provider=~"$provider"}}, llm_model)'),
    ],
)
