"""One column of two windows: of what kind it is, its values on both sides, and its cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import distances, stattests
from detectors.calibration import Column
from detectors.cells import Cells, Distance
from detectors.contract import Categories, ColumnKind, FloatArray, NotEvaluable, Window
from detectors.stattests import StatTest

Kinds = Callable[[str], ColumnKind]
"""Gives a column's kind, or raises `NotEvaluable`."""


class Sides(NamedTuple):
    """One column of both windows, missing and infinite values still inside."""

    kind: ColumnKind
    numbers: tuple[FloatArray, FloatArray] | None = None
    categories: tuple[Categories, Categories] | None = None

    @property
    def counts(self) -> tuple[int, int]:
        if self.numbers is not None:
            return tuple(int(np.isfinite(side).sum()) for side in self.numbers)  # type: ignore[return-value]
        assert self.categories is not None
        return tuple(int((side.codes >= 0).sum()) for side in self.categories)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Counted:
    """A column under `calibrated`: what is known of its reference, and its value in this window."""

    column: Column
    value: float


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
    """Distinct values of both sides together."""
    if sides.numbers is not None:
        return len(np.unique(np.concatenate([finite(side) for side in sides.numbers])))
    assert sides.categories is not None
    return len(distances.category_counts(*sides.categories)[0])


def run(test: StatTest, sides: Sides) -> distances.Finding:
    if sides.numbers is not None:
        return stattests.compare_numbers(test, *(finite(side) for side in sides.numbers))
    assert sides.categories is not None
    assert test.counts is not None
    return test.counts(*distances.category_counts(*sides.categories))


def counted(sides: Sides, distance: Distance, order: int) -> Counted:
    """Raises OverflowError, where the reference's numbers are beyond what can be added up."""
    if sides.numbers is not None:
        reference, current = sides.numbers
        found = Cells.of_numbers(finite(reference))
        codes, in_window = found.codes(reference), found.count(found.codes(current))
        seen = found.with_places_of(finite(current))
        if not (found.places is not None and np.isfinite(found.places).all() and np.isfinite(found.deviation)):
            raise OverflowError
    else:
        assert sides.categories is not None
        before, now = sides.categories
        seen = found = Cells.of_categories(before)
        codes, in_window = found.codes_of(before), found.count(found.codes_of(now))
    counts = found.count(codes)
    value = distance(seen, (counts / counts.sum())[None], (in_window / in_window.sum())[None])
    return Counted(Column(found, codes, distance, order), float(value[0]))


def signal(column: Column) -> FloatArray:
    """A column of the reference as numbers in time: its cells, or how frequent each category is."""
    codes: NDArray[np.int64] = column.codes
    assert column.cells.reference is not None
    of_cells = column.cells.reference if column.cells.points is None else np.arange(column.cells.size, dtype=np.float64)
    return np.append(of_cells, np.nan)[codes]


def finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]
