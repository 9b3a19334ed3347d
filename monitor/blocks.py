"""Rows on their way from whoever parsed them to the writer: columns of Arrow, which cross a process border as one piece.

What the writer has to look at, value by value, comes out as Python's when it is asked for: most columns never do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from monitor.arrays import TIME, listed
from monitor.records import Parsed, Reject, Rows
from monitor.schema import ARROW, FEATURE, FEATURE_TYPE, KINDS

_INDEX, _KEY, _CONTENT = "#index", "#key", "#content"  # no column is called so


class Columns(Mapping[str, Sequence[Any]]):
    """Columns of one length, as lists for whoever reads one. Never changed."""

    def __init__(self, arrays: Mapping[str, pa.Array]) -> None:
        self.arrays = arrays
        self._lists: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        found = self._lists.get(name)
        if found is None:
            found = self._lists[name] = listed(self.arrays[name])
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def head(self, name: str) -> list[Any]:
        """The first value alone, where there are any."""
        return listed(self.arrays[name][:1]) if name in self.arrays else []

    def latest(self, name: str, most: datetime) -> datetime | None:
        """The latest time that is not beyond `most`."""
        column = self.arrays[name]
        found: datetime | None = pc.max(column.filter(pc.less_equal(column, pa.scalar(most, TIME)))).as_py()
        return found

    def take(self, places: Sequence[int]) -> Columns:
        """The rows in these places."""
        chosen = pa.array(places, pa.int64())
        return Columns({name: column.take(chosen) for name, column in self.arrays.items()})


@dataclass(slots=True)
class Block:
    """Good records of one kind and model, as `Rows`. `features`: the typed columns of predictions, by name in their table."""

    index: list[int]
    key: list[int]
    content: list[int]
    columns: Columns
    features: Columns
    kinds: frozenset[tuple[str, str]] = frozenset()
    contexts: list[list[dict[str, Any]]] = field(default_factory=list)

    def take(self, places: Sequence[int]) -> Block:
        """The rows in these places."""
        columns, features = self.columns.take(places), self.features.take(places)
        index, key, content = ([values[i] for i in places] for values in (self.index, self.key, self.content))
        contexts = [self.contexts[i] for i in places] if self.contexts else []
        return Block(index, key, content, columns, features, self.kinds, contexts)

    def __reduce__(self) -> tuple[Any, ...]:
        places = {_INDEX: (self.index, pa.int64()), _KEY: (self.key, pa.uint64()), _CONTENT: (self.content, pa.uint64())}
        arrays = {name: pa.array(values, kind) for name, (values, kind) in places.items()}
        arrays |= {**self.columns.arrays, **self.features.arrays}
        batch = pa.RecordBatch.from_arrays([*arrays.values()], [*arrays])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        return _unpacked, (sink.getvalue().to_pybytes(), self.kinds, self.contexts)


def _unpacked(data: bytes, kinds: frozenset[tuple[str, str]], contexts: list[list[dict[str, Any]]]) -> Block:
    batch = pa.ipc.open_stream(data).read_next_batch()  # over the bytes as they lie
    arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
    index, key, content = (arrays.pop(name).to_pylist() for name in (_INDEX, _KEY, _CONTENT))
    features = {name: arrays.pop(name) for name in [*arrays] if name.startswith(FEATURE)}
    return Block(index, key, content, Columns(arrays), Columns(features), kinds, contexts)


@dataclass(slots=True)
class Opened:
    """What a batch came to. `failed`: its body as a whole could not be read (HTTP status, reason, message). `masked`: values
    masked by kind, where whoever masked them could not count them."""

    kind: str
    received_at: datetime
    total: int
    blocks: dict[tuple[str, str], Block]
    rejects: list[Reject]
    ignored: int = 0
    failed: tuple[int, str, str] | None = None
    masked: dict[str, int] = field(default_factory=dict)
    marks: dict[int, dict[str, int]] = field(default_factory=dict)  # the same of each record, by its place


def packed(parsed: Parsed) -> Opened:
    blocks = {(kind, model): block(kind, rows) for (kind, model), rows in parsed.rows.items() if rows.index}
    return Opened(parsed.kind, parsed.received_at, parsed.total, blocks, parsed.rejects, parsed.ignored)


def block(kind: str, rows: Rows, features: Mapping[str, str] | None = None) -> Block:
    """`features`: those that have a column, where that is known for sure; name -> number or category."""
    arrays: dict[str, pa.Array] = {}
    if kind != "contexts":  # which are stored as the passages they hold
        types = {column.name: ARROW[column.type] for column in KINDS[kind].columns}
        arrays = {name: pa.array(values, types[name]) for name, values in rows.columns.items()}
    kinds = frozenset(rows.kinds)
    return Block(
        rows.index, rows.key, rows.content, Columns(arrays), Columns(_typed(rows, kinds, features)), kinds, rows.contexts
    )


def _typed(rows: Rows, kinds: frozenset[tuple[str, str]], features: Mapping[str, str] | None) -> dict[str, pa.Array]:
    """Empty where a feature is two things in one batch: then the writer decides record by record."""
    if features is not None:
        return typed(features, rows.features)
    by_name = dict(kinds)
    if len(by_name) < len(kinds) or not by_name:
        return {}
    return typed(by_name, rows.features)


def typed(kinds: Mapping[str, str], features: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array]:
    """The columns of the table, by name. `kinds`: feature -> number or category."""
    names = tuple(features[0]) if features else ()
    if all(tuple(one) == names for one in features):  # as nearly always: each record has the same features in the same order
        columns = zip(*(one.values() for one in features), strict=True)
        return {FEATURE + name: pa.array(values, _type(kinds[name])) for name, values in zip(names, columns, strict=True)}
    names = tuple(dict.fromkeys(name for one in features for name in one))
    return {FEATURE + name: pa.array([one.get(name) for one in features], _type(kinds[name])) for name in names}


def _type(kind: str) -> pa.DataType:
    return ARROW[FEATURE_TYPE[kind]]
