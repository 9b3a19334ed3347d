"""Sealing: rows move from the hot file into segments, and a kill at any point loses and doubles nothing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from monitor import segments
from monitor.errors import StoreError
from monitor.quarantine import Quarantine
from monitor.segments import Sealer
from monitor.transaction import Transaction
from tests.monitor.support import NOON, World, append_labels, contexts, generation, label, prediction, sample, wait_for


def files(world: World, pattern: str = "*") -> list[str]:
    folder = world.store.root / segments.FOLDER
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(pattern) if p.is_file())


def hot(world: World, table: str = '"predictions:houses"') -> int:
    return int(world.state(f"SELECT count(*) AS n FROM {table}")[0]["n"])


def test_sealing_moves_rows_and_readers_still_see_them_once(world: World) -> None:
    world.send("predictions", prediction("a", features={"rooms": 3}), prediction("b"))
    world.send("labels", label("a"))
    before = world.rows("predictions"), world.rows("labels"), world.rows("batches", "")
    assert world.seal() == 3
    assert (hot(world), hot(world, "labels"), hot(world, "batches")) == (0, 0, 0)
    assert (world.rows("predictions"), world.rows("labels"), world.rows("batches", "")) == before
    assert files(world) == [
        "batches/_/2026-03-01/12/000000000001-000000000002.keys",
        "batches/_/2026-03-01/12/000000000001-000000000002.parquet",
        "labels/houses/2026-03-01/12/000000000001-000000000001.keys",
        "labels/houses/2026-03-01/12/000000000001-000000000001.parquet",
        "labels/houses/2026-03-01/12/000000000001-000000000001.records",
        "predictions/houses/2026-03-01/12/000000000001-000000000002.keys",
        "predictions/houses/2026-03-01/12/000000000001-000000000002.parquet",
    ]
    assert sample(world.metrics, "modelwatch_seal_segments_total", kind="predictions") == 1
    assert sample(world.metrics, "modelwatch_seal_last_success_timestamp_seconds") == NOON.timestamp()


def test_the_manifest_says_what_a_segment_holds(world: World) -> None:
    world.send("predictions", prediction("a", NOON - timedelta(hours=3)), prediction("b", NOON))
    world.seal()
    row = world.state("SELECT * FROM manifest WHERE kind = 'predictions'")[0]
    assert (row["first_seq"], row["last_seq"], row["rows"]) == (1, 2, 2)
    assert (row["min_time"], row["max_time"], row["max_received"]) == (NOON - timedelta(hours=3), NOON, NOON)
    segment = world.store.root / row["file"]
    assert (row["bytes"], row["level"]) == (segment.stat().st_size, "minute")
    assert row["sha256"] == hashlib.sha256(segment.read_bytes()).hexdigest()


@pytest.mark.parametrize("restart", (False, True), ids=("while running", "after a restart"))
def test_what_is_sealed_is_still_known(world: World, restart: bool) -> None:
    world.send("predictions", prediction("a"), prediction("b"))
    world.send("generations", generation("g", contexts=["one"]))
    world.seal()
    if restart:
        world.restart()
    answer = world.send("predictions", prediction("a"), prediction("b", prediction=5), prediction("c"))
    assert (answer.accepted, answer.duplicates, [r.reason for r in answer.rejects]) == (1, 1, ["conflict"])
    assert world.send("contexts", contexts("g", "one")).duplicates == 1
    assert [r["seq"] for r in world.rows("predictions")] == [1, 2, 3]


def test_rows_are_sealed_once_they_are_old_or_many(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.sealer = Sealer(world.store, clock=world.clock, metrics=world.metrics, seal_seconds=60, seal_rows=100)
    world.send("predictions", prediction("a"))
    assert world.sealer.seal_due() == 0
    world.clock.move(59)
    assert world.sealer.seal_due() == 0
    world.clock.move(1)
    assert world.sealer.seal_due() == 2, "the prediction and its batch"
    assert world.sealer.seal_due() == 0
    world.send("predictions", *(prediction(f"r{i}") for i in range(250)))
    assert world.sealer.seal_due() == 2, "two full segments; the rest is not old"
    assert (hot(world), world.store.sealed_seq("predictions", "houses")) == (50, 201)
    world.clock.move(60)
    world.sealer.seal_due()
    assert hot(world) == 0
    assert [r["seq"] for r in world.rows("predictions")] == list(range(1, 252))


def test_segments_with_other_features_are_read_together(world: World) -> None:
    for i, features in enumerate(({"a": 1}, {"a": 2, "b": "x"}, {"c": 3})):
        world.send("predictions", prediction(f"r{i}", features=features))
        world.seal()
    world.restart()
    assert [tuple(r.values()) for r in world.rows("predictions", columns="f_a, f_b, f_c")] == [
        (1.0, None, None),
        (2.0, "x", None),
        (None, None, 3.0),
    ]


def test_bounds_leave_out_only_segments_that_cannot_matter(world: World) -> None:
    for hour in range(4):
        world.send("predictions", prediction(f"r{hour}", NOON - timedelta(hours=hour)))
        world.seal()
    with world.store.read() as reader:
        for since, until in ((NOON - timedelta(hours=2), NOON), (NOON, None), (None, NOON - timedelta(hours=1))):
            where = " AND ".join(
                [*([f"event_time >= '{since}'"] if since else []), *([f"event_time < '{until}'"] if until else [])]
            )
            all_rows = reader.query(f"SELECT seq FROM {reader.source('predictions', 'houses')} WHERE {where} ORDER BY seq")
            source = reader.source("predictions", "houses", since=since, until=until)
            assert reader.query(f"SELECT seq FROM {source} WHERE {where} ORDER BY seq") == all_rows
            assert source.count(".parquet") == len(all_rows) < 4
        assert reader.source("predictions", "houses", after_seq=3).count(".parquet") == 1


def test_what_an_interrupted_seal_left_behind_is_removed_at_start(world: World) -> None:
    world.send("predictions", prediction("a"))
    world.seal()
    kept = files(world)
    folder = world.store.root / segments.FOLDER / "predictions" / "houses" / "2026-03-01" / "12"
    for name in ("000000000002-000000000009.parquet", "000000000002-000000000009.keys", "x.parquet.tmp", "x.keys.tmp"):
        (folder / name).write_bytes(b"half")
    world.restart()
    assert files(world) == kept
    assert world.ids("predictions") == ["a"]


def test_a_segment_that_is_gone_is_named_loudly(world: World) -> None:
    world.send("predictions", prediction("a"))
    world.seal()
    world.close()
    gone = next((world.store.root / segments.FOLDER / "predictions").rglob("*.parquet"))
    gone.rename(world.store.root / "elsewhere")
    with pytest.raises(StoreError, match=rf"{gone.name}: .* is gone; restore it from a backup"):
        world.open()
    (world.store.root / "elsewhere").rename(gone)
    world.open()
    assert world.ids("predictions") == ["a"]


def test_without_a_backup_an_empty_file_in_the_place_of_a_segment_lets_the_rest_go_on(world: World) -> None:
    for record_id in ("a", "b"):
        world.send("predictions", prediction(record_id))
        world.seal()
    world.close()
    gone = min((world.store.root / segments.FOLDER / "predictions").rglob("*.parquet"))
    gone.unlink()
    with pytest.raises(StoreError, match="an empty file in its place is set aside, and the rest goes on"):
        world.open()
    gone.touch()
    world.open()
    assert Quarantine(world.store, clock=world.clock, metrics=world.metrics).look() == 1
    assert world.ids("predictions") == ["b"]
    assert world.send("predictions", prediction("a")).duplicates == 1  # what it held is known all the same


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it happens."""


class Dying(Sealer):
    """Dies at one step of the protocol, as if the power went."""

    step: str

    def _copy(self, kind: str, rows: str, first: int, last: int, path: Path) -> Any:
        if self.step == "before the copy":
            raise Killed
        found = super()._copy(kind, rows, first, last, path)
        if self.step == "after the copy":
            raise Killed
        return found

    def _publish(self, path: Path, temporary: Path, found: Any) -> None:
        if self.step == "between keys and segment":
            for suffix, columns in found.items():
                segments.write_index(path.with_name(segments.index_file(path.name, suffix)), columns)
            raise Killed
        super()._publish(path, temporary, found)
        if self.step == "after the rename":
            raise Killed


class DyingTransaction:
    """A store whose next commit is killed: within the transaction, or between the commit and what follows it."""

    def __init__(self, world: World, step: str) -> None:
        self._world = world
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.store, name)

    def run(self, work: Callable[[Transaction], Any]) -> Any:
        def killed(transaction: Transaction) -> None:
            work(transaction)
            raise RuntimeError("killed")

        if self._step == "within the transaction":
            with pytest.raises(RuntimeError, match="killed"):
                self._world.store.run(killed)
        else:
            self._world.store.run(work)
        raise Killed


STEPS = (
    "before the copy", "after the copy", "between keys and segment", "after the rename", "within the transaction",
    "after the commit",
)  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_a_seal_that_is_killed_loses_and_doubles_nothing(world: World, step: str) -> None:
    world.send("predictions", prediction("a", features={"rooms": 1}), prediction("b"))
    before = world.rows("predictions")
    store: Any = DyingTransaction(world, step) if step in STEPS[4:] else world.store
    sealer = Dying(store, clock=world.clock, metrics=world.metrics, seal_seconds=60, seal_rows=1000)
    sealer.step = step
    with pytest.raises(Killed):
        sealer.seal("predictions", "houses")
    world.restart()
    assert world.rows("predictions") == before
    named = {row["file"].removeprefix("segments/") for row in world.state("SELECT file FROM manifest")}
    assert {str(Path(f).with_suffix(".parquet")) for f in files(world)} == named
    assert (len(named), hot(world)) == ((1, 0) if step == "after the commit" else (0, 2))
    assert world.send("predictions", prediction("a", features={"rooms": 1}), prediction("c")).duplicates == 1
    world.seal()
    world.restart()
    assert world.ids("predictions") == ["a", "b", "c"]


def test_a_seal_that_fails_is_repeated_and_leaves_nothing_twice(world: World) -> None:
    world.send("predictions", prediction("a"))
    sealer = Dying(world.store, clock=world.clock, metrics=world.metrics, seal_seconds=60, seal_rows=1000)
    sealer.step = "after the rename"
    with pytest.raises(Killed):
        sealer.seal("predictions", "houses")
    world.send("predictions", prediction("b"))
    assert world.seal() > 0  # by the same process, with the orphan still there
    assert world.ids("predictions") == ["a", "b"]
    world.restart()
    assert world.ids("predictions") == ["a", "b"]


def test_a_log_with_a_gap_is_not_sealed(world: World) -> None:
    world.store.run(append_labels(world.store, ["a", "b", "c"]))
    world.store.run(lambda t: t.execute("DELETE FROM labels WHERE seq = 2"))
    with pytest.raises(StoreError, match=r"2 rows for seq 1\.\.3; the log has a gap"):
        world.sealer.seal("labels", "houses")
    assert world.ids("labels") == ["a", "c"]


@pytest.fixture
def busy(world: World) -> Iterator[World]:
    """A world in which one thread sends and another seals, all the time."""
    stop = threading.Event()
    failures: list[BaseException] = []

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

    threads = [threading.Thread(target=again, args=(step,)) for step in (send, lambda n: world.seal())]
    for thread in threads:
        thread.start()
    yield world
    stop.set()
    for thread in threads:
        thread.join(10)
    assert failures == []


def test_a_reader_sees_each_row_once_while_rows_are_being_sealed(busy: World) -> None:
    wait_for(lambda: sample(busy.metrics, "modelwatch_seal_segments_total", kind="predictions"), "a first segment")
    looks, last = 0, 0
    while looks < 40:
        with busy.store.read() as reader:
            rows = reader.source("predictions", "houses")
            row = reader.query(f"SELECT count(*) AS n, count(DISTINCT seq) AS once, max(seq) AS last FROM {rows}")[0]
        assert row["n"] == row["once"] == row["last"] >= last
        looks, last = looks + 1, row["last"]
    assert last > 20


def test_the_folders_on_the_way_to_a_new_segment_are_synced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a power cut would lose cannot be seen from here, so the calls are counted.
    synced: set[Path] = set()
    monkeypatch.setattr(segments, "sync_folder", synced.add)
    world.send("predictions", prediction("a"))
    world.sealer.seal("predictions", "houses")
    folder = next((world.store.root / segments.FOLDER).rglob("*.parquet")).parent
    assert synced >= {folder, *[p for p in folder.parents if p == world.store.root or world.store.root in p.parents]}
