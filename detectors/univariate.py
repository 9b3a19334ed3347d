"""Column by column: has this one moved? What `data_drift`, `prediction_drift`, `label_drift`, `score_drift` and
`attribution_drift` share.

Two policies. `evidently` gives the values, thresholds and bounds of Evidently 0.7.23. `calibrated` takes a distance of the same
name over cells that the reference decides, and asks how often the reference itself is so far from its own windows of that size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from detectors import calibration, cells, stattests, text_drift
from detectors.calibration import Calibration, Column, Plan
from detectors.cells import Distance
from detectors.columnconfig import ColumnConfig, MethodName
from detectors.contract import (
    ColumnKind,
    NotEnoughData,
    NotEvaluable,
    Outcome,
    Part,
    Reading,
    Window,
)
from detectors.nullsizes import drawn_at
from detectors.sides import Before, InCells, Kinds, Sides, before, distinct, points_of, read, run
from detectors.stattests import STATTESTS
from detectors.summary import content_seed, stretches_of
from detectors.text_drift import TEXT_TESTS

CALIBRATED: dict[str, dict[ColumnKind, tuple[Distance, int]]] = {
    "ks": {"number": (cells.ks, 1)},
    "t_test": {"number": (cells.cohens_d, 1)},
    "mannw": {"number": (cells.cliffs_delta, 1)},
    "mannw_two_sided": {"number": (cells.cliffs_delta, 1)},
    "es": {"number": (cells.epps_singleton, 2)},
    "anderson": {"number": (cells.anderson, 2)},
    "cramer_von_mises": {"number": (cells.cramer_von_mises, 2)},
    "empirical_mmd": {"number": (cells.mmd, 2)},
    "wasserstein": {"number": (cells.wasserstein, 1)},
    "ed": {"number": (cells.energy, 1)},
    "psi": {"number": (cells.psi, 2), "category": (cells.psi, 2)},
    "kl_div": {"number": (cells.kl, 2), "category": (cells.kl, 2)},
    "jensenshannon": {"number": (cells.jensenshannon, 1), "category": (cells.jensenshannon, 1)},
    "hellinger": {"number": (cells.hellinger, 1), "category": (cells.hellinger, 1)},
    "z": {"category": (cells.share_of_first, 1)},
    "fisher_exact": {"category": (cells.share_of_first, 1)},
    "chisquare": {"category": (cells.phi, 1)},
    "chisquare_independence": {"category": (cells.phi, 1)},
    "g_test": {"category": (cells.jensenshannon, 1)},
    "g_independence": {"category": (cells.jensenshannon, 1)},
    "TVD": {"category": (cells.total_variation, 1)},
}
"""The distance behind each method, and how it shrinks with the sizes (`calibration.Column`)."""

AUTO: dict[ColumnKind, MethodName] = {"number": "anderson", "category": "jensenshannon"}
"""Anderson-Darling, because it sees both moves on all shapes. Flagged at 5 %, of 300 windows of 200 rows, shifted by 0.2
deviations or spread 1.3 times as wide: normal columns 69 and 93 % (wasserstein 72 and 99, ks 63 and 53, mmd 51 and 97), Cauchy
ones 83 and 25 % (wasserstein 5 and 12, ks 89 and 25, mmd 90 and 57)."""

LONG_MEMORY = "a column that counts, trends or has a season cannot be told from one that drifted: leave it out"

KEPT = 8
"""Calibrations a detector remembers: of one reference, the sizes of its last windows."""


class Counted(NamedTuple):
    """A column under `calibrated`: what is known of its reference, and its value in this window."""

    column: Column
    value: float


class Compared(NamedTuple):
    """`metrics` say how many columns there were and, where calibrated, the window's own p-value and the least it can be."""

    parts: tuple[Part, ...]
    metrics: dict[str, float]


class Columns:
    """Compares columns for one check. Remembers the calibration of its last references and sizes; any thread may call it."""

    def __init__(self, config: ColumnConfig) -> None:
        self.config = config
        self._kept: dict[bytes, Calibration] = {}
        self._reference: tuple[Window, dict[object, Before]] | None = None  # the last one, counted
        self._lengths: dict[tuple[str, int], int | None] = {}

    def compare(self, name: str, columns: Sequence[str], kinds: Kinds, reference: Window, current: Window) -> Compared:
        """Parts with the strongest evidence first; one bad column never harms the others.

        `kinds` gives a column's kind, or raises `NotEvaluable`. `name` is the detector's, for messages.

        Raises:
            NotEnoughData, NotEvaluable: of none of the columns can anything be said.
        """
        if (fewest := min(reference.rows, current.rows)) < self.config.fewest:
            raise NotEnoughData(f"{name}: {fewest} rows, min_rows is {self.config.fewest}")
        found = self.measure(columns, kinds, reference, current)
        if not found.metrics["evaluated_features"]:
            if (few := next((part for part in found.parts if part.outcome is Outcome.NOT_ENOUGH_DATA), None)) is not None:
                raise NotEnoughData(f"{name}: no feature has enough values; {few.name}: {few.reason}")
            raise NotEvaluable("no_features", ", ".join(f"{part.name}: {part.reason}" for part in found.parts[:5]))
        return found

    def measure(self, columns: Sequence[str], kinds: Kinds, reference: Window, current: Window) -> Compared:
        """The same, for who wants each column's outcome also where nothing can be said of any."""
        parts: list[Part] = []
        counted: dict[str, tuple[Part, Counted]] = {}
        for column in columns:
            part = Part(column, self.config.methods.get(column, self.config.method))
            try:
                part, found = self._column(part, kinds(column), reference, current)
            except NotEvaluable as exc:
                part, found = replace(part, outcome=Outcome.NOT_EVALUABLE, reason=exc.reason), None
            if found is None:
                parts.append(part)
            else:
                counted[column] = part, found
        metrics: dict[str, float] = {}
        if self.config.policy == "calibrated":
            parts, metrics = self._calibrated(parts, counted, reference, current)
        parts.sort(key=rank)
        evaluated = [part for part in parts if part.outcome is Outcome.OK]
        sizes = {
            "features": len(parts),
            "evaluated_features": len(evaluated),
            "drifted_features": sum(part.flagged for part in evaluated),
        }
        return Compared(tuple(parts), {**sizes, **metrics})

    def _column(self, part: Part, kind: ColumnKind, reference: Window, current: Window) -> tuple[Part, Counted | None]:
        """The part, whatever state its column is in; under `calibrated` with what is still to be judged."""
        c = self.config
        try:
            asked = c.methods.get(part.name, c.method)
            if c.policy == "calibrated" and asked not in TEXT_TESTS:
                there, now = self._in_cells(part.name, kind, reference, current)
                part = replace(part, n_reference=int(there.totals.sum()), n_current=int(now.counts.sum()))
                self._is_enough(part)
                return self._valued(part, kind, there, now)
            sides = read(part.name, kind, reference, current)
            n, m = sides.counts
            part = replace(part, n_reference=n, n_current=m)
            self._is_enough(part)
            self._are_categories(sides, part)
            method = self._method(part, kind, sides)
            return self._tested(replace(part, statistic=method), method, sides), None
        except NotEnoughData as exc:
            return replace(part, outcome=Outcome.NOT_ENOUGH_DATA, reason=str(exc)), None
        except NotEvaluable as exc:
            return replace(part, outcome=Outcome.NOT_EVALUABLE, reason=exc.reason), None
        except OverflowError:
            return replace(part, outcome=Outcome.FAILED, reason="overflow"), None

    def _is_enough(self, part: Part) -> None:
        n, m = part.n_reference, part.n_current
        if min(n, m) < self.config.fewest:
            side = "reference" if n < m else "current window"
            raise NotEnoughData(f"{min(n, m)} values in the {side}, min_rows is {self.config.fewest}")

    def _method(self, part: Part, kind: ColumnKind, sides: Sides | None = None) -> MethodName:
        asked = self.config.methods.get(part.name, self.config.method)
        if asked == "auto":
            if self.config.policy == "calibrated":
                return AUTO[kind]
            assert sides is not None
            return stattests.evidently_default(kind, part.n_reference, distinct(sides))  # type: ignore[return-value]
        kinds = {"category"} if asked in TEXT_TESTS else STATTESTS[asked].kinds
        if kind not in kinds:
            raise NotEvaluable("wrong_type", f"{asked} is not for a {kind}")
        return asked

    def _are_categories(self, sides: Sides, part: Part) -> None:
        if sides.categories is None or self.config.methods.get(part.name, self.config.method) in TEXT_TESTS:
            return
        there = sides.categories[0].codes
        self._is_category(len(np.unique(there[there >= 0])), part.n_reference)

    def _is_category(self, found: float, values: int) -> None:
        # Only the reference says what the column is: a current window full of new categories is drift.
        if found > self.config.most_distinct * values:
            raise NotEvaluable("wrong_type", f"{found:.0f} distinct values among {values}: an identifier or a text")

    # --- policy evidently, and texts -------------------------------------------------------------------------------

    def _tested(self, part: Part, method: MethodName, sides: Sides) -> Part:
        own = self.config.feature_threshold if part.name not in self.config.methods else None
        if method in TEXT_TESTS:
            assert sides.categories is not None
            return text_drift.part(part, method, *sides.categories, threshold=own, calibrated=self.config.policy == "calibrated")
        test = STATTESTS[method]
        with np.errstate(over="ignore", invalid="ignore"):
            found = run(test, sides)
        if not math.isfinite(found.value) or (found.p_value is not None and not math.isfinite(found.p_value)):
            raise OverflowError
        return replace(
            part,
            value=found.value,
            p_value=found.p_value,
            threshold=test.threshold if own is None else own,
            flagged=test.drifted(found, own),
            judges=test.judges,
            direction="lower" if test.judges == "p_value" else "higher",
            library=stattests.ORACLE if test.evidently else None,
        )

    # --- policy calibrated -----------------------------------------------------------------------------------------

    def _in_cells(self, name: str, kind: ColumnKind, reference: Window, current: Window) -> tuple[Before, InCells]:
        with np.errstate(over="ignore", invalid="ignore"):
            there = self._before(name, kind, reference, current)
            return there, there.count(name, current)

    def _valued(self, part: Part, kind: ColumnKind, there: Before, now: InCells) -> tuple[Part, Counted]:
        if kind == "category" and there.distinct is not None:
            self._is_category(there.distinct, part.n_reference)
        method = self._method(part, kind)
        distance, order = CALIBRATED[method][kind]
        with np.errstate(over="ignore", invalid="ignore"):
            p, q = (counts[None] / counts.sum() for counts in (there.totals, now.counts))
            value = float(distance(now.cells, p, q)[0])
        if there.codes is None and there.blocks is None:
            raise NotEnoughData("cannot be calibrated: nothing of the reference was kept that could be resampled")
        basis: Literal["rows", "summary"] = "rows" if now.of_rows and there.codes is not None else "summary"
        return replace(part, statistic=method, basis=basis), Counted(there.column(method, distance, order), value)

    def _before(self, name: str, kind: ColumnKind, reference: Window, current: Window) -> Before:
        if (last := self._reference) is None or last[0] is not reference:
            self._reference = last = (reference, {})
        about = points_of(name, current)
        key = name, kind, about.tobytes() if isinstance(about, np.ndarray) else about
        if key not in last[1]:
            last[1][key] = before(name, kind, reference, current)
        return last[1][key]

    def _calibrated(
        self, parts: list[Part], found: Mapping[str, tuple[Part, Counted]], reference: Window, current: Window
    ) -> tuple[list[Part], dict[str, float]]:
        """All parts, judged together: which columns are discoveries depends on all."""
        metrics: dict[str, float] = {}
        kept: Calibration | None = None
        nulls: dict[str, calibration.Null] = {}
        judged: list[Part] = []
        if found:
            columns = {name: one.column for name, (_, one) in found.items()}
            try:
                kept, alone = self._calibration(columns, reference.rows, current.rows, stretches_of(current))
            except NotEnoughData as exc:
                few = [replace(part, outcome=Outcome.NOT_ENOUGH_DATA, reason=str(exc)) for part, _ in found.values()]
                return [*self._discovered(parts, {}), *few], metrics
            parts = [
                *parts,
                *(replace(found[name][0], outcome=Outcome.NOT_ENOUGH_DATA, reason=why) for name, why in alone.items()),
            ]
            found = {name: one for name, one in found.items() if name not in alone}
            for name, (part, one) in found.items():
                null = kept.null(name, part.n_reference, part.n_current)
                if null is None or not math.isfinite(one.value):
                    parts = [*parts, replace(part, outcome=Outcome.FAILED, reason="overflow")]
                    continue
                nulls[name] = null
                judged.append(replace(part, value=one.value, p_value=null.p_value(one.value)))
        texts = [part.p_value for part in parts if part.outcome is Outcome.OK and part.p_value is not None]
        p_values = {part.name: part.p_value for part in judged if part.p_value is not None}
        if kept is not None and p_values:
            # A text has a null of its own: it counts as one more column.
            smallest = min([*p_values.values(), *texts])
            together = kept.window_p_value({**p_values, min(p_values, key=lambda n: p_values[n]): smallest})
            floor = kept.window_p_value({name: null.floor for name, null in nulls.items()})
            of_rows = all(one.column.blocks is None for _, one in found.values())
            metrics = {
                "p_value": min(together + len(texts) * smallest, 1.0),
                "p_value_floor": min(floor, 1.0),
                "block_rows" if of_rows else "block_hours": kept.plan.block_rows,
                "resampled_rows" if of_rows else "resampled_hours": kept.plan.window_rows,
            }
        elif texts:
            metrics = {"p_value": min(len(texts) * min(texts), 1.0)}
        return self._discovered([*parts, *judged], nulls), metrics

    def _discovered(self, parts: list[Part], nulls: Mapping[str, calibration.Null]) -> list[Part]:
        """The parts that have a p-value, flagged where Benjamini and Hochberg's rule takes them."""
        p_values = [part.p_value for part in parts if part.outcome is Outcome.OK and part.p_value is not None]
        if not p_values:
            return parts
        cut = calibration.benjamini_hochberg(p_values, self.config.alpha)
        done = []
        for part in parts:
            if part.outcome is not Outcome.OK or part.p_value is None or part.value is None:
                done.append(part)
                continue
            least = self.config.feature_threshold if part.name not in self.config.methods else None
            threshold = nulls[part.name].quantile(cut) if part.name in nulls else part.threshold
            if threshold is not None:
                threshold = max(threshold, least or 0.0) if math.isfinite(threshold) else None
            flagged = part.p_value <= cut and (least is None or part.value >= least)
            done.append(replace(part, threshold=threshold, flagged=flagged))
        return done

    def _calibration(
        self, columns: Mapping[str, Column], rows: int, window_rows: int, hours: int | None
    ) -> tuple[Calibration, dict[str, str]]:
        """Of all columns together, and of each that cannot be calibrated beside the others the reason. `hours`: of the window.

        Raises:
            NotEnoughData: none can be.
        """
        c = self.config
        what = "rows"
        if blocks := [column.of_blocks for column in columns.values() if column.of_blocks is not None]:
            # As many hours as the window has: three of the night have the rows of one at noon, and their mean moves less. Where
            # that is not known, as many as have about its rows.
            held = max(one.whole.rows for one in blocks)
            alike = hours if hours is not None else round(window_rows * len(blocks[0].counts) / held)
            rows, window_rows, what = len(blocks[0].counts), max(alike, 1), "hours"
        else:
            window_rows = drawn_at(window_rows)
        lengths = dict.fromkeys(columns, c.block_rows) if c.block_rows is not None and not blocks else self._dependence(columns)
        alone: dict[str, str] = {}

        def planned(lengths: Collection[int | None]) -> Plan:
            longest = None if None in lengths else max(length for length in lengths if length is not None)
            return calibration.plan(rows, window_rows, longest, c.resamples, seed, what)

        seed = content_seed({name: np.array([column.seed]) for name, column in columns.items()})
        try:
            plan = planned(lengths.values())
        except NotEnoughData:
            # Together they are drawn in blocks as long as the longest memory asks for: one counter must not cost all others.
            for name in columns:
                try:
                    planned([lengths[name]])
                except NotEnoughData as exc:
                    alone[name] = str(exc) if lengths[name] == 1 or c.block_rows is not None else f"{exc}; {LONG_MEMORY}"
            columns = {name: column for name, column in columns.items() if name not in alone}
            if not columns:
                raise NotEnoughData(next(iter(alone.values()))) from None
            seed = content_seed({name: np.array([column.seed]) for name, column in columns.items()})
            plan = planned([lengths[name] for name in columns])
        methods = sorted((name, column.distance.__name__) for name, column in columns.items())
        points = [column.cells.points.tobytes() if column.cells.points is not None else b"" for column in columns.values()]
        about = hashlib.blake2b(repr((rows, methods, plan)).encode(errors="surrogatepass") + b"".join(points))
        if (kept := self._kept.pop(about.digest(), None)) is None:
            kept = Calibration(plan, columns)
        self._kept[about.digest()] = kept  # the last one asked for stays longest
        while len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept)), None)
        return kept, alone

    def _dependence(self, columns: Mapping[str, Column]) -> dict[str, int | None]:
        """By column. Kept beside the calibrations: it takes a Fourier transform of every column."""
        known = self._lengths
        found = {
            (name, column.seed): known[name, column.seed]
            if (name, column.seed) in known
            else calibration.dependence([column.signal])
            for name, column in columns.items()
        }
        self._lengths = {**(known if len(known) < KEPT * len(found) else {}), **found}
        return {name: length for (name, _), length in found.items()}


def reading_of(found: Compared, config: ColumnConfig, reference: Window, current: Window, **more: float) -> Reading:
    """What the setting `reading` asks for; `more` goes into its metrics.

    Raises:
        NotEvaluable: a p-value, where no column has one.
    """
    metrics = {**found.metrics, **more}
    first = found.parts[0]
    match config.reading:
        case "share":
            value, statistic = metrics["drifted_features"] / metrics["evaluated_features"], "share_of_drifted_features"
        case "value":
            assert first.value is not None
            value, statistic = first.value, first.statistic
        case "p_value":
            if "p_value" not in metrics:
                raise NotEvaluable("no_features", "no column has a p-value")
            value, statistic = metrics["p_value"], "p_value"
    return Reading(value, statistic, n_current=current.rows, n_reference=reference.rows, parts=found.parts, metrics=metrics)


def contribution(part: Part) -> float:
    """How far a part is beyond its threshold: 1 at the threshold, 0 for no difference, and -1 where it has no value."""
    if part.value is None:
        return -1.0
    if part.judges == "p_value" and part.p_value is not None and part.threshold is not None:
        return math.log(part.p_value) / math.log(part.threshold) if part.p_value > 0 else math.inf
    return part.value / part.threshold if part.threshold else 0.0


def rank(part: Part) -> tuple[bool, float, float, float, str]:
    """Sorts by evidence, the strongest first: the p-value that was calibrated, else the contribution; then by value."""
    calibrated = part.p_value if part.p_value is not None and part.judges == "value" else 0.0
    return part.outcome is not Outcome.OK, calibrated, -contribution(part), -(part.value or 0.0), part.name
