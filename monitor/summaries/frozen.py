"""A fixed range with too many rows to keep: its edges and counts, frozen on first use, so that readings stay comparable although
late records still come for that time.

    references/MODEL-KEY.basis.parquet         the edges
    references/MODEL-KEY.SLICE.counts.parquet  the counts of a slice by hour
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from detectors.contract import NotEvaluable
from detectors.summary import Blocks
from monitor import segments
from monitor.summaries.basis import Basis
from monitor.summaries.counting import Hour, Sums
from monitor.summaries.dayfile import DayFile
from monitor.summaries.ledger import blocks_of

Kept = tuple[Sums, Mapping[str, Blocks], str]


class Frozen:
    """Of one reference. Any thread may call it."""

    def __init__(self, path: Path, basis: Basis) -> None:
        """`path` is where its rows would lie."""
        self._path = path
        self._kept: dict[str, Kept] = {}
        self._lock = threading.Lock()
        self.basis = basis

    @classmethod
    def open(cls, path: Path) -> Frozen | None:
        """None, where it is not frozen yet.

        Raises:
            NotEvaluable: no_reference, where its edges are damaged.
        """
        basis = _basis_of(path)
        if not basis.exists():
            return None
        try:
            return cls(path, Basis.load(basis))
        except (OSError, pa.ArrowException) as exc:
            raise NotEvaluable("no_reference", f"{basis} cannot be read: {exc}; restore it, or delete it to freeze anew") from exc

    @classmethod
    def make(cls, path: Path, basis: Basis) -> Frozen:
        path.parent.mkdir(exist_ok=True)
        basis.save(_basis_of(path))
        return cls(path, basis)

    def counts(self, where: str, hours: Callable[[], Mapping[Hour, Sums]]) -> Kept:
        """The sums of a slice, its hours, and what it is called with the hash of its file; `hours` counts it the first time."""
        name = "all" if where == "true" else hashlib.sha256(where.encode(errors="surrogatepass")).hexdigest()[:16]
        with self._lock:
            if where not in self._kept:
                path = self._path.with_name(f"{self._path.stem}.{name}.counts.parquet")
                file = DayFile.open(path, self.basis) or DayFile.write(path, self.basis, hours(), 0)
                blocks = blocks_of(list(file.hours().values()), self.basis)
                self._kept[where] = file.day(), blocks, f"fixed {path.stem} sha256:{segments.sha256(path)[:16]}"
            return self._kept[where]


def _basis_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.basis.parquet")
