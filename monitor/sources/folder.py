"""Takes files that are put into a folder. Exactly once: how many rows of a file were taken is noted in the transaction that
stores them."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

from pydantic import Field, model_validator

from monitor import log
from monitor.clock import Clock
from monitor.inbox import Inbox
from monitor.metrics import Metrics
from monitor.records import Reject
from monitor.sources.mapping import Columns
from monitor.sources.polling import PollingConfig, PollingSource
from monitor.sources.rowfiles import Format, Unreadable, format_of, read
from monitor.store import Store
from monitor.transaction import Transaction

DONE, FAILED = "done", "failed"
MAX_SIZE = 4 * 2**20  # what a batch counts for at most in the inbox: its rows are bounded by `batch_records`


class FolderConfig(PollingConfig, Columns):
    """Files of records in a folder and the folders in it."""

    type: Literal["folder"]
    path: Path
    kind: Literal["predictions", "labels", "generations", "contexts", "feedback", "deployments"] = "predictions"
    format: Literal["auto", "jsonl", "csv", "parquet", "sagemaker"] = "auto"
    pattern: str = "*"
    settle_seconds: float = Field(5.0, ge=0)
    then: Literal["move", "keep"] = "move"
    batch_records: int = Field(1000, ge=1, le=50_000)
    poll_seconds: float = Field(5.0, gt=0)

    @model_validator(mode="after")
    def _fit(self) -> FolderConfig:
        if problem := self.problem(self.kind):
            raise ValueError(problem)
        if self.format == "sagemaker" and self.kind != "predictions":
            raise ValueError(f"format sagemaker gives predictions; kind is {self.kind}")
        return self


@dataclass(slots=True)
class _Reading:
    """A file of which not all rows were taken yet. It stays open between two batches."""

    name: str
    identity: str
    file: IO[bytes]
    rows: Iterator[Any]
    taken: int
    items: list[Any] = field(default_factory=list)  # read, and not stored yet: the inbox may be full
    ended: bool = False
    failure: str | None = None


class FolderSource(PollingSource):
    """Takes one batch of one file at a time, file by file in the order of their names."""

    Config: ClassVar = FolderConfig
    transport = "folder"

    def __init__(self, config: FolderConfig, inbox: Inbox, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        super().__init__(config, inbox, store, clock=clock, metrics=metrics)
        self._seen: dict[str, tuple[str, float]] = {}  # identity of each file, and since when it has been so
        self._reading: _Reading | None = None
        self._stuck: set[str] = set()  # files that could not be moved

    def stop(self) -> None:
        super().stop()
        self._leave()

    def poll(self) -> int:
        """Take the next rows; return how many, or 1 when a file ended without."""
        if self._reading is None and (found := self._next()) is not None:
            self._begin(*found)
        if (reading := self._reading) is None:
            return 0
        try:
            if not reading.items and not reading.ended:
                self._read(reading)
            size = len(reading.items)
            if size or not reading.failure:
                self._take(reading, "finished" if reading.ended and not reading.failure else "reading")
            if reading.failure:
                self._fail(reading, reading.failure)
            elif reading.ended:
                self._leave()
                self._put_away(reading.name, DONE, reading.identity)
        except OSError:
            self._leave()  # it is opened once more, and read from where the store says
            raise
        return size or 1

    def _read(self, reading: _Reading) -> None:
        try:
            for item in islice(reading.rows, self.config.batch_records):
                reading.items.append(item)  # one by one, as those before a damaged row are good
        except Unreadable as exc:
            reading.failure = str(exc)
        reading.ended = len(reading.items) < self.config.batch_records

    # --- which file ---

    def _next(self) -> tuple[str, str, int] | None:
        """The first file that is whole and not finished: name, identity, rows taken."""
        now = self._clock.monotonic()
        names = self._names()
        with self._store.read() as reader:
            rows = reader.query("SELECT file, identity, taken, state FROM drops WHERE source = ?", [self.config.name])
        known = {row["file"]: row for row in rows}
        self._forget(known.keys() - set(names))
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        found = None
        for name in names:
            with suppress(FileNotFoundError):  # taken back in this moment
                identity = _identity(self.config.path / name)
                row = known.get(name)
                if row is not None and row["identity"] != identity:
                    row = None  # another file of that name
                if row is not None and row["state"] != "reading":
                    # Of an earlier run, or it could not be moved then.
                    self._put_away(name, DONE if row["state"] == "finished" else FAILED, identity)
                    continue
                was, since = self._seen.get(name, ("", now))
                if was != identity:
                    since = now
                self._seen[name] = (identity, since)
                if found is None and (row is not None or now - since >= self.config.settle_seconds):
                    found = (name, identity, row["taken"] if row else 0)
        return found

    def _names(self) -> list[str]:
        """Paths of files below the folder, relative to it; what is hidden, temporary or put away is left out."""
        root = self.config.path
        os.stat(root)  # which says it when the folder is not there
        names = []
        for folder, folders, files in os.walk(root):
            folders[:] = [f for f in folders if not f.startswith((".", "_"))]
            if Path(folder) == root:
                folders[:] = [f for f in folders if f not in (DONE, FAILED)]
            for name in files:
                hidden = name.startswith((".", "_")) or name.endswith((".tmp", ".part"))
                path = Path(folder) / name
                # To open a pipe is to wait for its writer, and no stop would come through.
                if not hidden and fnmatch.fnmatch(name, self.config.pattern) and path.is_file():
                    names.append(str(path.relative_to(root)))
        return sorted(names)

    def _begin(self, name: str, identity: str, taken: int) -> None:
        form: Format | None = format_of(name) if self.config.format == "auto" else self.config.format
        file = (self.config.path / name).open("rb")
        self._reading = reading = _Reading(name, identity, file, iter(()), taken)
        if form is None:
            reading.ended = True
            reading.failure = "its name does not say the format; name it .jsonl, .csv or .parquet, or set format"
        else:
            reading.rows = read(file, name, form, self.config.kind, self.config, skip=taken)

    def _leave(self) -> None:
        if self._reading is not None:
            close = getattr(self._reading.rows, "close", lambda: None)  # it reads the file, so it comes first
            close()
            self._reading.file.close()
            self._reading = None

    # --- what becomes of it ---

    def _take(self, reading: _Reading, state: str) -> None:
        """Have the rows stored, and with them how far the file was taken."""
        items, taken = reading.items, reading.taken + len(reading.items)

        def note(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM drops WHERE source = ? AND file = ?", [self.config.name, reading.name])
            row = {"source": self.config.name, "file": reading.name, "identity": reading.identity, "taken": taken, "state": state}
            transaction.insert("drops", {name: [value] for name, value in row.items()})

        if items:
            place = f"{self.transport}:{self.config.name}:{reading.name}"
            places = [f"{place}:{reading.taken + i + 1}" for i in range(len(items))]
            items = [Reject(i, *_parts(item)) if isinstance(item, Reject) else item for i, item in enumerate(items)]
            size = min(int(reading.identity.partition(":")[0]), MAX_SIZE)
            self._put(self.config.kind, items, size, also=note, places=places)
        else:
            self._store.run(note)
        reading.taken, reading.items = taken, []

    def _fail(self, reading: _Reading, why: str) -> None:
        """A file that cannot be read, or not to its end: what it is goes to the dead letter, and the file out of the way."""
        log.warning("a file cannot be read", source=self.config.name, file=reading.name, rows_taken=reading.taken, reason=why)
        message = f"{reading.name}: {why}; {reading.taken} rows of it were taken"
        reading.file.seek(0)
        head = reading.file.read(1024).decode(errors="replace")
        reading.items = [Reject(0, "undecodable", message, None, head)]
        try:
            self._take(reading, "failed")
        except BaseException:
            reading.items = []  # it is made anew
            raise
        self._leave()
        self._put_away(reading.name, FAILED, reading.identity, message)

    def _put_away(self, name: str, folder: str, identity: str, reason: str | None = None) -> None:
        """Out of the folder; one that was written to meanwhile stays, and is read anew."""
        if self.config.then == "keep" or name in self._stuck or _identity(self.config.path / name) != identity:
            return
        try:
            self._move(name, folder, reason)
        except OSError as exc:  # it is known as taken all the same, and must not keep the others waiting
            self._stuck.add(name)
            log.warning("a file cannot be moved and stays", source=self.config.name, file=name, error=exc)

    def _move(self, name: str, folder: str, reason: str | None) -> None:
        source, target = self.config.path / name, self.config.path / folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 0
        while target.exists():
            number += 1
            target = target.with_name(f"{Path(name).name}.{number}")
        source.rename(target)
        if reason is not None:
            target.with_name(f"{target.name}.reason.txt").write_text(f"{reason}\n", encoding="utf-8")

    def _forget(self, gone: set[str]) -> None:
        """What is no longer in the folder need not be known any more."""

        def forget(transaction: Transaction) -> None:
            for file in sorted(gone):
                transaction.execute("DELETE FROM drops WHERE source = ? AND file = ?", [self.config.name, file])

        if gone:
            self._store.run(forget)


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _parts(reject: Reject) -> tuple[str, str, str | None, Any, int | None]:
    return reject.reason, reject.message, reject.record_id, reject.payload, reject.size
