"""What the pages and the JSON behind them show, read from the store: hot rows and sealed segments, so it is never old."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from monitor import external, said
from monitor.errors import BodyRejected
from monitor.keys import hash64, place_hash
from monitor.past import LATEST
from monitor.reader import Reader
from monitor.recordrules.rule import DETECTOR
from monitor.store import Store

MOST_OF_A_TRACE = 1_000  # rows of each kind
Row = dict[str, Any]

INCIDENT = (
    "incident_id, revision, model, check_name, slice, state, severity, owner, opened_slot, last_slot, resolved_slot, peak, "
    "in_maintenance, evidence, received_at"
)
CASE = (
    "case_id, revision, model, state, severity, owners, opened_slot, resolved_slot, incidents, incident_count, causes, changes, "
    "in_maintenance, paged_at, page_severity, page_owner, received_at"
)


class Looks:
    """Any thread may ask. Each look is one of the store, so what it shows fits together."""

    def __init__(self, store: Store, *, url: Callable[[], str]) -> None:
        """`url`: what links begin with."""
        self._store = store
        self._url = url

    # --- cases ---

    def cases(self, *, model: str | None, state: str | None, limit: int, offset: int) -> Row:
        """The latest word on each, the latest first; those that were withdrawn only when asked for."""
        with self._store.read() as reader:
            rows = self._latest(reader, "cases", "case_id", CASE, model=model, state=state, limit=limit, offset=offset)
        return {"cases": [self._case(row) for row in rows[:limit]], "next": _next(rows, limit, offset)}

    def case(self, case_id: str) -> Row:
        """With its incidents.

        Raises:
            BodyRejected: 404.
        """
        with self._store.read() as reader:
            row = self._one(reader, "cases", "case_id", CASE, case_id)
            ids = orjson.loads(row["incidents"] or "[]")
            found = self._incidents(reader, row["model"], ids)
            successor = self._successor(reader, row) if row["state"] == "withdrawn" else None
        told = {one["incident_id"]: self._incident(one) for one in found}
        return self._case(row) | {
            "successor": successor,
            "causes": _loads(row["causes"], {}),
            "changes": _loads(row["changes"], []),
            "incidents": [told[key] for key in ids if key in told],
        }

    @staticmethod
    def _successor(reader: Reader, row: Mapping[str, Any]) -> str | None:
        """The case that took over from one that was withdrawn: of the same model and of the same time, the first of them."""
        cases = f"SELECT * FROM {reader.source('cases', row['model'])} {LATEST.format('case_id')}"
        found = reader.query(
            f"SELECT case_id FROM ({cases}) WHERE state <> 'withdrawn' AND opened_slot <= greatest($1, $2) "
            "AND (resolved_slot IS NULL OR resolved_slot >= $1) ORDER BY opened_slot LIMIT 1",
            [row["opened_slot"], row["resolved_slot"] or row["received_at"]],
        )
        return found[0]["case_id"] if found else None

    def newest_open(self, model: str) -> str | None:
        """The id of the open case of a model."""
        with self._store.read() as reader:
            rows = self._latest(reader, "cases", "case_id", CASE, model=model, state="open", limit=1, offset=0)
        return rows[0]["case_id"] if rows else None

    def _case(self, row: Mapping[str, Any]) -> Row:
        causes = _loads(row["causes"], {})
        return {
            **{k: row[k] for k in ("case_id", "revision", "model", "state", "severity", "incident_count", "in_maintenance")},
            "owners": _loads(row["owners"], []),
            "opened": _iso(row["opened_slot"]),
            "resolved": _iso(row["resolved_slot"]),
            "paged_at": _iso(row["paged_at"]),
            "held": row["state"] == "open" and row["paged_at"] is None,
            "top_check": next((one["check"] for one in causes.get("checks", ())), None),
            "top_feature": next((one["feature"] for one in causes.get("features", ())), None),
            "top_slice": next((one["slice"] for one in causes.get("slices", ())), None),
            "url": self._url() + external.case_path(row["case_id"]),
            "received_at": _iso(row["received_at"]),
        }

    # --- incidents ---

    def incidents(
        self, *, model: str | None, check: str | None, state: str | None, since: datetime | None, limit: int, offset: int
    ) -> Row:
        with self._store.read() as reader:
            rows = self._latest(
                reader, "incidents", "incident_id", INCIDENT, model=model, state=state, limit=limit, offset=offset, check=check,
                since=since,
            )  # fmt: skip
        return {"incidents": [self._incident(row) for row in rows[:limit]], "next": _next(rows, limit, offset)}

    def worst(self, *, model: str | None, state: str | None, limit: int, offset: int) -> Row:
        """The worst records of the latest `limit` incidents, those of one together, as its evidence has them."""
        with self._store.read() as reader:
            rows = self._latest(
                reader, "incidents", "incident_id", INCIDENT, model=model, state=state, limit=limit, offset=offset
            )
        found = [
            {"model": row["model"], "check": row["check_name"], "slice": row["slice"], "incident_id": row["incident_id"]}
            | {name: one.get(name) for name in ("record_id", "value", "trace_id")}
            for row in rows[:limit]
            for one in _loads(row["evidence"], {}).get("worst_records") or ()
        ]
        return {"records": found, "next": _next(rows, limit, offset)}

    def incident(self, incident_id: str) -> Row:
        """With its evidence and the case it belongs to.

        Raises:
            BodyRejected: 404.
        """
        with self._store.read() as reader:
            row = self._one(reader, "incidents", "incident_id", INCIDENT, incident_id)
            # The latest word on each: one that it has left, or that was withdrawn, had it too.
            cases = f"SELECT * FROM {reader.source('cases', row['model'])} {LATEST.format('case_id')}"
            found = reader.query(
                f"SELECT case_id FROM ({cases}) WHERE state <> 'withdrawn' AND contains(incidents, $1)",
                [orjson.dumps(incident_id).decode()],
            )
        case_id = found[0]["case_id"] if found else None
        evidence = _loads(row["evidence"], {})
        # Of a rule on single records there is none: nothing is compared.
        report_url = None if evidence.get("source") == DETECTOR else self._url() + external.report_path(incident_id)
        return self._incident(row) | {
            "evidence": evidence,
            "case_id": case_id,
            "case_url": self._url() + external.case_path(case_id) if case_id else None,
            "report_url": report_url,
        }

    def _incidents(self, reader: Reader, model: str, ids: Sequence[str]) -> list[Row]:
        source = reader.source("incidents", model)
        latest = LATEST.format("incident_id")
        return reader.query(f"SELECT {INCIDENT} FROM {source} WHERE incident_id IN (SELECT unnest($1)) {latest}", [list(ids)])

    def _incident(self, row: Mapping[str, Any]) -> Row:
        evidence = _loads(row["evidence"], {})
        bounds = evidence.get("threshold") or {}
        return {
            **{k: row[k] for k in ("incident_id", "revision", "model", "slice", "state", "severity", "owner", "peak")},
            "check": row["check_name"],
            "opened": _iso(row["opened_slot"]),
            "last": _iso(row["last_slot"]),
            "resolved": _iso(row["resolved_slot"]),
            "in_maintenance": row["in_maintenance"],
            "statistic": evidence.get("statistic"),
            "value": evidence.get("value"),
            "lower": bounds.get("lower"),
            "upper": bounds.get("upper"),
            "url": self._url() + external.incident_path(row["incident_id"]),
            "received_at": _iso(row["received_at"]),
        }

    # --- traces ---

    def trace(self, trace_id: str) -> Row:
        """Spans, calls and scores of it, in the order of time, of whatever model.

        Raises:
            BodyRejected: 404, nothing of it is stored.
        """
        key = hash64(trace_id.lower())
        with self._store.read() as reader:
            spans, generations, retrievals, scores = [], [], [], []
            for model in sorted({model for kind, model in self._store.logs() if kind in ("spans", "generations")}):
                spans += self._of_trace(reader, "spans", model, key, trace_id, SPAN, "start_time")
                mine = self._of_trace(reader, "generations", model, key, trace_id, GENERATION, "event_time")
                generations += mine
                retrievals += self._of_trace(reader, "retrievals", model, key, trace_id, RETRIEVAL, "event_time")
                scores += self._scores(reader, model, [row["record_id"] for row in mine])
            predictions = []
            if not generations:
                for model in [model for kind, model in self._store.logs() if kind == "predictions"]:
                    source = reader.source("predictions", model)
                    predictions += reader.query(
                        f"SELECT {PREDICTION} FROM {source} WHERE trace_id = $1 ORDER BY event_time LIMIT {MOST_OF_A_TRACE}",
                        [trace_id],
                    )
        if not (spans or generations or predictions or retrievals):
            raise BodyRejected(404, "unknown_trace", f"nothing is stored of the trace {trace_id!r:.80}")
        found = {
            "spans": spans, "generations": generations, "retrievals": retrievals, "scores": scores, "predictions": predictions
        }  # fmt: skip
        models = sorted({row["model"] for rows in found.values() for row in rows})
        plain = {name: [_plain(row) for row in rows] for name, rows in found.items()}
        return {"trace_id": trace_id, "models": models, "url": self._url() + external.trace_path(trace_id), **plain}

    @staticmethod
    def _of_trace(reader: Reader, kind: str, model: str, key: int, trace_id: str, columns: str, order: str) -> list[Row]:
        source = reader.source(kind, model, places=reader.places("traces", kind, model, [key]))
        chosen = f"(SELECT * FROM {source} WHERE trace_hash = {key} AND lower(trace_id) = lower($1))"
        if kind == "generations":
            logs = reader.source("contents", model, places=reader.places("traces", "contents", model, [key]))
            chosen = said.filled(chosen, f"{logs} WHERE trace_hash = {key}")
        return reader.query(f"SELECT {columns} FROM {chosen} ORDER BY {order}, record_id LIMIT {MOST_OF_A_TRACE}", [trace_id])

    @staticmethod
    def _scores(reader: Reader, model: str, ids: Sequence[str]) -> list[Row]:
        if not ids:
            return []
        source = reader.source("scores", model, places=reader.places("records", "scores", model, [place_hash(i) for i in ids]))
        latest = LATEST.format("record_id, detector, settings_hash")
        return reader.query(
            f"SELECT {SCORE} FROM {source} WHERE record_id IN (SELECT unnest($1)) {latest} ORDER BY record_id, detector",
            [list(ids)],
        )

    # --- of any kind ---

    def _latest(
        self, reader: Reader, kind: str, key: str, columns: str, *, model: str | None, state: str | None, limit: int, offset: int,
        check: str | None = None, since: datetime | None = None,
    ) -> list[Row]:  # fmt: skip
        """One more than `limit` where there are more. `model`: one, or several with commas between."""
        chosen = model.split(",") if model else None
        sources = [reader.source(kind, m) for k, m in self._store.logs() if k == kind and (chosen is None or m in chosen)]
        if not sources:
            return []
        every = " UNION ALL BY NAME ".join(f"SELECT * FROM {one}" for one in sources)
        latest = f"SELECT {columns} FROM ({every}) {LATEST.format(key)}"
        where, params = ["state <> 'withdrawn'"] if state is None else ["state = $1"], [state] if state is not None else []
        for column, value in (("check_name =", check), ("opened_slot >=", since)):
            if value is not None:
                params.append(value)  # type: ignore[arg-type]
                where.append(f"{column} ${len(params)}")
        return reader.query(
            f"SELECT * FROM ({latest}) WHERE {' AND '.join(where)} ORDER BY opened_slot DESC, {key} "
            f"LIMIT {limit + 1} OFFSET {offset}",
            params,
        )

    def _one(self, reader: Reader, kind: str, key: str, columns: str, value: str) -> Row:
        for k, model in self._store.logs():
            if k == kind:
                sql = f"SELECT {columns} FROM {reader.source(kind, model)} WHERE {key} = $1 {LATEST.format(key)}"
                if found := reader.query(sql, [value]):
                    return found[0]
        word = kind.removesuffix("s")
        raise BodyRejected(404, f"unknown_{word}", f"no {word} {value!r:.80}; the view {kind} of the store has them all")


SPAN = (
    "model, record_id, trace_id, span_id, parent_id, name, type, start_time, event_time, duration_seconds, status, "
    "status_message, service, own"
)
GENERATION = (
    "model, record_id, trace_id, span_id, event_time, model_version, provider, llm_model, prompt_name, prompt_version, question, "
    "response, input_tokens, output_tokens, cost_usd, duration_seconds, error_type"
)
RETRIEVAL = "model, record_id, trace_id, span_id, event_time, type, documents"
SCORE = "model, record_id, detector, detector_version, outcome, reason, value, flagged, stage, event_time, detail"
PREDICTION = "model, record_id, trace_id, event_time, model_version, prediction, prediction_text, probability, extra"


def _next(rows: Sequence[Row], limit: int, offset: int) -> int | None:
    return offset + limit if len(rows) > limit else None


def _iso(when: datetime | None) -> str | None:
    return when.isoformat() if when is not None else None


def _plain(row: Row) -> Row:
    return {name: _iso(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _loads(text: str | None, otherwise: Any) -> Any:
    return orjson.loads(text) if text else otherwise
