"""Rows cut into chunks: so many rows each, so many chunks, or by the calendar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Period = Literal["hour", "day", "week", "month", "quarter", "year"]
Instants = NDArray[np.datetime64]

CHUNKS = 10
"""Without a word on it, there are so many, as in NannyML."""


@dataclass(frozen=True, slots=True)
class Times:
    """When each row was: `at` (rows,) in microseconds, NaT where that is not known; in UTC where `aware`, else as a clock on the
    wall showed it."""

    at: Instants
    aware: bool

    def on_the_wall(self, zone: ZoneInfo) -> Instants:
        """Local time. What has no zone is local already."""
        if not self.aware:
            return self.at
        import pandas

        there = pandas.DatetimeIndex(self.at).tz_localize("UTC").tz_convert(zone)
        return there.tz_localize(None).to_numpy(dtype="datetime64[us]")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows `start` to `end` (not included) of rows that are in the order of time."""

    name: str
    start: int
    end: int
    first: str | None = None
    last: str | None = None


@dataclass(frozen=True, slots=True)
class Chunking:
    """How to cut. At most one of `size`, `number` and `period` is given."""

    size: int | None = None
    number: int | None = None
    period: Period | None = None
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.size, self.number, self.period)) > 1:
            raise ValueError("give one of chunk_size, chunk_number and chunk_period")
        for name, value in (("chunk_size", self.size), ("chunk_number", self.number)):
            if value is not None and value < 1:
                raise ValueError(f"{name} ({value}) must be 1 or more")
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as exc:
            raise ValueError(f"timezone: no zone {self.timezone!r}; write it like UTC or Europe/Oslo") from exc

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def cut(self, rows: int, times: Times | None) -> list[Chunk]:
        """Of rows that `in_order` has sorted. What is left over is a chunk of its own, as in NannyML."""
        if self.period is not None:
            assert times is not None
            return self._by_calendar(times)
        size = self.size or max(1, rows // (self.number or CHUNKS))
        chunks = [(start, min(start + size, rows)) for start in range(0, rows, size)]
        return [Chunk(f"{start}:{end - 1}", start, end, *self._span(times, start, end)) for start, end in chunks]

    def _by_calendar(self, times: Times) -> list[Chunk]:
        assert self.period is not None
        wall = times.on_the_wall(self.zone)
        known = int((~np.isnat(times.at)).sum())  # the others come last
        # An hour that the clock shows twice is two hours where the zone is known.
        keys = floor(times.at if self.period == "hour" and times.aware else wall, self.period)[:known]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if known else np.zeros(0, dtype=np.int64)
        ends = np.r_[starts[1:], known] if known else starts
        names = [self._name(times, wall, int(start), keys[start]) for start in starts]
        return [
            Chunk(name, int(start), int(end), *self._span(times, int(start), int(end)))
            for name, start, end in zip(names, starts, ends, strict=True)
        ]

    def _name(self, times: Times, wall: Instants, row: int, key: np.datetime64) -> str:
        match self.period:
            case "hour" if times.aware:
                return self._written(times, row)[:13] + ":00" + self._written(times, row)[19:].lstrip(".0123456789")
            case "hour":
                return str(wall[row].astype("datetime64[h]")) + ":00"
            case "month":
                return str(key)[:7]
            case "quarter":
                return f"{str(key)[:4]}-Q{(int(str(key)[5:7]) + 2) // 3}"
            case "year":
                return str(key)[:4]
        return str(key)[:10]

    def _span(self, times: Times | None, start: int, end: int) -> tuple[str | None, str | None]:
        if times is None or start >= end or np.isnat(times.at[start]):
            return None, None
        last = end - 1
        while np.isnat(times.at[last]):
            last -= 1
        return self._written(times, start), self._written(times, last)

    def _written(self, times: Times, row: int) -> str:
        import pandas

        moment = pandas.Timestamp(times.at[row])
        return (moment.tz_localize("UTC").tz_convert(self.zone) if times.aware else moment).isoformat()


def floor(wall: Instants, period: Period) -> Instants:
    """The beginning of the period that each instant is in; weeks begin on Monday.

    >>> import numpy as np
    >>> when = np.array(["2026-11-22T13:45"], dtype="datetime64[us]")
    >>> [str(floor(when, period)[0])[:13] for period in ("hour", "day", "week", "month", "quarter", "year")]
    ['2026-11-22T13', '2026-11-22', '2026-11-16', '2026-11-01', '2026-10-01', '2026-01-01']
    """
    if period == "hour":
        return wall.astype("datetime64[h]")
    days = wall.astype("datetime64[D]")
    match period:
        case "day":
            return days
        case "week":
            since_monday = (days.astype(np.int64) + 3) % 7  # 1970 began on a Thursday
            return np.where(np.isnat(days), days, days - since_monday.astype("timedelta64[D]"))
        case "month":
            return days.astype("datetime64[M]").astype("datetime64[D]")
        case "quarter":
            months = days.astype("datetime64[M]")
            return np.where(
                np.isnat(days), days, (months - (months.astype(np.int64) % 3).astype("timedelta64[M]")).astype("datetime64[D]")
            )
    return days.astype("datetime64[Y]").astype("datetime64[D]")


def in_order(times: Times) -> tuple[NDArray[Any], int]:
    """The order of time, rows of one instant as they came and those without a time last; and how many rows were earlier than the
    one before them."""
    known = times.at[~np.isnat(times.at)]
    back = int((known[1:] < known[:-1]).sum())
    return np.argsort(times.at, kind="stable"), back
