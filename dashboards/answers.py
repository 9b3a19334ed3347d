"""The rows on what answers are worth: flagged, faithful, safe, relevant, with good passages."""

from __future__ import annotations

from dashboards.frame import Row
from dashboards.panel import CASES, Panel
from dashboards.promql import MODEL, largest, quantile, quantiles, rate, share

SCORES, EVALUATIONS = "modelwatch_detector_score_ratio", "modelwatch_detector_evaluations_total"
SUPPORT = f'{MODEL}, detector=~"faithfulness|hallucination"'
SAFETY = f'{MODEL}, detector=~"toxicity.*|pii|prompt_injection"'
RELEVANCE = f'{MODEL}, detector=~".*_relevance"'
RETRIEVAL = f'{MODEL}, detector="retrieval"'

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
