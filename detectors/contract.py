"""What a detector promises, and what it is given.

Two kinds of detector stand behind two protocols. A `RowDetector` gives a `Score` for each record; a `WindowDetector` compares
a current window with a reference and gives one `Reading`. A detector measures; the check's threshold judges. Timing, retries,
logging and counting belong to whoever calls it.

A detector ends in one of four outcomes and never in a made-up number:

    ok                a finite value
    not_enough_data   raise `NotEnoughData` (window), or return `Score.not_enough_data`
    not_evaluable     raise `NotEvaluable`, or return `Score.not_evaluable`, with a reason from `NOT_EVALUABLE_REASONS`
    failed            raise anything else; the caller records it and goes on with the others
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PrivateAttr

from detectors.memo import Memo

if TYPE_CHECKING:
    from detectors.judging.endpoint import EndpointConfig
    from detectors.summary import Blocks, CategorySummary, NumberSummary

FloatArray = NDArray[np.float64]
ColumnKind = Literal["number", "category"]
Worse = Literal["higher", "lower"]


class Outcome(StrEnum):
    """How an evaluation ended. Stored with every score and reading."""

    OK = "ok"
    NOT_ENOUGH_DATA = "not_enough_data"
    NOT_EVALUABLE = "not_evaluable"
    FAILED = "failed"


NOT_EVALUABLE_REASONS = frozenset(
    {
        "content_off",  # the sender keeps prompts and answers to itself
        "empty_answer",
        "judge_budget_spent",  # the money or the calls of the day are spent
        "judge_unavailable",  # it could not be asked for too long
        "judge_undecided",  # it answered, and no number came of it
        "no_claims",  # an answer, but nothing in it that could be supported or not
        "no_context",
        "no_features",
        "no_labels",
        "no_question",
        "no_reference",
        "not_installed",  # an optional library is missing; the detail says which, and how to get it
        "rows_unavailable",  # some of what was stored of it cannot be read
        "constant",  # the statistic is not defined on one value
        "missing_column",
        "type_changed",
        "wrong_type",
        "not_numeric",
    }
)


class NotEnoughData(Exception):
    """Fewer rows than the detector needs. An outcome of its own: neither a zero nor a failure."""


class NotEvaluable(Exception):
    """The detector does not apply to this input, for a reason from `NOT_EVALUABLE_REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in NOT_EVALUABLE_REASONS:
            raise ValueError(f"unknown reason {reason!r}; known: {', '.join(sorted(NOT_EVALUABLE_REASONS))}")
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class DetectorConfig(BaseModel):
    """Base of every detector's settings: frozen, and a misspelled key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    _files_hash: str = PrivateAttr("")

    @property
    def files_hash(self) -> str:
        """Of what is in the files that its paths name, part of what makes two of them equal; "" where nobody has looked."""
        return self._files_hash

    def of_files(self, digest: str) -> Self:
        """The same settings, of files with this content."""
        made = self.model_copy()
        made._files_hash = digest
        return made


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """One piece of evidence inside an answer: `response[start:end]`, and what was found for it.

    `support` is in 0..1 (1: supported). `context` is the index of the best passage in the row's contexts, or None.
    """

    start: int
    end: int
    support: float
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A row detector's word on one record. `value` is finite exactly when `outcome` is ok.

    One that does not `may_alert` is stored and never flagged, and no reading counts it: its detector knows too little of how
    good it is to wake anybody for it.
    """

    outcome: Outcome
    value: float | None = None
    reason: str | None = None
    stage: str = ""
    claims: tuple[Claim, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    may_alert: bool = True

    def __post_init__(self) -> None:
        if (self.outcome is Outcome.OK) != (self.value is not None and math.isfinite(self.value)):
            raise ValueError(f"a score of outcome {self.outcome} cannot have the value {self.value!r}")

    @classmethod
    def ok(cls, value: float, *, stage: str = "", claims: Sequence[Claim] = (), **detail: Any) -> Score:
        return cls(Outcome.OK, float(value), None, stage, tuple(claims), detail)

    @classmethod
    def not_evaluable(cls, reason: str, **detail: Any) -> Score:
        return cls(Outcome.NOT_EVALUABLE, None, NotEvaluable(reason).reason, detail=detail)

    @classmethod
    def not_enough_data(cls, reason: str, **detail: Any) -> Score:
        return cls(Outcome.NOT_ENOUGH_DATA, None, reason, detail=detail)

    @classmethod
    def failed(cls, reason: str, **detail: Any) -> Score:
        return cls(Outcome.FAILED, None, reason, detail=detail)


Row = Mapping[str, Any]
"""One record, read only. A generation has `record_id`, `question` (str or None), `response` (str or None) and `contexts`
(list of str); a prediction has `record_id`, `features` (mapping), `prediction` and `probability`."""


class Encoder(Protocol):
    """Turns texts into unit vectors. One is shared by all detectors of a process."""

    name: str

    @property
    def dimension(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit-norm vectors, float32 (len(texts), dimension), in the order of `texts`. Each distinct text costs once."""
        ...


def shipped_static() -> Encoder:
    """The static encoder that comes with this package, loaded once in a process."""
    from detectors.static import shared  # not above: it would load for those who only compare windows

    return shared()


class ClaimReader(Protocol):
    """Reads claims together with their evidence, such as `detectors.reader.Reader`."""

    name: str

    def read(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Logits of supported, contradicted and neither, float32 (pairs, 3), for pairs of a claim and its evidence."""
        ...


def shipped_reader() -> ClaimReader:
    """The reader of claims that comes with this package, loaded once in a process."""
    from detectors.reader import shared

    return shared()


@dataclass(frozen=True, slots=True)
class Resources:
    """What the process lends its detectors.

    `encoder()` is the shared encoder, MiniLM unless told otherwise: it loads on first use and may take seconds. `static()` is
    the static one, a hundred times as fast and coarser: what a first look at everything is for (`detectors.cascade`).
    `reader()` reads claims together with their evidence. `memo` has the latest scores of detectors that others build on; those
    of one process share it. `judge` is whom the detector `judge` asks.
    """

    encoder: Callable[[], Encoder]
    static: Callable[[], Encoder] = shipped_static
    reader: Callable[[], ClaimReader] = shipped_reader
    memo: Memo[Score] = field(default_factory=Memo)
    judge: EndpointConfig | None = None


@runtime_checkable
class RowDetector(Protocol):
    """Scores records one by one; a batch gives what the rows alone would give.

    `inputs` names the row keys it reads. `flag` is where, without a word from the check, a score counts as flagged
    (at or beyond it in the direction of `worse`). A detector with a method `load(resources: Resources) -> None` has it
    called once, in the process that scores, before the first `score`. One whose scores have every claim of an answer with the
    passage it stands in best says `every_claim = True`: its claims tell which passages were used.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    inputs: ClassVar[frozenset[str]]
    worse: ClassVar[Worse]
    flag: ClassVar[float]
    Config: ClassVar[type[DetectorConfig]]

    def score(self, rows: Sequence[Row]) -> list[Score]:
        """One score for each row, in order. Never raises for a bad row: that row's score says so."""
        ...


# --- windows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Categories:
    """A column of categories: `codes` int32 (n,), -1 where missing, else an index into `names`."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]


@runtime_checkable
class Window(Protocol):
    """The rows between two times, by column. Columns are fetched on first use and must not be written to."""

    @property
    def rows(self) -> int: ...

    @property
    def features(self) -> Mapping[str, ColumnKind]:
        """The features of these rows and what each is. The schema's word, not a guess from this window."""
        ...

    def has(self, column: str) -> bool: ...

    def numbers(self, column: str) -> FloatArray:
        """float64 (rows,), NaN where missing. Raises `NotEvaluable` (missing_column, not_numeric)."""
        ...

    def categories(self, column: str) -> Categories:
        """Raises `NotEvaluable` (missing_column). Numbers come as the text of the number."""
        ...


class Summarised(Window, Protocol):
    """A window that also knows its columns without their rows. A detector asks through `detectors.summary.summary_of` and
    `blocks_of`, which say None of windows that have only rows; what it makes of counts it makes of rows where there are none.

    The columns of the two windows of a comparison are on the same points and names, or one of the windows has rows only.
    """

    def summary(self, column: str) -> NumberSummary | CategorySummary | None:
        """Counts that stand for all rows of the window; None where this column has none."""
        ...

    def blocks(self, column: str) -> Blocks | None:
        """The same by stretch of time, or most of it: what there is to resample. None: nothing is."""
        ...


def vectors_of(window: Window, column: str) -> NDArray[np.float32]:
    """The vectors of a column, float32 (rows, dimension); a row with NaN has none.

    From the window's own method `vectors(column)`, where it has one, else from columns of numbers called `column.0`, `column.1`
    and so on.

    Raises:
        NotEvaluable: missing_column, not_numeric.
    """
    own = getattr(window, "vectors", None)
    if callable(own) and window.has(column):
        return np.asarray(own(column), dtype=np.float32)
    names: list[str] = []
    while window.has(name := f"{column}.{len(names)}"):
        names.append(name)
    if not names:
        raise NotEvaluable("missing_column", f"no column {column!r} of vectors, and no {column}.0")
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        return np.stack([window.numbers(name) for name in names], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Part:
    """One feature's, metric's or slice's share in a reading.

    `value` is None unless `outcome` is ok. `flagged` says that the part alone is beyond its own `threshold`, which is one of
    `judges` in the direction `direction`. `library` names the tool and version whose number it is, where that is promised.
    `basis` says whether the value is of the rows, or of counts that stand for them (`detectors.summary` states the error).
    """

    name: str
    statistic: str
    outcome: Outcome = Outcome.OK
    value: float | None = None
    p_value: float | None = None
    threshold: float | None = None
    flagged: bool = False
    reason: str | None = None
    n_reference: int = 0
    n_current: int = 0
    judges: Literal["value", "p_value"] = "value"
    direction: Worse = "higher"
    library: str | None = None
    basis: Literal["rows", "summary"] = "rows"


@dataclass(frozen=True, slots=True)
class Reading:
    """A window detector's word on one window.

    `value` is finite and is what the check's threshold judges; `lower` and `upper` are its interval where there is one.
    `metrics` are further named numbers of the same window (a quality check gives several); NaN never stands in it.
    `parts` come with the largest contribution first.
    """

    value: float
    statistic: str
    n_current: int
    n_reference: int = 0
    lower: float | None = None
    upper: float | None = None
    parts: tuple[Part, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("value", self.value), ("lower", self.lower), ("upper", self.upper), *self.metrics.items()):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"a reading's {name} must be finite, not {value!r}")


@runtime_checkable
class WindowDetector(Protocol):
    """Compares a window with a reference. `inputs` and `worse` are read from the instance: they may depend on settings.

    `inputs` names what it reads: "features", "prediction", "probability", "label", or single columns. Optional class
    attributes: `reference` ("required", the default; "optional"; or "none": `compare` is then given None), `isolated`
    (True: it may leak, block or reseed global state, so it runs in a worker process), `summaries` (True: it asks windows for
    summaries first, and may be given a `Summarised` one of many rows) and `column_by_column` (True: it looks at one column after
    the other, and a large window may read each from disk every time it is asked for).
    """

    name: ClassVar[str]
    version: ClassVar[str]
    inputs: ClassVar[frozenset[str]]
    worse: ClassVar[Worse]
    Config: ClassVar[type[DetectorConfig]]

    def compare(self, reference: Window | None, current: Window) -> Reading:
        """Raises `NotEnoughData` or `NotEvaluable`; anything else raised is a failure of this check alone."""
        ...


class Frame:
    """A `Window` over columns in memory, for notebooks, tests and the worker process.

    >>> frame = Frame({"age": [31.0, 45.0], "city": ["Oslo", None]})
    >>> frame.rows, dict(frame.features)
    (2, {'age': 'number', 'city': 'category'})
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[Any] | NDArray[Any]],
        *,
        features: Mapping[str, ColumnKind] | None = None,
    ) -> None:
        """`features` says which columns are features and of what kind; by default all are, by their dtype, but for matrices."""
        self._columns = {name: np.asarray(values) for name, values in columns.items()}
        sizes = {len(values) for values in self._columns.values()}
        if len(sizes) > 1:
            raise ValueError(f"columns of unequal length: {sorted(sizes)}")
        self._rows = sizes.pop() if sizes else 0
        by_dtype: dict[str, ColumnKind] = {n: kind_of(v) for n, v in self._columns.items() if v.ndim == 1}
        self._features = dict(features) if features is not None else by_dtype

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def features(self) -> Mapping[str, ColumnKind]:
        return self._features

    def has(self, column: str) -> bool:
        return column in self._columns

    def numbers(self, column: str) -> FloatArray:
        values = self._column(column)
        if values.ndim != 1:
            raise NotEvaluable("not_numeric", f"column {column!r} is of vectors")
        try:
            return np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as exc:
            raise NotEvaluable("not_numeric", f"column {column!r}") from exc

    def categories(self, column: str) -> Categories:
        return encode_categories(self._column(column))

    def vectors(self, column: str) -> NDArray[np.float32]:
        """float32 (rows, dimension) of a column given as a matrix, or as lists of one length. See `vectors_of`."""
        values = self._column(column)
        try:
            found = values if values.ndim == 2 else np.stack([np.asarray(v, dtype=np.float32) for v in values])
            found = np.asarray(found, dtype=np.float32)
        except (TypeError, ValueError) as exc:
            raise NotEvaluable("not_numeric", f"column {column!r} is not of vectors of one length") from exc
        if found.ndim != 2:
            raise NotEvaluable("not_numeric", f"column {column!r} is not of vectors")
        return found

    def _column(self, column: str) -> NDArray[Any]:
        if column not in self._columns:
            raise NotEvaluable("missing_column", f"no column {column!r}; there are {', '.join(sorted(self._columns))}")
        return self._columns[column]


def kind_of(values: NDArray[Any]) -> ColumnKind:
    """Booleans and text are categories; everything numpy can count with is a number."""
    return "number" if values.dtype.kind in "iuf" else "category"


def encode_categories(values: NDArray[Any]) -> Categories:
    """Codes in the order of first appearance sorted by name, so that equal data has equal codes."""
    if values.dtype.kind in "iuf":
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=bool)
        distinct, inverse = np.unique(values[~missing], return_inverse=True)
        codes = np.full(len(values), -1, dtype=np.int32)
        codes[~missing] = inverse
        return Categories(codes, tuple(text_of_number(v) for v in distinct.tolist()))
    texts = [None if v is None or v != v else str(v) for v in values.tolist()]
    names = tuple(sorted({t for t in texts if t is not None}))
    index: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    index[None] = -1
    return Categories(np.fromiter((index[t] for t in texts), dtype=np.int32, count=len(texts)), names)


def text_of_number(value: float) -> str:
    """Whole numbers without a point, whatever else is in their column, so that two windows name them alike."""
    return str(int(value)) if math.isfinite(value) and value == math.floor(value) else str(value)


def settings_hash(detector: type[RowDetector] | type[WindowDetector], config: DetectorConfig) -> str:
    """Sixteen hex digits over name, version, settings and the files they name: equal hash, equal maths."""
    files = [config.files_hash] if config.files_hash else []
    text = json.dumps([detector.name, detector.version, config.model_dump(mode="json"), *files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
