"""Folders that files are put into: every row once, and every file somewhere in the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from monitor.errors import StoreUnavailable
from monitor.sources.folder import FolderConfig, FolderSource
from tests.monitor.support import NOON, World, check, prediction, sample, wait_for
from tests.monitor.test_inference import capture

MADE: list[FolderSource] = []


@pytest.fixture
def drop(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "drop"
    path.mkdir()
    yield path
    while MADE:
        MADE.pop().stop()


def watch(world: World, path: Path, **fields: Any) -> FolderSource:
    settings = {"type": "folder", "name": "drop", "path": path, "model": "houses", "settle_seconds": 0, **fields}
    MADE.append(
        FolderSource(FolderConfig.model_validate(settings), world.inbox, world.store, clock=world.clock, metrics=world.metrics)
    )
    return MADE[-1]


def drain(source: FolderSource) -> None:
    while source.poll():
        pass


def lines(*ids: str) -> str:
    return "".join(json.dumps(prediction(i)) + "\n" for i in ids)


def tree(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_files_of_every_format_are_taken_and_put_away(world: World, drop: Path) -> None:
    (drop / "a.jsonl").write_text(lines("a"))
    (drop / "b.csv").write_text("record_id,timestamp,rooms,prediction\nb,2026-03-01T12:00:00Z,3,1.5\n")
    pq.write_table(pa.table({"record_id": ["c"], "prediction": [2.0], "rooms": [4.0]}), drop / "c.parquet")
    (drop / "deep").mkdir()
    (drop / "deep" / "d.jsonl").write_text(lines("d"))
    drain(watch(world, drop))
    assert world.ids("predictions") == ["a", "b", "c", "d"]
    assert [row["f_rooms"] for row in world.rows("predictions")] == [None, 3.0, 4.0, None]
    assert tree(drop) == ["done/a.jsonl", "done/b.csv", "done/c.parquet", "done/deep/d.jsonl"]
    assert sample(world.metrics, "modelwatch_ingest_requests_total", transport="folder", code="200") == 4
    assert {row["source"] for row in world.rows("batches", "")} == {"folder:drop"}


def test_a_file_is_taken_when_it_has_not_changed_for_a_while(world: World, drop: Path) -> None:
    source = watch(world, drop, settle_seconds=5)
    (drop / "a.jsonl").write_text(lines("a"))
    assert source.poll() == 0
    world.clock.move(4)
    (drop / "a.jsonl").write_text(lines("a", "b"))
    assert source.poll() == 0
    world.clock.move(4)
    assert source.poll() == 0
    world.clock.move(1)
    drain(source)
    assert world.ids("predictions") == ["a", "b"]


def test_hidden_and_temporary_files_are_left_alone_until_they_have_their_name(world: World, drop: Path) -> None:
    for name in (".a.jsonl", "a.jsonl.tmp", "a.jsonl.part", "_SUCCESS"):
        (drop / name).write_text(lines("x"))
    (drop / "b.txt").write_text("not asked for")
    source = watch(world, drop, pattern="*.jsonl")
    assert source.poll() == 0
    (drop / "a.jsonl.tmp").rename(drop / "a.jsonl")
    drain(source)
    assert world.ids("predictions") == ["x"]
    assert tree(drop) == [".a.jsonl", "_SUCCESS", "a.jsonl.part", "b.txt", "done/a.jsonl"]


def test_what_is_no_file_is_left_alone_and_keeps_nobody_waiting(world: World, drop: Path) -> None:
    os.mkfifo(drop / "a.jsonl")
    (drop / "b.jsonl").symlink_to(drop / "nowhere")
    (drop / "c.jsonl").write_text(lines("c"))
    drain(watch(world, drop))
    assert world.ids("predictions") == ["c"]


def test_a_large_file_is_taken_in_pieces_and_a_restart_goes_on_where_it_stopped(world: World, drop: Path) -> None:
    ids = [f"r{i}" for i in range(25)]
    (drop / "a.jsonl").write_text(lines(*ids))
    source = watch(world, drop, batch_records=10)
    assert source.poll() == 10
    assert world.state("SELECT file, taken, state FROM drops") == [{"file": "a.jsonl", "taken": 10, "state": "reading"}]
    world.restart()
    source = watch(world, drop, batch_records=10)
    assert [source.poll(), source.poll(), source.poll()] == [10, 5, 0]
    assert world.ids("predictions") == ids
    assert sum(row["records"] for row in world.rows("batches", "")) == 25, "none was handed over twice"


def test_a_file_that_was_finished_and_not_put_away_is_put_away_and_not_read_again(world: World, drop: Path) -> None:
    (drop / "a.jsonl").write_text(lines("a"))
    source = watch(world, drop)
    source.poll()
    (drop / "done" / "a.jsonl").rename(drop / "a.jsonl")  # as if we had been killed between the commit and the move
    world.restart()
    drain(watch(world, drop))
    assert tree(drop) == ["done/a.jsonl"]
    assert len(world.rows("batches", "")) == 1


def test_the_same_name_may_come_again(world: World, drop: Path) -> None:
    source = watch(world, drop)
    for name in "abc":
        (drop / "export.jsonl").write_text(lines(name * 3))
        drain(source)
    assert world.ids("predictions") == ["aaa", "bbb", "ccc"]
    assert tree(drop) == ["done/export.jsonl", "done/export.jsonl.1", "done/export.jsonl.2"]


def test_a_full_inbox_or_a_store_that_is_away_leaves_the_rows_for_later(world: World, drop: Path) -> None:
    (drop / "a.jsonl").write_text(lines("a", "b"))
    source = watch(world, drop, batch_records=1)
    source.poll()
    world.store._unavailable = "low"
    with pytest.raises(StoreUnavailable):
        source.poll()
    world.store._unavailable = None
    drain(source)
    assert world.ids("predictions") == ["a", "b"]
    assert sum(row["records"] for row in world.rows("batches", "")) == 2


def test_files_may_stay_and_are_remembered(world: World, drop: Path) -> None:
    (drop / "a.jsonl").write_text(lines("a"))
    (drop / "bad.parquet").write_bytes(b"none")
    for _ in range(2):
        source = watch(world, drop, then="keep")
        drain(source)
        world.restart()
    assert tree(drop) == ["a.jsonl", "bad.parquet"]
    assert [row["records"] for row in world.rows("batches", "")] == [1, 1]
    (drop / "a.jsonl").unlink()
    drain(watch(world, drop, then="keep"))
    assert [row["file"] for row in world.state("SELECT file FROM drops")] == ["bad.parquet"]


def test_bad_rows_are_set_aside_with_their_place_and_the_file_is_finished(world: World, drop: Path) -> None:
    (drop / "a.csv").write_text("record_id,prediction\na,1\nb\nc,inf\nd,2\n")
    drain(watch(world, drop))
    assert world.ids("predictions") == ["a", "d"]
    assert [(row["source"], row["reason"]) for row in world.rows("deadletters", "")] == [
        ("folder:drop:a.csv:2", "undecodable"),
        ("folder:drop:a.csv:3", "not_finite"),
    ]
    assert tree(drop) == ["done/a.csv"]


UNREADABLE: dict[str, tuple[str, bytes, str]] = {
    "a damaged file": ("a.parquet", b"PAR1 or not", "no Parquet"),
    "an unknown format": ("a.xlsx", b"PK", "its name does not say the format"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_put_aside_with_the_reason(world: World, drop: Path, name: str) -> None:
    file, data, message = UNREADABLE[name]
    (drop / file).write_bytes(data)
    (drop / "b.jsonl").write_text(lines("b"))
    drain(watch(world, drop))
    assert world.ids("predictions") == ["b"]
    assert tree(drop) == ["done/b.jsonl", f"failed/{file}", f"failed/{file}.reason.txt"]
    assert message in (drop / "failed" / f"{file}.reason.txt").read_text()
    (letter,) = world.rows("deadletters", "")
    assert (letter["reason"], letter["source"]) == ("undecodable", f"folder:drop:{file}:1")
    assert message in letter["message"]


def test_the_rows_before_the_damage_are_taken(world: World, drop: Path) -> None:
    (drop / "a.csv").write_text("record_id,prediction\n" + "".join(f"r{i},1\n" for i in range(1500)) + 'x,"1\n')
    drain(watch(world, drop))
    assert len(world.ids("predictions")) == 1500
    assert tree(drop) == ["failed/a.csv", "failed/a.csv.reason.txt"]
    assert "1500 rows of it were taken" in world.rows("deadletters", "")[0]["message"]


def test_a_file_that_is_written_to_while_it_is_read_is_read_anew(world: World, drop: Path) -> None:
    (drop / "a.jsonl").write_text(lines("a", "b"))
    source = watch(world, drop, batch_records=1)
    source.poll()
    (drop / "a.jsonl").write_text(lines("a", "b", "c", "d"))
    drain(source)
    assert world.ids("predictions") == ["a", "b", "c", "d"]
    assert tree(drop) == ["done/a.jsonl"]


def test_a_file_that_cannot_be_moved_keeps_nobody_waiting(world: World, drop: Path) -> None:
    (drop / "done").write_text("a file where the folder should be")
    (drop / "a.jsonl").write_text(lines("a"))
    (drop / "b.jsonl").write_text(lines("b"))
    drain(watch(world, drop, pattern="*.jsonl"))
    assert world.ids("predictions") == ["a", "b"]
    assert sum(row["records"] for row in world.rows("batches", "")) == 2


def test_columns_of_the_file_are_mapped_to_fields(world: World, drop: Path) -> None:
    (drop / "a.csv").write_text("id,ts,y_hat,size,junk\n1,2026-03-01 12:00:00,9,70,x\n")
    columns = {"record_id": "id", "timestamp": "ts", "prediction": "y_hat", "features": ["size"]}
    drain(watch(world, drop, columns=columns, timezone="UTC"))
    (row,) = world.rows("predictions")
    assert (row["record_id"], row["event_time"], row["prediction"], row["f_size"]) == ("1", NOON, 9.0, 70.0)


def test_a_folder_of_data_capture_is_read_as_sagemaker_lays_it_out(world: World, drop: Path) -> None:
    for hour, names in {"11": ["e1", "e2"], "12": ["e3"]}.items():
        folder = drop / "endpoint" / "AllTraffic" / "2026" / "03" / "01" / hour
        folder.mkdir(parents=True)
        text = "".join(json.dumps(capture("70,Oslo", "1.5", eventId=name)) + "\n" for name in names)
        (folder / f"30-00-000-{hour}.jsonl").write_text(text + ("{}\n" if hour == "12" else ""))
    source = watch(world, drop, format="sagemaker", columns={"features": ["size", "city"]}, then="keep")
    drain(source)
    assert world.ids("predictions") == ["e1", "e2", "e3"]
    row = world.rows("predictions")[0]
    assert (row["f_size"], row["f_city"], row["prediction"], row["event_time"]) == (70.0, "Oslo", 1.5, NOON)
    (letter,) = world.rows("deadletters", "")
    assert letter["source"] == "folder:drop:endpoint/AllTraffic/2026/03/01/12/30-00-000-12.jsonl:2"


def test_rows_of_the_past_have_their_windows_read(make_world: Callable[..., World], drop: Path) -> None:
    world = make_world(checks=[check("mean", idle_timeout="1s")])
    (drop / "old.csv").write_text(
        "record_id,timestamp,prediction\n" + "".join(f"r{i},2025-01-01T00:0{i}:00Z,{i}\n" for i in range(4))
    )
    drain(watch(world, drop))
    world.look()
    world.look()
    assert [value for _, value, _ in world.readings("mean").values()] == [1.5]


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    base = {"type": "folder", "name": "d", "path": tmp_path}
    for wrong in ({"columns": {"lable": "y"}}, {"format": "sagemaker", "kind": "labels"}, {"format": "xlsx"}):
        with pytest.raises(ValidationError):
            FolderConfig.model_validate({**base, **wrong})


def test_its_thread_waits_for_the_folder_and_takes_what_comes(world: World, drop: Path) -> None:
    shutil.rmtree(drop)
    source = watch(world, drop, poll_seconds=0.01)
    source.start()
    drop.mkdir()
    (drop / ".a").write_text(lines("a"))
    os.rename(drop / ".a", drop / "a.jsonl")
    wait_for(lambda: tree(drop) == ["done/a.jsonl"], "the file")
    source.stop()
    assert world.ids("predictions") == ["a"]
