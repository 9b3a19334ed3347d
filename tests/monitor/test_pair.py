"""Checks read from summaries: the word of the rows, with the reference's edges kept, frozen or made anew."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from detectors.contract import Outcome, Reading
from detectors.data_drift import DataDrift
from detectors.score_drift import ScoreDrift
from monitor import windows
from monitor.config import Check
from monitor.references import References
from monitor.slices import WHOLE, Condition, Slice
from monitor.summaries.pair import Counting, Pair
from monitor.traffic import Predictions
from tests.monitor.support import NOON, World, prediction

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TODAY = datetime(2026, 3, 1, tzinfo=UTC)
FEW = {"most_rows": 200, "most_reference_rows": 1_000}


def traffic(world: World, start: datetime, end: datetime, count: int, *, seed: int = 0, shift: float = 0.0, **more: Any) -> None:
    rng = np.random.default_rng([seed, int(start.timestamp())])
    seconds = np.sort(rng.uniform(0, (end - start).total_seconds(), count))
    size, kind = rng.normal(100 + shift, 30, count), rng.choice(["a", "b", "c"], count, p=[0.5, 0.3, 0.2])
    items = [
        prediction(
            f"{seed}-{start:%d%H}-{i}",
            start + timedelta(seconds=float(seconds[i])),
            features={"size": float(size[i]), "kind": str(kind[i]), **more},
        )
        for i in range(count)
    ]
    for first in range(0, count, 1_000):
        world.send("predictions", *items[first : first + 1_000])


def check(reference: dict[str, Any], **more: Any) -> Check:
    return Check.model_validate(
        {
            "name": "drift", "model": "houses", "detector": "data_drift", "threshold": {"upper": 0.4}, "reference": reference,
            "every": "1h", "settings": {"resamples": 300, "min_rows": 20}, **more,
        }
    )  # fmt: skip


def counting(world: World, one: Check) -> Counting:
    fields = frozenset(field for s in one.slices for field in ([s.by] if s.by else s.where))
    inputs = Predictions("houses", frozenset({"features"}), {}, fields)
    return Counting(one, inputs, References(world.store.root), **FEW)


def look(world: World, one: Counting, end: datetime, part: Slice = WHOLE) -> tuple[Pair, Reading] | None:
    """The pair of the window that ends then, and what the detector says of it."""
    start = end - timedelta(seconds=one.check.window_seconds)
    assert isinstance(one.check.settings, DataDrift.Config)
    with world.store.read() as reader:
        pair = one.look(reader, start, end, world.store.feature_columns("houses"))  # type: ignore[arg-type]
        if pair is None:
            return None
        reference = part.of(pair.rows) if pair.rows is not None else pair.reference(part)
        return pair, DataDrift(one.check.settings).compare(reference, pair.current(part))


def count(world: World, start: datetime, end: datetime) -> int:
    return sum(start <= row["event_time"] < end for row in world.rows("predictions", columns="seq, event_time"))


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """Ten days of 40 rows an hour, and a morning after that has moved."""
    world = make_world()
    traffic(world, TODAY - 10 * DAY, TODAY, 9_600)
    traffic(world, TODAY, TODAY + HOUR, 400, shift=40)
    traffic(world, TODAY + HOUR, TODAY + 2 * HOUR, 400)
    return world


def test_few_rows_are_read_as_rows(world: World) -> None:
    assert look(world, counting(world, check({"trailing": "2h"})), TODAY) is None
    fixed = check({"start": (TODAY - 12 * HOUR).isoformat(), "end": TODAY.isoformat()})
    assert look(world, counting(world, fixed), TODAY - 5 * DAY) is None


def test_a_trailing_reference_with_many_rows_is_counts_and_finds_what_moved(world: World) -> None:
    one = counting(world, check({"trailing": "9d"}))
    found = look(world, one, TODAY + HOUR)
    assert found is not None
    pair, reading = found
    assert pair.rows is None
    assert [(p.name, p.flagged, p.basis) for p in reading.parts] == [("size", True, "summary"), ("kind", False, "summary")]
    assert (reading.n_reference, reading.n_current) == (count(world, TODAY - 9 * DAY, TODAY), 400)
    assert reading.metrics["block_hours"] >= 1
    again = look(world, one, TODAY + 2 * HOUR)
    assert again is not None
    # The reference has had an hour that moved since; this one has not.
    assert not any(p.flagged for p in again[1].parts)


def test_a_busy_hour_is_compared_with_hours_and_not_with_as_many_as_have_its_rows(world: World) -> None:
    """Ten hours together differ less from the others than one does, however many rows that has."""
    found = look(world, counting(world, check({"trailing": "9d"})), TODAY + 2 * HOUR)
    assert found is not None
    assert found[1].n_current == 400
    assert found[1].metrics["resampled_hours"] == 1
    longer = look(world, counting(world, check({"trailing": "9d"}, window="4h")), TODAY + 2 * HOUR)
    assert longer is not None
    assert longer[1].metrics["resampled_hours"] == 4


def test_after_a_restart_the_reading_is_the_same(world: World) -> None:
    found = [look(world, counting(world, check({"trailing": "9d"})), TODAY + HOUR) for _ in range(2)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0][1] == found[1][1]
    assert found[0][0].name == found[1][0].name


def test_a_reference_of_rows_stays_one_where_only_the_window_has_many(world: World) -> None:
    one = counting(world, check({"start": (TODAY - 20 * HOUR).isoformat(), "end": TODAY.isoformat()}))
    found = look(world, one, TODAY + HOUR)
    assert found is not None
    pair, reading = found
    assert pair.rows is not None
    assert pair.name.startswith("fixed houses-")
    with world.store.read() as reader:
        current = windows.predictions(
            reader, "houses", TODAY, TODAY + HOUR, world.store.feature_columns("houses"), frozenset({"features"})  # type: ignore[arg-type]
        )  # fmt: skip
        assert isinstance(one.check.settings, DataDrift.Config)
        of_rows = DataDrift(one.check.settings).compare(pair.rows, current)
    for by_counts, by_rows in zip(reading.parts, of_rows.parts, strict=True):
        assert (by_counts.value, by_counts.p_value, by_counts.flagged) == (by_rows.value, by_rows.p_value, by_rows.flagged)


def test_a_fixed_range_with_many_rows_is_frozen_as_counts(world: World) -> None:
    one = check({"start": (TODAY - 9 * DAY).isoformat(), "end": (TODAY - 12 * HOUR).isoformat()})
    found = look(world, counting(world, one), TODAY + HOUR)
    assert found is not None
    assert found[0].name.startswith("fixed houses-")
    assert [p.flagged for p in found[1].parts] == [True, False]
    traffic(world, TODAY - 5 * DAY, TODAY - 4 * DAY, 3_000, seed=1, shift=500)  # late
    again = look(world, counting(world, one), TODAY + HOUR)
    assert again is not None
    assert (again[0].name, again[1]) == (found[0].name, found[1])


def test_a_feature_that_came_after_a_range_was_frozen_costs_no_rows(world: World) -> None:
    one = check({"start": (TODAY - 9 * DAY).isoformat(), "end": (TODAY - 12 * HOUR).isoformat()})
    assert look(world, counting(world, one), TODAY + HOUR) is not None
    traffic(world, TODAY + 2 * HOUR, TODAY + 3 * HOUR, 400, door="red")
    with world.store.read() as reader:
        features: Any = world.store.feature_columns("houses")
        pair = counting(world, one).look(reader, TODAY + 2 * HOUR, TODAY + 3 * HOUR, features)
        assert pair is not None
        reference, current = pair.reference(WHOLE), pair.current(WHOLE)
        assert isinstance(one.settings, DataDrift.Config)
        parts = {part.name: part for part in DataDrift(one.settings).compare(reference, current).parts}
        assert (parts["door"].outcome, parts["door"].reason) == (Outcome.NOT_EVALUABLE, "missing_column")
        assert parts["size"].outcome is Outcome.OK
        assert reference._table is None


def test_edges_that_no_longer_hold_the_reference_are_made_anew(world: World) -> None:
    one = counting(world, check({"trailing": "2d"}))
    first = look(world, one, TODAY)
    traffic(world, TODAY + 2 * HOUR, TODAY + 3 * DAY, 4_000, shift=1_000, door="red")
    second = look(world, one, TODAY + 3 * DAY)
    assert first is not None
    assert second is not None
    assert first[0].name.split(" on ")[1] != second[0].name.split(" on ")[1]
    assert {p.name for p in second[1].parts} == {"size", "kind", "door"}
    hashes = {path.name for path in (world.store.root / "summaries" / "houses").iterdir() if path.is_dir()}
    assert hashes == {second[0].name.split(" on ")[1]}
    assert not any(p.flagged for p in second[1].parts)


def test_a_slice_is_compared_with_the_same_slice(world: World) -> None:
    one = counting(world, check({"trailing": "9d"}, slices=[{"by": "kind", "top": 3}]))
    part = Slice("kind=a", (Condition("kind", ("a",)),))
    found = look(world, one, TODAY + HOUR, part)
    assert found is not None
    with world.store.read() as reader:
        rows = windows.predictions(
            reader, "houses", TODAY - 9 * DAY, TODAY + HOUR, world.store.feature_columns("houses"), frozenset({"features"})  # type: ignore[arg-type]
        )  # fmt: skip
        wanted = part.of(rows).rows
        features = world.store.feature_columns("houses")
        again = one.look(reader, TODAY, TODAY + HOUR, features)  # type: ignore[arg-type]
        assert again is not None
        counts = again.counts("kind")
    assert found[1].n_reference + found[1].n_current == wanted
    assert counts["a"] == found[1].n_current


def test_too_few_hours_are_resampled_as_rows(world: World) -> None:
    """Four weeks of one hour are four blocks: a sample of their rows stands for them."""
    for weeks in (4, 3, 2, 1):
        traffic(world, NOON - weeks * 7 * DAY, NOON - weeks * 7 * DAY + HOUR, 300, seed=weeks + 10)
    traffic(world, NOON, NOON + HOUR, 500, seed=20)
    found = look(world, counting(world, check({"seasonal": "4w"})), NOON + HOUR)
    assert found is not None
    pair, reading = found
    assert pair.rows is not None
    assert "a sample" in pair.name
    assert "block_rows" in reading.metrics
    assert reading.n_current == 500
    assert not any(p.flagged for p in reading.parts)


def test_a_check_of_the_daemon_reads_many_rows_from_summaries(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check({"trailing": "9d"}).model_dump(exclude={"settings"})])
    for meter in (one._meter for one in world.runners.values()):
        assert meter._counting is not None
        assert isinstance(meter._traffic, Predictions)
        meter._counting = Counting(meter.check, meter._traffic, meter._references, **FEW)
    traffic(world, TODAY - 10 * DAY, TODAY, 9_600)
    traffic(world, TODAY, TODAY + HOUR, 400, shift=40)
    traffic(world, TODAY + HOUR, TODAY + 2 * HOUR, 10)
    world.look()
    world.look()
    (reading,) = [r for r in world.rows("readings") if r["slot"] == TODAY + HOUR]
    assert (reading["outcome"], reading["value"]) == ("ok", 0.5)
    assert reading["n_reference"] == count(world, TODAY - 9 * DAY, TODAY)
    assert "counts on" in reading["reference"]
    assert '"basis":"summary"' in reading["parts"]


@pytest.mark.parametrize("column", ("size", "prediction"))
def test_one_column_is_read_from_summaries_where_it_is_a_feature(world: World, column: str) -> None:
    one = check({"trailing": "9d"}, detector="score_drift", settings={"resamples": 300, "column": column, "min_rows": 20})
    inputs = Predictions("houses", frozenset({column}), {})
    counts = Counting(one, inputs, References(world.store.root), **FEW)
    with world.store.read() as reader:
        pair = counts.look(reader, TODAY, TODAY + HOUR, world.store.feature_columns("houses"))  # type: ignore[arg-type]
        if column != "size":
            assert pair is None
            return
        assert pair is not None
        before, now = pair.reference(WHOLE), pair.current(WHOLE)
        assert isinstance(one.settings, ScoreDrift.Config)
        found = ScoreDrift(one.settings).compare(before, now)
    assert list(now.features) == ["size"], "nothing else is counted for it"
    assert [(part.name, part.flagged, part.basis) for part in found.parts] == [("size", True, "summary")]
    assert (found.n_reference, found.n_current) == (count(world, TODAY - 9 * DAY, TODAY), 400)
