"""A window of which there are counts: what a detector sees instead of a million rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from detectors.contract import Categories, ColumnKind, FloatArray
from detectors.summary import Blocks, CategorySummary, NumberSummary
from monitor.summaries.basis import Basis
from monitor.summaries.counting import Sums
from monitor.windows import TableWindow


class SummaryWindow:
    """A `detectors.contract.Summarised`. A detector that asks for a column's rows all the same has them read then."""

    def __init__(
        self,
        sums: Sums,
        basis: Basis,
        features: Mapping[str, ColumnKind],
        *,
        rows: Callable[[], TableWindow],
        blocks: Mapping[str, Blocks] | None = None,
        name: str = "",
        hours: int | None = None,
    ) -> None:
        """`rows` reads them, `blocks` is by feature, of a reference; `hours` is how long a window lasts."""
        self._sums = sums
        self._basis = basis
        self._read = rows
        self._blocks = blocks or {}
        self._table: TableWindow | None = None
        self.features = features
        self.rows = max((one.rows for one in sums.values()), default=0)
        self.name = name
        self.stretches = hours

    def has(self, column: str) -> bool:
        return column in self.features

    def numbers(self, column: str) -> FloatArray:
        return self._rows().numbers(column)

    def categories(self, column: str) -> Categories:
        return self._rows().categories(column)

    def summary(self, column: str) -> NumberSummary | CategorySummary | None:
        edges = self._basis.columns.get(column)
        return None if edges is None else self._sums[column].summary(edges)

    def blocks(self, column: str) -> Blocks | None:
        return self._blocks.get(column)

    def _rows(self) -> TableWindow:
        if self._table is None:
            self._table = self._read()
        return self._table
