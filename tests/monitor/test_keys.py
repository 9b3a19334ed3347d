"""What tells a record that is sent again from a new one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.hashfile import HashFile, KeyFile, UInt64Array, Wanted
from monitor.keys import KeyIndex, PlaceIndex, hash64

HASHES = st.integers(0, 2**64 - 1)


def array(values: list[int]) -> UInt64Array:
    return np.array(values, dtype=np.uint64)


def key_file(path: Path, keys: list[int]) -> KeyFile:
    KeyFile.write(path, array(keys), array([k // 2 for k in keys]), array(list(range(len(keys)))))
    return KeyFile(path)


def test_a_hash_tells_where_one_part_ends() -> None:
    assert len({hash64("a", "bc"), hash64("ab", "c"), hash64("abc"), hash64("abc", ""), hash64("", "abc")}) == 5
    assert hash64("ä") == hash64("ä".encode())


def test_a_hash_stays_the_same_over_versions() -> None:
    # It is in every store: another one would make every record new again.
    assert hash64("r1", "0") == 16634385613618272609


@settings(max_examples=30, deadline=None)
@given(st.sets(HASHES, max_size=200), st.sets(HASHES, max_size=50))
def test_a_file_finds_what_it_holds_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, keys: set[int], other: set[int]
) -> None:
    held = list(keys)
    file = key_file(tmp_path_factory.mktemp("keys") / "a.keys", held)
    wanted = [*keys, *(other - keys)]
    found = {place: (content, seq) for place, content, seq in file.find(Wanted(array(wanted)))}
    assert found == {i: (key // 2, held.index(key)) for i, key in enumerate(held)}


def test_few_keys_that_are_absent_cost_a_search(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    keys, absent = (random.integers(0, 2**63, 20_000, dtype=np.uint64) for _ in range(2))
    file = key_file(tmp_path / "a.keys", keys.tolist())
    found = file._content.filter
    assert found.maybe(found.words_at(file.keys), Wanted(file.keys).masks).all()
    assert found.maybe(found.words_at(absent), Wanted(absent).masks).mean() < 0.01


def test_the_index_looks_into_the_hot_keys_and_into_every_file(tmp_path: Path) -> None:
    index = KeyIndex()
    for key in (1, 2, 3, 4):
        index.put(key, key * 10, key * 100)
    KeyFile.write(tmp_path / "a", array([2, 1]), array([20, 10]), array([200, 100]))
    KeyFile.write(tmp_path / "b", array([3]), array([30]), array([300]))
    index.seal(KeyFile(tmp_path / "a"))
    index.seal(KeyFile(tmp_path / "b"))
    assert len(index) == 4
    assert index.find([4, 3, 5, 1]) == [(40, 400), (30, 300), None, (10, 100)]
    index.drop([4, 3])
    assert index.find([4, 3]) == [None, (30, 300)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 20) | HASHES, max_size=30), min_size=1, max_size=5), st.sets(st.integers(0, 20)))
def test_merged_files_find_every_row_of_a_hash_in_order(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], wanted: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("places")
    seq, files, rows = 1, [], []
    for n, part in enumerate(parts):
        HashFile.write_rows(folder / f"{n}", array(part), array(list(range(seq, seq + len(part)))))
        files.append(HashFile(folder / f"{n}"))
        rows += list(zip(part, range(seq, seq + len(part)), strict=True))
        seq += len(part)
    apart, merged = PlaceIndex(), PlaceIndex()
    for file in files:
        apart.seal(file, seq - 1)
    HashFile.merge(folder / "all", files)
    merged.seal(files[0], seq - 1)
    merged.replace({files[0].path}, HashFile(folder / "all"))
    expected = [s for h, s in rows if h in wanted]
    for index in (apart, merged):
        found = index.find(wanted)
        assert (found.seqs.tolist(), found.known_to) == (expected, seq - 1)


def test_keys_are_found_while_their_files_are_replaced(tmp_path: Path) -> None:
    index = KeyIndex()
    for n in range(3):
        index.seal(key_file(tmp_path / f"{n}.keys", [10 * n + 1, 10 * n + 2]))
    old = [KeyFile(tmp_path / f"{n}.keys") for n in range(2)]
    HashFile.merge(tmp_path / "both.keys", old)
    index.replace({f.path for f in old}, KeyFile(tmp_path / "both.keys"))
    for file in old:
        file.path.unlink()
    assert [f is not None for f in index.find([1, 2, 11, 12, 21, 22, 3])] == [True] * 6 + [False]
    assert len(index) == 6
