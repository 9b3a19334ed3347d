"""Maintenance windows and deploy freezes: a named span of time of some models, once or every week. Pure functions of time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from monitor.seasons import WEEK_SECONDS
from monitor.section import Instant, Name, Seconds, Section, Zone

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Kind = Literal["maintenance", "freeze"]


def _time_of_day(value: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise ValueError(f"{value!r} is no time of day; write it in quotes, like '22:30'")
    return value


class Weekly(Section):
    """On some days of each week, from a time of day on."""

    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    at: Annotated[str, AfterValidator(_time_of_day)]
    lasts: Seconds
    timezone: Zone = Field("UTC", description="whose clock `at` is of")

    @model_validator(mode="after")
    def _shorter_than_a_week(self) -> Weekly:
        if self.lasts >= WEEK_SECONDS:
            raise ValueError(f"lasts ({self.lasts} s) is a week or more; such a window never ends")
        return self

    def span(self, when: datetime) -> tuple[datetime, datetime] | None:
        """The first instant of the one that `when` lies in, and the first after it."""
        zone, length = ZoneInfo(self.timezone), timedelta(seconds=self.lasts)
        hour, minute = map(int, self.at.split(":"))
        today = when.astimezone(zone).date()
        for back in range(self.lasts // 86_400 + 2):
            day = today - timedelta(days=back)
            if DAYS[day.weekday()] in self.days:
                # Where the clock is changed: a time that is left out is an hour later, one that is repeated the first of the two.
                start = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).astimezone(UTC)
                if start <= when < start + length:
                    return start, start + length
        return None


class Window(Section):
    """Of `models`, all where none is named: a maintenance, in which nobody is paged for what begins, or a freeze, in which
    nothing is to be deployed."""

    name: Name
    kind: Kind = "maintenance"
    models: tuple[Name, ...] = ()
    start: Instant | None = None
    end: Instant | None = None
    weekly: Weekly | None = None
    reason: str = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one_way(self) -> Window:
        if (self.weekly is None) == (self.start is None and self.end is None):
            raise ValueError("give exactly one of start and end, or weekly")
        if self.weekly is None and (self.start is None or self.end is None or self.start >= self.end):
            raise ValueError("start and end must both be given, start before end")
        return self

    def concerns(self, model: str) -> bool:
        return not self.models or model in self.models

    def span(self, when: datetime) -> tuple[datetime, datetime] | None:
        """The span of it that `when` lies in, its first instant and the first after it; None outside."""
        if self.weekly is not None:
            return self.weekly.span(when)
        assert self.start is not None
        assert self.end is not None
        return (self.start, self.end) if self.start <= when < self.end else None


def covering(windows: Iterable[Window], kind: Kind, model: str, when: datetime) -> Window | None:
    """The one in force for the model at that time that ends last; None where there is none."""
    found = [(span[1], w.name, w) for w in windows if w.kind == kind and w.concerns(model) and (span := w.span(when))]
    return max(found, key=lambda one: one[:2])[2] if found else None
