"""The hot tier: one DuckDB file, one owner, one writer thread, one sync per group commit."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from monitor import hotfile, log, segments
from monitor.clock import Clock
from monitor.config import StoreConfig
from monitor.errors import InboxFull, StoreError, StoreUnavailable, Undone
from monitor.faultpoints import point
from monitor.hashfile import Damaged, HashFile, KeyFile, UInt64Array
from monitor.keys import NOWHERE, KeyIndex, PlaceIndex, Places
from monitor.metrics import Metrics
from monitor.reader import Reader, literal
from monitor.schema import KINDS, table_name
from monitor.transaction import LogKey, Transaction

T = TypeVar("T")

GROUP_RECORDS = 5_000  # beyond this a larger group gains nothing and only makes the answer later
FREE_SPACE_EVERY_SECONDS = 1.0
INTERRUPT_SECONDS = 0.01
REOPEN_SECONDS = (0.1, 0.5, 2.0, 5.0)


@dataclass(slots=True)
class _Job:
    work: Callable[[Transaction], Any]
    future: Future[Any]
    records: int
    size: int


class Store:
    """Owns the hot file from `open` to `close`. Any thread may submit and read; only the writer thread writes."""

    def __init__(self, config: StoreConfig, *, clock: Clock, metrics: Metrics, queue_records: int, queue_bytes: int) -> None:
        self.root = config.path
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._limit_records, self._limit_bytes = queue_records, queue_bytes
        self._queue: deque[_Job] = deque()
        self._in_hand: list[_Job] = []
        self._queued_records = self._queued_bytes = 0
        self._wake = threading.Condition()
        self._closing = False
        self._unavailable: str | None = None
        self._full = False  # a write has failed since one last succeeded
        self._dead: str | None = None
        self._inode = self._wal_inode = 0
        self._space_checked = float("-inf")
        self._cursors: dict[duckdb.DuckDBPyConnection, float] = {}  # and since when
        self._cursor_lock = threading.Lock()
        self._connected = False
        self._opened = 0
        # Replaced as a whole after each commit, so that any thread may read them without a lock.
        self._seq: dict[LogKey, int] = {}
        self._sealed: dict[LogKey, int] = {}
        self._features: dict[str, dict[str, str]] = {}
        self._watermarks: dict[str, datetime] = {}
        self._keys: dict[LogKey, KeyIndex] = {}
        self._places: dict[tuple[str, str, str], PlaceIndex] = {}  # by suffix, kind, model
        metrics.queue_capacity.labels("inbox").set(queue_records)
        self._open()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    # --- what any thread may call ---

    def submit(self, work: Callable[[Transaction], T], *, records: int = 0, size: int = 0) -> Future[T]:
        """Have `work` done in the next transaction. The future gives its result once the commit is synced.

        `records` and `size` (bytes) are what it counts for in the bounded queue; our own bookkeeping counts for nothing.

        Raises:
            InboxFull: the queue is at its limit.
            StoreUnavailable: low disk, or the store is being reopened or closed.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # a client that goes away must not cancel what is being stored
        with self._wake:
            if self._closing or self._dead:
                raise StoreUnavailable(self._dead or "the store is closing")
            if records and self._unavailable:
                raise StoreUnavailable(self._unavailable)
            full = self._queued_records + records > self._limit_records or self._queued_bytes + size > self._limit_bytes
            # A batch larger than the whole queue still goes in when it is alone: it would never fit otherwise.
            if records and full and self._queued_records:
                raise InboxFull(f"{self._queued_records} records wait to be stored; the limit is {self._limit_records}")
            self._queue.append(_Job(work, future, records, size))
            self._queued_records += records
            self._queued_bytes += size
            self._metrics.queue_records.labels("inbox").set(self._queued_records)
            self._wake.notify()
        return future

    def run(self, work: Callable[[Transaction], T]) -> T:
        """`submit`, and wait."""
        return self.submit(work).result()

    @contextlib.contextmanager
    def read(self) -> Iterator[Reader]:
        """
        Raises:
            StoreUnavailable, duckdb.Error: the store is being reopened or was closed, perhaps in the middle of a query.
        """
        with self._cursor_lock:
            if not self._connected:
                raise StoreUnavailable(self.unavailable or "the store is closed")
            cursor = self._connection.cursor()
            self._cursors[cursor] = self._clock.monotonic()
        tables = self._features  # before the look begins, so that it sees all of these
        try:
            cursor.execute("USE hot")
            cursor.execute("BEGIN TRANSACTION")
            yield Reader(cursor, self.root, self.places, tables)
        finally:
            with self._cursor_lock:
                self._cursors.pop(cursor, None)
            with contextlib.suppress(duckdb.ResourceInUseException):  # it is being closed already, with the store
                cursor.close()  # a read transaction needs no commit

    @property
    def unavailable(self) -> str | None:
        """Why nothing can be stored for now, or None."""
        return self._dead or self._unavailable

    @property
    def broken(self) -> str | None:
        """What only a restart can mend, or None."""
        return self._dead

    @property
    def opened(self) -> int:
        """How often the file was opened. Another number: what was just being committed may stand, or may not."""
        return self._opened

    def last_seq(self, kind: str, model: str) -> int:
        return self._seq.get((kind, model), 0)

    def sealed_seq(self, kind: str, model: str) -> int:
        return self._sealed.get((kind, model), 0)

    def logs(self) -> list[LogKey]:
        """Every (kind, model) that has rows."""
        return sorted(self._seq)

    @property
    def features(self) -> Mapping[str, Mapping[str, str]]:
        """By model, features that have a column: name -> kind. Another object whenever there is a new one."""
        return self._features

    def feature_columns(self, model: str) -> Mapping[str, str]:
        """Features of a model that have a column: name -> kind."""
        return self._features.get(model, {})

    def watermark(self, model: str) -> datetime | None:
        """The latest event time of the model's records, those from the future left out."""
        return self._watermarks.get(model)

    def keys(self, kind: str, model: str) -> KeyIndex:
        return self._keys.setdefault((kind, model), KeyIndex())

    def places(self, index: str, kind: str, model: str, hashes: Collection[int] | UInt64Array) -> Places:
        """Where the rows of these hashes lie, for `Reader.source`; `index` is a suffix of `segments.indexes`. Ask through a
        reader: what it sees sealed is then known here, or beyond what is."""
        if index == "keys":
            return self.keys(kind, model).places(hashes.tolist() if isinstance(hashes, np.ndarray) else hashes)
        found = self._places.get((index, kind, model))
        return found.find(hashes) if found is not None else NOWHERE

    def compare_indexes(self, kind: str, model: str, segment: str) -> None:
        """Have the index files of a segment made anew where they are not what was written."""
        paths = {self.root / segments.index_file(segment, suffix) for suffix in segments.indexes(kind)}
        known = [self.keys(kind, model).files]
        known += [index.files for (_, *log_key), index in list(self._places.items()) if log_key == [kind, model]]
        for file in (file for files in known for file in files if file.path in paths):
            with contextlib.suppress(Damaged):  # and so is its segment: that has been said
                file.look()

    def mend(self, path: Path, problem: str) -> bool:
        """Make an index file anew from its segment; False where that is damaged as well.

        Raises:
            StoreUnavailable, duckdb.Error, OSError: not now.
        """
        with self.read() as reader:
            return self._remake(reader, path, problem)

    def _remake(self, reader: Reader, path: Path, problem: str) -> bool:
        made = segments.remake_index(reader, self.root, path, problem)
        if made:
            self._metrics.index_rebuilds.labels(path.relative_to(self.root).parts[1]).inc()
        return made

    def trim(self) -> None:
        """Give back the memory that the engine keeps for itself after large work: hundreds of MB, which nobody else can have."""
        with contextlib.suppress(duckdb.Error, StoreUnavailable), self.read() as reader:
            reader.execute(f"SET GLOBAL memory_limit = {literal(self._config.memory_limit)}")  # flushes its allocator

    def oldest_look(self) -> float:
        """When, on the steady clock, the oldest look that still goes on began; now where there is none."""
        with self._cursor_lock:
            return min(self._cursors.values(), default=self._clock.monotonic())

    def close(self) -> None:
        """Commit what is in hand, checkpoint, let go of the file."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._disconnect()

    # --- called by the transaction, on the writer thread ---

    def advance(
        self, last: Mapping[LogKey, int], columns: Mapping[str, Mapping[str, str]], watermarks: Mapping[str, datetime]
    ) -> None:
        self._seq = {**self._seq, **last}
        self._watermarks = {**self._watermarks, **watermarks}
        for model, new in columns.items():
            self._features = {**self._features, model: {**self._features.get(model, {}), **new}}

    def sealed(self, kind: str, model: str, last_seq: int, files: Mapping[str, HashFile]) -> None:
        """The rows up to `last_seq` now live in a segment, with these index files by suffix."""
        self._sealed = {**self._sealed, (kind, model): last_seq}
        for suffix, file in files.items():
            self._know(kind, model, suffix, file, last_seq)

    def compacted(self, kind: str, model: str, old: Collection[str], files: Mapping[str, HashFile]) -> None:
        """One segment with these index files by suffix has taken the place of the segments `old`."""
        for suffix, file in files.items():
            file.mend = self.mend
            gone = {self.root / segments.index_file(name, suffix) for name in old}
            if isinstance(file, KeyFile):
                self.keys(kind, model).replace(gone, file)
            else:
                self._places[suffix, kind, model].replace(gone, file)

    def _know(self, kind: str, model: str, suffix: str, file: HashFile, last_seq: int) -> None:
        file.mend = self.mend
        if isinstance(file, KeyFile):
            self.keys(kind, model).seal(file)
        else:
            self._places.setdefault((suffix, kind, model), PlaceIndex()).seal(file, last_seq)

    # --- the writer thread ---

    def _run(self) -> None:
        try:
            # Makes pyarrow import pandas, which it does for its first array anyway: now, and not in the first batch's second.
            pa.array([{}], pa.struct([]))
            self._write()
        except BaseException as exc:
            # Nothing is expected to come here; if it does, every sender must hear of it and readiness must go.
            log.error("the writer died; restart the daemon", exc)
            with self._wake:
                self._dead = f"the writer died: {type(exc).__name__}"
                self._metrics.degraded.set(1)
                self._fail([j for j in (*self._in_hand, *self._queue) if not j.future.done()], StoreUnavailable(self._dead))
                self._queue.clear()

    def _write(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait(FREE_SPACE_EVERY_SECONDS)
                    self._watch_space()
                if not self._queue:
                    return
                self._in_hand = self._take()
            self._watch_space()
            self._commit(self._in_hand)

    def _take(self) -> list[_Job]:
        jobs: list[_Job] = []
        records = 0
        while self._queue and (not jobs or records + self._queue[0].records <= GROUP_RECORDS):
            job = self._queue.popleft()
            records += job.records
            self._queued_records -= job.records
            self._queued_bytes -= job.size
            jobs.append(job)
        self._metrics.queue_records.labels("inbox").set(self._queued_records)
        return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        transaction = Transaction(self, self._connection, self._clock.now())
        started = self._clock.monotonic()
        try:
            self._connection.execute("BEGIN TRANSACTION")
            results = [job.work(transaction) for job in jobs]
            transaction.finish()
            point("commit.before")
            self._connection.execute("COMMIT")
            point("commit.after")
        except Exception as exc:
            transaction.rolled_back()
            if _is_fatal(exc):
                # The engine is dead, and whether the commit stands is not known: only the reopened file can say. Clients
                # send again, and the key index then tells what is there.
                self._metrics.commit_failures.labels("fatal").inc()
                self._fail(jobs, StoreUnavailable(f"the store is being reopened: {exc}"))
                self._reopen(exc)
                return
            with contextlib.suppress(duckdb.Error):
                self._connection.execute("ROLLBACK")
            if len(jobs) > 1:
                # One job's fault must not fail the others.
                for job in jobs:
                    self._commit([job])
                return
            if isinstance(exc, Undone):  # as was asked for: no failure
                self._fail(jobs, exc)
                return
            full = _is_full(exc)
            self._metrics.commit_failures.labels("io" if full or isinstance(exc, duckdb.IOException) else "job").inc()
            if full or isinstance(exc, duckdb.IOException):
                exc = StoreUnavailable(f"the store failed: {exc}")
            if full:
                self._full, self._unavailable = True, str(exc)
                self._metrics.degraded.set(1)
            self._fail(jobs, exc)
        else:
            transaction.committed()
            if not self._synced():
                # It stands, but not where it would be found after a restart: whoever sends it again is told once it is.
                self._metrics.commit_failures.labels("io").inc()
                self._fail(jobs, StoreUnavailable(str(self._unavailable)))
                return
            transaction.answered()
            self._metrics.commits.inc()
            self._metrics.commit_duration.observe(self._clock.monotonic() - started)
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(result)

    @staticmethod
    def _fail(jobs: list[_Job], exc: Exception) -> None:
        for job in jobs:
            job.future.set_exception(exc)

    def _fail_queue(self, exc: Exception) -> None:
        with self._wake:
            self._fail(list(self._queue), exc)
            self._queue.clear()
            self._queued_records = self._queued_bytes = 0
            self._metrics.queue_records.labels("inbox").set(0)

    def _synced(self) -> bool:
        """Whether what was committed is on the disk, in the folder that has our name."""
        try:
            self._in_place()
            self._sync_folder()
        except OSError as exc:
            self._refuse(self._away(exc))
            return False
        return True

    def _in_place(self) -> os.stat_result:
        """
        Raises:
            OSError: the file that we write to cannot be found by its name any more.
        """
        found = os.stat(self.root / hotfile.NAME)
        if found.st_ino != self._inode:
            raise FileNotFoundError(errno.ENOENT, "another file has its name")
        return found

    def _away(self, exc: OSError) -> str:
        return f"{self.root / hotfile.NAME}: {exc.strerror}; bring the store's folder back, or restart on another"

    def _refuse(self, message: str | None) -> None:
        """Take nothing for this reason; None: take it again."""
        if bool(message) != bool(self._unavailable):
            log.warning("nothing can be stored" if message else "the store takes records again", problem=message)
        self._unavailable = message
        self._metrics.degraded.set(1 if message else 0)

    def _sync_folder(self) -> None:
        """A write-ahead log that was just created is only safe once its folder entry is."""
        try:
            inode = os.stat(self.root / f"{hotfile.NAME}.wal").st_ino
        except FileNotFoundError:
            inode = 0
        if inode != self._wal_inode:
            segments.sync_folder(self.root)
            self._wal_inode = inode

    def _watch_space(self) -> None:
        if self._clock.monotonic() - self._space_checked < FREE_SPACE_EVERY_SECONDS:
            return
        self._space_checked = self._clock.monotonic()
        try:
            free = shutil.disk_usage(self.root).free
            size = self._in_place().st_size
        except OSError as exc:
            self._refuse(self._away(exc))
            if (self.root / hotfile.NAME).exists():  # a copy that was restored: what it holds counts from now on
                self._reopen(exc)
            return
        self._metrics.disk_free.set(free)
        self._metrics.store_size.set(size)
        if self._full:
            # Whatever the free space says, a write has failed: until one succeeds nothing is taken.
            if not self._can_write():
                return
            self._full = False
        # A checkpoint that runs out of space kills the engine, and it may need the file's size again.
        needed = max(self._config.min_free_bytes, 2 * size) if self._config.min_free_bytes else 0
        low = free < needed
        self._refuse(f"{free} bytes free at {self.root}, {needed} needed; free some space" if low else None)

    def _can_write(self) -> bool:
        """Commit a change that changes nothing, and see."""
        try:
            self._connection.execute("UPDATE migrations SET version = version")
        except duckdb.Error as exc:
            if _is_fatal(exc):
                self._reopen(exc)
            return False
        return True

    # --- opening ---

    def _open(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self._connection = hotfile.connect(self.root, self._config)
        try:
            self._inode = os.stat(self.root / hotfile.NAME).st_ino
            hotfile.migrate(self._connection, self.root, self._clock.now())
            self._sync_folder()
            segments.recover(self.root, Reader(self._connection, self.root))
            self._load()
        except duckdb.Error as exc:
            self._disconnect()
            raise StoreError(f"{self.root / hotfile.NAME}: cannot be read: {exc}{hotfile.advice(self.root, exc)}") from exc
        except BaseException:
            self._disconnect()
            raise
        self._connected = True
        self._opened += 1

    def _load(self) -> None:
        """What the writer keeps in memory: last sequence numbers, features, keys."""
        self._seq, self._sealed, self._features, self._keys, self._places = {}, {}, {}, {}, {}
        self._watermarks = {row["model"]: row["watermark"] for row in self._rows("SELECT model, watermark FROM watermarks")}
        features: dict[str, dict[str, str]] = {}
        for row in self._rows("SELECT model, feature, kind FROM features"):
            features.setdefault(row["model"], {})[row["feature"]] = row["kind"]
        reader = Reader(self._connection, self.root)  # others may not look yet
        for row in self._rows("SELECT kind, model, file, last_seq FROM manifest ORDER BY first_seq"):
            log_key = (row["kind"], row["model"])
            self._seq[log_key] = self._sealed[log_key] = row["last_seq"]
            for suffix in segments.indexes(row["kind"]):
                path = self.root / segments.index_file(row["file"], suffix)
                file = segments.open_index(path, lambda path, problem: self._remake(reader, path, problem))
                self._know(*log_key, suffix, file, row["last_seq"])
        predictions = [
            ("predictions", r["table_name"].removeprefix("predictions:"))
            for r in self._rows("SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'predictions:%'")
        ]
        self._features = {**{model: {} for _, model in predictions}, **features}  # as a whole: others may look meanwhile
        shared = [
            (kind, row["model"])
            for kind in KINDS
            if kind != "predictions"
            for row in self._rows(f"SELECT DISTINCT model FROM {table_name(kind, '')}")
        ]
        for kind, model in (*predictions, *shared):
            where = " WHERE true" if kind == "predictions" else " WHERE model = ?"
            table = f"{table_name(kind, model)}{where}"
            params = [] if kind == "predictions" else [model]
            last = self._rows(f"SELECT max(seq) AS last FROM {table}", params)[0]["last"]
            if last is not None:
                self._seq[kind, model] = max(last, self._seq.get((kind, model), 0))
            if "keys" in segments.indexes(kind):
                index = self.keys(kind, model)
                for row in self._rows(f"SELECT key_hash, content_hash, seq FROM {table} AND key_hash IS NOT NULL", params):
                    index.put(row["key_hash"], row["content_hash"], row["seq"])

    def _rows(self, sql: str, params: list[Any] | None = None) -> list[dict[str, Any]]:
        return self._connection.sql(sql, params=params or []).to_arrow_table().to_pylist()  # type: ignore[no-any-return]

    def _reopen(self, cause: Exception) -> None:
        """Every connection must go before the file can be opened again in this process."""
        self._unavailable = "the store is being reopened after a fatal error"
        self._metrics.degraded.set(1)
        log.error("the store failed and is being reopened", cause)
        for attempt in range(1_000_000):
            self._disconnect()
            try:
                self._in_place_again()
                self._open()
            except (duckdb.Error, StoreError, OSError) as exc:
                log.error("reopening failed; free disk space or repair the store", exc, attempt=attempt + 1)
                self._fail_queue(StoreUnavailable(self._unavailable))  # it may take long, and they can send again
                if threading.Event().wait(REOPEN_SECONDS[min(attempt, len(REOPEN_SECONDS) - 1)]) or self._closing:
                    return
            else:
                self._metrics.reopens.inc()
                self._full, self._unavailable = False, None
                self._space_checked = float("-inf")
                self._watch_space()
                return

    def _in_place_again(self) -> None:
        """
        Raises:
            StoreError: the file is gone. A new one would begin an empty store, which only an operator may want.
        """
        if not (self.root / hotfile.NAME).exists():
            raise StoreError(
                f"{self.root / hotfile.NAME} is gone; bring the store's folder back, or restart to begin an empty one"
            )

    def _disconnect(self) -> None:
        """Close every connection. A reader in the middle of a query is interrupted, and that takes it a moment."""
        with self._cursor_lock:
            self._connected = False
        while True:
            with self._cursor_lock:
                self._cursors = {c: since for c, since in self._cursors.items() if not _closed(c)}
                if not self._cursors:
                    self._connection.close()
                    return
            threading.Event().wait(INTERRUPT_SECONDS)


def _is_fatal(exc: Exception) -> bool:
    """Whether nothing works any more until the file is opened again."""
    # A checkpoint that fails, for want of space, invalidates the file: an IOException, not a FatalException as before 2.0.
    return isinstance(exc, duckdb.FatalException) or (isinstance(exc, duckdb.Error) and "has been invalidated" in str(exc))


def _is_full(exc: Exception) -> bool:
    """Whether the disk did not take what was to be written. A TransactionException at COMMIT, else an IOException."""
    return isinstance(exc, duckdb.Error) and "write" in str(exc)


def _closed(cursor: duckdb.DuckDBPyConnection) -> bool:
    try:
        cursor.interrupt()
        cursor.close()
    except duckdb.ResourceInUseException:
        return False
    except duckdb.Error:  # it was
        pass
    return True
