"""Follows one growing file of JSON lines. At least once: the offset moves after the commit that holds the lines, and the
key index makes of it exactly once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb

from monitor import log
from monitor.clock import Clock
from monitor.config import Follow
from monitor.decode import decode_lines
from monitor.errors import InboxFull, StoreError
from monitor.inbox import Batch, Inbox
from monitor.keys import hash64
from monitor.metrics import Metrics
from monitor.records import Reject
from monitor.store import Store
from monitor.transaction import Transaction

TRANSPORT = "follow"
RETRY_SECONDS = 1.0
HEAD_BYTES = 1024  # of the first line: enough to tell a new file on an old one's inode


class FollowSource:
    """One thread per file. `poll` does one block."""

    def __init__(self, config: Follow, inbox: Inbox, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        self.config = config
        self._inbox = inbox
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._stop = threading.Event()
        self._place = ""
        self._rotated: list[Path] = []
        self._thread = threading.Thread(target=self._run, name=f"follow-{config.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                taken = self.poll()
            except (InboxFull, StoreError, duckdb.Error):
                self._metrics.requests.labels(TRANSPORT, "503").inc()
                self._stop.wait(RETRY_SECONDS)
                continue
            except OSError as exc:
                log.warning("a followed file cannot be read", source=self.config.name, path=self.config.path, error=exc)
                taken = 0
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                self._metrics.requests.labels(TRANSPORT, "500").inc()
                log.error("a block of a followed file failed", exc, source=self.config.name)
                self._stop.wait(RETRY_SECONDS)
                continue
            if not taken:
                self._stop.wait(self.config.poll_seconds)

    def poll(self) -> int:
        """Hand the next lines to the inbox and wait for their commit; return how many bytes were taken.

        Raises:
            InboxFull, StoreUnavailable: nothing was taken and the offset has not moved; poll again later.
        """
        path = self.config.path
        if not path.exists():
            return 0
        if (place := _place(path.stat())) != self._place:
            self._rotated = sorted(self._left(place), key=lambda file: file.stat().st_mtime)
            self._place = place
        # What stood at the path before comes first: its last lines may not have been taken, and its writer may add some.
        return sum(self._poll(file) for file in (*self._rotated, path) if file.exists())

    def _poll(self, path: Path) -> int:
        identity = _identity(path)
        if identity is None:
            return 0
        offset = self._position(path, identity)
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read(self.config.max_block_bytes)
        whole = block[: block.rfind(b"\n") + 1]  # the rest is still being written; the next poll sees it whole
        if not whole and len(block) == self.config.max_block_bytes:
            return self._skip_line(path, identity, offset)
        if not whole:
            return 0
        self._put(decode_lines(whole), len(whole))
        self._move(identity, offset + len(whole))
        return len(whole)

    def _put(self, items: list[object], size: int) -> None:
        if not items:
            return
        started = self._clock.monotonic()
        batch = Batch(self.config.kind, items, f"{TRANSPORT}:{self.config.name}", model=self.config.model, size=size)
        self._inbox.put(batch).result()
        self._metrics.requests.labels(TRANSPORT, "200").inc()
        self._metrics.request_duration.labels(TRANSPORT).observe(self._clock.monotonic() - started)

    def _skip_line(self, path: Path, identity: str, offset: int) -> int:
        """A line longer than a block can never be read: its beginning goes to the dead letter, and reading goes on."""
        size = 0
        with path.open("rb") as file:
            file.seek(offset)
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
        self._put([Reject(0, "too_large", message, None, head.decode(errors="replace"))], size)
        self._move(identity, offset + size)
        return size

    def _left(self, place: str) -> Iterator[Path]:
        """Files beside the path that stood there before: all that are not read to their end, and the last one."""
        path = self.config.path
        with self._store.read() as reader:
            rows = reader.query(
                "SELECT identity, position FROM offsets WHERE source = ? AND file = ?", [self.config.name, str(path)]
            )
        known = {row["identity"]: row["position"] for row in rows}
        places = {_place_of(identity) for identity in known} - {place}
        found = [file for file in path.parent.iterdir() if file.is_file() and _place(file.stat()) in places]
        found = [file for file in found if _identity(file) in known]
        last = max(found, key=lambda file: file.stat().st_mtime, default=None)
        for file in found:
            if file is last or file.stat().st_size > known[_identity(file) or ""]:
                yield file

    def _position(self, path: Path, identity: str) -> int:
        """How far a file was taken. A new or a shortened one begins at 0."""
        with self._store.read() as reader:
            rows = reader.query("SELECT position FROM offsets WHERE source = ? AND identity = ?", [self.config.name, identity])
        offset = rows[0]["position"] if rows else 0
        if offset > path.stat().st_size:
            log.warning("a followed file became shorter; reading it from its beginning", path=path, was=offset)
            offset = 0
        return int(offset)

    def _move(self, identity: str, position: int) -> None:
        name, path = self.config.name, str(self.config.path)

        def keep(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM offsets WHERE source = ? AND identity = ?", [name, identity])
            transaction.insert("offsets", {"source": [name], "file": [path], "identity": [identity], "position": [position]})

        self._store.run(keep)


def _place(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}"


def _place_of(identity: str) -> str:
    return identity.rpartition(":")[0]


def _identity(path: Path) -> str | None:
    """Which file stands at the path, or None while its first line is being written. An inode alone does not tell: the next
    file gets the one of a file that was removed, and a truncated file keeps its own."""
    with path.open("rb") as file:
        place, head = _place(os.fstat(file.fileno())), file.read(HEAD_BYTES)
    line, end, _ = head.partition(b"\n")
    return f"{place}:{hash64(line):016x}" if end or len(head) == HEAD_BYTES else None
