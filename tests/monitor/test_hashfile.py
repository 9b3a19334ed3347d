"""Index files whose bits have flipped: noticed before anybody is told something wrong, and made anew from their segment."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.hashfile import BLOCK, SMALL_BYTES, Damaged, HashFile, KeyFile, UInt64Array, Wanted
from monitor.quarantine import Quarantine
from tests.monitor.support import World, contexts, generation, prediction, sample


def hashes(size: int, seed: int = 0) -> UInt64Array:
    return np.random.default_rng(seed).integers(1, 2**64 - 1, size, dtype=np.uint64)


def flip(path: Path, place: int, bit: int = 0) -> None:
    """One bit, in the file that may be mapped somewhere."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ (1 << bit)]))


def write(path: Path, keys: UInt64Array) -> dict[int, tuple[int, int]]:
    """A file of these keys, and what it is to answer."""
    seq = np.arange(1, len(keys) + 1, dtype=np.uint64)
    KeyFile.write(path, keys, keys // np.uint64(3), seq)
    return {int(k): (int(k) // 3, int(s)) for k, s in zip(keys, seq, strict=True)}


def ask(file: KeyFile, keys: UInt64Array) -> dict[int, tuple[int, int]]:
    return {int(keys[place]): (content, seq) for place, content, seq in file.find(Wanted(keys))}


@pytest.mark.parametrize("size", (0, 1, 300, 5_000))
def test_a_file_is_small_or_mapped_and_answers_alike(tmp_path: Path, size: int) -> None:
    keys = hashes(size)
    expected = write(tmp_path / "a.keys", keys)
    file = KeyFile(tmp_path / "a.keys")
    assert (file._content.checks is None) == (size < 500), f"{SMALL_BYTES} bytes are read as a whole"
    assert len(file) == size
    assert ask(file, np.concatenate([keys, hashes(1_000, seed=1)])) == expected


@settings(max_examples=120, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.sampled_from((200, 3_000)))
def test_no_flipped_bit_of_a_file_gives_a_wrong_answer(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / f"flipped-{size}.keys"
    keys = hashes(size)
    expected = write(path, keys)
    absent = hashes(500, seed=1)
    flip(path, int(place * path.stat().st_size), bit)
    mended: list[str] = []

    def mend(damaged: Path, problem: str) -> bool:
        mended.append(problem)
        write(damaged, keys)
        return True

    file = KeyFile(path, mend)
    assert ask(file, np.concatenate([keys[:50], absent])) == {int(k): expected[int(k)] for k in keys[:50]}
    assert ask(file, keys) == expected
    assert (len(mended), file.look()) == (1, True), "it was noticed once, by whoever came to it"


def test_a_bit_that_flips_while_the_file_is_mapped_makes_no_conflict(tmp_path: Path) -> None:
    keys = np.sort(hashes(5_000))
    expected = write(tmp_path / "a.keys", keys)
    file = KeyFile(tmp_path / "a.keys")
    assert ask(file, keys) == expected  # all of it was compared by now
    for column in (1, 2):
        flip(tmp_path / "a.keys", 8 * (column * len(keys) + 2_500))
        with pytest.raises(Damaged, match="not what was written"):
            ask(file, keys[2_500:2_501])
        flip(tmp_path / "a.keys", 8 * (column * len(keys) + 2_500))
    assert ask(file, keys) == expected


def test_only_the_blocks_that_are_looked_at_are_compared(tmp_path: Path) -> None:
    keys = np.sort(hashes(200_000))
    write(tmp_path / "a.keys", keys)
    file = KeyFile(tmp_path / "a.keys")
    ask(file, keys[:1])
    known = file._content.known
    assert known is not None
    assert 4 <= known.sum() <= 8, f"of {len(known)} blocks of {BLOCK}"


@pytest.mark.parametrize("damage", ("cut", "longer", "another width", "no footer", "empty", "gone", "a folder"))
def test_what_does_not_end_as_it_was_written_is_no_index(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.keys"
    write(path, hashes(1_000))
    whole = path.read_bytes()
    if damage == "another width":
        HashFile.write_rows(path, hashes(10), hashes(10))
    elif damage == "no footer":  # as an earlier version wrote it
        old = io.BytesIO()
        np.save(old, np.zeros((3, 10), np.uint64), allow_pickle=False)
        path.write_bytes(old.getvalue())
    elif damage in ("gone", "a folder"):
        path.unlink()
        if damage == "a folder":
            path.mkdir()
    else:
        path.write_bytes({"cut": whole[:-1], "longer": whole + b"\0", "empty": b""}[damage])
    with pytest.raises(Damaged):
        KeyFile(path)


# --- in the store ---

Where = Callable[[World], Path]


def index_of(world: World, kind: str, suffix: str, model: str = "houses") -> Path:
    (found,) = (world.store.root / "segments" / kind / model).rglob(f"*.{suffix}")
    return found


def rebuilt(world: World, kind: str = "predictions") -> float:
    return sample(world.metrics, "modelwatch_store_index_rebuilds_total", kind=kind) or 0.0


@pytest.mark.parametrize("place", (0.05, 0.4, 0.7, 0.97))
def test_a_flipped_bit_while_the_daemon_was_down_makes_no_duplicate_and_no_conflict(
    world: World, place: float, caplog: pytest.LogCaptureFixture
) -> None:
    sent = [prediction(f"r{i}") for i in range(50)]
    world.send("predictions", *sent)
    world.seal()
    path = index_of(world, "predictions", "keys")
    whole = path.read_bytes()
    world.close()
    flip(path, int(place * len(whole)))
    with caplog.at_level(logging.WARNING, "modelwatch"):
        world.open()
    assert rebuilt(world) == 1
    assert "an index was made anew from its segment" in caplog.text
    assert path.read_bytes() == whole
    answer = world.send("predictions", *sent, prediction("new"))
    assert (answer.accepted, answer.duplicates, answer.rejects) == (1, 50, [])


@pytest.mark.parametrize("damage", ("flipped", "gone"))
def test_the_daily_look_finds_a_damaged_index_of_any_sort(world: World, damage: str) -> None:
    world.send("generations", generation("g", trace_id="1" * 32))
    world.send("contexts", contexts("g", "a passage"))
    world.seal()
    looked = Quarantine(world.store, clock=world.clock, metrics=world.metrics)
    assert looked.look() == 0
    for kind, suffix in (("generations", "keys"), ("generations", "traces"), ("contexts", "records")):
        path = index_of(world, kind, suffix, "bot")
        whole = path.read_bytes()
        path.unlink() if damage == "gone" else flip(path, 8)
        before = rebuilt(world, kind)
        assert looked.look() == 0, "the segment is whole"
        assert rebuilt(world, kind) == before + 1
        assert path.read_bytes() == whole


def test_an_index_of_an_earlier_version_is_made_anew_at_start(world: World) -> None:
    world.send("predictions", prediction("a"))
    world.seal()
    path = index_of(world, "predictions", "keys")
    rows = KeyFile(path).rows
    world.close()
    with path.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
    world.open()
    assert world.send("predictions", prediction("a")).duplicates == 1
    assert rebuilt(world) == 1


def test_where_the_segment_is_damaged_as_well_the_rest_goes_on_and_whole_copies_are_taken(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.send("predictions", prediction("a"))
    world.seal()
    path = index_of(world, "predictions", "keys")
    segment = path.with_suffix(".parquet")
    copies = path.read_bytes(), segment.read_bytes()
    world.close()
    flip(path, 8)
    flip(segment, 20)
    world.open()
    assert "an index and its segment are damaged" in caplog.text
    looked = Quarantine(world.store, clock=world.clock, metrics=world.metrics)
    assert looked.look() == 1
    assert world.send("predictions", prediction("b")).accepted == 1
    path.write_bytes(copies[0])
    segment.write_bytes(copies[1])
    looked.look()
    assert world.ids("predictions") == ["a", "b"]
    assert world.send("predictions", prediction("a")).duplicates == 1
