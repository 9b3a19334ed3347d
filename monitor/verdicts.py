"""From readings to verdicts to incidents: pure functions of a check's readings in the order of their slots.

Because a verdict depends on nothing but that sequence, a replay, a backfill and a run cut by restarts end in the same
verdicts; a restated reading just has the sequence judged again from its slot on.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from detectors.contract import Outcome
from monitor.config import Threshold


@dataclass(frozen=True, slots=True)
class Judged:
    """One slot: the number that was compared, and what the check made of it."""

    slot: datetime
    outcome: Outcome
    low: float | None = None  # the reading's interval, or its value twice
    high: float | None = None
    beyond: bool | None = None
    firing: bool = False
    bad: int = 0  # windows in a row beyond the threshold
    good: int = 0  # windows in a row back inside
    revision: int = 0

    @property
    def same_word(self) -> tuple[object, ...]:
        return (self.outcome, self.low, self.high, self.beyond, self.firing)


@dataclass(frozen=True, slots=True)
class Incident:
    """Verdicts that belong together, from the first firing slot to the one that resolved it."""

    opened: datetime
    last: datetime
    resolved: datetime | None
    peak: float

    def id(self, check: str, slice_name: str) -> str:
        """The same in every replay of the same data."""
        text = f"{check}\x00{slice_name}\x00{self.opened.isoformat()}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class History:
    """A check's verdicts on one slice, by slot, and the rule that leads from one to the next."""

    def __init__(self, threshold: Threshold, *, breaches: int, clear: int) -> None:
        self._threshold = threshold
        self._breaches = breaches
        self._clear = clear
        self._slots: list[datetime] = []
        self._verdicts: dict[datetime, Judged] = {}

    def restore(self, verdicts: Sequence[Judged]) -> None:
        """Stored verdicts, in slot order. The counts of windows in a row follow from them."""
        for verdict in verdicts:
            previous = self._verdicts[self._slots[-1]] if self._slots else None
            bad, good = self._streaks(previous, verdict.beyond)
            self._slots.append(verdict.slot)
            self._verdicts[verdict.slot] = replace(verdict, bad=bad, good=good)

    def put(self, slot: datetime, outcome: Outcome, low: float | None, high: float | None) -> list[Judged]:
        """Take a reading, new or restated, and return each verdict that is new or changed by it, in slot order.

        `low` and `high` are the ends of the reading's interval, both the value where it has none.
        """
        known = self._verdicts.get(slot)
        if known is None:
            insort(self._slots, slot)
        revision = known.revision if known else 0
        self._verdicts[slot] = Judged(slot, outcome, low, high, revision=revision)
        changed = []
        start = bisect_left(self._slots, slot)
        for position in range(start, len(self._slots)):
            at = self._slots[position]
            before = known if at == slot else self._verdicts[at]
            previous = self._verdicts[self._slots[position - 1]] if position else None
            after = self._judge(previous, self._verdicts[at])
            if before is None or after.same_word != before.same_word:
                after = replace(after, revision=after.revision + 1)
                changed.append(after)
            elif at != slot and (after.bad, after.good) == (before.bad, before.good):
                break  # from here on nothing can differ
            self._verdicts[at] = after
        return changed

    @property
    def latest(self) -> Judged | None:
        return self._verdicts[self._slots[-1]] if self._slots else None

    def judged_number(self, verdict: Judged) -> float | None:
        """The end of the interval that has to be beyond the threshold before anybody is woken."""
        if verdict.low is None or verdict.high is None:
            return None
        if self._threshold.upper is None:
            return verdict.high
        if self._threshold.lower is None:
            return verdict.low
        above, below = verdict.low - self._threshold.upper, self._threshold.lower - verdict.high
        return verdict.low if above >= below else verdict.high

    def incidents(self, since: datetime | None = None) -> Iterator[Incident]:
        """Runs of firing slots, oldest first; with `since`, those that reach to it or beyond."""
        opened: datetime | None = None
        last: datetime | None = None
        worst: list[float] = []
        for slot in self._slots:
            verdict = self._verdicts[slot]
            if verdict.firing:
                opened = opened or slot
                last = slot
                number = self.judged_number(verdict)
                worst += [number] if number is not None else []
            elif opened is not None and last is not None:
                if since is None or slot >= since:
                    yield Incident(opened, last, slot, self._peak(worst))
                opened, last, worst = None, None, []
        if opened is not None and last is not None:
            yield Incident(opened, last, None, self._peak(worst))

    def _judge(self, previous: Judged | None, verdict: Judged) -> Judged:
        firing = previous.firing if previous else False
        beyond = self._beyond(verdict, firing)
        bad, good = self._streaks(previous, beyond)
        if beyond is not None:
            # Only a window that could be judged opens or closes anything.
            firing = good < self._clear if firing else bad >= self._breaches
        return replace(verdict, beyond=beyond, firing=firing, bad=bad, good=good)

    @staticmethod
    def _streaks(previous: Judged | None, beyond: bool | None) -> tuple[int, int]:
        bad, good = (previous.bad, previous.good) if previous else (0, 0)
        if beyond is None:
            return bad, good
        return (bad + 1, 0) if beyond else (0, good + 1)

    def _beyond(self, verdict: Judged, firing: bool) -> bool | None:
        """The whole interval must be outside to fire; once firing, it must be back inside by the margin."""
        if verdict.outcome is not Outcome.OK or verdict.low is None or verdict.high is None:
            return None
        margin = self._threshold.margin if firing else 0.0
        upper, lower = self._threshold.upper, self._threshold.lower
        return (upper is not None and verdict.low > upper - margin) or (lower is not None and verdict.high < lower + margin)

    def _peak(self, numbers: Sequence[float]) -> float:
        """The number furthest beyond its bound."""
        upper, lower = self._threshold.upper, self._threshold.lower
        above = math.inf if upper is None else upper
        below = -math.inf if lower is None else lower
        return max(numbers, key=lambda n: max(n - above, below - n))
