"""A number over time, with what it is judged by and the times at which it was beyond that: a plot that also stands alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from xml.etree.ElementTree import Element, tostring

from detectors.report.charts import short, ticks
from detectors.report.markup import add, plain
from detectors.report.style import STYLE

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 240, 62, 12, 12, 34
LEAST = 1e-12
"""Of a logarithmic scale; what is smaller is drawn there."""

Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Timeline:
    """`points`: time, value or None where there is none, and whether it fires. `levels` are thresholds with their names; `shaded`
    the incidents. `log`: p-values, which are told apart by their powers of ten."""

    title: str
    points: Sequence[tuple[datetime, float | None, bool]]
    levels: Sequence[tuple[str, float]] = ()
    shaded: Sequence[Span] = ()
    log: bool = False


def drawn(parent: Element, found: Timeline) -> bool:
    """Whether there was something to draw."""
    known = [value for _, value, _ in found.points if value is not None and math.isfinite(value)]
    if not known:
        return False
    svg = add(parent, "svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    firing = sum(fires for _, _, fires in found.points)
    svg.set(
        "aria-label", plain(f"{found.title}. {len(found.points)} windows, {firing} firing, {len(found.shaded)} incidents", 600)
    )
    times = [at.timestamp() for at, _, _ in found.points] + [at.timestamp() for span in found.shaded for at in span]
    first, last = min(times), max(times)
    values = [_placed(value, found.log) for value in (*known, *(level for _, level in found.levels))]
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.06 or 1.0

    def x(at: datetime) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (at.timestamp() - first) / ((last - first) or 1.0)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (_placed(value, found.log) - low + room) / (high - low + 2 * room)

    for begin, end in found.shaded:
        wide = max(x(end) - x(begin), 2.0)
        box = add(svg, "rect", x=f"{x(begin):.1f}", y=TOP, width=f"{wide:.1f}", height=HEIGHT - TOP - BOTTOM, class_="incident")
        add(box, "title", f"incident, {_at(begin)} to {_at(end)}")
    for tick in ticks(low, high):
        if not found.log or tick == round(tick):
            value = 10.0**tick if found.log else tick
            place = f"{y(value):.1f}"
            add(svg, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="grid")
            add(svg, "text", short(value), x=LEFT - 6, y=f"{y(value) + 4:.1f}", class_="end")
    for name, level in found.levels:
        place = f"{y(level):.1f}"
        line = add(svg, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="threshold")
        add(line, "title", f"{name}: {level:.4g}")
    for run in _runs(found.points):
        add(svg, "polyline", points=" ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in run), class_="estimate")
    for at, value, fires in found.points:
        if value is not None and math.isfinite(value) and (fires or len(found.points) <= 200):
            kind = "fired" if fires else "estimate point"
            dot = add(svg, "circle", cx=f"{x(at):.1f}", cy=f"{y(value):.1f}", r=3.5 if fires else 2, class_=kind)
            add(dot, "title", f"{_at(at)}: {value:.4g}{', firing' if fires else ''}")
    for part in range(5):
        at = datetime.fromtimestamp(first + (last - first) * part / 4, found.points[0][0].tzinfo)
        anchor = "end" if part == 4 else "middle" if part else "start"
        add(svg, "text", _at(at), x=f"{x(at):.1f}", y=HEIGHT - BOTTOM + 18, style=f"text-anchor: {anchor}")
    return True


OWN_STYLE = ".incident { fill: var(--bad); fill-opacity: 0.16; } .fired { fill: var(--bad); } figure svg { width: 56rem; }"


def alone(plots: Sequence[Timeline]) -> str:
    """The plots below each other as one SVG file."""
    tall = HEIGHT + 22
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {tall * max(len(plots), 1)}"})
    add(root, "style").text = STYLE + OWN_STYLE
    add(root, "rect", width="100%", height="100%", style="fill: var(--back)")
    for n, plot in enumerate(plots):
        add(root, "text", plot.title, x=LEFT, y=n * tall + 15)
        inside = add(root, "g", transform=f"translate(0 {n * tall + 22})")
        if drawn(inside, plot):
            inside[0].set("width", str(WIDTH))
            inside[0].set("height", str(HEIGHT))
        else:
            add(inside, "text", "no window has a value", x=LEFT, y=40)
    return tostring(root, encoding="unicode").encode("utf-8", "replace").decode("utf-8") + "\n"


def _placed(value: float, log: bool) -> float:
    return math.log10(max(value, LEAST)) if log else value


def _runs(points: Sequence[tuple[datetime, float | None, bool]]) -> list[list[tuple[datetime, float]]]:
    """Points next to each other that have a value: no line is drawn over a gap."""
    runs: list[list[tuple[datetime, float]]] = [[]]
    for at, value, _ in points:
        if value is not None and math.isfinite(value):
            runs[-1].append((at, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _at(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M}"
