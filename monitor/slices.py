"""Parts of the traffic that a check looks at by themselves: rows with a field of one value, or a slice for each value.

A slice has a history, incidents and series of its own, under the label `slice`. How many there are is bounded by the config; of a
field with more values the first come first, the most frequent before the others, and the rest is `__other__`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from detectors.contract import text_of_number
from monitor.reader import literal

if TYPE_CHECKING:
    from monitor.config import SliceConfig
    from monitor.windows import TableWindow

ALL = "all"
OTHER = "__other__"
MOST_CHARACTERS = 80  # of a value, where it becomes a label


@dataclass(frozen=True, slots=True)
class Condition:
    """A field is one of these values; with `inside=False` it is none of them, or missing."""

    field: str
    values: tuple[str, ...]
    inside: bool = True

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Booleans, one a row; none holds where there is no such column."""
        if self.field not in table.column_names:
            return pa.chunked_array([pa.array([not self.inside] * table.num_rows, pa.bool_())])
        found = pc.is_in(as_text(table[self.field]), value_set=pa.array(self.values, pa.string()))
        return found if self.inside else pc.invert(found)

    def sql(self, expression: str) -> str:
        """The same of an expression of text."""
        values = ", ".join(literal(value) for value in self.values)
        return f"{'' if self.inside else 'NOT '}coalesce({expression} IN ({values}), false)"


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows that meet all conditions. Without conditions it is the whole traffic."""

    name: str = ALL
    where: tuple[Condition, ...] = ()

    def of(self, window: TableWindow) -> TableWindow:
        """The rows of a window that belong to it."""
        for condition in self.where:
            window = window.rows_where(condition.mask(window.table))
        return window

    def sql(self, expression: Callable[[str], str]) -> str:
        """The same, of rows whose fields are text. `expression` gives a field."""
        return " AND ".join(one.sql(expression(one.field)) for one in self.where) or "true"


WHOLE = Slice()


class Slices:
    """Those of one check. Values of a field become slices as they are seen, and are then known for good."""

    def __init__(self, configs: Sequence[SliceConfig]) -> None:
        self._named = [
            Slice(one.name or "", tuple(Condition(field, texts(values)) for field, values in one.where.items()))
            for one in configs
            if one.by is None
        ]
        self._by = {one.by: one.top for one in configs if one.by is not None}
        self._values: dict[str, list[str]] = {field: [] for field in self._by}

    @property
    def fields(self) -> frozenset[str]:
        """The columns that tell which rows belong where."""
        return frozenset(condition.field for one in self._named for condition in one.where) | self._by.keys()

    @property
    def open(self) -> bool:
        """Whether values that were not seen yet may become slices."""
        return any(len(self._values[field]) < top for field, top in self._by.items())

    def all(self) -> list[Slice]:
        """The whole traffic first."""
        found = [WHOLE, *self._named]
        for field, values in self._values.items():
            found += [Slice(label(field, value), (Condition(field, (value,)),)) for value in values]
            if len(values) == self._by[field]:
                found.append(Slice(label(field, OTHER), (Condition(field, tuple(values), inside=False),)))
        return found

    def always(self, name: str) -> bool:
        """Whether it has a reading although it has no row: one that the config names. A misspelled value shows by that."""
        return name == ALL or any(one.name == name for one in self._named)

    def know(self, field: str, values: Iterable[str]) -> None:
        """Values that have a slice already."""
        known = self._values.get(field)
        if known is not None:
            known += [value for value in values if value not in known][: self._by[field] - len(known)]

    def look(self, counts: Callable[[str], Counter[str]]) -> dict[str, list[str]]:
        """Values that become slices now, by field. `counts` says how often each value of a field was seen."""
        fresh: dict[str, list[str]] = {}
        for field, known in self._values.items():
            if (room := self._by[field] - len(known)) > 0:
                often = {value: n for value, n in counts(field).items() if value not in known}
                if often:
                    fresh[field] = sorted(often, key=lambda value: (-often[value], value))[:room]
        return fresh


def most(configs: Sequence[SliceConfig]) -> int:
    """How many slices a check may come to, the whole traffic included."""
    return 1 + sum(1 if one.by is None else one.top + 1 for one in configs)


def label(field: str, value: str) -> str:
    """Of a slice by value: `country=NO`."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value)
    return f"{field}={shown}"


def counted(table: pa.Table, field: str) -> Counter[str]:
    """How often each value of a column is there. A value too long for a label counts as one of the others."""
    if field not in table.column_names:
        return Counter()
    pairs = pc.value_counts(as_text(table[field])).to_pylist()
    return Counter({p["values"]: p["counts"] for p in pairs if fits(p["values"])})


def fits(value: str | None) -> bool:
    return value is not None and 0 < len(value) <= MOST_CHARACTERS


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers as the text of the number, whole ones without a point."""
    if pa.types.is_string(column.type):
        return column
    encoded = column.combine_chunks().dictionary_encode()
    names = [None if value is None else text(value) for value in encoded.dictionary.to_pylist()]
    return pa.chunked_array([pa.array(names, pa.string()).take(encoded.indices)])


def texts(values: object) -> tuple[str, ...]:
    """What a config gives as a value or a list of values."""
    given: Collection[object] = values if isinstance(values, (list, tuple)) else (values,)
    return tuple(text(value) for value in given)


def text(value: object) -> str:
    """
    >>> text(True), text(3.0), text(0.5), text("EU")
    ('true', '3', '0.5', 'EU')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return text_of_number(value) if isinstance(value, (int, float)) else str(value)
