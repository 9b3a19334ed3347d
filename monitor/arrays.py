"""Arrow's values as Python's, with times taken a short way.

Arrow asks the zone of each time anew, 6 us a value; ours are all in UTC, so that microseconds since 1970 say the same in one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")


def listed(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """As `to_pylist`."""
    if column.type != TIME:
        return column.to_pylist()  # type: ignore[no-any-return]
    return [None if one is None else EPOCH + timedelta(microseconds=one) for one in column.cast(pa.int64()).to_pylist()]


def rows(table: pa.Table) -> list[dict[str, Any]]:
    """As `Table.to_pylist`."""
    names = table.column_names
    if TIME not in table.schema.types or len(set(names)) < len(names):
        return table.to_pylist()  # type: ignore[no-any-return]
    return [dict(zip(names, row, strict=True)) for row in zip(*map(listed, table.columns), strict=True)]
