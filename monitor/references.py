"""What a window is compared with. A fixed range is frozen into a file on first use, so that a reading can be reproduced
although late records still come for that time."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from detectors.contract import ColumnKind, NotEvaluable
from monitor import segments
from monitor.config import Reference
from monitor.reader import Reader
from monitor.traffic import Traffic
from monitor.windows import TableWindow

FOLDER = "references"


class References:
    """Keeps each fixed reference in memory after its first use. Any thread may call it."""

    def __init__(self, root: Path) -> None:
        self._folder = root / FOLDER
        self._kept: dict[str, TableWindow] = {}
        self._lock = threading.Lock()

    def get(
        self,
        reader: Reader,
        traffic: Traffic,
        reference: Reference,
        features: Mapping[str, ColumnKind],
        window_start: datetime,
    ) -> TableWindow:
        """The rows to compare a window that begins at `window_start` with.

        Raises:
            NotEvaluable: no_reference, when the file is gone or cannot be read.
        """
        if reference.trailing is not None:
            start = window_start - timedelta(seconds=reference.trailing)
            return traffic.between(reader, start, window_start, features)
        key = hashlib.sha256(
            repr((traffic.model, reference.start, reference.end, str(reference.file), traffic.identity)).encode()
        ).hexdigest()[:16]
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                return kept
            found = self._load(reader, traffic, reference, features, key)
            if found.rows:  # else they may still come
                self._kept[key] = found
            return found

    def _load(
        self,
        reader: Reader,
        traffic: Traffic,
        reference: Reference,
        features: Mapping[str, ColumnKind],
        key: str,
    ) -> TableWindow:
        if reference.file is not None:
            if not reference.file.exists():
                raise NotEvaluable("no_reference", f"{reference.file} is gone; put it back or name another")
            try:
                return traffic.from_file(reader, reference.file, features)
            except (duckdb.Error, pa.ArrowInvalid) as exc:
                raise NotEvaluable("no_reference", f"{reference.file} cannot be read: {exc}") from exc
        assert reference.start is not None
        assert reference.end is not None
        frozen = self._folder / f"{traffic.model}-{key}.parquet"
        if frozen.exists():
            table = pq.read_table(frozen)
            return TableWindow(table, {f: k for f, k in traffic.features(features).items() if f in table.column_names})
        window = traffic.between(reader, reference.start, reference.end, features)
        if window.rows:
            self._folder.mkdir(exist_ok=True)
            temporary = frozen.with_suffix(".tmp")
            pq.write_table(window.table, temporary, compression="zstd")
            segments.sync_file(temporary)
            temporary.rename(frozen)
            segments.sync_folder(self._folder)
        return window
