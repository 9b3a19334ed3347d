"""One check on one slice: what it has read and said so far, and what a new reading adds to that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson

from monitor import log
from monitor.board import Standing
from monitor.clock import MICROSECOND
from monitor.config import Check
from monitor.evidence import HISTORY
from monitor.past import FIRST_LOOK, Past, Reading, Told
from monitor.reader import Reader
from monitor.readings import Measured, parts_from
from monitor.slices import Slice
from monitor.thresholds import UNREACHABLE, Judge, Learned
from monitor.verdicts import SLICE_GONE, History, Incident, Judged

Prove = Callable[[Slice, datetime, Mapping[str, Any], Sequence[Judged]], dict[str, Any]]
"""Makes the evidence of an incident of a slice that opens at a slot, from the reading there and the verdicts up to it."""

Rows = dict[str, list[dict[str, Any]]]


class Track:
    """Belongs to its check's runner and is called by one thread at a time."""

    def __init__(self, check: Check, part: Slice, judge: Judge, *, kept: int) -> None:
        """`kept`: so many slots are in memory after `restore`."""
        self.part = part
        self.judge = judge
        self._check = check
        self._kept = kept
        self._past = Past(check, part.name, judge)
        self.history = self._blank()
        self._incidents: dict[datetime, Told] = {}
        self.readings: dict[datetime, Reading] = {}
        self._news: dict[datetime, Judged] = {}
        self._read: list[dict[str, Any]] = []
        self.unexplained: datetime | None = None  # slot that opened the latest incident, where it has not been asked why

    # --- what is known ---

    def restore(self, reader: Reader) -> None:
        """The latest readings, verdicts and incidents as stored, so that a restart goes on where the last run stopped."""
        history = self.history = self._blank()
        self._incidents, self.readings, self._news, self._read = {}, {}, {}, []
        history.restore(
            self._past.verdicts(
                reader, None, lambda found: history.determines(found[: -self._kept]), slots=self._kept + FIRST_LOOK
            )
        )
        history.drop(max(0, len(history) - self._kept))
        if history.latest is not None and history.first is not None:
            self.readings = self._past.readings(reader, [history.latest.slot])
            self._incidents = self._past.incidents(reader, history.base.opened or history.first)
            self.unexplained = self._without_why()

    def _blank(self) -> History:
        return History(clear=self._check.clear, reach=self.judge.reach, gone=self._check.gone)

    def _without_why(self) -> datetime | None:
        """The latest incident, where the last run stopped before it was asked why. Not one of long ago: that was asked, and there
        was no answer."""
        latest, opened = self.history.latest, max(self._incidents, default=None)
        if latest is None or opened is None:
            return None
        _, word, proof = self._incidents[opened]
        recent = latest.slot - opened <= FIRST_LOOK * timedelta(seconds=self._check.every)
        return opened if "why" not in proof and word != ("withdrawn",) and (word[0] is None or recent) else None

    def fetch(self, reader: Reader, slots: Collection[datetime]) -> None:
        """Have what is stored of these slots, and of those before them that matter, in memory."""
        first, history = min(slots), self.history
        if not history.reaches(first):
            kept, base = history.first, history.base
            before = kept if kept is not None else base.slot and base.slot + MICROSECOND
            history.put_back(
                self._past.verdicts(reader, before, lambda found: history.determines([v for v in found if v.slot < first])), first
            )
            since = history.base.opened or first
            self._incidents |= self._past.incidents(reader, since, kept)
        known = [slot for slot in slots if slot in history and slot not in self.readings]
        self.readings |= self._past.readings(reader, known)

    def forget(self, most_kept: int) -> None:
        """What can be fetched again need not stay."""
        history = self.history
        if len(history) > most_kept:
            history.drop(len(history) - self._kept)
            opened, first = history.base.opened, history.first
            self._incidents = {o: i for o, i in self._incidents.items() if first is None or o >= first or o == opened}
        latest = history.latest
        self.readings = {slot: r for slot, r in self.readings.items() if latest is not None and slot == latest.slot}

    def learned(self, reader: Reader, definition: str) -> bool:
        """Take what was learned before; whether that was enough."""
        found = self._past.learned(reader, definition)
        if found is not None:
            self.judge.learn(found)
        return found is not None and self.judge.learned is not None and self.judge.learned.ok

    # --- what is new ---

    def misses(self, slot: datetime, measured: Measured) -> bool:
        """Whether a window without a row of this slice matters: something of it is open, or was said of that slot already."""
        latest = self.history.latest
        return slot in self.history or (measured.empty and latest is not None and latest.firing and slot > latest.slot)

    def take(self, slot: datetime, measured: Measured, about: Mapping[str, Any]) -> None:
        """A reading, new or restated. `about`: the columns of `readings` that say how it was made."""
        row = measured.columns()
        known = self.readings.get(slot)
        if known is None or known[1] != row:
            revision = known[0] + 1 if known else 1
            self.readings[slot] = (revision, row)
            self._read.append(
                {
                    **self._key(slot, revision),
                    **row,
                    "window_start": slot - timedelta(seconds=self._check.window_seconds),
                    "window_end": slot,
                    "metrics": orjson.dumps(row["metrics"]).decode(),
                    "parts": orjson.dumps(row["parts"]).decode(),
                    **about,
                }
            )
        self._news |= {changed.slot: changed for changed in self.say(slot, measured)}

    def say(self, slot: datetime, measured: Measured) -> list[Judged]:
        """Judge a reading, new or restated: the verdicts that are new or changed by it."""
        word = self.judge.word(measured)
        note = f"{SLICE_GONE}: it has no row in this window" if measured.empty and self.part.where else word.note
        return self.history.put(slot, measured.outcome, word.low, word.high, word.bounds, note)

    def news(self, reader: Reader, since: datetime, prove: Prove) -> Rows:
        """Rows to store of what was taken since the last call. `since`: the first slot that was."""
        readings, self._read = self._read, []
        news, self._news = self._news, {}
        incidents = self._changed_incidents(reader, since, prove) if news else []
        return {"readings": readings, "verdicts": [self._verdict_row(news[s]) for s in sorted(news)], "incidents": incidents}

    def threshold_row(self, definition: str, span: tuple[datetime, datetime]) -> dict[str, Any]:
        """What was learned, as stored."""
        learned, rate, bounds = self.judge.learned or Learned(), self.judge.rate(), self.judge.bounds
        return {
            "check_name": self._check.name,
            "slice": self.part.name,
            "definition": definition,
            "threshold_kind": self.judge.kind,
            "reason": learned.reason,
            "baseline_start": span[0],
            "baseline_end": span[1],
            "windows": len(learned.values),
            "numbers": orjson.dumps(learned.values).decode(),
            "p_numbers": None if learned.p_values is None else orjson.dumps(learned.p_values).decode(),
            "numbers_hash": learned.hash,
            "floor": learned.floor,
            "lower": bounds.lower if bounds else None,
            "upper": bounds.upper if bounds else None,
            "achieved": rate.achieved,
            "achieved_lower": rate.lower,
            "achieved_upper": rate.upper,
        }

    def standing(self, detector: str) -> Standing | None:
        """Of the latest verdict; None where there is none yet."""
        latest = self.history.latest
        if latest is None or latest.slot not in self.readings:
            return None
        reading, bounds = self.readings[latest.slot][1], latest.bounds
        return Standing(
            model=self._check.model,
            check=self._check.name,
            slice=self.part.name,
            detector=detector,
            severity=self._check.severity,
            slot=latest.slot,
            firing=latest.firing,
            value=reading["value"],
            interval=(reading["lower"], reading["upper"]),
            bounds=(bounds.lower, bounds.upper) if bounds else (None, None),
            n_current=reading["n_current"],
            n_reference=reading["n_reference"],
            metrics=reading["metrics"],
            parts=parts_from(reading["parts"]),
            open_incidents=sum(1 for _, word, _ in self._incidents.values() if word[0] is None),
            missing=latest.note.partition(":")[0] if latest.note and not latest.empty else None,
            rate=self.judge.rate(),
            owner=self._check.owner,
        )

    def _key(self, slot: datetime, revision: int) -> dict[str, Any]:
        return {"check_name": self._check.name, "slice": self.part.name, "slot": slot, "revision": revision}

    def _verdict_row(self, verdict: Judged) -> dict[str, Any]:
        bounds = verdict.bounds
        return {
            **self._key(verdict.slot, verdict.revision),
            "outcome": verdict.outcome.value,
            "beyond": verdict.beyond,
            "firing": verdict.firing,
            "judged": verdict.number,
            "lower": bounds.lower if bounds else None,
            "upper": bounds.upper if bounds else None,
            "severity": self._check.severity,
            "needed": bounds.needed if bounds else None,
            "of_windows": bounds.of if bounds else None,
            "note": verdict.note,
        }

    def _changed_incidents(self, reader: Reader, since: datetime, prove: Prove) -> list[dict[str, Any]]:
        """Incidents that opened, grew, were resolved, or that a restated reading took back."""
        now = {i.opened: i for i in self.history.incidents(since)}
        rows = []
        for opened, incident in now.items():
            known = self._incidents.get(opened)
            # While it is open only its peak is news; how long it lasts is in the verdicts.
            word = (incident.resolved, incident.peak)
            if known is None:
                if opened not in self.readings:
                    self.readings |= self._past.readings(reader, [opened])
                revision, reading = self.readings[opened]
                proof = prove(self.part, opened, {**reading, "revision": revision}, self.history.until(opened, HISTORY))
                self.unexplained = opened
                rows.append(self._incident_row(incident, 1, word, self._with_end(proof, incident)))
            elif known[1] != word:
                rows.append(self._incident_row(incident, known[0] + 1, word, self._with_end(known[2], incident)))
        for opened, known in list(self._incidents.items()):
            if opened >= since and opened not in now and known[1] != ("withdrawn",):
                gone = Incident(opened, opened, None, 0.0)
                rows.append(self._incident_row(gone, known[0] + 1, ("withdrawn",), known[2]))
        return rows

    def _with_end(self, proof: dict[str, Any], incident: Incident) -> dict[str, Any]:
        """Says of an incident that no window brought to its end what did."""
        end = self.history.at(incident.resolved) if incident.resolved is not None else None
        others = {key: value for key, value in proof.items() if key != "resolved_by"}
        return {**others, "resolved_by": SLICE_GONE} if end is not None and end.empty else others

    def explained(self, found: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row that adds to the latest incident why it opened; None where it is gone."""
        opened, self.unexplained = self.unexplained, None
        known = self._incidents.get(opened) if opened is not None else None
        incident = next((i for i in self.history.incidents(opened) if i.opened == opened), None)
        if known is None or incident is None:
            return None
        return self._incident_row(incident, known[0] + 1, known[1], {**known[2], "why": dict(found)}, say=False)

    def _incident_row(
        self, incident: Incident, revision: int, word: tuple[Any, ...], proof: dict[str, Any], *, say: bool = True
    ) -> dict[str, Any]:
        self._incidents[incident.opened] = (revision, word, proof)
        state = "withdrawn" if word == ("withdrawn",) else "resolved" if incident.resolved else "open"
        check, name = self._check, self.part.name
        if say and (revision == 1 or state != "open"):
            log.info("incident", check=check.name, slice=name, state=state, opened=incident.opened.isoformat())
        return {
            "incident_id": incident.id(check.name, name),
            "revision": revision,
            "check_name": check.name,
            "slice": name,
            "state": state,
            "severity": check.severity,
            "owner": check.owner or None,
            "opened_slot": incident.opened,
            "last_slot": incident.last,
            "resolved_slot": incident.resolved,
            "peak": incident.peak,
            "evidence": orjson.dumps(proof, default=str).decode(),
        }


def merged(news: Sequence[Rows]) -> Rows:
    """Rows of several tracks, by kind."""
    found: Rows = {}
    for one in news:
        for kind, rows in one.items():
            found.setdefault(kind, []).extend(rows)
    return found


MISSING = ("not_enough_data", "not_evaluable", "failed", UNREACHABLE)
"""What a note can begin with: why a threshold is missing."""
