"""Which windows there are: those of the config and those that were added while the daemon runs, each recorded in the store."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from monitor import log
from monitor.clock import Clock
from monitor.errors import BodyRejected
from monitor.maintenance.windows import Kind, Weekly, Window, covering
from monitor.past import LATEST
from monitor.store import Store
from monitor.transaction import Transaction

CONFIG, COMMAND = "config", "command"


@dataclass(frozen=True, slots=True)
class Booked:
    """A window and its latest row in the store."""

    window: Window
    origin: str
    revision: int
    ended: datetime | None = None  # from then on it is not in force, whatever its span
    asked_by: str | None = None
    address: str | None = None

    @property
    def id(self) -> str:
        """The same window under the same name is the same."""
        w = self.window
        parts = (w.name, w.kind, sorted(w.models), w.start, w.end, w.weekly and w.weekly.model_dump_json())
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def over(self, now: datetime) -> bool:
        return self.ended is not None or (self.window.end is not None and self.window.end <= now)

    def row(self, now: datetime) -> dict[str, Any]:
        w = self.window
        return {
            "window_id": self.id,
            "revision": self.revision,
            "name": w.name,
            "window_kind": w.kind,
            "models": orjson.dumps(list(w.models)).decode(),
            "start_time": w.start,
            "end_time": w.end,
            "weekly": w.weekly.model_dump_json() if w.weekly else None,
            "reason": w.reason,
            "origin": self.origin,
            "ended_at": self.ended,
            "asked_by": self.asked_by,
            "address": self.address,
            "received_at": now,
        }


class Book:
    """Any thread may ask and add."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._writing = threading.Lock()
        self._unrecorded: list[Booked] = []
        self.version = 0  # another number whenever the windows are others
        with store.read() as reader:
            rows = reader.query(f"SELECT * FROM {reader.source('maintenance', '')} {LATEST.format('window_id')} ORDER BY seq")
        self._booked = {row["window_id"]: _of_row(row) for row in rows}  # by id; replaced as a whole

    def configure(self, windows: Iterable[Window]) -> None:
        """The config says these now. `flush` records what is new, and the end of what is gone."""
        with self._writing:
            now, wanted = self._clock.now(), {b.id: b for b in (Booked(w, CONFIG, 1) for w in windows)}
            news = []
            for key, one in wanted.items():
                known = self._booked.get(key)
                if known is None or known.ended is not None or known.window.reason != one.window.reason:
                    news.append(replace(one, revision=known.revision + 1 if known else 1))
            for key, known in self._booked.items():
                if known.origin == CONFIG and known.ended is None and key not in wanted:
                    news.append(replace(known, revision=known.revision + 1, ended=now))
            self._take(news)
            self._unrecorded += news

    def flush(self) -> None:
        """Record what the config has changed.

        Raises:
            StoreUnavailable: not now; call it again.
        """
        with self._writing:
            if self._unrecorded:
                self._record(self._unrecorded)
                self._unrecorded = []

    def add(self, window: Window, *, by: str, address: str) -> Booked:
        """
        Raises:
            BodyRejected: 409, the name is in use; 422, it is over already.
        """
        with self._writing:
            now = self._clock.now()
            if window.end is not None and window.end <= now:
                raise BodyRejected(422, "over", f"{window.name} would have ended at {window.end.isoformat()}; give a later end")
            for known in self._booked.values():
                if known.window.name.lower() == window.name.lower() and not known.over(now):
                    raise BodyRejected(
                        409, "name_taken", f"there is a window {known.window.name}; end it, or choose another name"
                    )
            one = Booked(window, COMMAND, 1, asked_by=by, address=address)
            if (before := self._booked.get(one.id)) is not None:
                one = replace(one, revision=before.revision + 1)
            self._record([one])
            self._take([one])
            return one

    def end(self, name: str, *, by: str, address: str) -> Booked:
        """From now on it is not in force. One of the config is taken out there.

        Raises:
            BodyRejected: 404, there is none; 409, the config has it.
        """
        with self._writing:
            now = self._clock.now()
            found = [b for b in self._booked.values() if b.window.name.lower() == name.lower() and not b.over(now)]
            if not found:
                there = ", ".join(sorted(b.window.name for b in self._booked.values() if not b.over(now))) or "none"
                raise BodyRejected(404, "unknown_window", f"no window {name!r:.80} is set; there are {there}")
            if found[0].origin == CONFIG:
                raise BodyRejected(409, "of_the_config", f"{name} stands in the config; take it out there and reload")
            one = replace(found[0], revision=found[0].revision + 1, ended=now, asked_by=by, address=address)
            self._record([one])
            self._take([one])
            return one

    def booked(self) -> list[Booked]:
        """All that ever were, those in force or still to come first."""
        now = self._clock.now()
        return sorted(self._booked.values(), key=lambda b: (b.over(now), b.window.start or now, b.window.name))

    def maintenance(self, model: str, when: datetime) -> str | None:
        """The name of the maintenance window in which the model is at that time."""
        return self.covering("maintenance", model, when)

    def covering(self, kind: Kind, model: str, when: datetime) -> str | None:
        """The name of a window of that kind in which the model is at that time."""
        found = covering(self._at(when), kind, model, when)
        return found.name if found else None

    def in_force(self, when: datetime) -> list[Window]:
        """Of either kind, whatever models they are of."""
        return [w for w in self._at(when) if w.span(when) is not None]

    def span(self, name: str, when: datetime) -> tuple[datetime, datetime] | None:
        """The first instant of the window of that name that lies around this time, and the first after it."""
        return next((span for w in self._at(when) if w.name == name and (span := w.span(when)) is not None), None)

    def _at(self, when: datetime) -> Iterator[Window]:
        return (b.window for b in self._booked.values() if b.ended is None or when < b.ended)

    def _record(self, news: Sequence[Booked]) -> None:
        def work(transaction: Transaction) -> None:
            rows = [one.row(transaction.now) for one in news]
            transaction.append("maintenance", "", {name: [row[name] for row in rows] for name in rows[0]})

        self._store.run(work)

    def _take(self, news: Sequence[Booked]) -> None:
        if not news:
            return
        self._booked = {**self._booked, **{one.id: one for one in news}}
        self.version += 1
        for one in news:
            state = "ended" if one.ended else "set"
            log.info(
                f"a {one.window.kind} window", name=one.window.name, state=state, origin=one.origin, reason=one.window.reason
            )


def _of_row(row: Mapping[str, Any]) -> Booked:
    weekly = Weekly.model_validate_json(row["weekly"]) if row["weekly"] else None
    window = Window.model_construct(
        name=row["name"],
        kind=row["window_kind"],
        models=tuple(orjson.loads(row["models"])),
        start=row["start_time"],
        end=row["end_time"],
        weekly=weekly,
        reason=row["reason"],
    )
    return Booked(window, row["origin"], row["revision"], row["ended_at"], row["asked_by"], row["address"])
