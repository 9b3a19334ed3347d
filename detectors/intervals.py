"""Confidence intervals for shares."""

from __future__ import annotations

import math

from scipy.special import ndtri


def wilson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for hits out of n (n >= 1), within 0..1. Wilson, JASA 22 (1927).

    >>> [round(x, 4) for x in wilson(5, 100)]
    [0.0215, 0.1118]
    """
    z = float(ndtri(0.5 + confidence / 2))
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the two terms cancel exactly, which floating point does not know.
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == n else centre + half)
