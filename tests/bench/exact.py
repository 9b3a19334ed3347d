"""Exact drift of a window against a reference of as many rows, a column at a time, beside Evidently's preset.

The frames of `drift`, and Evidently's choice of tests. `a check`: both windows lie in the daemon's store, the reference frozen as
after its first use; each column is asked of it when its turn comes. `modelwatch compare` reads Parquet. Both read what they
compare while they compare, so Evidently's time has its loading in it. Each side is a process of its own, and memory its peak,
program and libraries included. Values must agree to 1e-9 in every column, or the benchmark fails.
"""

from __future__ import annotations

import statistics

from tests.bench.drift import CATEGORIES, NUMBERS, SIDES, Side, compared, difference, middle, processors, stored, write
from tests.bench.harness import Options, Row, each, measured

METHOD = "wasserstein"  # and jensenshannon: Evidently's choice for windows of this size


def run(options: Options) -> list[Row]:
    rows, turns = options.pick(1_000_000, 100_000, 2_000), options.pick(3, 3, 1)
    frames = [write(options.folder / f"{name}.parquet", rows, seed, moved) for name, seed, moved in SIDES]
    theirs = each(options, ["evidently"], "evidently", lambda side: compared(side, METHOD, frames))
    checks = each(options, ["exact"] * turns, "check", lambda what: stored(options, what, 0, frames))
    command = each(options, ["command"] * turns, "command", lambda side: compared(side, METHOD, frames))
    first = [one["first"] for one in checks]
    return [
        measured("DataDriftPreset, with loading", [s.seconds + s.loading for s in theirs], "s",
                 f"{rows:,} rows a side, {NUMBERS + CATEGORIES} columns; {processors(theirs)} without"),
        measured("- peak memory", [s.peak for s in theirs], "MiB"),
        *beside(theirs, "a check, both windows in the store", [Side(**one["side"]) for one in checks]),
        measured("- and once, its reference frozen", first, "s", "with the first comparison"),
        *beside(theirs, "modelwatch compare", command),
    ]  # fmt: skip


def beside(theirs: list[Side], about: str, ours: list[Side]) -> list[Row]:
    return [
        measured(about, [s.seconds for s in ours], "s", processors(ours)),
        measured("- peak memory", [s.peak for s in ours], "MiB", f"{ours[0].before:,.0f} before it began"),
        Row("- Evidently's time to ours", middle(theirs, loading=True) / middle(ours), "x"),
        Row("- Evidently's peak memory to ours", theirs[0].peak / statistics.median(s.peak for s in ours), "x"),
        Row("- largest difference of a value", difference(ours[0].values, theirs[0].values), "", "over all columns"),
    ]
