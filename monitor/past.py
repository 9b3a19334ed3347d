"""What is stored of one check's readings, verdicts and incidents, read back a piece at a time.

A check of every five minutes has 105,000 slots a year. In memory are the latest; an older one is fetched when it is restated,
with as many before it as tell what they amount to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import orjson

from detectors.contract import Outcome
from monitor.clock import MICROSECOND
from monitor.config import Check
from monitor.reader import Reader
from monitor.verdicts import Judged
from monitor.windows import CLOCKS_DIFFER

FIRST_LOOK = 64  # slots; each further look reaches back four times as far

LATEST = "QUALIFY row_number() OVER (PARTITION BY {} ORDER BY revision DESC) = 1"


Reading = tuple[int, dict[str, Any]]  # revision and columns
Told = tuple[int, tuple[Any, ...], dict[str, Any]]  # revision, what was said of an incident, its evidence


class Past:
    """Of one check, on the slice of the whole traffic."""

    def __init__(self, check: Check) -> None:
        self._check = check

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
            f"SELECT slot, revision, outcome, reason, statistic, value, lower, upper, n_current, n_reference, metrics, parts "
            f"FROM {source} WHERE check_name = ? AND slot IN ({marks}) {LATEST.format('slot')}",
            [self._check.name, *slots],
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
            f"WHERE check_name = $1 AND opened_slot >= $2 AND ($3 IS NULL OR opened_slot < $3) {LATEST.format('opened_slot')}",
            [self._check.name, since, until],
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

    def _between(self, reader: Reader, since: datetime, until: datetime) -> list[Judged]:
        check = self._check
        where = f"WHERE check_name = $1 AND slot >= $2 AND slot < $3 {LATEST.format('slot')}"
        verdicts = reader.source("verdicts", check.model, since=since, until=until)
        readings = reader.source("readings", check.model, since=since, until=until)
        rows = reader.query(
            "SELECT slot, v.revision, v.outcome, beyond, firing, coalesce(r.lower, value) AS low, "
            f"coalesce(r.upper, value) AS high FROM (SELECT slot, revision, outcome, beyond, firing FROM {verdicts} {where}) v "
            f"JOIN (SELECT slot, value, lower, upper FROM {readings} {where}) r USING (slot) ORDER BY slot",
            [check.name, since, until],
        )
        return [
            Judged(r["slot"], Outcome(r["outcome"]), r["low"], r["high"], r["beyond"], r["firing"], revision=r["revision"])
            for r in rows
        ]
