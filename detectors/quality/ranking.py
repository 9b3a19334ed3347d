"""Orders of items, one for each query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detectors.contract import FloatArray, Part
from detectors.intervals import Interval, Uncertainty, mean_interval, within


@dataclass(frozen=True, slots=True)
class Rankings:
    """Items of queries, a row each: the query's number (0 up), the score it was ranked by, and how relevant it was (0 or more).

    A metric is its mean over the queries that have a relevant item; in the others no order is better than another. `relevant` is
    from where on an item counts as such, where a metric asks yes or no.
    """

    query: NDArray[np.int64]
    score: FloatArray
    relevance: FloatArray
    coverage: Mapping[str, float] = field(default_factory=dict)
    k: int = 10
    relevant: float = 1.0

    @property
    def rows(self) -> int:
        return len(self.query)

    def metrics(self) -> dict[str, float | None]:
        by_query = self.by_query()
        found: dict[str, float | None] = {
            name: float(values.mean()) if len(values) else None for name, values in by_query.items()
        }
        return {**found, "queries": float(len(np.unique(self.query))), "queries_used": float(len(by_query["map"]))}

    def interval(self, metric: str, sure: Uncertainty) -> Interval | None:
        """Normal theory over the queries: items of one query do not vary on their own."""
        found = mean_interval(self.by_query()[metric], sure.confidence)
        return found and within(found)

    def parts(self) -> tuple[Part, ...]:
        return ()

    def by_query(self) -> dict[str, FloatArray]:
        """Each metric for each query with a relevant item, in the order of their numbers."""
        order = np.lexsort((-self.score, self.query))
        query, score, gain = self.query[order], self.score[order], self.relevance[order]
        hit = (gain >= self.relevant).astype(np.float64)
        starts = np.flatnonzero(np.diff(query, prepend=-1))
        first = np.repeat(starts, np.diff(np.append(starts, len(query))))  # of each row, where its query begins
        with_hit = np.add.reduceat(hit, starts) > 0
        with_gain = np.add.reduceat(gain, starts) > 0
        tie = np.flatnonzero((np.diff(query, prepend=-1) != 0) | (np.diff(score, prepend=np.nan) != 0))
        return {
            "ndcg": _ndcg(query, gain, starts, first, tie, self.k)[with_gain],
            "map": _average_precision(hit, starts, first, tie)[with_hit],
            "mrr": _reciprocal_rank(hit, starts, first, tie)[with_hit],
            "recall_at_k": _recall(hit, starts, first, tie, self.k)[with_hit],
        }


def _shared(values: FloatArray, tie: NDArray[np.int64]) -> FloatArray:
    """Each value replaced by the mean of its tie: what it is on average over the orders that the scores leave open."""
    sizes = np.diff(np.append(tie, len(values)))
    return np.asarray(np.repeat(np.add.reduceat(values, tie) / sizes, sizes), dtype=np.float64)


def _ndcg(
    query: NDArray[np.int64],
    gain: FloatArray,
    starts: NDArray[np.int64],
    first: NDArray[np.int64],
    tie: NDArray[np.int64],
    k: int,
) -> FloatArray:
    """Discounted gain of the first k places over the best possible, ties shared. Järvelin and Kekäläinen, TOIS 20 (2002), with
    linear gains, as scikit-learn's `ndcg_score`."""
    rank = np.arange(len(gain)) - first
    discount = np.where(rank < k, 1 / np.log2(rank + 2), 0.0)
    found = np.add.reduceat(_shared(gain, tie) * discount, starts)
    best = np.add.reduceat(gain[np.lexsort((-gain, query))] * discount, starts)
    return np.asarray(found / np.where(best > 0, best, 1.0), dtype=np.float64)


def _average_precision(
    hit: FloatArray, starts: NDArray[np.int64], first: NDArray[np.int64], tie: NDArray[np.int64]
) -> FloatArray:
    """Mean over the relevant items of the precision down to them; items of one score come all at once, as in scikit-learn."""
    hits = np.cumsum(hit)
    so_far = hits - (hits - hit)[first]
    last = np.append(tie[1:], len(hit)) - 1  # of each tie
    sizes = np.diff(np.append(tie, len(hit)))
    precision = np.repeat(so_far[last] / (last - first[last] + 1), sizes)
    total = np.add.reduceat(hit, starts)
    return np.asarray(np.add.reduceat(precision * hit, starts) / np.where(total > 0, total, 1.0), dtype=np.float64)


def _reciprocal_rank(hit: FloatArray, starts: NDArray[np.int64], first: NDArray[np.int64], tie: NDArray[np.int64]) -> FloatArray:
    """1 over the place of the first relevant item. Within a tie the irrelevant ones come first: equal scores earn nothing."""
    sizes = np.diff(np.append(tie, len(hit)))
    irrelevant = np.repeat(np.add.reduceat(1 - hit, tie), sizes)
    place = np.repeat(tie, sizes) - first + irrelevant + 1
    return np.asarray(np.maximum.reduceat(hit / place, starts), dtype=np.float64)


def _recall(hit: FloatArray, starts: NDArray[np.int64], first: NDArray[np.int64], tie: NDArray[np.int64], k: int) -> FloatArray:
    """Share of a query's relevant items among its first k, ties shared."""
    rank = np.arange(len(hit)) - first
    total = np.add.reduceat(hit, starts)
    return np.asarray(np.add.reduceat(_shared(hit, tie) * (rank < k), starts) / np.where(total > 0, total, 1.0), dtype=np.float64)
