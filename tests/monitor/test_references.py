"""What windows are compared with: the same hours of earlier weeks by the clock on the wall, and what a reading says of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from monitor.seasons import weeks_before
from tests.monitor.support import NOON, World, check, prediction

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)


def at(month: int, day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("start", "end", "weeks", "expected"),
    (
        pytest.param(at(3, 2, 9), at(3, 2, 10), 2, [(at(2, 16, 9), at(2, 16, 10)), (at(2, 23, 9), at(2, 23, 10))], id="winter"),
        # The clocks went forward on March 29: nine o'clock was 8 UTC before and is 7 UTC now.
        pytest.param(at(3, 30, 7), at(3, 30, 8), 2, [(at(3, 16, 8), at(3, 16, 9)), (at(3, 23, 8), at(3, 23, 9))], id="after"),
        pytest.param(at(3, 29, 0), at(3, 29, 1), 1, [(at(3, 22, 0), at(3, 22, 1))], id="the hour before the change"),
        pytest.param(at(3, 29, 1), at(3, 29, 2), 1, [(at(3, 22, 2), at(3, 22, 3))], id="the hour after it"),
        # From two to three there was nothing on March 29.
        pytest.param(at(4, 5, 0), at(4, 5, 1), 2, [(at(3, 22, 1), at(3, 22, 2))], id="an hour that was skipped"),
        # A day is a day of the calendar, 23 hours on March 29 and 25 on October 25.
        pytest.param(at(4, 4, 22), at(4, 5, 22), 1, [(at(3, 28, 23), at(3, 29, 22))], id="a day of 23 hours"),
        pytest.param(at(10, 31, 23), at(11, 1, 23), 1, [(at(10, 24, 22), at(10, 25, 23))], id="a day of 25 hours"),
        # From two to three was there twice on October 25, and once the week before.
        pytest.param(at(10, 25, 0), at(10, 25, 1), 1, [(at(10, 18, 0), at(10, 18, 1))], id="the first of two"),
        pytest.param(at(10, 25, 1), at(10, 25, 2), 1, [(at(10, 18, 0), at(10, 18, 1))], id="the second of two"),
    ),
)
def test_a_week_before_is_the_same_hour_on_the_wall(
    start: datetime, end: datetime, weeks: int, expected: list[tuple[datetime, datetime]]
) -> None:
    assert weeks_before(start, end, weeks, BERLIN) == expected


SEASONAL = check("shift", "Shift", every="1h", reference={"seasonal": "2w", "timezone": "Europe/Berlin"})


def rows(day: datetime, values: tuple[float, ...], name: str) -> list[dict[str, object]]:
    return [
        prediction(f"{name}{i}", day + timedelta(minutes=10 + i), features={"size": value}, prediction=value)
        for i, value in enumerate(values)
    ]


def test_a_window_is_compared_with_the_same_hour_of_earlier_weeks_across_a_change_of_the_clocks(
    make_world: Callable[..., World],
) -> None:
    world = make_world(checks=[SEASONAL])
    monday = at(3, 30, 7)  # nine in Berlin
    world.clock.move((monday - NOON).total_seconds() + 4 * 3600)
    for weeks in (2, 1):
        before = monday - weeks * timedelta(days=7)
        world.send("predictions", *rows(before + HOUR, (1.0, 3.0), f"nine{weeks}"))  # nine in Berlin in winter
        world.send("predictions", *rows(before, (100.0, 100.0), f"eight{weeks}"))
    world.send("predictions", *rows(monday, (5.0, 5.0), "now"))
    world.send("predictions", *rows(monday + 2 * HOUR, (0.0,), "later"))
    world.look()
    (found,) = [r for r in world.rows("readings") if r["slot"] == monday + HOUR]
    assert (found["outcome"], found["n_reference"], found["value"]) == ("ok", 4, 3.0)
    assert found["reference"] == "seasonal 2 weeks before 2026-03-30T07:00:00Z Europe/Berlin"


def test_a_late_record_of_an_earlier_week_restates_what_was_compared_with_it(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("shift", "Shift", every="1h", reference={"seasonal": "1w"})])
    now = at(3, 9, 9)
    world.clock.move((now - NOON).total_seconds() + 4 * 3600)
    world.send("predictions", *rows(now - timedelta(days=7), (1.0, 1.0), "before"))
    world.send("predictions", *rows(now, (5.0, 5.0), "now"))
    world.send("predictions", *rows(now + 2 * HOUR, (0.0,), "later"))
    world.look()
    world.send("predictions", prediction("late", now - timedelta(days=7) + HOUR / 2, features={"size": 4.0}, prediction=4.0))
    world.look()
    world.look(7 * 86_400 / 10 + 60)  # a changed reference waits for more
    readings = [r for r in world.rows("readings") if r["slot"] == now + HOUR]
    assert [(r["revision"], r["n_reference"], r["value"]) for r in readings] == [(1, 2, 4.0), (2, 3, 3.0)]


def test_a_reading_names_the_frozen_rows_it_was_compared_with(make_world: Callable[..., World]) -> None:
    reference = {"start": (NOON - HOUR).isoformat(), "end": NOON.isoformat()}
    world = make_world(checks=[check("shift", "Shift", reference=reference)])
    world.clock.move(2 * 3600)
    world.send("predictions", *rows(NOON - HOUR, (1.0, 1.0), "before"), *rows(NOON, (2.0, 2.0), "now"))
    world.send("predictions", *rows(NOON + HOUR, (0.0,), "later"))
    world.look()
    named = {r["reference"] for r in world.rows("readings") if r["slot"] > NOON}
    (file,) = (world.store.root / "references").glob("*.parquet")
    (name,) = named
    assert name.startswith(f"fixed {file.stem} sha256:")
    world.restart()
    world.send("predictions", *rows(NOON + HOUR, (2.0,), "more"))
    world.look(600)
    assert {r["reference"] for r in world.rows("readings") if r["slot"] > NOON} == named
