"""The page of an estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detectors.report.charts import Series, over_time
from detectors.report.markup import add, page, written
from detectors.report.pages import facts, key, short, table, told
from detectors.report.style import STYLE

if TYPE_CHECKING:
    from detectors.estimates import Estimates


def of_estimates(found: Estimates, title: str) -> str:
    root, body = page(title, STYLE)
    add(body, "h1", title)
    told(body, found.verdict, bool(found.alerts))
    roles = {role: str(column) for role, column in found.roles.to_dict().items() if isinstance(column, str)}
    sizes = f"{found.rows_reference:,} of the reference, {found.rows_analysis:,} to be judged"
    facts(body, {"task": found.task, "rows": sizes, **roles, "confidence of the band": f"{found.confidence:.4g}"})
    if found.metrics:
        key(body, {"estimate point": "estimate, with its band", "realised point": "realised", "alert": "alert"})
    head = ("chunk", "rows", "estimate", "lower", "upper", "realised", "labelled", "alert", "outcome")
    for metric in found.metrics:
        add(body, "h2", metric.name)
        chunks = metric.chunks
        series = Series(
            [chunk.name for chunk in chunks], [chunk.estimate for chunk in chunks], [chunk.lower for chunk in chunks],
            [chunk.upper for chunk in chunks], [chunk.realised for chunk in chunks], [chunk.alert for chunk in chunks],
            [chunk.realised for chunk in metric.reference], (metric.lower_threshold, metric.upper_threshold),
        )  # fmt: skip
        figure = add(body, "figure")
        over_time(figure, series, metric.name, metric.told)
        add(figure, "figcaption", metric.told)
        rows = [
            (c.name, f"{c.rows:,}", short(c.estimate), short(c.lower), short(c.upper), short(c.realised), f"{c.labelled:,}",
             "alert" if c.alert else "", c.why or "ok")
            for c in metric.chunks
        ]  # fmt: skip
        table(body, f"{metric.name} by chunk", head, rows, [chunk.alert for chunk in metric.chunks])
    for note in found.notes:
        add(body, "p", note)
    return written(root)
