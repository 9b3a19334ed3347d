"""What is stored of a rule's matches and incidents, read back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from monitor.keys import place_hash
from monitor.past import LATEST
from monitor.reader import Reader, literal
from monitor.recordrules.book import KEYS_KEPT, WORST, Book, Incident, worst
from monitor.recordrules.config import RecordRule
from monitor.windows import CLOCKS_DIFFER


@dataclass(frozen=True, slots=True)
class Before:
    """The last match of a record, as stored or as taken a moment ago."""

    incident_id: str
    matched: bool
    limited: bool
    revision: int
    value: float
    arrived_at: datetime


class Stored:
    """Of one rule."""

    def __init__(self, rule: RecordRule) -> None:
        self._rule = rule

    def load(self, reader: Reader, ids: Collection[str], book: Book) -> None:
        """Have these incidents in the book, as stored."""
        wanted = sorted(set(ids))
        if not wanted:
            return
        marks = ", ".join("?" * len(wanted))
        stored = reader.query(
            f"SELECT * FROM {reader.source('incidents', self._rule.model)} WHERE incident_id IN ({marks}) "
            f"{LATEST.format('incident_id')}",
            wanted,
        )
        if not stored:
            return
        since = min(row["opened_slot"] for row in stored)
        matches = f"(SELECT * FROM {self._matches_since(reader, since)} WHERE incident_id IN ({marks}))"
        times = {
            row["incident_id"]: row
            for row in reader.query(
                "SELECT incident_id, min(arrived_at) AS began, max(arrived_at) AS arrived, "
                f"max(least(event_time, arrived_at)) AS last FROM {matches} WHERE matched GROUP BY incident_id",
                wanted,
            )
        }
        # Those that came within the limit only, the latest as far as any is kept.
        keys: dict[str, list[str]] = {}
        for row in reader.query(
            f"SELECT incident_id, keys FROM {matches} WHERE matched AND NOT limited ORDER BY seq DESC LIMIT {KEYS_KEPT}", wanted
        ):
            keys.setdefault(row["incident_id"], []).extend(orjson.loads(row["keys"]))
        found = []
        for row in stored:
            if (when := times.get(row["incident_id"])) is None:
                continue  # its matches lie in a damaged segment
            one = Incident(row["incident_id"], row["opened_slot"], when["began"], when["last"], when["arrived"], row["peak"])
            one.revision = row["revision"]
            self.count(reader, one)
            one.state, one.recounted = row["state"], False
            one.said = (one.state, orjson.loads(row["evidence"])["n_current"])
            found.append(one)
        for one in sorted(found, key=lambda one: (one.began, one.id)):
            book.restore(one, reversed(keys.get(one.id, [])))

    def count(self, reader: Reader, one: Incident, fresh: Sequence[Mapping[str, Any]] = ()) -> None:
        """Count its records anew, and find the worst: those that are stored, and those about to be. A record stays with its
        incident, so its last match there says whether it still counts."""
        rule = self._rule
        last = {row["record_id"]: row for row in fresh if row["incident_id"] == one.id}
        order = "value DESC" if rule.at_most is None else "value"
        others = f"AND record_id NOT IN ({', '.join(map(literal, last))})" if last else ""
        rows = reader.query(
            "SELECT *, count(*) OVER () AS n, count(*) FILTER (limited) OVER () AS over_limit FROM "
            f"(SELECT * FROM {self._matches_since(reader, one.began)} WHERE incident_id = ? {others} "
            "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY seq DESC) = 1) "
            f"WHERE matched ORDER BY {order}, event_time, record_id LIMIT {WORST}",
            [one.id],
        )
        now = [row for row in last.values() if row["matched"]]
        one.count = len(now) + (rows[0]["n"] if rows else 0)
        one.limited = sum(row["limited"] for row in now) + (rows[0]["over_limit"] if rows else 0)
        one.worst = worst(rule, [_shown(row) for row in (*rows, *now)])
        one.recounted, one.stale = one.stale, False
        if one.count:
            one.peak = one.worst[0]["value"]
        else:
            one.state = "withdrawn"

    def _matches_since(self, reader: Reader, began: datetime) -> str:
        """SQL of the matches of incidents that began then, or later: each was stored after it had arrived."""
        return reader.source("rule_matches", self._rule.model, received_since=began - CLOCKS_DIFFER)

    def before(self, reader: Reader, ids: Sequence[str]) -> dict[str, Before]:
        """The last match of each of these records, where it has one."""
        if not ids:
            return {}
        marks, model = ", ".join("?" * len(ids)), self._rule.model
        places = reader.places("records", "rule_matches", model, [place_hash(one) for one in ids])
        rows = reader.query(
            "SELECT record_id, incident_id, matched, limited, revision, value, arrived_at FROM "
            f"{reader.source('rule_matches', model, places=places)} WHERE rule = ? AND record_id IN ({marks}) "
            "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY seq DESC) = 1",
            [self._rule.name, *ids],
        )
        return {
            row["record_id"]: Before(
                row["incident_id"], row["matched"], row["limited"], row["revision"], row["value"], row["arrived_at"]
            )
            for row in rows
        }


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `rule_matches` as an incident shows it."""
    detail = orjson.loads(row["detail"]) if row["detail"] else {}
    about = {name: row[name] for name in ("record_id", "trace_id", "value", "revision")}
    return {**about, "event_time": row["event_time"].isoformat(), **detail}
