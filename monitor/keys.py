"""Which rows belong to a hash: asked by the writer before each commit, to tell a retry from a new record, and by whoever
looks for the rows of one record or trace without reading every segment.

A retry lands in another batch, so a ledger of batches alone cannot keep a record from being stored twice. Keys in the hot
file are kept in a dict; each sealed segment has index files: rows of uint64 sorted by hash, with a filter, memory-mapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]

BITS_PER_KEY = 16  # at least; filters grow by powers of two. Half a percent of absent keys need a search
PROBES = 4
MERGED_AT_ONCE = 500_000  # rows
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


class Wanted:
    """Hashes to look for, with the bits of each that every filter asks for: worked out once for all files."""

    def __init__(self, hashes: UInt64Array) -> None:
        self.hashes = hashes
        self.masks = _masks(hashes)

    @classmethod
    def of(cls, hashes: Collection[int] | UInt64Array) -> Wanted:
        if isinstance(hashes, np.ndarray):
            return cls(hashes)
        return cls(np.fromiter(hashes, dtype=np.uint64, count=len(hashes)))


class HashFile:
    """Rows of one sealed segment, sorted by their hash: `rows` is uint64 (k, n), the hashes first. A hash may have several
    rows, which then are in the order of `seq`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        # Plain views from here on: numpy's own class for mapped files makes each small step several times as slow.
        self.rows: UInt64Array = np.asarray(mapped)
        self._filter = _Filter(self._words(mapped.offset + mapped.nbytes))

    def __len__(self) -> int:
        return int(self.rows.shape[1])

    @property
    def hashes(self) -> UInt64Array:
        found: UInt64Array = self.rows[0]
        return found

    @staticmethod
    def write_rows(path: Path, *columns: UInt64Array) -> None:
        """`columns` in the order of `seq`, the hashes first. The caller syncs the file."""
        order = np.argsort(columns[0], kind="stable")
        rows = np.stack([column[order] for column in columns])
        with path.open("wb") as file:
            np.save(file, rows, allow_pickle=False)
            np.save(file, _Filter.words_of(rows[0]), allow_pickle=False)

    @staticmethod
    def merge(path: Path, parts: Sequence[HashFile]) -> None:
        """One file of several, which lie in the order of `seq`. The caller syncs it."""
        total = sum(len(part) for part in parts)
        rows = np.lib.format.open_memmap(path, "w+", np.uint64, (parts[0].rows.shape[0], total))
        words = np.zeros(1 << _Filter.bits(total), dtype=np.uint64)
        # A range of hashes at a time, so that what is sorted fits into memory whatever the size of the files.
        ranges = max(1, total // MERGED_AT_ONCE)
        edges = np.array([2**64 * n // ranges for n in range(1, ranges)], dtype=np.uint64)
        cuts = [[0, *np.searchsorted(part.hashes, edges).tolist(), len(part)] for part in parts]
        start = 0
        for n in range(ranges):
            piece = np.concatenate([part.rows[:, c[n] : c[n + 1]] for part, c in zip(parts, cuts, strict=True)], axis=1)
            piece = piece[:, np.argsort(piece[0], kind="stable")]
            rows[:, start : start + piece.shape[1]] = piece
            _Filter.add(words, piece[0])
            start += piece.shape[1]
        rows.flush()
        with path.open("ab") as file:
            np.save(file, words, allow_pickle=False)

    def match(self, wanted: Wanted) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(place in `wanted`, place in `rows`) of every row that belongs to a wanted hash."""
        places = np.flatnonzero(self._filter.maybe(wanted))
        if not len(places):
            return places, places
        hashes = wanted.hashes[places]
        first = np.searchsorted(self.hashes, hashes, side="left")
        counts = np.searchsorted(self.hashes, hashes, side="right") - first
        # For each hash the run first, first + 1, ... of its length, all runs in one array.
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(places, counts), np.repeat(first, counts) + steps

    def _words(self, start: int) -> UInt64Array:
        if start >= self.path.stat().st_size:  # written by version 1, which kept no filter
            return _Filter.words_of(self.hashes)
        with self.path.open("rb") as file:
            file.seek(start)
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            return np.asarray(np.memmap(self.path, kind, "r", file.tell(), shape))


class KeyFile(HashFile):
    """The keys of one sealed segment: key, content and seq of each. A key is there once."""

    @property
    def keys(self) -> UInt64Array:
        return self.hashes

    @staticmethod
    def write(path: Path, keys: UInt64Array, content: UInt64Array, seq: UInt64Array) -> None:
        """The caller syncs the file."""
        HashFile.write_rows(path, keys, content, seq)

    def find(self, wanted: Wanted) -> Iterator[tuple[int, int, int]]:
        """(place in `wanted`, content, seq) for each one that is here."""
        places, at = self.match(wanted)
        if len(at):
            yield from zip(places.tolist(), self.rows[1, at].tolist(), self.rows[2, at].tolist(), strict=True)


def _masks(hashes: UInt64Array) -> UInt64Array:
    masks = np.zeros(len(hashes), dtype=np.uint64)
    for probe in range(PROBES):
        masks |= np.uint64(1) << ((hashes >> np.uint64(6 * probe)) & np.uint64(63))
    return masks


class _Filter:
    """A Bloom filter in which all bits of a hash lie in one word (Putze, Sanders and Singler, 2007): one access for each
    file, where a plain one needs as many as it has probes. High bits choose the word, low ones the bits."""

    def __init__(self, words: UInt64Array) -> None:
        self._words = words
        self._shift = np.uint64(64 - (len(words) - 1).bit_length())

    @staticmethod
    def bits(hashes: int) -> int:
        """Of the number of words for so many hashes."""
        return max(1, (hashes * BITS_PER_KEY // 64).bit_length())

    @classmethod
    def words_of(cls, sorted_hashes: UInt64Array) -> UInt64Array:
        words = np.zeros(1 << cls.bits(len(sorted_hashes)), dtype=np.uint64)
        cls.add(words, sorted_hashes)
        return words

    @staticmethod
    def add(words: UInt64Array, sorted_hashes: UInt64Array) -> None:
        if len(sorted_hashes):
            bits = (len(words) - 1).bit_length()
            at = sorted_hashes >> np.uint64(64 - bits)  # sorted as well, so that equal ones are neighbours
            starts = np.flatnonzero(np.diff(at, prepend=at[:1] + np.uint64(1)))
            words[at[starts]] |= np.bitwise_or.reduceat(_masks(sorted_hashes), starts)

    def maybe(self, wanted: Wanted) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (self._words[wanted.hashes >> self._shift] & wanted.masks) == wanted.masks
        return found


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

    def find(self, hashes: Collection[int] | UInt64Array) -> Places:
        files, known_to = self._state
        wanted = Wanted.of(hashes)
        found = [file.rows[1, file.match(wanted)[1]] for file in files]
        return Places(np.sort(np.concatenate(found)) if found else np.zeros(0, np.uint64), known_to)

    def seal(self, file: HashFile, last_seq: int) -> None:
        files, known_to = self._state
        self._state = (*files, file), max(known_to, last_seq)

    def replace(self, old: Collection[Path], file: HashFile) -> None:
        files, known_to = self._state
        self._state = (*(f for f in files if f.path not in old), file), known_to
