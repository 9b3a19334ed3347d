"""From matches to incidents: a pure function of a rule's matches in the order in which they were stored.

Because it depends on nothing but that sequence and on the times in it, a replay and a run cut by restarts end in the same
incidents, and one that should have been resolved while the daemon was down is resolved as of then.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from monitor.recordrules.config import RecordRule

HOUR = timedelta(hours=1)
WORST = 10  # records that an incident shows
KEYS_KEPT = 20_000


@dataclass(frozen=True, slots=True)
class Match:
    """A stored row that meets the rule; with `matched=False` one that no longer does. `keys`: equal ones are one incident."""

    record_id: str
    revision: int
    event_time: datetime
    trace_id: str | None
    arrived_at: datetime
    value: float
    matched: bool = True
    keys: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slot(self) -> datetime:
        """Its place in time: of a record from the future, when it came."""
        return min(self.event_time, self.arrived_at)


@dataclass(frozen=True, slots=True)
class Assigned:
    """Where a match went. `outcome`: opened, joined, limited, restated or withdrawn."""

    incident_id: str
    limited: bool
    outcome: str


@dataclass(slots=True)
class Incident:
    """Matches that belong together. `said` is the state and the count that were last stored, of `revision`."""

    id: str
    opened: datetime
    began: datetime  # when its first match arrived, on the daemon's clock
    last: datetime
    arrived: datetime
    peak: float
    count: int = 0
    limited: int = 0
    state: str = "open"
    revision: int = 0
    said: tuple[str, int] | None = None
    worst: list[dict[str, Any]] = field(default_factory=list)
    stale: bool = False  # a match was taken back or restated: count it anew from what is stored...
    recounted: bool = False  # ...and then say so

    @property
    def news(self) -> bool:
        """Whether it is to be stored: it opened, ended, or has grown by much. Of a flood not every record is news."""
        if self.recounted or self.said is None or self.said[0] != self.state:
            return True
        return _step(self.count) > _step(self.said[1])


class Book:
    """The incidents of one rule that may still change. Belongs to one thread."""

    def __init__(self, rule: RecordRule) -> None:
        self._rule = rule
        self._clear = timedelta(seconds=rule.clear_after)
        self.incidents: dict[str, Incident] = {}
        self._by_key: OrderedDict[str, str] = OrderedDict()
        self._openings: deque[tuple[datetime, str]] = deque()

    def restore(self, incident: Incident, keys: Iterable[str]) -> None:
        """One that is stored; the oldest first."""
        self.incidents[incident.id] = incident
        self._openings.append((incident.began, incident.id))
        self._know(incident, keys)

    @property
    def open(self) -> list[Incident]:
        return [one for one in self.incidents.values() if one.state == "open"]

    @property
    def next_clear(self) -> datetime | None:
        """When the next one resolves, if nothing comes."""
        return min((one.arrived + self._clear for one in self.open), default=None)

    def take(self, match: Match, before: tuple[str, bool] | None) -> Assigned:
        """`before`: incident and whether it matched, of the record's last match that is stored, or was taken before. Its incident
        has been restored."""
        self.clear(match.arrived_at)
        if before is not None:
            incident = self.incidents[before[0]]
            if not match.matched:
                incident.stale = True
                return Assigned(incident.id, False, "withdrawn")
            incident.stale = True
            if before[1]:
                return Assigned(incident.id, False, "restated")
            return self._join(incident, match, "joined")
        for key in match.keys:
            known = self.incidents.get(self._by_key.get(key, ""))
            if known is not None and known.state != "withdrawn" and match.arrived_at < known.arrived + self._clear:
                return self._join(known, match, "joined")
        recent = [opened for at, opened in self._openings if match.arrived_at - HOUR < at]
        if len(recent) >= self._rule.max_per_hour:
            return self._join(self.incidents[recent[-1]], match, "limited")
        new = Incident(
            incident_id(self._rule.name, match.record_id),
            match.slot, match.arrived_at, match.slot, match.arrived_at, match.value,
        )  # fmt: skip
        self.incidents[new.id] = new
        self._openings.append((new.began, new.id))
        return self._join(new, match, "opened")

    def clear(self, now: datetime) -> None:
        """Resolve what has been quiet for long enough."""
        for one in self.open:
            if now >= one.arrived + self._clear:
                one.state = "resolved"

    def resolved_at(self, incident: Incident) -> datetime | None:
        return incident.last + self._clear if incident.state == "resolved" else None

    def forget(self, now: datetime) -> None:
        """What can neither grow nor count for the limit any more is not kept; it can be restored."""
        while self._openings and self._openings[0][0] <= now - HOUR:
            self._openings.popleft()
        counted = {one for _, one in self._openings}
        gone = {i for i, one in self.incidents.items() if one.state != "open" and i not in counted and not one.news}
        for i in gone:
            del self.incidents[i]
        if gone:
            self._by_key = OrderedDict((key, i) for key, i in self._by_key.items() if i not in gone)

    def _join(self, incident: Incident, match: Match, outcome: str) -> Assigned:
        limited = outcome == "limited"
        incident.state = "open"
        incident.count += 1
        incident.limited += limited
        incident.last = max(incident.last, match.slot)
        incident.arrived = max(incident.arrived, match.arrived_at)
        incident.peak = self._rule.worst(incident.peak, match.value)
        incident.worst = worst(self._rule, [*incident.worst, shown(match)])
        if not limited:  # what was one too many is not what the incident is about
            self._know(incident, match.keys)
        return Assigned(incident.id, limited, outcome)

    def _know(self, incident: Incident, keys: Iterable[str]) -> None:
        for key in keys:
            self._by_key[key] = incident.id
            self._by_key.move_to_end(key)
        while len(self._by_key) > KEYS_KEPT:
            self._by_key.popitem(last=False)


def incident_id(rule: str, record_id: str) -> str:
    """The same in every replay: from the rule and the record that opened it. No check has a slice of this name."""
    return hashlib.sha256(f"{rule}\x00record\x00{record_id}".encode()).hexdigest()[:16]


def shown(match: Match) -> dict[str, Any]:
    """As an incident shows it."""
    return {
        "record_id": match.record_id,
        "trace_id": match.trace_id,
        "event_time": match.event_time.isoformat(),
        "value": match.value,
        "revision": match.revision,
        **match.detail,
    }


def worst(rule: RecordRule, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first few, the worst before the others and the earlier before the later."""
    sign = -1 if rule.at_most is None else 1
    return sorted(records, key=lambda one: (sign * one["value"], one["event_time"], one["record_id"]))[:WORST]


def _step(count: int) -> int:
    """Which of 1, 2, 5, 10, 20, 50, ... a count has reached.

    >>> [_step(n) for n in (0, 1, 2, 4, 5, 9, 10, 19, 20, 50, 100)]
    [0, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7]
    """
    if count <= 0:
        return 0
    digits = str(count)
    return 3 * (len(digits) - 1) + (1 if digits[0] == "1" else 2 if digits[0] in "234" else 3)
