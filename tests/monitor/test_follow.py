"""Following a growing file: every line once, whatever happens to the file or to us."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from monitor.config import Follow
from monitor.errors import InboxFull, StoreUnavailable
from monitor.inbox import Answer, Batch, Inbox
from monitor.sources.follow import FollowSource
from tests.monitor.support import Held, World, append_labels, prediction, sample, wait_for


def follow(world: World, path: Path, made: type[FollowSource] = FollowSource, **fields: Any) -> FollowSource:
    config = Follow.model_validate(
        {"type": "follow", "name": "log", "path": path, "kind": "predictions", "model": "houses", **fields}
    )
    return made(config, world.inbox, world.store, clock=world.clock, metrics=world.metrics)


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


class Interrupted(FollowSource):
    """Dies after the commit and before its offset is saved."""

    def _move(self, identity: str, position: int) -> None:
        raise KeyboardInterrupt


def test_a_kill_between_the_commit_and_the_offset_doubles_nothing(world: World, path: Path) -> None:
    add(path, line("a") + line("b"))
    with pytest.raises(KeyboardInterrupt):
        follow(world, path, Interrupted).poll()
    world.restart()
    assert follow(world, path).poll() > 0
    assert world.ids("predictions") == ["a", "b"]
    assert sample(world.metrics, "modelwatch_ingest_records_duplicate_total", model="houses", kind="predictions") == 2


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
        source._put([prediction("a")], 1)
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
