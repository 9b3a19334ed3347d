"""Rows of somebody else's table to records: which column is which field, and what the values are in JSON."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from monitor.config import Section

FIELDS: Mapping[str, frozenset[str]] = {
    "predictions": frozenset(
        {"record_id", "model", "timestamp", "features", "prediction", "probability", "model_version", "trace_id"}
    ),
    "labels": frozenset({"record_id", "model", "timestamp", "label", "revision"}),
}
"""By kind. Of the other kinds every field may be named, as what is no field of theirs is kept beside them."""

TEXTS = frozenset({"record_id", "model", "model_version", "trace_id", "span_id"})  # never numbers, whatever they look like


class Columns(Section):
    """Where the fields of a record stand in a row. Without `columns` a column is called as its field is."""

    columns: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    text_columns: tuple[str, ...] = ()
    timezone: str | None = None

    @field_validator("columns")
    @classmethod
    def _one_column_each(cls, value: dict[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
        for name, column in value.items():
            if name == "features":
                if isinstance(column, str) and column != "rest":
                    raise ValueError(f"features: {column!r} is neither a list of columns nor the word rest")
            elif not isinstance(column, str):
                raise ValueError(f"{name}: give one column; only features are a list")
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (OSError, ValueError, KeyError) as exc:
                raise ValueError(f"{value!r} is no time zone; write it like UTC or Europe/Oslo") from exc
        return value

    def problem(self, kind: str) -> str | None:
        """What is wrong with `columns` for records of this kind, or None."""
        known = FIELDS.get(kind)
        wrong = sorted(self.columns.keys() - known) if known else []
        return f"columns: {', '.join(wrong)}: no field of {kind}; there are {', '.join(sorted(known or ()))}" if wrong else None

    def as_text(self, column: str) -> bool:
        """Whether a column of a format without types is text although all of it looks like numbers."""
        fields = [f for f, c in self.columns.items() if c == column] or [column]
        return column in self.text_columns or any(f in TEXTS for f in fields)

    def record(self, row: Mapping[str, Any], kind: str, *, table: bool) -> dict[str, Any]:
        """The record a row is. `table`: a row of CSV or Parquet, whose other columns are features of a prediction; a JSON
        object without `columns` is a record already."""
        if not self.columns and not table:
            return dict(row)
        fields = self.columns or {name: name for name in row if name in FIELDS.get(kind, row)}
        found: dict[str, Any] = {}
        for field, column in fields.items():
            if isinstance(column, str) and field != "features" and (value := lookup(row, column)) is not None:
                found[field] = value
        features = fields.get("features", "rest")
        if kind == "predictions":
            if isinstance(features, str) and isinstance(row.get(features), dict):
                found["features"] = row[features]  # a column that holds them all
            else:
                used = set(fields.values())
                names: Sequence[str] = [n for n in row if n not in used] if isinstance(features, str) else features
                found["features"] = {name: lookup(row, name) for name in names}
        elif self.columns:
            used = set(fields.values())
            found = {name: value for name, value in row.items() if name not in used and value is not None} | found
        if self.timezone is not None:
            found["timestamp"] = _zoned(found.get("timestamp"), ZoneInfo(self.timezone))
            if found["timestamp"] is None:
                del found["timestamp"]
        return found


def lookup(row: Mapping[str, Any], column: str) -> Any:
    """A column, or what stands at a path of dots inside nested objects; None where there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def plain(value: Any) -> Any:
    """A value of a typed table as JSON has it. A NaN in a table is a missing value."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if isinstance(value, Decimal):
        return None if value.is_nan() else float(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value)


def _zoned(value: Any, zone: ZoneInfo) -> Any:
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            return value  # which the inbox refuses, and says why
        return when.replace(tzinfo=zone).isoformat() if when.tzinfo is None else value
    return value
