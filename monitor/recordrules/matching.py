"""Which stored rows meet a rule: scores after a place in their log, or records in which something was masked.

Both are read by position, so that each row is looked at once. What else is asked of a record (its fields, its texts) is read only
for the few that are beyond the bound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from monitor import answers, said
from monitor.config import Config
from monitor.keys import hash64
from monitor.masking.recognisers import token
from monitor.reader import Reader, literal
from monitor.recordrules.book import Match
from monitor.recordrules.config import RecordRule
from monitor.rowchecks import RowCheck, is_judged
from monitor.schema import quote
from monitor.slices import Condition, texts

ROWS_AT_ONCE = 1_000
SPANS_SHOWN = 10
DETAIL_CHARACTERS = 2_000
UNSUPPORTED = 0.5  # below it a claim is shown
PATIENCE = timedelta(seconds=30)  # for the span of a text that came before it, as a log record
TEXTS = ("question", "system", "response", "messages", "tool_calls")
KEY_FIELDS = {"conversation": "conversation_id", "user": "user_id", "fingerprint": "fingerprint"}


@dataclass(frozen=True, slots=True)
class Found:
    """What a look came to: matches in the order they were stored, and how far the log has been read."""

    matches: list[Match]
    cursor: int


@dataclass(frozen=True, slots=True)
class Seen:
    """New scores of one settings hash: the least and the largest, and whether one is of a record that was scored before."""

    low: float | None
    high: float | None
    again: bool


def glance(reader: Reader, model: str, cursor: int, last: int) -> dict[str, Seen]:
    """What is new of a model's scores, by settings hash: one query for all rules, most of which it spares one of their own."""
    rows = reader.query(
        "SELECT settings_hash, min(value) AS low, max(value) AS high, bool_or(revision > 1) AS again FROM "
        f"{reader.source('scores', model, after_seq=cursor)} WHERE seq > ? AND seq <= ? GROUP BY settings_hash",
        [cursor, last],
    )
    return {row["settings_hash"]: Seen(row["low"], row["high"], row["again"]) for row in rows}


class Matching:
    """Of one rule. `kind` is the log that it follows."""

    def __init__(self, rule: RecordRule, config: Config) -> None:
        self.rule = rule
        self.kind = "scores" if rule.check is not None else "maskings"
        self._answers = next(m.task for m in config.models if m.name == rule.model) == "llm"
        self._where = [Condition(name, texts(values)) for name, values in rule.where.items()]
        if rule.check is not None:
            check = next(c for c in config.checks if c.name == rule.check)
            self._hash = RowCheck(check.detector, check.settings).hash
            # Of a judge, what was escalated alerts no window, as it is no sample of the traffic; it is a bad answer all the same.
            self._any = is_judged(check.detector)

    @property
    def what(self) -> str:
        """In a few words, what is counted or compared."""
        return f"score of {self.rule.check}" if self.rule.check is not None else f"masked: {', '.join(self.rule.masked)}"

    def may_hold(self, seen: Mapping[str, Seen]) -> bool:
        """Whether a look is worth it, by what is there of the scores of each settings hash."""
        if self.kind != "scores":
            return True
        one = seen.get(self._hash)
        if one is None:
            return False
        return one.again or any(value is not None and self.rule.beyond(value) for value in (one.low, one.high))

    def look(self, reader: Reader, cursor: int, last: int, now: datetime) -> Found:
        """Rows after `cursor`, up to `last`, which are all there."""
        if self.kind == "scores":
            return self._scores(reader, cursor, last)
        return self._maskings(reader, cursor, last, now)

    # --- scores ---

    def _scores(self, reader: Reader, cursor: int, last: int) -> Found:
        rule, model = self.rule, self.rule.model
        comparison = ">=" if rule.at_least is not None else "<="
        # A record that is scored again may be one that matched.
        rows = reader.query(
            "SELECT seq, record_id, revision, event_time, trace_id, value, flagged, detail, received_at FROM "
            f"{reader.source('scores', model, after_seq=cursor)} WHERE seq > $1 AND seq <= $2 AND settings_hash = $3 "
            f"AND (value {comparison} $4 OR revision > 1) ORDER BY seq LIMIT {ROWS_AT_ONCE}",
            [cursor, last, self._hash, rule.bound],
        )
        reached = last if len(rows) < ROWS_AT_ONCE else rows[-1]["seq"]
        counts = [r for r in rows if r["value"] is not None and (self._any or r["flagged"] is not None)]
        beyond = [r for r in counts if rule.beyond(r["value"])]
        about = self._about(reader, beyond)
        claims = self._claims(reader, beyond)
        places = {r["seq"] for r in beyond if about[r["record_id"]].here}
        matches = []
        for row in rows:
            matched = row["seq"] in places
            value = row["value"] if row["value"] is not None else 0.0
            keys = self._keys(row, about[row["record_id"]]) if matched else ()
            detail = {**_detail(row["detail"]), **claims.get((row["record_id"], row["revision"]), {})} if matched else {}
            if matched or row["revision"] > 1:
                matches.append(_match(row, value, matched, keys, detail))
        return Found(matches, reached)

    def _claims(self, reader: Reader, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
        """Pieces of the answers that nothing supports, by record and revision."""
        if not rows:
            return {}
        times = [row["event_time"] for row in rows]
        source = reader.source("claims", self.rule.model, since=min(times), until=max(times) + timedelta(microseconds=1))
        marks = ", ".join("?" * len(rows))
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for one in reader.query(
            f"SELECT record_id, revision, start_offset, end_offset FROM {source} WHERE settings_hash = ? AND support < ? "
            f"AND record_id IN ({marks}) ORDER BY record_id, claim_index",
            [self._hash, UNSUPPORTED, *(row["record_id"] for row in rows)],
        ):
            spans = found.setdefault((one["record_id"], one["revision"]), {"spans": []})["spans"]
            if len(spans) < SPANS_SHOWN:
                spans.append(["response", one["start_offset"], one["end_offset"]])
        return found

    # --- what was masked ---

    def _maskings(self, reader: Reader, cursor: int, last: int, now: datetime) -> Found:
        rule = self.rule
        quoted = (literal(f'"{kind}"') for kind in rule.masked)
        wanted = " OR ".join(f"contains(masked, {one})" for one in quoted)
        rows = reader.query(
            "SELECT seq, record_id, 1 AS revision, event_time, trace_id, masked, received_at FROM "
            f"{reader.source('maskings', rule.model, after_seq=cursor)} WHERE seq > ? AND seq <= ? AND ({wanted}) "
            f"ORDER BY seq LIMIT {ROWS_AT_ONCE}",
            [cursor, last],
        )
        reached = last if len(rows) < ROWS_AT_ONCE else rows[-1]["seq"]
        about = self._about(reader, rows)
        matches = []
        for row in rows:
            one = about[row["record_id"]]
            if not one.known and row["received_at"] > now - PATIENCE:
                reached = min(reached, row["seq"] - 1)  # looked at again: what has matched by then is known by its record
                continue
            masked = orjson.loads(row["masked"])
            kinds = sorted(kind for kind in rule.masked if kind in masked)
            spans = _tokens(one.texts, rule.fields or ("response",), kinds) if self._answers else []
            if not one.here or (self._answers and not spans):
                continue
            value = float(len(spans)) if self._answers else float(sum(masked[kind] for kind in kinds))
            detail = {"masked": kinds, "spans": spans[:SPANS_SHOWN]}
            matches.append(_match(row, value, True, self._keys(row, one), detail))
        return Found(matches, reached)

    # --- the records ---

    def _about(self, reader: Reader, rows: Sequence[Mapping[str, Any]]) -> dict[str, _Record]:
        """What else is known of these records, by id; nothing of one that is not there."""
        ids = sorted({row["record_id"] for row in rows})
        if not ids:
            return {}
        found = {i: _Record() for i in ids}
        if self._answers:
            self._answered(reader, ids, rows, found)
        else:
            self._predicted(reader, ids, found)
        return found

    def _predicted(self, reader: Reader, ids: Sequence[str], found: dict[str, _Record]) -> None:
        model = self.rule.model
        source = reader.source("predictions", model, places=reader.places("keys", "predictions", model, [hash64(i) for i in ids]))
        here = " AND ".join(one.sql(one.field) for one in self._where) or "true"
        marks = ", ".join("?" * len(ids))
        for row in reader.query(f"SELECT record_id, {here} AS here FROM {source} WHERE record_id IN ({marks})", ids):
            found[row["record_id"]] = _Record(known=True, here=row["here"])

    def _answered(self, reader: Reader, ids: Sequence[str], rows: Sequence[Mapping[str, Any]], found: dict[str, _Record]) -> None:
        model, marks = self.rule.model, ", ".join("?" * len(ids))
        keys = [hash64(i) for i in ids]
        traces = sorted({hash64(row["trace_id"].lower()) for row in rows if row["trace_id"]})
        generations = reader.source("generations", model, places=reader.places("keys", "generations", model, keys))
        contents = reader.source("contents", model, places=reader.places("traces", "contents", model, traces))
        of_these = f"WHERE record_id IN ({', '.join(map(literal, ids))})"
        joined = ""
        if any(one.field.startswith("attributes.") for one in self._where):
            spans = reader.source("spans", model, places=reader.places("keys", "spans", model, keys))
            joined = f"LEFT JOIN (SELECT record_id, attributes, resource FROM {spans} {of_these}) a USING (record_id)"
        here = " AND ".join(one.sql(answers.text_of(one.field)) for one in self._where) or "true"
        filled = said.filled(f"(SELECT * FROM {generations} {of_these})", f"{contents} {of_these}", TEXTS)
        columns = ", ".join(f"g.{quote(name)}" for name in (*TEXTS, *KEY_FIELDS.values()))
        for row in reader.query(
            f"SELECT record_id, {columns}, {here} AS here FROM {filled} g {joined} WHERE record_id IN ({marks})", ids
        ):
            found[row["record_id"]] = _Record(True, row["here"], row)
        if missing := [i for i, one in found.items() if not one.known]:
            alone = f"{contents} WHERE record_id IN ({', '.join(map(literal, missing))})"
            for row in reader.query(said.in_logs(alone, TEXTS)):
                found[row["record_id"]] = _Record(False, not self._where, row)

    def _keys(self, row: Mapping[str, Any], one: _Record) -> tuple[str, ...]:
        key, record_id, trace_id = self.rule.key, row["record_id"], row["trace_id"]
        if key == "rule":
            named: str = ""
        elif key == "record":
            named = record_id
        else:
            named = (one.texts.get(KEY_FIELDS[key]) if key in KEY_FIELDS else None) or trace_id or record_id
        keys = [f"{hash64(key, named):016x}"]
        texts_of = [one.texts.get(name) or "" for name in ("question", "response")]
        if any(texts_of):
            keys.append(f"{hash64('texts', *texts_of):016x}")
        return tuple(keys)


@dataclass(frozen=True, slots=True)
class _Record:
    """`known`: it is stored. `here`: it meets the rule's `where`."""

    known: bool = False
    here: bool = False
    texts: Mapping[str, Any] = field(default_factory=dict)


def _match(row: Mapping[str, Any], value: float, matched: bool, keys: tuple[str, ...], detail: Mapping[str, Any]) -> Match:
    return Match(
        row["record_id"], row["revision"], row["event_time"], row["trace_id"], row["received_at"], value, matched, keys, detail
    )


def _detail(text: str | None) -> dict[str, Any]:
    """Of a score what is not too long to be shown."""
    if not text:
        return {}
    detail = orjson.loads(text)
    if len(text) > DETAIL_CHARACTERS:
        detail = {"span": detail["span"]} if "span" in detail else {}
    return {"detail": detail} if detail else {}


def _tokens(found: Mapping[str, Any], fields: Sequence[str], kinds: Sequence[str]) -> list[list[Any]]:
    """Where something was masked: field, and offsets of what stands there now."""
    pattern = re.compile("|".join(re.escape(token(kind)) for kind in kinds)) if kinds else None
    spans: list[list[Any]] = []
    for name in fields:
        if pattern is not None and (text := found.get(name)):
            spans += [[name, one.start(), one.end()] for one in pattern.finditer(text)]
    return spans
