"""Windows over the store: which slots an instant belongs to, and the rows between two times as a detector sees them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from detectors.contract import Categories, ColumnKind, FloatArray, Frame, NotEvaluable
from monitor.clock import EPOCH, MICROSECOND
from monitor.embeddings import Decode, Vectors, sent
from monitor.errors import StoreUnavailable
from monitor.keys import Places
from monitor.lazytable import LazyTable
from monitor.reader import Reader, literal
from monitor.schema import FEATURE, quote

SENT_VECTOR = "embedding"
VECTOR = "json_extract_string(p.extra, '$.embedding')"  # of a list its JSON, of null none
LABELLED = ("prediction", "probability", "probabilities", "label")
LOOKED_UP = 50_000  # for a larger window the segments are read rather than looked into
CLOCKS_DIFFER = timedelta(days=1)  # how far ahead of ours a sender's clock may be, a wrong time zone included


def slots_of(when: datetime, every: int, window: int) -> Iterator[datetime]:
    """The slots whose windows hold `when`: a slot s covers [s - window, s), slots are multiples of `every`.

    >>> from datetime import UTC
    >>> [s.hour for s in slots_of(datetime(2026, 3, 1, 10, 30, tzinfo=UTC), 3600, 7200)]
    [11, 12]
    """
    step = every * 1_000_000
    first = ((when - EPOCH) // MICROSECOND // step + 1) * step
    for n in range(math.ceil(window / every)):
        slot = EPOCH + timedelta(microseconds=first + n * step)
        if slot - timedelta(seconds=window) <= when:
            yield slot


@dataclass(frozen=True, slots=True)
class TableWindow:
    """A `detectors.contract.Window` over an Arrow table. Column names are the features' own, without prefix. `name` says what a
    reference is, for the reading that is stored."""

    table: Any  # an Arrow table, or a `LazyTable`
    features: Mapping[str, ColumnKind]
    name: str = ""
    decoders: Mapping[str, Decode] = field(default_factory=dict)  # of columns that hold vectors, or texts to make them of

    @property
    def rows(self) -> int:
        return self.table.num_rows  # type: ignore[no-any-return]

    def has(self, column: str) -> bool:
        return column in self.table.column_names

    def numbers(self, column: str) -> FloatArray:
        values = self._column(column)
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_null(values.type)):
            raise NotEvaluable("not_numeric", f"column {column!r} is {values.type}")
        return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)

    def categories(self, column: str) -> Categories:
        values = self._column(column)
        if not pa.types.is_string(values.type):
            return Frame({column: self.numbers(column)}).categories(column)
        encoded = pc.dictionary_encode(values.combine_chunks())
        names = encoded.dictionary.to_pylist()
        # Sorted names, so that the codes do not depend on which row came first.
        order = np.argsort(np.array(names, dtype=object)) if names else np.zeros(0, dtype=np.int64)
        rank = np.empty(len(names) + 1, dtype=np.int32)
        rank[order] = np.arange(len(names), dtype=np.int32)
        rank[-1] = -1
        codes = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
        return Categories(rank[codes], tuple(names[i] for i in order))

    def renamed(self, columns: Mapping[str, str]) -> TableWindow:
        """With each of these names standing for the column it is mapped to, where that is there."""
        table = self.table
        for name, other in columns.items():
            if other in table.column_names and name != other:
                if name in table.column_names:
                    table = table.drop_columns([name])
                lazy = isinstance(table, LazyTable)
                table = table.with_alias(name, other) if lazy else table.append_column(name, table[other])
        if table is self.table:
            return self
        moved = {name: self.decoders[other] for name, other in columns.items() if other in self.decoders}
        return TableWindow(table, self.features, decoders={**self.decoders, **moved})

    def rows_where(self, mask: pa.ChunkedArray) -> TableWindow:
        return TableWindow(self.table.filter(mask), self.features, decoders=self.decoders)

    def without(self, columns: Collection[str]) -> TableWindow:
        """Less these columns, where they are there."""
        found = [name for name in columns if name in self.table.column_names]
        if not found:
            return self
        # Arrow counts the rows of a table by its columns.
        if len(found) == len(self.table.column_names):
            found = found[1:]
        features = {f: k for f, k in self.features.items() if f not in columns}
        return TableWindow(self.table.drop_columns(found), features, decoders=self.decoders)

    def followed_by(self, other: TableWindow) -> TableWindow:
        """The rows of both, in this order. A column of numbers here and of text there becomes text."""
        tables = [self.table, other.table]
        features = {**self.features, **other.features}
        if any(isinstance(table, LazyTable) for table in tables):
            first, second = (LazyTable.of(table) for table in tables)
            return TableWindow(first.followed_by(second), features, decoders=self.decoders)
        for name in set(self.table.column_names) & set(other.table.column_names):
            types = {table[name].type for table in tables if not pa.types.is_null(table[name].type)}
            if len(types) > 1:
                tables = [t.set_column(t.column_names.index(name), name, t[name].cast(pa.string())) for t in tables]
        return TableWindow(pa.concat_tables(tables, promote_options="default"), features, decoders=self.decoders)

    def vectors(self, column: str) -> Vectors:
        """As `detectors.contract.vectors_of` says.

        Raises:
            ChildFailed: the scorer, which makes them of texts, is away.
        """
        values = self._column(column)
        if (decode := self.decoders.get(column)) is None:
            raise NotEvaluable("not_numeric", f"column {column!r} is not of vectors")
        return decode(values.to_pylist())

    def frame(self) -> Frame:
        """A copy without Arrow, to send to another process."""
        columns: dict[str, Any] = {}
        for name in self.table.column_names:
            if name in self.decoders:
                columns[name] = self.vectors(name)
                continue
            text = pa.types.is_string(self.table[name].type)
            columns[name] = np.array(self.table[name].to_pylist(), dtype=object) if text else self.numbers(name)
        return Frame(columns, features=self.features)

    def _column(self, column: str) -> pa.ChunkedArray:
        if not self.has(column):
            raise NotEvaluable("missing_column", f"no column {column!r}; there are {', '.join(self.table.column_names)}")
        return self.table[column]


def predictions(
    reader: Reader,
    model: str,
    start: datetime,
    end: datetime,
    features: Mapping[str, ColumnKind],
    inputs: frozenset[str],
    sample_rows: int | None = None,
) -> TableWindow:
    """Predictions with event time in [start, end), with what `inputs` names: features, prediction, probability, label,
    probabilities as the JSON they came in, model_version, attributes.KEY, which is a field that was sent with them, and
    embedding, a vector that was. `sample_rows`: of those with a vector, so many, chosen by their ids."""
    asked = _asked(reader, model, start, end, features, inputs)
    columns = [f"{expression} AS {quote(name)}" for name, expression in asked.columns.items()]
    table = reader.table(
        f"SELECT {', '.join(columns) or 'p.seq'} FROM {asked.rows} {asked.labels} WHERE {WITHIN} "
        f"{_of_sample(VECTOR, sample_rows if asked.of_vectors else None)}{IN_TIME}",
        [start, end],
    )
    return TableWindow(_numbers_where_possible(table), asked.chosen, decoders=asked.decoders)


def column_by_column(
    reader: Reader, model: str, start: datetime, end: datetime, features: Mapping[str, ColumnKind], inputs: frozenset[str]
) -> TableWindow:
    """The same rows and columns, each column read when it is asked for and not kept. Good as long as the reader is."""
    asked = _asked(reader, model, start, end, features, inputs)
    where = f"WHERE {WITHIN}"
    wanted = reader.table(f"SELECT p.seq AS seq FROM {asked.rows} {where} {IN_TIME}", [start, end])["seq"].to_numpy()
    order = _Order(wanted)

    def fetch(name: str) -> pa.ChunkedArray:
        labels = asked.labels if name == "label" else ""
        sql = f"SELECT p.seq AS seq, {asked.columns[name]} AS found FROM {asked.rows} {labels} {where}"
        try:
            found = reader.table(sql, [start, end])
        except duckdb.Error as exc:  # a detector asks, and it is no fault of its own
            raise StoreUnavailable(f"a column of the window could not be read: {exc}") from exc
        column = order.of(found["seq"].to_numpy(), found["found"])
        return _number_where_possible(column) if name in ("prediction", "label") else column

    columns = {name: partial(fetch, name) for name in asked.columns}
    return TableWindow(LazyTable(columns, len(wanted)), asked.chosen, decoders=asked.decoders)


def count(reader: Reader, model: str, start: datetime, end: datetime) -> int:
    """Of the predictions with event time in [start, end)."""
    rows = reader.source("predictions", model, since=start, until=end)
    return int(reader.query(f"SELECT count(*) AS n FROM {rows} p WHERE {WITHIN}", [start, end])[0]["n"])


class _Order:
    """Puts columns that come as the store lays them into the order of time. Rows are told apart by their seq."""

    def __init__(self, wanted: NDArray[np.int64]) -> None:
        self._wanted = wanted
        self._scanned: NDArray[np.int64] | None = None
        self._places: NDArray[np.int64] | None = None

    def of(self, scanned: NDArray[np.int64], column: pa.ChunkedArray) -> pa.ChunkedArray:
        # The next scan nearly always gives the same order, which is then known.
        if self._scanned is None or not np.array_equal(scanned, self._scanned):
            self._scanned, self._places = scanned, None
            if not np.array_equal(scanned, self._wanted):
                by_seq = np.argsort(scanned, kind="stable")
                self._places = by_seq[np.searchsorted(scanned, self._wanted, sorter=by_seq)]
        return column if self._places is None else column.take(pa.array(self._places))


class _Asked(NamedTuple):
    """SQL of what is read: the rows (as `p`), the join that gives them labels, and an expression for each column."""

    chosen: dict[str, ColumnKind]
    rows: str
    labels: str
    columns: dict[str, str]
    of_vectors: bool

    @property
    def decoders(self) -> dict[str, Decode]:
        return {SENT_VECTOR: sent} if self.of_vectors else {}


WITHIN = "p.event_time >= ? AND p.event_time < ?"
IN_TIME = "ORDER BY p.event_time, p.record_id"


def _asked(
    reader: Reader, model: str, start: datetime, end: datetime, features: Mapping[str, ColumnKind], inputs: frozenset[str]
) -> _Asked:
    chosen = chosen_of(features, inputs)
    columns = {f: f"p.{quote(FEATURE + f)}" for f in chosen}
    if _judged(inputs):
        columns |= {"prediction": "coalesce(p.prediction::VARCHAR, p.prediction_text)", "probability": "p.probability"}
    if "probabilities" in inputs:
        columns["probabilities"] = "json_extract(p.extra, '$.probabilities')::VARCHAR"
    of_vectors = SENT_VECTOR in inputs and SENT_VECTOR not in chosen
    if of_vectors:
        columns[SENT_VECTOR] = VECTOR
    columns |= {name: expression for name in sorted(inputs - chosen.keys()) if (expression := _sent(name))}
    labels = ""
    if "label" in inputs:
        columns["label"] = "l.label"
        # A label is received after its prediction was made, so older segments of labels hold none of these.
        found = reader.source(
            "labels", model, received_since=start - CLOCKS_DIFFER, places=_label_places(reader, model, start, end)
        )
        labels = (
            "LEFT JOIN (SELECT record_id, arg_max(coalesce(label::VARCHAR, label_text), revision) AS label "
            f"FROM {found} GROUP BY record_id) l USING (record_id)"
        )
    return _Asked(chosen, f"{reader.source('predictions', model, since=start, until=end)} p", labels, columns, of_vectors)


def _judged(inputs: frozenset[str]) -> bool:
    return not inputs.isdisjoint(("prediction", "probability", "label"))


def chosen_of(features: Mapping[str, ColumnKind], inputs: frozenset[str]) -> dict[str, ColumnKind]:
    """The features among what is read."""
    wanted = ("features" in inputs or f in inputs or f.rpartition(".")[0] in inputs for f in features)  # vector.0, vector.1 ...
    # A column of that name is the model's own word where that is read, whatever a feature is called.
    judged = _judged(inputs)
    return {f: k for (f, k), w in zip(features.items(), wanted, strict=True) if w and not (judged and f in LABELLED)}


def narrowed(window: TableWindow, features: Mapping[str, ColumnKind], inputs: frozenset[str]) -> TableWindow:
    """What `predictions` gives for these inputs, of a window that was read for more."""
    chosen = chosen_of(features, inputs)
    names = [*chosen, *(("prediction", "probability") if _judged(inputs) else ())]
    more = ("label", "probabilities", SENT_VECTOR)
    names += [name for name in inputs - chosen.keys() if name in more or _sent(name)]
    names = [name for name in dict.fromkeys(names) if window.has(name)]
    table = window.table.select(names or window.table.column_names[:1])
    return TableWindow(table, chosen, decoders={name: decode for name, decode in window.decoders.items() if name in names})


def _of_sample(expression: str, rows: int | None) -> str:
    """SQL that leaves rows which have this, and so many of them: by their ids, so that whoever looks again finds the same."""
    if rows is None:
        return ""
    return f"AND {expression} IS NOT NULL QUALIFY row_number() OVER (ORDER BY md5_number_lower(record_id)) <= {rows} "


def _sent(name: str) -> str | None:
    """SQL of a field of a prediction that is no feature, as text."""
    if name == "model_version":
        return "p.model_version"
    what, _, key = name.partition(".")
    if what != "attributes" or not key:
        return None
    return f"coalesce({', '.join(f'json_extract_string(p.extra, {literal(path)})' for path in _paths(key))})"


def _paths(key: str) -> tuple[str, str]:
    """Of a field, and of a feature that has no column."""
    return f"$.{quote(key)}", f"$.features.{quote(key)}"


def _label_places(reader: Reader, model: str, start: datetime, end: datetime) -> Places | None:
    """Where the labels of the window's predictions lie: of an old window in few of the many segments that came since."""
    hashes = reader.table(
        f"SELECT md5_number_lower(record_id) AS hash FROM {reader.source('predictions', model, since=start, until=end)} "
        "WHERE event_time >= ? AND event_time < ? LIMIT ?",
        [start, end, LOOKED_UP + 1],
    )["hash"]
    return None if len(hashes) > LOOKED_UP else reader.places("records", "labels", model, hashes.to_numpy())


def from_file(reader: Reader, path: Path, features: Mapping[str, ColumnKind], also: Collection[str] = frozenset()) -> TableWindow:
    """A reference the user brought: Parquet or CSV whose columns are named as the features and fields are. Others, like its
    ids and times, are no business of a detector's, but for those of `also`."""
    read = "read_parquet" if path.suffix == ".parquet" else "read_csv"
    table = reader.table(f"SELECT * FROM {read}({literal(str(path))})")
    chosen = {f: k for f, k in features.items() if f in table.column_names}
    casts = [
        (name, column.cast(pa.string()) if chosen.get(name) == "category" and not pa.types.is_string(column.type) else column)
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name in chosen or name in LABELLED or name in also
    ]
    return TableWindow(pa.table(dict(casts)), chosen)


def _numbers_where_possible(table: pa.Table) -> pa.Table:
    """Predictions and labels are numbers or classes; a column that is all numbers is one."""
    for name in ("prediction", "label"):
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, _number_where_possible(table[name]))
    return table


def _number_where_possible(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        return column  # classes with names
