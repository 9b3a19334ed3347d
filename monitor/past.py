"""What is stored of one check's readings, verdicts and incidents, read back a piece at a time.

A check of every five minutes has 105,000 slots a year. In memory are the latest; an older one is fetched when it is restated,
with as many before it as tell what they amount to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson

from detectors.contract import Outcome
from monitor.clock import MICROSECOND
from monitor.config import Check
from monitor.reader import Reader
from monitor.thresholds import Judge, Learned
from monitor.verdicts import Judged
from monitor.windows import CLOCKS_DIFFER

FIRST_LOOK = 64  # slots; each further look reaches back four times as far

LATEST = "QUALIFY row_number() OVER (PARTITION BY {} ORDER BY revision DESC) = 1"


Reading = tuple[int, dict[str, Any]]  # revision and columns
Told = tuple[int, tuple[Any, ...], dict[str, Any]]  # revision, what was said of an incident, its evidence


class Past:
    """Of one check, on one slice."""

    def __init__(self, check: Check, slice_name: str, judge: Judge) -> None:
        self._check = check
        self._slice = slice_name
        self._judge = judge

    def verdicts(
        self, reader: Reader, before: datetime | None, enough: Callable[[Sequence[Judged]], bool], *, slots: int = FIRST_LOOK
    ) -> list[Judged]:
        """The latest word on each slot before `before`, in order, as many as are `enough` or all there are."""
        earliest, end = self._span(reader)
        if earliest is None or end is None:
            return []
        end = before or end + MICROSECOND
        reach = timedelta(seconds=self._check.every) * slots
        while True:
            since = end - reach if end - earliest > reach else earliest
            found = self._between(reader, since, end)
            if since <= earliest or enough(found):
                return found
            reach *= 4

    def readings(self, reader: Reader, slots: Collection[datetime]) -> dict[datetime, Reading]:
        """Revision and columns of the latest reading of each of these slots that was read."""
        if not slots:
            return {}
        source = reader.source("readings", self._check.model, since=min(slots), until=max(slots) + MICROSECOND)
        marks = ", ".join("?" * len(slots))
        found = {}
        for row in reader.query(
            "SELECT slot, revision, outcome, reason, statistic, value, lower, upper, n_current, n_reference, metrics, parts, "
            f"reference FROM {source} WHERE check_name = ? AND slice = ? AND slot IN ({marks}) {LATEST.format('slot')}",
            [self._check.name, self._slice, *slots],
        ):
            slot, revision = row.pop("slot"), row.pop("revision")
            row |= {"metrics": orjson.loads(row["metrics"]), "parts": orjson.loads(row["parts"])}
            found[slot] = (revision, row)
        return found

    def incidents(self, reader: Reader, since: datetime, until: datetime | None = None) -> dict[datetime, Told]:
        """Revision, word and evidence of each incident that opened in [since, until), by the slot that opened it."""
        # Told after the slot was, so older segments hold none of these.
        source = reader.source("incidents", self._check.model, received_since=since - CLOCKS_DIFFER)
        found = {}
        for row in reader.query(
            f"SELECT opened_slot, revision, state, resolved_slot, peak, evidence FROM {source} "
            "WHERE check_name = $1 AND slice = $4 AND opened_slot >= $2 AND ($3 IS NULL OR opened_slot < $3) "
            f"{LATEST.format('opened_slot')}",
            [self._check.name, since, until, self._slice],
        ):
            word = ("withdrawn",) if row["state"] == "withdrawn" else (row["resolved_slot"], row["peak"])
            found[row["opened_slot"]] = (row["revision"], word, orjson.loads(row["evidence"]))
        return found

    def _span(self, reader: Reader) -> tuple[datetime | None, datetime | None]:
        """Between which slots the verdicts of the model's checks lie."""
        model = self._check.model
        found = reader.query(
            "SELECT min(low) AS low, max(high) AS high FROM (SELECT min(min_time) AS low, max(max_time) AS high FROM manifest "
            "WHERE kind = 'verdicts' AND model = $1 UNION ALL SELECT min(slot), max(slot) FROM verdicts WHERE model = $1)",
            [model],
        )[0]
        return found["low"], found["high"]

    def learned(self, reader: Reader, definition: str) -> Learned | None:
        """What was learned of the baseline last, by this definition."""
        rows = reader.query(
            f"SELECT numbers, p_numbers, floor, reason FROM {reader.source('thresholds', self._check.model)} "
            "WHERE check_name = ? AND slice = ? AND definition = ? ORDER BY seq DESC LIMIT 1",
            [self._check.name, self._slice, definition],
        )
        for row in rows:
            p_values = None if row["p_numbers"] is None else tuple(orjson.loads(row["p_numbers"]))
            return Learned(tuple(orjson.loads(row["numbers"])), p_values, row["floor"], row["reason"])
        return None

    def _between(self, reader: Reader, since: datetime, until: datetime) -> list[Judged]:
        check = self._check
        where = f"WHERE check_name = $1 AND slice = $4 AND slot >= $2 AND slot < $3 {LATEST.format('slot')}"
        verdicts = reader.source("verdicts", check.model, since=since, until=until)
        readings = reader.source("readings", check.model, since=since, until=until)
        # Of a calibrated check the p-value was judged, and not the reading.
        low, high = ("judged", "judged") if self._judge.kind == "calibrated" else ("r.lower", "r.upper")
        rows = reader.query(
            "SELECT slot, v.revision, v.outcome, beyond, firing, v.lower, v.upper, needed, of_windows, note, "
            f"coalesce({low}, value) AS low, coalesce({high}, value) AS high FROM (SELECT * FROM {verdicts} {where}) v "
            f"JOIN (SELECT slot, value, lower, upper FROM {readings} {where}) r USING (slot) ORDER BY slot",
            [check.name, since, until, self._slice],
        )
        return [self._judged(row) for row in rows]

    def _judged(self, row: Mapping[str, Any]) -> Judged:
        low, high = row["low"], row["high"]
        bounds = self._judge.bounds if self._judge.kind == "constant" else None
        if row["lower"] is not None or row["upper"] is not None:
            bounds = self._judge.stored(row["lower"], row["upper"], row["needed"], row["of_windows"])
        elif self._judge.kind == "calibrated":
            low = high = None  # there was none, and the reading is no p-value
        return Judged(
            row["slot"],
            Outcome(row["outcome"]),
            low,
            high,
            bounds,
            row["note"],
            row["beyond"],
            row["firing"],
            revision=row["revision"],
        )
