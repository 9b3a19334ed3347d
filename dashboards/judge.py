"""The row on the LLM that judges: what it is asked, what it costs, and what is left to it."""

from __future__ import annotations

from dashboards.frame import Row
from dashboards.panel import RED_FROM_ONE, Panel
from dashboards.promql import MODEL, TARGET, increase, quantiles, rate

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
