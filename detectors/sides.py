"""One column of two windows: of what kind it is, its values on both sides, and its cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import distances, stattests
from detectors.calibration import Column
from detectors.cells import Cells, Distance
from detectors.contract import Categories, ColumnKind, FloatArray, NotEvaluable, Window
from detectors.stattests import StatTest
from detectors.summary import Blocks, CategorySummary, NumberSummary, blocks_of, summary_of

Kinds = Callable[[str], ColumnKind]
"""Gives a column's kind, or raises `NotEvaluable`."""

FEW = 6
"""Distinct values are counted up to here: Evidently's default choice asks for more than five."""


@dataclass(frozen=True)
class Sides:
    """One column of both windows, missing and infinite values still inside."""

    kind: ColumnKind
    numbers: tuple[FloatArray, FloatArray] | None = None
    categories: tuple[Categories, Categories] | None = None

    @cached_property
    def ordered(self) -> tuple[FloatArray, FloatArray]:
        """The finite numbers of both, smallest first: sorted once, whatever is then asked of them."""
        assert self.numbers is not None
        return tuple(np.sort(finite(side)) for side in self.numbers)  # type: ignore[return-value]

    @cached_property
    def counts(self) -> tuple[int, int]:
        if self.numbers is not None:
            return tuple(int(np.isfinite(side).sum()) for side in self.numbers)  # type: ignore[return-value]
        assert self.categories is not None
        return tuple(int((side.codes >= 0).sum()) for side in self.categories)  # type: ignore[return-value]


def of_features(reference: Window, current: Window) -> Kinds:
    """Kinds by the schema, which must say the same on both sides."""

    def kind(name: str) -> ColumnKind:
        for window, side in ((reference, "reference"), (current, "current window")):
            if name not in window.features or not window.has(name):
                raise NotEvaluable("missing_column", f"no {name!r} in the {side}")
        if current.features[name] != reference.features[name]:
            raise NotEvaluable("type_changed", f"{name!r} is a {current.features[name]} and was a {reference.features[name]}")
        return reference.features[name]

    return kind


def of_columns(reference: Window, current: Window, asked: Literal["auto", "number", "category"] = "auto") -> Kinds:
    """Kinds of columns that no schema knows, such as the prediction: numbers where both sides are."""

    def kind(name: str) -> ColumnKind:
        for window, side in ((reference, "reference"), (current, "current window")):
            if not window.has(name):
                raise NotEvaluable("missing_column", f"no {name!r} in the {side}")
        if asked != "auto":
            return asked
        found = [_kind_of(window, name) for window in (reference, current)]
        if found[0] != found[1]:
            raise NotEvaluable("type_changed", f"{name!r} is a {found[1]} and was a {found[0]}")
        return found[0]

    return kind


def _kind_of(window: Window, name: str) -> ColumnKind:
    try:
        window.numbers(name)
    except NotEvaluable:
        return "category"
    return "number"


def read(name: str, kind: ColumnKind, reference: Window, current: Window) -> Sides:
    if kind == "number":
        return Sides(kind, numbers=(reference.numbers(name), current.numbers(name)))
    return Sides(kind, categories=(_categories(reference, name), _categories(current, name)))


def _categories(window: Window, name: str) -> Categories:
    """Without infinities, where the categories are numbers: Evidently drops them, and they are no category."""
    column = window.categories(name)
    if not {"inf", "-inf"} & set(column.names) or _kind_of(window, name) == "category":
        return column
    drop = np.array([*(text in ("inf", "-inf") for text in column.names), True])
    return Categories(np.where(drop[column.codes], np.int32(-1), column.codes), column.names)


def distinct(sides: Sides) -> int:
    """Distinct values of both sides together; of numbers `FEW` stands for that many or more."""
    if sides.numbers is not None:
        seen: set[float] = set()
        for ordered in sides.ordered:
            place = 0
            while place < len(ordered) and len(seen) < FEW:
                seen.add(float(ordered[place]))
                place = int(np.searchsorted(ordered, ordered[place], "right"))
        return len(seen)
    assert sides.categories is not None
    return len(distances.category_counts(*sides.categories)[0])


def run(test: StatTest, sides: Sides) -> distances.Finding:
    if sides.numbers is not None:
        # The permutations of some depend on the order of the rows.
        numbers = sides.ordered if test.of_sets else tuple(finite(side) for side in sides.numbers)
        return stattests.compare_numbers(test, *numbers)
    assert sides.categories is not None
    assert test.counts is not None
    return test.counts(*distances.category_counts(*sides.categories))


# --- in cells ----------------------------------------------------------------------------------------------------------


class InCells(NamedTuple):
    """A column of a window, counted in the cells of its reference: `cells` has the places of both."""

    counts: NDArray[np.int64]
    cells: Cells
    of_rows: bool


@dataclass(frozen=True)
class Before:
    """A column of a reference in cells: `codes` of its rows, or `counts` and, for the calibration, `blocks` of time, and how
    many different values it has."""

    cells: Cells
    codes: NDArray[np.int32] | None = None
    counts: NDArray[np.int64] | None = None
    blocks: Blocks | None = None
    distinct: float | None = None
    _columns: dict[str, Column] = field(default_factory=dict)

    @cached_property
    def totals(self) -> NDArray[np.int64]:
        if self.counts is not None:
            return self.counts
        assert self.codes is not None
        return self.cells.count(self.codes)

    def column(self, method: str, distance: Distance, order: int) -> Column:
        """For `calibration`. The same each time, as what it knows of itself is costly."""
        if method not in self._columns:
            # Of blocks alone, so that it stays the same while they do.
            cells = self.cells if self.blocks is None else Cells.of_summary(self.blocks.whole)
            self._columns[method] = Column(cells, self.codes, distance, order, self.blocks)
        return self._columns[method]

    def count(self, name: str, current: Window) -> InCells:
        """Raises OverflowError, where numbers are beyond what can be added up."""
        known = summary_of(current, name)
        if self.cells.points is not None and not len(self.cells.points):  # nothing there says what the cells are
            count = known.count if known is not None else int(np.isfinite(current.numbers(name)).sum())
            return InCells(np.array([count]), self.cells, of_rows=known is None)
        if isinstance(known, CategorySummary) and self.cells.points is None and known.names == self.cells.names:
            return InCells(known.counts, self.cells, of_rows=False)
        if isinstance(known, NumberSummary) and _same(known.points, self.cells.points):
            return InCells(known.counts, _finite(self.cells.with_places(known.counts, known.sums)), of_rows=False)
        if self.cells.points is None:
            return InCells(self.cells.count(self.cells.codes_of(_categories(current, name))), self.cells, of_rows=True)
        values = current.numbers(name)
        return InCells(
            self.cells.count(self.cells.codes(values)), _finite(self.cells.with_places_of(finite(values))), of_rows=True
        )


def before(name: str, kind: ColumnKind, reference: Window, current: Window) -> Before:
    """The column of the reference on the cells of the summary that either window has of it, else on cells of its own.

    Raises OverflowError, where numbers are beyond what can be added up.
    """
    known = summary_of(reference, name)
    if isinstance(known, NumberSummary if kind == "number" else CategorySummary):
        assert known is not None
        if isinstance(known, NumberSummary) and not len(known.points):
            return Before(Cells(1, np.zeros(0)), counts=np.zeros(1, dtype=np.int64))
        cells = Cells.of_summary(known)
        return Before(_finite(cells), counts=known.counts, blocks=blocks_of(reference, name), distinct=known.distinct)
    now = summary_of(current, name)
    if kind == "number":
        values = reference.numbers(name)
        there = finite(values)
        if not len(there):
            return Before(Cells(1, np.zeros(0)), np.zeros(0, dtype=np.int32))
        cells = Cells.on(now.points).counting(there) if isinstance(now, NumberSummary) else Cells.of_numbers(there)
        return Before(_finite(cells), cells.codes(values))
    column = _categories(reference, name)
    cells = Cells.named(now.names) if isinstance(now, CategorySummary) else Cells.of_categories(column)
    codes = cells.codes_of(column)
    different = len(np.unique(column.codes[column.codes >= 0]))
    return Before(cells.shared(cells.count(codes)), codes, distinct=different)


def _finite(cells: Cells) -> Cells:
    if cells.places is not None and not (np.isfinite(cells.places).all() and np.isfinite(cells.deviation)):
        raise OverflowError
    return cells


def _same(one: FloatArray, other: FloatArray | None) -> bool:
    return other is not None and (one is other or np.array_equal(one, other))


def points_of(name: str, window: Window) -> FloatArray | tuple[str, ...] | None:
    """What the summary of a column is on; None where the window has only rows of it."""
    known = summary_of(window, name)
    return known.points if isinstance(known, NumberSummary) else known.names if known is not None else None


def finite(values: FloatArray) -> FloatArray:
    there = np.isfinite(values)
    return values if there.all() else values[there]
