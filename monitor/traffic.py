"""The rows of one model that a check reads, between any two times: what its detector asks for, under the names it knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from detectors import registry
from detectors.contract import ColumnKind, WindowDetector
from monitor import answers, windows
from monitor.config import Check
from monitor.embeddings import Decode
from monitor.pool import Pool
from monitor.reader import Reader
from monitor.slices import Slices
from monitor.windows import TableWindow


class Traffic(Protocol):
    """Of one check. Equal rows in the store give an equal window, whoever asks and whenever."""

    @property
    def model(self) -> str: ...

    @property
    def added(self) -> frozenset[str]:
        """Columns that are only there to tell the slices of the check apart; no detector sees them."""
        ...

    @property
    def identity(self) -> list[str]:
        """What decides which columns its windows have: two of one model and one identity give the same."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """The logs whose rows change a window."""
        ...

    @property
    def hashes(self) -> tuple[str, ...]:
        """Settings hashes of the scores it reads. A window waits until none of its records waits to be scored."""
        ...

    def features(self, features: Mapping[str, ColumnKind]) -> Mapping[str, ColumnKind]:
        """The features its windows may have. `features`: those of the model that have a column, here as below."""
        ...

    def between(self, reader: Reader, start: datetime, end: datetime, features: Mapping[str, ColumnKind]) -> TableWindow:
        """Rows with event time in [start, end), in the order of their time.

        Raises:
            ChildFailed, duckdb.Error: what they come from is away.
        """
        ...

    def from_file(self, reader: Reader, path: Path, features: Mapping[str, ColumnKind]) -> TableWindow:
        """A reference the user brought, whose columns are called as the windows'."""
        ...


HELD_BYTES = 64 * 2**20
"""Of a larger window or reference only a column at a time is in memory, where the detector asks for no more."""

SENT = frozenset({"model_version"})
"""Fields of a prediction, beside its features, that slices can be told by; others are `attributes.KEY`."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Windows of this length have rows that others read as well: all of them `inputs`."""

    pool: Pool
    length: timedelta
    inputs: frozenset[str]


class Predictions:
    """Of a classical model. `columns`: detector's name -> name of the feature or field that stands for it; `fields` tell its
    slices apart."""

    def __init__(
        self,
        model: str,
        inputs: frozenset[str],
        columns: Mapping[str, str],
        fields: frozenset[str] = frozenset(),
        sample_rows: int | None = None,
        shared: Shared | None = None,
        held_bytes: int | None = None,
    ) -> None:
        """`held_bytes`: of larger windows each column is read when it is asked for, and not kept; None: of no window."""
        self.model = model
        self.held_bytes = held_bytes
        self._shared = shared
        self._columns = {name: other for name, other in columns.items() if name in inputs}
        own = frozenset(self._columns.get(name, name) for name in inputs)
        self._inputs = own | fields
        self._sample_rows = sample_rows if self._inputs == {windows.SENT_VECTOR} else None
        # What is a feature is one of the detector's, where it reads them all.
        self.added = frozenset(f for f in fields - own if "features" not in own or f in SENT or f.startswith("attributes."))

    @property
    def inputs(self) -> frozenset[str]:
        return self._inputs

    @property
    def identity(self) -> list[str]:
        return [*sorted(self._inputs), *(f"{name}={other}" for name, other in sorted(self._columns.items()))]

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("predictions", "labels") if "label" in self._inputs else ("predictions",)

    hashes: tuple[str, ...] = ()

    def features(self, features: Mapping[str, ColumnKind]) -> Mapping[str, ColumnKind]:
        return features

    def compared(self, features: Mapping[str, ColumnKind]) -> dict[str, ColumnKind]:
        """Those that the detector sees."""
        return {f: k for f, k in windows.chosen_of(features, self._inputs).items() if f not in self.added}

    def between(self, reader: Reader, start: datetime, end: datetime, features: Mapping[str, ColumnKind]) -> TableWindow:
        if self.held_bytes is not None and self._is_large(reader, start, end, features):
            found = windows.column_by_column(reader, self.model, start, end, features, self._inputs)
        elif self._shared is not None and self._sample_rows is None and end - start == self._shared.length:
            of_all = self._shared.inputs
            found = self._shared.pool.predictions(reader, self.model, start, end, features, self._inputs, of_all)
        else:
            found = windows.predictions(reader, self.model, start, end, features, self._inputs, self._sample_rows)
        return found.renamed(self._columns)

    def _is_large(self, reader: Reader, start: datetime, end: datetime, features: Mapping[str, ColumnKind]) -> bool:
        assert self.held_bytes is not None
        columns = sum("features" in self._inputs or f in self._inputs for f in features) + len(self._inputs)
        return windows.count(reader, self.model, start, end) * columns * 8 > self.held_bytes

    def from_file(self, reader: Reader, path: Path, features: Mapping[str, ColumnKind]) -> TableWindow:
        return windows.from_file(reader, path, features, self.added).renamed(self._columns)


Make = Callable[[Check, WindowDetector], Traffic]


def maker(tasks: Mapping[str, str], checks: Iterable[Check], encode: Decode | None = None, pool: Pool | None = None) -> Make:
    """What gives each check its rows. `tasks`: by model; `checks`: all there are, since some read the scores of others;
    `encode` makes vectors of texts; in `pool` are the rows that several checks read."""
    every = tuple(checks)
    together = _together(tasks, every) if pool is not None else {}

    def make(check: Check, detector: WindowDetector) -> Traffic:
        """
        Raises:
            ValueError: the detector reads what rows of this model do not have.
        """
        fields = Slices(check.slices).fields
        sample_rows = getattr(detector, "sample_rows", None)
        if tasks.get(check.model) != "llm":
            inputs = together.get((check.model, check.window_seconds))
            shared = Shared(pool, timedelta(seconds=check.window_seconds), inputs) if pool and inputs else None
            held = HELD_BYTES if getattr(detector, "column_by_column", False) else None
            return Predictions(check.model, detector.inputs, check.columns, fields, sample_rows, shared, held)
        every_call = bool(getattr(detector, "every_call", False))
        found = answers.scored(every, check.model)
        return answers.Answers(
            check.model,
            detector.inputs,
            check.columns,
            found,
            every_call=every_call,
            fields=fields,
            encode=encode,
            sample_rows=sample_rows,
        )

    return make


def _together(tasks: Mapping[str, str], checks: Iterable[Check]) -> dict[tuple[str, int], frozenset[str]]:
    """What the checks of a model with windows of one length read, where there are several."""
    found: dict[tuple[str, int], list[frozenset[str]]] = {}
    for check in checks:
        detector = registry.load(check.detector)
        if tasks.get(check.model) != "llm" and registry.is_window(detector):
            made = detector(check.settings)  # type: ignore[call-arg]
            own = Predictions(check.model, made.inputs, check.columns, Slices(check.slices).fields)
            if getattr(made, "sample_rows", None) is None:
                found.setdefault((check.model, check.window_seconds), []).append(own.inputs)
    return {key: frozenset().union(*inputs) for key, inputs in found.items() if len(inputs) > 1}


def alike(check: Check, now: Iterable[Check], before: Iterable[Check]) -> bool:
    """Whether a check reads the same under both sets of checks: a window may hold the scores of others."""
    if registry.is_row(registry.load(check.detector)):
        return True
    return answers.scored(now, check.model) == answers.scored(before, check.model)
