"""Following a growing file: every line once, whatever happens to the file or to us."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from monitor.errors import InboxFull, StoreUnavailable
from monitor.inbox import Answer, Batch, Inbox
from monitor.sources.follow import KEPT_GONE, FollowConfig, FollowSource
from monitor.transaction import Transaction
from tests.monitor.support import NOON, Held, World, append_labels, prediction, sample, wait_for


def follow(world: World, path: Path, made: type[FollowSource] = FollowSource, **fields: Any) -> FollowSource:
    config = FollowConfig.model_validate(
        {"type": "follow", "name": "log", "path": path, "kind": "predictions", "model": "houses", **fields}
    )
    MADE.append(made(config, world.inbox, world.store, clock=world.clock, metrics=world.metrics))
    return MADE[-1]


MADE: list[FollowSource] = []


@pytest.fixture(autouse=True)
def _files_are_closed() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().stop()


def line(record_id: str, **fields: Any) -> str:
    return json.dumps(prediction(record_id, **fields)) + "\n"


def add(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions.jsonl"


def test_new_lines_are_taken_once_and_a_half_line_when_it_is_whole(world: World, path: Path) -> None:
    source = follow(world, path)
    assert source.poll() == 0, "the file is not there yet"
    add(path, line("a") + line("b") + line("c")[:20])
    assert source.poll() == len(line("a") + line("b"))
    assert world.ids("predictions") == ["a", "b"]
    assert source.poll() == 0
    add(path, line("c")[20:])
    assert source.poll() > 0
    assert source.poll() == 0
    assert world.ids("predictions") == ["a", "b", "c"]
    assert world.rows("batches", "")[0]["source"] == "follow:log"
    assert sample(world.metrics, "modelwatch_ingest_requests_total", transport="follow", code="200") == 2


def test_a_restart_goes_on_where_the_last_run_stopped(world: World, path: Path) -> None:
    add(path, line("a"))
    follow(world, path).poll()
    world.restart()
    add(path, line("b"))
    assert follow(world, path).poll() == len(line("b"))
    assert world.ids("predictions") == ["a", "b"]
    assert len(world.rows("batches", "")) == 2


class Interrupted(Inbox):
    """Dies in the transaction, with the lines and the offset put down and before the commit."""

    def put(self, batch: Batch) -> Future[Answer]:
        def die(transaction: Transaction) -> None:
            assert batch.also
            batch.also(transaction)
            raise KeyError("killed")

        return super().put(dataclasses.replace(batch, also=die))


def test_lines_and_offset_are_stored_together_or_not_at_all(world: World, path: Path) -> None:
    add(path, line("a") + line("b"))
    world.inbox = Interrupted(world.config, world.store, clock=world.clock, metrics=world.metrics)
    with pytest.raises(KeyError, match="killed"):
        follow(world, path).poll()
    assert (world.ids("predictions"), world.state("SELECT * FROM offsets")) == ([], [])
    world.restart()
    assert follow(world, path).poll() > 0
    assert world.ids("predictions") == ["a", "b"]
    assert sample(world.metrics, "modelwatch_ingest_records_duplicate_total", model="houses", kind="predictions") in (None, 0)
    assert len(world.state("SELECT * FROM offsets")) == 1


def test_a_file_that_became_shorter_is_read_from_its_beginning(world: World, path: Path) -> None:
    source = follow(world, path)
    add(path, line("a") + line("b"))
    source.poll()
    path.write_text(line("c"))
    source.poll()
    assert world.ids("predictions") == ["a", "b", "c"]


def test_another_file_at_the_same_place_is_read_from_its_beginning(world: World, path: Path) -> None:
    source = follow(world, path)
    add(path, line("a"))
    source.poll()
    path.rename(path.with_suffix(".1"))
    add(path, line("b") + line("c"))
    source.poll()
    assert world.ids("predictions") == ["a", "b", "c"]


def test_a_new_file_on_the_inode_of_a_removed_one_is_read_from_its_beginning(world: World, path: Path) -> None:
    source = follow(world, path)
    add(path, line("a"))
    source.poll()
    with path.open("r+", encoding="utf-8") as file:  # what copytruncate does, and grown past the old end before we look again
        file.truncate(0)
        file.write(line("b") + line("c"))
    source.poll()
    assert world.ids("predictions") == ["a", "b", "c"]


@pytest.mark.parametrize("restarted", (False, True))
def test_the_last_lines_of_a_file_that_was_rotated_away_are_taken_first(world: World, path: Path, restarted: bool) -> None:
    source = follow(world, path)
    add(path, line("a"))
    source.poll()
    add(path, line("b"))
    old = path.rename(path.with_suffix(".1"))
    add(path, line("d"))
    add(old, line("c"))
    if restarted:
        world.restart()
        source = follow(world, path)
    source.poll()
    assert world.ids("predictions") == ["a", "b", "c", "d"]
    add(old, line("e"))  # its writer was slow to see the new one
    source.poll()
    assert world.ids("predictions") == ["a", "b", "c", "d", "e"]


def test_a_file_beside_it_that_was_never_followed_is_left_alone(world: World, path: Path) -> None:
    add(path.with_suffix(".other"), line("x"))
    add(path, line("a"))
    follow(world, path).poll()
    assert world.ids("predictions") == ["a"]


def test_a_bad_line_is_set_aside_and_the_rest_is_taken(world: World, path: Path) -> None:
    path.write_bytes(
        line("a").encode() + b'{"half": \n\n\xff\xfe\n' + line("b").encode() + line("c", prediction=float("nan")).encode()
    )
    follow(world, path).poll()
    assert world.ids("predictions") == ["a", "b"]
    assert world.letters() == [(None, "bad_json"), (None, "bad_json"), ("c", "not_finite")]
    assert {row["source"] for row in world.rows("deadletters", "")} == {"follow:log"}


def test_a_file_larger_than_a_block_is_taken_block_by_block(world: World, path: Path) -> None:
    add(path, "".join(line(f"r{i}") for i in range(100)))
    source = follow(world, path, max_block_bytes=1024)
    polls = 0
    while taken := source.poll():
        assert taken <= 1024
        polls += 1
    assert polls > 5
    assert world.ids("predictions") == [f"r{i}" for i in range(100)]


def test_a_line_longer_than_a_block_is_set_aside_and_reading_goes_on(world: World, path: Path) -> None:
    source = follow(world, path, max_block_bytes=1024)
    add(path, line("a") + line("long", extra="x" * 5000)[:-1])
    source.poll()
    assert source.poll() == 0, "it is still being written"
    add(path, "\n" + line("b"))
    while source.poll():
        pass
    assert world.ids("predictions") == ["a", "b"]
    letter = world.rows("deadletters", "")[0]
    assert (letter["reason"], len(letter["payload"])) == ("too_large", 1024)
    assert "max_block_bytes of source log is 1024" in letter["message"]


def test_a_full_inbox_leaves_the_lines_for_later(make_world: Callable[..., World], path: Path) -> None:
    world = make_world(server={"queue_records": 1})
    add(path, line("a"))
    source = follow(world, path)
    held = Held(world.store)
    waiting = world.store.submit(append_labels(world.store, ["x"]), records=1)
    with pytest.raises(InboxFull):
        source.poll()
    held.release()
    waiting.result(10)
    assert source.poll() > 0
    assert world.ids("predictions") == ["a"]


def test_a_store_that_is_closed_leaves_the_lines_for_later(world: World, path: Path) -> None:
    add(path, line("a"))
    source = follow(world, path)
    held = Held(world.store)
    world.store._unavailable = "low"
    with pytest.raises(StoreUnavailable):
        source.poll()
    world.store._unavailable = None
    held.release()
    assert source.poll() > 0
    assert world.ids("predictions") == ["a"]


def test_labels_and_generations_can_be_followed_too(world: World, path: Path) -> None:
    add(path, '{"record_id": "a", "label": 3}\n')
    follow(world, path, kind="labels").poll()
    assert world.ids("labels") == ["a"]


def test_two_sources_may_follow_one_file(world: World, path: Path) -> None:
    add(path, '{"record_id": "a", "label": 3, "prediction": 1}\n')
    for name, kind in (("one", "labels"), ("two", "predictions")):
        follow(world, path, name=name, kind=kind).poll()
    assert (world.ids("labels"), world.ids("predictions")) == (["a"], ["a"])


def test_its_thread_follows_until_it_is_stopped_and_survives_a_file_it_cannot_read(world: World, path: Path) -> None:
    path.mkdir()  # no file, for now
    source = follow(world, path, poll_seconds=0.01)
    source.start()
    try:
        path.rmdir()
        add(path, line("a"))
        wait_for(lambda: world.ids("predictions") == ["a"], "the first line")
        add(path, line("b"))
        wait_for(lambda: world.ids("predictions") == ["a", "b"], "the second line")
    finally:
        source.stop()
    add(path, line("c"))
    assert world.ids("predictions") == ["a", "b"]


class FaultyInbox(Inbox):
    """Has a fault of its own, until it is mended."""

    mended = False

    def put(self, batch: Batch) -> Future[Answer]:
        if not self.mended:
            raise ZeroDivisionError
        return super().put(batch)


def test_a_fault_of_ours_does_not_end_the_thread(world: World, path: Path) -> None:
    add(path, line("a"))
    world.inbox = inbox = FaultyInbox(world.config, world.store, clock=world.clock, metrics=world.metrics)
    source = follow(world, path, poll_seconds=0.01)
    source.start()
    try:
        wait_for(lambda: sample(world.metrics, "modelwatch_ingest_requests_total", transport="follow", code="500"), "the fault")
        inbox.mended = True
        wait_for(lambda: world.ids("predictions") == ["a"], "the line")
    finally:
        source.stop()


def test_a_pattern_follows_every_file_that_fits_and_those_that_come_later(world: World, tmp_path: Path) -> None:
    source = follow(world, tmp_path / "app-*.jsonl")
    assert source.poll() == 0
    add(tmp_path / "app-1.jsonl", line("a"))
    add(tmp_path / "app-2.jsonl", line("b"))
    add(tmp_path / "other.jsonl", line("x"))
    source.poll()
    add(tmp_path / "app-3.jsonl", line("c"))
    add(tmp_path / "app-1.jsonl", line("d"))
    while source.poll():
        pass
    assert sorted(world.ids("predictions")) == ["a", "b", "c", "d"]


def test_two_links_to_one_file_are_one_file(world: World, tmp_path: Path) -> None:
    add(tmp_path / "file", line("a", prediction=1) + '{"label": 1, "record_id": "b"}\n')
    (tmp_path / "one.jsonl").symlink_to("file")
    os.link(tmp_path / "file", tmp_path / "two.jsonl")
    source = follow(world, tmp_path / "*.jsonl")
    while source.poll():
        pass
    assert sum(row["records"] for row in world.rows("batches", "")) == 2


def test_a_link_that_is_turned_to_the_next_file_is_followed_after_the_rest_of_the_last(world: World, tmp_path: Path) -> None:
    files = [tmp_path / "files" / name for name in ("1", "2")]
    files[0].parent.mkdir()
    link = tmp_path / "current.jsonl"
    add(files[0], line("a"))
    link.symlink_to(files[0])
    follow(world, link).poll()
    add(files[0], line("b"))
    add(files[1], line("c"))
    link.unlink()
    link.symlink_to(files[1])
    world.restart()
    source = follow(world, link)
    source.poll()
    assert world.ids("predictions") == ["a", "b", "c"]
    add(files[0], line("d"))
    source.poll()
    assert world.ids("predictions") == ["a", "b", "c", "d"]


def test_a_file_that_was_moved_away_or_removed_while_it_is_read_is_read_to_its_end(world: World, tmp_path: Path) -> None:
    path = tmp_path / "log"
    source = follow(world, path)
    add(path, line("a"))
    source.poll()
    (tmp_path / "elsewhere").mkdir()
    with path.open("a") as writer:
        path.rename(tmp_path / "elsewhere" / "log")
        add(path, line("c"))
        writer.write(line("b"))
        writer.flush()
        (tmp_path / "elsewhere" / "log").unlink()
        source.poll()
    assert world.ids("predictions") == ["a", "b", "c"]


@pytest.mark.parametrize("restarted", (False, True))
def test_lines_that_only_the_copy_of_a_truncated_file_holds_are_taken_and_the_others_not_again(
    world: World, path: Path, restarted: bool
) -> None:
    source = follow(world, path)
    add(path, line("a"))
    source.poll()
    add(path, line("b"))
    shutil.copy(path, path.with_suffix(".1"))
    os.truncate(path, 0)
    add(path, line("c") + line("d") + line("e"))
    if restarted:
        world.restart()
        source = follow(world, path)
    source.poll()
    assert world.ids("predictions") == ["a", "b", "c", "d", "e"]
    assert sum(row["records"] for row in world.rows("batches", "")) == 5, "none was handed over twice"


def test_a_copy_that_fits_the_pattern_is_read_on_and_not_again(world: World, path: Path) -> None:
    source = follow(world, path.with_suffix(".*"))
    add(path, line("a"))
    source.poll()
    add(path, line("b"))
    shutil.copy(path, path.with_suffix(".1"))
    os.truncate(path, 0)
    add(path, line("c"))
    while source.poll():
        pass
    assert sorted(world.ids("predictions")) == ["a", "b", "c"]
    assert sum(row["records"] for row in world.rows("batches", "")) == 3


def packed(path: Path) -> Path:
    target = path.with_name(path.name + ".gz")
    with path.open("rb") as plain, gzip.open(target, "wb") as file:
        shutil.copyfileobj(plain, file)
    path.unlink()
    return target


@pytest.mark.parametrize("pattern", ("predictions.jsonl", "predictions.*"))
def test_a_rotated_file_that_is_compressed_is_not_read_twice(world: World, tmp_path: Path, path: Path, pattern: str) -> None:
    source = follow(world, tmp_path / pattern)
    for round_, name in enumerate("abc"):
        add(path, "".join(line(f"{name}{i}") for i in range(50)))
        source.poll()
        packed(path.rename(path.with_suffix(f".{round_}")))
    add(path, line("d"))
    while source.poll():
        pass
    world.restart()
    source = follow(world, tmp_path / pattern)
    while source.poll():
        pass
    assert len(world.ids("predictions")) == 151
    assert sum(row["records"] for row in world.rows("batches", "")) == 151


def test_what_was_not_read_before_a_file_was_compressed_is_read_from_the_compressed_one(world: World, path: Path) -> None:
    add(path, "".join(line(f"a{i}") for i in range(100)))
    follow(world, path, max_block_bytes=4096).poll()  # and no further, before the daemon goes down
    taken = len(world.ids("predictions"))
    assert 0 < taken < 100
    add(path, line("last").rstrip())  # whose writer was killed
    packed(path.rename(path.with_suffix(".1")))
    add(path, line("b"))
    world.restart()
    source = follow(world, path, max_block_bytes=4096)
    while source.poll():
        pass
    assert world.ids("predictions") == [*(f"a{i}" for i in range(100)), "last", "b"]
    assert sum(row["records"] for row in world.rows("batches", "")) == 102


def test_a_compressed_file_is_read_when_it_is_whole(world: World, tmp_path: Path) -> None:
    whole = gzip.compress((line("a") + line("b")).encode())
    path = tmp_path / "old.jsonl.gz"
    source = follow(world, tmp_path / "*.gz")
    path.write_bytes(whole[: len(whole) // 2])
    source.poll()
    path.write_bytes(whole)
    source.poll()
    source.poll()
    assert world.ids("predictions") == ["a", "b"]


def test_where_a_file_stands_in_a_store_of_version_1_is_still_known(world: World, path: Path) -> None:
    add(path, line("a") + line("b"))
    follow(world, path).poll()
    world.store.run(lambda transaction: transaction.execute("UPDATE offsets SET tail = NULL"))
    add(path, line("c"))
    world.restart()
    assert follow(world, path).poll() == len(line("c"))


def test_of_files_that_are_gone_the_last_thousand_stay_known(world: World, tmp_path: Path) -> None:
    old = [
        {"source": "log", "file": str(tmp_path / "in" / f"{n}.jsonl"), "identity": f"9:{n}:{n:016x}", "position": 10, "tail": n}
        for n in range(KEPT_GONE + 50)
    ]

    def note(transaction: Transaction) -> None:
        columns: dict[str, list[Any]] = {name: [row[name] for row in old] for name in old[0]}
        columns["noted_at"] = [None if n < 20 else NOON - timedelta(days=1, seconds=-n) for n in range(len(old))]
        transaction.insert("offsets", columns)
        transaction.insert("offsets", {**{name: [value] for name, value in old[0].items()}, "source": ["another"]})

    world.store.run(note)
    (tmp_path / "in").mkdir()
    kept = tmp_path / "in" / "kept.jsonl"
    add(kept, line("a"))
    source = follow(world, tmp_path / "in" / "*.jsonl")
    assert source.poll() > 0
    add(tmp_path / "in" / "next.jsonl", line("b"))
    assert source.poll() > 0
    assert source.poll() == 0
    left = [row["identity"] for row in world.state("SELECT identity FROM offsets WHERE source = 'log' ORDER BY noted_at")]
    assert len(left) == KEPT_GONE + 2
    assert left[:2] == ["9:50:0000000000000032", "9:51:0000000000000033"], "the oldest went"
    assert world.state("SELECT count(*) AS n FROM offsets WHERE source = 'another'")[0]["n"] == 1
    shutil.copy(kept, tmp_path / "in" / "copy.jsonl")
    assert (source.poll(), world.ids("predictions")) == (0, ["a", "b"])
