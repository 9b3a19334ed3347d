"""Which rows belong to a hash: asked by the writer before each commit, to tell a retry from a new record, and by whoever
looks for the rows of one record or trace without reading every segment.

A retry lands in another batch, so a ledger of batches alone cannot keep a record from being stored twice. Keys in the hot
file are kept in a dict; each sealed segment has index files (`hashfile.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monitor.hashfile import HashFile, KeyFile, UInt64Array, Wanted

LISTED = 1_000  # so many places are named one by one


def hash64(*parts: str | bytes) -> int:
    """64 bits of BLAKE2b over the parts, with their lengths so that ("a", "bc") is not ("ab", "c")."""
    whole = b""
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        whole += len(data).to_bytes(4, "little") + data
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "little")


def place_hash(text: str) -> int:
    """As `md5_number_lower` of the store's SQL, which makes the places of a whole segment at once."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little")


class KeyIndex:
    """All keys of one (kind, model). Only the writer thread changes it; `put` is undone by `drop` when a commit fails.

    Any thread may ask: what was committed is found, and perhaps what is being committed just now.
    """

    def __init__(self) -> None:
        self._hot: dict[int, tuple[int, int]] = {}
        self._sealed: tuple[KeyFile, ...] = ()  # replaced as a whole

    def __len__(self) -> int:
        return len(self._hot) + sum(len(f) for f in self._sealed)

    def find(self, keys: Sequence[int]) -> list[tuple[int, int] | None]:
        """(content, seq) for each key that is stored, in order."""
        found = [self._hot.get(k) for k in keys]
        # Only now: what is being sealed leaves the dict after it has come here.
        sealed = self._sealed
        if sealed and None in found:
            absent = [i for i, f in enumerate(found) if f is None]
            wanted = Wanted.of([keys[i] for i in absent])
            for file in sealed:
                for place, content, seq in file.find(wanted):
                    found[absent[place]] = (content, seq)
        return found

    def places(self, keys: Collection[int]) -> Places:
        found = self.find(keys if isinstance(keys, Sequence) else list(keys))
        return Places(np.array(sorted(f[1] for f in found if f is not None), dtype=np.uint64), 2**62)

    @property
    def files(self) -> tuple[HashFile, ...]:
        return self._sealed

    def put(self, key: int, content: int, seq: int) -> None:
        self._hot[key] = (content, seq)

    def drop(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._hot.pop(key, None)

    def seal(self, file: KeyFile) -> None:
        """The segment's keys are now found in `file`."""
        self._sealed = (*self._sealed, file)
        self.drop(file.keys.tolist())

    def replace(self, old: Collection[Path], file: KeyFile) -> None:
        """The keys of the files `old` are now found in `file`."""
        self._sealed = (*(f for f in self._sealed if f.path not in old), file)


@dataclass(frozen=True, slots=True)
class Places:
    """Every row that can be meant among those with a seq up to `known_to`, and perhaps a few more; sorted. What comes after
    `known_to` has to be looked at."""

    seqs: UInt64Array
    known_to: int

    def sql(self) -> str:
        """A condition that row groups are left out by."""
        if not len(self.seqs):
            return "false"
        span = f"seq BETWEEN {self.seqs[0]} AND {self.seqs[-1]}"
        return span if len(self.seqs) > LISTED else f"{span} AND seq IN ({', '.join(map(str, self.seqs.tolist()))})"

    def may_lie_in(self, first_seq: int, last_seq: int) -> bool:
        low, high = np.searchsorted(self.seqs, np.array([first_seq, last_seq + 1], dtype=np.uint64))
        return last_seq > self.known_to or bool(low < high)


NOWHERE = Places(np.zeros(0, np.uint64), 0)  # nothing is known, so everything has to be looked at


class PlaceIndex:
    """Where the sealed rows of a hash lie: rows of (hash, seq) by segment. Only the writer thread changes it, any may ask."""

    def __init__(self) -> None:
        self._state: tuple[tuple[HashFile, ...], int] = ((), 0)  # files and the last seq they know of, replaced as a whole

    @property
    def files(self) -> tuple[HashFile, ...]:
        return self._state[0]

    def find(self, hashes: Collection[int] | UInt64Array) -> Places:
        files, known_to = self._state
        wanted = Wanted.of(hashes)
        found = [file.match(wanted)[1][1] for file in files]
        return Places(np.sort(np.concatenate(found)) if found else np.zeros(0, np.uint64), known_to)

    def seal(self, file: HashFile, last_seq: int) -> None:
        files, known_to = self._state
        self._state = (*files, file), max(known_to, last_seq)

    def replace(self, old: Collection[Path], file: HashFile) -> None:
        files, known_to = self._state
        self._state = (*(f for f in files if f.path not in old), file), known_to
