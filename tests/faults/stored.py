"""What a store holds, as auditors see it, and whether all of it is there once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from monitor.audit import FILE

KEYS = {
    "predictions": "record_id",
    "labels": "record_id, revision",
    "generations": "record_id",
    "contexts": "record_id, text",
    "scores": "record_id, revision, detector, detector_version, settings_hash",
    "readings": "check_name, slot, revision",
    "verdicts": "check_name, slot, revision",
}
"""What tells the rows of a kind apart."""


CALLS = "SELECT * FROM calls QUALIFY row_number() OVER (PARTITION BY model, record_id ORDER BY revision DESC) = 1"
"""The latest word on each call."""


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"ATTACH '{store / FILE}' AS audit (READ_ONLY)")
        connection.execute("USE audit")
        connection.execute(f"SET file_search_path = '{store}'")
        return [tuple(row.values()) for row in connection.sql(query).to_arrow_table().to_pylist()]


def count(store: Path, table: str) -> int:
    return int(rows(store, f"SELECT count(*) FROM {table}")[0][0])


def assert_stored_once(store: Path) -> None:
    """No row twice, and no gap in any log."""
    for kind, key in KEYS.items():
        twice = rows(store, f"SELECT {key}, count(*) FROM {kind} GROUP BY {key} HAVING count(*) > 1")
        assert not twice, f"{kind} more than once: {twice[:5]}"
    for kind in (*KEYS, "incidents"):
        for model, first, last, number in rows(store, f"SELECT model, min(seq), max(seq), count(*) FROM {kind} GROUP BY model"):
            assert (first, last) == (1, number), f"{kind} of {model}: seq {first} to {last}, {number} rows"


def assert_scored_once(store: Path) -> None:
    """Every input revision that there ever was has its outcome: 1 to the last, none left out."""
    gaps = rows(store, "SELECT record_id FROM scores GROUP BY record_id, settings_hash HAVING count(*) != max(revision)")
    assert not gaps, f"scores without those of an earlier input: {gaps[:5]}"
    assert not unscored(store), f"never scored: {unscored(store)[:5]}"


def unscored(store: Path) -> list[str]:
    """Answers that were never scored, and those of which a later input was not."""
    return [
        row[0]
        for row in rows(
            store,
            "SELECT g.record_id FROM (SELECT record_id, 1 AS revision FROM generations UNION "
            "SELECT record_id, revision FROM contexts) g "
            "ANTI JOIN scores s ON s.record_id = g.record_id AND s.revision = g.revision",
        )
    ]


def unsettled(store: Path, traces: int) -> list[str]:
    """What is missing: of traces with one call each, so many, and of the scores of all answers."""
    counted = rows(store, f"SELECT count(*), count(DISTINCT request_id) FROM ({CALLS}) WHERE counted AND trace_id IS NOT NULL")[0]
    return unscored(store) + ([f"{counted} calls of {traces}"] if counted != (traces, traces) else [])


def ids(store: Path) -> dict[str, set[str]]:
    """Ids by kind; a passage is its generation and its text."""
    plain = {
        kind: {row[0] for row in rows(store, f"SELECT record_id FROM {kind}")}
        for kind in ("predictions", "labels", "generations")
    }
    return {**plain, "contexts": {row[0] for row in rows(store, "SELECT record_id || ' ' || text FROM contexts")}}
