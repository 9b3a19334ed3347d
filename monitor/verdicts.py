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
from itertools import islice

from detectors.contract import Outcome

SLICE_GONE = "slice_gone"
"""How the note begins of a window in which a slice has no row."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """By what one reading is judged: a threshold that is resolved, so that nothing else has to be known of it.

    Beyond is what lies outside [lower, upper]; where `inclusive`, what lies on a bound as well. It fires when `needed` of `of`
    windows are beyond: of this one and those before it, every `stride`-th, so that no two of them share a row.
    """

    lower: float | None = None
    upper: float | None = None
    margin: float = 0.0
    inclusive: bool = False
    needed: int = 1
    of: int = 1
    stride: int = 1

    @property
    def reach(self) -> int:
        """How many windows, this one included, it looks at."""
        return (self.of - 1) * self.stride + 1

    def beyond(self, low: float, high: float, firing: bool) -> bool:
        """The whole interval must be outside to fire; once firing, it must be back inside by the margin."""
        margin = self.margin if firing else 0.0
        above = self.upper is not None and (low > self.upper - margin or (self.inclusive and low == self.upper - margin))
        below = self.lower is not None and (high < self.lower + margin or (self.inclusive and high == self.lower + margin))
        return above or below

    def reached(self, recent: int) -> bool:
        """Whether enough windows are beyond. `recent` has a bit for each, the lowest for the latest."""
        return sum(recent >> n * self.stride & 1 for n in range(self.of)) >= self.needed

    def judged(self, low: float, high: float) -> float:
        """The end of the interval that has to be beyond before anybody is woken."""
        if self.upper is None:
            return high
        if self.lower is None:
            return low
        return low if low - self.upper >= self.lower - high else high

    def worst(self, numbers: Sequence[float]) -> float:
        """The number furthest beyond its bound."""
        above = math.inf if self.upper is None else self.upper
        below = -math.inf if self.lower is None else self.lower
        return max(numbers, key=lambda n: max(n - above, below - n))


@dataclass(frozen=True, slots=True)
class Judged:
    """One slot: the number that was compared, and what the check made of it."""

    slot: datetime
    outcome: Outcome
    low: float | None = None  # the reading's interval, or its value twice
    high: float | None = None
    bounds: Bounds | None = None  # None where there is no threshold to judge it by
    note: str | None = None  # why there is none, or not the one that was asked for
    beyond: bool | None = None
    firing: bool = False
    recent: int = 0  # which of the last windows that could be judged were beyond, the lowest bit the latest
    good: int = 0  # windows in a row back inside, as far as they count
    gone: int = 0  # windows in a row without a row of the slice, as far as they count
    revision: int = 0

    @property
    def same_word(self) -> tuple[object, ...]:
        return (self.outcome, self.low, self.high, self.bounds, self.note, self.beyond, self.firing)

    @property
    def empty(self) -> bool:
        """Whether the slice has no row in it."""
        return self.note is not None and self.note.startswith(SLICE_GONE)

    @property
    def number(self) -> float | None:
        """What was compared with the threshold; None where nothing was."""
        if self.low is None or self.high is None or self.bounds is None:
            return None
        return self.bounds.judged(self.low, self.high)


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


@dataclass(frozen=True, slots=True)
class Base:
    """What the slots that are no longer kept amount to: all that the first kept one needs of them."""

    slot: datetime | None = None  # the last of them
    firing: bool = False
    recent: int = 0
    good: int = 0
    gone: int = 0
    opened: datetime | None = None  # of the incident that goes on there
    last: datetime | None = None
    peak: float | None = None


class History:
    """A check's verdicts on one slice, by slot, and the rule that leads from one to the next. Old ones may be dropped, and
    put back when one of them is restated."""

    def __init__(self, *, clear: int = 1, reach: int = 1, gone: int = 1) -> None:
        """`clear` windows in a row back inside resolve, and so do `gone` in a row in which the slice has no row. `reach`: at most
        so many windows matter to any `Bounds` given here."""
        self._clear = clear
        self._gone = gone
        self._reach = reach
        self._slots: list[datetime] = []
        self._verdicts: dict[datetime, Judged] = {}
        self._base = Base()

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, slot: object) -> bool:
        return slot in self._verdicts

    @property
    def base(self) -> Base:
        return self._base

    @property
    def first(self) -> datetime | None:
        return self._slots[0] if self._slots else None

    def reaches(self, slot: datetime) -> bool:
        """Whether `slot` can be judged with what is kept."""
        return self._base.slot is None or slot > self._base.slot

    def determines(self, verdicts: Sequence[Judged]) -> bool:
        """Whether what follows on these does not depend on what was before them."""
        needed = max(self._reach, self._clear)
        judged = sum(1 for v in islice(reversed(verdicts), 50 * needed) if v.beyond is not None)
        return judged >= needed and not all(v.firing for v in verdicts)

    def drop(self, before: int) -> None:
        """Keep all but the `before` oldest slots."""
        base = self._base
        opened, last, worst = base.opened, base.last, [base.peak] if base.peak is not None else []
        for slot in self._slots[:before]:
            verdict = self._verdicts.pop(slot)
            if verdict.firing:
                number, bounds = verdict.number, verdict.bounds
                opened, last = opened or slot, slot
                worst = [bounds.worst([*worst, number])] if number is not None and bounds is not None else worst
            else:
                opened, last, worst = None, None, []
            peak = worst[0] if worst else None
            base = Base(slot, verdict.firing, verdict.recent, verdict.good, verdict.gone, opened, last, peak)
        self._base = base
        del self._slots[:before]

    def put_back(self, verdicts: Sequence[Judged], since: datetime) -> None:
        """Stored verdicts from before the kept ones, in slot order, all there are from the first of them on. Those before
        `since` are only there to know what they amount to."""
        slots, kept = self._slots, self._verdicts
        self._slots, self._verdicts, self._base = [], {}, Base()
        self.restore(verdicts)
        self._slots += slots
        self._verdicts |= kept
        self.drop(bisect_left(self._slots, since))

    def restore(self, verdicts: Sequence[Judged]) -> None:
        """Stored verdicts, in slot order. The counts of windows in a row follow from them."""
        for verdict in verdicts:
            previous = self._verdicts[self._slots[-1]] if self._slots else self._base
            recent, good, gone = self._streaks(previous, verdict, verdict.beyond)
            self._slots.append(verdict.slot)
            self._verdicts[verdict.slot] = replace(verdict, recent=recent, good=good, gone=gone)

    def put(
        self,
        slot: datetime,
        outcome: Outcome,
        low: float | None,
        high: float | None,
        bounds: Bounds | None,
        note: str | None = None,
    ) -> list[Judged]:
        """Take a reading, new or restated, and return each verdict that is new or changed by it, in slot order.

        `low` and `high` are the ends of the reading's interval, both the value where it has none. The others keep the bounds by
        which they were judged.
        """
        known = self._verdicts.get(slot)
        if known is None:
            insort(self._slots, slot)
        revision = known.revision if known else 0
        self._verdicts[slot] = Judged(slot, outcome, low, high, bounds, note, revision=revision)
        changed = []
        start = bisect_left(self._slots, slot)
        for position in range(start, len(self._slots)):
            at = self._slots[position]
            before = known if at == slot else self._verdicts[at]
            previous = self._verdicts[self._slots[position - 1]] if position else self._base
            after = self._judge(previous, self._verdicts[at])
            if before is None or after.same_word != before.same_word:
                after = replace(after, revision=after.revision + 1)
                changed.append(after)
            elif at != slot and (after.recent, after.good, after.gone) == (before.recent, before.good, before.gone):
                break  # from here on nothing can differ
            self._verdicts[at] = after
        return changed

    def at(self, slot: datetime) -> Judged | None:
        return self._verdicts.get(slot)

    def until(self, slot: datetime, most: int) -> list[Judged]:
        """The verdicts up to that on `slot`, itself included, as far as they are kept, at most so many."""
        end = bisect_left(self._slots, slot) + (slot in self._verdicts)
        return [self._verdicts[at] for at in self._slots[max(0, end - most) : end]]

    @property
    def latest(self) -> Judged | None:
        return self._verdicts[self._slots[-1]] if self._slots else None

    def incidents(self, since: datetime | None = None) -> Iterator[Incident]:
        """Runs of firing slots, oldest first; with `since`, those that reach to it or beyond."""
        opened, last = self._base.opened, self._base.last
        worst = [self._base.peak] if self._base.peak is not None else []
        for slot in self._slots:
            verdict = self._verdicts[slot]
            if verdict.firing:
                opened = opened or slot
                last = slot
                if verdict.bounds is not None and verdict.number is not None:
                    worst = [verdict.bounds.worst([*worst, verdict.number])]
            elif opened is not None and last is not None:
                if since is None or slot >= since:
                    yield Incident(opened, last, slot, worst[0])
                opened, last, worst = None, None, []
        if opened is not None and last is not None:
            yield Incident(opened, last, None, worst[0])

    def _judge(self, previous: Judged | Base, verdict: Judged) -> Judged:
        firing, beyond, bounds = previous.firing, None, verdict.bounds
        if verdict.outcome is Outcome.OK and verdict.low is not None and verdict.high is not None and bounds is not None:
            beyond = bounds.beyond(verdict.low, verdict.high, firing)
        recent, good, gone = self._streaks(previous, verdict, beyond)
        if beyond is not None and bounds is not None:
            # Only a window that could be judged opens or closes anything,
            firing = good < self._clear if firing else beyond and bounds.reached(recent)
        elif gone >= self._gone:
            firing = False  # but for a slice that is not there any more: its incident would stay open for ever
        return replace(verdict, beyond=beyond, firing=firing, recent=recent, good=good, gone=gone)

    def _streaks(self, previous: Judged | Base, verdict: Judged, beyond: bool | None) -> tuple[int, int, int]:
        """Counted no further than it matters, so that a restated reading changes few of those after it."""
        if beyond is None:
            gone = min(previous.gone + 1, self._gone) if verdict.empty else 0
            # What it was before it went says nothing of what comes back.
            return (0, 0, gone) if gone >= self._gone else (previous.recent, previous.good, gone)
        recent = (previous.recent << 1 | beyond) & (1 << self._reach) - 1
        return recent, 0 if beyond else min(previous.good + 1, self._clear), 0
