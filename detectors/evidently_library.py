"""Evidently as a library: which of its metrics there are, how they are made of plain settings, asked, and read.

Everything that touches Evidently's own objects is here. Importing this module does not import Evidently.
"""

from __future__ import annotations

import contextlib
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from detectors.contract import Categories, ColumnKind, NotEvaluable, Window
from detectors.labelled import LARGEST, NOT_A_CLASS, same_class
from detectors.quality import BoolArray

EVIDENTLY = "0.7.23"

Task = Literal["binary", "multiclass", "regression", "ranking"]

NEED_PROBABILITY = frozenset({"RocAuc", "RocAucByLabel", "LogLoss", "DummyRocAuc", "DummyLogLoss"})

METRICS = frozenset(
    {
        "AbsMaxError", "Accuracy", "AlmostConstantColumnsCount", "AlmostDuplicatedColumnsCount", "CategoryCount",
        "ColumnCorrelationMatrix", "ColumnCorrelations", "ColumnCount", "ConstantColumnsCount", "CorrelationMatrix",
        "DatasetCorrelations", "DatasetMissingValueCount", "Diversity", "DriftedColumnsCount", "DummyAccuracy", "DummyF1Score",
        "DummyFNR", "DummyFPR", "DummyLogLoss", "DummyMAE", "DummyMAPE", "DummyPrecision", "DummyRMSE", "DummyRecall",
        "DummyRocAuc", "DummyTNR", "DummyTPR", "DuplicatedColumnsCount", "DuplicatedRowCount", "EmptyColumnsCount",
        "EmptyRowsCount", "F1ByLabel", "F1Score", "FBetaTopK", "FNR", "FPR", "GroupBy", "HitRate", "InListValueCount",
        "InRangeValueCount", "LogLoss", "MAE", "MAP", "MAPE", "MRR", "MaxValue", "MeanError", "MeanValue", "MedianValue",
        "MinValue", "MissingValueCount", "NDCG", "Novelty", "OutListValueCount", "OutRangeValueCount", "Personalization",
        "PopularityBiasMetric", "Precision", "PrecisionByLabel", "PrecisionTopK", "QuantileValue", "R2Score", "RMSE", "Recall",
        "RecallByLabel", "RecallTopK", "RocAuc", "RocAucByLabel", "RowCount", "ScoreDistribution", "Serendipity", "StdValue",
        "SumValue", "TNR", "TPR", "UniqueValueCount", "ValueDrift",
        "ClassificationDummyQuality", "ClassificationPreset", "ClassificationQuality", "ClassificationQualityByLabel",
        "DataDriftPreset", "DataSummaryPreset", "DatasetStats", "RegressionDummyQuality", "RegressionPreset",
        "RegressionQuality", "TextEvals", "ValueStats",
    }
)  # fmt: skip
"""Metrics and presets that run here. A test compares them, and those below, with what Evidently registers."""

UNSUPPORTED = {
    "EmbeddingsDrift": "it computes t-SNE of every window (90 s for 2,000 vectors); use the detector embedding_drift, which has "
    "the same four methods",
    "ItemBias": "its result is a chart without a number",
    "UserBias": "its result is a chart without a number",
    "RecCasesTable": "its result is a table of single recommendations",
    "RecsysPreset": "it holds RecCasesTable and charts; ask for its metrics one by one",
    "RowTestSummary": "it sums up tests of Evidently's own descriptors, which rows here do not have",
}

NEED_REFERENCE = frozenset({"ValueDrift", "DriftedColumnsCount", "DataDriftPreset"})

NEED_TRAINING = frozenset({"Diversity", "Novelty", "PopularityBiasMetric", "Serendipity"})
"""They compare with what the recommender was trained on, for which the reference stands. (Diversity does not, but fails on items
beyond the first ranks of the window that it does not find there.)"""

TESTS = frozenset({"eq", "not_eq", "gt", "gte", "lt", "lte", "is_in", "not_in"})


def import_evidently() -> Any:
    """Evidently, quietly: its service parts would report usage, and it imports names that are deprecated."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import evidently
    return evidently


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Global generators as they were, which several of its tests seed anew, and none of the warnings that are Evidently's."""
    numbers, plain = np.random.get_state(), random.getstate()
    try:
        with warnings.catch_warnings():
            # Deprecations are for Evidently to mend, and its version is pinned. It also computes plots, and statistics of
            # columns that nobody asked for, where numpy divides by 0 or averages nothing.
            for category in (DeprecationWarning, FutureWarning, RuntimeWarning):
                warnings.simplefilter("ignore", category)
            # A metric that is not defined, such as the precision of a class never predicted, comes as 0 with a warning.
            warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
            yield
    finally:
        np.random.set_state(numbers)
        random.setstate(plain)


# --- from plain settings ---------------------------------------------------------------------------------------------


def metric_of(evidently: Any, name: str, arguments: Mapping[str, Any]) -> Any:
    """The metric or preset of that name.

    Raises:
        ValueError: Evidently has none of that name, or does not take these arguments.
    """
    for module in (evidently.metrics, evidently.presets):
        if name in module.__all__:
            try:
                return getattr(module, name)(**{key: argument(evidently, key, value) for key, value in arguments.items()})
            except TypeError as exc:
                raise ValueError(f"evidently {name}: {exc}") from exc
    known = sorted({*evidently.metrics.__all__, *evidently.presets.__all__} - set(UNSUPPORTED))
    raise ValueError(f"evidently {evidently.__version__} has no metric {name!r}; there are {', '.join(known)}")


def argument(evidently: Any, key: str, value: Any) -> Any:
    """Plain values as they are, but: `{lte: 0.1}` is a test, `{lte: {relative: 0.1}}` one against the reference, and
    `{metric: MeanValue, column: age}` a metric inside another."""
    if isinstance(value, Mapping):
        if len(value) in (1, 2) and (name := next(iter(value))) in TESTS and set(value) <= {name, "is_critical"}:
            bound = value[name]
            if isinstance(bound, Mapping):
                bound = evidently.tests.Reference(**bound)
            return getattr(evidently.tests, name)(bound, is_critical=value.get("is_critical", True))
        if key == "metric" and "metric" in value:
            return metric_of(evidently, value["metric"], {k: v for k, v in value.items() if k != "metric"})
        made = {k: argument(evidently, str(k), v) for k, v in value.items()}
        if key.endswith("_tests") and set(made) <= {"mean", "std"}:
            from evidently.core.metric_types import MeanStdMetricTests

            return MeanStdMetricTests(**made)
        return made
    if isinstance(value, list | tuple):
        return [argument(evidently, key, one) for one in value]
    return value


# --- columns ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One column of every window: float64, NaN where missing, or text objects, None where missing."""

    kind: ColumnKind
    sides: tuple[np.ndarray[Any, Any], ...]

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
    name: str, kind: ColumnKind | None, windows: Sequence[Window], rows: Sequence[np.ndarray[Any, Any]], *, classes: bool
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
    sides = [as_objects(window.categories(name), classes=classes)[chosen] for window, chosen in zip(windows, rows, strict=True)]
    return Column("category", tuple(sides))


def as_objects(column: Categories, *, classes: bool) -> np.ndarray[Any, Any]:
    names: list[str | None] = list(column.names)
    if classes:
        names = [None if (one := same_class(text)) in NOT_A_CLASS else one for text in column.names]
    # The last entry answers for -1, a missing value.
    return np.array([*names, None], dtype=object)[column.codes]


def sampled(rows: int, max_rows: int, seed: int) -> np.ndarray[Any, Any]:
    """All row numbers or, of too many, a sample without repeats, in order."""
    if rows <= max_rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, max_rows, replace=False))


@dataclass(frozen=True, slots=True)
class Meaning:
    """What columns are beyond features."""

    task: Task | None = None
    positive: str = "1"
    probability: bool = False  # of the positive class; given it, Evidently forgets what the model decided
    texts: tuple[str, ...] = ()
    user: str = "user_id"
    item: str = "item_id"
    recommended: Literal["rank", "score"] = "score"


def definition(evidently: Any, columns: Mapping[str, Column], meaning: Meaning) -> Any:
    def named(kind: ColumnKind) -> list[str]:
        return [name for name, column in columns.items() if column.kind == kind and name not in meaning.texts]

    given: dict[str, Any] = {"numerical_columns": named("number"), "categorical_columns": named("category")}
    if texts := [name for name in meaning.texts if name in columns]:
        given["text_columns"] = texts
    match meaning.task:
        case "regression":
            given["regression"] = [evidently.Regression(target="label", prediction="prediction")]
        case "multiclass":
            given["classification"] = [evidently.MulticlassClassification(target="label", prediction_labels="prediction")]
        case "binary":
            given["classification"] = [
                evidently.BinaryClassification(
                    target="label",
                    prediction_labels="prediction",
                    # Given both, Evidently decides anew, at a probability of 0.5.
                    prediction_probas="probability" if meaning.probability else None,
                    pos_label=meaning.positive,
                )
            ]
        case "ranking":
            given["ranking"] = [
                evidently.Recsys(
                    user_id=meaning.user,
                    item_id=meaning.item,
                    target="label",
                    prediction="prediction",
                    recommendations_type=meaning.recommended,
                )
            ]
    return evidently.DataDefinition(**given)


def snapshot(evidently: Any, metrics: Sequence[Any], columns: Mapping[str, Column], meaning: Meaning, *, training: bool) -> Any:
    """Evidently's report on these columns, whose first side is the current window and the second, if any, the reference."""
    import pandas as pd

    current, *reference = (
        evidently.Dataset.from_pandas(
            pd.DataFrame(dict(zip(columns, side, strict=True))), data_definition=definition(evidently, columns, meaning)
        )
        for side in zip(*(column.sides for column in columns.values()), strict=True)
    )
    trained = {"current_train_data": reference[0], "reference_train_data": reference[0]} if training and reference else None
    return evidently.Report(list(metrics)).run(current, reference[0] if reference else None, additional_data=trained)


# --- what it says ----------------------------------------------------------------------------------------------------


def numbers_in(run: Any) -> Iterator[tuple[str, tuple[str, float]]]:
    """Field, and Evidently's own name with the value, for every number of a report; tests are 1 where passed, else 0."""
    results = list(run.metric_results.values())
    full = [str(result.explicit_metric_id()) for result in results]
    configs = [result.metric_value_location.metric.params for result in results]
    short = [".".join(filter(None, _said(c))) for c in configs]
    for result, statistic, name in zip(results, full, short, strict=True):
        # Two quantiles of one column have one short name.
        prefix = "" if len(results) == 1 else f"{name if short.count(name) == 1 else statistic}."
        for key, value in values_in(result):
            yield prefix + (key or "value"), (f"{statistic}.{key}" if key else statistic, value)
    tests = list(run.tests_results)
    if tests:
        passed = [test.status.name in ("SUCCESS", "WARNING") for test in tests]
        yield "tests_failed", ("tests that failed", float(len(passed) - sum(passed)))
        yield "tests_failed_share", ("share of the tests that failed", 1 - sum(passed) / len(passed))
        for test, good in zip(tests, passed, strict=True):
            yield f"test: {test.name}", (test.name, float(good))


def _said(config: Mapping[str, Any]) -> Sequence[str | None]:
    """What tells one metric from another: its class, its column, and of a group its label."""
    if "label" in config:
        return (*_said(config["metric"]), f"{config['column_name']}={config['label']}")
    return config["type"].rpartition(":")[2], config.get("column")


def values_in(result: Any) -> Iterator[tuple[str, float]]:
    table: Any = getattr(result, "value", None)
    if not hasattr(table, "iterrows"):
        yield from ((str(key), float(value)) for key, value in result.itervalues() if value is not None)
        return
    columns = list(table.columns)
    if columns == ["rank", "value"]:  # a ranking's quality up to each rank
        yield from ((str(int(rank)), float(value)) for rank, value in table.itertuples(index=False))
    elif columns == ["kind", "column_name", "value"]:  # correlations of one column
        yield from ((f"{kind}.{column}", float(value)) for kind, column, value in table.itertuples(index=False))
    else:  # correlations: a cell is named by its row and column
        for row, cells in table.iterrows():
            yield from ((f"{row}.{column}", float(cell)) for column, cell in cells.items() if isinstance(cell, int | float))
