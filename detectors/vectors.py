"""A cache of vectors by the text they are of, within a number of bytes; what was not used longest goes first."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

OVERHEAD_BYTES = 250  # of an entry beside its numbers: key, array object, place in the order


class VectorCache:
    """Safe to use from several threads. Of two that miss the same text at once both compute it, and one result is kept."""

    def __init__(self, dimension: int, most_bytes: int) -> None:
        self._dimension = dimension
        self._most = most_bytes // (4 * dimension + OVERHEAD_BYTES)
        self._kept: OrderedDict[bytes, Vectors] = OrderedDict()
        self._lock = threading.Lock()  # not held while computing, so that one thread may compute while another looks up

    def __len__(self) -> int:
        return len(self._kept)

    def through(self, texts: Sequence[str], compute: Callable[[list[str]], Vectors]) -> Vectors:
        """float32 (len(texts), dimension), a fresh array; `compute` gets each text that is not kept, once."""
        if not texts:
            return np.empty((0, self._dimension), dtype=np.float32)
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        # A row of `rows` for each distinct text: those that are kept first, then those that are computed.
        place: dict[bytes, int] = {}
        rows: list[Vectors] = []
        missing: dict[bytes, str] = {}
        with self._lock:
            for key, text in zip(keys, texts, strict=True):
                if key in place or key in missing:
                    continue
                if (vector := self._kept.get(key)) is not None:
                    self._kept.move_to_end(key)
                    place[key] = len(rows)
                    rows.append(vector)
                else:
                    missing[key] = text
        found = compute(list(missing.values())) if missing else np.empty((0, self._dimension), dtype=np.float32)
        for i, key in enumerate(missing):
            place[key] = len(rows) + i
        everything = np.concatenate([np.stack(rows), found]) if rows else found
        if self._most and missing:
            with self._lock:
                for key, vector in zip(missing, found, strict=True):
                    # A copy: a row of a batch would keep the whole batch alive.
                    self._kept.setdefault(key, vector.copy())
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return np.asarray(everything[[place[key] for key in keys]], dtype=np.float32)
