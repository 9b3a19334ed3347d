"""What a window is compared with. A fixed range is frozen into a file on first use, so that a reading can be reproduced
although late records still come for that time. What comes from earlier times is read from the store each time; a late record
restates the readings whose reference holds it.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from detectors.contract import ColumnKind, NotEvaluable
from monitor import segments
from monitor.config import Reference
from monitor.lazytable import LazyTable
from monitor.reader import Reader
from monitor.seasons import WEEK_SECONDS, Span, weeks_before
from monitor.summaries.shelf import Shelf
from monitor.traffic import Predictions, Traffic
from monitor.windows import TableWindow

FOLDER = "references"


class References:
    """Keeps each fixed reference in memory after its first use. Any thread may call it."""

    def __init__(self, root: Path) -> None:
        self.shelf = Shelf(root)  # of what is kept of references with too many rows
        self._folder = root / FOLDER
        self._kept: dict[tuple[str, int | None], TableWindow] = {}
        self._lock = threading.Lock()

    def get(
        self,
        reader: Reader,
        traffic: Traffic,
        reference: Reference,
        features: Mapping[str, ColumnKind],
        window_start: datetime,
        window_end: datetime,
    ) -> TableWindow:
        """The rows to compare the window [window_start, window_end) with. Their `name` says which they are.

        Raises:
            NotEvaluable: no_reference, when the file is gone or cannot be read.
        """
        if reference.reach:
            parts = [traffic.between(reader, start, end, features) for start, end in spans(reference, window_start, window_end)]
            return replace(functools.reduce(TableWindow.followed_by, parts), name=title(reference, window_start))
        key = _key(traffic, reference), _held_bytes(traffic)
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                return kept
            found = self._load(reader, traffic, reference, features)
            if found.rows:  # else they may still come
                self._kept[key] = found
            return found

    def place(self, traffic: Traffic, reference: Reference) -> Path:
        """Where a fixed range is frozen, or will be."""
        return self._folder / f"{traffic.model}-{_key(traffic, reference)}.parquet"

    def _load(
        self,
        reader: Reader,
        traffic: Traffic,
        reference: Reference,
        features: Mapping[str, ColumnKind],
    ) -> TableWindow:
        if reference.file is not None:
            if not reference.file.exists():
                raise NotEvaluable("no_reference", f"{reference.file} is gone; put it back or name another")
            try:
                name = f"file {reference.file.name} sha256:{segments.sha256(reference.file)[:16]}"
                return replace(traffic.from_file(reader, reference.file, features), name=name)
            except (duckdb.Error, pa.ArrowInvalid) as exc:
                raise NotEvaluable("no_reference", f"{reference.file} cannot be read: {exc}") from exc
        assert reference.start is not None
        assert reference.end is not None
        frozen = self.place(traffic, reference)
        if frozen.exists():
            return self._frozen(traffic, frozen, features)
        window = traffic.between(reader, reference.start, reference.end, features)
        if not window.rows:
            return window
        self._folder.mkdir(exist_ok=True)
        temporary = frozen.with_suffix(".tmp")
        if lazy := isinstance(window.table, LazyTable):
            window.table.write(temporary)
        else:
            pq.write_table(window.table, temporary, compression="zstd")
        segments.sync_file(temporary)
        temporary.rename(frozen)
        segments.sync_folder(self._folder)
        # What is read column by column from the store is so no longer than this look at it lasts.
        return self._frozen(traffic, frozen, features) if lazy else replace(window, name=_frozen(frozen))

    @staticmethod
    def _frozen(traffic: Traffic, path: Path, features: Mapping[str, ColumnKind]) -> TableWindow:
        about, held = pq.read_metadata(path), _held_bytes(traffic)
        large = held is not None and about.num_rows * about.num_columns * 8 > held
        table = LazyTable.of_file(path) if large else pq.read_table(path)
        kept = {f: k for f, k in traffic.features(features).items() if f in table.column_names}
        return TableWindow(table, kept, _frozen(path))


def _held_bytes(traffic: Traffic) -> int | None:
    return traffic.held_bytes if isinstance(traffic, Predictions) else None


def _key(traffic: Traffic, reference: Reference) -> str:
    about = repr((traffic.model, reference.start, reference.end, str(reference.file), traffic.identity))
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def spans(reference: Reference, window_start: datetime, window_end: datetime) -> list[Span]:
    """The times that a reference of earlier times is made of, the earliest first.

    Raises:
        NotEvaluable: no_reference, when the clocks skipped this hour in all of these weeks.
    """
    if reference.trailing is not None:
        return [(window_start - timedelta(seconds=reference.trailing), window_start)]
    assert reference.seasonal is not None
    weeks = reference.seasonal // WEEK_SECONDS
    if not (found := weeks_before(window_start, window_end, weeks, ZoneInfo(reference.timezone))):
        raise NotEvaluable("no_reference", f"the clocks of {reference.timezone} skipped this hour; take more weeks")
    return found


def title(reference: Reference, window_start: datetime) -> str:
    """What a reference of earlier times is called."""
    before = f"before {window_start:%Y-%m-%dT%H:%M:%SZ}"
    if reference.trailing is not None:
        return f"trailing {reference.trailing} s {before}"
    assert reference.seasonal is not None
    return f"seasonal {reference.seasonal // WEEK_SECONDS} weeks {before} {reference.timezone}"


def _frozen(path: Path) -> str:
    return f"fixed {path.stem} sha256:{segments.sha256(path)[:16]}"
