"""The records of an incident as rows of a data set: chats for models of task llm, features with label and prediction for others.

Read from the auditors' views, as they are stored, so masked. The order is that of event time and record id, in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import orjson

from monitor import inputs
from monitor.arrays import rows
from monitor.genai.messages import messages, text_of
from monitor.schema import FEATURE, quote

EXPECTED = ("expected_output", "expected", "reference", "correction")
"""Attributes of a generation, or names of feedback, that say what the answer should have been."""
RECORDS_AT_ONCE = 500
LATEST = "QUALIFY row_number() OVER (PARTITION BY {} ORDER BY revision DESC) = 1"


@dataclass(frozen=True, slots=True)
class Incident:
    """The latest row of `incidents`, with its evidence read."""

    row: Mapping[str, Any]
    evidence: Mapping[str, Any]

    @property
    def model(self) -> str:
        return str(self.row["model"])


class Dataset:
    """Of one incident. `connection`: to the views of `audit.duckdb`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, incident: Incident) -> None:
        self._connection = connection
        self._incident = incident
        self._table = quote(f"predictions_{incident.model}")
        sql = "SELECT 1 AS one FROM duckdb_views() WHERE view_name = ?"
        self.tabular = bool(self._ask(sql, [f"predictions_{incident.model}"]))
        self.sql = self._of_incident()

    def _of_incident(self) -> str:
        """SQL of the ids of its records: those of all its windows, not only of the one that opened it; of a row check and of a
        rule those that are flagged."""
        row, evidence = self._incident.row, self._incident.evidence
        sql = str(evidence["sql"])
        if evidence.get("source") == "record_rule":
            return f"SELECT record_id FROM ({sql})"
        (last,) = self._ask(
            "SELECT max(slot) AS slot FROM (SELECT slot, firing FROM verdicts WHERE model = ? AND check_name = ? AND slice = ? "
            f"AND slot >= ? AND (? IS NULL OR slot < ?) {LATEST.format('slot')}) WHERE firing",
            [row["model"], row["check_name"], row["slice"], row["opened_slot"], row["resolved_slot"], row["resolved_slot"]],
        )
        end = str(evidence["window"][1])
        if last["slot"] is not None and last["slot"] > datetime.fromisoformat(end):
            sql = sql.replace(f"event_time < '{end}'", f"event_time < '{last['slot'].astimezone(UTC).isoformat()}'")
        if (flagging := evidence.get("flagging")) is None:
            return f"SELECT record_id FROM ({sql})"
        beyond = "<=" if flagging["worse"] == "lower" else ">="  # at the check's own flag, which need not be the detector's
        return f"SELECT record_id FROM ({sql}) WHERE value {beyond} {float(flagging['at'])!r}"

    def ids(self, limit: int) -> tuple[list[str], int]:
        """The first so many of its records, and how many there are."""
        log = self._table if self.tabular else "generations"
        found = self._ask(
            f"SELECT record_id, count(*) OVER () AS n FROM {log} WHERE model = ? AND record_id IN ({self.sql}) "
            f"ORDER BY event_time, record_id LIMIT {limit}",
            [self._incident.model],
        )
        return [one["record_id"] for one in found], found[0]["n"] if found else 0

    def baseline(self, many: int) -> list[str]:
        """Of the records before it the last so many, in order."""
        log = self._table if self.tabular else "generations"
        found = self._ask(
            f"SELECT record_id FROM {log} WHERE model = ? AND event_time < ? AND record_id NOT IN ({self.sql}) "
            f"ORDER BY event_time DESC, record_id DESC LIMIT {many}",
            [self._incident.model, datetime.fromisoformat(str(self._incident.evidence["window"][0]))],
        )
        return [one["record_id"] for one in reversed(found)]

    def rows(self, ids: Sequence[str], split: str) -> Iterable[dict[str, Any]]:
        """One for each record, in the order of `ids`."""
        for start in range(0, len(ids), RECORDS_AT_ONCE):
            some = ids[start : start + RECORDS_AT_ONCE]
            found = self._predictions(some) if self.tabular else self._answers(some)
            for record_id in some:
                if (row := found.get(record_id)) is not None:
                    yield {**row, "split": split}

    # --- rows ---

    def _answers(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        scores, feedback, passages = self._scores(ids), self._feedback(ids), self._contexts(ids)
        found = {}
        for one in self._of(ids, "answers"):
            record_id = one["record_id"]
            attributes = _json(one["attributes"])
            attributes = attributes if isinstance(attributes, dict) else {}
            said = feedback.get(record_id, [])
            found[record_id] = {
                "record_id": record_id,
                "messages": chat(one),
                "expected": _expected(attributes, said),
                "contexts": passages.get(record_id, []),
                "scores": scores.get(record_id, {}),
                "feedback": said,
                "metadata": {
                    **{name: _plain(one[name]) for name in _ABOUT if one[name] is not None},
                    **({"attributes": attributes} if attributes else {}),
                },
            }
        return found

    def _predictions(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        labels = {one["record_id"]: one for one in self._of(ids, "labels", f"{LATEST.format('record_id')}")}
        feedback = self._feedback(ids)
        found = {}
        for one in self._of(ids, self._table):
            label = labels.get(one["record_id"])
            found[one["record_id"]] = {
                "record_id": one["record_id"],
                "event_time": _plain(one["event_time"]),
                "model_version": one["model_version"],
                "features": {name.removeprefix(FEATURE): one[name] for name in sorted(one) if name.startswith(FEATURE)},
                "prediction": one["prediction_text"] if one["prediction_text"] is not None else one["prediction"],
                "probability": one["probability"],
                "label": None if label is None else label["label_text"] if label["label_text"] is not None else label["label"],
                "feedback": feedback.get(one["record_id"], []),
                "metadata": {"trace_id": one["trace_id"], "extra": _json(one["extra"])},
            }
        return found

    def _scores(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """By record and detector; of one with several settings also by their hash."""
        found: dict[str, dict[str, Any]] = {}
        for one in self._of(ids, "scores", LATEST.format("record_id, settings_hash"), "detector, settings_hash"):
            of_record = found.setdefault(one["record_id"], {})
            name = one["detector"] if one["detector"] not in of_record else f"{one['detector']}@{one['settings_hash'][:8]}"
            said = {"value": one["value"], "flagged": one["flagged"], "outcome": one["outcome"], "reason": one["reason"]}
            of_record[name] = {key: value for key, value in said.items() if value is not None}
        return found

    def _feedback(self, ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        latest = LATEST.format("record_id, trace_id, name, source, rater, feedback_id")
        found: dict[str, list[dict[str, Any]]] = {}
        for one in self._of(ids, "feedback", latest, "event_time, name, source, rater, feedback_id, seq"):
            said = {name: _plain(one[name]) for name in ("name", "value", "label", "comment", "source", "event_time")}
            found.setdefault(one["record_id"], []).append({key: value for key, value in said.items() if value is not None})
        return found

    def _contexts(self, ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Those in force at the end."""
        found: dict[str, list[dict[str, Any]]] = {}
        for one in self._of(ids, "contexts", "", "seq"):
            found.setdefault(one["record_id"], []).append(one)
        return {
            record_id: [
                {name: one[name] for name in ("document_id", "text", "retrieval_score") if one[name] is not None}
                for one in inputs.in_force(passages, max(p["revision"] for p in passages))
            ]
            for record_id, passages in found.items()
        }

    def _of(self, ids: Sequence[str], view: str, more: str = "", order: str = "record_id") -> list[dict[str, Any]]:
        marks = ", ".join("?" * len(ids))
        return self._ask(
            f"SELECT * FROM {view} WHERE model = ? AND record_id IN ({marks}) {more} ORDER BY {order}",
            [self._incident.model, *ids],
        )

    def _ask(self, sql: str, params: Sequence[Any]) -> list[dict[str, Any]]:
        return rows(self._connection.sql(sql, params=[*params]).to_arrow_table())


_ABOUT = (
    "event_time", "trace_id", "span_id", "model_version", "provider", "llm_model", "operation", "input_tokens", "output_tokens",
    "cost_usd", "finish_reason", "error_type", "conversation_id", "prompt_name", "prompt_version", "environment", "release",
    "agent", "fingerprint",
)  # fmt: skip


def chat(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The exchange as {role, content}, which fine-tuning and test suites take; the answer stands at the end. Calls of tools and
    what came of them are turns as well, as `tool_calls` and the role `tool`: an answer that rests on them is not made up."""
    told = [turn for said in messages(one["messages"], "user") for turn in _turns(said)]
    if one["system"] and not any(said["role"] == "system" for said in told):
        told.insert(0, {"role": "system", "content": one["system"]})
    if one["question"] and not any(said["role"] == "user" for said in told):
        told.append({"role": "user", "content": one["question"]})
    if one["response"] and (not told or told[-1] != {"role": "assistant", "content": one["response"]}):
        told.append({"role": "assistant", "content": one["response"]})
    return told


def _turns(said: dict[str, Any]) -> Iterable[dict[str, Any]]:
    calls = []
    for part in said["parts"]:
        if part["type"] == "tool_call":
            asked = {"name": part.get("name") or "", "arguments": _text(part.get("arguments", {}))}
            calls.append({"id": part.get("id") or "", "type": "function", "function": asked})
        elif part["type"] == "tool_call_response":
            yield {"role": "tool", "content": _text(part.get("response")), "tool_call_id": part.get("id") or ""}
    text = text_of(said, "\n")
    if text or calls:
        yield {"role": str(said.get("role") or "user"), "content": text, **({"tool_calls": calls} if calls else {})}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


def _expected(attributes: Mapping[str, Any], feedback: Iterable[Mapping[str, Any]]) -> Any:
    """What the answer should have been, by a person before by what was sent with it."""
    for one in feedback:
        if one["name"] in EXPECTED and (text := one.get("comment") or one.get("label")):
            return text
    return next((attributes[name] for name in EXPECTED if attributes.get(name) is not None), None)


def _json(text: Any) -> Any:
    return orjson.loads(text) if isinstance(text, str) and text else None


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
