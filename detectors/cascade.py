"""A cascade: a quick look at everything, a closer one at what the quick one leaves open.

Viola and Jones ("Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001) put it to use; here a stage
passes on what lies in a band around the point where a decision would turn, so ranks far from it are the quick stage's and those
near it the closer one's. Bands are chosen on labelled data by `detectors.training.bands`.

    stages = [
        Stage("static", quick, unsure=lambda found: band.holds(found.value)),
        Stage("minilm", closer, unsure=lambda found: narrow.holds(found.value)),
        Stage("cross_encoder", slow),
    ]
    for answer in run(items, stages): answer.stage, answer.result, answer.unclear
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Band(NamedTuple):
    """Values from `low` to `high`, both included: where a stage is unsure.

    >>> Band(0.3, 0.5).holds(0.3), Band(0.3, 0.5).holds(0.51), NOWHERE.holds(0.5)
    (True, False, False)
    """

    low: float
    high: float

    @classmethod
    def around(cls, middle: float, width: float) -> Band:
        """Values so far from `middle` or nearer; with a width of 0 none."""
        return cls(middle - width, middle + width) if width else NOWHERE

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


NOWHERE = Band(1.0, -1.0)
EVERYWHERE = Band(float("-inf"), float("inf"))


@dataclass(frozen=True)  # without slots: `Stage[A, B](...)` cannot be written with them in Python 3.11
class Stage(Generic[T, R]):
    """One look. `judge` gives a result for each item, in order, and must give an item alone what it gives it among others."""

    name: str
    judge: Callable[[Sequence[T], Sequence[R | None]], Sequence[R]]
    """Given the items and, for each, what the stage before said of it (None in the first)."""
    unsure: Callable[[R], bool] = lambda _: False


class Answer(NamedTuple, Generic[R]):
    """The last result for an item, the stage that gave it, and whether that stage was unsure, too (a case for a judge)."""

    result: R
    stage: str
    unclear: bool


def run(items: Sequence[T], stages: Sequence[Stage[T, R]]) -> list[Answer[R]]:
    """Each item through the stages until one is sure, or there is none left.

    Whether an item goes on depends on that item alone, so a batch gives what its items alone would give.
    """
    if not stages:
        raise ValueError("a cascade needs a stage")
    answers: list[Answer[R] | None] = [None] * len(items)
    open_: list[int] = list(range(len(items)))
    for stage in stages:
        if not open_:
            break
        before = [found.result if (found := answers[i]) is not None else None for i in open_]
        results = stage.judge([items[i] for i in open_], before)
        if len(results) != len(open_):
            raise ValueError(f"stage {stage.name} gave {len(results)} results for {len(open_)} items")
        for i, result in zip(open_, results, strict=True):
            answers[i] = Answer(result, stage.name, stage.unsure(result))
        open_ = [i for i in open_ if (found := answers[i]) is not None and found.unclear]
    return [found for found in answers if found is not None]
