"""What an incident shows: frozen when it opens, enough to find the records without us."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from monitor import answers
from monitor.config import Check
from monitor.reader import Reader, literal
from monitor.schema import FEATURE, quote
from monitor.slices import Condition, Slice
from monitor.verdicts import Judged

WORST = 10
PARTS = 20


def gather(
    reader: Reader,
    check: Check,
    reading: Mapping[str, Any],
    start: datetime,
    end: datetime,
    *,
    log: str,
    row_hash: str | None,
    worse: str,
    part: Slice,
    verdict: Judged | None,
) -> dict[str, Any]:
    """Statistic, threshold, largest parts, and the SQL over `audit.duckdb` that gives the records. `log`: the first of those
    whose rows were read."""
    bounds = verdict.bounds if verdict is not None else None
    evidence: dict[str, Any] = {
        "statistic": reading["statistic"],
        "value": reading["value"],
        "interval": [reading["lower"], reading["upper"]],
        "threshold": {"lower": bounds.lower if bounds else None, "upper": bounds.upper if bounds else None},
        "threshold_kind": check.threshold.kind,
        "judged": verdict.number if verdict is not None else None,
        "windows": [bounds.needed, bounds.of] if bounds else None,
        "slice": part.name,
        "window": [start.isoformat(), end.isoformat()],
        "n_current": reading["n_current"],
        "n_reference": reading["n_reference"],
        "parts": reading["parts"][:PARTS],
        "metrics": reading["metrics"],
    }
    span = f"event_time >= '{start.isoformat()}' AND event_time < '{end.isoformat()}'"
    if log == "calls":
        evidence["sql"] = (
            f"SELECT * FROM answers g WHERE model = {literal(check.model)} AND {span}{_of_answer(part)} AND record_id IN "
            f"(SELECT record_id FROM calls WHERE model = {literal(check.model)} AND counted AND {span}) ORDER BY event_time"
        )
        return evidence
    if row_hash is None:
        inside = "".join(f" AND {_of_prediction(condition)}" for condition in part.where)
        evidence["sql"] = f"SELECT * FROM {quote('predictions_' + check.model)} WHERE {span}{inside} ORDER BY event_time"
        return evidence
    order = "DESC" if worse == "higher" else "ASC"
    # Of each record the latest input revision counts.
    chosen = f"settings_hash = {literal(row_hash)} AND flagged IS NOT NULL AND {span}"
    last = "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1"
    inside, params, of_slice = "", [], ""
    if part.where:
        fields = sorted({condition.field for condition in part.where})
        told = answers.told_apart(reader, check.model, start, end, fields)
        inside, params = f"AND record_id IN (SELECT record_id FROM {told} WHERE {part.sql(quote)})", [start, end]
        of_slice = _of_answer(part).replace(" AND ", " WHERE ", 1)
    evidence["worst_records"] = reader.query(
        f"SELECT record_id, trace_id, value, revision FROM {reader.source('scores', check.model, since=start, until=end)} "
        f"WHERE {chosen} {inside} {last} ORDER BY value {order}, record_id LIMIT {WORST}",
        params,
    )
    evidence["sql"] = (
        f"SELECT record_id, s.value, g.prompt_version, g.question, g.response FROM (SELECT * FROM scores WHERE "
        f"model = {literal(check.model)} AND {chosen} {last}) s JOIN answers g USING (model, record_id){of_slice} "
        f"ORDER BY s.value {order}, record_id"
    )
    return evidence


def _of_answer(part: Slice) -> str:
    """SQL over generations of the alias g, to be added to a condition."""
    return f" AND {part.sql(lambda field: answers.text_of(field, spans=False))}" if part.where else ""


def _of_prediction(condition: Condition) -> str:
    """SQL over the view of a model's predictions. A whole number is written with a point there and without one here."""
    what, _, key = condition.field.partition(".")
    if condition.field == "model_version":
        return condition.sql("model_version")
    if what == "attributes":
        return condition.sql(f"json_extract_string(extra, {literal(f'$.{quote(key)}')})")
    values = (*condition.values, *(f"{value}.0" for value in condition.values if value.lstrip("-").isdecimal()))
    return Condition(condition.field, values, condition.inside).sql(f"{quote(FEATURE + condition.field)}::VARCHAR")
