"""Data as a notebook or a file has it, column by column: what type each column is, and its values.

A comparison needs both sides typed alike. Types come from the reference's schema, never from the values of one window, so that
a column does not change its kind from one day to the next.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from detectors.chunks import Times
from detectors.contract import Categories, ColumnKind, FloatArray, NotEvaluable, Window, encode_categories, text_of_number

Family = Literal["number", "text", "boolean", "time", "nested", "empty"]
"""What a column's type comes down to. `empty`: no value at all, so any; `nested`: lists, objects, vectors, bytes."""

KIND_OF: Mapping[Family, ColumnKind] = {"number": "number", "text": "category", "boolean": "category", "empty": "category"}

UNCOMPARABLE: Mapping[Family, str] = {
    "time": "a time, which is always new: compare a number made of it, such as the hour",
    "nested": "lists, objects, bytes or a mixture: compare numbers or texts made of them",
}


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A family, and what the data itself calls the type."""

    family: Family
    called: str


class Table(Protocol):
    """Columns that are read when they are asked for. Both readers raise `NotEvaluable` (not_numeric)."""

    @property
    def rows(self) -> int: ...

    @property
    def types(self) -> Mapping[str, ColumnType]: ...

    def numbers(self, name: str) -> FloatArray:
        """float64 (rows,), NaN where missing."""
        ...

    def categories(self, name: str) -> Categories: ...

    def times(self, name: str) -> Times:
        """Raises `NotEvaluable` (wrong_type): these are no times."""
        ...


@dataclass(frozen=True)
class Typed:
    """A `Window` over a table: its columns by the kinds that were decided on. `seen` is told each column that is read."""

    table: Table
    features: Mapping[str, ColumnKind]
    seen: Callable[[str], None] | None = None

    @property
    def rows(self) -> int:
        return self.table.rows

    def has(self, column: str) -> bool:
        return column in self.table.types

    def numbers(self, column: str) -> FloatArray:
        self._found(column)
        return self.table.numbers(column)

    def categories(self, column: str) -> Categories:
        self._found(column)
        return self.table.categories(column)

    def _found(self, column: str) -> None:
        if not self.has(column):
            raise NotEvaluable("missing_column", f"no column {column!r}; there are {', '.join(self.table.types)}")
        if self.seen is not None:
            self.seen(column)


def table_of(data: Any) -> Table:
    """A table over a pandas DataFrame, an Arrow table, anything that gives one (`to_arrow`, `to_arrow_table`), a mapping of
    columns, or a `detectors.contract.Window`. Nothing is copied before a column is read.

    >>> table = table_of({"age": [31, None], "city": ["Oslo", "Bergen"], "member": [True, False]})
    >>> table.rows, [(name, found.family) for name, found in table.types.items()]
    (2, [('age', 'number'), ('city', 'text'), ('member', 'boolean')])

    Raises:
        TypeError: it is none of these.
        ValueError: columns of unequal length, or a name that stands twice.
    """
    if isinstance(data, Mapping):
        return _Columns({str(name): _series(values) for name, values in data.items()})
    if (pandas := sys.modules.get("pandas")) is not None and isinstance(data, pandas.DataFrame):
        _no_name_twice([str(name) for name in data.columns])
        return _Columns({str(name): data.iloc[:, i] for i, name in enumerate(data.columns)})
    for method in ("to_arrow_table", "to_arrow"):
        if callable(getattr(data, method, None)):
            data = getattr(data, method)()
            break
    if hasattr(data, "column_names") and hasattr(data, "schema"):
        _no_name_twice(data.column_names)
        return _Arrow(data)
    if isinstance(data, Window):
        return _OfWindow(data)
    # Tables that are their own kind, such as those of files, come through as they are.
    if all(hasattr(data, name) for name in ("rows", "types", "numbers", "categories")):
        return data  # type: ignore[no-any-return]
    raise TypeError(f"{type(data).__name__} is no table; give a pandas DataFrame, an Arrow table, a dict of columns or a Frame")


def _no_name_twice(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"columns that stand twice: {', '.join(twice)}; rename one of each")


class _Columns:
    """Over pandas Series, one a column."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = columns
        if len(sizes := {len(values) for values in columns.values()}) > 1:
            raise ValueError(f"columns of unequal length: {sorted(sizes)}")
        self.rows = sizes.pop() if sizes else 0
        self.types: Mapping[str, ColumnType] = {name: ColumnType(family(s), str(s.dtype)) for name, s in columns.items()}

    def numbers(self, name: str) -> FloatArray:
        return as_numbers(name, self._columns[name])

    def categories(self, name: str) -> Categories:
        return as_categories(self._columns[name])

    def times(self, name: str) -> Times:
        return as_times(name, self._columns[name])


class _Arrow:
    """Over an Arrow table, without importing Arrow: each column becomes a Series when it is read."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self.rows: int = table.num_rows
        self.types: Mapping[str, ColumnType] = {
            field.name: ColumnType(_arrow_family(str(field.type), table.column(i)), str(field.type))
            for i, field in enumerate(table.schema)
        }

    def numbers(self, name: str) -> FloatArray:
        column = self._table.column(name)
        return as_numbers(name, (column.cast("double") if str(column.type).startswith("decimal") else column).to_pandas())

    def categories(self, name: str) -> Categories:
        return as_categories(self._table.column(name).to_pandas())

    def times(self, name: str) -> Times:
        return as_times(name, self._table.column(name).to_pandas())


class _OfWindow:
    """Over a window, whose schema has spoken: its numbers and categories stay what they are."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.rows = window.rows
        self.types: Mapping[str, ColumnType] = {
            name: ColumnType("number" if kind == "number" else "text", kind)
            for name, kind in window.features.items()
            if window.has(name)
        }

    def numbers(self, name: str) -> FloatArray:
        return self._window.numbers(name)

    def categories(self, name: str) -> Categories:
        return self._window.categories(name)

    def times(self, name: str) -> Times:
        return as_times(name, _series(self._window.numbers(name)))


def _series(values: Any) -> Any:
    import pandas

    if isinstance(values, pandas.Series):
        return values
    array = values if isinstance(values, np.ndarray) else None
    if array is not None and array.ndim > 1:
        return pandas.Series(list(array), dtype=object)
    try:
        return pandas.Series(values)
    except UnicodeEncodeError:  # lone surrogates, which pandas' own kind of text cannot hold
        return pandas.Series(list(values), dtype=object)


def family(series: Any) -> Family:
    """Of a pandas Series: by its dtype; of objects by what they are."""
    from pandas.api import types

    dtype = series.dtype
    if str(dtype) == "category":
        return "text"
    if types.is_bool_dtype(dtype):
        return "boolean"
    if types.is_numeric_dtype(dtype):
        return "nested" if types.is_complex_dtype(dtype) else "number"
    if types.is_datetime64_any_dtype(dtype) or types.is_timedelta64_dtype(dtype) or str(dtype).startswith("period"):
        return "time"
    if not types.is_object_dtype(dtype):
        return "text" if types.is_string_dtype(dtype) else "nested"
    found: Family = _OF_OBJECTS.get(types.infer_dtype(series, skipna=True), "nested")
    if found == "nested" and all(isinstance(one, str | int | float | bool) for one in series.dropna()):
        return "text"  # words and numbers in one column: by their text
    return found


_OF_OBJECTS: Mapping[str, Family] = {
    "string": "text", "boolean": "boolean", "integer": "number", "floating": "number", "mixed-integer-float": "number",
    "decimal": "number", "categorical": "text", "empty": "empty", "datetime": "time", "datetime64": "time", "date": "time",
    "time": "time", "timedelta": "time", "timedelta64": "time", "period": "time",
}  # fmt: skip


def _arrow_family(called: str, column: Any) -> Family:
    if column.null_count == len(column) and len(column):
        return "empty"
    if called.startswith("dictionary<"):
        return "text"
    word = called.partition("[")[0].partition("(")[0].partition("<")[0].rstrip("0123456789")
    return _OF_ARROW.get(word, "nested")


_OF_ARROW: Mapping[str, Family] = {
    "int": "number", "uint": "number", "halffloat": "number", "float": "number", "double": "number", "decimal": "number",
    "string": "text", "large_string": "text", "string_view": "text", "bool": "boolean", "null": "empty",
    "timestamp": "time", "date": "time", "time": "time", "duration": "time", "month_day_nano_interval": "time",
}  # fmt: skip


def as_numbers(name: str, series: Any) -> FloatArray:
    """float64, NaN where missing. Texts are taken as numbers where all of them are.

    Raises:
        NotEvaluable: not_numeric.
    """
    import pandas

    try:
        if str(series.dtype) == "category":
            series = series.astype(object)
        return np.asarray(pandas.to_numeric(series).to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    except (TypeError, ValueError) as exc:
        raise NotEvaluable("not_numeric", f"column {name!r}: {exc}") from exc


SECONDS = (1e8, 1e11)
"""Numbers between are seconds since 1970, of the years 1973 to 5138; others are no times."""


def as_times(name: str, series: Any) -> Times:
    """Of times, dates, texts as ISO 8601 has them, or seconds since 1970.

    Raises:
        NotEvaluable: wrong_type.
    """
    import pandas

    try:
        if family(series) == "number":
            values = as_numbers(name, series)
            if (outside := np.isfinite(values) & ~((values >= SECONDS[0]) & (values < SECONDS[1]))).any():
                raise ValueError(f"{values[outside][0]:g} is no number of seconds since 1970")
            series = pandas.to_datetime(pandas.Series(values).replace([np.inf, -np.inf], np.nan), unit="s", utc=True)
        elif not pandas.api.types.is_datetime64_any_dtype(series.dtype):
            texts = series.dropna().astype(str)
            zoned = texts.str.contains(r"(?:[Zz]|[+-]\d\d:?\d\d)$", regex=True)
            if zoned.any() and not zoned.all():
                raise ValueError("some of its times have a zone and others have none")
            # With their zones brought to one: a column over a change of the clocks has two.
            texts = series.astype(object).map(str, na_action="ignore")
            series = pandas.to_datetime(texts, format="ISO8601", utc=bool(zoned.any()))
        aware = getattr(series.dtype, "tz", None) is not None
        if aware:
            series = series.dt.tz_convert("UTC").dt.tz_localize(None)
        return Times(series.to_numpy(dtype="datetime64[us]"), aware)
    except (TypeError, ValueError, OverflowError) as exc:
        raise NotEvaluable("wrong_type", f"column {name!r} is not of times: {exc}") from exc


def as_categories(series: Any) -> Categories:
    """Codes by sorted name; numbers by the text of the number, and 1 and "1" are one category."""
    import pandas

    kinds = pandas.api.types
    # Whole numbers keep all their digits: they may be ids.
    if kinds.is_numeric_dtype(series.dtype) and not (kinds.is_bool_dtype(series.dtype) or kinds.is_integer_dtype(series.dtype)):
        return encode_categories(series.to_numpy(dtype=np.float64, na_value=np.nan))
    codes, distinct = pandas.factorize(series, use_na_sentinel=True)
    return renamed(np.asarray(codes), [_text(one) for one in distinct.tolist()])


def _text(value: Any) -> str:
    return text_of_number(value) if isinstance(value, float) else str(value)


def renamed(codes: Any, texts: Sequence[str]) -> Categories:
    """Categories of codes into any list of texts, equal ones and all orders among them; -1 where missing."""
    names = tuple(sorted(set(texts)))
    place = {name: i for i, name in enumerate(names)}
    return Categories(np.array([*(place[text] for text in texts), -1], dtype=np.int32)[codes], names)
