"""What an incident shows: frozen when it opens, enough to find the records without us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from monitor import answers, reproduce, splits, worst
from monitor.cases import happened
from monitor.config import Check
from monitor.reader import Reader, literal
from monitor.reproduce import of_answer, of_prediction
from monitor.rowchecks import RowCheck
from monitor.schema import quote
from monitor.slices import Slice
from monitor.verdicts import Judged

WORST = 10
PARTS = 20
HISTORY = 60  # slots


def gather(
    reader: Reader,
    check: Check,
    reading: Mapping[str, Any],
    start: datetime,
    end: datetime,
    *,
    log: str,
    row: RowCheck | None,
    part: Slice,
    history: Sequence[Judged],
    features: Mapping[str, str],
) -> dict[str, Any]:
    """Statistic and threshold, then and over time; largest parts, worst records, versions and prompts before and after, what
    changed before; and the SQL over `audit.duckdb` that gives the number and the records. `log`: the first of those whose rows
    were read. `history`: the verdicts up to the one that opened it."""
    verdict = history[-1] if history else None
    bounds = verdict.bounds if verdict is not None else None
    span = f"event_time >= '{start.isoformat()}' AND event_time < '{end.isoformat()}'"
    flag = None
    if row is not None:
        flag = (row.hash, row.flag if check.flag is None else check.flag, row.worse)
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
        "history": [_told(one) for one in history[-HISTORY:]],
        "changes": happened.before(reader, check.model, end),
        "number_sql": reproduce.number(reader, check, reading, span, end, part, flagged=flag),
    }
    of_answers = row is not None or log == "calls"
    known = all(of_answers or _has_column(condition.field, features) for condition in part.where)
    if known:
        evidence["split"] = splits.before_and_after(reader, check.model, start, end, part, answers_of=of_answers, flagging=flag)
    if log == "calls":
        if not part.where:
            evidence["worst_records"] = worst.calls(reader, check, start, end, str(reading["statistic"]))
        evidence["sql"] = (
            f"SELECT * FROM answers g WHERE model = {literal(check.model)} AND {span}{of_answer(part)} AND record_id IN "
            f"(SELECT record_id FROM calls WHERE model = {literal(check.model)} AND counted AND {span}) ORDER BY event_time"
        )
        return evidence
    if row is None:
        if known:
            evidence["worst_records"] = worst.predictions(reader, check, start, end, part, reading, features)
        inside = "".join(f" AND {of_prediction(condition)}" for condition in part.where)
        evidence["sql"] = f"SELECT * FROM {quote('predictions_' + check.model)} WHERE {span}{inside} ORDER BY event_time"
        return evidence
    assert flag is not None
    evidence["flagging"] = {"at": flag[1], "worse": flag[2]}
    order = "DESC" if row.worse == "higher" else "ASC"
    # Of each record the latest input revision counts.
    chosen = f"settings_hash = {literal(row.hash)} AND flagged IS NOT NULL AND {span}"
    inside, params, of_slice = "", [], ""
    if part.where:
        fields = sorted({condition.field for condition in part.where})
        told = answers.told_apart(reader, check.model, start, end, fields)
        inside, params = f"AND record_id IN (SELECT record_id FROM {told} WHERE {part.sql(quote)})", [start, end]
        of_slice = of_answer(part).replace(" AND ", " WHERE ", 1)
    evidence["worst_records"] = reader.query(
        f"SELECT record_id, trace_id, value, revision FROM {reader.source('scores', check.model, since=start, until=end)} "
        f"WHERE {chosen} {inside} {reproduce.LATEST} ORDER BY value {order}, record_id LIMIT {WORST}",
        params,
    )
    evidence["sql"] = (
        f"SELECT record_id, s.value, g.prompt_version, g.question, g.response FROM (SELECT * FROM scores WHERE "
        f"model = {literal(check.model)} AND {chosen} {reproduce.LATEST}) s JOIN answers g USING (model, record_id){of_slice} "
        f"ORDER BY s.value {order}, record_id"
    )
    return evidence


def _has_column(field: str, features: Mapping[str, str]) -> bool:
    """Whether a field of predictions can be asked for in SQL: a feature beyond `max_features` is kept as JSON."""
    return field in features or field == "model_version" or field.startswith("attributes.")


def _told(verdict: Judged) -> dict[str, Any]:
    bounds = verdict.bounds
    return {
        "slot": verdict.slot.isoformat(),
        "outcome": verdict.outcome.value,
        "judged": verdict.number,
        "low": verdict.low,
        "high": verdict.high,
        "lower": bounds.lower if bounds else None,
        "upper": bounds.upper if bounds else None,
        "firing": verdict.firing,
    }
