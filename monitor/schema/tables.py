"""What a table of the store is: columns with their types and meanings, and the columns that many tables share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Type = Literal["BIGINT", "INTEGER", "UBIGINT", "DOUBLE", "BOOLEAN", "VARCHAR", "TIMESTAMPTZ", "BLOB"]

ARROW: dict[str, pa.DataType] = {
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "UBIGINT": pa.uint64(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "VARCHAR": pa.string(),
    "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
    "BLOB": pa.binary(),
}

FEATURE = "f_"  # before a feature's name in its table, so that a feature called `seq` harms nobody
FEATURE_TYPE: dict[str, Type] = {"number": "DOUBLE", "category": "VARCHAR"}


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: Type
    about: str

    @property
    def ddl(self) -> str:
        # Text stays uncompressed while hot: compressing it in every checkpoint stalls commits for seconds. Sealing compresses.
        return f"{quote(self.name)} {self.type}" + (" USING COMPRESSION uncompressed" if self.type == "VARCHAR" else "")


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    about: str
    columns: tuple[Column, ...]
    time: str = "received_at"  # the column that windows and segment pruning go by

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([(c.name, ARROW[c.type]) for c in self.columns])


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def columns(text: str) -> tuple[Column, ...]:
    """One column a line: name, type, meaning."""
    rows = (line.split(None, 2) for line in text.splitlines() if line.strip())
    return tuple(Column(name, kind, about) for name, kind, about in rows)  # type: ignore[arg-type]


HEAD = """
seq BIGINT position in the log of this kind and model, from 1 without gaps
model VARCHAR the monitored model
"""
KEY = """
received_at TIMESTAMPTZ when the inbox took it
batch_id VARCHAR the batch it was acknowledged in
key_hash UBIGINT 64-bit hash of the record's key
content_hash UBIGINT 64-bit hash of its content, by which a duplicate is told from a conflict
"""
TRACE = """
trace_hash UBIGINT 64-bit hash of the trace id, by which the rows of a trace are found
"""
