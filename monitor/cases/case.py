"""From incidents to cases: pure functions of a model's incidents.

A case depends on nothing but them, so a replay, a backfill and a run cut by restarts end in the same cases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

SEVERITIES = ("critical", "warning", "info")  # the worst first
FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Episode:
    """An incident as far as cases go: from its first firing slot to the one that resolved it."""

    incident_id: str
    check: str
    slice: str
    opened: datetime
    resolved: datetime | None
    severity: str
    owner: str = ""
    revision: int = 1

    @property
    def end(self) -> datetime:
        return self.resolved or FOREVER

    @property
    def onset(self) -> tuple[datetime, int, str, str]:
        """By which incidents of a case are ordered: the first to fire, of those the worst."""
        return self.opened, rank(self.severity), self.check, self.slice


@dataclass(frozen=True, slots=True)
class Case:
    """Episodes of one model, in the order of their onset, each of which overlaps in time with another of them."""

    model: str
    episodes: tuple[Episode, ...]

    @property
    def opened(self) -> datetime:
        return self.episodes[0].opened

    @property
    def resolved(self) -> datetime | None:
        last = max(episode.end for episode in self.episodes)
        return None if last == FOREVER else last

    @property
    def state(self) -> str:
        return "open" if self.resolved is None else "resolved"

    @property
    def id(self) -> str:
        """The same in every replay of the same data."""
        return hashlib.sha256(f"case\x00{self.model}\x00{self.opened.isoformat()}".encode()).hexdigest()[:16]

    @property
    def lead(self) -> Episode:
        """Whose severity and owner the page names: the first of the worst. Of those that are open, while any is."""
        going_on = [e for e in self.episodes if e.resolved is None] or self.episodes
        return min(going_on, key=lambda e: (rank(e.severity), e.onset))

    @property
    def severity(self) -> str:
        """The worst of all, those that are over included."""
        return min((e.severity for e in self.episodes), key=rank)

    @property
    def owners(self) -> tuple[str, ...]:
        """Those of the worst incidents first, each once."""
        worst_first = sorted(self.episodes, key=lambda e: (rank(e.severity), e.onset))
        return tuple(dict.fromkeys(e.owner for e in worst_first if e.owner))


def rank(severity: str) -> int:
    """0 is the worst."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def cases(model: str, episodes: Iterable[Episode]) -> list[Case]:
    """Oldest first. One that begins in the slot in which the others end goes on with them."""
    found: list[list[Episode]] = []
    until = FOREVER
    for episode in sorted(episodes, key=lambda e: e.onset):
        if found and episode.opened <= until:
            found[-1].append(episode)
            until = max(until, episode.end)
        else:
            found.append([episode])
            until = episode.end
    return [Case(model, tuple(one)) for one in found]


@dataclass(frozen=True, slots=True)
class Page:
    """What was said to whoever is on call. It is only made worse while the case lasts: a page that changed with each incident
    would be another one to Alertmanager each time."""

    at: datetime
    severity: str
    owner: str


def page(case: Case, before: Page | None, now: datetime, held: bool) -> Page | None:
    """The page of an open case: None while maintenance holds it back."""
    if before is None:
        return None if held else Page(now, case.lead.severity, case.lead.owner)
    if rank(case.lead.severity) < rank(before.severity) and not held:
        return Page(before.at, case.lead.severity, case.lead.owner)
    return before
