"""The summaries of one model on one basis, day by day: made when first asked for, and kept up to date by what is new.

All of it can be deleted at any time: it is counted again from the rows. A day's file says up to which seq it has read
(`DayFile`), and beside the days stands up to which seq *all* of them have. Rows with a higher one are added to the hours they
belong to, so a new hour costs that hour and a late record its own. A kill between two files leaves each of them right.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from detectors.summary import Blocks
from monitor import log, segments
from monitor.clock import EPOCH
from monitor.reader import Reader
from monitor.seasons import Span
from monitor.summaries.basis import Basis
from monitor.summaries.counting import HOUR_US, Hour, Sums, added, count
from monitor.summaries.dayfile import DayFile
from monitor.summaries.sums import matrix, total

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
READ_TO = "read_to"


def blocks_of(hours: Sequence[Sums], basis: Basis) -> dict[str, Blocks]:
    """By feature, in the order given; nothing of nothing."""
    found = {}
    for name, edges in basis.columns.items() if hours else ():
        sums = [one[name] for one in hours]
        found[name] = Blocks(total(sums, edges).summary(edges), matrix(sums))
    return found


class Ledger:
    """Of the rows of one slice. Any thread may call it, each with a reader of its own."""

    def __init__(self, folder: Path, model: str, basis: Basis, *, where: str = "true") -> None:
        """`where` is the SQL condition of the slice, over the columns of the model's table of predictions."""
        self._folder = folder
        self._model = model
        self.where = where
        self._lock = threading.Lock()
        self._files: dict[date, DayFile] | None = None
        self._read_to = self._seen = 0
        self._blocks: tuple[object, dict[str, Blocks]] | None = None
        self.basis = basis

    def window(self, reader: Reader, start: datetime, end: datetime) -> Sums:
        """The sums of the rows with event time in [start, end): of whole days and hours from what is kept, and of the rows
        themselves at either end, where a window does not begin or end on an hour."""
        parts = [*self._edges(reader, start, end)]
        first, last = _up(start, HOUR), _down(end, HOUR)
        if first < last:
            with self._lock:
                self._advance(reader, _down(first, DAY).date(), _up(last, DAY).date())
                for day in _days(_down(first, DAY), last):
                    if first <= day and day + DAY <= last:
                        parts.append(self._day(reader, day))
                    else:
                        parts += [sums for at, sums in self._hours(reader, day).items() if first <= _time(at) < last]
        return {name: total([sums[name] for sums in parts], edges) for name, edges in self.basis.columns.items()}

    def hours(self, reader: Reader, start: datetime, end: datetime) -> dict[Hour, Sums]:
        """The whole hours in [start, end) that have rows."""
        first, last = _up(start, HOUR), _down(end, HOUR)
        found: dict[Hour, Sums] = {}
        if first < last:
            with self._lock:
                self._advance(reader, _down(first, DAY).date(), _up(last, DAY).date())
                for day in _days(_down(first, DAY), last):
                    found |= {at: sums for at, sums in self._hours(reader, day).items() if first <= _time(at) < last}
        return found

    def cut(self, reader: Reader, start: datetime, end: datetime) -> dict[Hour, Sums]:
        """All of [start, end) by hour; the first and the last may be no whole ones."""
        first, last = _up(start, HOUR), _down(end, HOUR)
        found = self.hours(reader, start, end)
        for low, high in ((start, min(first, end)), (max(last, start), end)) if first <= last else ((start, end),):
            if low < high:
                found |= count(reader, self._model, self.basis, low, high, where=self.where)
        return dict(sorted(found.items()))

    def blocks(self, reader: Reader, spans: Sequence[Span], fewest: int) -> dict[str, Blocks]:
        """The hours of these times, by feature: those of whole days, if they are `fewest`, so that they stay the same for a day
        although the times move on; else all whole hours."""
        days = [(_up(start, DAY), _down(end, DAY)) for start, end in spans]
        whole = sum(max((last - first) // HOUR, 0) for first, last in days)
        chosen = days if whole >= fewest else spans
        with self._lock:
            for start, end in chosen:
                self._advance(reader, _down(start, DAY).date(), _up(end, DAY).date())
            assert self._files is not None
            days_read = [day.date() for start, end in chosen for day in _days(_down(start, DAY), end)]
            key = (*chosen, *(self._files[day].through for day in days_read))
            if self._blocks is not None and self._blocks[0] == key:
                return self._blocks[1]
        hours: dict[Hour, Sums] = {}
        for start, end in chosen:
            hours |= self.hours(reader, start, end)
        self._blocks = key, blocks_of(list(hours.values()), self.basis)
        return self._blocks[1]

    # --- what is kept ------------------------------------------------------------------------------------------------

    def _advance(self, reader: Reader, first: date, last: date) -> None:
        """Bring all days up to date, and make those in [first, last) that are not there."""
        files = self._load(reader)
        self._seen = seen = reader.last_seq("predictions", self._model)
        # Another reader may have seen more. Its files say so, and to read some rows again in vain harms nobody. That is kept
        # before a day is made that has seen less: after a restart nobody would look for the rows that it lacks.
        if seen < self._read_to:
            self._keep_read_to(seen)
        if seen > self._read_to:
            for day in self._touched(reader, seen):
                if (file := files.get(day)) is not None and file.through < seen:
                    self._add(reader, day, file, seen)
            self._keep_read_to(seen)
        for at in _days(_midnight(first), _midnight(last)):
            if at.date() not in files:
                hours = count(reader, self._model, self.basis, at, at + DAY, until_seq=seen, where=self.where)
                files[at.date()] = DayFile.write(self._path(at.date()), self.basis, hours, seen)

    def _touched(self, reader: Reader, seen: int) -> list[date]:
        """Days with rows after those that all have read."""
        there = reader.source("predictions", self._model, after_seq=self._read_to)
        rows = reader.query(
            f"SELECT DISTINCT epoch_us(event_time) // {24 * HOUR_US} AS day FROM {there} WHERE seq > ? AND seq <= ?",
            [self._read_to, seen],
        )
        return [(EPOCH + row["day"] * DAY).date() for row in rows]

    def _add(self, reader: Reader, day: date, file: DayFile, seen: int) -> None:
        after = max(file.through, self._read_to)
        at = _midnight(day)
        new = count(reader, self._model, self.basis, at, at + DAY, after_seq=after, until_seq=seen, where=self.where)
        if new:
            before = self._hours(reader, at)
            assert self._files is not None
            if self._files[day] is not file:
                return  # it had to be counted again, which has what is new
            hours = added(before, new, self.basis)
            self._files[day] = DayFile.write(file.path, self.basis, hours, seen)

    def _load(self, reader: Reader) -> dict[date, DayFile]:
        if self._files is None:
            self._files = {}
            with contextlib.suppress(OSError, ValueError):
                self._read_to = int((self._folder / READ_TO).read_text())
            last = reader.last_seq("predictions", self._model)
            if self._read_to > last:
                self._read_to = 0  # the store is an older one than was read, so nothing kept can be of it
            else:
                self._files = {file_day: file for file_day, file in self._kept() if file.through <= last}
        return self._files

    def _kept(self) -> Iterator[tuple[date, DayFile]]:
        for path in sorted(self._folder.glob("*.parquet")):
            with contextlib.suppress(ValueError):
                day = date.fromisoformat(path.stem)
                if (file := DayFile.open(path, self.basis)) is not None:
                    yield day, file

    def _keep_read_to(self, seen: int) -> None:
        self._read_to = seen
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{READ_TO}.tmp"
        temporary.write_text(str(seen), encoding="ascii")
        segments.sync_file(temporary)  # after the days it speaks for, which are synced already
        temporary.rename(self._folder / READ_TO)

    def _path(self, day: date) -> Path:
        return self._folder / f"{day.isoformat()}.parquet"

    def _day(self, reader: Reader, day: datetime) -> Sums:
        assert self._files is not None
        try:
            return self._files[day.date()].day()
        except (OSError, pa.ArrowException) as exc:
            return self._again(reader, day, exc).day()

    def _hours(self, reader: Reader, day: datetime) -> dict[Hour, Sums]:
        assert self._files is not None
        try:
            return self._files[day.date()].hours()
        except (OSError, pa.ArrowException) as exc:
            return self._again(reader, day, exc).hours()

    def _again(self, reader: Reader, day: datetime, why: Exception) -> DayFile:
        """A file that is damaged or was removed, counted anew."""
        assert self._files is not None
        file = self._files[day.date()]
        log.warning("a summary could not be read and is counted again", file=file.path.name, error=why)
        hours = count(reader, self._model, self.basis, day, day + DAY, until_seq=self._seen, where=self.where)
        self._files[day.date()] = found = DayFile.write(file.path, self.basis, hours, self._seen)
        return found

    def _edges(self, reader: Reader, start: datetime, end: datetime) -> Iterator[Sums]:
        first, last = _up(start, HOUR), _down(end, HOUR)
        spans = [(start, min(first, end)), (max(last, start), end)] if first <= last else [(start, end)]
        for low, high in spans:
            if low < high:
                yield from count(reader, self._model, self.basis, low, high, where=self.where).values()


def whole_hours(span: Span) -> int:
    """How many hours of the clock lie in it from beginning to end: so many it has counts of.

    >>> quarter_past = EPOCH + timedelta(minutes=15)
    >>> whole_hours((quarter_past, quarter_past + HOUR)), whole_hours((EPOCH, EPOCH + HOUR))
    (0, 1)
    """
    return max((_down(span[1], HOUR) - _up(span[0], HOUR)) // HOUR, 0)


def _down(when: datetime, step: timedelta) -> datetime:
    return when - (when - EPOCH) % step


def _up(when: datetime, step: timedelta) -> datetime:
    return when + (EPOCH - when) % step


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=EPOCH.tzinfo)


def _days(first: datetime, last: datetime) -> Iterator[datetime]:
    while first < last:
        yield first
        first += DAY


def _time(hour: Hour) -> datetime:
    return EPOCH + hour * HOUR
