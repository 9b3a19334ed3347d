"""What a check reads on the windows of a time that was good: from them its threshold is learned, once.

They are whole windows of the check's own length that share no rows, at its own slots; of more than `MOST_WINDOWS` as many, evenly
spread. Where the check compares with a fixed reference and learns from that same range, a window must not stand in what it is
compared with: the windows are cut into `RUNS` runs in time, and those of a run are compared with the reference without it. That
also leaves the neighbours out, which are like it; a window of tomorrow has none in the reference either.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from detectors.contract import ColumnKind, NotEvaluable, Outcome
from monitor.clock import EPOCH
from monitor.config import Check
from monitor.reader import Reader
from monitor.readings import Measured, Meter
from monitor.slices import Slice
from monitor.thresholds import Learned

UNAVAILABLE = "rows_unavailable"
MOST_WINDOWS = 300
RUNS = 5


class Baseline:
    """Of one check. What was measured stays until all is, so that it may be done a piece at a time."""

    def __init__(self, check: Check, meter: Meter) -> None:
        self._check = check
        self._meter = meter
        self._found: dict[tuple[str, datetime], Measured] = {}
        self.span = check.baseline

    def definition(self, part: Slice) -> str:
        """Sixteen hex digits: equal ones learn the same from the same rows."""
        check, meter = self._check, self._meter
        about = (
            meter.detector_name, meter.settings_hash, check.flag, check.every, check.window_seconds, check.min_records,
            check.reference, sorted(check.columns.items()), self.span, part.where, RUNS, MOST_WINDOWS, meter.declared,
        )  # fmt: skip
        return hashlib.sha256(repr(about).encode(errors="surrogatepass")).hexdigest()[:16]

    @property
    def slots(self) -> list[datetime]:
        """The ends of its windows."""
        assert self.span is not None
        start, end = self.span
        every, window = timedelta(seconds=self._check.every), timedelta(seconds=self._check.window_seconds)
        first = EPOCH + math.ceil((start + window - EPOCH) / every) * every
        step = math.ceil(window / every) * every
        count = max((end - first) // step + 1, 0)
        chosen = range(count) if count <= MOST_WINDOWS else (i * count // MOST_WINDOWS for i in range(MOST_WINDOWS))
        return [first + i * step for i in chosen]

    def learn(
        self, reader: Reader, parts: Sequence[Slice], features: Mapping[str, ColumnKind], on: Callable[[], bool]
    ) -> dict[str, Learned] | None:
        """What is learned, by slice; None where `on` has called it off: ask again, it goes on from there.

        Raises:
            ChildFailed, StoreUnavailable, duckdb.Error: as `Meter.look`.
        """
        slots = self.slots
        held_out = self._check.reference is not None and self._check.reference.start is not None
        if held_out:
            assert self._check.reference is not None
            held_out = self.span == (self._check.reference.start, self._check.reference.end)
        size = math.ceil(len(slots) / RUNS) if held_out else max(len(slots), 1)
        for first in range(0, len(slots), size):
            run = slots[first : first + size]
            missing = [slot for slot in run if any((part.name, slot) not in self._found for part in parts)]
            if not missing:
                continue
            reference = None
            if held_out:
                assert self.span is not None
                hole = run[0] - timedelta(seconds=self._check.window_seconds), run[-1]
                try:
                    with reader.whole():
                        reference = self._meter.without(reader, self.span, hole, features)
                except NotEvaluable as exc:
                    gone = Measured(Outcome.NOT_EVALUABLE, str(exc))
                    self._found |= {(part.name, slot): gone for part in parts for slot in missing}
                    continue
            for slot in missing:
                if not on():
                    return None
                look = self._meter.look(reader, slot, features, reference)
                for part in parts:
                    if (part.name, slot) not in self._found:
                        self._found[part.name, slot] = look.measure(part, apart=True)
        learned = {part.name: self._learned([self._found.pop((part.name, slot)) for slot in slots]) for part in parts}
        self._meter.let_go()
        return learned

    def _learned(self, measured: Sequence[Measured]) -> Learned:
        readings = [m.reading for m in measured if m.outcome is Outcome.OK and m.reading is not None]
        values = tuple(r.value for r in readings)
        reason = None
        # What is learned is kept for good, so it is not learned of a part.
        if (away := next((m.reason for m in measured if m.reason and m.reason.startswith(UNAVAILABLE)), None)) is not None:
            return Learned(values, reason=away)
        if not readings:
            worst = next((f"{m.outcome.value}: {m.reason}" for m in reversed(measured)), "it has no whole window")
            reason = f"none of {len(measured)} windows of the baseline gave a reading; the last was {worst}"
        if readings and all("p_value" in r.metrics for r in readings):
            floor = max(r.metrics.get("p_value_floor", 0.0) for r in readings)
            return Learned(values, tuple(r.metrics["p_value"] for r in readings), floor)
        return Learned(values, reason=reason)
