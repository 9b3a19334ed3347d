"""What a scrape shows of the checks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

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
            metrics={"mae": 2.0, "f1": 0.5, "label_coverage": 0.75, "something_else": 9.0},
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
        f"modelwatch_quality_label_coverage_ratio{{{labels}}}": 0.75,
    }
    assert board.parts_dropped == 1


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
