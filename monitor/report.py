"""Evidently's page of charts on the rows of an incident, on demand: rendered by the worker, kept for the next who asks.

The rows are those of the reading that opened it. What has no reference, and the scores of a row check, are compared with the
window before.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa

from detectors import registry
from detectors.contract import ColumnKind, Frame, NotEvaluable, Outcome
from detectors.evidently_library import EVIDENTLY, Meaning
from detectors.evidently_report import POLICY, Plan, Rendered
from detectors.stattests import STATTESTS
from monitor import answers
from monitor.child import Child
from monitor.config import Check, Config
from monitor.errors import BodyRejected, ChildFailed, StoreUnavailable
from monitor.helpers import ReportRequest
from monitor.past import LATEST
from monitor.reader import Reader
from monitor.readings import Meter, Rows
from monitor.references import References
from monitor.slices import WHOLE, Slice, Slices
from monitor.store import Store
from monitor.traffic import maker
from monitor.windows import TableWindow

FOLDER = "reports"
KEPT = 20  # pages of some 4 MB each
PATIENCE_SECONDS = 180.0  # more than the worker gives itself
VERSION = 1  # of what a page looks like
PRESETS = ("binary", "multiclass", "regression")
SAID = ("prediction", "probability", "label")

HEADERS = {
    # A page of its own, without an origin: whatever runs in it reaches neither this server nor any other.
    "Content-Security-Policy": f"sandbox allow-scripts; frame-ancestors 'self'; {POLICY}",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Tracked(Protocol):
    """What is asked of a check's runner: its slices."""

    @property
    def tracks(self) -> Mapping[str, Any]: ...


class Reports:
    """Any thread may ask; one page is rendered at a time."""

    def __init__(
        self,
        store: Store,
        references: References,
        worker: Child,
        *,
        config: Callable[[], Config],
        runners: Callable[[], Mapping[str, Tracked]],
    ) -> None:
        self._store = store
        self._references = references
        self._worker = worker
        self._config = config
        self._runners = runners
        self._folder = store.root / FOLDER
        self._rendering = threading.Lock()

    def page(self, incident_id: str) -> bytes:
        """HTML.

        Raises:
            BodyRejected: 404, there is no such incident; 409, its check is gone or is another now; 422, there is nothing to show,
                or it takes too much.
            StoreUnavailable: the store or the worker is away for now.
        """
        with self._store.read() as reader:
            incident = self._incident(reader, incident_id)
            check = self._check(incident)
            key = hashlib.sha256(repr((incident_id, incident["opened_slot"], check, VERSION, EVIDENTLY)).encode()).hexdigest()[
                :16
            ]
            path = self._folder / f"{incident_id}-{key}.html"
            if path.exists():
                return path.read_bytes()
            with self._rendering:
                if path.exists():  # whoever was before us asked for the same
                    return path.read_bytes()
                request = self._request(reader, incident, check)
                page = self._render(request).html.encode("utf-8", "replace")
                self._keep(path, page)
                return page

    def _incident(self, reader: Reader, incident_id: str) -> dict[str, Any]:
        for kind, model in self._store.logs():
            if kind == "incidents":
                found = reader.query(
                    f"SELECT * FROM {reader.source('incidents', model)} WHERE incident_id = ? {LATEST.format('incident_id')}",
                    [incident_id],
                )
                if found:
                    return found[0]
        raise BodyRejected(
            404, "unknown_incident", f"no incident {incident_id!r:.80}; the view incidents of the store has them all"
        )

    def _check(self, incident: Mapping[str, Any]) -> Check:
        for check in self._config().checks:
            if check.name == incident["check_name"] and check.model == incident["model"]:
                return check
        if any(rule.name == incident["check_name"] for rule in self._config().record_rules):
            raise BodyRejected(
                422,
                "not_evaluable",
                f"{incident['check_name']} is a rule on single records, which compares nothing; its records are in the evidence, "
                f"and modelwatch export-dataset {incident['incident_id']} writes them to a file",
            )
        raise BodyRejected(
            409,
            "check_gone",
            f"the check {incident['check_name']} of {incident['model']} is no longer configured, and it says which rows were "
            "compared; put it back to see them",
        )

    # --- what is to be shown ---

    def _request(self, reader: Reader, incident: Mapping[str, Any], check: Check) -> ReportRequest:
        slot: datetime = incident["opened_slot"]
        part = self._part(check, incident["slice"])
        try:
            reference, current, compared = self._sides(reader, check, slot, part)
        except NotEvaluable as exc:
            raise BodyRejected(422, "not_evaluable", f"the rows of this incident cannot be read: {exc}") from exc
        plan = self._plan(incident, check, reference, current, compared)
        return ReportRequest(plan, self._frame(reference, plan), self._frame(current, plan))

    def _part(self, check: Check, name: str) -> Slice:
        runner = self._runners().get(check.name)
        track = runner.tracks.get(name) if runner is not None else None
        if track is not None:
            part: Slice = track.part
            return part
        if name == WHOLE.name:
            return WHOLE
        raise BodyRejected(
            409, "slice_gone", f"the check {check.name} has no slice {name!r} any more; put it back to see its rows"
        )

    def _sides(self, reader: Reader, check: Check, slot: datetime, part: Slice) -> tuple[TableWindow, TableWindow, str]:
        """What is compared with, the window, and the former in words."""
        config = self._config()
        model = next(m for m in config.models if m.name == check.model)
        length = timedelta(seconds=check.window_seconds)
        before = slot - length, f"the window before, until {slot - length:%Y-%m-%d %H:%M:%S} UTC"
        if registry.is_row(registry.load(check.detector)):
            scores = answers.scored(config.checks, check.model)
            every = answers.Answers(
                check.model, frozenset({"features"}), {}, scores, every_call=False, fields=Slices(check.slices).fields
            )
            rows = [part.of(every.between(reader, at - length, at, {})).without(every.added) for at in (before[0], slot)]
            return rows[0], rows[1], before[1]
        meter = Meter(check, model, self._references, self._worker, maker({m.name: m.task for m in config.models}, config.checks))
        features: Any = self._store.feature_columns(check.model)

        def sides(at: datetime) -> tuple[TableWindow | None, TableWindow]:
            look = meter.look(reader, at, features)
            if not isinstance(look, Rows):
                raise NotEvaluable("rows_unavailable", "a segment that holds some of them is damaged and set aside")
            return look.sides(part)

        reference, current = sides(slot)
        if reference is not None:
            return reference, current, reference.name or "the reference of the check"
        return sides(before[0])[1], current, before[1]

    def _plan(
        self, incident: Mapping[str, Any], check: Check, reference: TableWindow, current: TableWindow, compared: str
    ) -> Plan:
        evidence = orjson.loads(incident["evidence"])
        settings = check.settings
        slot: datetime = incident["opened_slot"]
        bounds = evidence.get("threshold") or {}
        limits = ", ".join(f"{name} {value:g}" for name, value in bounds.items() if isinstance(value, int | float))
        facts = [
            ("check", f"{check.name}: {check.detector} on {check.model}"),
            ("slice", incident["slice"]),
            ("window", f"{slot - timedelta(seconds=check.window_seconds):%Y-%m-%d %H:%M:%S} to {slot:%Y-%m-%d %H:%M:%S} UTC"),
            ("compared with", compared),
            ("state", f"{incident['state']}, {incident['severity']}"),
        ]
        if evidence.get("value") is not None:
            facts.append(("reading", f"{evidence.get('statistic')} {evidence['value']:.6g}; threshold {limits or 'none'}"))
        parts = evidence.get("parts", ())
        names = [part["name"] for part in parts]
        shown = sorted(set(reference.features) & set(current.features))
        # Where Evidently's own tests decided, the same are shown.
        alike = getattr(settings, "policy", None) == "evidently"
        methods = {part["name"]: part["statistic"] for part in parts if alike and _decided(part)}
        task = getattr(settings, "task", None) or None
        judged = "label" in current.table.column_names and "prediction" in current.table.column_names
        meaning = Meaning(task, str(getattr(settings, "positive", "1"))) if judged and task in PRESETS else Meaning()
        return Plan(
            f"Incident {incident['incident_id']}",
            tuple(facts),
            tuple(name for name in names if name in shown),
            tuple(methods.items()),
            meaning,
        )

    @staticmethod
    def _frame(window: TableWindow, plan: Plan) -> Frame:
        """Columns that are shown, numbers that are no features included: a prediction has a distribution, too."""
        table = window.table
        kinds: dict[str, ColumnKind] = {name: kind for name, kind in window.features.items() if window.has(name)}
        more = [name for name in SAID if window.has(name) and name not in kinds]
        for name in more:
            if plan.meaning.task is None or name == "probability":
                kinds[name] = "category" if pa.types.is_string(table[name].type) else "number"
        return TableWindow(table.select([*dict.fromkeys((*kinds, *more))]), kinds).frame()

    def _render(self, request: ReportRequest) -> Rendered:
        try:
            answer = self._worker.call(request, PATIENCE_SECONDS)
        except ChildFailed as exc:
            raise StoreUnavailable(f"the page could not be rendered: {exc}; ask again") from exc
        if isinstance(answer, str):
            raise BodyRejected(422, "not_rendered", answer)
        assert isinstance(answer, Rendered)
        return answer

    # --- pages that are there ---

    def _keep(self, path: Path, page: bytes) -> None:
        """For the next who asks. What cannot be kept was rendered all the same."""
        try:
            self._folder.mkdir(exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(page)
            temporary.rename(path)
            there = sorted(self._folder.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
            for old in there[KEPT:]:
                old.unlink(missing_ok=True)
        except OSError:
            return


def _decided(part: Mapping[str, Any]) -> bool:
    return part["outcome"] == Outcome.OK and part["statistic"] in STATTESTS
