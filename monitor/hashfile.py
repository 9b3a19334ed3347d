"""Index files beside sealed segments: rows of uint64 sorted by hash, a filter, and a checksum of each block.

A flipped bit here would make a record that is sent again a new one, or a new one a conflict. So what an answer rests on is
compared with its checksum before the answer is given: small files as a whole when they are opened; of large ones, which are
mapped, each block when it is first looked at, and those of a hit every time. An index holds nothing that its segment does not,
so a damaged one is made anew from it.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]

BITS_PER_KEY = 16  # at least; filters grow by powers of two. Half a percent of absent keys need a search
PROBES = 4
MERGED_AT_ONCE = 500_000  # rows
BLOCK = 4096  # bytes with a checksum of their own: about what one look at a place costs to read anyway
SMALL_BYTES = 16_384  # up to here a file is read and closed: a mapping costs a descriptor, and minute segments are many
FOOTER = struct.Struct("<8sIQQI")  # magic, width of a row, rows, words of the filter, CRC-32 of the checksums and of this
MAGIC = b"mwindex2"


class Damaged(Exception):
    """An index file is not what was written. It can be made anew from its segment."""


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
    """Rows of one sealed segment, sorted by their hash: a row is `width` numbers, the hash first. A hash may have several rows,
    which then are in the order of `seq`. Any thread may ask."""

    width = 2  # hash and seq

    def __init__(self, path: Path, mend: Callable[[Path, str], bool] | None = None) -> None:
        """`mend` makes the file anew, told what is wrong with it; False where it cannot, and then nothing is found here.

        Raises:
            Damaged: the file is not what was written, and there is no `mend`.
        """
        self.path = path
        self.mend = mend
        self._mending = threading.Lock()
        self._content = _Content.none(self.width)
        try:
            self._content = _Content.of(path, self.width)
        except Damaged as exc:
            self._mended(self._content, exc)

    def __len__(self) -> int:
        return int(self._content.rows.shape[1])

    @property
    def hashes(self) -> UInt64Array:
        found: UInt64Array = self._content.rows[0]
        return found

    @property
    def rows(self) -> UInt64Array:
        """(width, n)."""
        return self._content.rows

    @classmethod
    def write_rows(cls, path: Path, *columns: UInt64Array) -> None:
        """`columns` in the order of `seq`, the hashes first. The caller syncs the file."""
        order = np.argsort(columns[0], kind="stable")
        rows = np.stack([column[order] for column in columns]).astype("<u8")
        with path.open("w+b") as file:
            file.write(rows.tobytes())
            file.write(_Filter.words_of(rows[0]).tobytes())
            _append_checks(file, *rows.shape)

    @staticmethod
    def merge(path: Path, parts: Sequence[HashFile]) -> None:
        """One file of several, which lie in the order of `seq` and were looked at. The caller syncs it."""
        total = sum(len(part) for part in parts)
        width = parts[0].width
        words = np.zeros(1 << _Filter.bits(total), dtype="<u8")
        with path.open("w+b") as file:
            file.truncate(8 * width * total)
        rows = np.memmap(path, "<u8", "r+", 0, (width, total)) if total else np.zeros((width, 0), "<u8")
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
        if isinstance(rows, np.memmap):
            rows.flush()
        with path.open("r+b") as file:
            file.seek(0, 2)
            file.write(words.tobytes())
            _append_checks(file, width, total)

    def match(self, wanted: Wanted, *, decides: bool = False) -> tuple[NDArray[np.intp], UInt64Array]:
        """(place in `wanted`, row) of every row of a wanted hash: k places, and rows as (width, k). `decides`: what becomes of
        a record hangs on the rows, so they are compared with their checksums once more."""
        content = self._content
        try:
            return content.match(wanted, decides)
        except Damaged as exc:
            return self._mended(content, exc).match(wanted, decides)

    def look(self) -> bool:
        """Compare all of the file with its checksums, as it is on the disk now; False when it had to be made anew.

        Raises:
            Damaged: and it could not.
        """
        content = self._content
        try:
            _check_file(self.path, self.width)
        except Damaged as exc:
            if self._mended(content, exc).lost:
                raise
            return False
        if content.lost:  # somebody has put a whole one in its place
            self._content = _Content.of(self.path, self.width)
        return True

    def _mended(self, seen: _Content, problem: Damaged) -> _Content:
        """What is there after `seen` was found damaged."""
        with self._mending:
            if self._content is seen:  # else another thread was first
                if self.mend is None:
                    raise problem
                found = self.mend(self.path, str(problem))
                self._content = _Content.of(self.path, self.width) if found else _Content.none(self.width)
            return self._content


class KeyFile(HashFile):
    """The keys of one sealed segment: key, content and seq of each. A key is there once."""

    width = 3

    @property
    def keys(self) -> UInt64Array:
        return self.hashes

    @classmethod
    def write(cls, path: Path, keys: UInt64Array, content: UInt64Array, seq: UInt64Array) -> None:
        """The caller syncs the file."""
        cls.write_rows(path, keys, content, seq)

    def find(self, wanted: Wanted) -> Iterator[tuple[int, int, int]]:
        """(place in `wanted`, content, seq) for each one that is here."""
        places, rows = self.match(wanted, decides=True)
        if len(places):
            yield from zip(places.tolist(), rows[1].tolist(), rows[2].tolist(), strict=True)


@dataclass(frozen=True, slots=True)
class _Content:
    """A file as it was opened. `checks` and `known` are None where all of it was compared then."""

    rows: UInt64Array
    filter: _Filter
    data: NDArray[np.uint8]
    checks: NDArray[np.uint32] | None
    known: NDArray[np.bool_] | None  # blocks that were compared; threads may do one twice, which harms nobody
    lost: bool = False

    @classmethod
    def none(cls, width: int) -> _Content:
        empty = np.zeros((width, 0), np.uint64)
        return cls(empty, _Filter(_Filter.words_of(empty[0])), np.zeros(0, np.uint8), None, None, lost=True)

    @classmethod
    def of(cls, path: Path, width: int) -> _Content:
        try:
            with path.open("rb") as file:
                count, size, checks = _footer(file, width)
                file.seek(0)
                small = size <= SMALL_BYTES
                data = np.frombuffer(file.read(size), np.uint8) if small else np.memmap(file, np.uint8, "r", 0, (size,))
        except OSError as exc:
            raise Damaged(f"cannot be read: {exc.strerror}") from exc
        # A plain view from here on: numpy's own class for mapped files makes each small step several times as slow.
        data = np.asarray(data)
        rows = data[: 8 * width * count].view("<u8").reshape(width, count)
        words = data[8 * width * count :].view("<u8")
        content = cls(rows, _Filter(words), data, checks, np.zeros(len(checks), np.bool_))
        if not small:
            return content
        content._compare(np.arange(len(checks)))
        return cls(rows, content.filter, data, None, None)

    def match(self, wanted: Wanted, decides: bool) -> tuple[NDArray[np.intp], UInt64Array]:
        width, count = self.rows.shape
        at = self.filter.words_at(wanted.hashes)
        if self.known is not None and not self.known[8 * width * count // BLOCK :].all():
            self._sure(8 * (width * count + at.astype(np.int64)))
        places = np.flatnonzero(self.filter.maybe(at, wanted.masks))
        hashes = wanted.hashes[places]
        if not len(places):
            return places, np.zeros((width, 0), np.uint64)
        first = np.searchsorted(self.rows[0], hashes, side="left")
        after = np.searchsorted(self.rows[0], hashes, side="right")
        self._vouch(hashes, first, after)
        counts = after - first
        if not counts.any():
            return places[:0], np.zeros((width, 0), np.uint64)
        # For each hash the run first, first + 1, ... of its length, all runs in one array.
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        here = np.repeat(first, counts) + steps
        for column in range(width):
            self._sure(8 * (column * count + here), again=decides)
        return np.repeat(places, counts), self.rows[:, here]

    def _vouch(self, hashes: UInt64Array, first: NDArray[np.intp], after: NDArray[np.intp]) -> None:
        """A search that met a flipped bit on its way may end anywhere. Where it ended, neighbours that were compared with
        their checksums must say that it is the place."""
        if self.checks is None:
            return
        sorted_hashes = self.rows[0]
        last = len(sorted_hashes) - 1
        ends = np.stack([first, after])
        low, high = np.maximum(ends - 1, 0), np.minimum(ends, last)
        self._sure(8 * low)
        self._sure(8 * high)
        before, at = sorted_hashes[low], sorted_hashes[high]
        wrong = ((first > 0) & (before[0] >= hashes)) | ((first <= last) & (at[0] < hashes))
        wrong |= ((after > 0) & (before[1] > hashes)) | ((after <= last) & (at[1] <= hashes))
        if wrong.any():
            raise Damaged("its hashes are not in order")

    def _sure(self, offsets: NDArray[np.int64], *, again: bool = False) -> None:
        """Compare the blocks in which these bytes lie, unless that was done; `again`: whatever was done."""
        if self.checks is None or self.known is None:
            return
        blocks = offsets // BLOCK
        if again or not (known := self.known[blocks]).all():
            self._compare(np.unique(blocks if again else blocks[~known]))

    def _compare(self, blocks: NDArray[np.intp]) -> None:
        assert self.checks is not None
        assert self.known is not None
        for block in blocks.tolist():
            if zlib.crc32(self.data[block * BLOCK : (block + 1) * BLOCK].tobytes()) != self.checks[block]:
                raise Damaged(f"bytes {block * BLOCK} to {(block + 1) * BLOCK} are not what was written")
        self.known[blocks] = True


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
        words = np.zeros(1 << cls.bits(len(sorted_hashes)), dtype="<u8")
        cls.add(words, sorted_hashes)
        return words

    @staticmethod
    def add(words: UInt64Array, sorted_hashes: UInt64Array) -> None:
        if len(sorted_hashes):
            bits = (len(words) - 1).bit_length()
            at = sorted_hashes >> np.uint64(64 - bits)  # sorted as well, so that equal ones are neighbours
            starts = np.flatnonzero(np.diff(at, prepend=at[:1] + np.uint64(1)))
            words[at[starts]] |= np.bitwise_or.reduceat(_masks(sorted_hashes), starts)

    def words_at(self, hashes: UInt64Array) -> UInt64Array:
        """Which word tells of each hash."""
        found: UInt64Array = hashes >> self._shift
        return found

    def maybe(self, at: UInt64Array, masks: UInt64Array) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (self._words[at] & masks) == masks
        return found


def _masks(hashes: UInt64Array) -> UInt64Array:
    masks = np.zeros(len(hashes), dtype=np.uint64)
    for probe in range(PROBES):
        masks |= np.uint64(1) << ((hashes >> np.uint64(6 * probe)) & np.uint64(63))
    return masks


# --- checksums ---


def _append_checks(file: BinaryIO, width: int, rows: int) -> None:
    """Read what was written, and add the checksum of each block and the footer."""
    file.seek(0)
    checks = []
    size = 0
    while block := file.read(BLOCK):
        checks.append(zlib.crc32(block))
        size += len(block)
    end = np.array(checks, "<u4").tobytes() + FOOTER.pack(MAGIC, width, rows, size // 8 - width * rows, 0)[:-4]
    file.write(end + struct.pack("<I", zlib.crc32(end)))


def _footer(file: BinaryIO, width: int) -> tuple[int, int, NDArray[np.uint32]]:
    """Rows, bytes of rows and filter, and the checksums of their blocks.

    Raises:
        Damaged: the file does not end as one that was written whole.
    """
    whole = file.seek(0, 2)
    if whole < FOOTER.size:
        raise Damaged(f"{whole} bytes are no index")
    file.seek(-FOOTER.size, 2)
    footer = file.read(FOOTER.size)
    magic, wide, rows, words, crc = FOOTER.unpack(footer)
    size = 8 * (wide * rows + words)
    blocks = -(-size // BLOCK)
    if magic != MAGIC or whole != size + 4 * blocks + FOOTER.size:
        raise Damaged("it has no checksums, or does not end as it was written")
    file.seek(size)
    checks = file.read(4 * blocks)
    if zlib.crc32(checks + footer[:-4]) != crc or wide != width:
        raise Damaged("its checksums are not what was written")
    return rows, size, np.frombuffer(checks, "<u4")


def _check_file(path: Path, width: int) -> None:
    """Compare a file with its checksums without mapping it.

    Raises:
        Damaged: it is not what was written, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            _, size, checks = _footer(file, width)
            file.seek(0)
            for block, check in enumerate(checks.tolist()):
                if zlib.crc32(file.read(min(BLOCK, size - block * BLOCK))) != check:
                    raise Damaged(f"bytes {block * BLOCK} to {(block + 1) * BLOCK} are not what was written")
    except OSError as exc:
        raise Damaged(f"cannot be read: {exc.strerror}") from exc
