"""The tables of the store, as data: every column with its type and what it means.

A *kind* is an append-only log with a gap-free `seq` per (kind, model), sealed into segments. Predictions have a table for
each model, since their features are typed columns. State tables change in place and stay in the hot file (`state.py`).
"""

from __future__ import annotations

from monitor.schema.derived import DERIVED
from monitor.schema.received import RECEIVED
from monitor.schema.rules import RULES
from monitor.schema.tables import ARROW, FEATURE, FEATURE_TYPE, Column, Table, quote

__all__ = ["ARROW", "FEATURE", "FEATURE_TYPE", "KINDS", "Column", "Table", "create_table", "quote", "table_name"]

KINDS: dict[str, Table] = {table.name: table for table in (*RECEIVED, *DERIVED, *RULES)}


def table_name(kind: str, model: str) -> str:
    """The hot table of a kind, quoted."""
    return quote(f"predictions:{model}") if kind == "predictions" else kind


def create_table(kind: str, model: str = "") -> str:
    columns = ", ".join(c.ddl for c in KINDS[kind].columns)
    return f"CREATE TABLE IF NOT EXISTS {table_name(kind, model)} ({columns})"
