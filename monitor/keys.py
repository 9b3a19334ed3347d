"""Which records are stored already: key hash -> (content hash, seq), asked by the writer before each commit.

A retry lands in another batch, so a ledger of batches alone cannot keep a record from being stored twice. Rows in the hot
file are kept in a dict; each sealed segment has a file of its keys, sorted, behind a Bloom filter, memory-mapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]

BITS_PER_KEY = 10  # with 4 probes: 1.2 % of absent keys need a search
PROBES = 4


def hash64(*parts: str | bytes) -> int:
    """64 bits of BLAKE2b over the parts, with their lengths so that ("a", "bc") is not ("ab", "c")."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(len(data).to_bytes(4, "little"))
        digest.update(data)
    return int.from_bytes(digest.digest(), "little")


class KeyFile:
    """The keys of one sealed segment: three uint64 arrays (keys sorted, content, seq) in one file."""

    def __init__(self, path: Path) -> None:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
        self.keys: UInt64Array = data[0]
        self._content: UInt64Array = data[1]
        self._seq: UInt64Array = data[2]
        self._bloom = _Bloom(self.keys)

    @staticmethod
    def write(path: Path, keys: UInt64Array, content: UInt64Array, seq: UInt64Array) -> None:
        """The caller syncs the file."""
        order = np.argsort(keys, kind="stable")
        with path.open("wb") as file:
            np.save(file, np.stack([keys[order], content[order], seq[order]]), allow_pickle=False)

    def find(self, wanted: UInt64Array) -> Iterable[tuple[int, int, int]]:
        """(place in `wanted`, content, seq) for each one that is here."""
        for place in np.flatnonzero(self._bloom.maybe(wanted)):
            at = int(np.searchsorted(self.keys, wanted[place]))
            if at < len(self.keys) and self.keys[at] == wanted[place]:
                yield int(place), int(self._content[at]), int(self._seq[at])


class _Bloom:
    def __init__(self, keys: UInt64Array) -> None:
        bits = max(64, len(keys) * BITS_PER_KEY)
        self._size = np.uint64(bits)
        self._bits = np.zeros(bits, dtype=bool)
        for probe in self._probes(np.asarray(keys)):
            self._bits[probe] = True
        self._packed = np.packbits(self._bits)
        del self._bits

    def maybe(self, keys: UInt64Array) -> NDArray[np.bool_]:
        result = np.ones(len(keys), dtype=bool)
        for probe in self._probes(keys):
            result &= (self._packed[probe >> np.uint64(3)] >> (7 - (probe & np.uint64(7))).astype(np.uint8)) & 1 == 1
        return result

    def _probes(self, keys: UInt64Array) -> Iterable[UInt64Array]:
        # Two halves of one good hash make any number of probes (Kirsch and Mitzenmacher, 2006).
        low, high = keys & np.uint64(0xFFFFFFFF), (keys >> np.uint64(32)) | np.uint64(1)
        for i in range(PROBES):
            yield (low + np.uint64(i) * high) % self._size


class KeyIndex:
    """All keys of one (kind, model). Only the writer thread changes it; `put` is undone by `drop` when a commit fails."""

    def __init__(self) -> None:
        self._hot: dict[int, tuple[int, int]] = {}
        self._sealed: list[KeyFile] = []

    def __len__(self) -> int:
        return len(self._hot) + sum(len(f.keys) for f in self._sealed)

    def find(self, keys: Sequence[int]) -> list[tuple[int, int] | None]:
        """(content, seq) for each key that is stored, in order."""
        found = [self._hot.get(k) for k in keys]
        if self._sealed and None in found:
            absent = [i for i, f in enumerate(found) if f is None]
            wanted = np.fromiter((keys[i] for i in absent), dtype=np.uint64, count=len(absent))
            for file in self._sealed:
                for place, content, seq in file.find(wanted):
                    found[absent[place]] = (content, seq)
        return found

    def put(self, key: int, content: int, seq: int) -> None:
        self._hot[key] = (content, seq)

    def drop(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._hot.pop(key, None)

    def seal(self, file: KeyFile) -> None:
        """The segment's keys are now found in `file`."""
        self._sealed.append(file)
        self.drop(int(k) for k in file.keys)
