"""What an incident shows: frozen when it opens, enough to find the records without us."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from monitor.config import Check
from monitor.reader import Reader, literal
from monitor.schema import quote

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
) -> dict[str, Any]:
    """Statistic, threshold, largest parts, and the SQL over `audit.duckdb` that gives the records. `log`: the first of those
    whose rows were read."""
    evidence: dict[str, Any] = {
        "statistic": reading["statistic"],
        "value": reading["value"],
        "interval": [reading["lower"], reading["upper"]],
        "threshold": {"lower": check.threshold.lower, "upper": check.threshold.upper},
        "window": [start.isoformat(), end.isoformat()],
        "n_current": reading["n_current"],
        "n_reference": reading["n_reference"],
        "parts": reading["parts"][:PARTS],
        "metrics": reading["metrics"],
    }
    span = f"event_time >= '{start.isoformat()}' AND event_time < '{end.isoformat()}'"
    if log == "calls":
        evidence["sql"] = (
            f"SELECT * FROM generations WHERE model = {literal(check.model)} AND {span} AND record_id IN (SELECT record_id FROM "
            f"calls WHERE model = {literal(check.model)} AND counted AND {span}) ORDER BY event_time"
        )
        return evidence
    if row_hash is None:
        evidence["sql"] = f"SELECT * FROM {quote('predictions_' + check.model)} WHERE {span} ORDER BY event_time"
        return evidence
    order = "DESC" if worse == "higher" else "ASC"
    # Of each record the latest input revision counts.
    chosen = (
        f"settings_hash = {literal(row_hash)} AND outcome = 'ok' AND {span} "
        "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1"
    )
    evidence["worst_records"] = reader.query(
        f"SELECT record_id, trace_id, value, revision FROM {reader.source('scores', check.model, since=start, until=end)} "
        f"WHERE {chosen} ORDER BY value {order}, record_id LIMIT {WORST}"
    )
    evidence["sql"] = (
        f"SELECT record_id, s.value, g.prompt_version, g.question, g.response FROM (SELECT * FROM scores WHERE "
        f"model = {literal(check.model)} AND {chosen}) s JOIN generations g USING (model, record_id) "
        f"ORDER BY s.value {order}, record_id"
    )
    return evidence
