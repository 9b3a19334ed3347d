"""The metrics of `ragas.metrics.collections` (0.4.3) by name: what each reads, what it asks for, and what its number means.

Kept here as data, because importing ragas takes seconds and 200 MB: a config is checked without it. A test holds the table to
the signatures of ragas. Left out are `MultiModalFaithfulness` and `MultiModalRelevance`, which open the files and addresses that
a context names: what a user's text names is not ours to open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Worse = Literal["higher", "lower"]
TEXT, TEXTS, MESSAGES, ANY = "text", "texts", "messages", "any"


@dataclass(frozen=True, slots=True)
class Metric:
    """`reads` are the arguments it cannot do without, `may_read` those it can. `base` and `each` are the calls that one score
    takes when nothing goes wrong: so many, and so many for each context. `low` and `high` bound its number."""

    ragas: str
    reads: tuple[str, ...]
    base: int = 0
    each: int = 0
    may_read: tuple[str, ...] = ()
    embeddings: bool = False
    worse: Worse = "lower"
    low: float = 0.0
    high: float = 1.0
    options: tuple[str, ...] = ()
    messages: bool = False  # its user_input is a conversation

    @property
    def asks(self) -> bool:
        """Whether it needs an LLM at all."""
        return self.base + self.each > 0

    def calls(self, contexts: int, options: Mapping[str, Any]) -> int:
        """How many calls one score takes, with so many contexts, when nothing goes wrong."""
        if self.ragas == "AnswerRelevancy":
            return int(options.get("strictness", self.base))
        if self.ragas == "FactualCorrectness" and options.get("mode") == "precision":
            return 2
        if self.ragas == "DomainSpecificRubrics":
            return 1
        return self.base + self.each * contexts


RUBRIC = ("user_input", "response", "retrieved_contexts", "reference_contexts", "reference")

METRICS: dict[str, Metric] = {
    "agent_goal_accuracy": Metric("AgentGoalAccuracy", ("user_input", "reference"), 2, messages=True),
    "agent_goal_accuracy_with_reference": Metric("AgentGoalAccuracyWithReference", ("user_input", "reference"), 2, messages=True),
    "agent_goal_accuracy_without_reference": Metric("AgentGoalAccuracyWithoutReference", ("user_input",), 2, messages=True),
    "answer_accuracy": Metric("AnswerAccuracy", ("user_input", "response", "reference"), 2, options=("max_retries",)),
    "answer_correctness": Metric(
        "AnswerCorrectness", ("user_input", "response", "reference"), 3, embeddings=True, options=("weights", "beta")
    ),
    "answer_relevancy": Metric("AnswerRelevancy", ("user_input", "response"), 3, embeddings=True, options=("strictness",)),
    "bleu_score": Metric("BleuScore", ("reference", "response"), options=("kwargs",)),
    "chrf_score": Metric("CHRFScore", ("reference", "response"), options=("kwargs",)),
    "context_entity_recall": Metric("ContextEntityRecall", ("reference", "retrieved_contexts"), 2),
    "context_precision": Metric("ContextPrecision", ("user_input", "reference", "retrieved_contexts"), each=1),
    "context_precision_with_reference": Metric(
        "ContextPrecisionWithReference", ("user_input", "reference", "retrieved_contexts"), each=1
    ),
    "context_precision_without_reference": Metric(
        "ContextPrecisionWithoutReference", ("user_input", "response", "retrieved_contexts"), each=1
    ),
    "context_recall": Metric("ContextRecall", ("user_input", "retrieved_contexts", "reference"), 1),
    "context_relevance": Metric("ContextRelevance", ("user_input", "retrieved_contexts"), 2, options=("max_retries",)),
    "context_utilization": Metric("ContextUtilization", ("user_input", "response", "retrieved_contexts"), each=1),
    "data_compy_score": Metric("DataCompyScore", ("reference", "response"), options=("mode", "metric")),
    "domain_specific_rubrics": Metric(
        "DomainSpecificRubrics", ("response",), 1, may_read=RUBRIC, low=1, high=5, options=("rubrics", "with_reference")
    ),
    "exact_match": Metric("ExactMatch", ("reference", "response")),
    "factual_correctness": Metric(
        "FactualCorrectness", ("response", "reference"), 4, options=("mode", "beta", "atomicity", "coverage")
    ),
    "faithfulness": Metric("Faithfulness", ("user_input", "response", "retrieved_contexts"), 2),
    "instance_specific_rubrics": Metric("InstanceSpecificRubrics", ("response", "rubrics"), 1, may_read=RUBRIC, low=1, high=5),
    "noise_sensitivity": Metric(
        "NoiseSensitivity",
        ("user_input", "response", "reference", "retrieved_contexts"),
        3,
        2,
        worse="higher",
        options=("mode",),
    ),
    "non_llm_string_similarity": Metric("NonLLMStringSimilarity", ("reference", "response"), options=("distance_measure",)),
    "quoted_spans_alignment": Metric(
        "QuotedSpansAlignment", ("response", "retrieved_contexts"), options=("casefold", "min_span_words")
    ),
    "response_groundedness": Metric("ResponseGroundedness", ("response", "retrieved_contexts"), 2, options=("max_retries",)),
    "rouge_score": Metric("RougeScore", ("reference", "response"), options=("rouge_type", "mode")),
    "rubrics_score_with_reference": Metric(
        "RubricsScoreWithReference", ("response", "reference"), 1, may_read=RUBRIC, low=1, high=5, options=("rubrics",)
    ),
    "rubrics_score_without_reference": Metric(
        "RubricsScoreWithoutReference", ("response",), 1, may_read=RUBRIC, low=1, high=5, options=("rubrics",)
    ),
    "semantic_similarity": Metric("SemanticSimilarity", ("reference", "response"), embeddings=True, options=("threshold",)),
    "sql_semantic_equivalence": Metric("SQLSemanticEquivalence", ("response", "reference"), 1, may_read=("reference_contexts",)),
    "string_presence": Metric("StringPresence", ("reference", "response")),
    "summary_score": Metric("SummaryScore", ("reference_contexts", "response"), 3, options=("length_penalty", "coeff")),
    "tool_call_accuracy": Metric(
        "ToolCallAccuracy", ("user_input", "reference_tool_calls"), messages=True, options=("strict_order",)
    ),
    "tool_call_f1": Metric("ToolCallF1", ("user_input", "reference_tool_calls"), messages=True),
    "topic_adherence": Metric("TopicAdherence", ("user_input", "reference_topics"), 3, messages=True, options=("mode",)),
}

OWN = ("discrete", "numeric")
"""Rubrics of one's own: `DiscreteMetric` and `NumericMetric` with a prompt from the settings, one call each."""

FIELDS: dict[str, str] = {
    "user_input": "question",
    "response": "response",
    "retrieved_contexts": "contexts",
    "reference": "attributes.reference",
    "reference_contexts": "attributes.reference_contexts",
    "reference_tool_calls": "attributes.reference_tool_calls",
    "reference_topics": "attributes.reference_topics",
    "rubrics": "attributes.rubrics",
}
"""Argument -> where it is found in a row, unless the settings say otherwise."""

KINDS: dict[str, str] = {
    "user_input": TEXT,
    "response": TEXT,
    "reference": TEXT,
    "retrieved_contexts": TEXTS,
    "contexts": TEXTS,  # in a prompt of one's own
    "reference_contexts": TEXTS,
    "reference_topics": TEXTS,
    "reference_tool_calls": ANY,
    "rubrics": ANY,
}

MISSING: dict[str, str] = {
    "user_input": "no_question",
    "question": "no_question",
    "response": "content_off",
    "retrieved_contexts": "no_context",
    "contexts": "no_context",
}
"""Why a row without the argument is not evaluable; no_reference for the others."""


def names() -> Sequence[str]:
    return (*OWN, *sorted(METRICS))
