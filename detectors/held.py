"""Columns in memory under the names that detectors read, of which any rows can be taken: what is cut into chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.contract import Categories, ColumnKind, FloatArray, NotEvaluable, encode_categories


@dataclass(frozen=True)
class Held:
    """A `Window` over `columns`, of which each is numbers (rows,) or categories."""

    rows: int
    columns: Mapping[str, FloatArray | Categories]
    features: Mapping[str, ColumnKind]

    def has(self, column: str) -> bool:
        return column in self.columns

    def numbers(self, column: str) -> FloatArray:
        found = self._found(column)
        if isinstance(found, Categories):
            try:
                values = np.array([*(float(name) for name in found.names), np.nan])
            except ValueError as exc:
                raise NotEvaluable("not_numeric", f"column {column!r}: {exc}") from exc
            return values[found.codes]
        return found

    def categories(self, column: str) -> Categories:
        found = self._found(column)
        return found if isinstance(found, Categories) else encode_categories(found)

    def take(self, index: NDArray[Any] | slice) -> Held:
        """These rows, in this order; names of categories that do not occur in them are gone, as in any window."""
        columns = {name: _taken(column, index) for name, column in self.columns.items()}
        rows = len(np.arange(self.rows)[index])
        return Held(rows, columns, self.features)

    def with_column(self, name: str, column: FloatArray | Categories) -> Held:
        return Held(self.rows, {**self.columns, name: column}, self.features)

    def _found(self, column: str) -> FloatArray | Categories:
        if column not in self.columns:
            raise NotEvaluable("missing_column", f"no column {column!r}; there are {', '.join(self.columns)}")
        return self.columns[column]


def _taken(column: FloatArray | Categories, index: NDArray[Any] | slice) -> FloatArray | Categories:
    if not isinstance(column, Categories):
        return column[index]
    codes = column.codes[index]
    used = np.unique(codes[codes >= 0])
    place = np.full(len(column.names) + 1, -1, dtype=np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    return Categories(place[codes], tuple(column.names[i] for i in used))
