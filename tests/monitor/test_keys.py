"""What tells a record that is sent again from a new one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.keys import KeyFile, KeyIndex, UInt64Array, hash64

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
    found = {place: (content, seq) for place, content, seq in file.find(array(wanted))}
    assert found == {i: (key // 2, held.index(key)) for i, key in enumerate(held)}


def test_few_keys_that_are_absent_cost_a_search(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    keys, absent = (random.integers(0, 2**63, 20_000, dtype=np.uint64) for _ in range(2))
    file = key_file(tmp_path / "a.keys", keys.tolist())
    assert file._bloom.maybe(file.keys).all()
    assert file._bloom.maybe(absent).mean() < 0.03


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
