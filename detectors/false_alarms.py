"""How often an alarm rings although nothing moved: a budget of false alarms, shared out, and rules that keep to it.

A budget is a number of false alarms to be expected in a month. Expectations add up whether or not the windows depend on each
other, so a budget that is shared out over slots holds for their sum without any correction: sum over checks of slots * alpha
<= budget, which is Bonferroni's inequality read for counts. Where one window alone cannot get below its share, a rule of k
windows out of m can; that does need windows that are independent, so they must not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import betaincinv
from scipy.stats import binom

MONTH_SECONDS = 30 * 86_400
"""A month has 30 days here, always."""

MOST_WINDOWS = 6
"""Longer rows of windows are not asked for: a drift would be hours old, and what is left of independence with it."""


@dataclass(frozen=True, slots=True)
class Stake:
    """What one check puts into its model's budget: `slots` a month over all its slices, counting `weight` times each."""

    slots: float
    weight: float = 1.0


def alphas(budget: float, stakes: Mapping[str, Stake]) -> dict[str, float]:
    """The share of each slot, by check: budget * weight / sum of weight * slots. At most 0.5 each.

    >>> found = alphas(1.0, {"hourly": Stake(720), "daily": Stake(30, weight=8)})
    >>> round(found["hourly"], 6), round(found["daily"] / found["hourly"], 6)
    (0.001042, 8.0)
    >>> round(sum(found[name] * slots for name, slots in (("hourly", 720), ("daily", 30))), 9)
    1.0
    """
    total = sum(stake.weight * stake.slots for stake in stakes.values())
    return {name: min(budget * stake.weight / total, 0.5) for name, stake in stakes.items()}


def firing_rate(level: float, needed: int, of: int) -> float:
    """Probability that at least `needed` of `of` independent windows have a p-value of at most `level`.

    >>> round(firing_rate(0.05, 2, 3), 6)
    0.00725
    """
    return float(binom.sf(needed - 1, of, level))


def level(alpha: float, needed: int, of: int) -> float:
    """The largest level of one window at which `needed` of `of` come together at a rate of at most `alpha`.

    >>> round(level(0.0001, 2, 2), 6), round(firing_rate(level(0.001, 2, 4), 2, 4), 9)
    (0.01, 0.001)
    """
    if needed == of:
        return float(alpha ** (1 / needed))
    return float(betaincinv(needed, of - needed + 1, alpha))  # the binomial tail is a beta distribution in `level`


@dataclass(frozen=True, slots=True)
class Persistence:
    """Fires when `needed` of the last `of` windows have a p-value of at most `level`."""

    needed: int
    of: int
    level: float


def persistence(alpha: float, floor: float, most: int = MOST_WINDOWS) -> Persistence | None:
    """The shortest row of windows by which `alpha` can be kept although no p-value is below `floor`; None where none of up to
    `most` can.

    >>> persistence(0.001, 0.0001)
    Persistence(needed=1, of=1, level=0.001)
    >>> persistence(0.0001, 0.001)
    Persistence(needed=2, of=2, level=0.01)
    >>> persistence(1e-9, 0.1) is None
    True
    """
    for needed in range(1, most + 1):
        found = level(alpha, needed, needed)
        # A little above the floor, so that rounding of either does not decide.
        if found >= floor * (1 - 1e-9):
            return Persistence(needed, needed, found)
    return None


def exact_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """For the rate behind `hits` out of n >= 1. Clopper and Pearson, Biometrika 26 (1934).

    >>> [round(x, 4) for x in exact_interval(5, 100)]
    [0.0164, 0.1128]
    """
    tail = (1 - confidence) / 2
    lower = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    upper = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return lower, upper


def expected_hits(n: int, rate: float, confidence: float = 0.95) -> tuple[int, int]:
    """Between which counts (both included) the hits of n independent tries at `rate` lie with at least `confidence`.

    >>> expected_hits(2000, 0.05)
    (81, 120)
    """
    tail = (1 - confidence) / 2
    lower = int(binom.ppf(tail, n, rate))
    upper = int(binom.isf(tail, n, rate))
    return max(lower, 0), min(upper, math.floor(n))
