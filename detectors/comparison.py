"""Two sets of data, compared column by column: `detectors.compare`, and what `modelwatch compare` prints.

The maths is that of `data_drift` (`detectors.univariate`): the same policies, methods, values and thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from detectors.columnconfig import ColumnConfig, Policy
from detectors.contract import ColumnKind, NotEvaluable, Outcome, Part
from detectors.distributions import Distribution, distribution
from detectors.stattests import STATTESTS
from detectors.tables import KIND_OF, UNCOMPARABLE, ColumnType, Typed, table_of
from detectors.text_drift import TEXT_TESTS
from detectors.univariate import Columns

DRIFT_SHARE = 0.5
"""Evidently's: from this share of drifted columns on, the data has drifted."""


@dataclass(frozen=True, slots=True)
class ComparedColumn:
    """One column of both sides. `value` is None unless `outcome` is ok, and then `reason` says why, in words.

    `judges` says whether value or p-value is compared with `threshold`, and `direction` on which side of it drift lies. The
    sizes count the values that were used; missing and infinite ones are the rest of the rows.
    """

    name: str
    kind: ColumnKind | None
    type_reference: str | None
    type_current: str | None
    method: str
    outcome: Outcome
    value: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    judges: Literal["value", "p_value"] = "value"
    direction: Literal["higher", "lower"] = "higher"
    drifted: bool = False
    reason: str | None = None
    why: str | None = None
    n_reference: int = 0
    n_current: int = 0
    library: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. Columns come with the strongest evidence first, those without a value last.

    `outcome` is ok when at least one column has a value. `drift` is the word on all of them: under `calibrated` whether any
    column drifted (at most a share `alpha` of comparisons without drift say so), under `evidently` whether `drift_share` of
    them did. `left_out` are columns of types that are not compared, with the reason.
    """

    policy: Policy
    outcome: Outcome
    reason: str | None
    rows_reference: int
    rows_current: int
    columns: tuple[ComparedColumn, ...]
    left_out: Mapping[str, str]
    metrics: Mapping[str, float]
    drift_share: float | None
    drift: bool
    sides: tuple[Typed, Typed] = field(repr=False, compare=False)

    @property
    def drifted(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.drifted)

    @property
    def not_evaluated(self) -> tuple[ComparedColumn, ...]:
        return tuple(column for column in self.columns if column.outcome is not Outcome.OK)

    @property
    def share(self) -> float | None:
        """Of drifted columns among those that have a value."""
        evaluated = len(self.columns) - len(self.not_evaluated)
        return len(self.drifted) / evaluated if evaluated else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `modelwatch compare --json` prints them."""
        return {
            "policy": self.policy,
            "outcome": self.outcome.value,
            "reason": self.reason,
            "drift": self.drift,
            "drift_share": self.drift_share,
            "share_of_drifted_columns": self.share,
            "drifted_columns": len(self.drifted),
            "evaluated_columns": len(self.columns) - len(self.not_evaluated),
            "rows": {"reference": self.rows_reference, "current": self.rows_current},
            "p_value": self.metrics.get("p_value"),
            "p_value_floor": self.metrics.get("p_value_floor"),
            "columns": [{**asdict(column), "outcome": column.outcome.value} for column in self.columns],
            "left_out": dict(self.left_out),
        }

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each column that was compared."""
        import pandas

        return pandas.DataFrame(self.to_dict()["columns"], columns=list(ComparedColumn.__dataclass_fields__))

    def distribution(self, name: str, bins: int = 30) -> Distribution | None:
        """How a column is distributed on both sides, for a plot; None where it is not there on both, or has no values."""
        kind = next((column.kind for column in self.columns if column.name == name), None)
        if kind is None:
            return None
        try:
            return distribution(kind, *self.sides, name, bins)
        except NotEvaluable:
            return None

    def to_html(self, title: str = "Comparison") -> str:
        """A page of its own, with a plot for each column: no scripts, nothing that is loaded."""
        from detectors.report.pages import of_comparison

        return of_comparison(self, title)

    def _repr_html_(self) -> str:
        from detectors.report.pages import in_notebook, of_comparison

        return in_notebook(of_comparison(self, "Comparison", plots=False))


def compare(
    reference: Any,
    current: Any,
    *,
    policy: Policy = "calibrated",
    columns: Sequence[str] | None = None,
    numbers: Sequence[str] = (),
    categories: Sequence[str] = (),
    method: str = "auto",
    methods: Mapping[str, str] | None = None,
    drift_share: float | None = None,
    seen: Callable[[str], None] | None = None,
    **settings: Any,
) -> Comparison:
    """Which columns are distributed otherwise in `current` than in `reference`?

    Either side is a pandas DataFrame, an Arrow table (or what gives one, as polars and DuckDB do), a dict of columns, or a
    `Frame`. What a column is, number or category, is what it is in the reference; `numbers` and `categories` overrule that. Rows
    are taken to be in the order of time. `columns` are all that either side has, but for times and nested values.

    `policy`, `method`, `methods`, and by name `alpha`, `feature_threshold`, `resamples`, `block_rows`, `min_rows` and
    `max_distinct_share` are the settings of `data_drift`. `drift_share` is the share of drifted columns from which `drift` is
    true; by default any column is enough under `calibrated`, and half of them under `evidently`. `seen` is told the name of each
    column as it is begun.

    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> found = compare({"age": rng.normal(40, 10, 500), "pay": rng.normal(3, 1, 500), "shop": ["a", "b"] * 250},
    ...                 {"age": rng.normal(55, 10, 300), "pay": rng.normal(3, 1, 300), "shop": ["a", "b"] * 150})
    >>> found.drift, found.drifted, [column.method for column in found.columns]
    (True, ('age',), ['anderson', 'anderson', 'jensenshannon'])
    >>> found.to_pandas()[["name", "kind", "n_current"]].to_numpy().tolist()[0]
    ['age', 'number', 300]

    Raises:
        TypeError, ValueError: what is given is no table, a column that is named is on neither side, or a setting is none.
    """
    sides = table_of(reference), table_of(current)
    config = ColumnConfig.model_validate({"policy": policy, "method": method, "methods": dict(methods or {}), **settings})
    if drift_share is not None and not 0 < drift_share <= 1:
        raise ValueError(f"drift_share ({drift_share}) is a share of the columns: above 0, at most 1")
    types = sides[0].types, sides[1].types
    known = tuple(dict.fromkeys((*types[0], *types[1])))
    for setting, named in (
        ("columns", columns or ()),
        ("numbers", numbers),
        ("categories", categories),
        ("methods", config.methods),
    ):
        if unknown := [name for name in named if name not in known]:
            raise ValueError(f"{setting}: {', '.join(unknown)} on neither side; there are {', '.join(known) or 'no columns'}")
    if both := sorted(set(numbers) & set(categories)):
        raise ValueError(f"{', '.join(both)} cannot be numbers and categories")
    decide = Deciding(*types, frozenset(numbers), frozenset(categories), seen)
    left_out = {} if columns is not None else {name: text for name in known if (text := decide.uncomparable(name)) is not None}
    names = tuple(dict.fromkeys(columns)) if columns is not None else tuple(name for name in known if name not in left_out)
    windows = Typed(sides[0], {}), Typed(sides[1], {})
    found = Columns(config).measure(names, decide, *windows)
    results = tuple(_result(part, decide, config) for part in found.parts)
    outcome, reason = _overall(results, types)
    drifted = sum(one.drifted for one in results)
    evaluated = sum(one.outcome is Outcome.OK for one in results)
    least = drift_share if drift_share is not None else DRIFT_SHARE if policy == "evidently" else None
    drift = drifted > 0 and (least is None or drifted / evaluated >= least)
    rows = sides[0].rows, sides[1].rows
    return Comparison(policy, outcome, reason, *rows, results, left_out, found.metrics, least, drift, windows)


class Deciding:
    """What each column is, by the reference's schema or because somebody says so. Keeps in words why one is nothing."""

    def __init__(
        self,
        reference: Mapping[str, ColumnType],
        current: Mapping[str, ColumnType],
        numbers: frozenset[str],
        categories: frozenset[str],
        seen: Callable[[str], None] | None,
    ) -> None:
        self.types = reference, current
        self.kinds: dict[str, ColumnKind] = {}
        self.words: dict[str, str] = {}
        self._asked: dict[str, ColumnKind] = {**dict.fromkeys(numbers, "number"), **dict.fromkeys(categories, "category")}
        self._seen = seen

    def __call__(self, name: str) -> ColumnKind:
        if self._seen is not None:
            self._seen(name)
        for types, side in zip(self.types, ("the reference", "the current data"), strict=True):
            if name not in types:
                raise self._because(name, "missing_column", f"not in {side}")
        if (text := self.uncomparable(name)) is not None:
            raise self._because(name, "wrong_type", text)
        before, now = (types[name] for types in self.types)
        if (
            (asked := self._asked.get(name)) is None
            and "empty" not in (before.family, now.family)
            and before.family != now.family
        ):
            remedy = "name it among the categories to compare texts, or the numbers"
            text = f"{now.called} ({now.family}), and in the reference {before.called} ({before.family}): {remedy}"
            raise self._because(name, "type_changed", text)
        self.kinds[name] = asked or KIND_OF[now.family if before.family == "empty" else before.family]
        return self.kinds[name]

    def uncomparable(self, name: str) -> str | None:
        """Why a column of this type is not compared, whatever is in it."""
        there = [types[name].family for types in self.types if name in types]
        return next((UNCOMPARABLE[one] for one in there if one in UNCOMPARABLE), None)

    def _because(self, name: str, reason: str, text: str) -> NotEvaluable:
        self.words[name] = text
        return NotEvaluable(reason, text)


def _result(part: Part, decide: Deciding, config: ColumnConfig) -> ComparedColumn:
    name = part.name
    before, now = (types[name].called if name in types else None for types in decide.types)
    kind = decide.kinds.get(name)
    why = None
    if part.outcome is not Outcome.OK:
        why = decide.words.get(name) or _in_words(part, kind, config)
    return ComparedColumn(
        name, kind, before, now, part.statistic, part.outcome, part.value, part.p_value, part.threshold, part.judges,
        part.direction, part.flagged, part.reason, why, part.n_reference, part.n_current, part.library,
    )  # fmt: skip


def _in_words(part: Part, kind: ColumnKind | None, config: ColumnConfig) -> str:
    asked = config.methods.get(part.name, config.method)
    match part.reason:
        case "wrong_type" if asked in STATTESTS and kind not in STATTESTS[asked].kinds:
            return f"{asked} is not for a {kind}: leave the method to auto, or choose one that is"
        case "wrong_type" if asked in TEXT_TESTS:
            return f"{asked} is for texts"
        case "wrong_type":
            return "most values are different ones: an identifier, or free text (for which there is perc_text_content_drift)"
        case "constant":
            return f"one value only, and {part.statistic} needs two"
        case "not_numeric":
            return "not all of its values are numbers: name it among the categories, or mend them"
        case "overflow":
            return "its numbers are too large to be added up"
    return part.reason or "unknown"


def _overall(
    results: Sequence[ComparedColumn], types: tuple[Mapping[str, ColumnType], Mapping[str, ColumnType]]
) -> tuple[Outcome, str | None]:
    if any(one.outcome is Outcome.OK for one in results):
        return Outcome.OK, None
    if results and not set(types[0]) & set(types[1]):
        there = [", ".join(list(side)[:8]) or "nothing" for side in types]
        return Outcome.NOT_EVALUABLE, f"no column in common: the reference has {there[0]}; the current data has {there[1]}"
    for outcome in (Outcome.NOT_ENOUGH_DATA, Outcome.NOT_EVALUABLE, Outcome.FAILED):
        if (first := next((one for one in results if one.outcome is outcome), None)) is not None:
            return outcome, f"{first.name}: {first.why}"
    return Outcome.NOT_EVALUABLE, "no column that can be compared"
