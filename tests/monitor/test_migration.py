"""A store that an earlier version wrote: opened, brought up to date, read as one with what comes after."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from monitor.schema import KINDS
from monitor.schema.state import VERSION
from tests.monitor.support import World, contexts, generation, label, prediction

V1 = Path(__file__).parent.parent / "data" / "store_v1.tar.gz"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    root = tmp_path / "old"
    with tarfile.open(V1) as tar:
        tar.extractall(root, filter="data")
    return root


def test_what_version_1_stored_is_still_there(old: Path, make_world: Callable[..., World]) -> None:
    world = make_world(root=old)
    assert world.state("SELECT max(version) AS v FROM migrations") == [{"v": VERSION}]
    assert world.ids("predictions") == ["p1", "p2", "p3"]
    assert world.ids("labels") == ["p1"]
    assert world.ids("generations", "bot") == ["g1", "g2", "g3", "g4"]
    assert [row["text"] for row in world.rows("contexts", "bot")] == ["a passage", "another"]
    assert world.letters() == [("bad", "missing_model")]
    assert [row["trace_hash"] for row in world.rows("generations", "bot")] == [None] * 4


def test_version_1_and_what_comes_after_are_one_log(old: Path, make_world: Callable[..., World]) -> None:
    world = make_world(root=old)
    again = world.send("generations", generation("g1", trace_id="a" * 32), generation("g3", trace_id="b" * 32, input_tokens=7))
    assert (again.accepted, again.duplicates) == (0, 2)
    world.send("generations", generation("g5"))
    world.send("contexts", contexts("g2", "late"))
    world.send("predictions", prediction("p4", features={"rooms": 1.0, "town": "b"}))
    world.send("labels", label("p4"))
    world.seal()
    world.restart()
    assert world.ids("generations", "bot") == ["g1", "g2", "g3", "g4", "g5"]
    assert world.ids("predictions") == ["p1", "p2", "p3", "p4"]
    assert [row["text"] for row in world.rows("contexts", "bot")] == ["a passage", "another", "late"]


def test_a_migrated_store_has_the_tables_of_a_new_one(old: Path, tmp_path: Path, make_world: Callable[..., World]) -> None:
    def tables(root: Path) -> dict[str, set[tuple[str, str]]]:
        make_world(root=root).close()
        with duckdb.connect(str(root / "hot.duckdb"), read_only=True) as connection:
            found: dict[str, set[tuple[str, str]]] = {}
            for table, column, kind in connection.sql(
                "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal"
            ).fetchall():
                found.setdefault(table, set()).add((column, kind))
        return {name: columns for name, columns in found.items() if not name.startswith("predictions:")}

    assert tables(old) == tables(tmp_path / "new")


def test_the_auditors_of_a_migrated_store_see_every_view(old: Path, make_world: Callable[..., World]) -> None:
    world = make_world(root=old)
    world.seal()  # all generations are in segments of the old form now, or in new ones
    world.audit.refresh()
    with duckdb.connect(str(old / "audit.duckdb"), read_only=True) as connection:
        connection.execute(f"SET file_search_path = '{old}'")
        assert connection.sql("SELECT record_id, cache_read_tokens FROM generations ORDER BY seq").fetchall() == [
            (f"g{i}", None) for i in range(1, 5)
        ]
        for kind in KINDS:
            connection.sql(f"SELECT * FROM {kind}").to_arrow_table()
