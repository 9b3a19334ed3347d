"""What retrieval gave the answers of a window: nothing, what was asked for first, what the answers did not use.

Context precision is average precision over the ranks of an answer's passages (Manning, Raghavan and Schuetze, "Introduction to
Information Retrieval", 2008, section 8.4), as in ragas: the mean of the precision at the rank of each relevant passage.
Intervals: Wilson's for shares of answers; of shares of passages Wilson's for as many independent passages as would be as sure,
since those of one answer are alike (Dean and Pagano, Survey Statistics and Methodology 3, 2015; the variance of a ratio: Cochran,
"Sampling Techniques", 1977, section 2.11); of means by normal theory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from pydantic import Field

from detectors.contract import DetectorConfig, FloatArray, NotEnoughData, Reading, Window, Worse
from detectors.intervals import Interval, mean_interval, share_interval, wilson, within
from detectors.quality import BoolArray

Metric = Literal["empty_ratio", "passages_per_answer", "context_precision", "irrelevant_ratio", "unused_ratio"]
BY_RELEVANCE = frozenset({"context_precision", "irrelevant_ratio"})
BETTER_HIGH = frozenset({"passages_per_answer", "context_precision"})

PASSAGES, SEARCHES = "retrieval.passages", "retrieval.searches"

Judged = Sequence[float | None]
"""A number for each passage of an answer in the order of its rank; None where there is none."""


@dataclass(frozen=True, slots=True)
class Found:
    """A number, and of how many answers it is."""

    value: float
    n: int
    interval: Interval | None


class Retrieval:
    """One number of what was retrieved for the answers of a window, and the others of the same columns in `metrics`.

    Reads:  per answer: `retrieval.passages` (how many it was given) and `retrieval.searches` (retrievals made for it); for
            context_precision and irrelevant_ratio `relevance.NAME`, for unused_ratio `support.NAME`, which are JSON lists with
            a number in 0..1, or null, for each passage in the order of its rank.
    Gives:  `metric`, 0 to 1 but for passages_per_answer, with an interval:
            empty_ratio           answers that a retrieval was made for and that were given no passage
            passages_per_answer   mean, over the same answers
            context_precision     mean over answers of the average precision of their passages; 0 where none is relevant
            irrelevant_ratio      of the passages, those that are not relevant
            unused_ratio          of the passages, those that support no claim of their answer
    Raises: NotEnoughData, when it would be of fewer than `min_rows` answers.
            NotEvaluable: missing_column, not_numeric.
    """

    name: ClassVar[str] = "retrieval"
    version: ClassVar[str] = "1"
    inputs: frozenset[str] = frozenset({PASSAGES, SEARCHES})
    reference: ClassVar[str] = "none"
    worse: Worse = "higher"

    class Config(DetectorConfig):
        metric: Metric = Field("empty_ratio", description="the reading")
        among: Literal["searched", "all"] = Field(
            "searched", description="answers that were to have passages: those a retrieval was made for, or all"
        )
        relevance_by: str = Field("context_relevance", min_length=1, description="check or detector that judged the passages")
        relevant_above: float = Field(0.35, ge=0, le=1, description="a passage is relevant whose probability is above")
        support_by: str = Field("faithfulness", min_length=1, description="check or detector that found claims in passages")
        supports_from: float = Field(0.5, ge=0, le=1, description="a claim is supported from here on")
        min_rows: int = Field(30, ge=1, description="answers that the metric is of")
        confidence: float = Field(0.95, gt=0, lt=1, description="of the interval")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = "lower" if config.metric in BETTER_HIGH else "higher"
        self._relevance = f"relevance.{config.relevance_by}" if config.metric in BY_RELEVANCE else None
        self._support = f"support.{config.support_by}" if config.metric == "unused_ratio" else None
        self.inputs = Retrieval.inputs | {name for name in (self._relevance, self._support) if name}

    def compare(self, reference: Window | None, current: Window) -> Reading:
        c = self.config
        found = {name: one for name, one in self._measured(current).items() if one is not None}
        asked = found.get(c.metric)
        if asked is None or asked.n < c.min_rows:
            n = asked.n if asked is not None else 0
            raise NotEnoughData(f"{c.metric}: {n} answers to have it of, min_rows is {c.min_rows}")
        low, high = asked.interval or (None, None)
        metrics = {name: one.value for name, one in found.items()}
        return Reading(asked.value, c.metric, n_current=asked.n, lower=low, upper=high, metrics=metrics)

    def _measured(self, window: Window) -> Mapping[str, Found | None]:
        c = self.config
        passages, searches = (np.where(np.isfinite(n := window.numbers(name)), n, np.nan) for name in (PASSAGES, SEARCHES))
        given = passages[~np.isnan(passages) & ((c.among == "all") | (searches > 0) | (passages > 0))]
        found = {
            "empty_ratio": _share(int((given == 0).sum()), len(given), c.confidence),
            "passages_per_answer": _mean(given, c.confidence, highest=math.inf),
        }
        if self._relevance is not None:
            ranked = [np.array(one) > c.relevant_above for one in judged(window, self._relevance)]
            precision = np.array([average_precision(one) for one in ranked], dtype=np.float64)
            found["context_precision"] = _mean(precision, c.confidence)
            found["irrelevant_ratio"] = _share_of_passages([(int((~one).sum()), len(one)) for one in ranked], c.confidence)
        if self._support is not None:
            best = [np.array([-1.0 if s is None else s for s in one]) for one in _lists(window, self._support)]
            counts = [(int((one < c.supports_from).sum()), len(one)) for one in best]
            found["unused_ratio"] = _share_of_passages(counts, c.confidence)
        assert set(found) <= set(get_args(Metric))
        return found


# --- columns ---------------------------------------------------------------------------------------------------------


def judged(window: Window, column: str) -> list[list[float]]:
    """The numbers of each answer that has any, without the passages that have none (empty ones)."""
    found = ([value for value in one if value is not None] for one in _lists(window, column))
    return [one for one in found if one]


def _lists(window: Window, column: str) -> list[Judged]:
    """Of each answer with at least one passage."""
    column_ = window.categories(column)
    read = [_read(name) for name in column_.names]
    return [one for code in column_.codes if code >= 0 and (one := read[code])]


def _read(text: str) -> Judged | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(_is_share(value) for value in found):
        return None
    return found


def _is_share(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1)


# --- the maths -------------------------------------------------------------------------------------------------------


def average_precision(relevant: Sequence[bool] | BoolArray) -> float:
    """Mean of the precision at the rank of each relevant passage, 0 where none is. `relevant`: (passages,), the first first.

    >>> average_precision([True, False, True]), average_precision([False, True]), average_precision([False])
    (0.8333333333333333, 0.5, 0.0)
    """
    hits = np.flatnonzero(relevant)
    return float(((np.arange(len(hits)) + 1) / (hits + 1)).mean()) if len(hits) else 0.0


def _share(hits: int, n: int, confidence: float) -> Found | None:
    return Found(hits / n, n, share_interval(hits, n, confidence)) if n else None


def _mean(values: FloatArray, confidence: float, highest: float = 1.0) -> Found | None:
    if not len(values):
        return None
    interval = mean_interval(values, confidence)
    return Found(float(values.mean()), len(values), interval and within(interval, 0.0, highest))


def _share_of_passages(counts: Sequence[tuple[int, int]], confidence: float) -> Found | None:
    """The share of hits in all passages, given (hits, passages) of each answer."""
    if not counts:
        return None
    hits, passages = np.array(counts, dtype=np.float64).T
    ratio, n = float(hits.sum() / passages.sum()), len(counts)
    alike = effective(hits, passages)
    return Found(ratio, n, wilson(ratio * alike, alike, confidence))


def effective(hits: FloatArray, passages: FloatArray) -> float:
    """How many independent passages would tell the share of hits as surely as these do, of which those of one answer, (answers,),
    go together. Where all or none are hits nothing tells how alike they are, and each answer counts as one passage.

    >>> effective(np.array([2.0, 0, 2, 0]), np.array([2.0, 2, 2, 2]))  # all or nothing: one less than 4
    3.0
    """
    n, total = len(hits), float(passages.sum())
    ratio = float(hits.sum() / total)
    if n < 2 or ratio in (0.0, 1.0):
        return float(n)
    residuals = hits - ratio * passages
    variance = n / (n - 1) * float(residuals @ residuals) / total**2
    return min(total, ratio * (1 - ratio) / variance) if variance > 0 else total
