"""A table whose columns are read when they are asked for, and not kept: for windows of many rows that are compared column by
column.

A million rows of 25 columns are 200 MB on either side, and a comparison looks at one of them at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from detectors.contract import NotEvaluable

Fetch = Callable[[], pa.ChunkedArray]

GROUP_ROWS = 131_072  # of a file that is put together from columns


@dataclass(frozen=True)
class LazyTable:
    """What a window asks of Arrow's table. `columns` gives each column by name, every time the same values in the same order."""

    columns: Mapping[str, Fetch]
    num_rows: int

    @classmethod
    def of(cls, table: pa.Table | LazyTable) -> LazyTable:
        """A table that is in memory already, to be joined to one that is not."""
        if isinstance(table, LazyTable):
            return table
        return cls({name: partial(table.column, name) for name in table.column_names}, table.num_rows)

    @classmethod
    def of_file(cls, path: Path) -> LazyTable:
        """Of a Parquet file that stays as it is: a reference. Asking for a column of one that is gone raises `NotEvaluable`."""
        with pq.ParquetFile(path) as file:
            names, rows = file.schema_arrow.names, file.metadata.num_rows
        return cls({name: partial(_column_of, path, name) for name in names}, rows)

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        # What was read before is gone by now, and Arrow's allocator would keep its memory.
        pa.default_memory_pool().release_unused()
        return self.columns[name]()

    def select(self, names: Sequence[str]) -> LazyTable:
        return LazyTable({name: self.columns[name] for name in names}, self.num_rows)

    def drop_columns(self, names: Collection[str]) -> LazyTable:
        return self.select([name for name in self.columns if name not in names])

    def with_alias(self, name: str, other: str) -> LazyTable:
        """With the column `other` under `name`, too."""
        return LazyTable({**self.columns, name: self.columns[other]}, self.num_rows)

    def filter(self, mask: pa.ChunkedArray) -> LazyTable:
        columns = {name: partial(_filtered, fetch, mask) for name, fetch in self.columns.items()}
        return LazyTable(columns, pc.sum(mask).as_py() or 0)

    def followed_by(self, other: LazyTable) -> LazyTable:
        """The rows of both. Numbers here and texts there become texts; a column that one of them lacks is null there."""
        sides = self, other
        names = dict.fromkeys((*self.columns, *other.columns))
        columns = {n: partial(_chained, [(side.columns.get(n), side.num_rows) for side in sides]) for n in names}
        return LazyTable(columns, self.num_rows + other.num_rows)

    def write(self, path: Path) -> None:
        """As Parquet, without ever holding more than a column and a group of rows."""
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
            parts = []
            for i, name in enumerate(self.columns):
                parts.append(Path(folder) / f"{i}.parquet")
                column = self[name]
                pq.write_table(pa.table({name: column}), parts[-1], compression="zstd", row_group_size=GROUP_ROWS)
            files = [pq.ParquetFile(part) for part in parts]
            schema = pa.schema([file.schema_arrow.field(0) for file in files])
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for group in range(files[0].num_row_groups):
                    columns = [file.read_row_group(group).column(0) for file in files]
                    writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP_ROWS)
            for file in files:
                file.close()


def _column_of(path: Path, name: str) -> pa.ChunkedArray:
    try:
        with pq.ParquetFile(path) as file:
            groups = [file.read_row_group(i, columns=[name]) for i in range(file.num_row_groups)]
            # Of `a` it gives `a.b` as well, taking the dot for a path into a nested column.
            return pa.concat_tables(groups)[name] if groups else file.schema_arrow.empty_table()[name]
    except (OSError, pa.ArrowInvalid) as exc:
        raise NotEvaluable("no_reference", f"{path} cannot be read: {exc}; put it back") from exc


def _filtered(fetch: Fetch, mask: pa.ChunkedArray) -> pa.ChunkedArray:
    return fetch().filter(mask)


def _chained(sides: Sequence[tuple[Fetch | None, int]]) -> pa.ChunkedArray:
    parts = [fetch() if fetch is not None else pa.chunked_array([pa.nulls(rows)]) for fetch, rows in sides]
    types = {part.type for part in parts if not pa.types.is_null(part.type)}
    kind = types.pop() if len(types) == 1 else pa.string() if types else pa.null()
    return pa.chunked_array([chunk for part in parts for chunk in part.cast(kind).chunks], kind)
