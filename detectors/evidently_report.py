"""Evidently's page of charts on two windows, as one file of HTML that fetches nothing.

Numbers and verdicts on it are Evidently's own, by its own tests: it is for looking closer, not for judging.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detectors.contract import ColumnKind, NotEnoughData, NotEvaluable, Window
from detectors.evidently_library import (
    EVIDENTLY,
    Column,
    Meaning,
    column_of,
    import_evidently,
    sampled,
    snapshot,
    undisturbed,
)

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; connect-src 'none'; form-action 'none'; base-uri 'none'"
)
"""What the page may do, as a Content-Security-Policy: run what is in it (which Evidently's charts need) and fetch nothing."""

PLAIN = Meaning()
MOST_CATEGORIES = 50  # of a column, in the charts; the others are one
OTHERS = "(others)"
STYLE = "font:14px/1.5 system-ui,sans-serif;margin:1.5rem auto;padding:0 1.5rem;max-width:1200px"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be shown. `columns`: those to begin with, the most telling first; others follow by name up to `max_columns`.
    `facts` stand at the top, as (what, text)."""

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()
    methods: tuple[tuple[str, str], ...] = ()  # Evidently's test by column
    meaning: Meaning = PLAIN
    max_rows: int = 20_000
    max_columns: int = 30
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Rendered:
    """The page, the columns that are on it, and those that Evidently could not take, with why."""

    html: str
    columns: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


def render(plan: Plan, reference: Window, current: Window) -> Rendered:
    """
    Raises:
        NotEnoughData: a side has no rows, or no column has values on both sides.
    """
    if not (reference.rows and current.rows):
        raise NotEnoughData(f"{current.rows} rows in the window and {reference.rows} in what it is compared with")
    columns, left_out = _columns(plan, reference, current)
    evidently = import_evidently()
    with undisturbed():
        columns = _fit(evidently, columns, left_out)
        if not columns:
            raise NotEnoughData("no column has values on both sides" + "".join(f"; {n}: {why}" for n, why in left_out.items()))
        metrics, meaning = _metrics(evidently, plan, columns)
        page = snapshot(evidently, metrics, columns, meaning, training=False).get_html_str(as_iframe=False)
    rows = [len(side) for side in next(iter(columns.values())).sides]
    facts = [
        *plan.facts,
        ("rows shown", f"{rows[0]:,} of {current.rows:,} in the window, {rows[1]:,} of {reference.rows:,} compared with"),
    ]
    if left_out:
        facts.append(("not shown", "; ".join(f"{name}: {why}" for name, why in sorted(left_out.items()))))
    facts.append(("charts", f"by Evidently {EVIDENTLY}, with its own tests and thresholds; the verdict is the check's"))
    return Rendered(_dressed(page, plan.title, facts), tuple(columns), tuple(sorted(left_out.items())))


def _columns(plan: Plan, reference: Window, current: Window) -> tuple[dict[str, Column], dict[str, str]]:
    windows = (current, reference)
    kinds: dict[str, ColumnKind | None] = {n: k for window in reversed(windows) for n, k in window.features.items()}
    outputs = ("label", "prediction") if plan.meaning.task is not None else ()
    order = [*(n for n in plan.columns if n in kinds), *sorted(set(kinds) - set(plan.columns))]
    chosen = order[: plan.max_columns]
    left_out = dict.fromkeys(order[plan.max_columns :], f"more than {plan.max_columns} columns")
    rows = [sampled(window.rows, plan.max_rows, plan.seed) for window in windows]
    columns: dict[str, Column] = {}
    numeric = plan.meaning.task in ("regression", "ranking")
    for name in (*chosen, *outputs):
        kind = kinds.get(name) if name not in outputs else "number" if numeric else "category"
        try:
            columns[name] = _shown(column_of(name, kind, windows, rows, classes=name in outputs))
        except NotEvaluable as exc:
            left_out[name] = str(exc)
    if outputs and all(name in columns for name in outputs):
        complete = [np.all(side, axis=0) for side in zip(*(columns[name].there() for name in outputs), strict=True)]
        if all(side.any() for side in complete):
            columns = {name: column.only(complete) for name, column in columns.items()}
            return columns, left_out
    return {name: column for name, column in columns.items() if name not in outputs or name in chosen}, left_out


def _shown(column: Column) -> Column:
    """Without infinities; of categories the most frequent, and none that could be taken for HTML."""
    if column.kind == "number":
        return Column("number", tuple(np.where(np.isfinite(side), side, np.nan) for side in column.sides))
    values, counts = np.unique(
        np.concatenate([[v for v in side if v is not None] for side in column.sides]).astype(str), return_counts=True
    )
    kept = set(values[np.argsort(-counts, kind="stable")][:MOST_CATEGORIES].tolist())
    names: dict[Any, Any] = {value: harmless(value) if value in kept else OTHERS for value in values.tolist()}
    return replace(column, sides=tuple(np.array([names.get(v) for v in side], dtype=object) for side in column.sides))


def harmless(text: str) -> str:
    """For scripts inside the page, in which Evidently leaves `</script>` as it is."""
    return text.replace("<", "\N{FULLWIDTH LESS-THAN SIGN}").replace("\u2028", " ").replace("\u2029", " ")


def _fit(evidently: Any, columns: dict[str, Column], left_out: dict[str, str]) -> dict[str, Column]:
    """Those with values on both sides and, where Evidently fails on them together, those it can take alone."""
    whole = {}
    for name, column in columns.items():
        if all(there.any() for there in column.there()):
            whole[harmless(name)] = column
        else:
            left_out[name] = "no values on one side"
    try:
        snapshot(evidently, [evidently.metrics.DriftedColumnsCount()], whole, Meaning(), training=False)
    except MemoryError:
        raise
    except Exception:  # whatever the libraries below Evidently raise
        for name in list(whole):
            try:
                snapshot(evidently, [evidently.metrics.ValueDrift(column=name)], {name: whole[name]}, Meaning(), training=False)
            except MemoryError:
                raise
            except Exception as exc:
                left_out[name] = f"{type(exc).__name__}: {exc}"[:200]
                del whole[name]
    return whole


def _metrics(evidently: Any, plan: Plan, columns: Mapping[str, Column]) -> tuple[list[Any], Meaning]:
    methods = {harmless(name): method for name, method in plan.methods if harmless(name) in columns}
    metrics = [evidently.presets.DataDriftPreset(columns=list(columns), per_column_method=methods or None)]
    meaning = plan.meaning
    constant = any(name not in columns or columns[name].is_constant() for name in ("label", "prediction"))
    if meaning.task not in ("binary", "multiclass", "regression") or constant:
        return metrics, Meaning()
    preset = "RegressionPreset" if meaning.task == "regression" else "ClassificationPreset"
    return [getattr(evidently.presets, preset)(), *metrics], replace(meaning, probability=False)


def _dressed(page: str, title: str, facts: Sequence[tuple[str, str]]) -> str:
    """With what the page is about, and what it may do, wherever it is opened."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;padding:.1rem 1rem .1rem 0;vertical-align:top">{html.escape(what)}</th>'
        f"<td>{html.escape(text)}</td></tr>"
        for what, text in facts
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}"><title>{html.escape(title)}</title>'
    top = f'<header style="{STYLE}"><h1 style="font-size:1.4rem">{html.escape(title)}</h1><table>{rows}</table></header>'
    # Functions, since a replacement text would have its backslashes read.
    page = re.sub(r"<title>.*?</title>", "", page, count=1, flags=re.DOTALL)
    page = re.sub(r"<head[^>]*>", lambda found: found[0] + head, page, count=1)
    return re.sub(r"<body[^>]*>", lambda found: found[0] + top, page, count=1)
