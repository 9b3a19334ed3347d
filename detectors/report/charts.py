"""Two kinds of plot as SVG: a distribution on two sides, and a metric over time with its band."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from detectors.distributions import Distribution
from detectors.report.markup import add, plain

WIDTH, HEIGHT = 640, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 10, 34
LETTER = 6.0  # pixels that one takes of the style's 11
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Series:
    """A metric by chunk, None where there is no value. `lower` and `upper` are its band; `reference` are the chunks that the
    thresholds come from, which are drawn before."""

    names: Sequence[str]
    estimate: Sequence[float | None]
    lower: Sequence[float | None]
    upper: Sequence[float | None]
    realised: Sequence[float | None]
    alerts: Sequence[bool]
    reference: Sequence[float | None]
    thresholds: tuple[float | None, float | None]


def shares(parent: Element, found: Distribution, title: str) -> None:
    """The reference filled, the other side as an outline, so that they are told apart without colours."""
    svg = _svg(parent, title, _told(found))
    top = max(float(found.reference.max()), float(found.current.max()), 1e-9)
    y = _scale((0.0, top * 1.05), (HEIGHT - BOTTOM, TOP))
    _y_axis(svg, ticks(0.0, top), y, percent=True)
    if found.edges is not None:
        edges = [float(edge) for edge in found.edges]
        x = _scale((edges[0], edges[-1]), (LEFT, WIDTH - RIGHT))
        for side, values in (("reference", found.reference), ("current", found.current)):
            points = [(x(edges[0]), y(0.0))]
            for i, share in enumerate(values):
                points += [(x(edges[i]), y(float(share))), (x(edges[i + 1]), y(float(share)))]
            points.append((x(edges[-1]), y(0.0)))
            add(svg, "polyline", points=_points(points), class_=side)
        for tick in ticks(edges[0], edges[-1], 6):
            _x_label(svg, x(tick), short(tick))
        return
    width = (WIDTH - LEFT - RIGHT) / len(found.labels)
    fits = max(4, int(width / LETTER))
    for i, label in enumerate(found.labels):
        left = LEFT + i * width
        for j, (side, values) in enumerate((("reference", found.reference), ("current", found.current))):
            share = float(values[i])
            bar = {"x": f"{left + width * (0.1 + 0.4 * j):.1f}", "width": f"{width * 0.38:.1f}"}
            made = add(svg, "rect", y=f"{y(share):.1f}", height=f"{y(0.0) - y(share):.1f}", class_=f"{side} bar", **bar)
            add(made, "title", f"{label}: {share:.2%} of the {side}")
        _x_label(svg, left + width / 2, plain(label, fits))


def over_time(parent: Element, found: Series, title: str, told: str) -> None:
    svg = _svg(parent, title, told)
    values = [v for side in (found.estimate, found.lower, found.upper, found.realised, found.reference) for v in side]
    known = [v for v in (*values, *found.thresholds) if v is not None and math.isfinite(v)]
    if not known or not math.isfinite(max(known) - min(known)):
        return  # nothing to see, or nothing that fits on a page
    low, high = min(known), max(known)
    room = (high - low) * 0.06 or abs(high) * 0.06 or 1.0
    before, size = len(found.reference), len(found.names)
    y = _scale((low - room, high + room), (HEIGHT - BOTTOM, TOP))
    x = _scale((-0.5, before + size - 0.5), (LEFT, WIDTH - RIGHT))
    _y_axis(svg, ticks(low, high), y)
    if before:
        border = f"{x(before - 0.5):.1f}"
        add(svg, "line", x1=border, x2=border, y1=TOP, y2=HEIGHT - BOTTOM, class_="axis")
        _line(svg, [(x(i), v) for i, v in enumerate(found.reference)], y, "past")
        _x_label(svg, x((before - 1) / 2), "reference")
    places = [x(before + i) for i in range(size)]
    for run in _runs(list(zip(places, found.lower, found.upper, strict=True))):
        points = [(at, y(upper)) for at, _, upper in run] + [(at, y(lower)) for at, lower, _ in reversed(run)]
        add(svg, "polygon", points=_points(points), class_="band")
    for threshold in found.thresholds:
        if threshold is not None:
            add(svg, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=f"{y(threshold):.1f}", y2=f"{y(threshold):.1f}", class_="threshold")
    _line(svg, list(zip(places, found.estimate, strict=True)), y, "estimate")
    _line(svg, list(zip(places, found.realised, strict=True)), y, "realised")
    for i, at in enumerate(places):
        for kind, side in (("estimate", found.estimate), ("realised", found.realised)):
            if (value := side[i]) is not None:
                _mark(svg, at, y(value), kind, f"{found.names[i]}: {kind} {value:.4g}")
        if found.alerts[i] and (value := found.estimate[i]) is not None:
            around = [(at, y(value) - 7), (at + 7, y(value)), (at, y(value) + 7), (at - 7, y(value))]
            add(add(svg, "polygon", points=_points(around), class_="alert"), "title", f"{found.names[i]}: alert")
    labels = [plain(name, 22) for name in found.names]
    apart = x(1) - x(0)
    for i in range(0, size, max(1, math.ceil(LETTER * (max(map(len, labels), default=0) + 2) / apart))):
        last = WIDTH - LETTER * len(labels[i]) / 2  # where it ends with the plot
        if i == 0 or places[i] <= last:
            _x_label(svg, min(places[i], last), labels[i])


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`.

    >>> ticks(0.0, 0.93), ticks(-20.0, 150.0, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8], [0.0, 50.0, 100.0, 150.0])
    """
    if not high - low > 1e-300:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.99)
    return [round(i * step, 12) + 0.0 for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """
    >>> short(0.25), short(1500000.0), short(30.0), short(250000.0)
    ('0.25', '1.5e+06', '30', '250,000')
    """
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1_000_000 else f"{value:.4g}"


def _svg(parent: Element, title: str, told: str) -> Element:
    svg = add(parent, "svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    svg.set("aria-label", plain(f"{title}. {told}", 600))
    return svg


def _told(found: Distribution) -> str:
    """The plot in a sentence, for who cannot see it."""
    n = f"{found.n[0]:,} reference values and {found.n[1]:,} current ones"
    if found.edges is None:
        gaps = sorted(zip(found.labels, found.reference, found.current, strict=True), key=lambda one: -abs(one[1] - one[2]))[:3]
        return f"{n}. " + "; ".join(f"{label}: {before:.1%}, now {now:.1%}" for label, before, now in gaps)
    middles = [float(found.edges[int((side.cumsum() >= 0.5).argmax())]) for side in (found.reference, found.current)]
    return f"{n}. Half of them lie above about {short(middles[0])}, and now above about {short(middles[1])}"


def _scale(values: tuple[float, float], places: tuple[float, float]) -> Scale:
    (low, high), (first, last) = values, places
    span = (high - low) or 1.0
    return lambda value: first + (last - first) * (value - low) / span


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _y_axis(svg: Element, at: Sequence[float], y: Scale, percent: bool = False) -> None:
    for tick in at:
        place = f"{y(tick):.1f}"
        add(svg, "line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="grid")
        add(svg, "text", f"{tick * 100:.4g} %" if percent else short(tick), x=LEFT - 6, y=f"{y(tick) + 4:.1f}", class_="end")


def _x_label(svg: Element, x: float, text: str) -> None:
    add(svg, "text", text, x=f"{x:.1f}", y=HEIGHT - BOTTOM + 18, class_="middle")


def _line(svg: Element, points: Sequence[tuple[float, float | None]], y: Scale, kind: str) -> None:
    for run in _runs([(at, value) for at, value in points]):
        add(svg, "polyline", points=_points([(at, y(value)) for at, value in run]), class_=kind)


def _mark(svg: Element, x: float, y: float, kind: str, text: str) -> None:
    if kind == "estimate":
        made = add(svg, "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_="estimate point")
    else:
        made = add(svg, "rect", x=f"{x - 3:.1f}", y=f"{y - 3:.1f}", width=6, height=6, class_="realised point")
    add(made, "title", text)


def _runs(rows: Sequence[tuple[float | None, ...]]) -> list[list[tuple[float, ...]]]:
    """The rows without None, those next to each other together: a line is not drawn over a gap."""
    runs: list[list[tuple[float, ...]]] = [[]]
    for row in rows:
        known = tuple(value for value in row if value is not None)
        if len(known) == len(row):
            runs[-1].append(known)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
