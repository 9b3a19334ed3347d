"""Summaries: what is kept by the hour is what would be counted of the rows, whatever came when and whatever was killed."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.cells import Cells
from detectors.contract import Frame
from detectors.summary import NumberSummary
from monitor import windows
from monitor.reader import Reader
from monitor.schema import FEATURE
from monitor.summaries import sketch
from monitor.summaries.basis import Basis, NumberEdges
from monitor.summaries.counting import HOUR_US, Hour, Sums, counted, of_window
from monitor.summaries.dayfile import DayFile
from monitor.summaries.ledger import Ledger
from monitor.summaries.sketch import Sketch
from monitor.summaries.sums import Sum, total
from tests.monitor.support import NOON, World, prediction

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
INPUTS = frozenset({"features"})
MIDNIGHT = datetime(2026, 2, 27, tzinfo=UTC)


def same(one: Mapping[str, Sum], other: Mapping[str, Sum]) -> None:
    """Counts to the last one, sums but for rounding."""
    assert one.keys() == other.keys()
    for name in one:
        a, b = one[name], other[name]
        assert a.counts.tolist() == b.counts.tolist()
        assert (a.missing, a.infinite) == (b.missing, b.infinite)
        for field in ("minimum", "maximum", "mean", "m2", "below", "above"):
            assert getattr(a, field) == pytest.approx(getattr(b, field), rel=1e-9, abs=1e-9, nan_ok=True)
        assert a.sketch.hashes.tolist() == b.sketch.hashes.tolist()


# --- sums ----------------------------------------------------------------------------------------------------------------

number = st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([math.inf, -math.inf, 0.0, -0.0, 1.0, 2.0]))
name = st.one_of(st.none(), st.sampled_from(["a", "b", "new", ""]))
row = st.tuples(st.integers(0, 3), number, name)
BASIS = Basis.of(
    Frame({"x": np.array([-5.0, 0.0, 1.0, 1.0, 2.0, 7.5]), "c": np.array(["a", "b", "b", "c", "a", "a"])}),
    {"x": "number", "c": "category"},
)


def batch(rows: Sequence[tuple[int, float | None, str | None]]) -> pa.RecordBatch:
    at, x, c = ([r[i] for r in rows] for i in range(3))
    columns = {"at": pa.array(at, pa.int64()), FEATURE + "x": pa.array(x, pa.float64()), FEATURE + "c": pa.array(c, pa.string())}
    return pa.RecordBatch.from_pydict(columns)


@settings(deadline=None)  # the first use of Arrow takes a second
@given(rows=st.lists(row, max_size=60), cuts=st.lists(st.integers(0, 60), max_size=3))
def test_parts_added_up_are_the_whole_counted_at_once(rows: list[tuple[int, float | None, str | None]], cuts: list[int]) -> None:
    bounds = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    parts = [rows[a:b] for a, b in itertools.pairwise(bounds)]
    whole = counted(iter([batch(rows)]), BASIS)
    in_parts = counted(iter([batch(part) for part in parts]), BASIS)
    assert whole.keys() == in_parts.keys() == {r[0] for r in rows}
    for hour in whole:
        same(whole[hour], in_parts[hour])
    by_hand = [x for _, x, _ in rows if x is not None and math.isfinite(x)]
    if rows:
        together = {n: total([sums[n] for sums in whole.values()], BASIS.columns[n]) for n in BASIS.columns}
        x, c = together["x"], together["c"]
        assert (x.rows, x.counts.sum()) == (len(rows), len(by_hand))
        assert x.infinite == sum(x is not None and math.isinf(x) for _, x, _ in rows)
        assert c.counts.tolist() == [
            *(sum(v == known for *_, v in rows) for known in ("a", "b", "c")),
            sum(v not in (None, "a", "b", "c") for *_, v in rows),
        ]
        if by_hand:
            assert (x.minimum, x.maximum) == (min(by_hand), max(by_hand))
            assert x.mean == pytest.approx(np.mean(by_hand), abs=1e-9)
            assert x.m2 == pytest.approx(np.var(by_hand) * len(by_hand), rel=1e-9, abs=1e-6)
            assert x.below == pytest.approx(sum(v for v in by_hand if v < -5), abs=1e-9)


def test_counts_are_those_of_the_cells_of_a_detector() -> None:
    rng = np.random.default_rng(0)
    sample, values = rng.standard_cauchy(5_000), rng.standard_cauchy(9_000)
    basis = Basis.of(Frame({"x": sample}), {"x": "number"})
    table = pa.table({"x": values})
    sums = of_window(windows.TableWindow(table, {"x": "number"}), basis)
    cells = Cells.of_numbers(sample)
    found = sums["x"].summary(basis.columns["x"])
    assert isinstance(found, NumberSummary)
    assert found.counts.tolist() == cells.count(cells.codes(values)).tolist()
    assert found.count * found.mean == pytest.approx(values.sum())
    assert found.sums.sum() == pytest.approx(values.sum(), rel=0.01)


@settings(deadline=None)  # the first use of Arrow takes a second
@given(st.lists(st.lists(st.integers(0, 5_000), max_size=400), min_size=1, max_size=5))
def test_a_sketch_of_parts_is_the_sketch_of_all(parts: list[list[int]]) -> None:
    def of(values: list[int]) -> Sketch:
        return Sketch.of(sketch.of_numbers(np.array(values, dtype=np.float64)))

    whole = of([value for part in parts for value in part])
    together = Sketch.total(of(part) for part in parts)
    assert (together.hashes.tolist(), together.share) == (whole.hashes.tolist(), whole.share)


@pytest.mark.parametrize("distinct", (1, 64, 1_000, 100_000))
def test_distinct_values_are_told_to_within_their_error(distinct: int) -> None:
    values = np.repeat(np.random.default_rng(1).normal(size=distinct), 3)
    found = Sketch.of(sketch.of_numbers(values)).distinct
    assert found == pytest.approx(distinct, rel=0 if distinct <= 64 else 0.4)


# --- a store of houses ---------------------------------------------------------------------------------------------------


def houses(seed: int, start: datetime, end: datetime, count: int, **features: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.uniform(0, (end - start).total_seconds(), count))
    return [
        prediction(
            f"h{seed}-{i}",
            start + timedelta(seconds=float(second)),
            features={"size": float(rng.normal(100, 30)), "kind": "abc"[int(rng.integers(3))], **features},
        )
        for i, second in enumerate(seconds)
    ]


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    world = make_world()
    world.send("predictions", *houses(1, MIDNIGHT, NOON, 1_500))
    return world


def ledger_of(world: World, basis: Basis | None = None, where: str = "true") -> Ledger:
    if basis is None:
        with world.store.read() as reader:
            features = world.store.feature_columns("houses")
            basis = Basis.of(windows.predictions(reader, "houses", MIDNIGHT, NOON, features, INPUTS), features)  # type: ignore[arg-type]
    return Ledger(world.store.root / "summaries" / "houses" / basis.hash / "all", "houses", basis, where=where)


def check_against_rows(world: World, ledger: Ledger, start: datetime, end: datetime) -> None:
    with world.store.read() as reader:
        rows = windows.predictions(reader, "houses", start, end, world.store.feature_columns("houses"), INPUTS)  # type: ignore[arg-type]
        same(ledger.window(reader, start, end), of_window(rows, ledger.basis))


WINDOWS = (
    pytest.param(MIDNIGHT, MIDNIGHT + 2 * DAY, id="days"),
    pytest.param(MIDNIGHT + 5 * HOUR, MIDNIGHT + 30 * HOUR, id="hours"),
    pytest.param(
        MIDNIGHT + timedelta(minutes=90), MIDNIGHT + timedelta(hours=50, minutes=7, microseconds=1), id="parts of hours"
    ),
    pytest.param(MIDNIGHT + timedelta(minutes=10), MIDNIGHT + timedelta(minutes=50), id="less than an hour"),
    pytest.param(MIDNIGHT + timedelta(minutes=50), MIDNIGHT + timedelta(minutes=70), id="across an hour"),
    pytest.param(MIDNIGHT - 9 * DAY, MIDNIGHT - 8 * DAY, id="nothing"),
)


@pytest.mark.parametrize(("start", "end"), WINDOWS)
def test_a_window_is_what_its_rows_are(world: World, start: datetime, end: datetime) -> None:
    ledger = ledger_of(world)
    check_against_rows(world, ledger, start, end)
    world.seal()
    world.send("predictions", *houses(2, MIDNIGHT, NOON, 300))
    check_against_rows(world, ledger, start, end)
    check_against_rows(world, ledger_of(world, ledger.basis), start, end)  # as after a restart


class Watched:
    """A reader that notes which times are counted."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.counted = 0

    def batches(self, *args: Any) -> Iterator[pa.RecordBatch]:
        for one in self._reader.batches(*args):
            self.counted += one.num_rows
            yield one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def rows_counted(world: World, ledger: Ledger, start: datetime, end: datetime) -> int:
    with world.store.read() as reader:
        watched = Watched(reader)
        ledger.window(watched, start, end)  # type: ignore[arg-type]
        return watched.counted


def test_only_what_is_new_is_counted(world: World) -> None:
    ledger = ledger_of(world)
    whole = MIDNIGHT, MIDNIGHT + 3 * DAY
    assert rows_counted(world, ledger, *whole) == 1_500
    assert rows_counted(world, ledger, *whole) == 0
    world.send("predictions", *houses(3, NOON - HOUR, NOON, 40))
    assert rows_counted(world, ledger, *whole) == 40
    assert rows_counted(world, ledger_of(world, ledger.basis), *whole) == 0
    check_against_rows(world, ledger, *whole)


def hours_of(ledger: Ledger, day: datetime) -> dict[Hour, Sums]:
    file = DayFile.open(ledger._folder / f"{day.date().isoformat()}.parquet", ledger.basis)
    assert file is not None
    return file.hours()


def test_a_late_record_touches_its_hour_and_no_other(world: World) -> None:
    ledger = ledger_of(world)
    check_against_rows(world, ledger, MIDNIGHT, MIDNIGHT + 3 * DAY)
    files = {path: path.read_bytes() for path in ledger._folder.glob("*.parquet")}
    before = hours_of(ledger, MIDNIGHT)
    late = MIDNIGHT + timedelta(hours=3, minutes=20)
    world.send("predictions", prediction("late", late, features={"size": 1e4, "kind": "new"}))
    check_against_rows(world, ledger, MIDNIGHT, MIDNIGHT + 3 * DAY)
    after = hours_of(ledger, MIDNIGHT)
    changed = [hour for hour in after if after[hour]["size"].rows != before[hour]["size"].rows]
    assert changed == [int(late.timestamp()) // 3600]
    for hour in before.keys() - set(changed):
        same(before[hour], after[hour])
    rewritten = [path.name for path, bytes_ in files.items() if path.read_bytes() != bytes_]
    assert rewritten == [f"{MIDNIGHT.date().isoformat()}.parquet"]


def test_a_kill_between_a_day_and_what_speaks_for_all_days_doubles_nothing(world: World) -> None:
    ledger = ledger_of(world)
    whole = MIDNIGHT, MIDNIGHT + 3 * DAY
    check_against_rows(world, ledger, *whole)
    spoken = (ledger._folder / "read_to").read_text()
    world.send("predictions", *houses(4, MIDNIGHT, NOON, 100))
    check_against_rows(world, ledger, *whole)
    (ledger._folder / "read_to").write_text(spoken)  # the days were written, and then came the kill
    check_against_rows(world, ledger_of(world, ledger.basis), *whole)
    (ledger._folder / "read_to").unlink()
    world.send("predictions", *houses(5, MIDNIGHT, NOON, 10))
    check_against_rows(world, ledger_of(world, ledger.basis), *whole)


@pytest.mark.parametrize("harm", ("gone", "cut", "flipped", "empty"))
def test_a_file_that_is_no_longer_what_it_was_is_counted_again(world: World, harm: str) -> None:
    ledger = ledger_of(world)
    whole = MIDNIGHT, MIDNIGHT + 3 * DAY
    check_against_rows(world, ledger, *whole)
    path = ledger._folder / f"{(MIDNIGHT + DAY).date().isoformat()}.parquet"
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    else:
        content[40] ^= 0xFF
        path.write_bytes({"cut": bytes(content[:-100]), "flipped": bytes(content), "empty": b""}[harm])
    check_against_rows(world, ledger, *whole)
    check_against_rows(world, ledger_of(world, ledger.basis), *whole)


def test_a_file_that_is_lost_when_rows_come_for_it_has_them_once(world: World) -> None:
    ledger = ledger_of(world)
    whole = MIDNIGHT, MIDNIGHT + 3 * DAY
    check_against_rows(world, ledger, *whole)
    (ledger._folder / f"{(MIDNIGHT + DAY).date().isoformat()}.parquet").unlink()
    world.send("predictions", *houses(8, MIDNIGHT, NOON, 100))
    check_against_rows(world, ledger, *whole)


def test_two_who_keep_the_same_days_double_nothing(world: World) -> None:
    """As when edges are given up and found again while somebody still counts on them."""
    one = ledger_of(world)
    whole = MIDNIGHT, MIDNIGHT + 3 * DAY
    check_against_rows(world, one, *whole)
    other = ledger_of(world, one.basis)
    for seed in (11, 12):
        world.send("predictions", *houses(seed, MIDNIGHT, NOON, 100))
        check_against_rows(world, other, *whole)
        check_against_rows(world, one, *whole)


def test_an_older_store_is_not_believed_to_hold_what_a_newer_one_did(world: World, make_world: Callable[..., World]) -> None:
    ledger = ledger_of(world)
    check_against_rows(world, ledger, MIDNIGHT, MIDNIGHT + 3 * DAY)
    older = make_world(world.store.root.parent / "restored")
    older.send("predictions", *houses(6, MIDNIGHT, NOON, 200))
    again = Ledger(ledger._folder, "houses", ledger.basis)
    check_against_rows(older, again, MIDNIGHT, MIDNIGHT + 3 * DAY)


def test_a_reader_that_sees_less_than_was_read_already_loses_nothing(world: World) -> None:
    ledger = ledger_of(world)
    old = world.store.read()
    reader = old.__enter__()
    try:
        reader.last_seq("predictions", "houses")  # its look begins here
        world.send("predictions", *houses(7, MIDNIGHT, NOON, 50))
        check_against_rows(world, ledger, MIDNIGHT, MIDNIGHT + DAY)
        # The second day is made by the one that does not see the 50.
        ledger.window(reader, MIDNIGHT + DAY, MIDNIGHT + 2 * DAY)
    finally:
        old.__exit__(None, None, None)
    as_killed = ledger._folder.with_name("killed")
    shutil.copytree(ledger._folder, as_killed)
    check_against_rows(world, Ledger(as_killed, "houses", ledger.basis), MIDNIGHT, MIDNIGHT + 3 * DAY)
    check_against_rows(world, ledger, MIDNIGHT, MIDNIGHT + 3 * DAY)


def test_a_clock_that_goes_back_changes_no_count(world: World) -> None:
    ledger = ledger_of(world)
    check_against_rows(world, ledger, MIDNIGHT, NOON)
    world.clock.move(-7_200)
    world.send("predictions", *houses(8, MIDNIGHT, NOON, 50))
    world.seal()
    check_against_rows(world, ledger, MIDNIGHT, NOON)


def test_a_slice_is_counted_by_its_condition(world: World) -> None:
    ledger = ledger_of(world)
    part = Ledger(ledger._folder.parent / "part", "houses", ledger.basis, where=f"\"{FEATURE}kind\" = 'a'")
    with world.store.read() as reader:
        whole, sums = (one.window(reader, MIDNIGHT, NOON) for one in (ledger, part))
    assert sums["kind"].counts.tolist() == [whole["kind"].counts[0], 0, 0, 0]
    assert 0 < sums["size"].rows == whole["kind"].counts[0]


def test_features_that_are_all_missing_all_different_or_infinite(make_world: Callable[..., World]) -> None:
    world = make_world()
    rows = houses(9, NOON - HOUR, NOON, 200)
    for i, one in enumerate(rows):
        one["features"] |= {"id": f"customer {i}", "empty": None, "one": 1.0, "huge": 1e300 + i * 1e297}
    world.send("predictions", *rows, prediction("z", NOON - HOUR, features={"empty": 3.0}))
    ledger = ledger_of(world)
    world.send("predictions", *houses(10, NOON - HOUR, NOON, 100, id="nobody", empty=4.0))
    check_against_rows(world, ledger, NOON - HOUR, NOON)
    with world.store.read() as reader:
        sums = ledger.window(reader, NOON - HOUR, NOON)
    of_ids = sums["id"].summary(ledger.basis.columns["id"])
    assert (of_ids.counts[-1], of_ids.distinct) == (100, 201)
    assert (sums["one"].counts.tolist(), sums["one"].missing) == ([0, 200, 0], 101)


def test_three_rows_are_three_rows(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.send("predictions", *houses(11, NOON - HOUR, NOON, 3))
    ledger = ledger_of(world)
    with world.store.read() as reader:
        assert ledger.window(reader, NOON - HOUR, NOON)["size"].rows == 3


def test_a_basis_is_known_by_its_hash_again(tmp_path: Path) -> None:
    frame = Frame(
        {"x": np.random.default_rng(2).normal(size=3_000), "c": np.array(["a", "ü", "b"] * 1_000), "n": [math.nan] * 3_000}
    )
    basis = Basis.of(frame, frame.features)
    basis.save(tmp_path / "basis.parquet")
    again = Basis.load(tmp_path / "basis.parquet")
    assert again.hash == basis.hash
    moved = Basis.of(Frame({"x": frame.numbers("x") + 1e-9, "c": ["a"] * 3_000, "n": [1.0] * 3_000}), frame.features)
    assert moved.hash != basis.hash
    edges = basis.columns["n"]
    assert isinstance(edges, NumberEdges)
    assert edges.size == 1


def test_what_is_kept_can_be_read_by_any_tool(world: World) -> None:
    ledger = ledger_of(world)
    check_against_rows(world, ledger, MIDNIGHT, MIDNIGHT + DAY)
    table = pq.read_table(ledger._folder / f"{MIDNIGHT.date().isoformat()}.parquet").to_pylist()
    of_day = [row for row in table if row["hour"] == -1 and row["feature"] == "size"]
    by_hour = [row for row in table if row["hour"] >= 0 and row["feature"] == "size"]
    assert sum(of_day[0]["counts"]) == sum(sum(row["counts"]) for row in by_hour)
    assert {row["hour"] * HOUR_US * 1e-6 // 86_400 for row in by_hour} == {MIDNIGHT.timestamp() // 86_400}
