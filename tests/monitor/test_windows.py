"""Windows over the store: which slots a time belongs to, and the rows as a detector sees them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.contract import ColumnKind, NotEvaluable, Window
from monitor import windows
from monitor.clock import floor_to
from monitor.windows import TableWindow, slots_of
from tests.monitor.support import NOON, World, label, prediction

TIMES = st.datetimes(datetime(1960, 1, 1), datetime(2110, 1, 1)).map(lambda t: t.replace(tzinfo=UTC))


@settings(deadline=None)  # 30,000 slots in the worst case
@given(TIMES, st.integers(1, 100_000), st.integers(1, 100_000))
def test_the_slots_of_a_time_are_those_whose_windows_hold_it(when: datetime, every: int, window: int) -> None:
    found = list(slots_of(when, every, window))
    length = timedelta(seconds=window)
    first = floor_to(when, every)
    near = [first + timedelta(seconds=every) * n for n in range(-1, window // every + 3)]
    assert found == [s for s in near if s - length <= when < s]
    assert all(s == floor_to(s, every) for s in found)


def read(world: World, inputs: set[str], start: datetime = NOON, hours: float = 1) -> TableWindow:
    features: Any = world.store.feature_columns("houses")
    with world.store.read() as reader:
        return windows.predictions(reader, "houses", start, start + timedelta(hours=hours), features, frozenset(inputs))


def numbers(window: Window, column: str) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in window.numbers(column)]


def test_a_window_holds_its_first_instant_and_not_its_last(world: World) -> None:
    times = [NOON - timedelta(microseconds=1), NOON, NOON + timedelta(minutes=59), NOON + timedelta(hours=1)]
    world.send("predictions", *(prediction(f"r{i}", t, features={"x": i}) for i, t in enumerate(times)))
    assert numbers(read(world, {"features"}), "x") == [1.0, 2.0]


def test_rows_come_in_the_order_of_their_time_wherever_they_lie(world: World) -> None:
    for minute in (30, 10, 20, 10, 0):
        world.send(
            "predictions",
            prediction(f"r{minute}-{len(world.ids('predictions'))}", NOON + timedelta(minutes=minute), features={"x": minute}),
        )
        world.seal()
    world.send("predictions", prediction("hot", NOON + timedelta(minutes=5), features={"x": 5}))
    assert numbers(read(world, {"features"}), "x") == [0, 5, 10, 10, 20, 30]


def test_only_what_a_detector_reads_is_fetched(world: World) -> None:
    world.send("predictions", prediction("a", features={"x": 1, "y": 2, "z": "c"}, probability=0.5))
    both = read(world, {"features"})
    assert (dict(both.features), both.table.column_names) == ({"x": "number", "y": "number", "z": "category"}, ["x", "y", "z"])
    assert read(world, {"y", "prediction"}).table.column_names == ["y", "prediction", "probability"]
    for judged in ("prediction", "probability"):  # one column asked for by itself, as `score_drift` does
        assert read(world, {judged}).table.column_names == ["prediction", "probability"]
    assert numbers(read(world, {"probability"}), "probability") == [0.5]
    with pytest.raises(NotEvaluable, match="no column 'x'; there are y, prediction, probability"):
        read(world, {"y", "prediction"}).numbers("x")
    assert read(world, set()).rows == 1


def test_a_missing_number_is_nan_and_a_missing_category_has_no_code(world: World) -> None:
    world.send(
        "predictions",
        prediction("a", features={"x": 1, "c": "b"}),
        prediction("b"),
        prediction("c", features={"x": 3, "c": "a"}),
        prediction("d", features={"c": "b"}),
    )
    window = read(world, {"features"})
    assert numbers(window, "x") == [1.0, None, 3.0, None]
    found = window.categories("c")
    assert (found.codes.tolist(), found.names) == ([1, -1, 0, 1], ("a", "b"))
    assert window.categories("x").names == ("1", "3")
    with pytest.raises(NotEvaluable, match="not_numeric"):
        window.numbers("c")


def test_an_empty_window_has_columns_too(world: World) -> None:
    world.send("predictions", prediction("a", features={"x": 1, "c": "b"}))
    window = read(world, {"features", "prediction", "label"}, NOON + timedelta(days=1))
    assert (window.rows, numbers(window, "x"), window.categories("c").names) == (0, [], ())
    assert numbers(window, "label") == []
    assert window.frame().rows == 0


def test_a_model_without_any_record_gives_an_empty_window(world: World) -> None:
    assert read(world, {"features", "prediction", "label"}).rows == 0


def test_labels_join_by_id_in_their_latest_revision(world: World) -> None:
    world.send("predictions", *(prediction(i, prediction=n) for n, i in enumerate("abcd")))
    world.send("labels", label("a", 5), label("b", 6), label("b", 7, revision=2), label("nobody", 9))
    world.seal()
    world.send("labels", label("b", 8, revision=1), label("c", 0))
    window = read(world, {"label"})
    assert numbers(window, "prediction") == [0, 1, 2, 3]
    assert numbers(window, "label") == [5, 7, 0, None]


def test_a_label_corrected_to_another_type_is_the_corrected_one(world: World) -> None:
    world.send("predictions", prediction("a", prediction="yes"), prediction("b", prediction="no"))
    world.send("labels", label("a", 1), label("a", "yes", revision=1), label("b", "maybe"), label("b", 3, revision=1))
    assert read(world, {"label"}).categories("label").names == ("3.0", "yes")


def test_classes_with_names_stay_text_and_classes_that_are_numbers_are_numbers(world: World) -> None:
    world.send("predictions", prediction("a", prediction="1"), prediction("b", prediction=2.5))
    assert numbers(read(world, {"prediction"}), "prediction") == [1.0, 2.5]
    world.send("predictions", prediction("c", prediction="cat"))
    assert read(world, {"prediction"}).categories("prediction").names == ("1", "2.5", "cat")


@pytest.mark.parametrize("early", (timedelta(), timedelta(hours=6)), ids=("after", "hours before"))
def test_a_label_is_found_whether_it_came_before_or_after_its_prediction_hot_or_sealed(world: World, early: timedelta) -> None:
    start = NOON + early  # a clock that is ahead gives predictions a time after their labels came
    world.send("labels", label("a", 5))
    world.send("predictions", prediction("a", start))
    assert numbers(read(world, {"label"}, start), "label") == [5.0]
    world.seal()
    assert numbers(read(world, {"label"}, start), "label") == [5.0]


def test_a_frame_holds_what_the_window_held(world: World) -> None:
    world.send("predictions", prediction("a", features={"x": 1, "c": "b"}), prediction("b", features={"x": None}))
    window = read(world, {"features", "prediction"})
    frame = window.frame()
    assert (frame.rows, dict(frame.features)) == (2, dict(window.features))
    np.testing.assert_array_equal(frame.numbers("x"), window.numbers("x"))
    assert frame.categories("c").names == window.categories("c").names
    assert frame.categories("c").codes.tolist() == window.categories("c").codes.tolist()


def test_categories_have_the_same_codes_in_whatever_order_the_rows_come() -> None:
    one = TableWindow(pa.table({"c": ["b", "a", None, "b"]}), {"c": "category"}).categories("c")
    other = TableWindow(pa.table({"c": pa.chunked_array([["a"], [], ["b", "b", None]])}), {"c": "category"}).categories("c")
    assert (one.names, other.names) == (("a", "b"), ("a", "b"))
    assert (one.codes.tolist(), other.codes.tolist()) == ([1, 0, -1, 1], [0, 1, 1, -1])


FILE = "x,c,prediction,id\n1,10,2.5,a\n,20,3.5,b\n"


@pytest.mark.parametrize("suffix", (".csv", ".parquet"))
def test_a_reference_file_has_the_kinds_of_the_features(world: World, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"it's a reference{suffix}"
    csv = tmp_path / "plain.csv"
    csv.write_text(FILE)
    with world.store.read() as reader:
        if suffix == ".csv":
            path.write_text(FILE)
        else:
            reader.execute(f"COPY (FROM '{csv}') TO '{str(path).replace(chr(39), chr(39) * 2)}' (FORMAT parquet)")
        window = windows.from_file(reader, path, {"x": "number", "c": "category", "missing": "number"})
    assert dict(window.features) == {"x": "number", "c": "category"}
    assert numbers(window, "x") == [1.0, None]
    assert window.categories("c").names == ("10", "20")
    assert numbers(window, "prediction") == [2.5, 3.5]
    assert not window.has("id")


def test_a_feature_that_is_called_prediction_hides_no_prediction(world: World) -> None:
    world.send("predictions", prediction("a", prediction=1.0, features={"prediction": 7.0, "label": "x", "rooms": 3}))
    kinds: dict[str, ColumnKind] = {"prediction": "number", "label": "category", "rooms": "number"}
    with world.store.read() as reader:
        both = windows.predictions(
            reader, "houses", NOON, NOON + timedelta(minutes=1), kinds, frozenset({"features", "prediction", "label"})
        )
        alone = windows.predictions(reader, "houses", NOON, NOON + timedelta(minutes=1), kinds, frozenset({"features"}))
    assert (both.numbers("prediction").tolist(), list(both.features)) == ([1.0], ["rooms"])
    assert alone.numbers("prediction").tolist() == [7.0]
