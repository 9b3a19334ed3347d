"""One reading of one window: fetch the rows, ask the detector, and say how it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Protocol

import duckdb
import orjson

from detectors import registry
from detectors.contract import ColumnKind, NotEvaluable, Outcome, Part, Reading, WindowDetector, settings_hash
from detectors.intervals import wilson
from monitor import answers, helpers, windows
from monitor.child import Child
from monitor.config import Check, ModelConfig
from monitor.errors import ChildFailed, StoreUnavailable
from monitor.helpers import CompareAnswer, CompareRequest
from monitor.reader import Reader, literal
from monitor.references import References
from monitor.rowchecks import RowCheck
from monitor.schema import quote
from monitor.slices import Slice, counted, fits
from monitor.summaries.pair import Counting, Pair
from monitor.summaries.window import SummaryWindow
from monitor.traffic import Make, Predictions

WORKER_SECONDS = 300.0
AnyWindow = windows.TableWindow | SummaryWindow


@dataclass(frozen=True, slots=True)
class Measured:
    """A reading with its outcome, as stored. `reading` is there exactly when the outcome is ok. `reference` says what the window
    was compared with, `empty` that it has no row at all."""

    outcome: Outcome
    reason: str | None = None
    reading: Reading | None = None
    n_current: int = 0
    n_reference: int = 0
    reference: str | None = None
    empty: bool = False

    def columns(self) -> dict[str, Any]:
        """The part of a row of `readings` that does not depend on when it was computed."""
        r = self.reading
        return {
            "outcome": self.outcome.value,
            "reason": self.reason,
            "statistic": r.statistic if r else None,
            "value": r.value if r else None,
            "lower": r.lower if r else None,
            "upper": r.upper if r else None,
            "n_current": r.n_current if r else self.n_current,
            "n_reference": r.n_reference if r else self.n_reference,
            "metrics": dict(r.metrics) if r else {},
            "parts": [asdict(p) for p in r.parts] if r else [],
            "reference": self.reference,
        }


class Meter:
    """Measures windows for one check."""

    def __init__(self, check: Check, model: ModelConfig, references: References, worker: Child, traffic: Make) -> None:
        """`traffic` is made for window detectors: the rows that they read."""
        self.check = check
        self._model = model
        self._detectors: dict[str, WindowDetector] = {}
        self._apart: dict[str, WindowDetector] = {}
        self._parts: dict[str, tuple[object, windows.TableWindow]] = {}
        self._references = references
        self._worker = worker
        detector = registry.load(check.detector)
        self.detector_name = detector.name
        self.detector_version = detector.version
        self.row: RowCheck | None = None
        self.detector: WindowDetector | None = None
        self._counting: Counting | None = None
        if registry.is_row(detector):
            self.row = RowCheck(check.detector, check.settings)
            self.settings_hash = self.row.hash
            self.worse = detector.worse
            self.isolated = False
        else:
            assert registry.is_window(detector)
            self.settings_hash = settings_hash(detector, check.settings)
            self.detector = detector(check.settings)  # type: ignore[call-arg]
            self.worse = self.detector.worse
            self._traffic = traffic(check, self.detector)
            if getattr(self.detector, "summaries", False) and isinstance(self._traffic, Predictions) and not check.columns:
                self._counting = Counting(check, self._traffic, references)
            self.isolated = bool(getattr(detector, "isolated", False))

    @property
    def kinds(self) -> list[str]:
        """The logs whose rows change a reading."""
        return ["scores"] if self.row is not None else list(self._traffic.kinds)

    @property
    def declared(self) -> tuple[tuple[str, ColumnKind], ...] | None:
        """The features that the config names, by name; None where it leaves them open."""
        return None if self._model.features is None else tuple(sorted(self._model.features.items()))

    @property
    def hashes(self) -> tuple[str, ...]:
        """Settings hashes of the scores that it reads."""
        return (self.row.hash,) if self.row is not None else self._traffic.hashes

    def look(
        self, reader: Reader, slot: datetime, features: Mapping[str, ColumnKind], reference: windows.TableWindow | None = None
    ) -> Look:
        """The rows of the window that ends at `slot`, read once for all slices. `reference` stands in for the check's own.

        Raises:
            ChildFailed, StoreUnavailable, duckdb.Error: what they come from is away; the window has not been read.
        """
        start = slot - timedelta(seconds=self.check.window_seconds)
        if self.row is not None:
            return Flagged(self.check, self.row, reader, start, slot)
        features = self._declared(features)
        try:
            with reader.whole():
                if reference is None and self._counting is not None:
                    pair = self._counting.look(reader, start, slot, features)
                    if pair is not None:
                        return ByCounts(self, reader, pair)
                current = self._traffic.between(reader, start, slot, features)
        except NotEvaluable as exc:
            return Unreadable(exc)
        return Rows(self, current, lambda: reference or self._reference(reader, features, start, slot))

    def without(
        self, reader: Reader, span: tuple[datetime, datetime], hole: tuple[datetime, datetime], features: Mapping[str, ColumnKind]
    ) -> windows.TableWindow:
        """The rows of a time less those of a part of it."""
        features = self._declared(features)
        sides = ((span[0], hole[0]), (hole[1], span[1]))
        before, after = (self._traffic.between(reader, start, end, features) for start, end in sides)
        return before.followed_by(after)

    def part_of(self, window: windows.TableWindow, part: Slice, *, keep: bool = False) -> windows.TableWindow:
        """The rows of a slice, without the columns that only told which they are. `keep`: it will be asked for again."""
        if keep and (kept := self._parts.get(part.name)) is not None and kept[0] is window.table:
            return kept[1]
        found = part.of(window).without(self._traffic.added)
        if keep:
            self._parts[part.name] = (window.table, found)
        return found

    def compare(self, part: Slice, reference: AnyWindow | None, current: AnyWindow, *, apart: bool) -> CompareAnswer:
        """`apart`: with a detector that shares nothing with that of the check's own windows, which may remember references."""
        assert self.detector is not None
        if not self.isolated:
            known = self._apart if apart else self._detectors
            if part.name not in known:
                known[part.name] = self._make()
            return helpers.compare(known[part.name], reference, current)
        spec = helpers.DetectorSpec(self.check.detector, self.check.settings.model_dump_json())
        assert not isinstance(reference, SummaryWindow)
        assert not isinstance(current, SummaryWindow)
        request = CompareRequest(spec, reference.frame() if reference else None, current.frame())
        # A detector with a limit of its own is called off by the worker; this is for one that does not listen.
        answer: CompareAnswer = self._worker.call(request, WORKER_SECONDS + getattr(self.detector, "timeout_seconds", 0))
        return answer

    def let_go(self) -> None:
        """Of the detectors that were apart."""
        self._apart.clear()

    def _make(self) -> WindowDetector:
        detector = registry.load(self.check.detector)
        assert registry.is_window(detector)
        return detector(self.check.settings)  # type: ignore[call-arg]

    def _declared(self, features: Mapping[str, ColumnKind]) -> Mapping[str, ColumnKind]:
        declared = self._model.features
        return features if declared is None else {f: k for f, k in features.items() if f in declared}  # others have no column

    def _reference(
        self, reader: Reader, features: Mapping[str, ColumnKind], start: datetime, end: datetime
    ) -> windows.TableWindow | None:
        if self.check.reference is None:
            return None
        try:
            with reader.whole():
                return self._references.get(reader, self._traffic, self.check.reference, features, start, end)
        except duckdb.Error as exc:
            raise StoreUnavailable(f"the reference could not be read: {exc}") from exc


class Look(Protocol):
    """One window, as it is now."""

    def counts(self, field: str) -> Counter[str]:
        """How often each value of a field is there."""
        ...

    def reference_counts(self, field: str) -> Counter[str]:
        """The same of the reference; nothing where there is none."""
        ...

    def measure(self, part: Slice, *, apart: bool = False) -> Measured:
        """The reading of a slice of it. What the data or the detector does is an outcome.

        Raises:
            ChildFailed, StoreUnavailable, duckdb.Error: the worker died or the store is away; the window has not been read.
        """
        ...


class Unreadable:
    """A window of which some rows cannot be read."""

    def __init__(self, why: NotEvaluable) -> None:
        self._measured = Measured(Outcome.NOT_EVALUABLE, str(why))

    def counts(self, field: str) -> Counter[str]:
        return Counter()

    def reference_counts(self, field: str) -> Counter[str]:
        return Counter()

    def measure(self, part: Slice, *, apart: bool = False) -> Measured:
        return self._measured


class Rows:
    """For window detectors."""

    def __init__(self, meter: Meter, current: windows.TableWindow, reference: Callable[[], windows.TableWindow | None]) -> None:
        self._meter = meter
        self._current = current
        self._get = reference

    @cached_property
    def _reference(self) -> windows.TableWindow | None:
        return self._get()

    def counts(self, field: str) -> Counter[str]:
        return counted(self._current.table, field)

    def reference_counts(self, field: str) -> Counter[str]:
        try:
            return Counter() if self._reference is None else counted(self._reference.table, field)
        except NotEvaluable:  # it is gone, which the reading will say
            return Counter()

    def measure(self, part: Slice, *, apart: bool = False) -> Measured:
        meter = self._meter
        current = self._now(part)
        n = current.rows
        if n < meter.check.min_records:
            why = f"{n} records, min_records is {meter.check.min_records}"
            return Measured(Outcome.NOT_ENOUGH_DATA, why, n_current=n, empty=not n)
        try:
            # Of one that stays the same from slot to slot the part is kept.
            reference, name = self._before(part, keep=not apart)
            if reference is not None and not reference.rows:
                raise NotEvaluable("no_reference", "it has no rows yet")
            answer = meter.compare(part, reference, current, apart=apart)
            reading = answer.reading and _plain(answer.reading)
        except NotEvaluable as exc:
            return Measured(Outcome.NOT_EVALUABLE, str(exc), n_current=n)
        except (ChildFailed, StoreUnavailable):
            raise
        except (Exception, SystemExit) as exc:  # a detector's fault is an outcome of its check alone
            return Measured(Outcome.FAILED, f"{type(exc).__name__}: {str(exc)[-500:]}", n_current=n)
        n_reference = reference.rows if reference else 0
        return Measured(answer.outcome, answer.reason, reading, n_current=n, n_reference=n_reference, reference=name)

    def _now(self, part: Slice) -> AnyWindow:
        return self._meter.part_of(self._current, part)

    def _before(self, part: Slice, *, keep: bool) -> tuple[AnyWindow | None, str | None]:
        """The reference of a slice, and what it is called."""
        whole = self._reference
        return (None, None) if whole is None else (self._meter.part_of(whole, part, keep=keep), whole.name or None)

    def sides(self, part: Slice) -> tuple[windows.TableWindow | None, windows.TableWindow]:
        """The reference's rows and the window's, for whoever looks closer."""
        whole = self._reference
        return (None if whole is None else self._meter.part_of(whole, part)), self._meter.part_of(self._current, part)


class ByCounts(Rows):
    """The same from summaries, where there are many rows."""

    def __init__(self, meter: Meter, reader: Reader, pair: Pair) -> None:
        self._meter = meter
        self._reader = reader
        self._pair = pair

    def counts(self, field: str) -> Counter[str]:
        return self._pair.counts(field)

    def reference_counts(self, field: str) -> Counter[str]:
        return self._pair.reference_counts(field)

    def measure(self, part: Slice, *, apart: bool = False) -> Measured:
        try:
            with self._reader.whole():
                return super().measure(part, apart=apart)
        except NotEvaluable as exc:
            return Measured(Outcome.NOT_EVALUABLE, str(exc))

    def _now(self, part: Slice) -> AnyWindow:
        try:
            return self._pair.current(part)
        except OSError as exc:
            raise StoreUnavailable(f"the summaries could not be kept: {exc}") from exc

    def _before(self, part: Slice, *, keep: bool) -> tuple[AnyWindow | None, str | None]:
        if self._pair.rows is not None:
            return self._meter.part_of(self._pair.rows, part, keep=keep), self._pair.name
        try:
            return self._pair.reference(part), self._pair.name
        except (duckdb.Error, OSError) as exc:
            raise StoreUnavailable(f"the summaries of the reference could not be read: {exc}") from exc

    def sides(self, part: Slice) -> tuple[windows.TableWindow | None, windows.TableWindow]:
        reference, current = self._pair.samples()
        return self._meter.part_of(reference, part), self._meter.part_of(current, part)


class Flagged:
    """For row detectors: the share of the scored records that are flagged, with Wilson's interval. Of each record the latest
    input counts. A score that may not alert (`flagged` is null) counts as none."""

    def __init__(self, check: Check, row: RowCheck, reader: Reader, start: datetime, end: datetime) -> None:
        self._check = check
        self._row = row
        self._reader = reader
        self._span = start, end

    def _scores(self, part: Slice) -> str:
        """SQL of the scores of a slice, one a record; $1 and $2 are the window."""
        start, end = self._span
        rows = self._reader.source("scores", self._check.model, since=start, until=end)
        belongs = ""
        if part.where:
            fields = {condition.field for condition in part.where}
            generations = answers.told_apart(self._reader, self._check.model, start, end, sorted(fields))
            belongs = f"AND record_id IN (SELECT record_id FROM {generations} WHERE {part.sql(quote)})"
        return (
            f"SELECT record_id, CASE WHEN flagged IS NOT NULL THEN value END AS value FROM {rows} "
            f"WHERE settings_hash = {literal(self._row.hash)} AND event_time >= $1 AND event_time < $2 {belongs} "
            "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1"
        )

    def counts(self, field: str) -> Counter[str]:
        start, end = self._span
        generations = answers.told_apart(self._reader, self._check.model, start, end, [field])
        found = self._reader.query(f"SELECT {quote(field)} AS value, count(*) AS n FROM {generations} GROUP BY ALL", [start, end])
        return Counter({row["value"]: row["n"] for row in found if fits(row["value"])})

    def reference_counts(self, field: str) -> Counter[str]:
        return Counter()

    def measure(self, part: Slice, *, apart: bool = False) -> Measured:
        try:
            with self._reader.whole():
                # An answer that cannot be read has no score, and its window no number.
                self._reader.source("generations", self._check.model, since=self._span[0], until=self._span[1])
                return self._share(part)
        except NotEvaluable as exc:
            return Measured(Outcome.NOT_EVALUABLE, str(exc))

    def _share(self, part: Slice) -> Measured:
        check, row = self._check, self._row
        flag = check.flag if check.flag is not None else row.flag
        comparison = "<=" if row.worse == "lower" else ">="
        found = self._reader.query(
            f"SELECT count(value) AS n, count(*) FILTER (value {comparison} $3) AS flagged, "
            # In one order: a sum of floats depends on it, and equal records must give an equal reading wherever they lie.
            f"avg(value ORDER BY record_id) AS mean, count(*) AS total FROM ({self._scores(part)})",
            [*self._span, flag],
        )[0]
        n = found["n"]
        if n < check.min_records:
            why = f"{n} scores, min_records is {check.min_records}"
            return Measured(Outcome.NOT_ENOUGH_DATA, why, n_current=n, empty=not found["total"])
        lower, upper = wilson(found["flagged"], n)
        metrics = {
            "flagged_ratio": found["flagged"] / n,
            "mean_score": found["mean"],
            "evaluated_ratio": n / found["total"],
        }
        reading = Reading(found["flagged"] / n, "flagged_ratio", n_current=n, lower=lower, upper=upper, metrics=metrics)
        return Measured(Outcome.OK, reading=reading, n_current=n)


def parts_from(stored: list[dict[str, Any]]) -> tuple[Part, ...]:
    return tuple(Part(**{**p, "outcome": Outcome(p["outcome"])}) for p in stored)


def _plain(reading: Reading) -> Reading:
    """The same in Python's own numbers, equal to what will be read back from the store.

    Raises:
        TypeError: it holds what cannot be stored.
    """
    stored = orjson.loads(orjson.dumps([dict(reading.metrics), list(reading.parts)], option=orjson.OPT_SERIALIZE_NUMPY))
    return replace(
        reading,
        value=float(reading.value),
        lower=None if reading.lower is None else float(reading.lower),
        upper=None if reading.upper is None else float(reading.upper),
        n_current=int(reading.n_current),
        n_reference=int(reading.n_reference),
        metrics=stored[0],
        parts=parts_from(stored[1]),
    )
