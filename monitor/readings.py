"""One reading of one window: fetch the rows, ask the detector, and say how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import duckdb
import orjson

from detectors import registry
from detectors.contract import ColumnKind, NotEvaluable, Outcome, Part, Reading, WindowDetector, settings_hash
from detectors.intervals import wilson
from monitor import helpers, windows
from monitor.child import Child
from monitor.config import Check, ModelConfig
from monitor.errors import ChildFailed, StoreUnavailable
from monitor.helpers import CompareAnswer, CompareRequest
from monitor.reader import Reader
from monitor.references import References
from monitor.scoring import RowCheck
from monitor.traffic import Make

WORKER_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A reading with its outcome, as stored. `reading` is there exactly when the outcome is ok."""

    outcome: Outcome
    reason: str | None = None
    reading: Reading | None = None
    n_current: int = 0
    n_reference: int = 0

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
        }


class Meter:
    """Measures windows for one check."""

    def __init__(self, check: Check, model: ModelConfig, references: References, worker: Child, traffic: Make) -> None:
        """`traffic` is made for window detectors: the rows that they read."""
        self.check = check
        self._model = model
        self._references = references
        self._worker = worker
        detector = registry.load(check.detector)
        self.detector_name = detector.name
        self.detector_version = detector.version
        self.row: RowCheck | None = None
        self.detector: WindowDetector | None = None
        if registry.is_row(detector):
            self.row = RowCheck(check.detector, check.settings)
            self.settings_hash = self.row.hash
            self.worse = detector.worse
        else:
            assert registry.is_window(detector)
            self.settings_hash = settings_hash(detector, check.settings)
            self.detector = detector(check.settings)  # type: ignore[call-arg]
            self.worse = self.detector.worse
            self._traffic = traffic(check, self.detector)
            self.isolated = bool(getattr(detector, "isolated", False))

    @property
    def kinds(self) -> list[str]:
        """The logs whose rows change a reading."""
        return ["scores"] if self.row is not None else list(self._traffic.kinds)

    @property
    def hashes(self) -> tuple[str, ...]:
        """Settings hashes of the scores that it reads."""
        return (self.row.hash,) if self.row is not None else self._traffic.hashes

    def measure(self, reader: Reader, slot: datetime, features: Mapping[str, ColumnKind]) -> Measured:
        """The reading of the window that ends at `slot`. What the data or the detector does is an outcome.

        Raises:
            ChildFailed, StoreUnavailable, duckdb.Error: the worker died or the store is away; the window has not been read.
        """
        start = slot - timedelta(seconds=self.check.window_seconds)
        if self.row is not None:
            return self._share_flagged(reader, self.row, start, slot)
        assert self.detector is not None
        if (declared := self._model.features) is not None:
            features = {f: k for f, k in features.items() if f in declared}  # one that never came has no column
        current = self._traffic.between(reader, start, slot, features)
        n = current.rows
        if n < self.check.min_records:
            return Measured(Outcome.NOT_ENOUGH_DATA, f"{n} records, min_records is {self.check.min_records}", n_current=n)
        try:
            reference = self._reference(reader, features, start)
            answer = self._compare(reference, current)
            reading = answer.reading and _plain(answer.reading)
        except NotEvaluable as exc:
            return Measured(Outcome.NOT_EVALUABLE, str(exc), n_current=n)
        except (ChildFailed, StoreUnavailable):
            raise
        except (Exception, SystemExit) as exc:  # a detector's fault is an outcome of its check alone
            return Measured(Outcome.FAILED, f"{type(exc).__name__}: {str(exc)[-500:]}", n_current=n)
        n_reference = reference.rows if reference else 0
        return Measured(answer.outcome, answer.reason, reading, n_current=n, n_reference=n_reference)

    def _reference(
        self, reader: Reader, features: Mapping[str, ColumnKind], window_start: datetime
    ) -> windows.TableWindow | None:
        if self.check.reference is None:
            return None
        assert self.detector is not None
        try:
            found = self._references.get(reader, self._traffic, self.check.reference, features, window_start)
        except duckdb.Error as exc:
            raise StoreUnavailable(f"the reference could not be read: {exc}") from exc
        if not found.rows:
            raise NotEvaluable("no_reference", "it has no rows yet")
        return found

    def _compare(self, reference: windows.TableWindow | None, current: windows.TableWindow) -> CompareAnswer:
        assert self.detector is not None
        if not self.isolated:
            return helpers.compare(self.detector, reference, current)
        spec = helpers.DetectorSpec(self.check.detector, self.check.settings.model_dump_json())
        request = CompareRequest(spec, reference.frame() if reference else None, current.frame())
        answer: CompareAnswer = self._worker.call(request, WORKER_SECONDS)
        return answer

    def _share_flagged(self, reader: Reader, row: RowCheck, start: datetime, end: datetime) -> Measured:
        """Share of the scored records that are flagged, with Wilson's interval. Of each record the latest input counts."""
        flag = self.check.flag if self.check.flag is not None else row.flag
        comparison = "<=" if row.worse == "lower" else ">="
        found = reader.query(
            f"SELECT count(*) FILTER (outcome = 'ok') AS n, count(*) FILTER (value {comparison} ?) AS flagged, "
            # In one order: a sum of floats depends on it, and equal records must give an equal reading wherever they lie.
            "avg(value ORDER BY record_id) AS mean, count(*) AS total FROM ("
            f"SELECT record_id, outcome, value FROM {reader.source('scores', self._model.name, since=start, until=end)} "
            "WHERE settings_hash = ? AND event_time >= ? AND event_time < ? "
            "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1)",
            [flag, row.hash, start, end],
        )[0]
        n = found["n"]
        if n < self.check.min_records:
            return Measured(Outcome.NOT_ENOUGH_DATA, f"{n} scores, min_records is {self.check.min_records}", n_current=n)
        lower, upper = wilson(found["flagged"], n)
        metrics = {
            "flagged_ratio": found["flagged"] / n,
            "mean_score": found["mean"],
            "evaluated_ratio": n / found["total"],
        }
        reading = Reading(found["flagged"] / n, "flagged_ratio", n_current=n, lower=lower, upper=upper, metrics=metrics)
        return Measured(Outcome.OK, reading=reading)


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
