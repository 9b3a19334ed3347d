"""`modelwatch sql`: reads the store, and can do nothing else."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from monitor import auditsql
from monitor.errors import StoreError
from tests.monitor.support import NOON, World, generation, prediction


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A store with rows of its own, sealed and hot, that the daemon holds while the tests ask."""
    with contextlib.closing(World(tmp_path_factory.mktemp("held") / "store")) as world:
        world.send("predictions", prediction("a", features={"rooms": 3, "city": 'Os"lo\nsecond, line'}))
        world.seal()
        world.send("predictions", prediction("b", features={"rooms": None}))
        world.send("generations", generation("g", response="x" * 500))
        world.audit.refresh()
        yield world


@pytest.fixture
def store(held: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)  # asking changes the folder; this brings it back
    return held.store.root


def ask(store: Path, query: str, form: str = "json") -> str:
    out = io.StringIO()
    auditsql.ask(store, query, form, out)
    return out.getvalue()


def rows(store: Path, query: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ask(store, query).splitlines()]


def test_json_has_a_row_a_line(store: Path) -> None:
    found = rows(store, "SELECT record_id, f_rooms, event_time FROM predictions_houses ORDER BY seq")
    assert found == [
        {"record_id": "a", "f_rooms": 3.0, "event_time": NOON.isoformat()},
        {"record_id": "b", "f_rooms": None, "event_time": NOON.isoformat()},
    ]


def test_csv_can_be_read_back(store: Path) -> None:
    text = ask(store, "SELECT record_id, f_city FROM predictions_houses ORDER BY seq", "csv")
    assert list(csv.reader(io.StringIO(text))) == [["record_id", "f_city"], ["a", 'Os"lo\nsecond, line'], ["b", ""]]


def test_what_a_model_wrote_cannot_steer_the_terminal(store: Path) -> None:
    shown = ask(store, r"SELECT chr(27) || '[2J' || chr(155) || chr(8238) AS text", "table")
    assert r"\x1b[2J\x9b\u202e" in shown


def test_a_table_is_for_eyes(store: Path) -> None:
    text = ask(store, "SELECT record_id, response FROM generations", "table")
    head, line = text.splitlines()
    assert head.split() == ["record_id", "response"]
    assert line.startswith("        g xxx")
    assert len(line) < 100, "long texts are cut"


READS = (
    "SHOW TABLES",
    "DESCRIBE predictions",
    "SUMMARIZE predictions",
    "FROM predictions",
    "VALUES (1)",
    "-- a comment\nSELECT 1;",
)


@pytest.mark.parametrize("query", READS)
def test_everything_that_only_reads_is_taken(store: Path, query: str) -> None:
    assert rows(store, query)


HOSTILE = {
    "a copy": "COPY (SELECT 1 AS a) TO '{target}' (FORMAT parquet)",
    "a copy in a WITH": "WITH x AS (COPY (SELECT 1 AS a) TO '{target}') SELECT * FROM x",
    "a copy in a WITH of its own": "WITH x AS MATERIALIZED (COPY (SELECT 1 AS a) TO '{target}') SELECT 2",
    "a copy that is explained": "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{target}'",
    "a copy after a select": "SELECT 1; COPY (SELECT 1 AS a) TO '{target}'",
    "an export": "EXPORT DATABASE '{folder}/out'",
    "a new database": "ATTACH '{folder}/new.duckdb'",
    "a table": "CREATE TABLE memory.main.t AS SELECT 1",
    "a deletion": "DELETE FROM predictions",
    "a drop": "DROP VIEW predictions",
    "a setting": "SET enable_external_access = true",
    "a setting unlocked": "SET lock_configuration = false",
    "an extension": "INSTALL httpfs",
    "nothing": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_writes_is_refused_and_nothing_is_changed(store: Path, name: str) -> None:
    before = {p: hashlib.sha256(p.read_bytes()).digest() for p in store.rglob("*.*") if "hot" not in p.name and p.is_file()}
    target = next(store.rglob("*.parquet"))
    for place in (target, store / "new.csv"):
        with pytest.raises((StoreError, duckdb.Error)):
            ask(store, HOSTILE[name].format(target=place, folder=store))
    after = {p: hashlib.sha256(p.read_bytes()).digest() for p in store.rglob("*.*") if "hot" not in p.name and p.is_file()}
    assert after == before


OUTSIDE = ("read_text('/etc/hostname')", "read_csv('{outside}')", "'{outside}'", "glob('/etc/*')", "read_text('../outside.csv')")


@pytest.mark.parametrize("source", OUTSIDE)
def test_files_outside_the_store_cannot_be_read(store: Path, tmp_path: Path, source: str) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text("a\n1\n")
    with pytest.raises(duckdb.PermissionException):
        ask(store, f"SELECT * FROM {source.format(outside=outside)}")


def test_a_folder_without_a_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"audit\.duckdb: not there; is .* the store of a daemon that has run"):
        ask(tmp_path, "SELECT 1")
