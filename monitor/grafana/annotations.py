"""What happened, on Grafana's time axis: incidents, cases, maintenance and freezes as regions, changes and deployments as points.

Each is known by a tag of its own, `incident:ID` and so on. Whoever sends one looks for the tag first, and mends what is there:
so there is exactly one of each through crashes, retries and answers that were lost. All have the tag `modelwatch`, the kind as a
tag, and `model:NAME`, by which a dashboard picks them.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import orjson

from monitor import external
from monitor.config import Config
from monitor.feed import Feed
from monitor.grafana.client import Grafana, GrafanaError
from monitor.outbox import OPEN, Later, Message, Never, Outbox
from monitor.past import LATEST
from monitor.transaction import Transaction

SINK = "grafana"
KINDS = ("incidents", "cases", "maintenance", "changes", "deployments")
UNTIL = "/until/"  # in the key of a message that only draws a region on
GROW_SECONDS = 300  # so often a region whose end is not known is drawn on to the present
MOST = 200  # characters of a value that came with the traffic
REGIONS = {"incidents": ("incident", "incident_id"), "cases": ("case", "case_id")}
COLUMNS = {"incidents": "check_name, slice", "cases": "incident_count"}  # what their texts say besides


@dataclass(frozen=True, slots=True)
class Note:
    """One annotation as it should be; times in milliseconds, without `end` a point. `gone`: there should be none."""

    tag: str
    start: int
    end: int | None
    tags: list[str]
    text: str
    gone: bool = False


class Notes:
    """Makes messages of rows of the store."""

    def __init__(self, config: Config) -> None:
        self._base = external.base(config)

    def of(self, kind: str, row: Mapping[str, Any]) -> Iterator[Message]:
        """What is to be told of a row of a log; nothing of most revisions of an open incident."""
        if kind in REGIONS:
            if row["state"] != "open" or row["revision"] == 1:
                yield self.region(kind, row, f"/{row['revision']}", row["received_at"])
        elif kind == "maintenance":
            yield from self._window(row)
        else:
            yield self._point(kind, row)

    def region(self, kind: str, row: Mapping[str, Any], key: str, now: datetime) -> Message:
        """Of an incident or a case. While it is open it ends where `now` is."""
        word, column = REGIONS[kind]
        tag, model = f"{word}:{row[column]}", row["model"]
        end = row["resolved_slot"] or max(now, row["opened_slot"])
        tags = ["modelwatch", word, f"model:{model}", f"severity:{row['severity']}"]
        if kind == "incidents":
            tags.append(f"check:{row['check_name']}")
            part = "" if row["slice"] == "all" else f", slice {_said(row['slice'])}"
            what = f"{_said(row['check_name'])} of {_said(model)}{part}"
            link = f"{self._base}{external.incident_path(row[column])}"
        else:
            what = f"{row['incident_count']} incidents of {_said(model)}"
            link = f"{self._base}{external.case_path(row[column])}"
        text = f'{what}: {row["state"]}, {row["severity"]}. <a href="{html.escape(link)}">{word}</a>'
        note = Note(tag, _ms(row["opened_slot"]), _ms(end), [*tags, tag], text, row["state"] == "withdrawn")
        return Message(f"{tag}{key}", asdict(note), group=tag)

    def _window(self, row: Mapping[str, Any]) -> Iterator[Message]:
        """One with a start and an end; those that come back each week are no time on the axis."""
        start, end = row["start_time"], row["end_time"]
        if start is None or end is None:
            return
        if row["ended_at"] is not None:
            end = min(end, row["ended_at"])
        tag, kind = f"window:{row['window_id']}", row["window_kind"]
        models = orjson.loads(row["models"] or "[]")[:3]
        why = f": {_said(row['reason'])}" if row["reason"] else ""
        tags = ["modelwatch", kind, *(f"model:{model}" for model in models), tag]
        note = Note(tag, _ms(start), _ms(max(start, end)), tags, f"{kind} {_said(row['name'])}{why}", gone=end <= start)
        yield Message(f"{tag}/{row['revision']}", asdict(note), group=tag)

    def _point(self, kind: str, row: Mapping[str, Any]) -> Message:
        word, model = kind.removesuffix("s"), row["model"]
        tag = f"{word}:{model}.{row['seq']}.{_ms(row['event_time'])}"  # a store that begins anew counts from 1 again
        if kind == "changes":
            before = f", before that {_said(row['previous'])}" if row["previous"] else ""
            text = f"{_said(model)}: new {row['what']} {_said(row['value'])}{before}"
        else:
            version = f" {_said(row['version'])}" if row["version"] else ""
            text = f"{_said(model)}{version}: {_said(row['event'] or 'deployed')}"
        note = Note(tag, _ms(row["event_time"]), None, ["modelwatch", word, f"model:{model}", tag], text)
        return Message(tag, asdict(note), group=tag)


class Growth:
    """Draws the regions of what is still open on to the present, every `GROW_SECONDS`; those that were open before Grafana was
    configured come in by that. Belongs to the courier's thread, as the feed does."""

    def __init__(self, box: Outbox, notes: Notes) -> None:
        self._box = box
        self._notes = notes
        self._last = -1

    def step(self) -> int:
        now = self._box.clock.now()
        bucket = int(now.timestamp()) // GROW_SECONDS
        if bucket == self._last:
            return 0
        store, sink = self._box.store, self._box.sink
        messages = []
        with store.read() as reader:
            sql = f'SELECT DISTINCT "group" FROM outbox WHERE sink = ? AND {OPEN}'
            waiting = {row["group"] for row in reader.query(sql, [sink])}
            for kind, model in store.logs():
                if kind not in REGIONS:
                    continue
                _, column = REGIONS[kind]
                columns = f"model, revision, state, severity, opened_slot, resolved_slot, {column}, {COLUMNS[kind]}"
                latest = f"SELECT {columns} FROM {reader.source(kind, model)} {LATEST.format(column)}"
                for row in reader.query(f"SELECT * FROM ({latest}) WHERE state = 'open'"):
                    message = self._notes.region(kind, row, f"{UNTIL}{bucket}", now)
                    if message.group not in waiting:
                        messages.append(message)

        def keep(transaction: Transaction) -> None:
            # One each five minutes for each incident: none is of use once the next is there, sent or refused.
            ended = "(done_at IS NOT NULL OR dead_at IS NOT NULL)"
            transaction.execute(f"DELETE FROM outbox WHERE sink = ? AND {ended} AND contains(key, ?)", [sink, UNTIL])
            self._box.put(transaction, messages)

        if messages:
            store.run(keep)
        self._last = bucket
        return len(messages)


class Filling:
    """What the courier does before it looks what is due."""

    def __init__(self, box: Outbox, config: Config) -> None:
        notes = Notes(config)
        self.feed = Feed(box, KINDS, notes.of)
        self._growth = Growth(box, notes)

    def step(self) -> None:
        self.feed.step()
        self._growth.step()


def sender(grafana: Grafana, stopping: Callable[[], bool] = lambda: False) -> Callable[[Message], None]:
    """Has one annotation be as its message says. `stopping`: no more calls are begun."""

    def send(message: Message) -> None:
        try:
            _send(grafana, Note(**message.payload), again=message.attempts > 0, stopping=stopping)
        except GrafanaError as exc:
            if exc.passing or exc.reason in ("not_found", "conflict"):  # gone between our look and our patch: look again
                raise Later(exc.reason, str(exc), exc.seconds) from exc
            raise Never(exc.reason, str(exc)) from exc

    return send


def _send(grafana: Grafana, note: Note, *, again: bool, stopping: Callable[[], bool]) -> None:
    there = _found(grafana, note.tag)
    if stopping():
        raise Later("stopping")
    if not there and not note.gone:
        grafana.add_annotation(note.start, note.end, note.tags, note.text)
        if not again:
            return
        # An earlier try may have been taken after we had given it up, and after our look.
        there = _found(grafana, note.tag)
    for extra in there if note.gone else there[1:]:
        grafana.delete_annotation(extra["id"])
    if there and not note.gone and not _is(there[0], note):
        grafana.patch_annotation(there[0]["id"], note.start, note.end, note.tags, note.text)


def _found(grafana: Grafana, tag: str) -> list[dict[str, Any]]:
    return [one for one in grafana.annotations(tag) if tag in (one.get("tags") or ())]


def _is(there: Mapping[str, Any], note: Note) -> bool:
    times = (there.get("time"), there.get("timeEnd") or there.get("time"))
    return times == (note.start, note.end or note.start) and there.get("text") == note.text and [*there["tags"]] == note.tags


def _said(value: object) -> str:
    """Grafana shows the text as HTML; what came with the traffic is not to be any."""
    text = str(value)
    return html.escape(text if len(text) <= MOST else f"{text[:MOST]}...")


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
