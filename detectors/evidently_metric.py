"""Any metric or preset of Evidently becomes a series: https://docs.evidentlyai.com/metrics/all_metrics.

Evidently types columns by looking at them, one window at a time, so a small window can flip a type. Here the schema says what
each column is, and columns are cast to types that Evidently does not drop.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from detectors.contract import ColumnKind, DetectorConfig, NotEnoughData, NotEvaluable, Reading, Window, Worse
from detectors.labelled import LARGEST, NOT_A_CLASS, same_class
from detectors.quality import BoolArray

EVIDENTLY = "0.7.23"
NEED_PROBABILITY = frozenset({"RocAuc", "RocAucByLabel", "LogLoss", "DummyRocAuc", "DummyLogLoss"})


class EvidentlyMetric:
    """One number of an Evidently metric as the reading, and all its other numbers in `metrics`.

    Reads:  features; also prediction and label, where `task` is set, and what `arguments` names as `column`. For two classes
            the probability only where the metric needs it (RocAuc, LogLoss) or `arguments` has a `probas_threshold`: given
            it, Evidently would not use the predictions. With a task, rows without label, prediction or such a probability
            are left out.
    Gives:  `field` of the result. A metric with one number has the field "value"; others have what Evidently calls it
            ("count", "share", "mean", "std", a class, "counts.Oslo"), and tables have "row.column". A preset gives several
            results: each field is then preceded by the metric and its column, as in "ValueDrift.age.value" or
            "DriftedColumnsCount.share".
            `statistic` is Evidently's own name for it, with the test and the threshold that it chose.
    Costs:  the first comparison of a process imports Evidently: 4-5 s and 320 MB. Presets take 15 s for 100,000 rows of 25
            columns; `max_rows` bounds that by a seeded sample, and `window_rows` and `reference_rows` say of how many.
    Raises: NotEnoughData, when either side has fewer than `min_rows` rows, or `column` has no values.
            NotEvaluable: missing_column, not_numeric or type_changed, for a column that is named or that the task needs;
            no_features; constant, where Evidently gives NaN, or fails on labels or predictions of one value.
            ValueError, when Evidently has no such metric, argument or field: settings are checked without importing it,
            so a wrong name is a failure of the first comparison and not an error at start.

    For comparisons Evidently gives up when any column is empty, and all other columns are lost with it. Then the columns
    that have no values on both sides are left out and it is asked again; `columns_left_out` counts them.
    """

    name: ClassVar[str] = "evidently"
    version: ClassVar[str] = f"1-evidently-{EVIDENTLY}"
    # Some of its tests reseed numpy's global generator, and it leaves 3,000 modules behind.
    isolated: ClassVar[bool] = True
    inputs: frozenset[str] = frozenset({"features"})
    worse: Worse = "higher"

    class Config(DetectorConfig):
        metric: str = Field(description="a class of evidently.metrics or evidently.presets", pattern=r"^[A-Z]\w*$")
        arguments: dict[str, Any] = Field(default_factory=dict, description="given to that class; plain values only")
        field: str | None = Field(None, description="which number is the reading; none: the only one")
        worse: Worse = "higher"
        task: Literal["binary", "multiclass", "regression"] | None = Field(
            None, description="for metrics of quality: what prediction and label are"
        )
        positive: str = Field("1", description="the positive class, for binary; 1 also stands for true")
        min_rows: int = Field(30, ge=1)
        max_rows: int = Field(50_000, ge=1, description="on either side; of more rows a sample is taken")
        seed: int = Field(0, ge=0)

        @field_validator("positive", mode="before")
        @classmethod
        def _positive_is_a_class(cls, raw: Any) -> Any:
            return same_class(str(raw)) if isinstance(raw, str | int | float) else raw

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = config.worse
        column = config.arguments.get("column")
        self.asked: str | None = column if isinstance(column, str) else None
        if config.task is not None:
            self.inputs = self.inputs | {"prediction", "label"}
        if config.task == "binary" and (config.metric in NEED_PROBABILITY or "probas_threshold" in config.arguments):
            self.inputs = self.inputs | {"probability"}
        if self.asked in ("prediction", "probability", "label"):
            self.inputs = self.inputs | {self.asked}

    def compare(self, reference: Window | None, current: Window) -> Reading:
        windows = [current] if reference is None else [current, reference]
        self._enough(min(window.rows for window in windows), "rows")
        columns = self._columns(windows)
        offered = len({name for window in windows for name in window.features} | set(columns))
        self._enough(min(len(side) for side in next(iter(columns.values())).sides), "complete rows")
        evidently = import_evidently()
        metric = self._metric(evidently)
        with warnings.catch_warnings():
            # Deprecations are for Evidently to mend, and its version is pinned. It also computes plots, and statistics of
            # columns that nobody asked for, where numpy divides by 0 or averages nothing.
            for category in (DeprecationWarning, FutureWarning, RuntimeWarning):
                warnings.simplefilter("ignore", category)
            # A metric that is not defined, such as the precision of a class never predicted, comes as 0 with a warning.
            warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
            try:
                used, results = columns, self._run(evidently, metric, columns)
            except Exception as exc:  # whatever the libraries below Evidently raise
                used = self._with_values(columns, exc)
                results = self._run(evidently, metric, used)
        return self._reading(results, windows, used, n_left_out=offered - len(used))

    def _enough(self, rows: int, of_what: str) -> None:
        if rows < self.config.min_rows:
            raise NotEnoughData(f"evidently: {rows} {of_what}, min_rows is {self.config.min_rows}")

    def _columns(self, windows: Sequence[Window]) -> dict[str, Column]:
        """The columns that all sides have and that are of one kind. The others are left out, unless named."""
        c = self.config
        rows = [sampled(window.rows, c.max_rows, c.seed) for window in windows]
        kinds: dict[str, ColumnKind | None] = {
            name: kind for window in reversed(windows) for name, kind in window.features.items()
        }
        outputs: dict[str, ColumnKind | None] = dict.fromkeys(sorted(self.inputs - {"features"}))
        if c.task is not None:
            outputs |= dict.fromkeys(("label", "prediction"), "number" if c.task == "regression" else "category")
        if "probability" in outputs:
            outputs["probability"] = "number"
        needed = {self.asked, *outputs}
        columns: dict[str, Column] = {}
        for name, kind in (kinds | outputs).items():
            try:
                columns[name] = column_of(name, kind, windows, rows, classes=name in outputs)
            except NotEvaluable:
                if name in needed:
                    raise
        if self.asked is not None and self.asked not in columns:
            raise NotEvaluable("missing_column", f"no column {self.asked!r}; there are {', '.join(sorted(columns))}")
        if not columns:
            raise NotEvaluable("no_features")
        if c.task is None:
            return columns
        complete = [np.all(side, axis=0) for side in zip(*(columns[name].there() for name in outputs), strict=True)]
        return {name: column.only(complete) for name, column in columns.items()}

    def _with_values(self, columns: dict[str, Column], exc: Exception) -> dict[str, Column]:
        """The columns with values on every side, after Evidently gave up with `exc` on all of them."""
        if self.config.task is not None and any(columns[name].is_constant() for name in ("label", "prediction")):
            raise NotEvaluable("constant", f"one label or prediction only; Evidently: {exc}") from exc
        whole = {name: column for name, column in columns.items() if all(there.any() for there in column.there())}
        if self.asked is not None and self.asked not in whole:
            raise NotEnoughData(f"evidently: {self.asked!r} has no values on one side") from exc
        if not whole:
            raise NotEnoughData("evidently: no column has values on every side") from exc
        if len(whole) == len(columns):
            raise exc
        return whole

    def _metric(self, evidently: Any) -> Any:
        name = self.config.metric
        for module in (evidently.metrics, evidently.presets):
            if name in module.__all__:
                return getattr(module, name)(**self.config.arguments)
        known = sorted({*evidently.metrics.__all__, *evidently.presets.__all__})
        raise ValueError(f"evidently {evidently.__version__} has no metric {name!r}; there are {', '.join(known)}")

    def _run(self, evidently: Any, metric: Any, columns: Mapping[str, Column]) -> list[Any]:
        c = self.config
        definition: dict[str, Any] = {
            "numerical_columns": [name for name, column in columns.items() if column.kind == "number"],
            "categorical_columns": [name for name, column in columns.items() if column.kind == "category"],
        }
        if c.task == "regression":
            definition["regression"] = [evidently.Regression(target="label", prediction="prediction")]
        elif c.task == "multiclass":
            definition["classification"] = [evidently.MulticlassClassification(target="label", prediction_labels="prediction")]
        elif c.task == "binary":
            definition["classification"] = [
                evidently.BinaryClassification(
                    target="label",
                    prediction_labels="prediction",
                    # Given both, Evidently forgets what the model decided and decides anew, at a probability of 0.5.
                    prediction_probas="probability" if "probability" in self.inputs else None,
                    pos_label=c.positive,
                )
            ]
        import pandas as pd

        current, *reference = (
            evidently.Dataset.from_pandas(
                pd.DataFrame(dict(zip(columns, side, strict=True))),
                data_definition=evidently.DataDefinition(**definition),
            )
            for side in zip(*(column.sides for column in columns.values()), strict=True)
        )
        run = evidently.Report([metric]).run(current, reference[0] if reference else None)
        return list(run.metric_results.values())

    def _reading(self, results: list[Any], windows: Sequence[Window], columns: Mapping[str, Column], n_left_out: int) -> Reading:
        c = self.config
        found = dict(numbers_in(results))
        field = c.field if c.field is not None or len(found) != 1 else next(iter(found))
        if field is None or field not in found:
            raise ValueError(f"evidently {c.metric}: field is {field!r}; there are {', '.join(sorted(found))}")
        statistic, value = found[field]
        if not math.isfinite(value):
            raise NotEvaluable("constant", f"Evidently gives {value} for {statistic}")
        n_current, *n_reference = (len(side) for side in next(iter(columns.values())).sides)
        metrics = {name: number for name, (_, number) in found.items() if math.isfinite(number)}
        metrics["columns_left_out"] = n_left_out
        for name, window in zip(("window_rows", "reference_rows"), windows, strict=False):
            metrics[name] = window.rows
        return Reading(value, statistic, n_current=n_current, n_reference=sum(n_reference), metrics=metrics)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of every window: float64, NaN where missing, or text objects, None where missing."""

    kind: ColumnKind
    sides: tuple[NDArray[Any], ...]

    def there(self) -> list[BoolArray]:
        """Which values are there, on each side."""
        if self.kind == "number":
            return [np.abs(side) <= LARGEST for side in self.sides]
        return [np.array([value is not None for value in side], dtype=bool) for side in self.sides]

    def is_constant(self) -> bool:
        """Whether some side has one distinct value."""
        return any(len(set(side.tolist())) < 2 for side in self.sides)

    def only(self, rows: Sequence[BoolArray]) -> Column:
        return Column(self.kind, tuple(side[keep] for side, keep in zip(self.sides, rows, strict=True)))


def column_of(
    name: str, kind: ColumnKind | None, windows: Sequence[Window], rows: Sequence[NDArray[np.int64]], *, classes: bool
) -> Column:
    """These rows of the column. Without a kind it is a number where it can be, else a category. `classes`: labels and
    predictions, in which 1, 1.0 and true are one.

    Raises:
        NotEvaluable: missing_column, not_numeric or type_changed, on any side.
    """
    for window in windows:
        if not window.has(name):
            raise NotEvaluable("missing_column", f"no column {name!r}")
        if window.features.get(name, kind) != kind:
            raise NotEvaluable("type_changed", f"{name!r} is a {window.features[name]} here and a {kind} there")
    if kind != "category":
        try:
            return Column("number", tuple(w.numbers(name)[chosen] for w, chosen in zip(windows, rows, strict=True)))
        except NotEvaluable:
            if kind == "number":
                raise
    sides = []
    for window, chosen in zip(windows, rows, strict=True):
        column = window.categories(name)
        names: list[str | None] = list(column.names)
        if classes:
            names = [None if (one := same_class(text)) in NOT_A_CLASS else one for text in column.names]
        # The last entry answers for -1, a missing value.
        sides.append(np.array([*names, None], dtype=object)[column.codes[chosen]])
    return Column("category", tuple(sides))


def sampled(rows: int, max_rows: int, seed: int) -> NDArray[np.int64]:
    """All row numbers or, of too many, a sample without repeats, in order."""
    if rows <= max_rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, max_rows, replace=False))


def import_evidently() -> Any:
    """Evidently, quietly: its service parts would report usage, and it imports names that are deprecated."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import evidently
    return evidently


def numbers_in(results: Sequence[Any]) -> Iterator[tuple[str, tuple[str, float]]]:
    """Field, and Evidently's own name with the value, for every number of these results."""
    full = [str(result.explicit_metric_id()) for result in results]
    configs = [result.metric_value_location.metric.params for result in results]
    short = [".".join(filter(None, (c["type"].rpartition(":")[2], c.get("column")))) for c in configs]
    for result, statistic, name in zip(results, full, short, strict=True):
        # Two quantiles of one column have one short name.
        prefix = "" if len(results) == 1 else f"{name if short.count(name) == 1 else statistic}."
        for key, value in values_in(result):
            yield prefix + (key or "value"), (f"{statistic}.{key}" if key else statistic, value)


def values_in(result: Any) -> Iterator[tuple[str, float]]:
    table: Any = getattr(result, "value", None)
    if hasattr(table, "iterrows"):  # correlations: a cell is named by its row and column
        for row, cells in table.iterrows():
            yield from ((f"{row}.{column}", float(cell)) for column, cell in cells.items() if isinstance(cell, int | float))
    else:
        yield from ((str(key), float(value)) for key, value in result.itervalues())
