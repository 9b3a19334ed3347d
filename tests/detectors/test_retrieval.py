"""Readings of retrieval: worked by hand, as sklearn has them, and inside intervals that hold what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from detectors.context_relevance import ContextRelevance
from detectors.contract import Frame, NotEnoughData, NotEvaluable, Reading
from detectors.faithfulness import Faithfulness
from detectors.retrieval import Retrieval, average_precision, effective

RELEVANCE, SUPPORT = "relevance.context_relevance", "support.faithfulness"


def window(
    passages: Sequence[float], searches: Sequence[float] | None = None, **lists: Sequence[Sequence[float | None] | None]
) -> Frame:
    columns: dict[str, Any] = {
        "retrieval.passages": np.array(passages, dtype=float),
        "retrieval.searches": np.array([1.0] * len(passages) if searches is None else searches),
    }
    for name, column in (("relevance", RELEVANCE), ("support", SUPPORT)):
        if name in lists:
            texts = [None if one is None else json.dumps(one) for one in lists[name]]
            columns[column] = np.array(texts, dtype=object)
    return Frame(columns)


def measure(current: Frame, **settings: Any) -> Reading:
    return Retrieval(Retrieval.Config(**{"min_rows": 1, **settings})).compare(None, current)


def test_an_answer_is_empty_that_something_was_looked_up_for_and_nothing_found() -> None:
    current = window([0, 2, 0, 4, 0], [1, 1, 2, 0, 0])
    reading = measure(current)
    assert (reading.value, reading.n_current, reading.statistic) == (2 / 4, 4, "empty_ratio"), "the last was not to have any"
    assert reading.metrics["passages_per_answer"] == 6 / 4
    assert measure(current, among="all").value == 3 / 5
    assert measure(current, metric="passages_per_answer").value == 6 / 4


def test_context_precision_is_the_mean_of_average_precision_over_answers() -> None:
    lists = [[0.9, 0.1, 0.8], [0.2, 0.7], [0.1], [0.9, 0.9]]
    reading = measure(window([3, 2, 1, 2], relevance=lists), metric="context_precision")
    assert reading.value == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2 + 0 + 1) / 4)
    assert reading.metrics["irrelevant_ratio"] == 3 / 8
    assert reading.lower is not None
    assert reading.upper is not None
    assert 0 <= reading.lower < reading.value < reading.upper <= 1


def test_a_passage_is_relevant_and_a_claim_supported_where_the_detectors_that_say_so_have_it() -> None:
    config = Retrieval.Config()
    assert config.relevant_above == ContextRelevance.flag
    assert config.supports_from == Faithfulness.Config().claim_threshold


def test_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 20):
        for _ in range(20):
            relevant = rng.random(size) < 0.4
            if relevant.any():
                assert average_precision(relevant) == pytest.approx(average_precision_score(relevant, -np.arange(size)))


def test_a_passage_at_the_flag_of_context_relevance_is_not_relevant() -> None:
    assert measure(window([2], relevance=[[0.35, 0.36]]), metric="irrelevant_ratio").value == 0.5
    assert measure(window([2], relevance=[[0.35, 0.36]]), metric="irrelevant_ratio", relevant_above=0.3).value == 0


def test_empty_passages_have_no_rank() -> None:
    assert measure(window([2], relevance=[[None, 0.9]]), metric="context_precision").value == 1.0


def test_a_passage_is_unused_where_no_supported_claim_stands_in_it() -> None:
    current = window([3, 2, 1], support=[[0.9, None, 0.2], [0.55, 0.7], None])
    reading = measure(current, metric="unused_ratio")
    assert (reading.value, reading.n_current) == (2 / 5, 2), "what was not read in whole has no part in it"
    assert measure(current, metric="unused_ratio", supports_from=0.8).value == 4 / 5


def test_passages_of_one_answer_are_alike_and_count_for_less() -> None:
    rng = np.random.default_rng(1)
    together = np.repeat(rng.random(200) < 0.3, 5).reshape(200, 5)
    apart = rng.random((200, 5)) < 0.3
    sizes = np.full(200, 5.0)
    assert effective(together.sum(axis=1), sizes) == pytest.approx(200, rel=0.01)
    assert effective(apart.sum(axis=1), sizes) > 800


def test_the_interval_of_a_share_of_passages_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(400):
        chance = rng.beta(0.6, 1.4, 100)  # of an answer's passages; 0.3 in the mean
        lists = [[0.1 if unlucky else 0.9 for unlucky in rng.random(rng.integers(1, 8)) < p] for p in chance]
        reading = measure(window([len(one) for one in lists], relevance=lists), metric="irrelevant_ratio")
        assert reading.lower is not None
        assert reading.upper is not None
        inside += reading.lower <= 0.3 <= reading.upper
    assert 0.92 < inside / 400 < 0.98


def test_shares_at_the_ends_keep_an_interval() -> None:
    reading = measure(window([2] * 50, support=[[0.9, 0.9]] * 50), metric="unused_ratio")
    assert (reading.value, reading.lower) == (0, 0)
    assert reading.upper is not None
    assert 0.03 < reading.upper < 0.08, "50 answers, whatever they had of passages"


@pytest.mark.parametrize(
    ("metric", "of"), (("empty_ratio", 0), ("passages_per_answer", 0), ("context_precision", 0), ("unused_ratio", 0))
)
def test_what_was_never_looked_up_or_judged_is_not_enough_data_and_never_zero(metric: str, of: int) -> None:
    silent = window([0] * 50, [0] * 50, relevance=[None] * 50, support=[None] * 50)
    with pytest.raises(NotEnoughData, match=f"{metric}: {of} answers to have it of, min_rows is 30"):
        measure(silent, metric=metric, min_rows=30)


def test_a_column_that_is_not_there_is_not_evaluable() -> None:
    with pytest.raises(NotEvaluable, match=r"missing_column.*relevance\.context_relevance"):
        measure(window([1]), metric="context_precision")


@pytest.mark.parametrize("text", ("", "{}", "[2]", "[NaN]", '["a"]', "[true]", "[" * 5_000, "nonsense"))
def test_what_is_no_list_of_shares_is_left_out(text: str) -> None:
    current = window([1, 1], relevance=[[0.9], None])
    column = np.array([current.categories(RELEVANCE).names[0], text], dtype=object)
    spoilt = Frame({name: current.numbers(name) for name in ("retrieval.passages", "retrieval.searches")} | {RELEVANCE: column})
    reading = measure(spoilt, metric="context_precision")
    assert (reading.value, reading.n_current) == (1.0, 1)


def test_counts_that_are_no_counts_are_left_out() -> None:
    reading = measure(window([math.nan, math.inf, 0, 3]))
    assert (reading.value, reading.n_current) == (0.5, 2)


def test_only_what_a_metric_is_made_of_is_read() -> None:
    base = {"retrieval.passages", "retrieval.searches"}
    wanted: dict[str, set[str]] = {
        "empty_ratio": set(), "passages_per_answer": set(), "context_precision": {"relevance.mine"},
        "irrelevant_ratio": {"relevance.mine"}, "unused_ratio": {"support.yours"},
    }  # fmt: skip
    for metric, more in wanted.items():
        config = Retrieval.Config.model_validate({"metric": metric, "relevance_by": "mine", "support_by": "yours"})
        assert Retrieval(config).inputs == base | more


def test_lower_is_worse_only_where_more_is_good() -> None:
    metrics = ("empty_ratio", "context_precision", "unused_ratio")
    worse = {m: Retrieval(Retrieval.Config.model_validate({"metric": m})).worse for m in metrics}
    assert worse == {"empty_ratio": "higher", "context_precision": "lower", "unused_ratio": "higher"}
