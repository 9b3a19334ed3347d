"""What a scrape shows of the checks."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from detectors.contract import Part
from monitor.board import SPECS, Board, Standing
from tests.monitor.support import NOON


def standing(name: str = "drift", **fields: Any) -> Standing:
    given = {
        "model": "houses",
        "check": name,
        "slice": "all",
        "detector": "d",
        "severity": "warning",
        "slot": NOON,
        "firing": False,
    }
    return Standing(**{**given, **fields})


def page(board: Board) -> str:
    registry = CollectorRegistry()
    registry.register(board)
    return generate_latest(registry).decode()


def series(board: Board) -> dict[str, float]:
    """Every series on the page, as text."""
    lines = [line for line in page(board).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.fixture
def board() -> Board:
    return Board(max_series=10, top_features=2)


def test_a_check_without_a_verdict_has_no_series(board: Board) -> None:
    assert series(board) == {}
    assert {family.name for family in board.describe()} == set(SPECS)


def test_a_standing_shows_all_that_is_known_and_nothing_else(board: Board) -> None:
    board.put(
        standing(
            firing=True, value=0.4, interval=(0.3, None), bounds=(None, 0.25), n_current=10, n_reference=0, open_incidents=1,
            parts=(Part("rooms", "ks", value=0.4), Part("city", "js", value=None), Part("area", "ks", value=0.1)),
            metrics={
                "mae": 2.0, "f1": 0.5, "label_coverage": 0.75, "estimated_rmse": 4.0, "estimated_f1": 0.25, "something_else": 9.0
            },
        )
    )  # fmt: skip
    labels = 'check="drift",model="houses",slice="all"'
    assert series(board) == {
        'modelwatch_firing{check="drift",model="houses",owner="",severity="warning",slice="all"}': 1.0,
        'modelwatch_reading{check="drift",detector="d",model="houses",slice="all"}': 0.4,
        f"modelwatch_reading_lower_bound{{{labels}}}": 0.3,
        'modelwatch_threshold{bound="upper",check="drift",model="houses",severity="warning",slice="all"}': 0.25,
        'modelwatch_window_records{check="drift",model="houses",side="current",slice="all"}': 10.0,
        f"modelwatch_window_end_timestamp_seconds{{{labels}}}": NOON.timestamp(),
        'modelwatch_feature_reading{check="drift",feature="rooms",model="houses",slice="all"}': 0.4,
        'modelwatch_incidents_open{check="drift",model="houses"}': 1.0,
        'modelwatch_slices{check="drift",model="houses"}': 1.0,
        'modelwatch_quality_error{check="drift",metric="mae",model="houses",slice="all"}': 2.0,
        'modelwatch_quality_ratio{check="drift",metric="f1",model="houses",slice="all"}': 0.5,
        'modelwatch_quality_estimated_error{check="drift",metric="rmse",model="houses",slice="all"}': 4.0,
        'modelwatch_quality_estimated_ratio{check="drift",metric="f1",model="houses",slice="all"}': 0.25,
        f"modelwatch_quality_label_coverage_ratio{{{labels}}}": 0.75,
        f"modelwatch_features_not_shown{{{labels}}}": 1.0,
    }


def test_a_window_that_could_not_be_read_keeps_firing_without_a_value(board: Board) -> None:
    board.put(standing(firing=True, value=0.9, n_current=50))
    board.put(standing(firing=True, value=None, slot=NOON + timedelta(hours=1), n_current=3))
    found = series(board)
    assert [n for n in found if n.startswith("modelwatch_reading")] == []
    assert found['modelwatch_firing{check="drift",model="houses",owner="",severity="warning",slice="all"}'] == 1


def test_a_part_that_is_named_twice_is_one_series(board: Board) -> None:
    board.put(standing(parts=(Part("a", "ks", value=3.0), Part("a", "psi", value=2.0), Part("b", "ks", value=1.0))))
    shown = [line for line in series(board).items() if line[0].startswith("modelwatch_feature_reading")]
    assert [value for _, value in shown] == [3.0, 1.0]
    assert page(board).count('feature="a"') == 1


def test_firing_is_shown_however_many_checks_there_are(board: Board) -> None:
    for i in range(30):
        board.put(standing(f"c{i:02d}", value=1.0))
    names = [name.partition("{")[0] for name in series(board)]
    assert (names.count("modelwatch_firing"), names.count("modelwatch_reading")) == (30, 10)


def test_a_check_that_is_gone_takes_its_series_with_it(board: Board) -> None:
    board.put(standing("stays"))
    board.put(standing("goes", slice="all"))
    board.put(standing("goes", slice="north"))
    board.forget("goes")
    assert not [name for name in series(board) if "goes" in name]
    assert board.get("stays") is not None
    assert board.get("goes", "north") is None


def test_of_a_hundred_thousand_features_the_largest_are_shown_and_the_rest_is_counted() -> None:
    board = Board(max_series=1000, top_features=20)
    board.put(standing(parts=tuple(Part(f"f{i}", "ks", value=1 / (i + 1)) for i in range(100_000))))
    found = series(board)
    assert sum(name.startswith("modelwatch_feature_reading{") for name in found) == 20
    assert found['modelwatch_features_not_shown{check="drift",model="houses",slice="all"}'] == 99_980


def test_series_beyond_the_limit_are_counted_at_each_scrape() -> None:
    beyond: Counter[str] = Counter()
    board = Board(max_series=10, top_features=2, beyond=lambda metric, count: beyond.update({metric: count}))
    for i in range(30):
        board.put(standing(f"c{i:02d}", value=1.0))
    series(board)
    series(board)
    assert beyond["modelwatch_reading"] == 40
    assert beyond["modelwatch_firing"] == 0


@pytest.mark.parametrize("hostile", ('a"b', "a\nb", "a\\", "\N{FIRE}", "x" * 10_000, "\ud800", "", "{}=,"))
def test_a_feature_or_slice_of_any_name_leaves_a_page_that_can_be_read(board: Board, hostile: str) -> None:
    board.put(standing(slice=hostile, value=1.0, parts=(Part(hostile, "ks", value=0.5), Part(hostile + "x", "ks", value=0.4))))
    families = list(text_string_to_metric_families(page(board)))
    found = {s.labels["feature"]: s for family in families for s in family.samples if "feature" in s.labels}
    assert sorted(s.value for s in found.values()) == [0.4, 0.5]
    assert all(len(s.labels["slice"]) <= 200 and len(name) <= 200 for name, s in found.items())


def test_what_is_no_number_is_not_exported(board: Board) -> None:
    board.put(standing(value=float("nan"), interval=(float("nan"), 1.0), metrics={"mae": float("nan")}))
    assert not [value for value in series(board).values() if value != value]
    assert "modelwatch_reading_upper_bound" in page(board)
