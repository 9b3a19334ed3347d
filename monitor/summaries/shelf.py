"""Where summaries lie in the store's folder, and the ledgers that are open: one for each model, basis and slice.

    summaries/MODEL/KEY.basis.parquet      edges that a reference of earlier times was given when it was first read
    summaries/MODEL/HASH/SLICE/DAY.parquet counts on the edges of that hash

All of it may be deleted while the daemon is down.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path

import pyarrow as pa

from monitor.summaries.basis import Basis
from monitor.summaries.ledger import Ledger

FOLDER = "summaries"
MOST_OPEN = 1_000
"""Ledgers that are remembered; one that is opened again reads its folder's names."""


class Shelf:
    """Any thread may call it."""

    def __init__(self, root: Path) -> None:
        self._folder = root / FOLDER
        self._ledgers: dict[tuple[str, str, str], Ledger] = {}
        self._bases: dict[Path, Basis] = {}
        self._lock = threading.Lock()

    def ledger(self, model: str, basis: Basis, where: str = "true") -> Ledger:
        """`where` is the SQL condition of a slice."""
        of = "all" if where == "true" else hashlib.sha256(where.encode(errors="surrogatepass")).hexdigest()[:16]
        key = model, basis.hash, of
        with self._lock:
            found = self._ledgers.pop(key, None) or Ledger(self._folder / model / basis.hash / of, model, basis, where=where)
            self._ledgers[key] = found
            while len(self._ledgers) > MOST_OPEN:
                self._ledgers.pop(next(iter(self._ledgers)))
            return found

    def basis(self, model: str, key: str) -> Basis | None:
        """The edges that were fixed for the reference `key`; None where there are none yet."""
        path = self._path(model, key)
        with self._lock:
            if path not in self._bases:
                try:
                    self._bases[path] = Basis.load(path)
                except (OSError, pa.ArrowException):
                    return None
            return self._bases[path]

    def fix(self, model: str, key: str, basis: Basis) -> None:
        """What was counted on the edges that the reference had before goes."""
        path, before = self._path(model, key), self.basis(model, key)
        with self._lock:
            path.parent.mkdir(parents=True, exist_ok=True)
            basis.save(path)
            self._bases[path] = basis
            if before is not None and before.hash != basis.hash:
                self._ledgers = {k: one for k, one in self._ledgers.items() if k[:2] != (model, before.hash)}
                shutil.rmtree(self._folder / model / before.hash, ignore_errors=True)

    def _path(self, model: str, key: str) -> Path:
        return self._folder / model / f"{key}.basis.parquet"
