"""Which versions, prompts and LLMs the rows of a window were of, beside those of the window before: what changed with it?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from monitor import answers
from monitor.reader import Reader, literal
from monitor.reproduce import LATEST, of_prediction
from monitor.schema import quote
from monitor.slices import Slice

OF_ANSWERS = ("model_version", "prompt", "llm_model")
MOST = 10  # values of each
Flagging = tuple[str, float, str]


def before_and_after(
    reader: Reader, model: str, start: datetime, end: datetime, part: Slice, *, answers_of: bool, flagging: Flagging | None
) -> list[dict[str, Any]]:
    """For each value, the most frequent first, its rows in [start, end) and in the window before, which is as long; of a row
    check with the share of them that it flags. `flagging`: the hash of its settings, from where on it flags, and which way."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for side, since, until in (("after", start, end), ("before", start - (end - start), start)):
        ask = _answers if answers_of else _predictions
        for row in ask(reader, model, since, until, part, flagging):
            one = found.setdefault((row["what"], row["value"]), {"before": 0, "after": 0})
            one[side] = row["n"]
            if row["flagged"] is not None:
                one[f"flagged_{side}"] = row["flagged"]
    ordered = sorted(found.items(), key=lambda kv: (kv[0][0], -kv[1]["after"] - kv[1]["before"], str(kv[0][1])))
    rows = [{"what": what, "value": value, **counts} for (what, value), counts in ordered]
    return [row for row in rows if _place(rows, row) < MOST]


def _place(rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> int:
    return next(i for i, other in enumerate(r for r in rows if r["what"] == row["what"]) if other is row)


def _answers(
    reader: Reader, model: str, start: datetime, end: datetime, part: Slice, flagging: Flagging | None
) -> list[dict[str, Any]]:
    fields = {"model_version", "prompt_name", "prompt_version", "llm_model", *(condition.field for condition in part.where)}
    told = answers.told_apart(reader, model, start, end, sorted(fields))
    inside = f" WHERE {part.sql(quote)}" if part.where else ""
    flagged, scores = "NULL::DOUBLE", ""
    if flagging is not None:
        row_hash, flag, worse = flagging
        flagged = f"avg((score {'>=' if worse == 'higher' else '<='} {flag!r})::INT)"
        source = reader.source("scores", model, since=start, until=end)
        scores = (
            f" JOIN (SELECT record_id, CASE WHEN flagged IS NOT NULL THEN value END AS score FROM {source} WHERE "
            f"settings_hash = {literal(row_hash)} AND event_time >= $1 AND event_time < $2 {LATEST}) USING (record_id)"
        )
    prompt = "nullif(coalesce(prompt_name, '') || coalesce('@' || prompt_version, ''), '')"
    rows = f"SELECT *, {prompt} AS prompt FROM {told}{scores}{inside}"
    each = " UNION ALL ".join(
        f"SELECT '{what}' AS what, {what} AS value, count(*) AS n, {flagged} AS flagged FROM ({rows}) GROUP BY ALL"
        for what in OF_ANSWERS
    )
    return reader.query(each, [start, end])


def _predictions(
    reader: Reader, model: str, start: datetime, end: datetime, part: Slice, flagging: Flagging | None
) -> list[dict[str, Any]]:
    inside = "".join(f" AND {of_prediction(condition)}" for condition in part.where)
    return reader.query(
        "SELECT 'model_version' AS what, model_version AS value, count(*) AS n, NULL::DOUBLE AS flagged FROM "
        f"{reader.source('predictions', model, since=start, until=end)} WHERE event_time >= $1 AND event_time < $2{inside} "
        "GROUP BY ALL",
        [start, end],
    )
