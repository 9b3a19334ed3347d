"""Pages as a browser draws them, as far as that can be told without one."""

from __future__ import annotations

from itertools import pairwise
from xml.etree.ElementTree import Element

import pytest

from detectors.report.charts import HEIGHT, LETTER, WIDTH, Series, over_time, short
from detectors.report.pages import table


@pytest.mark.parametrize("reference", (0, 10))
@pytest.mark.parametrize(
    "names",
    ([f"{100 * i}:{100 * i + 99}" for i in range(30)], ["2026-11-21T10:00:00"] * 12, ["a name much longer than a plot"], []),
)
def test_names_below_a_plot_do_not_lie_on_each_other(names: list[str], reference: int) -> None:
    n = len(names)
    series = Series(names, [0.5] * n, [0.4] * n, [0.6] * n, [None] * n, [False] * n, [0.5] * reference, (None, None))
    over_time(body := Element("body"), series, "f1", "")
    below = [one for one in body.iter("text") if float(one.get("y", 0)) > HEIGHT - 20 and one.text != "reference"]
    places = [(float(one.get("x", 0)), LETTER * len(one.text or "")) for one in below]
    assert bool(places) == bool(names)
    for (left, width), (right, other) in pairwise(places):
        assert right - left >= (width + other) / 2
    assert all(0 < x < WIDTH for x, _ in places)


def test_a_cell_with_a_sentence_is_given_room() -> None:
    table(body := Element("body"), "columns", ("name", "outcome"), [("a", "ok"), ("b", "cannot be calibrated: " + "so " * 10)])
    assert [cell.get("class") for cell in body.iter("td")] == [None, "why"]


def test_numbers_below_a_million_are_written_out() -> None:
    assert [short(v) for v in (0.00012, 9_999.0, 10_000.0, 250_000.0, -75_000.0, 2e6)] == [
        "0.00012", "9999", "10,000", "250,000", "-75,000", "2e+06",
    ]  # fmt: skip
