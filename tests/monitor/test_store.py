"""The hot tier: group commits, what a failure leaves behind, what a restart brings back, and who may open the file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from monitor import hotfile
from monitor.config import StoreConfig
from monitor.errors import StoreError, StoreTooNew, StoreUnavailable
from monitor.keys import hash64
from monitor.metrics import Metrics
from monitor.schema.state import VERSION
from monitor.store import Store
from monitor.transaction import Transaction
from tests.monitor.support import NOON, FakeClock, Held, World, append_labels, prediction, sample, wait_for


def fail(transaction: Transaction) -> None:
    raise RuntimeError("this job's own fault")


def seqs(world: World, kind: str = "labels", model: str = "houses") -> list[int]:
    return [row["seq"] for row in world.rows(kind, model, "seq")]


def test_what_waits_is_committed_together(world: World) -> None:
    held = Held(world.store)
    jobs = [world.store.submit(append_labels(world.store, [f"r{i}"])) for i in range(20)]
    held.release()
    assert [job.result(10) for job in jobs] == list(range(1, 21))
    assert sample(world.metrics, "modelwatch_store_commits_total") == 2  # the held one, and all the others
    assert world.ids("labels") == [f"r{i}" for i in range(20)]


def test_a_group_ends_where_more_would_only_make_the_answer_later(world: World) -> None:
    held = Held(world.store)
    jobs = [world.store.submit(append_labels(world.store, ["r"]), records=2000) for _ in range(6)]
    held.release()
    for job in jobs:
        job.result(10)
    assert sample(world.metrics, "modelwatch_store_commits_total") == 1 + 3


def test_one_jobs_failure_fails_no_other(world: World) -> None:
    held = Held(world.store)
    good = [world.store.submit(append_labels(world.store, [f"r{i}"])) for i in range(3)]
    bad = world.store.submit(fail)
    later = world.store.submit(append_labels(world.store, ["r3"]))
    held.release()
    with pytest.raises(RuntimeError, match="own fault"):
        bad.result(10)
    assert [job.result(10) for job in (*good, later)] == [1, 2, 3, 4]
    assert seqs(world) == [1, 2, 3, 4]
    assert sample(world.metrics, "modelwatch_store_commit_failures_total", reason="job") == 1


def test_a_rollback_leaves_no_rows_no_keys_no_columns_and_no_gap(world: World) -> None:
    def half(transaction: Transaction) -> None:
        first = append_labels(world.store, ["lost"])(transaction)
        transaction.put_keys("labels", "houses", [hash64("lost")], [1], first)
        transaction.add_features("houses", {"rooms": "number"})
        transaction.advance_watermark("houses", NOON)
        raise RuntimeError("half way")

    world.store.run(append_labels(world.store, ["kept"]))
    with pytest.raises(RuntimeError, match="half way"):
        world.store.run(half)
    assert world.ids("labels") == ["kept"]
    assert world.store.keys("labels", "houses").find([hash64("lost")]) == [None]
    assert (world.store.feature_columns("houses"), world.store.watermark("houses")) == ({}, None)
    assert world.store.run(append_labels(world.store, ["next"])) == 2


def test_every_log_counts_for_itself(world: World) -> None:
    for model, ids in (("houses", ["a", "b"]), ("cars", ["c"]), ("houses", ["d"])):
        world.store.run(append_labels(world.store, ids, model))
    assert (seqs(world), seqs(world, model="cars")) == ([1, 2, 3], [1])
    assert world.store.logs() == [("labels", "cars"), ("labels", "houses")]


def test_what_failed_because_the_disk_did_can_be_sent_again(world: World) -> None:
    def no_space(transaction: Transaction) -> None:
        raise duckdb.IOException("Could not write file: No space left on device")

    with pytest.raises(StoreUnavailable, match="No space left"):
        world.store.run(no_space)
    assert sample(world.metrics, "modelwatch_store_commit_failures_total", reason="io") == 1


def test_a_sender_that_gives_up_waiting_does_not_stop_the_writer(world: World) -> None:
    held = Held(world.store)
    given_up = world.store.submit(append_labels(world.store, ["a"]))
    given_up.cancel()
    held.release()
    assert world.store.run(append_labels(world.store, ["b"])) == 2


def test_a_dead_writer_is_heard_of_by_everybody(world: World) -> None:
    def die(transaction: Transaction) -> None:
        raise SystemExit("out of the blue")

    held = Held(world.store)
    killer: Future[None] = world.store.submit(die)
    waiting = world.store.submit(append_labels(world.store, ["a"]), records=5000)
    held.release()
    for future in (killer, waiting):
        with pytest.raises(StoreUnavailable, match="writer died: SystemExit"):
            future.result(10)
    with pytest.raises(StoreUnavailable, match="writer died"):
        world.store.submit(append_labels(world.store, ["b"]))
    assert "writer died" in (world.store.unavailable or "")
    assert world.store.broken == world.store.unavailable, "what restarts a daemon has to know that it must"
    assert sample(world.metrics, "modelwatch_store_degraded") == 1


def test_what_cannot_be_counted_is_stored_and_answered_all_the_same(world: World) -> None:
    def counted_wrongly(transaction: Transaction) -> str:
        transaction.count_on_commit(lambda: world.metrics.commits.inc(-1))  # which no counter takes
        return "stored"

    assert world.store.run(counted_wrongly) == "stored"
    assert world.store.run(append_labels(world.store, ["a"])) == 1
    assert world.store.unavailable is None


def test_after_a_fatal_error_the_file_is_opened_again_and_asked_what_it_holds(world: World) -> None:
    world.send("predictions", prediction("a", features={"rooms": 3}))
    world.seal()
    world.send("predictions", prediction("b"))

    def fatal(transaction: Transaction) -> None:
        raise duckdb.FatalException("database has been invalidated")

    held = Held(world.store)
    broken, beside = world.store.submit(fatal), world.store.submit(append_labels(world.store, ["x"]))
    held.release()
    for future in (broken, beside):
        with pytest.raises(StoreUnavailable, match="being reopened"):
            future.result(10)
    wait_for(lambda: sample(world.metrics, "modelwatch_store_reopens_total"), "the store to be reopened")
    assert sample(world.metrics, "modelwatch_store_commit_failures_total", reason="fatal") == 1
    assert sample(world.metrics, "modelwatch_store_degraded") == 0
    assert world.ids("predictions") == ["a", "b"]
    assert world.send("predictions", prediction("a", features={"rooms": 3}), prediction("b"), prediction("c")).duplicates == 2
    assert seqs(world, "predictions") == [1, 2, 3]


class Stubborn(Store):
    """A file that cannot be opened again at once, as while the disk is full."""

    refusals = 0

    def _open(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreError("no space left")
        super()._open()


def test_while_the_file_cannot_be_opened_nobody_is_kept_waiting(tmp_path: Path, metrics: Metrics) -> None:
    config = StoreConfig(path=tmp_path / "store", min_free_bytes=0)
    store = Stubborn(config, clock=FakeClock(), metrics=metrics, queue_records=10_000, queue_bytes=1000)

    def fatal(transaction: Transaction) -> None:
        store.refusals = 2
        raise duckdb.FatalException("database has been invalidated")

    held = Held(store)
    jobs: list[Future[Any]] = [store.submit(fatal, records=5000)]
    jobs.append(store.submit(append_labels(store, ["in the queue"]), records=1))
    held.release()
    for job in jobs:
        with pytest.raises(StoreUnavailable, match="being reopened"):
            job.result(10)
    with pytest.raises(StoreUnavailable, match="being reopened"):
        store.submit(append_labels(store, ["meanwhile"]), records=1)
    assert "being reopened" in (store.unavailable or "")
    wait_for(lambda: store.unavailable is None, "the store to be back")
    assert store.run(append_labels(store, ["after"])) == 1
    assert sample(metrics, "modelwatch_queue_records", queue="inbox") == 0
    store.close()


def away(world: World) -> Path:
    """Take the store's folder from under the daemon, and wait until it says so."""
    elsewhere = world.store.root.with_name("elsewhere")
    world.store.root.rename(elsewhere)
    world.clock.move(2)
    wait_for(lambda: world.store.unavailable, "the store to notice")
    return elsewhere


def test_a_folder_that_is_gone_is_told_and_is_gone_on_with_when_it_is_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.send("predictions", prediction("before"))
    elsewhere = away(world)
    with pytest.raises(StoreUnavailable, match=r"hot\.duckdb: No such file or directory; bring the store's folder back"):
        world.send("predictions", prediction("meanwhile"))
    assert sample(world.metrics, "modelwatch_store_degraded") == 1
    assert "nothing can be stored" in caplog.text
    elsewhere.rename(world.store.root)
    world.clock.move(2)
    wait_for(lambda: world.store.unavailable is None, "the store to be back")
    assert world.send("predictions", prediction("after")).accepted == 1
    assert sample(world.metrics, "modelwatch_store_degraded") == 0
    assert sample(world.metrics, "modelwatch_store_reopens_total") == 0, "nothing was lost of what is in memory"
    world.restart()
    assert world.ids("predictions") == ["before", "after"]


def test_what_is_committed_into_a_folder_that_is_gone_is_not_acknowledged(world: World) -> None:
    world.send("predictions", prediction("before"))
    elsewhere = world.store.root.with_name("elsewhere")
    world.store.root.rename(elsewhere)  # and nobody has looked yet
    with pytest.raises(StoreUnavailable, match="bring the store's folder back"):
        world.send("predictions", prediction("then"), prediction("too"))
    elsewhere.rename(world.store.root)
    world.clock.move(2)
    wait_for(lambda: world.store.unavailable is None, "the store to be back")
    again = world.send("predictions", prediction("then"), prediction("too"), prediction("after"))
    assert (again.accepted, again.duplicates) == (1, 2)
    world.restart()
    assert [(r["seq"], r["record_id"]) for r in world.rows("predictions")] == [
        (1, "before"), (2, "then"), (3, "too"), (4, "after"),
    ]  # fmt: skip


def test_what_was_sent_again_is_counted_when_its_sender_hears_of_it_and_not_each_time_the_folder_is_gone(world: World) -> None:
    world.send("predictions", prediction("p1"))
    elsewhere = world.store.root.with_name("elsewhere")
    world.store.root.rename(elsewhere)  # and nobody has looked yet
    both = [prediction("p1"), prediction("p2")]
    with pytest.raises(StoreUnavailable, match="bring the store's folder back"):
        world.send("predictions", *both)
    elsewhere.rename(world.store.root)
    assert sample(world.metrics, "modelwatch_ingest_records_total", model="houses", kind="predictions") == 2, "both are stored"
    assert not sample(world.metrics, "modelwatch_ingest_records_duplicate_total", model="houses", kind="predictions")
    world.clock.move(2)
    wait_for(lambda: world.store.unavailable is None, "the store to be back")
    assert world.send("predictions", *both).duplicates == 2
    assert sample(world.metrics, "modelwatch_ingest_records_duplicate_total", model="houses", kind="predictions") == 2


def test_a_copy_in_the_place_of_the_folder_is_opened_and_an_empty_one_is_not_begun(world: World) -> None:
    world.send("predictions", prediction("kept"))
    world.restart()
    backup = world.store.root.with_name("backup")
    shutil.copytree(world.store.root, backup)
    world.send("predictions", prediction("after the backup"))
    away(world)
    world.store.root.mkdir()
    world.clock.move(2)
    with pytest.raises(StoreUnavailable, match="bring the store's folder back"):
        world.send("predictions", prediction("meanwhile"))
    assert list(world.store.root.iterdir()) == []
    world.store.root.rmdir()
    backup.rename(world.store.root)
    world.clock.move(2)
    wait_for(lambda: sample(world.metrics, "modelwatch_store_reopens_total"), "it to be opened")
    wait_for(lambda: world.store.unavailable is None, "the store to be back")
    assert world.ids("predictions") == ["kept"]
    assert world.send("predictions", prediction("after the backup")).accepted == 1


def test_readers_in_the_middle_of_a_query_do_not_keep_the_file_from_being_opened_again(world: World) -> None:
    world.send("predictions", *(prediction(f"r{i}", features={"x": i}) for i in range(5000)))
    rows = '"predictions:houses"'
    slow = f"SELECT count(*) FROM {rows} a, {rows} b WHERE a.f_x < b.f_x AND b.seq < 3000"
    stop, ended, answers = threading.Event(), list[BaseException](), list[object]()

    def read() -> None:
        while not stop.is_set():
            try:
                with world.store.read() as reader:
                    answers.append(reader.query(slow))
            except (StoreUnavailable, duckdb.Error):
                stop.wait(0.01)  # as everybody who reads has to expect
            except BaseException as exc:
                ended.append(exc)
                raise

    def fatal(transaction: Transaction) -> None:
        raise duckdb.FatalException("database has been invalidated")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for n in range(1, 4):
            seen = len(answers)
            wait_for(lambda seen=seen: len(answers) > seen, "a reader at work")  # type: ignore[misc]
            with pytest.raises(StoreUnavailable):
                world.store.run(fatal)
            wait_for(lambda n=n: sample(world.metrics, "modelwatch_store_reopens_total") == n, "the reopening")  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert ended == []
    assert world.send("predictions", prediction("after")).accepted == 1


def test_the_engines_threads_are_as_many_as_asked_for_and_else_by_the_processors(make_world: Callable[..., World]) -> None:
    def threads(world: World) -> int:
        with world.store.read() as reader:
            return int(reader.query("SELECT current_setting('threads') AS n")[0]["n"])

    assert threads(make_world()) == max(1, min(2, len(os.sched_getaffinity(0)) // 2))
    assert hotfile.threads(3) == 3


def test_a_closed_store_cannot_be_read(world: World) -> None:
    world.store.close()
    with pytest.raises(StoreUnavailable, match="closed"), world.store.read():
        pass


def test_closing_commits_what_is_in_hand_and_takes_nothing_more(world: World) -> None:
    held = Held(world.store)
    job = world.store.submit(append_labels(world.store, ["a"]))
    closing = threading.Thread(target=world.store.close)
    closing.start()
    wait_for(lambda: refused(world.store), "the store to close")
    held.release()
    assert job.result(10) == 1
    closing.join(10)
    world.open()
    assert world.ids("labels") == ["a"]


def refused(store: Store) -> bool:
    try:
        store.submit(lambda transaction: None)
    except StoreUnavailable:
        return True
    return False


def test_a_restart_brings_back_all_that_the_writer_knows(world: World) -> None:
    world.send("predictions", prediction("a", NOON - timedelta(hours=1), features={"rooms": 3, "city": "Oslo"}))
    world.seal()
    world.send("predictions", prediction("b", NOON))
    before = world.store
    world.restart()
    after = world.store
    assert after is not before
    assert after.logs() == before.logs()
    assert [after.last_seq(*key) for key in after.logs()] == [before.last_seq(*key) for key in before.logs()]
    assert after.sealed_seq("predictions", "houses") == 1
    assert after.feature_columns("houses") == {"rooms": "number", "city": "category"}
    assert after.watermark("houses") == NOON
    answer = world.send("predictions", prediction("a", NOON), prediction("b", NOON), prediction("c", NOON))
    assert (answer.accepted, answer.duplicates, [r.reason for r in answer.rejects]) == (1, 1, ["conflict"])
    assert seqs(world, "predictions") == [1, 2, 3]


OPEN = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from monitor.clock import SystemClock
from monitor import hotfile
from monitor.config import StoreConfig
from monitor.errors import StoreLocked
from monitor.metrics import Metrics
from monitor.store import Store
config, metrics = StoreConfig(path=Path(sys.argv[1])), Metrics(CollectorRegistry())
try:
    Store(config, clock=SystemClock(), metrics=metrics, queue_records=1, queue_bytes=1)
except StoreLocked as exc:
    print(exc.pid, exc)
"""


def test_a_second_process_is_told_who_has_the_store(world: World) -> None:
    found = subprocess.run([sys.executable, "-c", OPEN, world.store.root], capture_output=True, text=True, timeout=60)
    pid, _, message = found.stdout.partition(" ")
    assert (int(pid), found.stderr) == (os.getpid(), "")
    assert str(world.store.root) in message
    assert f"in use by process {os.getpid()}" in message


def open_store(root: Path) -> Store:
    metrics = Metrics(CollectorRegistry())
    return Store(StoreConfig(path=root), clock=FakeClock(), metrics=metrics, queue_records=10, queue_bytes=1000)


def test_a_store_of_a_later_version_is_refused_and_left_as_it_is(world: World) -> None:
    world.send("predictions", prediction("a"))
    world.store.run(lambda t: t.execute("INSERT INTO migrations VALUES (?, now())", [VERSION + 1]))
    world.close()
    with pytest.raises(StoreTooNew, match=f"schema version {VERSION + 1}, this program knows {VERSION}"):
        open_store(world.store.root)
    with duckdb.connect(str(world.store.root / "hot.duckdb"), read_only=True) as connection:
        assert connection.sql('SELECT count(*) FROM "predictions:houses"').fetchall() == [(1,)]


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "hot.duckdb").write_bytes(b"something else" * 1000)
    with pytest.raises(StoreError, match=r"hot\.duckdb: cannot be opened"):
        open_store(tmp_path)


def test_opening_twice_in_one_process_is_refused_as_well(world: World) -> None:
    with pytest.raises(StoreError):
        open_store(world.store.root)
    assert world.send("predictions", prediction("a")).accepted == 1


def test_readers_are_independent_of_each_other_and_of_the_writer(world: World) -> None:
    world.store.run(append_labels(world.store, ["a"]))
    with world.store.read() as early:
        assert early.query("SELECT count(*) AS n FROM labels") == [{"n": 1}]
        world.store.run(append_labels(world.store, ["b"]))
        with world.store.read() as late:
            assert late.query("SELECT count(*) AS n FROM labels") == [{"n": 2}]
        assert early.query("SELECT count(*) AS n FROM labels") == [{"n": 1}], "one look is one instant"


def test_the_free_space_and_the_size_are_exported(world: World) -> None:
    world.clock.move(2)
    world.store.run(append_labels(world.store, ["a"]))
    assert (sample(world.metrics, "modelwatch_store_disk_free_bytes") or 0) > 0
    assert (sample(world.metrics, "modelwatch_store_size_bytes") or 0) > 0


# --- the promise -----------------------------------------------------------------------------------------------------

RECORDS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=6)
STEPS = st.lists(st.one_of(RECORDS, st.just("seal"), st.just("restart")), max_size=10)


@settings(max_examples=12, deadline=None)
@given(STEPS)
def test_whatever_happens_the_first_content_of_each_key_is_stored_and_nothing_else(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            first, conflicts = play(world, steps)
            for _ in range(2):
                rows = world.rows("predictions")
                assert {row["record_id"]: row["prediction"] for row in rows} == first
                assert [row["seq"] for row in rows] == list(range(1, len(first) + 1))
                assert len(world.letters()) == conflicts
                world.restart()
        finally:
            world.close()


def play(world: World, steps: list[Any]) -> tuple[dict[str, float], int]:
    """Do the steps; return what must be stored, and how many conflicts there were."""
    first: dict[str, float] = {}
    conflicts = 0
    do: dict[str, Callable[[], object]] = {"seal": world.seal, "restart": world.restart}
    for step in steps:
        if isinstance(step, str):
            do[step]()
            continue
        accepted, wrong = len(first), 0
        for key, content in step:
            wrong += first.setdefault(str(key), float(content)) != content
        answer = world.send("predictions", *(prediction(str(key), prediction=content) for key, content in step))
        assert answer.accepted == len(first) - accepted
        assert len(answer.rejects) == wrong
        assert answer.duplicates == len(step) - answer.accepted - wrong
        conflicts += wrong
    return first, conflicts
