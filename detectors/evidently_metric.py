"""Any metric or preset of Evidently becomes a series: https://docs.evidentlyai.com/metrics/all_metrics.

Evidently types columns by looking at them, one window at a time, so a small window can flip a type. Here the schema says what
each column is, and columns are cast to types that Evidently does not drop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from detectors.contract import (
    ColumnKind,
    DetectorConfig,
    NotEnoughData,
    NotEvaluable,
    Outcome,
    Part,
    Reading,
    Window,
    Worse,
)
from detectors.evidently_library import (
    EVIDENTLY,
    METRICS,
    NEED_PROBABILITY,
    NEED_REFERENCE,
    NEED_TRAINING,
    UNSUPPORTED,
    Column,
    Meaning,
    Task,
    column_of,
    import_evidently,
    metric_of,
    numbers_in,
    sampled,
    snapshot,
    undisturbed,
)
from detectors.labelled import same_class

MOST_TRIED = 200  # columns that are asked for one by one, to find which of them Evidently cannot take


class EvidentlyMetric:
    """One number of an Evidently metric as the reading, and all its other numbers in `metrics`.

    Reads:  features; also prediction and label, where `task` is set, and what `arguments` name as a column. For two classes
            the probability only where the metric needs it (RocAuc, LogLoss) or `arguments` has a `probas_threshold`: given
            it, Evidently would not use the predictions. For `ranking` also who (`user`) and what (`item`). With a task, rows
            that lack any of these are left out.
    Gives:  `field` of the result. A metric with one number has the field "value"; others have what Evidently calls it
            ("count", "share", "mean", "std", a class, "counts.Oslo"), a ranking's have the rank ("10"), and tables have
            "row.column". A preset gives several results: each field is then preceded by the metric and its column, as in
            "ValueDrift.age.value" or "DriftedColumnsCount.share", and in a GroupBy by the group
            ("MeanValue.age.city=Oslo.value").
            Where there are tests, "tests_failed", "tests_failed_share" and for each "test: NAME", 1 where it passed.
            `statistic` is Evidently's own name for it, with the test and the threshold that it chose.
            The parts are the columns that were left out, with the reason.
    Costs:  the first comparison of a process imports Evidently: 4-5 s and 320 MB. Presets take 15 s for 100,000 rows of 25
            columns; `max_rows` bounds that by a seeded sample, and `window_rows` and `reference_rows` say of how many.
    Raises: NotEnoughData, when either side has fewer than `min_rows` rows, or `column` has no values.
            NotEvaluable: missing_column, not_numeric or type_changed, for a column that is named or that the task needs;
            no_features; constant, where Evidently gives NaN, or fails on labels or predictions of one value; no_reference, for
            a metric that compares with one. It also stands for what a recommender was trained on.
            ValueError, when an argument or field is not the metric's: they are known to Evidently alone, which is not imported
            before the first comparison.

    For comparisons Evidently gives up when one column is bad, and all other columns are lost with it. Then the columns
    that have no values on a side are left out; if that does not do, those on which it fails alone. `columns_left_out` counts
    them.
    """

    name: ClassVar[str] = "evidently"
    version: ClassVar[str] = f"2-evidently-{EVIDENTLY}"
    # It leaves 3,000 modules behind and takes what memory it likes: a process of its own, with limits.
    isolated: ClassVar[bool] = True
    inputs: frozenset[str] = frozenset({"features"})
    worse: Worse = "higher"
    reference: ClassVar[str] = "optional"

    class Config(DetectorConfig):
        metric: str = Field(description="a class of evidently.metrics or evidently.presets")
        arguments: dict[str, Any] = Field(default_factory=dict, description="given to that class; plain values only")
        field: str | None = Field(None, description="which number is the reading; none: the only one")
        worse: Worse = "higher"
        task: Task | None = Field(None, description="for metrics of quality: what prediction and label are")
        positive: str = Field("1", description="the positive class, for binary; 1 also stands for true")
        user: str = Field("user_id", min_length=1, description="for ranking: the feature that says for whom")
        item: str = Field("item_id", min_length=1, description="for ranking: the feature that says what")
        recommended: Literal["rank", "score"] = Field("score", description="for ranking: what the prediction is")
        texts: tuple[str, ...] = Field((), description="features that are texts, for TextEvals and drift of texts")
        min_rows: int = Field(30, ge=1)
        max_rows: int = Field(50_000, ge=1, description="on either side; of more rows a sample is taken")
        timeout_seconds: int = Field(120, ge=1, description="for one window, in the worker")
        memory_bytes: int = Field(4 * 2**30, ge=2**28, description="that one window may take in the worker")
        seed: int = Field(0, ge=0)

        @field_validator("metric")
        @classmethod
        def _there_is_one(cls, name: str) -> str:
            if name in UNSUPPORTED:
                raise ValueError(f"{name} is not run here: {UNSUPPORTED[name]}")
            if name not in METRICS:
                raise ValueError(f"Evidently {EVIDENTLY} has no metric {name!r}; there are {', '.join(sorted(METRICS))}")
            return name

        @field_validator("positive", mode="before")
        @classmethod
        def _positive_is_a_class(cls, raw: Any) -> Any:
            return same_class(str(raw)) if isinstance(raw, str | int | float) else raw

        @model_validator(mode="after")
        def _embeddings_are_not_ours(self) -> EvidentlyMetric.Config:
            if "embeddings" in self.arguments:
                raise ValueError(f"arguments.embeddings: EmbeddingsDrift is not run here: {UNSUPPORTED['EmbeddingsDrift']}")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = config.worse
        self.timeout_seconds = config.timeout_seconds
        self.memory_bytes = config.memory_bytes
        self.asked = named_in(config.arguments)
        outputs: set[str] = set()
        if config.task is not None:
            outputs = {"prediction", "label"}
        if config.task == "ranking":
            outputs |= {config.user, config.item}
        if config.task == "binary" and (config.metric in NEED_PROBABILITY or "probas_threshold" in config.arguments):
            outputs.add("probability")
        self._outputs = outputs | (self.asked & {"prediction", "probability", "label"})
        self.inputs = frozenset({"features"} | self._outputs)
        self._meaning = Meaning(
            config.task,
            config.positive,
            "probability" in outputs,
            config.texts,
            config.user,
            config.item,
            config.recommended,
        )

    def compare(self, reference: Window | None, current: Window) -> Reading:
        windows = [current] if reference is None else [current, reference]
        if reference is None and self.config.metric in NEED_TRAINING | NEED_REFERENCE:
            raise NotEvaluable("no_reference", f"{self.config.metric} compares with one")
        self._enough(min(window.rows for window in windows), "rows")
        columns, left_out = self._columns(windows)
        self._enough(min(len(side) for side in next(iter(columns.values())).sides), "complete rows")
        evidently = import_evidently()
        with undisturbed():
            run, columns = self._ask(evidently, columns, left_out)
        return self._reading(dict(numbers_in(run)), windows, columns, left_out)

    def _enough(self, rows: int, of_what: str) -> None:
        if rows < self.config.min_rows:
            raise NotEnoughData(f"evidently: {rows} {of_what}, min_rows is {self.config.min_rows}")

    def _columns(self, windows: Sequence[Window]) -> tuple[dict[str, Column], dict[str, Part]]:
        """The columns that all sides have and that are of one kind. The others are left out, unless named."""
        c = self.config
        rows = [sampled(window.rows, c.max_rows, c.seed) for window in windows]
        kinds: dict[str, ColumnKind | None] = {
            name: kind for window in reversed(windows) for name, kind in window.features.items()
        }
        outputs: dict[str, ColumnKind | None] = dict.fromkeys(sorted(self._outputs))
        if c.task is not None:
            outputs |= dict.fromkeys(("label", "prediction"), "number" if c.task in ("regression", "ranking") else "category")
        if c.task == "ranking":
            outputs |= dict.fromkeys((c.user, c.item), "category")
            kinds = {name: kind for name, kind in kinds.items() if name not in (c.user, c.item)}
        if "probability" in outputs:
            outputs["probability"] = "number"
        needed = {*self.asked, *outputs}
        columns: dict[str, Column] = {}
        listed = c.arguments.get("columns")
        left_out: dict[str, Part] = {}
        if isinstance(listed, list | tuple):
            kinds = {name: kinds.get(name) for name in listed}
        for name, kind in (kinds | outputs).items():
            try:
                columns[name] = column_of(name, kind, windows, rows, classes=name in outputs)
            except NotEvaluable as exc:
                if name in needed:
                    raise
                left_out[name] = self._left(name, Outcome.NOT_EVALUABLE, exc.reason)
        if absent := sorted(self.asked - set(columns)):
            raise NotEvaluable("missing_column", f"no column {absent[0]!r}; there are {', '.join(sorted(columns))}")
        if not columns:
            raise NotEvaluable("no_features")
        if c.task is None:
            return columns, left_out
        complete = [np.all(side, axis=0) for side in zip(*(columns[name].there() for name in outputs), strict=True)]
        return {name: column.only(complete) for name, column in columns.items()}, left_out

    def _left(self, name: str, outcome: Outcome, reason: str) -> Part:
        return Part(name, self.config.metric, outcome, reason=reason[:200])

    def _ask(self, evidently: Any, columns: dict[str, Column], left_out: dict[str, Part]) -> tuple[Any, dict[str, Column]]:
        """Evidently's report, and the columns it is of: all of them, else those it can take."""
        c = self.config
        listed = c.arguments.get("columns")

        def run(chosen: Mapping[str, Column]) -> Any:
            arguments = c.arguments
            if isinstance(listed, list | tuple):
                arguments = {**arguments, "columns": [name for name in listed if name in chosen]}
            metric = metric_of(evidently, c.metric, arguments)
            return snapshot(evidently, [metric], chosen, self._meaning, training=c.metric in NEED_TRAINING)

        try:
            return run(columns), columns
        except MemoryError:
            raise
        except Exception as exc:  # whatever the libraries below Evidently raise
            first = exc
        whole = self._with_values(columns, left_out, first)
        if len(whole) < len(columns):
            try:
                return run(whole), whole
            except MemoryError:
                raise
            except Exception as exc:
                first = exc
        kept = {name for name in whole if name in self._outputs or name in self.asked}
        if self.asked or len(whole) - len(kept) < 2 or len(whole) > MOST_TRIED:
            raise first
        for name in sorted(set(whole) - kept):
            try:
                run({n: column for n, column in whole.items() if n in self._outputs or n == name})
                kept.add(name)
            except MemoryError:
                raise
            except Exception as exc:
                left_out[name] = self._left(name, Outcome.FAILED, f"{type(exc).__name__}: {exc}")
        fine = {name: column for name, column in whole.items() if name in kept}
        if len(fine) in (len(whole), len(self._outputs)):
            raise first  # it is not the fault of single columns
        return run(fine), fine

    def _with_values(self, columns: dict[str, Column], left_out: dict[str, Part], exc: Exception) -> dict[str, Column]:
        """The columns with values on every side, after Evidently gave up with `exc` on all of them."""
        if self.config.task is not None and any(columns[name].is_constant() for name in ("label", "prediction")):
            raise NotEvaluable("constant", f"one label or prediction only; Evidently: {exc}") from exc
        whole = {name: column for name, column in columns.items() if all(there.any() for there in column.there())}
        if absent := sorted(self.asked - set(whole)):
            raise NotEnoughData(f"evidently: {absent[0]!r} has no values on one side") from exc
        if not whole:
            raise NotEnoughData("evidently: no column has values on every side") from exc
        for name in set(columns) - set(whole):
            left_out[name] = self._left(name, Outcome.NOT_ENOUGH_DATA, "no values on one side")
        return whole

    def _reading(
        self,
        found: Mapping[str, tuple[str, float]],
        windows: Sequence[Window],
        columns: Mapping[str, Column],
        left_out: Mapping[str, Part],
    ) -> Reading:
        field = self._field(found)
        statistic, value = found[field]
        if not math.isfinite(value):
            raise NotEvaluable("constant", f"Evidently gives {value} for {statistic}")
        n_current, *n_reference = (len(side) for side in next(iter(columns.values())).sides)
        metrics = {name: number for name, (_, number) in found.items() if math.isfinite(number)}
        metrics["columns_left_out"] = len(left_out)
        for name, window in zip(("window_rows", "reference_rows"), windows, strict=False):
            metrics[name] = window.rows
        parts = tuple(left_out[name] for name in sorted(left_out))
        return Reading(value, statistic, n_current=n_current, n_reference=sum(n_reference), parts=parts, metrics=metrics)

    def _field(self, found: Mapping[str, Any]) -> str:
        c = self.config
        if c.field is None and len(found) == 1:
            return next(iter(found))
        field = c.field if c.field is not None else str(c.arguments.get("k"))
        if field not in found:
            known = [name for name in found if not name.startswith("test: ")]
            shown = ", ".join(sorted(known)[:60])
            raise ValueError(f"evidently {c.metric}: field is {c.field!r}; there are {shown}")
        return field


def named_in(arguments: Mapping[str, Any]) -> set[str]:
    """The columns that arguments name, those of a metric inside a GroupBy included."""
    found: set[str] = set()
    for key in ("column", "column_name"):
        if isinstance(name := arguments.get(key), str):
            found.add(name)
    if isinstance(names := arguments.get("item_features"), list | tuple):
        found.update(name for name in names if isinstance(name, str))
    if isinstance(inner := arguments.get("metric"), Mapping):
        found |= named_in(inner)
    return found
