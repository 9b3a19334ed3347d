"""Plots of RESULTS.md, as SVG that any browser shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from detectors.contract import FloatArray
from detectors.false_alarms import expected_hits

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 420, 64, 40, 190, 48
COLOURS = ("#1f6fb4", "#c8501e", "#2e8b57", "#7b4fa3", "#8a6d00")
LEVELS = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)


def rates(p_values: Mapping[str, FloatArray], title: str) -> str:
    """Share of p-values at or below a level against that level, both logarithmic, with the line where they are equal and where 95
    in 100 counts would lie, of as many windows as the fewest."""
    levels = np.array(LEVELS)
    x = _log_scale(levels.min(), levels.max(), LEFT, WIDTH - RIGHT)
    y = _log_scale(levels.min() / 3, levels.max() * 1.5, HEIGHT - BOTTOM, TOP)
    svg = _frame(title, "level", "share of windows that rang")
    for level in (0.2, 0.05, 0.01, 0.002, 0.0005):
        _text(svg, x(level), HEIGHT - BOTTOM + 16, f"{level:g}", "middle")
        _text(svg, LEFT - 6, y(level) + 4, f"{level:g}", "end")
    n = min(len(found) for found in p_values.values())
    band = [expected_hits(n, level) for level in LEVELS]
    lower = [(x(a), y(max(low / n, levels.min() / 3))) for a, (low, _) in zip(LEVELS, band, strict=True)]
    upper = [(x(a), y(high / n)) for a, (_, high) in zip(LEVELS, band, strict=True)]
    SubElement(svg, "polygon", points=_points([*lower, *reversed(upper)]), fill="#dddddd")
    _line(svg, [(x(a), y(a)) for a in LEVELS], "#555555", dash="4 3")
    for place, (name, found) in enumerate(p_values.items()):
        shares = [(a, float(np.mean(found <= a))) for a in LEVELS]
        _line(svg, [(x(a), y(share)) for a, share in shares if share > 0], COLOURS[place])
        _key(svg, place, name)
    return _written(svg)


def bars(values: Mapping[str, Sequence[float | None]], groups: Sequence[str], most: float, title: str, unit: str) -> str:
    """For each group a bar of each name; None, drawn as high as `most` and pale, is never."""
    svg = _frame(title, "", unit)
    wide = (WIDTH - LEFT - RIGHT) / len(groups)
    tall = HEIGHT - BOTTOM - TOP
    for at in np.linspace(0, most, 5):
        _text(svg, LEFT - 6, HEIGHT - BOTTOM - at / most * tall + 4, f"{at:g}", "end")
    for place, (name, found) in enumerate(values.items()):
        _key(svg, place, name)
        for group, value in enumerate(found):
            high = tall * (1 if value is None else min(value, most) / most)
            left = LEFT + wide * (group + 0.1 + 0.8 * place / len(values))
            box = {"x": f"{left:.1f}", "y": f"{HEIGHT - BOTTOM - high:.1f}", "width": f"{0.8 * wide / len(values):.1f}"}
            opacity = "0.15" if value is None else "1"
            SubElement(svg, "rect", {**box, "height": f"{high:.1f}", "fill": COLOURS[place], "fill-opacity": opacity})
    for group, text in enumerate(groups):
        _text(svg, LEFT + wide * (group + 0.5), HEIGHT - BOTTOM + 16, text, "middle")
    return _written(svg)


def _frame(title: str, below: str, beside: str) -> Element:
    svg = Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    svg.set("font-family", "sans-serif")
    svg.set("font-size", "12")
    SubElement(svg, "title").text = title
    SubElement(svg, "rect", width=str(WIDTH), height=str(HEIGHT), fill="#ffffff")
    _text(svg, LEFT, 22, title, "start")
    _text(svg, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, below, "middle")
    turned = SubElement(svg, "text", transform=f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)")
    turned.set("text-anchor", "middle")
    turned.text = beside
    _line(svg, [(LEFT, TOP), (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], "#333333")
    return svg


def _key(svg: Element, place: int, name: str) -> None:
    top = TOP + 18 * place
    SubElement(svg, "rect", x=str(WIDTH - RIGHT + 12), y=str(top), width="12", height="12", fill=COLOURS[place])
    _text(svg, WIDTH - RIGHT + 30, top + 11, name, "start")


def _text(svg: Element, x: float, y: float, text: str, anchor: str) -> None:
    SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "fill": "#222222"}).text = text


def _line(svg: Element, points: Sequence[tuple[float, float]], colour: str, dash: str = "none") -> None:
    style = {"fill": "none", "stroke": colour, "stroke-width": "1.5", "stroke-dasharray": dash}
    SubElement(svg, "polyline", {"points": _points(points), **style})


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _log_scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    def place(value: float) -> float:
        return first + (math.log(value) - math.log(low)) / (math.log(high) - math.log(low)) * (last - first)

    return place


def _written(svg: Element) -> str:
    indent(svg)
    return tostring(svg, encoding="unicode") + "\n"
