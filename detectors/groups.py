"""Groups of rows by the values of attributes, alone and in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from detectors.contract import NotEvaluable, Window
from detectors.quality import BoolArray

MOST_GROUPS = 200


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which group each row is in: `codes` int64 (rows,), -1 for none, else an index into `names`."""

    attribute: str
    codes: NDArray[np.int64]
    names: tuple[str, ...]

    def members(self, group: int) -> BoolArray:
        return np.asarray(self.codes == group)


def groupings(
    window: Window, attributes: Sequence[str], edges: Mapping[str, Sequence[float]], *, pairs: bool
) -> Iterator[Grouping]:
    """By each attribute, then by each two of them. A row that lacks an attribute is in no group of it.

    Raises:
        NotEvaluable: missing_column; not_numeric, where there are edges; wrong_type, for more values than make groups.
    """
    alone = [_grouping(window, name, edges.get(name)) for name in attributes]
    yield from alone
    if pairs:
        yield from (_pair(a, b) for a, b in combinations(alone, 2))


def _grouping(window: Window, attribute: str, edges: Sequence[float] | None) -> Grouping:
    if edges is None:
        column = window.categories(attribute)
        if len(column.names) > MOST_GROUPS:
            raise NotEvaluable("wrong_type", f"{attribute} has {len(column.names)} values; give edges, or another attribute")
        return Grouping(attribute, column.codes.astype(np.int64), column.names)
    values = window.numbers(attribute)
    codes = np.where(np.isnan(values), -1, np.searchsorted(np.asarray(edges), values, side="right"))
    limits = [f"{edge:g}" for edge in edges]
    names = (f"below {limits[0]}", *(f"{a} to {b}" for a, b in pairwise(limits)), f"from {limits[-1]}")
    return Grouping(attribute, codes.astype(np.int64), names)


def _pair(a: Grouping, b: Grouping) -> Grouping:
    together = np.where((a.codes < 0) | (b.codes < 0), -1, a.codes * len(b.names) + b.codes)
    there, codes = np.unique(together, return_inverse=True)
    names = tuple(f"{a.names[c // len(b.names)]}, {b.names[c % len(b.names)]}" for c in there.tolist() if c >= 0)
    codes = codes.astype(np.int64) - (1 if len(there) and there[0] < 0 else 0)
    return Grouping(f"{a.attribute}, {b.attribute}", codes, names)
