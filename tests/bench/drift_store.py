"""Drift from summaries, in a process of its own: `python -m tests.bench.drift_store WHAT FOLDER ROWS [REFERENCE CURRENT]`.

The store's rows lie as in the daemon: in its table, or in sealed segments. Prints one line of JSON.

    windows      a window against a reference of its size, both counted for the first time; ROWS resamples
    segments     a window of ROWS rows in sealed segments, against a tenth of them
    hour-30      a new hour of ROWS rows in a window of 30 days, or of 90 with `hour-90`
    calibration  1,000 joint resamples of 25 features
    exact        policy evidently, both in sealed segments, the reference frozen on first use
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from detectors import cells
from detectors.calibration import Calibration, Column, plan
from detectors.cells import Cells
from detectors.contract import ColumnKind
from detectors.data_drift import DataDrift
from monitor.child import Child
from monitor.config import Check, ModelConfig
from monitor.reader import Reader, literal
from monitor.readings import Meter
from monitor.references import References
from monitor.schema import FEATURE
from monitor.slices import WHOLE
from monitor.summaries.basis import Basis
from monitor.summaries.counting import Sums, count
from monitor.summaries.dayfile import DayFile
from monitor.summaries.ledger import READ_TO, Ledger
from monitor.summaries.pair import Counting
from monitor.summaries.sums import Sum
from monitor.traffic import Predictions, maker
from tests.bench.drift_side import forget_peak, memory, peak, processor

MODEL = "bench"
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
BEFORE = 10 * DAY  # of the reference
SEGMENT_ROWS = 500_000


class Rows:
    """A database like the store's, with rows of the columns of a frame."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.connection = duckdb.connect(config={"threads": 2, "memory_limit": "2GB"})
        self.connection.execute("ATTACH ':memory:' AS hot; USE hot; SET GLOBAL TimeZone = 'UTC'")
        self.connection.execute(
            "CREATE TABLE manifest (kind VARCHAR, model VARCHAR, file VARCHAR, first_seq BIGINT, last_seq BIGINT, "
            "min_time TIMESTAMPTZ, max_time TIMESTAMPTZ, max_received TIMESTAMPTZ, quarantined VARCHAR)"
        )
        self.seq = 0
        self.features: dict[str, ColumnKind] = {}

    def add(self, frame: Path, start: datetime, end: datetime, *, sealed: bool = False) -> None:
        """`sealed`: as a segment, else into the table."""
        if sealed:
            self.seal(frame, start, end)
            self.know(frame, start, end)
            return
        there, sql = f'"predictions:{MODEL}"', self._sql(frame, start, end)
        self.connection.execute(f"CREATE TABLE IF NOT EXISTS {there} AS {sql} LIMIT 0; INSERT INTO {there} {sql}")
        self.seq += pq.read_metadata(frame).num_rows

    def seal(self, frame: Path, start: datetime, end: datetime) -> None:
        self.connection.execute(
            f"COPY ({self._sql(frame, start, end)}) TO {literal(str(self.root / self._name))} "
            "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
        )

    def know(self, frame: Path, start: datetime, end: datetime) -> None:
        """A segment that is there."""
        self.features, rows = kinds_of(frame), pq.read_metadata(frame).num_rows
        self.connection.execute(
            "INSERT INTO manifest VALUES ('predictions', ?, ?, ?, ?, ?, ?, ?, NULL)",
            [MODEL, self._name, self.seq + 1, self.seq + rows, start, end, end],
        )
        self.seq += rows

    @property
    def _name(self) -> str:
        return f"{self.seq + 1:012d}.parquet"

    def _sql(self, frame: Path, start: datetime, end: datetime) -> str:
        self.features = kinds_of(frame)
        step = (end - start).total_seconds() * 1e6 / pq.read_metadata(frame).num_rows
        features = ", ".join(f'"{name}" AS "{FEATURE}{name}"' for name in self.features)
        return (
            f"SELECT {self.seq} + n AS seq, make_timestamptz({int(start.timestamp() * 1e6)} + ((n - 1) * {step})::BIGINT) "
            f"AS event_time, printf('%012d', {self.seq} + n) AS record_id, {features} "
            f"FROM (SELECT row_number() OVER () AS n, * FROM read_parquet({literal(str(frame))}))"
        )

    def reader(self) -> Reader:
        cursor = self.connection.cursor()
        cursor.execute("USE hot")
        return Reader(cursor, self.root)


def kinds_of(frame: Path) -> dict[str, ColumnKind]:
    return {field.name: "category" if pa.types.is_string(field.type) else "number" for field in pq.read_schema(frame)}


def counting(root: Path, rows: Rows, reference: timedelta, window: timedelta, resamples: int) -> tuple[Counting, DataDrift]:
    settings = {
        "resamples": resamples,
        "method": "wasserstein",
        "methods": {n: "jensenshannon" for n, k in rows.features.items() if k == "category"},
    }
    check = Check.model_validate(
        {
            "name": "drift", "model": MODEL, "detector": "data_drift", "settings": settings, "threshold": {"upper": 0.5},
            "every": int(window.total_seconds()), "reference": {"trailing": int(reference.total_seconds())},
        }
    )  # fmt: skip
    traffic = Predictions(MODEL, frozenset({"features"}), {})
    assert isinstance(check.settings, DataDrift.Config)
    return Counting(check, traffic, References(root)), DataDrift(check.settings)


class Watch:
    """Seconds and processor seconds since it was last asked."""

    def __init__(self) -> None:
        self._at = time.perf_counter(), processor()

    def lap(self) -> tuple[float, float]:
        before, self._at = self._at, (time.perf_counter(), processor())
        return self._at[0] - before[0], self._at[1] - before[1]


def compared(root: Path, rows: Rows, start: datetime, reference: timedelta, window: timedelta, resamples: int) -> dict[str, Any]:
    """Seconds and processor seconds of each step: the reference counted, the window counted, compared for the first time; and,
    with all of that kept, read and compared again."""
    of_check, detector = counting(root, rows, reference, window, resamples)
    reader = rows.reader()
    forget_peak()
    steps: dict[str, tuple[float, float]] = {}
    watch = Watch()
    for again in ("", "again_"):
        pair = of_check.look(reader, start, start + window, rows.features)
        assert pair is not None
        before = pair.reference(WHOLE)
        steps[f"{again}reference"] = watch.lap()
        now = pair.current(WHOLE)
        steps[f"{again}window"] = watch.lap()
        reading = detector.compare(before, now)
        steps[f"{again}comparison"] = watch.lap()
    assert all(part.basis == "summary" for part in reading.parts)
    values = {part.name: part.value for part in reading.parts}
    return {"steps": steps, "peak": peak(), "values": values, "rows": [before.rows, now.rows]}


def windows(folder: Path, resamples: int, reference: Path, current: Path) -> dict[str, Any]:
    rows = Rows(folder)
    rows.add(reference, START, START + BEFORE)
    rows.add(current, START + BEFORE, START + BEFORE + DAY)
    return compared(folder, rows, START + BEFORE, BEFORE, DAY, resamples)


def segments(folder: Path, wanted: int, reference: Path, current: Path) -> dict[str, Any]:
    rows = Rows(folder)
    each = pq.read_metadata(current).num_rows
    rows.add(reference, START, START + BEFORE, sealed=True)
    number = max(wanted // each, 1)
    for i in range(number):
        rows.add(current, START + BEFORE + i * DAY / number, START + BEFORE + (i + 1) * DAY / number, sealed=True)
    return compared(folder, rows, START + BEFORE, BEFORE, DAY, 100)


def hour(folder: Path, days: int, current: Path) -> dict[str, Any]:
    """The hours before are drawn from the counts of the new one: what merging and storing them costs does not depend on more."""
    rows = Rows(folder)
    end = START + 100 * DAY
    rows.seq = 10**9  # of all the rows that are counted already
    rows.add(current, end - HOUR, end)
    reader = rows.reader()
    sample = reader.table(f'SELECT * FROM "predictions:{MODEL}" WHERE seq % 10 = 0')
    from monitor.windows import TableWindow

    named = sample.rename_columns([name.removeprefix(FEATURE) for name in sample.column_names])
    basis = Basis.of(TableWindow(named, rows.features), rows.features)
    forget_peak()
    began, used = time.perf_counter(), processor()
    (alone,) = count(reader, MODEL, basis, end - HOUR, end).values()
    seconds_alone, used_alone = time.perf_counter() - began, processor() - used
    kept = folder / "kept"
    size = filled(kept, basis, alone, end, days)
    ledger = Ledger(kept, MODEL, basis)
    began, used = time.perf_counter(), processor()
    found = ledger.window(reader, end - days * DAY, end)
    seconds, used = time.perf_counter() - began, processor() - used
    assert {one.rows for one in found.values()} == {alone["number_00"].rows * days * 24}
    return {
        "seconds": seconds, "processor": used, "alone": seconds_alone, "alone_processor": used_alone, "peak": peak(),
        "bytes_a_month": size / days * 30,
    }  # fmt: skip


def filled(folder: Path, basis: Basis, alone: Sums, end: datetime, days: int) -> int:
    """All hours of `days` days but the last one; bytes of them."""
    rng = np.random.default_rng(0)
    first = end - days * DAY
    for day in range(days):
        at = first + day * DAY
        hours = range(int(at.timestamp()) // 3600, int(at.timestamp()) // 3600 + (24 if day < days - 1 else 23))
        drawn = {hour: {name: _drawn(one, rng) for name, one in alone.items()} for hour in hours}
        DayFile.write(folder / f"{at.date().isoformat()}.parquet", basis, drawn, 10**9)
    (folder / READ_TO).write_text(str(10**9))
    return sum(path.stat().st_size for path in folder.glob("*.parquet"))


def _drawn(one: Sum, rng: np.random.Generator) -> Sum:
    n = int(one.counts.sum())
    counts = rng.multinomial(n, one.counts / n)
    facts = (one.minimum, one.maximum, one.mean, one.m2, one.below, one.above)
    return Sum(counts, one.missing, one.infinite, *facts, one.sketch)


def calibration(wanted: int) -> dict[str, Any]:
    rng = np.random.default_rng(13)
    columns = {}
    for i in range(25):
        values = rng.normal(size=wanted)
        found = Cells.of_numbers(values)
        columns[f"x{i}"] = Column(found, found.codes(values), cells.anderson, 2)
    forget_peak()
    began, used = time.perf_counter(), processor()
    Calibration(plan(wanted, min(10_000, wanted // 4), 1, 1_000, 4), columns)
    return {"seconds": time.perf_counter() - began, "processor": processor() - used, "peak": peak()}


def prepared(folder: Path, reference: Path, current: Path) -> float:
    """Both sides sealed and compared once, so that the reference is frozen; how many seconds that took."""
    rows = Rows(folder)
    rows.add(reference, START, START + BEFORE, sealed=True)
    rows.add(current, START + BEFORE, START + BEFORE + DAY, sealed=True)
    watch = Watch()
    judged(folder, rows)
    return watch.lap()[0]


def exact(folder: Path, reference: Path, current: Path) -> dict[str, Any]:
    """As a check has it: its rows asked of the store, and judged."""
    # By another process: what writing them takes is not what comparing takes.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        first = other.submit(prepared, folder, reference, current).result()
    rows = Rows(folder)
    rows.know(reference, START, START + BEFORE)
    rows.know(current, START + BEFORE, START + BEFORE + DAY)
    forget_peak()
    before, watch = memory(), Watch()
    values = judged(folder, rows)
    seconds, used = watch.lap()
    side = {"seconds": seconds, "processor": used, "peak": peak(), "before": before, "values": values}
    return {"side": side, "first": first}


def judged(folder: Path, rows: Rows) -> dict[str, float]:
    """The value of each column by `policy: evidently`."""
    categories = [name for name, kind in rows.features.items() if kind == "category"]
    check = Check.model_validate(
        {
            "name": "drift", "model": MODEL, "detector": "data_drift", "threshold": {"upper": 0.5}, "every": "1d",
            "settings": {"policy": "evidently", "method": "wasserstein", "methods": dict.fromkeys(categories, "jensenshannon")},
            "reference": {"start": START.isoformat(), "end": (START + BEFORE).isoformat()},
        }
    )  # fmt: skip
    model = ModelConfig.model_validate({"name": MODEL, "task": "regression"})
    no_worker = cast("Child", None)  # nothing here is compared elsewhere
    meter = Meter(check, model, References(folder), no_worker, maker({MODEL: model.task}, [check]))
    measured = meter.look(rows.reader(), START + BEFORE + DAY, rows.features).measure(WHOLE)
    assert measured.reading is not None, measured.reason
    return {part.name: part.value for part in measured.reading.parts if part.value is not None}


def main(what: str, folder: Path, rows: int, *frames: Path) -> dict[str, Any]:
    if what == "windows":
        return windows(folder, rows, *frames)
    if what == "segments":
        return segments(folder, rows, *frames)
    if what == "exact":
        return exact(folder, *frames)
    if what == "calibration":
        return calibration(rows)
    return hour(folder, int(what.removeprefix("hour-")), frames[0])


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *map(Path, sys.argv[4:]))))
