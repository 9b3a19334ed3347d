"""What the benchmarks share: rows, sizes, progress, and the words for a figure."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from tqdm import tqdm

from tests.bench.machine import Usage, is_quiet, wait_for_quiet

T = TypeVar("T")
R = TypeVar("R")

NAMES = (
    "push", "otlp", "settle", "busy", "hot_tier", "tiers", "masking", "encoders", "scoring",
    "drift", "exact", "parity", "estimate", "start", "scrape", "metrics", "checks", "alerts",
)  # fmt: skip
"""The benchmarks, in the order they run. Each is a module here whose `run(options)` returns its rows."""

TRIES = 5

Size = Literal["full", "quick", "smoke"]


@dataclass(frozen=True, slots=True)
class Options:
    """How large to measure, and where there is room for stores. `data` is a folder with larger inputs, where one is given.

    Before each measurement at most `patience_seconds` are spent waiting for other programs to leave the machine alone. `others`
    has, for each, the processor seconds they took all the same and how long it lasted. `peers` is a folder for the environments
    of the tools that some benchmarks measure ours beside; without it they are left out.
    """

    size: Size
    folder: Path
    data: Path | None = None
    peers: Path | None = None
    patience_seconds: float = 0.0
    others: list[tuple[float, float]] = field(default_factory=list)

    def pick(self, full: T, quick: T, smoke: T) -> T:
        return {"full": full, "quick": quick, "smoke": smoke}[self.size]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: the median of several repeats and the worst of them, or a single figure without a worst."""

    name: str
    figure: float
    unit: str
    note: str = ""
    worst: float | None = None


def measured(
    name: str, values: Sequence[float], unit: str, note: str = "", *, better: Literal["lower", "higher"] = "lower"
) -> Row:
    """Median and worst of the repeats."""
    worst = max(values) if better == "lower" else min(values)
    return Row(name, statistics.median(values), unit, note, worst if len(values) > 1 else None)


def each(options: Options, items: Sequence[T], about: str, measure: Callable[[T], R]) -> list[R]:
    """What `measure` gives for each item, with a bar on stderr that is gone when they are through.

    With patience, a measurement that others disturbed is made again, up to `TRIES` times, and the least disturbed one counts,
    whatever its figure.
    """
    found = []
    for item in tqdm(items, desc=about, unit="run", leave=False, file=sys.stderr):
        best: tuple[float, float, R] | None = None
        for _ in range(TRIES if options.patience_seconds else 1):
            wait_for_quiet(options.patience_seconds)
            before = Usage.now()
            result = measure(item)
            taken, lasted = before.others_since()
            if best is None or taken / lasted < best[0] / best[1]:
                best = (taken, lasted, result)
            if is_quiet(*best[:2]):
                break
        assert best is not None
        options.others.append(best[:2])
        found.append(best[2])
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def figure(value: float) -> str:
    """Three digits that say something.

    >>> figure(28412.3), figure(12.345), figure(0.0123), figure(0)
    ('28,412', '12.3', '0.0123', '0')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
