"""Where to look first among the rows of a window: those that are worst by what the check reads, with their ids and traces."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from detectors.performance import Performance
from monitor.config import Check
from monitor.reader import Reader, literal
from monitor.reproduce import CLASSES, LATEST, PREDICTED, of_prediction, same_class
from monitor.schema import FEATURE, quote
from monitor.slices import Slice
from monitor.windows import CLOCKS_DIFFER

MOST = 10
OF_CALLS = {
    "cost": "cost_usd", "output_tokens": "output_tokens", "input_tokens": "input_tokens",
    "first_token": "time_to_first_token_seconds",
}  # fmt: skip


def predictions(
    reader: Reader,
    check: Check,
    start: datetime,
    end: datetime,
    part: Slice,
    reading: Mapping[str, Any],
    features: Mapping[str, str],
) -> list[dict[str, Any]]:
    """By their error, where the check judges by labels; else by how far the feature with the largest part in the reading lies
    from its median in the window before. None where there is no such number."""
    rows = f"{reader.source('predictions', check.model, since=start, until=end)} p"
    inside = "".join(f" AND {of_prediction(condition)}" for condition in part.where)
    where = f"WHERE event_time >= $1 AND event_time < $2{inside}"
    if isinstance(check.settings, Performance.Config):
        labels = reader.source("labels", check.model, received_since=start - CLOCKS_DIFFER)
        truth = f"(SELECT record_id, arg_max(coalesce(label::VARCHAR, label_text), revision) AS truth FROM {labels} GROUP BY 1)"
        wrong = "abs(prediction - try_cast(truth AS DOUBLE))"
        if check.settings.task in CLASSES and not check.columns:
            wrong = f"({PREDICTED} <> {same_class('truth')})::DOUBLE"
        elif check.settings.task != "regression" or check.columns:
            return []
        return reader.query(
            f"SELECT record_id, trace_id, {wrong} AS value, 'error' AS by FROM {rows} JOIN {truth} USING (record_id) "
            f"{where} AND value > 0 ORDER BY value DESC, record_id LIMIT {MOST}",
            [start, end],
        )
    names = [one["name"] for one in reading["parts"] if features.get(one["name"]) == "number"]
    if not names:
        return []
    column = quote(FEATURE + names[0])
    before = reader.source("predictions", check.model, since=start - (end - start), until=start)
    usual = f"(SELECT median({column}) FROM {before} WHERE event_time >= $3 AND event_time < $1)"
    return reader.query(
        f"SELECT record_id, trace_id, {column} AS value, {literal(names[0])} AS by FROM {rows} {where} AND isfinite({column}) "
        f"ORDER BY abs({column} - coalesce({usual}, 0)) DESC, record_id LIMIT {MOST}",
        [start, end, start - (end - start)],
    )


def calls(reader: Reader, check: Check, start: datetime, end: datetime, statistic: str) -> list[dict[str, Any]]:
    """Those that failed, and then by what the statistic is of: cost, tokens or time."""
    by = next((column for word, column in OF_CALLS.items() if word in statistic), "duration_seconds")
    return reader.query(
        f"SELECT record_id, trace_id, {by}::DOUBLE AS value, {literal(by)} AS by FROM (SELECT * FROM "
        f"{reader.source('calls', check.model, since=start, until=end)} WHERE event_time >= $1 AND event_time < $2 {LATEST}) "
        f"WHERE counted AND (failed OR {by} IS NOT NULL) ORDER BY {'failed DESC, ' if 'error' in statistic else ''}"
        f"{by} DESC NULLS LAST, record_id LIMIT {MOST}",
        [start, end],
    )
