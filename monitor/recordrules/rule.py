"""One rule at work: reads what is new in its log, has the book say what becomes of it, and stores matches, incidents and the
place it has read to in one transaction. So each match counts once, whatever dies in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from monitor import log
from monitor.board import Standing
from monitor.clock import Clock
from monitor.config import Config
from monitor.faultpoints import point
from monitor.metrics import Metrics
from monitor.past import LATEST
from monitor.reader import Reader, literal
from monitor.recordrules.book import HOUR, Assigned, Book, Incident, Match
from monitor.recordrules.config import RecordRule
from monitor.recordrules.matching import Matching, Seen
from monitor.recordrules.stored import Before, Stored
from monitor.runner import Maintained
from monitor.slices import ALL
from monitor.store import Store
from monitor.transaction import Transaction

CURSOR = ("check_name", "kind")
DETECTOR = "record_rule"
CURSOR_SECONDS = 10.0  # so often a place is stored that nothing was found on the way to; after a crash that is read again


class Rule:
    """Called by one thread."""

    def __init__(
        self, rule: RecordRule, config: Config, store: Store, *, clock: Clock, metrics: Metrics, maintenance: Maintained
    ) -> None:
        """`maintenance` says in which window the model is.

        Raises:
            StoreError, duckdb.Error: the store is away.
        """
        self.rule = rule
        self._matching = Matching(rule, config)
        self._past = Stored(rule)
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._maintenance = maintenance
        self._key = f"rule:{rule.model}/{rule.name}"  # no check is called so
        self._unsure = False  # what is known here may not be what is stored
        self._cursor = self._stored = self._opened = 0
        self._stored_at = clock.monotonic()
        for outcome in ("opened", "joined", "limited", "restated", "withdrawn"):
            metrics.rule_matches.labels(rule.model, rule.name, outcome).inc(0)
        self._restore()

    @property
    def due(self) -> bool:
        """Whether there is anything to look at. Asks no query."""
        last = self._store.last_seq(self._matching.kind, self.rule.model)
        if self._unsure or self._store.opened != self._opened or last > self._cursor or self._unstored:
            return True
        next_clear = self._book.next_clear
        return next_clear is not None and self._clock.now() >= next_clear

    def reads_scores(self) -> tuple[int, int] | None:
        """After which place it reads scores, and up to which; None where it reads none, or has to be restored first."""
        if self._matching.kind != "scores" or self._unsure or self._store.opened != self._opened:
            return None
        return self._cursor, self._store.last_seq("scores", self.rule.model)

    def pass_by(self, seen: Mapping[str, Seen], last: int) -> None:
        """Go on from `last`, where none of what was seen up to there can match."""
        if not self._matching.may_hold(seen):
            self._cursor = max(self._cursor, last)

    @property
    def _unstored(self) -> bool:
        return self._cursor != self._stored and self._clock.monotonic() - self._stored_at >= CURSOR_SECONDS

    def step(self) -> int:
        """How many matches were stored.

        Raises:
            StoreError, duckdb.Error: the store is away; nothing was said, and all of it is looked at again.
        """
        if self._unsure or self._store.opened != self._opened:
            self._restore()
        try:
            return self._step()
        except BaseException:
            self._unsure = True  # what was not stored was not said: before the next step, ask the store what was
            raise

    def standing(self) -> Standing:
        """For the board."""
        rule, incidents = self.rule, self._book.open
        latest = max(incidents, key=lambda one: one.arrived, default=None)
        return Standing(
            model=rule.model,
            check=rule.name,
            slice=ALL,
            detector=DETECTOR,
            severity=rule.severity,
            slot=latest.last if latest is not None else None,
            firing=bool(incidents),
            value=latest.peak if latest is not None else None,
            bounds=(rule.at_most, rule.at_least),
            n_current=sum(one.count for one in incidents),
            open_incidents=len(incidents),
            owner=rule.owner,
        )

    def _step(self) -> int:
        rule, book, kind = self.rule, self._book, self._matching.kind
        now, last = self._clock.now(), self._store.last_seq(kind, rule.model)
        rows: list[dict[str, Any]] = []
        cursor = self._cursor
        if last > cursor:
            with self._store.read() as reader:
                found = self._matching.look(reader, cursor, last, now)
                cursor = found.cursor
                rows = self._taken(reader, found.matches)
                for one in book.incidents.values():
                    if one.stale:  # here, and not on the writer's thread, which everybody waits for
                        self._past.count(reader, one, rows)
        book.clear(now)
        changed = [one for one in book.incidents.values() if one.news]
        if rows or changed or self._unstored:
            self._store.run(lambda t: self._keep(t, rows, changed, cursor))
            self._stored, self._stored_at = cursor, self._clock.monotonic()
            for row in rows:
                self._metrics.rule_matches.labels(rule.model, rule.name, row["outcome"]).inc()
            for one in changed:
                self._say(one)
        self._cursor = cursor
        book.forget(now)
        return len(rows)

    def _taken(self, reader: Reader, matches: Sequence[Match]) -> list[dict[str, Any]]:
        """Rows of `rule_matches`, with their outcome besides."""
        known = self._past.before(reader, sorted({one.record_id for one in matches}))
        self._past.load(reader, {one.incident_id for one in known.values()} - self._book.incidents.keys(), self._book)
        rows = []
        for match in matches:
            before = known.get(match.record_id)
            if before is not None and before.incident_id not in self._book.incidents:
                before = None  # it lies in a damaged segment
            if before is None and not match.matched:
                continue
            if before is not None:
                if before.matched == match.matched and (not match.matched or _same(before, match)):
                    continue
                if before.matched and match.matched:  # it came when it came first
                    match = replace(match, arrived_at=before.arrived_at)
            went = self._book.take(match, None if before is None else (before.incident_id, before.matched))
            limited = before.limited if before is not None and before.matched else went.limited
            known[match.record_id] = Before(
                went.incident_id, match.matched, limited, match.revision, match.value, match.arrived_at
            )
            rows.append(self._row(match, went, limited))
        return rows

    # --- what is stored ---

    def _keep(self, transaction: Transaction, rows: Sequence[dict[str, Any]], changed: Sequence[Incident], cursor: int) -> None:
        if rows:
            columns = {name: [row[name] for row in rows] for name in rows[0] if name != "outcome"}
            transaction.append("rule_matches", self.rule.model, {**columns, "received_at": transaction.now})
        if changed:
            told = [self._told(one) for one in changed]
            columns = {name: [row[name] for row in told] for name in told[0]}
            transaction.append("incidents", self.rule.model, {**columns, "received_at": transaction.now})
        transaction.put("check_cursors", CURSOR, [{"check_name": self._key, "kind": self._matching.kind, "seq": cursor}])
        point("rule.written")

    def _row(self, match: Match, went: Assigned, limited: bool) -> dict[str, Any]:
        return {
            "rule": self.rule.name,
            "record_id": match.record_id,
            "revision": match.revision,
            "event_time": match.event_time,
            "trace_id": match.trace_id,
            "incident_id": went.incident_id,
            "matched": match.matched,
            "limited": limited,
            "value": match.value,
            "keys": orjson.dumps(match.keys).decode(),
            "detail": orjson.dumps(dict(match.detail), default=str).decode() if match.detail else None,
            "arrived_at": match.arrived_at,
            "outcome": went.outcome,
        }

    def _told(self, one: Incident) -> dict[str, Any]:
        """The incident as of now; the writer's thread has it to itself."""
        rule = self.rule
        return {
            "incident_id": one.id,
            "revision": one.revision + 1,
            "check_name": rule.name,
            "slice": ALL,
            "state": one.state,
            "severity": rule.severity,
            "owner": rule.owner or None,
            "opened_slot": one.opened,
            "last_slot": one.last,
            "resolved_slot": self._book.resolved_at(one),
            "peak": one.peak,
            "in_maintenance": self._maintenance(rule.model, one.opened),
            "evidence": orjson.dumps(self._evidence(one), default=str).decode(),
        }

    def _evidence(self, one: Incident) -> dict[str, Any]:
        """As that of a check, and which records it is about. Nothing that was masked is in it."""
        rule = self.rule
        of_incident = f"m.model = {literal(rule.model)} AND m.incident_id = {literal(one.id)}"
        latest = "QUALIFY row_number() OVER (PARTITION BY m.record_id ORDER BY m.seq DESC) = 1 AND m.matched"
        return {
            "source": DETECTOR,
            "statistic": self._matching.what,
            "value": one.peak,
            "interval": [None, None],
            "threshold": {"lower": rule.at_most, "upper": rule.at_least},
            "threshold_kind": "constant",
            "judged": one.peak,
            "slice": ALL,
            "window": [one.opened.isoformat(), one.last.isoformat()],
            "n_current": one.count,
            "n_reference": 0,
            "limited": one.limited,
            "where": dict(rule.where),
            "parts": [],
            "metrics": {},
            "worst_records": one.worst,
            "sql": (
                "SELECT m.record_id, m.trace_id, m.event_time, m.value, m.limited, m.detail FROM rule_matches m "
                f"WHERE {of_incident} {latest} ORDER BY m.event_time, m.record_id"
            ),
        }

    def _say(self, one: Incident) -> None:
        state = one.said[0] if one.said is not None else None
        one.said, one.revision, one.recounted = (one.state, one.count), one.revision + 1, False
        if state != one.state:
            log.info(
                "incident", check=self.rule.name, slice=ALL, state=one.state, opened=one.opened.isoformat(), records=one.count
            )

    # --- what is known ---

    def _restore(self) -> None:
        """Where the last run stopped. A rule that is new begins with what comes from now on."""
        rule, kind = self.rule, self._matching.kind
        self._opened = self._store.opened
        self._book = Book(rule)
        with self._store.read() as reader:
            found = reader.query("SELECT seq FROM check_cursors WHERE check_name = ? AND kind = ?", [self._key, kind])
            # Of long ago are only those that are open still, or were a moment ago.
            since = self._clock.now() - HOUR
            rows = reader.query(
                f"SELECT incident_id FROM {reader.source('incidents', rule.model)} WHERE check_name = ? "
                f"{LATEST.format('incident_id')} AND (state = 'open' OR received_at > ?) ORDER BY opened_slot, incident_id",
                [rule.name, since],
            )
            self._past.load(reader, [row["incident_id"] for row in rows], self._book)
        if found:
            self._cursor = self._stored = found[0]["seq"]
        else:
            last = self._store.last_seq(kind, rule.model)
            self._store.run(lambda t: t.put("check_cursors", CURSOR, [{"check_name": self._key, "kind": kind, "seq": last}]))
            self._cursor = self._stored = last
        self._unsure = False


def _same(before: Before, match: Match) -> bool:
    return (before.revision, before.value) == (match.revision, match.value)
