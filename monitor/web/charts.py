"""A line of numbers over time, drawn on the server: no script, and nothing to load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT, EDGE = 720, 160, 8


def history(points: Sequence[Mapping[str, Any]]) -> Markup:
    """An SVG of `judged` over the slots with the thresholds of then; slots that fire are filled. Nothing without two numbers."""
    numbers = [_finite(p.get(name)) for p in points for name in ("judged", "lower", "upper")]
    known = [n for n in numbers if n is not None]
    if sum(_finite(p.get("judged")) is not None for p in points) < 2:
        return Markup("")
    low, high = min(known), max(known)
    scale = (HEIGHT - 2 * EDGE) / (high - low or 1.0)

    def x(i: int) -> float:
        return EDGE + i * (WIDTH - 2 * EDGE) / max(1, len(points) - 1)

    def y(n: float) -> float:
        return HEIGHT - EDGE - (n - low) * scale

    parts = []
    for name, dash in (("lower", "4 3"), ("upper", "4 3"), ("judged", "")):
        line = " ".join(f"{x(i):.1f},{y(n):.1f}" for i, p in enumerate(points) if (n := _finite(p.get(name))) is not None)
        colour = "#1f5f8b" if name == "judged" else "#b3261e"
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}" points="{line}"/>')
    for i, p in enumerate(points):
        n = _finite(p.get("judged"))
        if n is not None:
            fill = "#b3261e" if p.get("firing") else "#fff"
            title = escape(f"{p.get('slot')}: {n:.6g}")
            parts.append(
                f'<circle cx="{x(i):.1f}" cy="{y(n):.1f}" r="2.5" stroke="#1f5f8b" fill="{fill}"><title>{title}</title></circle>'
            )
    label = escape(f"from {low:.4g} to {high:.4g}")
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>')


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
