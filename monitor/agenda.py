"""Which slots of a check are touched by new rows, and which of those are due.

A touched slot waits in `check_slots` until the watermark has passed it, so what came while the daemon was down is found as
well as what came just now.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from monitor.clock import MICROSECOND, Clock, floor_to
from monitor.config import Check
from monitor.keys import Places, hash64
from monitor.reader import Reader, literal
from monitor.seasons import CHANGE, WEEK
from monitor.store import Store
from monitor.transaction import Transaction
from monitor.windows import slots_of

RECHECK_SECONDS = 15.0  # late records restate readings at least this often
SLOTS_AT_ONCE = 50
ARRIVALS_KEPT = 1_000
REFERENCE_PARTS = 10  # a changed reference of earlier times waits a tenth of its length before it is read anew
REFERENCE_MOST_SECONDS = 86_400.0
CURSOR, SLOT = ("check_name", "kind"), ("check_name", "slot")
LABELS_AT_ONCE = 20_000  # for more, their predictions are looked for by reading all of them


Arrived = tuple[int | None, list[tuple[datetime, datetime]]]
"""The last seq there is, and the first and last instant in each `every` in which new rows lie."""


class Arrivals:
    """What is new in a log for those who have read it up to the same place, as long as nothing newer has come. Any thread may
    ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Arrived] = OrderedDict()
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}  # by model: one looks, the others wait for it

    def of(self, key: tuple[Any, ...], last: int, find: Callable[[], Arrived]) -> Arrived:
        """`last`: the log had so many rows a moment ago, all of which the answer has seen."""
        with self._lock:
            asking = self._asking.setdefault(key[0], threading.Lock())
        with asking:
            with self._lock:
                known = self._kept.get(key)
            if known is not None and (known[0] or 0) >= last:
                return known
            found = find()
            with self._lock:
                self._kept[key] = found
                self._kept.move_to_end(key)
                while len(self._kept) > ARRIVALS_KEPT:
                    self._kept.popitem(last=False)
            return found


@dataclass(frozen=True, slots=True)
class Found:
    """What a look found and nothing stores yet: by log the last seq, the slots that new rows belong to, and those that were read
    with a reference that holds one."""

    moved: dict[str, int]
    touched: frozenset[datetime]
    referring: frozenset[datetime]


class Agenda:
    """Of one check; called by one thread at a time."""

    def __init__(
        self,
        check: Check,
        kinds: list[str],
        hashes: Collection[str],
        *,
        store: Store,
        clock: Clock,
        arrivals: Arrivals | None = None,
    ) -> None:
        """`kinds`: the logs whose rows change a reading. `hashes`: settings hashes of the scores among them. `arrivals` are
        shared by checks."""
        self._check = check
        self.key = f"{check.model}/{check.name}"  # a check that moves to another model begins anew there
        self._kinds = kinds
        self._arrivals = arrivals or Arrivals()
        self._hashes = sorted(hashes)
        self._store = store
        self._clock = clock
        self._looked_at = float("-inf")
        self._boundary: datetime | None = None
        self._seen: tuple[int, ...] = ()
        self._unscored: datetime | None = None  # event time of the oldest record that waits to be scored, as of the last look
        self._found: Found | None = None
        self._cursors: dict[str, int] | None = None  # by log, as stored; nobody else moves them...
        self._opened = 0  # ...but another file may have taken the store's place
        self._held = False  # slots are past the watermark, but their records are not scored yet

    def worth_a_look(self) -> bool:
        """A new slot boundary has passed, or new rows have waited long enough. Asks no query."""
        now = self._clock.monotonic()
        watermark = self._store.watermark(self._check.model)
        boundary = None
        if watermark is not None:
            settled = watermark - timedelta(seconds=self._check.lateness)
            # The slot that holds `settled` is still open, so the one before it is the last that can be due.
            boundary = next(slots_of(settled, self._check.every, self._check.every))
        seen = tuple(self._store.last_seq(kind, self._check.model) for kind in self._kinds)
        old = now - self._looked_at >= RECHECK_SECONDS
        waits = old and (seen != self._seen or self.unkept or self._waiting())
        if boundary == self._boundary and not self._held and not waits:
            return False
        self._boundary, self._seen, self._looked_at = boundary, seen, now
        return True

    def look_again(self) -> None:
        """What the last look found could not be kept."""
        self._boundary, self._seen, self._looked_at = None, (), float("-inf")
        self._found = self._cursors = None

    def _waiting(self) -> bool:
        """Slots wait for the watermark, or for `idle_timeout` where none comes."""
        with self._store.read() as reader:
            found = reader.query("SELECT 1 FROM check_slots WHERE check_name = ? LIMIT 1", [self.key])
        return bool(found)

    def touch(self, reader: Reader, latest: datetime | None) -> None:
        """Find the slots that new rows belong to. `latest` is the last slot that was read: up to there, slots whose reference of
        earlier times holds a new row are found as well. `keep` stores it, with the readings of those that are due at once."""
        check = self._check
        if self._cursors is None or self._opened != self._store.opened:
            self._opened = self._store.opened
            stored = reader.query("SELECT kind, seq FROM check_cursors WHERE check_name = ?", [self.key])
            self._cursors = {row["kind"]: row["seq"] for row in stored}
        cursors = self._cursors
        touched: set[datetime] = set()
        referring: set[datetime] = set()
        moved: dict[str, int] = {}
        for kind in self._kinds:
            last, times = self._arrived(reader, kind, cursors.get(kind, 0))
            if last is not None:
                moved[kind] = last
                touched.update(s for _, t in times for s in slots_of(t, check.every, check.window_seconds))
                referring.update(self._referring(reader, times, latest))
        self._found = Found(moved, frozenset(touched), frozenset(referring)) if moved else None
        if waiting := self._waited_for():
            # After the rows, of which another check may have found some that came after this look began: what of them is not
            # scored still waits, and what is scored by now is there when the window is read.
            with self._store.read() as now:
                self._unscored = self._oldest(now, waiting)

    @property
    def unkept(self) -> bool:
        """What `touch` found is not stored."""
        return self._found is not None

    def keep(self, transaction: Transaction, done: Sequence[datetime]) -> None:
        """Store what was found, and that these slots were read: the cursors move past the rows in the transaction that holds
        their readings, or notes their slots. Then call `kept`."""
        found = self._found or Found({}, frozenset(), frozenset())
        transaction.put(
            "check_cursors", CURSOR, [{"check_name": self.key, "kind": kind, "seq": seq} for kind, seq in found.moved.items()]
        )
        transaction.remove("check_slots", SLOT, [(self.key, slot) for slot in done])
        self._note(transaction, sorted(found.touched - {*done}))
        if later := sorted(found.referring - found.touched - {*done}):
            marks = ", ".join("?" * len(later))
            # One that waits already keeps its time, or a steady trickle of late rows would put it off for ever.
            sql = f"SELECT slot FROM check_slots WHERE check_name = ? AND slot IN ({marks})"
            there = {row["slot"] for row in transaction.query(sql, [self.key, *later])}
            self._note(transaction, [s for s in later if s not in there], transaction.now + self._reference_patience)

    def kept(self) -> None:
        if self._found is not None and self._cursors is not None:
            self._cursors = {**self._cursors, **self._found.moved}
        self._found = None

    def _waited_for(self) -> str:
        """SQL for what is not there yet of this model's answers: traces that are not settled and, for scores, work. What was
        put off, since it cannot be read, is not waited for."""
        tables = ["traces"] if "calls" in self._kinds or self._hashes else []
        if self._hashes:
            due = f"WHERE due_at <= {literal(self._clock.now().isoformat())}::TIMESTAMPTZ"
            hashes = ", ".join(map(literal, self._hashes))
            tables += [f"work {due}", f"judging {due} AND settings_hash IN ({hashes})"]
        return " UNION ALL ".join(f"SELECT event_time FROM (FROM {table}) WHERE model = $1" for table in tables)

    def _oldest(self, reader: Reader, waiting: str) -> datetime | None:
        oldest: datetime | None = reader.query(f"SELECT min(event_time) AS at FROM ({waiting})", [self._check.model])[0]["at"]
        return oldest

    def scored(self, reader: Reader, slots: Sequence[datetime]) -> list[datetime]:
        """Those of the slots that are due in which nothing waits to be scored in the look in which they are read, either: what
        has come since `touch` is in their windows as well, and has no score. The others stay on the agenda."""
        if waiting := self._waited_for():
            self._unscored = self._oldest(reader, waiting)
        due = [slot for slot in slots if self._unscored is None or slot <= self._unscored]
        self._held = self._held or len(due) < len(slots)
        return due

    def _note(self, transaction: Transaction, slots: Sequence[datetime], not_before: datetime | None = None) -> None:
        about = {"check_name": self.key, "touched_at": transaction.now, "not_before": not_before}
        transaction.put("check_slots", SLOT, [{**about, "slot": slot} for slot in slots])

    @property
    def _reference_patience(self) -> timedelta:
        """How long a changed reference of earlier times waits to be read anew. Late rows come in trickles and a reference is
        long, so one reading is restated for it some ten times at most and not with every trickle."""
        reach = self._check.reference.reach if self._check.reference else 0
        return timedelta(seconds=min(max(reach / REFERENCE_PARTS, RECHECK_SECONDS), REFERENCE_MOST_SECONDS))

    def _referring(self, reader: Reader, times: list[tuple[datetime, datetime]], latest: datetime | None) -> list[datetime]:
        """Slots that were read, and whose trailing or seasonal reference holds one of these times."""
        check, reference = self._check, self._check.reference
        if reference is None or not reference.reach or latest is None:
            return []
        window, reach = timedelta(seconds=check.window_seconds), timedelta(seconds=reference.reach)
        if reference.seasonal is None:
            # The reference of a slot s is [s - window - trailing, s - window).
            spans = [(first + window, last + window + reach) for first, last in times]
        else:
            # That of a slot s is [s - window - n weeks, s - n weeks), give or take a change of the clocks.
            weeks = [n * WEEK for n in range(1, reach // WEEK + 1)]
            spans = [(first + week - CHANGE, last + week + window + CHANGE) for first, last in times for week in weeks]
        spans = [(first, last) for first, last in spans if first < latest]
        if not spans:
            return []
        low, high = min(s[0] for s in spans), max(s[1] for s in spans)
        # A slot without rows of its own was never read, and is not now.
        read = reader.query(
            f"SELECT DISTINCT slot FROM {reader.source('verdicts', check.model, since=low, until=high + MICROSECOND)} "
            "WHERE check_name = ? AND slot > ? AND slot <= ?",
            [check.name, low, high],
        )
        return [row["slot"] for row in read if any(first < row["slot"] <= last for first, last in spans)]

    def _arrived(self, reader: Reader, kind: str, cursor: int) -> Arrived:
        """As `_new_times`, which another check may have asked already."""
        last = self._store.last_seq(kind, self._check.model)
        if last <= cursor:
            return None, []
        hashes = tuple(self._hashes) if kind == "scores" else ()
        key = (self._check.model, kind, cursor, self._check.every, hashes, "calls" in self._kinds)
        return self._arrivals.of(key, last, lambda: self._new_times(reader, kind, cursor))

    def _new_times(self, reader: Reader, kind: str, cursor: int) -> tuple[int | None, list[tuple[datetime, datetime]]]:
        """The last seq there is after `cursor`, and the first and last instant in each `every` in which new rows lie."""
        model, step = self._check.model, self._check.every
        new = reader.source(kind, model, after_seq=cursor)
        where = "n.seq > ?"
        if kind == "contexts":
            # Those that came with their answer, or were joined to it when its trace settled, came with a call.
            where += " AND n.revision > 1 AND n.retrieval_id IS NULL"
        params: list[Any] = [cursor]
        time = "n.event_time"
        if kind in ("labels", "feedback", "contexts"):
            # A label belongs to the window of its prediction, whenever it comes; a passage to that of its answer.
            base = "calls" if "calls" in self._kinds else "predictions"
            about = reader.source(base, model, places=self._labelled(reader, kind, base, cursor))
            same = "n.record_id = p.record_id"
            if kind == "feedback":  # some is about a whole trace
                same = f"({same} OR (n.record_id IS NULL AND n.trace_id = p.trace_id))"
            new = f"{new} n JOIN {about} p ON {same}"
            time = "p.event_time"
        else:
            new = f"{new} n"
        if kind == "scores":
            where += f" AND n.settings_hash IN ({', '.join('?' * len(self._hashes))})"
            params += self._hashes
        last = reader.query(
            f"SELECT max(seq) AS last FROM {reader.source(kind, model, after_seq=cursor)} WHERE seq > ?", [cursor]
        )[0]["last"]
        if last is None:
            return None, []
        times = reader.query(
            # Of those in one `every` the last belongs to all slots that any of them belongs to.
            f"SELECT min({time}) AS first, max({time}) AS last FROM {new} WHERE {where} "
            f"GROUP BY floor(epoch_us({time}) / {step * 1_000_000})",
            params,
        )
        return last, [(row["first"], row["last"]) for row in times]

    def _labelled(self, reader: Reader, kind: str, base: str, cursor: int) -> Places | None:
        """Where the predictions of the new labels lie; None when there are so many that all may be read."""
        model = self._check.model
        if base != "predictions":
            return None  # calls have no index by record
        ids = reader.table(
            f"SELECT DISTINCT record_id FROM {reader.source(kind, model, after_seq=cursor)} WHERE seq > ? LIMIT ?",
            [cursor, LABELS_AT_ONCE + 1],
        )["record_id"]
        if len(ids) > LABELS_AT_ONCE or ids.null_count:
            return None
        return reader.places("keys", "predictions", model, [hash64(one) for one in ids.to_pylist()])

    def due(self, reader: Reader) -> list[datetime]:
        """Touched slots that the watermark has passed, or the wall clock where nothing came for them for `idle_timeout`;
        oldest first. The clock alone is no reason: a replay of last year's data is not late, it is not finished."""
        check = self._check
        watermark = self._store.watermark(check.model)
        lateness = timedelta(seconds=check.lateness)
        passed = watermark - lateness if watermark is not None else None
        now = self._clock.now()
        quiet_since = now - timedelta(seconds=check.idle_timeout)
        # What is compared with, and what thresholds are learned from, has to be complete.
        ends = [check.reference.end] if check.reference is not None and check.reference.end is not None else []
        ends += [check.baseline[1]] if check.baseline is not None else []
        if ends and (watermark is None or watermark < max(ends) + lateness):
            return []
        rows = reader.query(
            "SELECT slot FROM check_slots WHERE check_name = ? AND (slot <= ? OR (slot <= ? AND touched_at <= ?)) "
            "AND (not_before IS NULL OR not_before <= ?) ORDER BY slot LIMIT ?",
            [self.key, passed, now - lateness, quiet_since, now, SLOTS_AT_ONCE],
        )
        slots = {row["slot"] for row in rows}
        if self._found is not None:  # as if they had been stored just now
            quiet = now <= quiet_since
            touched = self._found.touched
            closed_now = {s for s in touched if (passed is not None and s <= passed) or (quiet and s <= now - lateness)}
            slots = slots - touched | closed_now
        ready = sorted(slots)[:SLOTS_AT_ONCE]
        # A share of the answers that happen to be scored by now is no reading.
        unscored = self._unscored
        due = [slot for slot in ready if unscored is None or slot <= unscored]
        # No slot is touched by what is not scored yet, so it is asked for as well.
        closed = passed is not None and unscored is not None and unscored < floor_to(passed, check.every)
        self._held = closed or len(due) < len(ready)
        return due
