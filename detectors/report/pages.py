"""The page of a comparison, and what pages are made of."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from detectors.contract import Outcome
from detectors.report.charts import shares
from detectors.report.markup import add, page, plain, written
from detectors.report.style import STYLE

if TYPE_CHECKING:
    from detectors.comparison import ComparedColumn, Comparison

MOST_PLOTS = 200
SENTENCE_CHARS = 40  # a cell with more is given room


def of_comparison(found: Comparison, title: str, *, plots: bool = True) -> str:
    root, body = page(title, STYLE)
    add(body, "h1", title)
    told(body, verdict(found), found.drift)
    facts(body, _facts_of(found))
    head = ("column", "kind", "method", "value", "p-value", "threshold", "drifted", "reference", "current", "outcome")
    rows = [_row(column) for column in found.columns]
    table(body, "Columns, the strongest evidence first", head, rows, [column.drifted for column in found.columns])
    if found.left_out:
        table(body, "Not compared", ("column", "why"), [(name, why) for name, why in found.left_out.items()])
    if plots:
        add(body, "h2", "Distributions")
        key(body, {"reference bar": "reference", "current bar": "current"})
        for column in found.columns[:MOST_PLOTS]:
            _plot(body, found, column)
        if len(found.columns) > MOST_PLOTS:
            add(body, "p", f"{len(found.columns) - MOST_PLOTS} more columns are in the table; their plots were left out.")
    return written(root)


def in_notebook(text: str) -> str:
    """A page inside another: in a frame of its own, so that neither's style reaches the other."""
    return f'<iframe sandbox="" title="modelwatch" style="width:100%;height:30em;border:0" srcdoc="{html.escape(text)}"></iframe>'


def verdict(found: Comparison) -> str:
    """One sentence on all columns."""
    if found.outcome is not Outcome.OK:
        return f"Nothing could be compared: {found.reason}."
    evaluated = len(found.columns) - len(found.not_evaluated)
    words = f"{len(found.drifted)} of {evaluated} columns drifted"
    if found.not_evaluated:
        words += f"; {len(found.not_evaluated)} could not be evaluated"
    return f"{'Drift' if found.drift else 'No drift'}: {words}."


def _facts_of(found: Comparison) -> dict[str, str]:
    found_facts = {
        "rows": f"{found.rows_reference:,} reference, {found.rows_current:,} current",
        "policy": found.policy,
        "called drift": "any column" if found.drift_share is None else f"{found.drift_share:.0%} of the columns or more",
    }
    if (p_value := found.metrics.get("p_value")) is not None:
        found_facts["p-value of all columns together"] = f"{p_value:.3g} (at least {found.metrics.get('p_value_floor', 0.0):.2g})"
    return found_facts


def _row(column: ComparedColumn) -> tuple[str, ...]:
    threshold = "" if column.threshold is None else ("p " if column.judges == "p_value" else "") + short(column.threshold)
    sizes = f"{column.n_reference:,}", f"{column.n_current:,}"
    return (
        column.name, column.kind or "", column.method, short(column.value), short(column.p_value), threshold,
        "drifted" if column.drifted else "", *sizes, column.why or column.outcome.value,
    )  # fmt: skip


def _plot(body: Element, found: Comparison, column: ComparedColumn) -> None:
    seen = found.distribution(column.name)
    if seen is None:
        return
    figure = add(body, "figure")
    shares(figure, seen, column.name)
    words = (
        f"{column.name}: {column.method} {short(column.value)}" if column.value is not None else f"{column.name}: {column.why}"
    )
    words += ", drifted" if column.drifted else ""
    if any(seen.beyond):
        words += f"; {seen.beyond[0]:,} and {seen.beyond[1]:,} values lie beyond the ends and are counted there"
    add(figure, "figcaption", words)


def short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def told(body: Element, text: str, bad: bool) -> None:
    add(body, "p", text, class_="verdict bad" if bad else "verdict")


def facts(body: Element, of: Mapping[str, str]) -> None:
    listed = add(body, "dl")
    for name, value in of.items():
        add(listed, "dt", name)
        add(listed, "dd", value)


def key(body: Element, entries: Mapping[str, str]) -> None:
    line = add(body, "p", class_="key")
    for kind, text in entries.items():
        svg = add(line, "svg", viewBox="0 0 14 14", width=14, height=14)
        svg.set("aria-hidden", "true")
        add(svg, "rect", x=2, y=2, width=10, height=10, class_=kind)
        add(line, "span", text)


def table(body: Element, caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], bad: Sequence[bool] = ()) -> None:
    table = add(add(body, "div", class_="wide"), "table")
    add(table, "caption", caption)
    line = add(add(table, "thead"), "tr")
    for name in head:
        add(line, "th", name, scope="col")
    inside = add(table, "tbody")
    for i, row in enumerate(rows):
        line = add(inside, "tr", **({"class_": "bad"} if i < len(bad) and bad[i] else {}))
        for j, cell in enumerate(row):
            if j == 0:
                add(line, "th", plain(cell), scope="row")
            else:
                add(line, "td", plain(cell, 400), **({"class_": "why"} if len(cell) > SENTENCE_CHARS else {}))
