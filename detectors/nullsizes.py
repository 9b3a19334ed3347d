"""For which sizes of a window nulls are drawn.

A null of another size is a factor away (`calibration.Calibration.null`), and traffic varies from hour to hour: a null for each
two digits of the size would be drawn anew nearly every hour. Small windows keep theirs, since there the shape differs as well,
and they cost little.
"""

from __future__ import annotations

from bisect import bisect_right

SIZES = (1_000, 1_250, 1_600, 2_000, 2_500, 3_150, 4_000, 5_000, 6_300, 8_000, 10_000)
"""Ten a decade, as the preferred numbers of ISO 3."""


def drawn_at(window_rows: int) -> int:
    """The size to draw at, for windows of so many rows.

    >>> drawn_at(240), drawn_at(1_999), drawn_at(9_800), drawn_at(1_000_000)
    (240, 1600, 8000, 10000)
    """
    place = bisect_right(SIZES, window_rows)
    return SIZES[place - 1] if place else window_rows
