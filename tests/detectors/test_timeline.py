"""A number over time as SVG: gaps stay gaps, incidents are shaded where they were, and nothing in it is markup."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from detectors.report.timeline import Timeline, alone

START = datetime(2026, 3, 1, tzinfo=UTC)


def hour(n: int) -> datetime:
    return START + timedelta(hours=n)


def parsed(*plots: Timeline) -> ElementTree.Element:
    return ElementTree.fromstring(alone(plots))


def test_a_line_is_not_drawn_over_a_gap_and_an_incident_is_shaded_from_begin_to_end() -> None:
    values = [1.0, 2.0, None, float("nan"), 5.0, 9.0, 1.0]
    points = [(hour(n), value, value == 9.0) for n, value in enumerate(values)]
    found = parsed(Timeline("mean", points, [("upper", 4.0)], [(hour(4), hour(6))]))
    lines = [len(line.get("points", "").split()) for line in found.findall(".//{*}polyline")]
    assert lines == [2, 3]
    (fired,) = found.findall(".//{*}circle[@class='fired']")
    (box,) = found.findall(".//{*}rect[@class='incident']")
    assert float(box.get("x", "")) < float(fired.get("cx", "")) < float(box.get("x", "")) + float(box.get("width", ""))
    (level,) = found.findall(".//{*}line[@class='threshold']")
    assert float(fired.get("cy", "")) < float(level.get("y1", "")), "9 lies above 4"


def test_p_values_are_drawn_by_their_powers_of_ten_and_zero_has_a_place() -> None:
    found = parsed(Timeline("p", [(hour(n), value, True) for n, value in enumerate((1.0, 1e-3, 1e-6, 0.0))], log=True))
    places = [float(dot.get("cy", "")) for dot in found.findall(".//{*}circle")]
    assert places == sorted(places)
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.11)


def test_nothing_to_draw_says_so_and_a_hostile_name_is_text() -> None:
    name = "<script>alert(1)</script>"
    text = alone([Timeline(name, [(hour(0), None, False)]), Timeline(name, [(hour(0), 1.0, False)], [(name, 1.0)])])
    assert "no window has a value" in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
