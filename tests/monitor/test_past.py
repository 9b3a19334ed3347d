"""What a check remembers of the past: the latest slots in memory, the others in the store, and no difference between them."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.contract import Outcome
from monitor import runner
from monitor.child import Child
from monitor.references import References
from monitor.runner import KEPT
from monitor.transaction import Transaction
from tests.monitor.support import LATEST, NOON, World, check, prediction
from tests.monitor.test_runner import CHECKS, in_one_go, outcome, send, settle, story
from tests.monitor.test_verdicts import Told, history, slot

FIVE_MINUTES = timedelta(minutes=5)
YEAR = 105_120
assert in_one_go  # a fixture

NUMBERS = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 2.0, 4.0])), min_size=1, max_size=25)


def judged(one: Told, n: int, value: float | None) -> None:
    one.take(slot(n), Outcome.OK if value is not None else Outcome.NOT_ENOUGH_DATA, value, value)


@given(NUMBERS, st.integers(1, 3), st.integers(1, 3), st.integers(0, 25), st.data())
def test_a_history_without_its_oldest_slots_goes_on_as_the_whole_one(
    values: Sequence[float | None], breaches: int, clear: int, dropped: int, data: st.DataObject
) -> None:
    whole, cut = (history({"upper": 3, "margin": 2}, breaches, clear) for _ in range(2))
    for n, value in enumerate(values):
        judged(whole, n, value)
        judged(cut, n, value)
    stored = list(whole._verdicts.values())
    cut.drop(dropped)
    restated = data.draw(st.integers(0, len(values)))
    if not cut.reaches(slot(restated)):
        # As from the store: as many as tell what those before them amount to.
        older = [v for v in sorted(stored, key=lambda v: v.slot) if cut.first is None or v.slot < cut.first]
        start = next((n for n in range(restated, -1, -1) if cut.determines(older[n:restated])), 0)
        cut.put_back(older[start:], slot(restated))
        assert cut.reaches(slot(restated))
    for one in (whole, cut):
        judged(
            one, restated, data.draw(st.sampled_from([0.0, 2.0, 4.0]), "value") if one is whole else whole_value(whole, restated)
        )
        judged(one, len(values) + 1, 4.0)
    for kept in cut._slots:
        assert cut._verdicts[kept] == whole._verdicts[kept]
    since = cut.base.slot or slot(0)
    assert [i for i in cut.incidents(since) if i.last > since] == [i for i in whole.incidents(since) if i.last > since]


def whole_value(one: Told, n: int) -> float | None:
    return one._verdicts[slot(n)].low


def forgetful(world: World) -> dict[str, Any]:
    references, worker = References(world.store.root), cast(Child, world.worker)
    return runner.build(
        world.config, world.store, references, worker, board=world.board, clock=world.clock, metrics=world.metrics,
        kept=3, most_kept=6,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_who_remembers_next_to_nothing_comes_to_the_same(
    make_world: Callable[..., World], in_one_go: dict[str, Any], seed: int
) -> None:
    world = make_world(checks=CHECKS)
    records = story()
    first = [r for r in records if r[0] == "predictions" and r[1]["timestamp"] < (NOON - timedelta(minutes=179)).isoformat()]
    send(world, first)  # the fixed reference is frozen once it is complete
    rest = [r for r in records if r not in first]
    random.Random(seed).shuffle(rest)
    rest.sort(key=lambda r: r[0])
    world.runners = forgetful(world)
    for n, start in enumerate(range(0, len(rest), 100)):
        send(world, rest[start : start + 100])
        world.clock.move(31)
        world.score()
        world.look()
        assert all(
            len(one.history) <= 6 and len(one.readings) <= 1
            for runner in world.runners.values()
            for one in runner.tracks.values()
        )
        if n % 3 == 2:
            world.seal()
            world.restart()
            world.runners = forgetful(world)
    settle(world)
    assert outcome(world) == in_one_go


def a_year(world: World, value: Callable[[np.ndarray[Any, Any]], Any], count: int = YEAR) -> datetime:
    """Readings and verdicts of every five minutes, as the check would have stored them; the last slot."""
    last = NOON - timedelta(hours=1)
    for part in np.array_split(np.arange(count), 12):
        slots = pa.array([last - FIVE_MINUTES * int(count - 1 - n) for n in part], pa.timestamp("us", tz="UTC"))
        values = np.asarray(value(part), dtype=float)
        common = {"check_name": "mean", "slice": "all", "slot": slots, "revision": 1, "outcome": "ok", "received_at": NOON}

        def keep(t: Transaction, common: dict[str, Any] = common, values: Any = values) -> None:
            t.append(
                "readings", "houses",
                {**common, "value": values, "n_current": 1, "metrics": "{}", "parts": "[]", "window_end": common["slot"]},
            )  # fmt: skip
            t.append("verdicts", "houses", {**common, "judged": values, "beyond": values > 10, "firing": values > 10})

        world.store.run(keep)
        world.seal()
    return last


def fires(world: World) -> list[datetime]:
    found = world.rows("verdicts", columns="slot, firing", where=f"revision > 1 QUALIFY {LATEST}")
    return sorted(row["slot"] for row in found if row["firing"])


def test_a_year_of_slots_is_restored_in_little_time_and_memory(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", every="5m")])
    last = a_year(world, lambda n: np.where(n % 1000 == 999, 20.0, 1.0))
    world.close()
    tracemalloc.start()
    try:
        started = time.monotonic()
        world.open()
        took, (_, peak) = time.monotonic() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    one = world.runners["mean"].tracks["all"]
    assert (len(one.history), len(one.readings)) == (KEPT, 1)
    standing = world.board.get("mean")
    assert standing is not None
    assert (standing.slot, standing.value) == (last, 1.0)
    assert peak < 20 * 2**20, "and not the hundred that a year takes"
    assert took < 10


def test_a_slot_of_months_ago_is_restated_and_judged_from_there(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", every="5m", breaches=2, clear=2)])
    last = a_year(world, lambda n: np.ones(len(n)), 30_000)
    world.restart()
    old = last - FIVE_MINUTES * 29_500
    window = old - FIVE_MINUTES
    world.send("predictions", prediction("a", window, prediction=50.0), prediction("now", NOON))
    world.look()
    assert fires(world) == [], "one is not two in a row"
    world.send("predictions", prediction("b", window + FIVE_MINUTES, prediction=30.0))
    world.look()
    assert fires(world) == [old + FIVE_MINUTES, old + 2 * FIVE_MINUTES]
    assert world.incidents("mean") == [(old + FIVE_MINUTES, "resolved", old + 3 * FIVE_MINUTES)]
    world.restart()
    world.send("predictions", prediction("c", window, prediction=-500.0))
    world.look()
    assert world.incidents("mean") == []
    standing = world.board.get("mean")
    assert standing is not None
    assert (standing.firing, standing.open_incidents) == (False, 0)


def test_an_incident_that_has_been_open_for_long_stays_one(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean")])
    for n in range(12):
        world.send(
            "predictions", prediction(f"r{n}", NOON - timedelta(hours=3) + timedelta(minutes=10 * n), prediction=20.0 + (n == 1))
        )
        world.look()
    world.seal()
    opened = NOON - timedelta(hours=3) + timedelta(minutes=10)
    assert world.incidents("mean") == [(opened, "open", None)]
    for restart in (False, True):
        if restart:
            world.restart()
        world.runners = forgetful(world)
        assert world.runners["mean"].tracks["all"].history.base.opened == opened
        standing = world.board.get("mean")
        assert standing is not None
        assert standing.open_incidents == 1
    for n in (12, 13):
        world.send("predictions", prediction(f"r{n}", NOON - timedelta(hours=3) + timedelta(minutes=10 * n), prediction=1.0))
    world.look()
    assert world.incidents("mean") == [(opened, "resolved", opened + timedelta(minutes=120))]
    assert [r["peak"] for r in world.rows("incidents")][-1] == 21.0


# --- trailing references ---------------------------------------------------------------------------------------------


def shifted(world: World) -> dict[float, Any]:
    return {(s - NOON).total_seconds() / 60: v for s, (_, v, _) in world.readings("shift").items()}


def points(*minutes: int, late: bool = False) -> list[dict[str, Any]]:
    x = 100.0 if late else 1.0
    return [prediction(f"{late}{m}", NOON + timedelta(minutes=m), features={"x": x + m}) for m in minutes]


def test_a_late_record_restates_the_slots_whose_trailing_reference_holds_it_after_a_while(
    make_world: Callable[..., World],
) -> None:
    checks = [check("shift", "Shift", reference={"trailing": "30m"})]
    world = make_world(checks=checks)
    rows = points(*range(-80, 0, 5))
    world.send("predictions", *rows)
    world.look()
    before = shifted(world)
    assert world.state("SELECT count(*) AS n FROM check_slots WHERE not_before IS NOT NULL") == [{"n": 0}], "nothing was late"
    world.send("predictions", *points(-45, late=True))
    assert world.look() == 1, "its own window at once"
    now = shifted(world)
    assert {m for m in now if now[m] != before[m]} == {-40.0}
    world.send("predictions", *points(-44, late=True))
    assert world.look(100) == 1
    assert world.look(100) == 3, "a tenth of the reference after the first, whatever came since"
    after = shifted(world)
    # The reference of a slot s is [s - 40m, s - 10m).
    assert {m for m in after if after[m] != before[m]} == {-40.0, -30.0, -20.0, -10.0}
    other = make_world(world.store.root.parent / "other", checks=checks)
    other.send("predictions", *rows, *points(-45, -44, late=True))
    other.look()
    assert shifted(other) == after


def test_a_window_without_rows_is_not_read_because_its_reference_changed(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("shift", "Shift", reference={"trailing": "30m"})])
    world.send("predictions", *points(-79, -71, -45, -5))
    world.look()
    before = set(shifted(world))
    world.send("predictions", *points(-78, late=True))
    world.look()
    world.look(300)
    assert set(shifted(world)) == {*before, 0.0}
    assert world.state("SELECT count(*) AS n FROM check_slots WHERE slot < ?", NOON - timedelta(minutes=10)) == [{"n": 0}]
