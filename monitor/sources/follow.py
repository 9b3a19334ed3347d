"""Follows growing files of JSON lines through rotation, truncation and compression. Exactly once: where it stands in a file is
noted in the transaction that stores the lines."""

from __future__ import annotations

import glob
import gzip
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ClassVar, Literal, cast

from pydantic import Field

from monitor import log
from monitor.clock import Clock
from monitor.decode import decode_lines
from monitor.inbox import Inbox
from monitor.keys import hash64
from monitor.metrics import Metrics
from monitor.records import Reject
from monitor.sources.polling import PollingConfig, PollingSource
from monitor.store import Store
from monitor.transaction import Transaction

PRINT_BYTES = 1024  # of the first line, and of what lies before the offset: enough to know a file again
MAX_ROTATED = 4  # files kept open although they were rotated away and read to their end: their writer may be slow to notice
KEPT_GONE = 1_000  # files that are gone and still known: a copy of one may come back, and is not read again
FINISHED = -1  # in place of a print: a compressed file that was read to its end


class FollowConfig(PollingConfig):
    """Growing files of JSON lines, one record a line."""

    type: Literal["follow"]
    path: Path
    kind: Literal["predictions", "labels", "generations", "contexts", "feedback", "deployments"]
    max_block_bytes: int = Field(4 * 2**20, ge=1024)


@dataclass(slots=True)
class _Known:
    """How far a file was taken, and what it looked like there."""

    place: str
    head: int
    position: int
    tail: int  # hash of the bytes before `position`; 0: not noted, or FINISHED
    file: str

    @property
    def identity(self) -> str:
        return f"{self.place}:{self.head:016x}"


@dataclass(slots=True)
class _Open:
    """A file that is being followed. It stays open, so that it can be read to its end wherever it is moved to."""

    path: Path
    file: IO[bytes]
    place: str
    known: _Known | None = None  # None: its first line is still being written
    seen: tuple[int, int] = field(default=(-1, -1))  # size and mtime when its prints were last compared


class FollowSource(PollingSource):
    """Takes one block of each file in turn. Files are told apart by what they hold, not by name or inode alone: the next file
    gets the inode of a removed one, a truncated file keeps its own, a copy and a compressed file have none in common."""

    Config: ClassVar = FollowConfig
    transport = "follow"

    def __init__(self, config: FollowConfig, inbox: Inbox, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        super().__init__(config, inbox, store, clock=clock, metrics=metrics)
        self._pattern = str(config.path)
        self._open: dict[str, _Open] = {}  # by place; those still at a path of the pattern
        self._rotated: dict[str, _Open] = {}
        self._packed: set[str] = set()  # places of compressed files read to their end
        self._listed: list[tuple[str, str]] | None = None  # path and place of each match, when they last differed

    def stop(self) -> None:
        super().stop()
        for one in (*self._open.values(), *self._rotated.values()):
            one.file.close()

    def poll(self) -> int:
        self._look()
        # What was rotated away comes first: its last lines may not have been taken, and its writer may add some.
        return sum(self._take(one) for one in (*self._rotated.values(), *list(self._open.values())))

    # --- which files ---

    def _look(self) -> None:
        """Open what is new at the paths, and keep hold of what is no longer there."""
        listed = []
        for path in self._matches():
            stat = path.stat()
            listed.append((str(path), _place(stat)))
        if listed == self._listed:
            return
        here = {place: Path(path) for path, place in reversed(listed)}  # two links to one file are one file
        for place in [p for p in self._open if p not in here]:
            self._rotated[place] = self._open.pop(place)
        read = [p for p, one in self._rotated.items() if one.known and one.known.position == os.fstat(one.file.fileno()).st_size]
        for place in read[:-MAX_ROTATED]:
            self._rotated.pop(place).file.close()
        self._catch_up(here)
        for place, path in here.items():
            if place in self._rotated:  # moved from one path of the pattern to another
                self._open[place] = self._rotated.pop(place)
                self._open[place].path = path
            elif place not in self._open:
                self._open[place] = _Open(path, path.open("rb"), place)
        self._listed = listed

    def _matches(self) -> list[Path]:
        if self.config.path.exists() or not glob.has_magic(self._pattern):
            paths = [self.config.path] if self.config.path.exists() else []
            if paths and self.config.path.is_dir():
                raise IsADirectoryError(f"{self.config.path}: is a folder; source {self.config.name} follows files")
        else:
            paths = [p for p in map(Path, sorted(glob.glob(self._pattern))) if p.is_file()]
        for path in paths:
            if path.suffix == ".gz":
                self._unpack(path, whole=True)
        return [p for p in paths if p.suffix != ".gz"]

    def _catch_up(self, here: dict[str, Path]) -> None:
        """After a start or a rotation: what was left unread in files beside the paths that stood at a path before."""
        known = self._known()
        self._forget(known, here)
        left = [k for k in known if k.place not in here and k.place not in self._rotated]
        if not left:
            return
        # The last one stays open even when it was read to its end: its writer may be slow to see the new file.
        beside = [(path, _place(path.stat())) for path in self._beside(*{Path(k.file) for k in left})]
        found = []
        for path, place in beside:
            if path.suffix == ".gz":
                self._unpack(path, whole=False)
            elif place in {k.place for k in left}:
                file = path.open("rb")
                same = [k for k in left if k.place == place and _same(file, k)]
                if same:
                    found.append(_Open(path, file, place, same[0]))
                else:
                    file.close()
        found.sort(key=lambda o: os.fstat(o.file.fileno()).st_mtime)
        for one in found:
            if one is found[-1] or (one.known and one.known.position < os.fstat(one.file.fileno()).st_size):
                self._rotated.setdefault(one.place, one)
            else:
                one.file.close()

    def _beside(self, *paths: Path) -> list[Path]:
        """Files in the folder of a path, and in the folder of what it is a link to."""
        folders = dict.fromkeys(folder for path in paths for folder in (path.parent, path.resolve().parent))
        return [f for folder in folders if folder.is_dir() for f in sorted(folder.iterdir()) if f.is_file()]

    def _forget(self, known: list[_Known], here: Collection[str]) -> None:
        """Bound what is known of files that are gone: with a rotation an hour, it would grow for ever."""
        if len(known) <= KEPT_GONE:
            return
        there = {*here, *self._open, *self._rotated, *(_place(p.stat()) for p in self._beside(*{Path(k.file) for k in known}))}
        gone = [k.identity for k in known if k.place not in there][:-KEPT_GONE]
        if gone:
            marks = ", ".join("?" * len(gone))
            source = self.config.name
            self._store.run(
                lambda t: t.execute(f"DELETE FROM offsets WHERE source = ? AND identity IN ({marks})", [source, *gone])
            )

    def _known(self) -> list[_Known]:
        """The one that was noted last stands last."""
        with self._store.read() as reader:
            rows = reader.query(
                "SELECT file, identity, position, tail FROM offsets WHERE source = ? ORDER BY noted_at NULLS FIRST",
                [self.config.name],
            )
        found = []
        for row in rows:
            place, _, head = row["identity"].rpartition(":")
            found.append(_Known(place, int(head, 16), row["position"], row["tail"] or 0, row["file"]))
        return found

    # --- what they hold ---

    def _take(self, one: _Open) -> int:
        """Take the next block of a file; return how many bytes."""
        known = self._settle(one)
        if known is None:
            return 0
        one.file.seek(known.position)
        block = one.file.read(self.config.max_block_bytes)
        whole = block[: block.rfind(b"\n") + 1]  # the rest is still being written; the next poll sees it whole
        if whole:
            self._advance(known, decode_lines(whole), len(whole), _hash(_before(one.file, known.position + len(whole))))
            return len(whole)
        return self._skip_line(one.file, known) if len(block) == self.config.max_block_bytes else 0

    def _settle(self, one: _Open) -> _Known | None:
        """Where to read on. A file that no longer begins or goes on as it did was truncated, and begins anew."""
        stat = os.fstat(one.file.fileno())
        if one.known is not None and one.seen == (stat.st_size, stat.st_mtime_ns):
            return one.known
        if one.known is None or not _same(one.file, one.known):
            head = _head(one.file)
            if head is None:
                return None
            known = self._known()
            for old in [k for k in known if k.place == one.place and k.tail != FINISHED and not _same(one.file, k)]:
                log.warning("a followed file was truncated; reading it from its beginning", path=one.path, was=old.position)
                self._copied(one.path, old)
            # It may be a copy of what was read elsewhere, as copytruncate leaves one: that is read on, not again.
            same = [k for k in known if _same(one.file, k)]
            place = [k for k in same if k.place == one.place]
            best = max(place or same, key=lambda k: k.position, default=None)
            one.known = _Known(one.place, head, best.position if best else 0, best.tail if best else 0, str(one.path))
        one.seen = (stat.st_size, stat.st_mtime_ns)
        return one.known

    def _copied(self, path: Path, old: _Known) -> None:
        """Before it was truncated, the file may have been copied: the copy holds the lines we had not come to."""
        open_already = {*self._open, *self._rotated}
        for beside in self._beside(path):
            if beside.suffix == ".gz":
                self._unpack(beside, whole=False)
            elif (place := _place(beside.stat())) not in open_already:
                with beside.open("rb") as file:
                    if _same(file, old):
                        copy = _Known(place, old.head, old.position, old.tail, str(beside))
                        while self._take(_Open(beside, file, place, copy)):
                            pass

    def _unpack(self, path: Path, *, whole: bool) -> None:
        """Take what a compressed file holds beyond what was read before it was compressed; `whole`: all, if it is not known."""
        place = _place(path.stat())
        if place in self._packed:
            return
        known = self._known()
        if any(k.place == place and k.tail == FINISHED for k in known):
            self._packed.add(place)
            return
        try:
            with gzip.open(path, "rb") as opened:
                file = cast(IO[bytes], opened)
                head = _head(file)
                best = max((k for k in known if _same(file, k)), key=lambda k: k.position, default=None)
                if head is None or (best is None and not whole):
                    return
                one = _Known(place, head, best.position if best else 0, best.tail if best else 0, str(path))
                past, rest = _before(file, one.position), b""
                while block := file.read(self.config.max_block_bytes):
                    rest += block
                    # A line as long as that is none: cut in pieces it goes to the dead letter.
                    whole_lines = rest.rfind(b"\n") + 1 or (len(rest) if len(rest) > self.config.max_block_bytes else 0)
                    lines, rest = rest[:whole_lines], rest[whole_lines:]
                    past = (past + lines)[-PRINT_BYTES:]
                    self._advance(one, decode_lines(lines), len(lines), _hash(past))
        except (EOFError, gzip.BadGzipFile):
            return  # still being written
        self._advance(one, decode_lines(rest), len(rest), FINISHED)  # nobody will end a line in there any more
        self._packed.add(place)

    def _skip_line(self, file: IO[bytes], known: _Known) -> int:
        """A line longer than a block can never be read: its beginning goes to the dead letter, and reading goes on."""
        file.seek(known.position)
        head = file.read(self.config.max_block_bytes)
        size = len(head)
        while piece := file.read(self.config.max_block_bytes):
            end = piece.find(b"\n")
            size += len(piece) if end < 0 else end + 1
            if end >= 0:
                break
        else:
            return 0  # still being written
        message = f"a line of {size} bytes; max_block_bytes of source {self.config.name} is {self.config.max_block_bytes}"
        reject = Reject(0, "too_large", message, None, head, size)
        self._advance(known, [reject], size, _hash(_before(file, known.position + size)))
        return size

    def _advance(self, known: _Known, items: list[object], size: int, tail: int) -> None:
        """Have the lines stored, and with them where the file stands now: `size` bytes on, after bytes of the hash `tail`."""
        position = known.position + size

        def note(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM offsets WHERE source = ? AND identity = ?", [self.config.name, known.identity])
            row = {"source": self.config.name, "file": known.file, "identity": known.identity, "position": position, "tail": tail}
            transaction.insert("offsets", {**{name: [value] for name, value in row.items()}, "noted_at": [transaction.now]})

        if items:
            self._put(self.config.kind, items, size, also=note)
        else:
            self._store.run(note)
        known.position, known.tail = position, tail


def _place(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}"


def _head(file: IO[bytes]) -> int | None:
    """Hash of the first line, None while that is being written."""
    file.seek(0)
    head = file.read(PRINT_BYTES)
    line, end, _ = head.partition(b"\n")
    return hash64(line) if end or len(head) == PRINT_BYTES else None


def _before(file: IO[bytes], position: int) -> bytes:
    """What lies before a position; the file then stands there."""
    start = max(0, position - PRINT_BYTES)
    file.seek(start)
    return file.read(position - start)


def _hash(data: bytes) -> int:
    return hash64(data) >> 1  # which a BIGINT can hold


def _same(file: IO[bytes], known: _Known) -> bool:
    """Whether a file begins as it did, and goes on to the offset as it did."""
    if known.tail == FINISHED or _head(file) != known.head:
        return False
    before = _before(file, known.position)
    return len(before) == min(known.position, PRINT_BYTES) and known.tail in (0, _hash(before))
