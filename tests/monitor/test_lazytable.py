"""Windows whose columns are read one at a time: they hold what those have that are read at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from detectors.contract import NotEvaluable, Window
from detectors.data_drift import DataDrift
from monitor.config import Reference
from monitor.errors import StoreUnavailable
from monitor.lazytable import LazyTable
from monitor.references import References
from monitor.slices import Condition, Slice
from monitor.traffic import Predictions
from monitor.windows import TableWindow
from tests.monitor.support import NOON, World, label, prediction

DAWN = NOON - timedelta(hours=6)
MINUTE = timedelta(minutes=1)
INPUTS = frozenset({"features", "prediction", "probability", "label"})


@pytest.fixture
def filled(world: World) -> World:
    """Rows out of the order of their time, some sealed and some not; labels for half of them."""
    for part in range(3):
        rows = [
            prediction(
                f"r{part}-{i}",
                DAWN + (37 * i + part) % 300 * MINUTE,
                prediction=float(i),
                probability=i / 60,
                features={"x": i * (-1) ** i, "y": "abc"[i % 3]} if i % 7 else {"x": i},
            )
            for i in range(60)
        ]
        world.send("predictions", *rows)
        world.send("labels", *(label(f"r{part}-{i}", "yes" if i % 4 else "no") for i in range(0, 60, 2)))
        if part < 2:
            world.seal()
    return world


def sides(world: World, read: Callable[[TableWindow], Any], inputs: frozenset[str] = INPUTS) -> tuple[Any, Any]:
    """What `read` makes of the window, read at once and by column."""
    features: Any = world.store.feature_columns("houses")
    with world.store.read() as reader:
        found = [Predictions("houses", inputs, {}, held_bytes=held).between(reader, DAWN, NOON, features) for held in (None, 0)]
        assert [isinstance(one.table, LazyTable) for one in found] == [False, True]
        return read(found[0]), read(found[1])


def values(window: TableWindow) -> dict[str, list[Any]]:
    return {name: window.table[name].to_pylist() for name in window.table.column_names}


def test_a_column_read_alone_has_the_values_of_the_window_in_the_order_of_time(filled: World) -> None:
    whole, by_column = sides(filled, values)
    assert by_column == whole
    assert len(whole["x"]) == 180


def test_a_slice_of_it_has_the_same_rows(filled: World) -> None:
    part = Slice("some", (Condition("y", ("a", "c")), Condition("label", ("no",), inside=False)))
    whole, by_column = sides(filled, lambda window: values(part.of(window).without({"y"})))
    assert by_column == whole
    assert 0 < len(whole["x"]) < 180


def test_renamed_and_followed_by_another_it_has_the_same_rows(filled: World) -> None:
    def changed(window: TableWindow) -> dict[str, list[Any]]:
        texts = TableWindow(pa.table({"x": ["one", None], "new": [1.0, 2.0]}), {"x": "category", "new": "number"})
        return values(window.renamed({"score": "probability"}).followed_by(texts))

    whole, by_column = sides(filled, changed)
    assert by_column == whole
    assert whole["x"][-2:] == ["one", None]


def test_a_frozen_reference_is_read_by_column_after_a_restart_as_before(filled: World, tmp_path: Path) -> None:
    features: Any = filled.store.feature_columns("houses")
    reference = Reference.model_validate({"start": DAWN.isoformat(), "end": NOON.isoformat()})
    found = []
    for folder, held in (("held", None), ("by column", 0), ("by column", 0)):  # the last one finds the file
        traffic = Predictions("houses", INPUTS, {}, held_bytes=held)
        (root := tmp_path / folder).mkdir(exist_ok=True)
        with filled.store.read() as reader:
            window = References(root).get(reader, traffic, reference, features, NOON, NOON)
        found.append((values(window), dict(window.features)))  # the store is not asked again
        assert isinstance(window.table, LazyTable) == (held == 0)
    assert found[0] == found[1] == found[2]


def test_evidently_compares_both_alike(filled: World) -> None:
    detector = DataDrift(DataDrift.Config(policy="evidently"))
    assert detector.column_by_column
    earlier: Window = TableWindow(
        pa.table({"x": [float(i) for i in range(50)], "y": ["a", "b"] * 25}), {"x": "number", "y": "category"}
    )
    whole, by_column = sides(filled, lambda window: detector.compare(earlier, window).parts, frozenset({"features"}))
    assert by_column == whole
    assert sorted(part.name for part in whole) == ["x", "y"]


def test_an_empty_file_has_columns_too(tmp_path: Path) -> None:
    table = LazyTable.of(pa.table({"x": pa.array([], pa.float64()), "a.b": pa.array([], pa.string())}))
    table.write(tmp_path / "empty.parquet")
    again = LazyTable.of_file(tmp_path / "empty.parquet")
    assert (again.num_rows, again.column_names, again["a.b"].to_pylist()) == (0, ["x", "a.b"], [])


def test_a_dot_in_a_name_is_no_path(tmp_path: Path) -> None:
    columns = {"a.b": [1.0, None], "a": [2.0, 3.0], "a.c.d": ["x", "y"]}
    LazyTable.of(pa.table(columns)).write(tmp_path / "dots.parquet")
    table = LazyTable.of_file(tmp_path / "dots.parquet")
    assert {name: table[name].to_pylist() for name in table.column_names} == columns


def test_what_can_no_longer_be_read_is_the_fault_of_no_detector(filled: World, tmp_path: Path) -> None:
    features: Any = filled.store.feature_columns("houses")
    with filled.store.read() as reader:
        window = Predictions("houses", INPUTS, {}, held_bytes=0).between(reader, DAWN, NOON, features)
    with pytest.raises(StoreUnavailable, match="a column of the window could not be read"):
        window.numbers("x")
    LazyTable.of(pa.table({"x": [1.0]})).write(tmp_path / "gone.parquet")
    table = LazyTable.of_file(tmp_path / "gone.parquet")
    (tmp_path / "gone.parquet").unlink()
    with pytest.raises(NotEvaluable, match=r"no_reference: .*gone\.parquet cannot be read"):
        table["x"]
