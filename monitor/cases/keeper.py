"""Keeps the cases in step with the incidents: follows their log, stores what is new of a case, and decides on its page.

Whoever stores an incident does nothing for it. After a crash the store is compared with what its incidents amount to, so a case
is neither lost nor told twice. Whenever an incident has changed all of its model are read anew: a few columns, in milliseconds.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import duckdb
import orjson

from monitor import external, log
from monitor.cases import causes, configchanges, happened
from monitor.cases.case import Case, Episode, Page, cases, page
from monitor.cases.exposed import CaseBoard, Standing
from monitor.cases.freezes import Freezes
from monitor.clock import Clock
from monitor.config import Config
from monitor.maintenance.book import Book
from monitor.metrics import Metrics
from monitor.past import LATEST
from monitor.reader import Reader
from monitor.schema import KINDS as TABLES
from monitor.slices import WHOLE
from monitor.store import Store
from monitor.transaction import Transaction

WAKE_SECONDS = 0.25
KINDS = ("incidents", "changes", "deployments")
COLUMNS = tuple(c.name for c in TABLES["cases"].columns if c.name not in ("seq", "model", "received_at"))
Row = dict[str, Any]


class CaseKeeper:
    """`restore` before the first scrape, then `start` to `stop`; a test calls `step`."""

    def __init__(self, config: Config, store: Store, book: Book, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._book = book
        self._clock = clock
        self._freezes = Freezes(store, book, metrics)
        self._opened = store.opened
        self.board = CaseBoard(book, clock=clock, violations=self._freezes.violations, url=external.base(config))
        self._lock = threading.Lock()
        self._stored: dict[str, dict[str, Row]] = {}  # by model and case, the latest row; of those that are over, a part of it
        self._open: dict[str, Case] = {}  # by model
        self._seen: dict[str, tuple[int, ...]] = {}  # by model: up to where the logs were read
        self._ends = threading.Event()
        self._failing = log.Lasting(clock.monotonic)
        self._thread = threading.Thread(target=self._run, name="cases", daemon=True)
        self._metrics = metrics
        self._configure(config)

    def _configure(self, config: Config) -> None:
        self._words: dict[tuple[str, str], tuple[str, str]] = {(c.model, c.name): (c.severity, c.owner) for c in config.checks}
        self._words |= {(r.model, r.name): (r.severity, r.owner) for r in config.record_rules}
        self._slices = {(c.model, c.name): c.slices for c in config.checks}
        self._owners = {m.name: m.owner for m in config.models}
        self._to_note: Config | None = config
        self.board.url = external.base(config)
        self.board.keep(tuple(self._owners))

    def configure(self, config: Config) -> None:
        """Severities and owners are those of the config now."""
        with self._lock:
            self._configure(config)
            self._seen.clear()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ends.set()
        self._thread.join()

    def restore(self) -> None:
        """Have the board show what is stored, brought up to date where the store takes anything.

        Raises:
            duckdb.Error: it cannot be read.
        """
        with self._lock:
            self._load()
            for model, stored in self._stored.items():
                for row in stored.values():
                    if row["state"] == "open" and row["paged_at"] and model in self._owners:
                        self.board.put(model, Standing(row["page_severity"], row["page_owner"] or ""))
        self._try(duckdb.Error)

    def _load(self) -> None:
        """What is stored. Asked for again when the file was opened anew: what was just being committed may stand, or not."""
        opened = self._store.opened
        with self._store.read() as reader:
            for model in [model for kind, model in self._store.logs() if kind == "cases"]:
                rows = reader.query(f"SELECT * FROM {reader.source('cases', model)} {LATEST.format('case_id')}")
                self._stored[model] = {row["case_id"]: _slim(row) for row in rows}
        self._freezes.begin()
        self._seen.clear()
        self._opened = opened

    def step(self) -> int:
        """Take in what is new and return how many rows were stored. What is wrong with one model keeps no other from its page: it
        is raised when all have had their turn."""
        with self._lock:
            if self._store.opened != self._opened:
                self._load()
            self._book.flush()
            if self._to_note is not None:
                configchanges.note(self._to_note, self._store, self._metrics)
                self._to_note = None
            count, wrong = 0, None
            for model in self._owners:
                try:
                    count += self._of_model(model)
                except Exception as exc:
                    wrong = wrong or exc
            if wrong is not None:
                raise wrong
            return count

    def _of_model(self, model: str) -> int:
        count = self._freezes.step(model)
        at = tuple(self._store.last_seq(kind, model) for kind in KINDS)
        if at[0] and at != self._seen.get(model):
            count += self._derive(model)
            self._seen[model] = at
        return count + self._page(model)

    def _run(self) -> None:
        while not self._ends.wait(WAKE_SECONDS):
            self._try()

    def _try(self, *but: type[Exception]) -> None:
        try:
            self.step()
            self._failing.over("cases are kept again", "cases")
        except but:
            raise
        except Exception as exc:  # whatever it is: better seen to fail again and again than once and then silence
            self._failing.warning("cases could not be kept and will be tried again", "cases", error=exc)

    # --- what follows from the incidents ---

    def _derive(self, model: str) -> int:
        known = self._stored.get(model, {})
        with self._store.read() as reader:
            found = cases(model, self._episodes(reader, model))
            ids = {case.id for case in found}
            gone = [row for key, row in known.items() if key not in ids and row["state"] != "withdrawn"]
            # What was open under another id, with less or more that was known of it, has been paged already.
            before = next((row for row in known.values() if row["state"] == "open"), None)
            if before is not None and before["case_id"] in ids:
                had = set(orjson.loads(before["incidents"]))
                before = before if any(e.incident_id in had for e in found[-1].episodes) else None
            rows = [self._row(reader, case, known.get(case.id), before) for case in found]
        rows += [{**row, "revision": row["revision"] + 1, "state": "withdrawn"} for row in gone]
        count = self._keep(model, [row for row in rows if row is not None])
        self._open.pop(model, None)
        if found and found[-1].state == "open":
            self._open[model] = found[-1]
        return count

    def _episodes(self, reader: Reader, model: str) -> list[Episode]:
        columns = "incident_id, check_name, slice, state, severity, owner, opened_slot, last_slot, resolved_slot, revision"
        latest = f"SELECT {columns} FROM {reader.source('incidents', model)} {LATEST.format('incident_id')}"
        found = []
        for row in reader.query(f"SELECT * FROM ({latest}) WHERE state <> 'withdrawn'"):
            severity, owner, resolved = row["severity"], row["owner"] or "", row["resolved_slot"]
            if row["state"] == "open" and self._watched(model, row["check_name"], row["slice"]):
                severity, owner = self._words[model, row["check_name"]]  # as the config has it now
            elif row["state"] == "open":
                resolved = row["last_slot"]  # nobody will ever say that it is over
            found.append(
                Episode(
                    row["incident_id"],
                    row["check_name"],
                    row["slice"],
                    row["opened_slot"],
                    resolved,
                    severity,
                    owner or (self._owners.get(model, "") if row["state"] == "open" else ""),
                    row["revision"],
                )
            )
        return found

    def _watched(self, model: str, check: str, part: str) -> bool:
        """Whether the config has this check or rule, and this slice of it."""
        if (model, check) not in self._words:
            return False
        slices = self._slices.get((model, check), ())
        return (
            part == WHOLE.name
            or (model, check) not in self._slices
            or any(part == one.name if one.by is None else part.startswith(f"{one.by}=") for one in slices)
        )

    def _row(self, reader: Reader, case: Case, known: Row | None, before: Row | None) -> Row | None:
        """None where nothing is new."""
        in_maintenance = self._book.covering("maintenance", case.model, case.opened)
        # What happened may be told late, so it is looked for again as long as somebody may be looking.
        events = happened.before(reader, case.model, case.opened) if case.state == "open" else None
        basis = hashlib.sha256(repr((case.episodes, events, in_maintenance)).encode()).hexdigest()[:16]
        if known is not None and known["basis"] == basis and known["state"] != "withdrawn":
            return None
        if events is None:
            events = happened.before(reader, case.model, case.opened)
        paged = known or {}
        if case.state == "open" and before is not None and before["paged_at"] and paged.get("state") != "open":
            paged = before  # though this one may have been over, or held back, before it took that one in
        return {
            "case_id": case.id,
            "revision": known["revision"] + 1 if known else 1,
            "state": case.state,
            "severity": case.severity,
            "owners": _json(case.owners),
            "opened_slot": case.opened,
            "resolved_slot": case.resolved,
            "incidents": _json([e.incident_id for e in case.episodes]),
            "incident_count": len(case.episodes),
            "causes": _json(causes.ranked(self._found(reader, case))),
            "changes": _json(events),
            "in_maintenance": in_maintenance,
            "basis": basis,
            **{name: paged.get(name) for name in ("paged_at", "page_severity", "page_owner")},
        }

    @staticmethod
    def _found(reader: Reader, case: Case) -> list[causes.Found]:
        ids = [e.incident_id for e in case.episodes]
        rows = reader.query(
            f"SELECT incident_id, peak, evidence FROM {reader.source('incidents', case.model)} "
            f"WHERE incident_id IN (SELECT unnest($1)) {LATEST.format('incident_id')}",
            [ids],
        )
        told = {row["incident_id"]: row for row in rows}
        return [
            causes.Found(e, told[e.incident_id]["peak"], orjson.loads(told[e.incident_id]["evidence"] or "{}"))
            for e in case.episodes
        ]

    # --- the page ---

    def _page(self, model: str) -> int:
        """Say of an open case that it is one, unless maintenance holds that back."""
        case, count = self._open.get(model), 0
        if case is None:
            self.board.put(model, None)
            return 0
        row, now = self._stored[model][case.id], self._clock.now()
        before = Page(row["paged_at"], row["page_severity"], row["page_owner"] or "") if row["paged_at"] else None
        after = page(case, before, now, self._book.covering("maintenance", model, now) is not None)
        if after is not None and after != before:
            said = {"paged_at": after.at, "page_severity": after.severity, "page_owner": after.owner or None}
            # Stored before it is shown: after a crash it is the same page that goes on.
            count = self._keep(model, [{**row, **said, "revision": row["revision"] + 1}])
        self.board.put(model, Standing(after.severity, after.owner) if after else None, held=after is None)
        return count

    def _keep(self, model: str, rows: Sequence[Row]) -> int:
        if not rows:
            return 0

        def work(transaction: Transaction) -> None:
            columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
            transaction.append("cases", model, {**columns, "received_at": transaction.now})

        self._store.run(work)
        self._stored[model] = {**self._stored.get(model, {}), **{row["case_id"]: _slim(row) for row in rows}}
        for row in rows:
            if row["revision"] == 1 or row["state"] != "open":
                log.info("case", model=model, case=row["case_id"], state=row["state"], incidents=row["incident_count"])
        return len(rows)


def _slim(row: Row) -> Row:
    """Of a case that is over, what it takes to know that nothing of it is new."""
    left_out = () if row["state"] == "open" else ("causes", "changes", "incidents", "owners")
    return {name: row.get(name) for name in COLUMNS if name not in left_out}


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()
