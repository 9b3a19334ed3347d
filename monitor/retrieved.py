"""What was retrieved for the answers of a window, as columns for checks.

retrieval.passages      passages in force: those its sender gave, else those joined from the retrievals of its trace
retrieval.searches      retrievals of its trace that had ended when it began
retrieval.best_score    the highest of the retriever's scores of its passages; none where it gave none
retrieval.mean_score    their mean
relevance.NAME          JSON list: how relevant the check NAME, or the only one with the detector NAME, finds each passage it
                        read (`detail.passages`), in the order of their rank
support.NAME            JSON list: of each passage in force the highest support of a claim that stands in it best, null where
                        none does; none where only a part of the passages or of the claims was read
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from monitor.clock import MICROSECOND
from monitor.keys import Places
from monitor.reader import Reader, literal
from monitor.schema import quote
from monitor.windows import CLOCKS_DIFFER, LOOKED_UP

NUMBERS = {
    "retrieval.passages": "coalesce(given.passages, 0)::DOUBLE",
    "retrieval.searches": "coalesce(searched.searches, 0)::DOUBLE",
    "retrieval.best_score": "given.best_score",
    "retrieval.mean_score": "given.mean_score",
}
LISTS = ("relevance", "support")
SEARCHES = "retrieval.searches"
APART = timedelta(hours=1)  # what was retrieved longer before an answer was not retrieved for it


def is_number(name: str) -> bool:
    return name in NUMBERS


def is_list(name: str) -> bool:
    what, dot, rest = name.partition(".")
    return what in LISTS and bool(dot and rest)


def expression(name: str) -> str:
    """SQL of one of these columns, over `joins`."""
    return NUMBERS[name] if is_number(name) else f"{quote(name)}.list"


def joins(
    reader: Reader, model: str, names: Collection[str], hashes: Mapping[str, str], start: datetime, end: datetime
) -> list[str]:
    """SQL that joins what the columns `names` are made of to calls of the alias c. `hashes`: of a column of scores its settings
    hash. $1 and $2 are the window."""
    found = []
    given = [name for name in names if is_number(name) and name != SEARCHES]
    if given or any(name.startswith("support.") for name in names):
        passages = _in_force(reader, model, start, end)
    if given:
        found.append(
            "LEFT JOIN (SELECT record_id, count(*) AS passages, max(retrieval_score) AS best_score, "
            # In one order: a sum of floats depends on it.
            f"avg(retrieval_score ORDER BY seq) AS mean_score FROM {passages} GROUP BY record_id) given USING (record_id)"
        )
    if SEARCHES in names:
        retrievals = reader.source("retrievals", model, since=start - APART, until=end)
        # The two times are rounded apart.
        begun = "epoch_us(w.event_time) - coalesce(w.duration_seconds, 0) * 1e6 + 1"
        found.append(
            f"LEFT JOIN (SELECT w.record_id, count(DISTINCT r.record_id) AS searches FROM {_calls(reader, model, start, end)} w "
            f"JOIN {retrievals} r ON r.trace_id = w.trace_id AND epoch_us(r.event_time) <= {begun} "
            f"AND epoch_us(r.event_time) >= epoch_us(w.event_time) - {APART // MICROSECOND} GROUP BY w.record_id) "
            "searched USING (record_id)"
        )
    for name in names:
        if not is_list(name):
            continue
        mine = f"settings_hash = {literal(hashes[name])} AND event_time >= $1 AND event_time < $2"
        latest = "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1"
        scores = (
            f"SELECT record_id, revision, outcome, detail FROM {reader.source('scores', model, since=start, until=end)} "
            f"WHERE {mine} {latest}"
        )
        if name.startswith("relevance."):
            lists = (
                "SELECT record_id, CASE WHEN outcome = 'ok' THEN json_extract(detail, '$.passages')::VARCHAR END AS list "
                f"FROM ({scores})"
            )
        else:
            claims = (
                f"SELECT record_id, revision, context_seq, max(support) AS support FROM "
                f"{reader.source('claims', model, since=start, until=end)} WHERE {mine} GROUP BY ALL"
            )
            lists = (
                "SELECT p.record_id, to_json(list(k.support ORDER BY p.seq))::VARCHAR AS list "
                f"FROM {passages} p JOIN ({scores}) s ON s.record_id = p.record_id LEFT JOIN ({claims}) k "
                "ON k.record_id = p.record_id AND k.revision = s.revision AND k.context_seq = p.seq WHERE s.outcome = 'ok' "
                "AND json_extract(s.detail, '$.contexts_truncated') IS NULL "
                "AND json_extract(s.detail, '$.claims_truncated') IS NULL GROUP BY p.record_id"
            )
        found.append(f"LEFT JOIN ({lists}) {quote(name)} USING (record_id)")
    return found


def _calls(reader: Reader, model: str, start: datetime, end: datetime) -> str:
    calls = reader.source("calls", model, since=start, until=end)
    latest = "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1"
    return f"(SELECT * FROM {calls} WHERE event_time >= $1 AND event_time < $2 {latest})"


def _in_force(reader: Reader, model: str, start: datetime, end: datetime) -> str:
    """SQL of the passages that count, as `monitor.inputs.in_force` has it."""
    # A passage comes with its answer or later, but for one that is early: by no more than clocks may differ.
    contexts = reader.source("contexts", model, received_since=start - CLOCKS_DIFFER, places=_places(reader, model, start, end))
    return (
        f"(SELECT record_id, seq, retrieval_score FROM {contexts} "
        f"SEMI JOIN {_calls(reader, model, start, end)} USING (record_id) WINDOW mine AS (PARTITION BY record_id) "
        "QUALIFY retrieval_id IS NULL OR (NOT bool_or(retrieval_id IS NULL) OVER mine AND revision = max(revision) OVER mine))"
    )


def _places(reader: Reader, model: str, start: datetime, end: datetime) -> Places | None:
    hashes = reader.table(
        f"SELECT md5_number_lower(record_id) AS hash FROM {_calls(reader, model, start, end)} LIMIT {LOOKED_UP + 1}",
        [start, end],
    )["hash"]
    return None if len(hashes) > LOOKED_UP else reader.places("records", "contexts", model, hashes.to_numpy())
