"""Compaction: many small segments become few, every query gives the same all the while, and a kill leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from monitor import faultpoints, segments
from monitor.compaction import Compactor
from monitor.errors import StoreError
from monitor.inputs import inputs
from monitor.keys import hash64
from monitor.segments import Sealer
from tests.monitor.support import NOON, World, append_labels, contexts, generation, label, prediction, sample, wait_for

HOUR = 3600
MIDNIGHT = NOON + timedelta(hours=12)
POINTS = [name for name in faultpoints.POINTS if name.startswith("compact.")]


def compactor(world: World, **settings: Any) -> Compactor:
    settings = {"after_seconds": 300, "max_bytes": 2**30, **settings}
    return Compactor(world.store, clock=world.clock, metrics=world.metrics, **settings)


def work(one: Compactor) -> int:
    steps = 0
    while one.step():
        steps += 1
    return steps


def segments_of(world: World, kind: str, model: str = "houses") -> list[dict[str, Any]]:
    found = world.state("SELECT * FROM manifest WHERE kind = ? AND model = ? ORDER BY first_seq", kind, model)
    assert [r["first_seq"] for r in found] == [1, *(r["last_seq"] + 1 for r in found[:-1])][: len(found)], "no gap, no overlap"
    return found


def on_disk(world: World) -> set[str]:
    folder = world.store.root / segments.FOLDER
    return {str(p.relative_to(world.store.root)) for p in folder.rglob("*") if p.is_file()}


def named(world: World, table: str = "manifest", where: str = "true") -> set[str]:
    rows = world.state(f"SELECT kind, file FROM {table} WHERE {where}")
    return {f for r in rows for f in (r["file"], *(segments.index_file(r["file"], s) for s in segments.indexes(r["kind"])))}


def hours(world: World, count: int, each: int = 3) -> None:
    """Predictions with features that come and go, sealed `each` times an hour."""
    for n in range(count * each):
        features = {"always": n} | ({"rare": n} if n % 3 == 0 else {}) | ({"town": "Oslo"} if n > 1 else {})
        at = world.clock.now()
        world.send("predictions", prediction(f"p{n}", at, features=features), prediction(f"q{n}", at - timedelta(days=1)))
        world.send("labels", label(f"p{n}", float(n)))
        world.seal()
        world.clock.move(HOUR / each)


def words(world: World) -> dict[str, Any]:
    """What queries of every sort give."""
    with world.store.read() as reader:
        window = reader.source("predictions", "houses", since=NOON + timedelta(hours=1), until=NOON + timedelta(hours=3))
        later = reader.source("predictions", "houses", after_seq=7)
        found = {
            "window": reader.query(f"SELECT seq FROM {window} WHERE event_time >= '{NOON + timedelta(hours=1)}' ORDER BY seq"),
            "later": reader.query(f"SELECT seq, f_rare FROM {later} WHERE seq > 7 ORDER BY seq"),
            "joined": reader.query(
                f"SELECT p.seq, label, f_town FROM {reader.source('predictions', 'houses')} p "
                f"JOIN {reader.source('labels', 'houses')} l USING (record_id) ORDER BY p.seq"
            ),
        }
    known = world.store.keys("predictions", "houses").find([hash64(f"p{n}") for n in range(40)])
    return found | {"all": world.rows("predictions"), "labels": world.rows("labels"), "known": known}


def test_the_segments_of_closed_hours_become_one_each_and_those_of_a_closed_day_one(world: World) -> None:
    hours(world, 5)
    before = words(world)
    assert len(segments_of(world, "predictions")) == 15
    work(compactor(world))
    found = segments_of(world, "predictions")
    assert [r["level"] for r in found] == ["hour"] * 4 + ["minute"] * 3, "the last hour is over, but not for five minutes"
    assert words(world) == before
    world.clock.move(300)
    work(compactor(world))
    assert [(r["level"], r["rows"]) for r in segments_of(world, "predictions")] == [("hour", 6)] * 5
    world.clock.move(8 * HOUR)
    work(compactor(world))
    found = segments_of(world, "predictions")
    assert [(r["level"], r["first_seq"], r["last_seq"], r["rows"]) for r in found] == [("day", 1, 30, 30)]
    assert found[0]["file"] == "segments/predictions/houses/2026-03-01/000000000001-000000000030.parquet"
    assert (found[0]["min_time"], found[0]["max_time"]) == (NOON - timedelta(days=1), NOON + timedelta(hours=5, minutes=-20))
    assert found[0]["sha256"] == segments.sha256(world.store.root / found[0]["file"])
    assert words(world) == before
    world.restart()
    assert words(world) == before
    assert sample(world.metrics, "modelwatch_compact_segments_total", kind="predictions", level="hour") is None  # a new registry


def test_what_was_merged_is_counted(world: World) -> None:
    hours(world, 2)
    world.clock.move(24 * HOUR)
    work(compactor(world))
    assert sample(world.metrics, "modelwatch_compact_segments_total", kind="predictions", level="hour") == 2
    assert sample(world.metrics, "modelwatch_compact_segments_total", kind="predictions", level="day") == 1
    assert sample(world.metrics, "modelwatch_compact_last_success_timestamp_seconds") == NOON.timestamp() + 26 * HOUR


def test_days_of_many_small_segments_are_few_files_at_any_time(world: World) -> None:
    one = compactor(world)
    most = 0
    for n in range(2 * 24 * 4):  # two days, sealed every quarter of an hour
        world.store.run(append_labels(world.store, [f"r{n}"]))
        world.sealer.seal("labels", "houses")
        world.clock.move(HOUR / 4)
        work(one)
        most = max(most, len(segments_of(world, "labels")))
    assert most <= 2 + 24 + 5, "closed days, hours of the open one, and the open hour"
    world.clock.move(121)
    work(one)
    assert on_disk(world) == named(world)
    assert world.ids("labels") == [f"r{n}" for n in range(192)]


def test_a_retry_of_what_has_been_merged_is_known(world: World) -> None:
    hours(world, 4)
    world.send("generations", generation("g", contexts=["one"]))
    world.seal()
    world.send("contexts", contexts("g", "two"))
    world.seal()
    world.clock.move(24 * HOUR)
    work(compactor(world))
    for _ in range(2):
        answer = world.send("predictions", prediction("q0", NOON - timedelta(days=1)), prediction("p11", NOON, prediction=5))
        assert (answer.accepted, answer.duplicates, [r.reason for r in answer.rejects]) == (0, 1, ["conflict"])
        assert world.send("contexts", contexts("g", "two")).duplicates == 1
        world.restart()


def test_a_feature_that_only_some_segments_have_is_null_elsewhere(world: World) -> None:
    hours(world, 2)
    before = {n: [r[n] for r in world.rows("predictions")] for n in ("f_always", "f_rare", "f_town")}
    world.clock.move(24 * HOUR)
    work(compactor(world))
    assert {n: [r[n] for r in world.rows("predictions")] for n in before} == before

    with world.store.read() as reader:
        types = reader.query(f"DESCRIBE SELECT * FROM {reader.source('predictions', 'houses')}")
        file = segments_of(world, "predictions")[0]["file"]
        merged = reader.query(f"DESCRIBE SELECT * FROM read_parquet('{world.store.root / file}')")
    kinds = {r["column_name"]: r["column_type"] for r in types}
    assert {r["column_name"]: r["column_type"] for r in merged} == {n: kinds[n] for n in (r["column_name"] for r in merged)}
    assert (kinds["f_rare"], kinds["f_town"], kinds["event_time"]) == ("DOUBLE", "VARCHAR", "TIMESTAMP WITH TIME ZONE")


def test_merged_segments_grow_no_larger_than_they_may(world: World) -> None:
    hours(world, 4)
    most = 5 * max(r["bytes"] for r in segments_of(world, "predictions")) // 2
    world.clock.move(24 * HOUR)
    work(compactor(world, max_bytes=most))
    found = segments_of(world, "predictions")
    assert 1 < len(found) < 12
    assert all(r["bytes"] <= most for r in found)
    assert work(compactor(world, max_bytes=most)) == 0, "and then nothing is left to do"


def test_replaced_files_stay_for_those_who_may_still_read_them(world: World) -> None:
    hours(world, 2)
    world.audit.refresh()
    shown = [world.clock.monotonic()]
    one = compactor(world, shown=lambda: shown[0])
    old = named(world)
    with world.store.read() as reader:
        source = reader.source("predictions", "houses")
        world.clock.move(24 * HOUR)
        work(one)
        assert len(segments_of(world, "predictions")) == 1
        world.clock.move(121)
        work(one)
        assert old <= on_disk(world), "a look of ours goes on"
        assert len(reader.query(f"SELECT seq FROM {source}")) == 12
    work(one)
    assert old <= on_disk(world), "the auditors' views still name them"
    with duckdb.connect(str(world.store.root / "audit.duckdb"), read_only=True) as auditor:
        auditor.execute(f"SET file_search_path = '{world.store.root}'")
        assert auditor.execute("SELECT count(*) FROM predictions").fetchall() == [(12,)]
        world.audit.refresh()
        shown[0] = world.clock.monotonic()
        assert auditor.execute("SELECT count(*) FROM predictions").fetchall() == [(12,)]
    work(one)
    assert on_disk(world) == named(world)
    assert world.state("SELECT count(*) AS n FROM manifest_history WHERE deleted_at IS NULL") == [{"n": 0}]
    assert not [p for p in (world.store.root / segments.FOLDER).rglob("*") if p.is_dir() and not any(p.iterdir())]


def test_replaced_files_outlive_a_restart_and_are_removed_after_it(world: World) -> None:
    hours(world, 2)
    old = named(world)
    world.clock.move(24 * HOUR)
    work(compactor(world))
    world.restart()
    one = compactor(world)
    work(one)
    assert old <= on_disk(world)
    world.clock.move(121)
    work(one)
    assert on_disk(world) == named(world)
    world.restart()
    assert len(world.rows("predictions")) == 12


def test_the_history_says_what_replaced_a_segment(world: World) -> None:
    hours(world, 2)
    before = {r["file"]: r for r in segments_of(world, "predictions")}
    world.clock.move(24 * HOUR)
    one = compactor(world)
    work(one)
    world.clock.move(121)
    work(one)
    history = {r["file"]: r for r in world.state("SELECT * FROM manifest_history WHERE kind = 'predictions'")}
    assert {f: {**r, "quarantined": None} for f, r in history.items() if f in before} == {
        f: {**history[f], **r} for f, r in before.items()
    }
    day = segments_of(world, "predictions")[0]["file"]
    parents = {f for f, r in history.items() if r["replaced_by"] == day}
    assert {history[f]["level"] for f in parents} == {"hour"}
    assert {r["replaced_by"] for f, r in history.items() if f in before} == parents
    assert all(r["deleted_at"] is not None for r in history.values())


def test_a_segment_with_a_flipped_bit_is_named_and_left_alone_and_others_are_merged(world: World) -> None:
    hours(world, 2)
    bad = segments_of(world, "predictions")[1]["file"]
    path = world.store.root / bad
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    world.clock.move(24 * HOUR)
    one = compactor(world)
    with pytest.raises(StoreError, match=rf"{bad}: its bytes are not those that were sealed"):
        work(one)
    work(one)
    found = segments_of(world, "predictions")
    assert [r["rows"] for r in found] == [2, 2, 8]
    assert found[1]["file"] == bad
    assert len(segments_of(world, "labels")) == 1
    assert not [p for p in on_disk(world) if p.endswith(".tmp")]


def test_a_clock_that_jumped_ahead_and_back_keeps_no_hour_open_for_ever(world: World) -> None:
    for jump in (0, 365 * 24 * HOUR, -365 * 24 * HOUR):
        world.clock.move(jump)
        for n in range(3):
            world.send("labels", label(f"{jump}-{n}"))
            world.seal()
    world.clock.move(48 * HOUR)
    work(compactor(world))
    assert [(r["rows"], r["sealed_at"].year) for r in segments_of(world, "labels")] == [(3, 2026), (3, 2027), (3, 2026)]


def test_a_disk_that_is_full_leaves_everything_as_it_was(world: World) -> None:
    hours(world, 2)
    before, rows = named(world), words(world)
    world.clock.move(24 * HOUR)
    one = compactor(world)

    def full(name: str) -> None:
        if name == "compact.synced":
            raise OSError(28, "No space left on device")

    faultpoints.arm(full)
    try:
        with pytest.raises(OSError, match="No space left"):
            work(one)
    finally:
        faultpoints.arm(None)
    assert (on_disk(world), words(world)) == (before, rows)
    work(one)
    assert words(world) == rows
    assert len(segments_of(world, "predictions")) == 1


def test_what_its_transaction_could_not_store_is_done_again(world: World) -> None:
    hours(world, 2)
    rows = words(world)
    world.clock.move(24 * HOUR)
    one = compactor(world)

    def away(name: str) -> None:
        if name == "compact.manifest":
            raise RuntimeError("killed")

    faultpoints.arm(away)
    try:
        with pytest.raises(RuntimeError, match="killed"):
            work(one)
    finally:
        faultpoints.arm(None)
    assert words(world) == rows
    work(one)
    assert words(world) == rows
    world.restart()
    assert words(world) == rows
    assert named(world) <= on_disk(world) == named(world) | named(world, "manifest_history", "deleted_at IS NULL")


DIES = """
import os, sys
from datetime import timedelta
from pathlib import Path
from monitor import faultpoints
from tests.monitor.support import NOON, FakeClock, World
from tests.monitor.test_compaction import compactor, work
root, point = Path(sys.argv[1]), sys.argv[2]
def passed(name):
    if name == point:
        os._exit(9)
world = World(root, FakeClock(NOON + timedelta(hours=26)))
faultpoints.arm(passed)
one = compactor(world)
work(one)
world.clock.move(121)
work(one)
os._exit(0)
"""


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_it_loses_and_doubles_nothing(make_world: Callable[..., World], tmp_path: Path, point: str) -> None:
    root = tmp_path / "store"
    world = make_world(root)
    hours(world, 2, each=2)
    rows = words(world)
    world.close()
    assert subprocess.run([sys.executable, "-c", DIES, str(root), point], timeout=120).returncode == 9
    world.open()
    assert words(world) == rows
    assert named(world) <= on_disk(world) <= named(world) | named(world, "manifest_history", "deleted_at IS NULL")
    world.clock.move(24 * HOUR)
    one = compactor(world)
    work(one)
    world.clock.move(121)
    work(one)
    assert words(world) == rows
    assert on_disk(world) == named(world)
    assert len(segments_of(world, "predictions")) == 1


@pytest.fixture
def churning(world: World) -> Iterator[World]:
    """A world in which rows are sent and sealed, and every segment is merged as soon as there are two."""
    stop, failures = threading.Event(), []
    one = compactor(world, after_seconds=0)

    def again(step: Callable[[int], object]) -> None:
        n = 0
        try:
            while not stop.is_set():
                step(n)
                n += 1
        except BaseException as exc:
            failures.append(exc)

    def send(n: int) -> object:
        return world.send("predictions", *(prediction(f"{n}-{i}", features={f"x{n % 7}": i}) for i in range(20)))

    def later(n: int) -> object:
        world.clock.move(HOUR)
        return work(one)

    threads = [threading.Thread(target=again, args=(step,)) for step in (send, lambda n: world.seal(), later)]
    for thread in threads:
        thread.start()
    yield world
    stop.set()
    for thread in threads:
        thread.join(10)
    assert failures == []


def test_a_reader_sees_each_row_once_while_segments_are_merged_and_deleted(churning: World) -> None:
    metric = "modelwatch_compact_segments_total"
    wait_for(lambda: sample(churning.metrics, metric, kind="predictions", level="hour"), "a first merge")
    looks, last = 0, 0
    while looks < 30:
        with churning.store.read() as reader:
            rows = reader.source("predictions", "houses")
            row = reader.query(f"SELECT count(*) AS n, count(DISTINCT seq) AS once, max(seq) AS last FROM {rows}")[0]
        assert row["n"] == row["once"] == row["last"] >= last
        looks, last = looks + 1, row["last"]
    assert last > 20


def test_a_merged_segment_has_row_groups_in_the_order_of_seq(world: World) -> None:
    hours(world, 2)
    world.clock.move(24 * HOUR)
    work(compactor(world))
    path = world.store.root / segments_of(world, "predictions")[0]["file"]
    table = pq.read_table(path)
    assert table["seq"].to_pylist() == list(range(1, 13))
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"
    assert table.schema.metadata is None


def test_scoring_reads_the_same_inputs_after_its_segments_were_merged(world: World) -> None:
    for n in range(4):
        world.send("generations", generation(f"g{n}", contexts=[f"one {n}", f"two {n}"]))
        world.seal()
    looked_for = world.state("SELECT * FROM work ORDER BY seq")
    with world.store.read() as reader:
        before = inputs(reader, "bot", looked_for)
    world.clock.move(24 * HOUR)
    work(compactor(world))
    with world.store.read() as reader:
        assert inputs(reader, "bot", looked_for) == before
    assert len(before) == 4


def test_the_thread_merges_by_itself_and_stops_at_once(world: World) -> None:
    world.sealer = Sealer(world.store, clock=world.clock, metrics=world.metrics, seal_seconds=60, seal_rows=1000)
    hours(world, 2)
    world.clock.move(24 * HOUR)
    one = compactor(world)
    one._idle_seconds = 0.01
    one.start()
    try:
        wait_for(lambda: len(segments_of(world, "predictions")) == 1, "one segment of the day")
        nice = os.getpriority(os.PRIO_PROCESS, one._thread.native_id or 0)
        assert nice == 19
        assert os.getpriority(os.PRIO_PROCESS, 0) < 19, "only that thread"
    finally:
        one.stop()
    assert not one._thread.is_alive()
