"""Damaged segments: found, set aside, told of, and taken back once they are whole; everything else goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from monitor import faultpoints
from monitor.quarantine import FOLDER, ROUND_SECONDS, Quarantine
from tests.monitor.support import NOON, World, check, generation, label, prediction, sample

Damage = Callable[[Path], object]


def flip(path: Path) -> None:
    """One bit, in the data and not in the footer."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(content)


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES: dict[str, Damage] = {"a flipped bit": flip, "a torn end": tear, "gone": Path.unlink}


@pytest.fixture
def sealed(world: World) -> World:
    """Two segments of predictions, and one hot row."""
    for name in ("a", "b"):
        world.send("predictions", prediction(name))
        world.seal()
    world.send("predictions", prediction("c"))
    return world


def look(world: World) -> int:
    return Quarantine(world.store, clock=world.clock, metrics=world.metrics).look()


def first_segment(world: World) -> Path:
    file: str = world.state("SELECT file FROM manifest WHERE kind = 'predictions' ORDER BY first_seq")[0]["file"]
    return world.store.root / file


def test_what_is_whole_stays_where_it_is(sealed: World) -> None:
    assert look(sealed) == 0
    assert sealed.ids("predictions") == ["a", "b", "c"]
    assert sample(sealed.metrics, "modelwatch_store_quarantined_segments") == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_segment_is_set_aside_and_the_rest_is_read_on(
    sealed: World, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    segment = first_segment(sealed)
    DAMAGES[damage](segment)
    assert look(sealed) == 1
    assert sealed.ids("predictions") == ["b", "c"]
    assert not segment.exists()
    assert (sealed.store.root / FOLDER / segment.relative_to(sealed.store.root)).exists() == (damage != "gone")
    assert sample(sealed.metrics, "modelwatch_store_quarantined_segments") == 1
    assert str(segment.relative_to(sealed.store.root)) in caplog.text
    assert "put a whole copy of it back" in caplog.text
    sealed.audit.refresh()
    with duckdb.connect(str(sealed.store.root / "audit.duckdb"), read_only=True) as auditor:
        auditor.execute(f"SET file_search_path = '{sealed.store.root}'")
        assert auditor.execute("SELECT record_id FROM predictions ORDER BY seq").fetchall() == [("b",), ("c",)]


def test_what_was_in_it_is_not_stored_again_and_what_is_new_goes_on_counting(sealed: World) -> None:
    flip(first_segment(sealed))
    look(sealed)
    for _ in range(2):
        answer = sealed.send("predictions", prediction("a"), prediction("b"))
        assert (answer.accepted, answer.duplicates) == (0, 2)
        sealed.seal()
        sealed.restart()
    sealed.send("predictions", prediction("d"))
    assert [(r["record_id"], r["seq"]) for r in sealed.rows("predictions")] == [("b", 2), ("c", 3), ("d", 4)]


def test_a_whole_copy_in_its_place_is_taken_back(sealed: World) -> None:
    segment = first_segment(sealed)
    whole = segment.read_bytes()
    flip(segment)
    look(sealed)
    sealed.restart()
    segment.write_bytes(whole)
    assert look(sealed) == 0
    assert sealed.ids("predictions") == ["a", "b", "c"]
    assert sample(sealed.metrics, "modelwatch_store_quarantined_segments") == 0


def test_a_copy_that_is_damaged_as_well_goes_the_same_way(sealed: World) -> None:
    segment = first_segment(sealed)
    flip(segment)
    look(sealed)
    tear(sealed.store.root / FOLDER / segment.relative_to(sealed.store.root))
    segment.write_bytes(b"PAR1 and not much more")
    assert look(sealed) == 0, "nothing that was read before"
    assert not segment.exists()
    assert sealed.ids("predictions") == ["b", "c"]


class Killed(BaseException):
    """Nothing after it happens."""


def test_a_kill_between_the_mark_and_the_move_is_made_good(sealed: World) -> None:
    def die(name: str) -> None:
        if name == "quarantine.marked":
            raise Killed

    segment = first_segment(sealed)
    flip(segment)
    faultpoints.arm(die)
    try:
        with pytest.raises(Killed):
            look(sealed)
    finally:
        faultpoints.arm(None)
    sealed.restart()
    assert sealed.ids("predictions") == ["b", "c"]
    look(sealed)
    assert not segment.exists()


def test_something_that_cannot_be_read_is_tried_again_without_what_is_damaged(sealed: World) -> None:
    tear(first_segment(sealed))
    quarantine = Quarantine(sealed.store, clock=sealed.clock, metrics=sealed.metrics)
    assert quarantine.reading(lambda: sealed.ids("predictions")) == ["b", "c"]
    with pytest.raises(duckdb.Error):
        quarantine.reading(lambda: sealed.state("SELECT nonsense"))


def test_segments_are_looked_at_once_a_day(sealed: World) -> None:
    quarantine = Quarantine(sealed.store, clock=sealed.clock, metrics=sealed.metrics)
    assert quarantine.step() == 0
    assert quarantine.step() is None
    flip(first_segment(sealed))
    sealed.clock.move(ROUND_SECONDS)
    assert quarantine.step() == 1


def numbers(*values: float, start: int = 0, prefix: str = "r") -> list[dict[str, Any]]:
    return [
        prediction(f"{prefix}{start + i}", NOON + timedelta(seconds=start + i), prediction=v, features={"x": v})
        for i, v in enumerate(values)
    ]


SLOT = NOON + timedelta(minutes=10)
OPEN = prediction("later", NOON + timedelta(minutes=11))  # moves the watermark past the first slot


def test_a_window_with_rows_in_a_damaged_segment_has_no_number_until_they_are_back(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean"), check("labelled", "Error")])
    world.clock.move(3_600)
    world.send("predictions", *numbers(1, 2, 3))
    world.seal()
    segment = first_segment(world)
    whole = segment.read_bytes()
    flip(segment)
    look(world)
    world.send("predictions", *numbers(100, start=5), OPEN)
    assert world.look() > 0
    for name in ("mean", "labelled"):
        (found,) = [r for r in world.rows("readings", where=f"check_name = '{name}'") if r["slot"] == SLOT]
        assert (found["outcome"], found["value"]) == ("not_evaluable", None)
        assert found["reason"].startswith("rows_unavailable: segments/predictions/houses/")
    segment.write_bytes(whole)
    assert look(world) == 0
    assert world.look() > 0
    assert world.readings("mean")[SLOT] == ("ok", 26.5, 4)
    assert world.readings("labelled")[SLOT][0] != "not_evaluable"
    assert world.look() == 0, "each once"


def test_windows_beside_a_damaged_segment_are_read_as_ever(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean")])
    world.clock.move(3_600)
    world.send("predictions", prediction("old", NOON - timedelta(hours=1), features={"x": 1.0}))
    world.seal()
    flip(first_segment(world))
    look(world)
    world.send("predictions", *numbers(1, 2, 3), OPEN)
    world.look()
    assert world.readings("mean")[SLOT] == ("ok", 2.0, 3)


def test_a_reference_is_not_frozen_without_rows_that_are_set_aside(make_world: Callable[..., World]) -> None:
    week = {"start": (NOON - timedelta(days=7)).isoformat(), "end": (NOON - timedelta(days=1)).isoformat()}
    world = make_world(checks=[check("shift", "Shift", reference=week)])
    world.clock.move(3_600)
    for day, value in ((6, 1.0), (5, 3.0)):
        world.send("predictions", prediction(f"d{day}", NOON - timedelta(days=day), features={"x": value}, prediction=value))
        world.seal()
    segment = first_segment(world)
    whole = segment.read_bytes()
    flip(segment)
    look(world)
    world.send("predictions", *numbers(12), OPEN)
    world.look()
    assert world.readings("shift")[SLOT][0] == "not_evaluable"
    segment.write_bytes(whole)
    look(world)
    world.look()
    assert world.readings("shift")[SLOT] == ("ok", 10.0, 1)


def test_a_threshold_is_not_learned_without_rows_that_are_set_aside(make_world: Callable[..., World]) -> None:
    """Of thirty windows one cannot be read. The others would be enough, but what is learned is kept for good."""
    start = NOON - timedelta(minutes=300)
    baseline = {"start": start.isoformat(), "end": NOON.isoformat()}
    learning = check("mean", threshold={"kind": "std", "upper": 3, "baseline": baseline})
    world = make_world(checks=[learning])
    world.clock.move(3_600)
    good = [prediction(f"b{n}", start + timedelta(minutes=10 * n + 5), prediction=float(n % 5)) for n in range(30)]
    world.send("predictions", good[7])
    world.seal()
    segment = first_segment(world)
    whole = segment.read_bytes()
    flip(segment)
    look(world)
    world.send("predictions", *good[:7], *good[8:], *numbers(1, 100), OPEN)
    world.look()
    assert [row["reason"].partition(":")[0] for row in world.rows("thresholds")] == ["rows_unavailable"]
    segment.write_bytes(whole)
    assert look(world) == 0
    world.send("predictions", prediction("next", NOON + timedelta(minutes=21), prediction=100.0))
    world.look()
    told = world.rows("thresholds")[-1]
    assert (told["reason"], told["windows"]) == (None, 30)
    assert told["upper"] == pytest.approx(2 + 3 * 2**0.5)


def test_labels_in_a_damaged_segment_matter_to_the_windows_they_belong_to(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("labelled", "Error")])
    world.clock.move(3_600)
    world.send("predictions", *numbers(1, 2), prediction("other", NOON + timedelta(minutes=15), features={"x": 5.0}))
    world.send("labels", label("r0", 1.0))
    world.seal()
    file = world.state("SELECT file FROM manifest WHERE kind = 'labels'")[0]["file"]
    flip(world.store.root / file)
    look(world)
    world.send("predictions", prediction("later", NOON + timedelta(minutes=31)))
    world.look()
    readings = world.readings("labelled")
    assert readings[SLOT][0] == "not_evaluable"
    assert readings[NOON + timedelta(minutes=20)][0] != "not_evaluable"


@pytest.mark.parametrize("kind", ("generations", "contexts"))
def test_answers_in_a_damaged_segment_are_scored_once_it_is_back_and_hold_up_no_others(
    make_world: Callable[..., World], kind: str
) -> None:
    world = make_world(checks=[check("bare", "Bareness", model="bot")])
    world.clock.move(3_600)
    world.send("generations", generation("lost", contexts=["a passage"]))
    world.settle(40)
    world.seal()
    file = world.state("SELECT file FROM manifest WHERE kind = ?", kind)[0]["file"]
    segment = world.store.root / file
    whole = segment.read_bytes()
    flip(segment)
    look(world)
    world.send("generations", generation("beside", contexts=["another"]))
    world.settle(40)
    world.score()
    assert [(r["record_id"], r["value"]) for r in world.rows("scores", "bot")] == [("beside", 0.5)]
    assert world.score() == 0, "it does not spin"
    later = [generation(f"later {n}", NOON + timedelta(minutes=n), contexts=["more"]) for n in (15, 25)]
    world.send("generations", *later)
    world.settle(40)
    world.score()
    world.look()
    if kind == "generations":
        assert world.readings("bare", "bot")[SLOT][0] == "not_evaluable", "and not a number of the others"
    assert world.readings("bare", "bot")[SLOT + timedelta(minutes=10)][0] == "ok", "later windows do not wait for it"
    segment.write_bytes(whole)
    look(world)
    assert world.score() == 1
    assert world.rows("scores", "bot", where="record_id = 'lost'")[0]["value"] == 0.5
    world.look()
    world.look()
    assert world.readings("bare", "bot")[SLOT] == ("ok", 0.0, 2)
