"""A window and its reference from counts, for checks whose detector needs no rows and whose windows have many.

The rows are read all the same where they are few, as they cost little then and are exact; and where a slice is told by a field
that has no column.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import reduce

from detectors.calibration import MIN_BLOCKS
from detectors.cells import NAMES
from detectors.contract import ColumnKind
from monitor import log, references
from monitor.config import Check, Reference
from monitor.reader import Reader
from monitor.references import References
from monitor.schema import FEATURE, quote
from monitor.seasons import Span
from monitor.slices import WHOLE, Slice, Slices, counted, fits
from monitor.summaries.basis import Basis, CategoryEdges, Edges
from monitor.summaries.counting import Sums, of_window
from monitor.summaries.frozen import Frozen
from monitor.summaries.ledger import HOUR, Ledger, whole_hours
from monitor.summaries.sums import Sum, total
from monitor.summaries.window import SummaryWindow
from monitor.traffic import Predictions
from monitor.windows import TableWindow

MOST_ROWS = 50_000
"""Of a window or a reference of earlier times; with more it is read from counts."""

MOST_REFERENCE_ROWS = 500_000
"""Of a fixed range; with more its counts are frozen, and not its rows."""

SAMPLE_ROWS = 100_000
"""About so many rows fix the edges, or stand for a reference that has too few hours to resample."""

OUTSIDE = 0.05
"""With more of a reference beyond its edges, or in no category of theirs, it gets new ones."""


class Counting:
    """Of one check."""

    def __init__(
        self,
        check: Check,
        traffic: Predictions,
        source: References,
        *,
        most_rows: int = MOST_ROWS,
        most_reference_rows: int = MOST_REFERENCE_ROWS,
    ) -> None:
        self.check = check
        self.traffic = traffic
        self.references = source
        self.shelf = source.shelf
        self._most_rows, self._most_reference_rows = most_rows, most_reference_rows
        self.fields = Slices(check.slices).fields
        self._basis: tuple[TableWindow, Basis] | None = None  # of the reference that stays the same
        self._fixed: Frozen | None = None

    def look(self, reader: Reader, start: datetime, end: datetime, features: Mapping[str, ColumnKind]) -> Pair | None:
        """Both sides of the window [start, end), or None where its rows are to be read.

        Raises:
            duckdb.Error: the store is away.
            NotEvaluable: no_reference.
        """
        reference = self.check.reference
        compared = self.traffic.compared(features)
        if reference is None or not compared:
            return None
        expressions = {name: quote(FEATURE + name) for name, kind in features.items() if kind == "category"}
        expressions["model_version"] = "model_version"
        if any(field not in expressions for field in self.fields):
            return None
        features = compared
        here = _Here(self, reader, features, expressions)
        if reference.reach:
            return self._of_earlier_times(here, reference, (start, end))
        if (frozen := self._frozen(here, reference, end - start)) is not None:
            assert reference.start is not None
            assert reference.end is not None
            return Pair(here, (start, end), frozen.basis, spans=[(reference.start, reference.end)], frozen=frozen)
        if here.rows([(start, end)]) <= self._most_rows:
            return None
        rows = self.references.get(reader, self.traffic, reference, features, start, end)
        if not rows.rows:
            return None
        if self._basis is None or self._basis[0] is not rows:
            self._basis = rows, Basis.of(rows, features)
        return Pair(here, (start, end), self._basis[1], rows=rows)

    def _frozen(self, here: _Here, reference: Reference, window: timedelta) -> Frozen | None:
        """The counts of a fixed range that has too many rows to be kept as they are; None for another."""
        if self._fixed is not None or reference.start is None or reference.end is None:
            return self._fixed
        path = self.references.place(self.traffic, reference)
        if (found := Frozen.open(path)) is None:
            hours = (reference.end - reference.start) // HOUR
            if path.exists() or not _enough(hours, window):
                return None
            span = reference.start, reference.end
            if here.rows([span]) <= self._most_reference_rows:
                return None
            found = Frozen.make(path, Basis.of(here.sample([span]), here.features))
        self._fixed = found
        return found

    def _of_earlier_times(self, here: _Here, reference: Reference, window: Span) -> Pair | None:
        spans = references.spans(reference, *window)
        key = hashlib.sha256(repr((self.traffic.identity, reference.trailing, reference.seasonal)).encode()).hexdigest()[:16]
        basis = self.shelf.basis(self.traffic.model, key)
        name = references.title(reference, window[0])
        if basis is None and here.rows(spans) <= self._most_rows:
            return None
        hours = sum(whole_hours(span) for span in spans)
        by_hours = _enough(hours, window[1] - window[0])
        if by_hours and basis is not None:
            pair = Pair(here, window, basis, spans=spans, name=f"{name}, counts on {basis.hash}")
            if pair.fits_edges:
                return pair
        sample = here.sample(spans)
        if basis is None or by_hours or not within_edges(of_window(sample, basis), basis, here.features):
            basis = Basis.of(sample, here.features)
            log.info("edges fixed for summaries", check=self.check.name, model=self.traffic.model, edges=basis.hash)
            self.shelf.fix(self.traffic.model, key, basis)
        if by_hours:
            return Pair(here, window, basis, spans=spans, name=f"{name}, counts on {basis.hash}")
        return Pair(here, window, basis, rows=replace(sample, name=f"{name}, a sample, counts on {basis.hash}"))


class _Here:
    """The store as one reader sees it, for one check."""

    def __init__(
        self, counting: Counting, reader: Reader, features: Mapping[str, ColumnKind], expressions: Mapping[str, str]
    ) -> None:
        self.counting = counting
        self.reader = reader
        self.features = features
        self.expressions = expressions
        self.model = counting.traffic.model

    def rows(self, spans: Sequence[Span]) -> int:
        return sum(self._one(f"SELECT count(*) FROM {self._source(span)} WHERE {WITHIN}", span) for span in spans)

    def sample(self, spans: Sequence[Span]) -> TableWindow:
        """About `SAMPLE_ROWS` rows in the order of their time, always the same of the same rows."""
        every = max(self.rows(spans) // SAMPLE_ROWS, 1)
        columns = ", ".join(
            f"{self.expressions.get(name, quote(FEATURE + name))} AS {quote(name)}" for name in (*self.features, *self._also)
        )
        parts = [
            self.reader.table(
                f"SELECT {columns} FROM {self._source(span)} WHERE {WITHIN} AND seq % ? = 0 ORDER BY event_time, seq",
                [*span, every],
            )
            for span in spans
        ]
        return reduce(TableWindow.followed_by, (TableWindow(part, self.features) for part in parts))

    def between(self, spans: Sequence[Span]) -> TableWindow:
        """All rows, of a detector that asks for some although it need not."""
        traffic = self.counting.traffic
        parts = [traffic.between(self.reader, *span, self.features) for span in spans]
        return reduce(TableWindow.followed_by, parts)

    def counts(self, field: str, spans: Sequence[Span]) -> Counter[str]:
        found: Counter[str] = Counter()
        for span in spans:
            rows = self.reader.query(
                f"SELECT {self.expressions[field]} AS value, count(*) AS n FROM {self._source(span)} WHERE {WITHIN} GROUP BY ALL",
                span,
            )
            found += Counter({row["value"]: row["n"] for row in rows if fits(row["value"])})
        return found

    def ledger(self, basis: Basis, part: Slice) -> Ledger:
        return self.counting.shelf.ledger(self.model, basis, part.sql(self.expressions.__getitem__))

    @property
    def _also(self) -> list[str]:
        """Fields that tell slices apart and are no feature."""
        return sorted(self.counting.fields - self.features.keys())

    def _source(self, span: Span) -> str:
        return self.reader.source("predictions", self.model, since=span[0], until=span[1])

    def _one(self, sql: str, params: Sequence[object]) -> int:
        return int(self.reader.query(sql, params)[0]["count_star()"])


WITHIN = "event_time >= ? AND event_time < ?"


class Pair:
    """Both sides, by slice. The reference is `rows`, or the counts of `spans`, or those that were `frozen`."""

    def __init__(
        self,
        here: _Here,
        window: Span,
        basis: Basis,
        *,
        rows: TableWindow | None = None,
        spans: Sequence[Span] = (),
        frozen: Frozen | None = None,
        name: str = "",
    ) -> None:
        self._here = here
        self._window = window
        self._basis = basis
        self._rows = rows
        self._spans = spans
        self._frozen = frozen
        self._known: dict[str, Sums] = {}
        self.name = rows.name if rows is not None else name

    @property
    def rows(self) -> TableWindow | None:
        return self._rows

    def counts(self, field: str) -> Counter[str]:
        return self._here.counts(field, [self._window])

    def reference_counts(self, field: str) -> Counter[str]:
        return counted(self._rows.table, field) if self._rows is not None else self._here.counts(field, self._spans)

    def samples(self) -> tuple[TableWindow, TableWindow]:
        """Rows of the reference and of the window, not too many, for whoever looks closer."""
        reference = self._rows if self._rows is not None else replace(self._here.sample(self._spans), name=self.name)
        return reference, self._here.sample([self._window])

    def current(self, part: Slice) -> SummaryWindow:
        here, ledger = self._here, self._here.ledger(self._basis, part)
        sums = ledger.window(here.reader, *self._window)
        return SummaryWindow(
            sums, self._basis, here.features, rows=lambda: part.of(here.between([self._window])), hours=self._hours
        )

    @property
    def _hours(self) -> int:
        """Of the window, an hour for a part of one."""
        return max(round((self._window[1] - self._window[0]) / HOUR), 1)

    def reference(self, part: Slice) -> SummaryWindow:
        """Of counts; where there are rows, they are the reference."""
        here, ledger = self._here, self._here.ledger(self._basis, part)
        if self._frozen is not None:
            (span,) = self._spans
            sums, blocks, self.name = self._frozen.counts(ledger.where, lambda: ledger.cut(here.reader, *span))
        else:
            sums = self._sums(part)
            blocks = ledger.blocks(here.reader, self._spans, MIN_BLOCKS * self._hours)
        # A feature that came after the edges were frozen is not in the reference; nobody reads all its rows to find that out.
        known = {name: kind for name, kind in here.features.items() if name in self._basis.columns}
        return SummaryWindow(
            sums, self._basis, known,
            rows=lambda: part.of(here.between(self._spans)), blocks=blocks, name=self.name,
        )  # fmt: skip

    @property
    def fits_edges(self) -> bool:
        return within_edges(self._sums(WHOLE), self._basis, self._here.features)

    def _sums(self, part: Slice) -> Sums:
        """Of the reference."""
        if part.name not in self._known:
            ledger = self._here.ledger(self._basis, part)
            found = [ledger.window(self._here.reader, *span) for span in self._spans]
            sums = {name: total([one[name] for one in found], edges) for name, edges in self._basis.columns.items()}
            self._known[part.name] = sums
        return self._known[part.name]


def _enough(hours: int, window: timedelta) -> bool:
    """Hours that could be calibrated by, if they do not depend on each other; whether they do, the calibration will find."""
    return hours >= max(MIN_BLOCKS, 2 * round(window / HOUR))


def within_edges(sums: Sums, basis: Basis, features: Mapping[str, ColumnKind]) -> bool:
    """Whether nearly all values lie within the edges, and each feature has some of its kind."""
    return all(name in basis.columns and _inside(sums[name], basis.columns[name], kind) for name, kind in features.items())


def _inside(one: Sum, edges: Edges, kind: ColumnKind) -> bool:
    count = int(one.counts.sum())
    if isinstance(edges, CategoryEdges):
        return kind == "category" and (one.counts[-1] <= OUTSIDE * count or len(edges.names) >= NAMES)
    few = len(edges.points) > 0 and one.counts[0] + one.counts[-1] <= OUTSIDE * count
    return kind == "number" and (count == 0 or few)
