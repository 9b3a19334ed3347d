"""The rows of a record are found without reading every segment, wherever they lie."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from monitor import segments
from monitor.keys import Places, hash64, place_hash
from monitor.reader import Reader
from tests.monitor.support import NOON, World, check, contexts, generation, label, prediction
from tests.monitor.test_compaction import HOUR, compactor, work


@pytest.mark.parametrize("text", ("a", "ä€ 🙂", "x" * 999, ""))
def test_the_store_and_we_hash_a_record_alike(world: World, text: str) -> None:
    assert world.state("SELECT md5_number_lower(?) AS h", text) == [{"h": place_hash(text)}]


def labels_in_segments(world: World, count: int = 5) -> None:
    for n in range(count):
        world.send("predictions", prediction(f"r{n}", NOON + timedelta(minutes=n)))
        world.send("labels", label(f"r{n}", 1.0), label(f"other{n}", 1.0))
        world.seal()
    world.send("labels", label("r1", 2.0, revision=1))


def look(reader: Reader, *records: str) -> tuple[list[int], int]:
    """Where their labels are, and in how many segments they were looked for."""
    source = reader.source(
        "labels", "houses", places=reader.places("records", "labels", "houses", list(map(place_hash, records)))
    )
    marks = ", ".join("?" * len(records))
    found = reader.query(f"SELECT seq FROM {source} WHERE record_id IN ({marks}) ORDER BY seq", records)
    return [row["seq"] for row in found], source.count(".parquet")


def test_only_segments_that_hold_a_record_are_read_and_what_is_hot(world: World) -> None:
    labels_in_segments(world)
    with world.store.read() as reader:
        assert look(reader, "r1") == ([3, 11], 1)
        assert look(reader, "r0", "other4") == ([1, 10], 2)
        assert look(reader, "nobody") == ([], 0)
    world.seal()
    world.restart()
    with world.store.read() as reader:
        assert look(reader, "r1") == ([3, 11], 2)
    world.clock.move(25 * HOUR)
    work(compactor(world))
    with world.store.read() as reader:
        assert look(reader, "r1") == ([3, 11], 1)
        assert look(reader, "nobody") == ([], 0)


def test_what_is_sealed_and_not_indexed_yet_is_looked_at(world: World) -> None:
    labels_in_segments(world)
    with world.store.read() as reader:
        source = reader.source("labels", "houses", places=Places(np.array([3], dtype=np.uint64), 4))
        assert [r["seq"] for r in reader.query(f"SELECT seq FROM {source} ORDER BY seq")] == [3, *range(5, 12)]


def test_many_places_are_a_span(world: World) -> None:
    labels_in_segments(world)
    with world.store.read() as reader:
        source = reader.source("labels", "houses", places=Places(np.arange(3, 5000, dtype=np.uint64), 10))
        assert [r["seq"] for r in reader.query(f"SELECT seq FROM {source} ORDER BY seq")] == list(range(3, 12))


def test_an_index_that_an_earlier_version_did_not_write_is_made_at_start(world: World) -> None:
    labels_in_segments(world)
    world.close()
    files = list((world.store.root / segments.FOLDER).rglob("*.records"))
    content = {file: file.read_bytes() for file in files}
    for file in files:
        file.unlink()
    world.open()
    assert {file: file.read_bytes() for file in content} == content
    with world.store.read() as reader:
        assert look(reader, "r1") == ([3, 11], 1)


def test_a_late_context_finds_the_score_and_the_first_passage_among_many_segments(world: World) -> None:
    world.config = world.config.model_validate(
        {**world.config.model_dump(), "checks": [check("bare", "Bareness", model="bot")], "scoring": {"settle_seconds": 0}}
    )
    world.restart()
    for n in range(6):
        world.send("generations", generation(f"g{n}", contexts=[f"passage {n}"]))
        world.score()
        world.seal()
    for n, passages in enumerate((["second"], ["third", "fourth"]), 2):
        world.send("contexts", contexts("g3", *passages))
        assert world.state("SELECT revision, contexts_from FROM work") == [{"revision": n, "contexts_from": 4}]
        world.score()
        world.seal()
    scores = world.rows("scores", "bot", "revision, value", "record_id = 'g3'")
    assert [(s["revision"], s["value"]) for s in scores] == [(1, 1 / 2), (2, 1 / 3), (3, 1 / 5)]


def test_labels_of_an_old_window_are_found_though_many_came_since(world: World) -> None:
    world.config = world.config.model_validate({**world.config.model_dump(), "checks": [check("error", "Error")]})
    world.restart()
    for n in range(12):
        world.send("predictions", prediction(f"r{n}", NOON - timedelta(hours=3) + timedelta(minutes=10 * n), prediction=0.0))
        world.seal()
    for n in range(11):
        world.send("labels", label(f"r{n}", float(n)))
        world.seal()
    world.look()
    assert [value for _, value, _ in world.readings("error").values()] == [float(n) for n in range(11)]
    agenda = world.runners["error"]._agenda
    with world.store.read() as reader:
        places = agenda._labelled(reader, "labels", "predictions", 9)
        assert places is not None
        assert places.seqs.tolist() == [10, 11]
        assert reader.source("predictions", "houses", places=places).count(".parquet") == 2
    world.send("labels", label("r0", 100.0, revision=1))
    assert world.look() == 1
    assert world.readings("error")[NOON - timedelta(hours=3) + timedelta(minutes=10)][1] == 100.0


def test_keys_say_where_records_lie_while_they_are_hot_and_after(world: World) -> None:
    labels_in_segments(world)
    for _ in range(2):
        places = world.store.places("keys", "predictions", "houses", [hash64("r3"), hash64("nobody"), hash64("r0")])
        assert places.seqs.tolist() == [1, 4]
        world.restart()
