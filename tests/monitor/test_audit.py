"""`audit.duckdb`: what another process sees while the daemon holds the store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from monitor import views
from monitor.audit import Audit, publish
from monitor.child import Child
from monitor.schema import KINDS
from tests.monitor.support import NOON, World, generation, label, prediction, sample, wait_for


def ask(root: Path, sql: str) -> list[tuple[Any, ...]]:
    """As any tool would: open the file and set where its paths begin."""
    with duckdb.connect(str(root / "audit.duckdb"), read_only=True) as connection:
        connection.execute(f"SET file_search_path = '{root}'")
        return connection.execute(sql).fetchall()


def ids(world: World, view: str = "predictions") -> list[str]:
    return [row[0] for row in ask(world.store.root, f"SELECT record_id FROM {view} ORDER BY seq")]


def test_another_process_reads_it_while_the_daemon_holds_the_store(world: World) -> None:
    world.send("predictions", prediction("sealed", features={"rooms": 3}))
    world.seal()
    world.send("predictions", prediction("hot", features={"city": "Oslo"}))
    world.audit.refresh()
    code = f"""
import duckdb
c = duckdb.connect({str(world.store.root / "audit.duckdb")!r}, read_only=True)
print(c.sql("SELECT record_id, f_rooms, f_city FROM predictions_houses ORDER BY seq").fetchall())
try:
    duckdb.connect({str(world.store.root / "hot.duckdb")!r}, read_only=True)
except duckdb.IOException as exc:
    print("locked")
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=world.store.root, capture_output=True, text=True, timeout=60)
    assert found.stdout.splitlines() == ["[('sealed', 3.0, None), ('hot', None, 'Oslo')]", "locked"], found.stderr


def test_it_holds_what_is_hot_as_of_the_last_refresh(world: World) -> None:
    world.send("predictions", prediction("a"))
    assert world.audit.refresh()
    world.send("predictions", prediction("b"))
    assert ids(world) == ["a"]
    assert world.audit.refresh()
    assert ids(world) == ["a", "b"]
    assert not world.audit.refresh(), "nothing was new"
    assert sample(world.metrics, "modelwatch_audit_last_success_timestamp_seconds") == NOON.timestamp()


def test_no_row_is_twice_after_a_seal_that_cuts_a_tail_file_in_two(world: World) -> None:
    world.send("predictions", *(prediction(f"r{i}") for i in range(250)))
    world.audit.refresh()
    world.sealer._rows = 100
    world.sealer.seal("predictions", "houses")
    world.send("predictions", prediction("last"))
    world.audit.refresh()
    assert ids(world) == [*(f"r{i}" for i in range(250)), "last"]
    world.seal()
    world.audit.refresh()
    assert ids(world) == [*(f"r{i}" for i in range(250)), "last"]


def test_every_kind_and_every_model_has_its_rows(world: World) -> None:
    world.send("predictions", prediction("p"))
    world.send("labels", label("p"))
    world.send("generations", generation("g", contexts=["one"]))
    world.score()
    world.send("predictions", 3)
    world.seal()
    world.send("labels", label("q"))
    world.audit.refresh()
    counts = {kind: ask(world.store.root, f"SELECT count(*) FROM {kind}")[0][0] for kind in KINDS}
    assert {k: n for k, n in counts.items() if n} == {
        "predictions": 1, "labels": 2, "generations": 1, "contexts": 1, "calls": 1, "deadletters": 1, "batches": 5,
    }  # fmt: skip


def test_the_list_of_views_is_the_same_with_and_without_rows(world: World) -> None:
    sql = "SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1"
    world.audit.refresh()
    empty = [row[0] for row in ask(world.store.root, sql)]
    assert empty == sorted([*KINDS, "answers"])
    assert all(ask(world.store.root, f"SELECT * FROM {view}") == [] for view in empty)
    world.send("predictions", prediction("a"))
    world.audit.refresh()
    assert [row[0] for row in ask(world.store.root, sql)] == sorted([*KINDS, "answers", "predictions_houses"])


@pytest.mark.parametrize("rows", (False, True), ids=("empty", "with rows"))
def test_every_view_and_every_column_says_what_it_is(world: World, rows: bool) -> None:
    if rows:
        world.send("predictions", prediction("a", features={"rooms": 3, "city": "Oslo"}))
        world.seal()
    world.audit.refresh()
    root = world.store.root
    assert ask(root, "SELECT view_name FROM duckdb_views() WHERE NOT internal AND coalesce(comment, '') = ''") == []
    silent = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND coalesce(comment, '') = ''"
    assert ask(root, silent) == []
    about = dict(ask(root, "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'predictions'"))
    assert about == {c.name: c.about for c in KINDS["predictions"].columns}


def test_columns_have_the_types_of_the_schema(world: World) -> None:
    world.audit.refresh()
    empty = ask(world.store.root, "SELECT table_name, column_name, data_type FROM duckdb_columns() ORDER BY ALL")
    world.send("predictions", prediction("a"))
    world.send("generations", generation("g"))
    world.seal()
    world.audit.refresh()
    sql = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE table_name <> 'predictions_houses' ORDER BY ALL"
    assert ask(world.store.root, sql) == empty


def test_the_file_is_replaced_as_a_whole_and_never_written_to(world: World) -> None:
    path = world.store.root / "audit.duckdb"
    world.audit.refresh()
    old, first = os.stat(path), path.read_bytes()
    with path.open("rb") as reader:  # who has the old one open keeps it
        world.send("predictions", prediction("a"))
        world.audit.refresh()
        assert reader.read() == first
    assert os.stat(path).st_ino != old.st_ino
    assert oct(path.stat().st_mode)[-3:] == "444"
    assert [p.name for p in world.store.root.glob("audit*")] == ["audit.duckdb"]
    world.clock.move(121)
    world.audit.refresh()
    assert [str(p.relative_to(world.store.root)) for p in (world.store.root / "views").rglob("*.duckdb")] == [
        str(os.readlink(path))
    ]


TURN = """
import itertools, sys
from pathlib import Path
from monitor.audit import publish
root = Path(sys.argv[1])
for n in itertools.count():
    publish(root / "audit.duckdb", root / f"{n % 2}" / "audit.duckdb")
"""


def test_who_opens_it_in_the_moment_it_is_replaced_sees_one_of_the_two(tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / f"{n}").mkdir()
        with duckdb.connect(tmp_path / f"{n}" / "audit.duckdb") as connection:
            for view in range(20 + 40 * n):
                connection.execute(f"CREATE VIEW v{view} AS SELECT {n} AS n")
    publish(tmp_path / "audit.duckdb", tmp_path / "0" / "audit.duckdb")
    turning = subprocess.Popen([sys.executable, "-c", TURN, tmp_path])
    try:
        found = [ask(tmp_path, "SELECT n, (SELECT count(*) FROM duckdb_views() WHERE NOT internal) FROM v3") for _ in range(200)]
    finally:
        turning.kill()
        turning.wait()
    assert {tuple(rows) for rows in found} <= {((0, 20),), ((1, 60),)}


def test_readers_of_the_old_views_keep_their_files_for_a_while(world: World) -> None:
    world.send("predictions", prediction("a"))
    world.audit.refresh()
    with duckdb.connect(str(world.store.root / "audit.duckdb"), read_only=True) as reader:
        reader.execute(f"SET file_search_path = '{world.store.root}'")
        world.seal()
        world.audit.refresh()
        assert reader.execute("SELECT record_id FROM predictions").fetchall() == [("a",)]
    world.clock.move(121)
    world.audit.refresh()
    assert list((world.store.root / "tail").rglob("*.parquet")) == []
    assert ids(world) == ["a"]


def test_the_views_hold_after_a_restart_too(world: World) -> None:
    world.send("predictions", prediction("a"))
    world.audit.refresh()
    world.restart()
    assert ids(world) == ["a"], "nothing is taken away before something new is there"
    world.send("predictions", prediction("b"))
    world.audit.refresh()
    assert ids(world) == ["a", "b"]
    for _ in range(3):
        world.clock.move(121)
        world.audit.refresh()
        assert ids(world) == ["a", "b"]


def test_the_tail_of_an_earlier_run_does_not_stay_for_ever(world: World) -> None:
    world.send("predictions", prediction("a"))
    world.audit.refresh()
    (world.store.root / "tail" / "predictions" / "houses" / "0-1.parquet.tmp").touch()
    world.restart()
    world.seal()
    world.audit.refresh()
    world.clock.move(121)
    world.audit.refresh()
    assert [p for p in (world.store.root / "tail").rglob("*") if p.is_file()] == []


def test_a_copy_of_the_folder_can_be_read_elsewhere(world: World, tmp_path: Path) -> None:
    world.send("predictions", prediction("a", NOON - timedelta(days=1)))
    world.seal()
    world.send("predictions", prediction("b"))
    world.audit.refresh()
    copy = tmp_path / "it's a copy"
    subprocess.run(["cp", "-r", world.store.root, copy], check=True)
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET file_search_path = ?", [str(copy)])
        connection.execute(f"ATTACH '{str(copy).replace(chr(39), chr(39) * 2)}/audit.duckdb' AS a (READ_ONLY)")
        assert connection.execute("SELECT count(*) FROM a.predictions").fetchall() == [(2,)]


def test_an_apostrophe_in_the_path_of_the_store_is_no_matter(tmp_path: Path) -> None:
    world = World(tmp_path / "it's ours")
    try:
        world.send("predictions", prediction("a"))
        world.seal()
        world.audit.refresh()
        assert world.ids("predictions") == ["a"]
        world.restart()
        assert world.ids("predictions") == ["a"]
    finally:
        world.close()


@pytest.fixture
def writer(world: World) -> Iterator[Child]:
    made = Child("views", views.TARGET, None, nice=views.NICE, clock=world.clock, metrics=world.metrics)
    yield made
    made.stop()


def test_the_process_that_writes_the_views_writes_what_the_owner_would(world: World, writer: Child) -> None:
    world.send("predictions", prediction("sealed", features={"rooms": 3}))
    world.seal()
    world.send("predictions", prediction("hot", features={"city": "Oslo"}))
    what = "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
    world.audit.refresh()
    own = ask(world.store.root, what)
    audit = Audit(world.store, clock=world.clock, metrics=world.metrics, writer=writer)
    assert audit.refresh()
    assert ask(world.store.root, what) == own
    assert ids(world) == ["sealed", "hot"]
    assert oct((world.store.root / "audit.duckdb").stat().st_mode)[-3:] == "444"
    assert sample(world.metrics, "modelwatch_child_restarts_total", child="views") == 0


def test_the_views_do_not_wait_for_a_process_that_died(world: World, writer: Child) -> None:
    audit = Audit(world.store, clock=world.clock, metrics=world.metrics, writer=writer)
    world.send("predictions", prediction("a"))
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    assert audit.refresh()
    assert ids(world) == ["a"]
    world.send("predictions", prediction("b"))
    wait_for(lambda: sample(world.metrics, "modelwatch_child_restarts_total", child="views"), "a new process")
    assert audit.refresh()
    assert ids(world) == ["a", "b"]


def test_a_file_that_cannot_be_read_is_named_though_another_process_read_it(world: World, writer: Child) -> None:
    audit = Audit(world.store, clock=world.clock, metrics=world.metrics, writer=writer)
    world.send("predictions", prediction("a"))
    world.seal()
    segment = next((world.store.root / "segments").rglob("*.parquet"))
    segment.chmod(0o644)
    segment.write_bytes(b"no longer what was sealed")
    with pytest.raises(duckdb.Error, match=segment.name):
        audit.refresh()
    assert not (world.store.root / "audit.duckdb").exists(), "nothing was put in place"


def test_a_log_without_new_rows_gets_no_new_tail_file(world: World) -> None:
    world.send("predictions", prediction("a"))
    world.send("labels", label("a"))
    world.audit.refresh()
    labels = set((world.store.root / "tail" / "labels").rglob("*.parquet"))
    world.send("predictions", prediction("b"))
    world.audit.refresh()
    assert set((world.store.root / "tail" / "labels").rglob("*.parquet")) == labels
    assert [p.name for p in sorted((world.store.root / "tail" / "predictions").rglob("*.parquet"))] == [
        "000000000001-000000000001.parquet",
        "000000000002-000000000002.parquet",
    ]
