"""Predictions as they came, under the names that estimators read; with labels that came late, joined by id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from detectors.chunks import Times, in_order
from detectors.contract import Categories, ColumnKind, FloatArray, NotEvaluable
from detectors.estimation.estimators import Task
from detectors.held import Held
from detectors.roles import Roles, RoleUnknown, by_name
from detectors.tables import KIND_OF, Table


@dataclass(frozen=True)
class Read:
    """One side, in the order of time where there are times; `notes` say what was odd."""

    window: Held
    times: Times | None
    notes: tuple[str, ...]


def read(task: Task, roles: Roles, reference: Table, analysis: Table, labels: Table | None) -> tuple[Read, Read]:
    """Both sides.

    Raises:
        NotEvaluable: a column is missing in the analysis, or is of another type there.
        RoleUnknown: labels that cannot be joined.
    """
    kinds = _kinds(roles, reference, analysis)
    before = _side(task, roles, reference, kinds, "reference", labelled=True)
    has_labels = labels is None and roles.label in analysis.types
    now = _side(task, roles, analysis, kinds, "analysis", labelled=has_labels)
    if labels is not None:
        column, notes = _joined(roles, analysis, labels)
        now = Read(now.window.with_column("label", column), now.times, (*now.notes, *notes))
    if now.window.has("label"):
        label = now.window.columns["label"]
        there = int((label.codes >= 0).sum() if isinstance(label, Categories) else np.isfinite(label).sum())
        if there < now.window.rows:
            words = f"{there:,} of {now.window.rows:,} rows of the analysis have a label; what came true is of those"
            now = Read(now.window, now.times, (*now.notes, words))
    return _ordered(before, "reference"), _ordered(now, "analysis")


def _kinds(roles: Roles, reference: Table, analysis: Table) -> dict[str, ColumnKind]:
    """Of the features, by the reference's schema, which the analysis must share."""
    kinds = {}
    for name in roles.features:
        if name not in analysis.types:
            raise NotEvaluable("missing_column", f"feature {name!r} is not in the analysis")
        before, now = reference.types[name], analysis.types[name]
        if len({before.family, now.family} - {"empty"}) == 2:
            raise NotEvaluable(
                "type_changed", f"feature {name!r} is {now.called} and was {before.called}; leave it out, or mend it"
            )
        if before.family not in KIND_OF:
            raise NotEvaluable("wrong_type", f"feature {name!r} is {before.called}: neither a number nor a category")
        kinds[name] = KIND_OF[before.family]
    return kinds


def _side(task: Task, roles: Roles, table: Table, kinds: Mapping[str, ColumnKind], side: str, *, labelled: bool) -> Read:
    wanted = {"prediction": roles.prediction, "probability": roles.probability, "label": roles.label if labelled else None}
    wanted |= {f"probability:{name}": column for name, column in roles.probabilities.items()}
    if task == "multiclass" and not roles.probabilities:
        wanted["probabilities"] = "probabilities"
    columns: dict[str, FloatArray | Categories] = {}
    for name, column in wanted.items():
        if column is None:
            continue
        if column not in table.types:
            raise NotEvaluable("missing_column", f"no column {column!r} in the {side}; there are {', '.join(table.types)}")
        columns[name] = _column(task, table, name, column)
    for name, kind in kinds.items():
        columns[name] = table.numbers(name) if kind == "number" else table.categories(name)
    times = table.times(roles.timestamp) if roles.timestamp is not None and roles.timestamp in table.types else None
    notes = tuple(_odd(columns, side))
    return Read(Held(table.rows, columns, dict(kinds)), times, notes)


def _column(task: Task, table: Table, name: str, column: str) -> FloatArray | Categories:
    # Truth values are the classes 1 and 0, whatever the other side writes them as.
    numeric = table.types[column].family in ("number", "boolean", "empty")
    if task == "regression" or (name.startswith("probability") and name != "probabilities") or numeric:
        return table.numbers(column)
    return table.categories(column)


def _odd(columns: Mapping[str, FloatArray | Categories], side: str) -> list[str]:
    notes = []
    for name, column in columns.items():
        if name.startswith("probability") and isinstance(column, np.ndarray):
            off = int((~((column >= 0) & (column <= 1))).sum())
            if off:
                notes.append(f"{off:,} rows of the {side} have no {name} from 0 to 1 and are left out")
    parts = [column for name, column in columns.items() if name.startswith("probability:") and isinstance(column, np.ndarray)]
    if parts:
        total = np.sum(parts, axis=0)
        if off := int((np.abs(total - 1) > 1e-3).sum()):
            notes.append(f"in {off:,} rows of the {side} the probabilities do not sum to one; they are left out")
    return notes


def _joined(roles: Roles, analysis: Table, labels: Table) -> tuple[FloatArray | Categories, list[str]]:
    """A label for each row of the analysis. An id that is not one row's, or has two labels, has none: either would be a guess."""
    key = roles.id or next(iter(by_name("id", [name for name in labels.types if name in analysis.types])), None)
    if key is None or key not in analysis.types or key not in labels.types:
        listed = f"the analysis has {', '.join(analysis.types)}; the labels have {', '.join(labels.types)}"
        raise RoleUnknown(f"id: labels are joined by a column that both have; say which ({listed})")
    rest = [name for name in labels.types if name != key]
    column = (
        roles.label if roles.label in labels.types else next(iter(by_name("label", rest)), rest[0] if len(rest) == 1 else None)
    )
    if column is None:
        raise RoleUnknown(f"label: no column {roles.label!r} among the labels; there are {', '.join(rest)}")
    ids, known = analysis.categories(key), labels.categories(key)
    numeric = labels.types[column].family in ("number", "boolean", "empty")
    found = labels.numbers(column) if numeric else labels.categories(column)
    values = found.codes.astype(np.float64) if isinstance(found, Categories) else found
    if isinstance(found, Categories):
        values = np.where(values < 0, np.nan, values)
    # Of each id the least and the largest label: where they differ there is no telling.
    low, high = np.full(len(known.names) + 1, np.inf), np.full(len(known.names) + 1, -np.inf)
    there = (known.codes >= 0) & ~np.isnan(values)
    np.minimum.at(low, known.codes[there], values[there])
    np.maximum.at(high, known.codes[there], values[there])
    torn = low < high
    of_id = np.where(low == high, low, np.nan)
    place = {name: i for i, name in enumerate(known.names)}
    to_label = np.array([*(place.get(name, len(known.names)) for name in ids.names), len(known.names)])[ids.codes]
    shared = np.bincount(ids.codes[ids.codes >= 0], minlength=len(ids.names)) > 1
    twice_rows = np.append(shared, False)[ids.codes]
    row = np.where(twice_rows, np.nan, of_id[to_label])
    notes = []
    if n := int(twice_rows.sum()):
        notes.append(f"{n:,} rows of the analysis share their {key} with another row and are taken as unlabelled")
    if n := int(torn.sum()):
        notes.append(f"{n:,} values of {key} have labels that differ; their rows are taken as unlabelled")
    if n := len(set(known.names) - set(ids.names)):
        notes.append(f"{n:,} values of {key} among the labels are of no row of the analysis")
    if isinstance(found, Categories):
        return Categories(np.where(np.isnan(row), -1, row).astype(np.int32), found.names), notes
    return row, notes


def _ordered(side: Read, name: str) -> Read:
    if side.times is None:
        return side
    order, back = in_order(side.times)
    notes = list(side.notes)
    if back:
        notes.append(f"{back:,} rows of the {name} were earlier than the one before them; all are taken in the order of time")
    if unknown := int(np.isnat(side.times.at).sum()):
        notes.append(f"{unknown:,} rows of the {name} have no time; they come last, and in chunks of the calendar not at all")
    times = Times(side.times.at[order], side.times.aware)
    return Read(side.window.take(order), times, tuple(notes))
