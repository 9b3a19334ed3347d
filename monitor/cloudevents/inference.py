"""What model servers are asked and what they answer: V1 (`instances`, `predictions`), V2 (`inputs`, `outputs`), Seldon's `data`,
SageMaker's JSON and CSV. One row of named features, or of named outputs, for each instance of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from monitor.sources.mapping import Columns, lookup

Row = dict[str, Any]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MISSING = frozenset({"", "nan", "null", "none", "na", "n/a"})


class NoInference(ValueError):
    """The payload is none of the protocols, or does not fit together. The text says how."""


def features(payload: Any, names: Sequence[str] = ()) -> list[Row]:
    """The features of each instance. `names`: of features that have none, in order; else they are f0, f1 and so on.

    Raises:
        NoInference: see there.
    """
    if isinstance(payload, Mapping):
        if isinstance(payload.get("inputs"), list):
            return _tensors(payload["inputs"], names)
        if isinstance(payload.get("instances"), list):
            return [_named(one, names, "f") for one in payload["instances"]]
        if (rows := _seldon(payload, names, "f")) is not None:
            return rows
    return _plain(payload, names, "f")


def outputs(payload: Any) -> list[Row]:
    """The outputs of each instance, by name: output, output_0 and so on where they have none.

    Raises:
        NoInference: see there.
    """
    if isinstance(payload, Mapping):
        if isinstance(payload.get("outputs"), list):
            return _tensors(payload["outputs"], ())
        if isinstance(payload.get("predictions"), list):
            return [_named(one, (), "output") for one in payload["predictions"]]
        if (rows := _seldon(payload, (), "output")) is not None:
            return rows
    return _plain(payload, (), "output")


def records(inputs: Sequence[Row], answers: Sequence[Row], columns: Columns, **fields: Any) -> list[dict[str, Any]]:
    """Predictions: one for each instance. Several of one request get the ids `id#0`, `id#1` and so on.

    `columns` names the outputs that are `prediction` and `probability`; else the prediction is the output there is, if there
    is one. `fields` are those all of them have, `record_id` among them.

    Raises:
        NoInference: there are not as many answers as questions.
    """
    if inputs and answers and len(inputs) != len(answers):
        raise NoInference(f"{len(inputs)} instances in the request and {len(answers)} in the response")
    found = []
    size = max(len(inputs), len(answers))
    for i in range(size):
        given = answers[i] if answers else {}
        record = {name: value for name, value in fields.items() if value is not None}
        if size > 1:
            record["record_id"] = f"{record['record_id']}#{i}"
        record["features"] = inputs[i] if inputs else {}
        for name in ("prediction", "probability"):
            if isinstance(column := columns.columns.get(name), str) and (value := lookup(given, column)) is not None:
                record[name] = value
        scalars = [v for v in given.values() if isinstance(v, (int, float, str))]
        if "prediction" not in record and "prediction" not in columns.columns and len(given) == len(scalars) == 1:
            record["prediction"] = scalars[0]
        if given and list(given.values()) != [record.get("prediction")]:
            record["outputs"] = given  # beside the record, for who wants to look
        found.append(record)
    return found


def cells(text: str) -> list[Any]:
    """The values of a line of CSV without quotes: numbers, text, None where missing.

    >>> cells("1,-2.5e3, Oslo,,nan")
    [1, -2500.0, 'Oslo', None, None]
    """
    return [cell(one.strip()) for one in text.split(",")]


def cell(text: str) -> Any:
    if text.lower() in _MISSING:
        return None
    if text.lower().lstrip("+-") in ("inf", "infinity"):
        return float(text)  # a number still, so that its column stays one; the record is refused
    if _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() and len(text) < 16 else float(text)
    return text


def _plain(payload: Any, names: Sequence[str], prefix: str) -> list[Row]:
    """A bare value, one instance, or a list of them."""
    if isinstance(payload, list):
        nested = any(isinstance(one, (list, dict)) for one in payload)
        return [_named(one, names, prefix) for one in payload] if nested else [_named(payload, names, prefix)]
    if payload is None:
        raise NoInference("the payload is empty")
    return [_named(payload, names, prefix)]


def _named(one: Any, names: Sequence[str], prefix: str) -> Row:
    if isinstance(one, Mapping):
        inner = one.get("features")  # as SageMaker's own algorithms are asked
        return _named(inner, names, prefix) if isinstance(inner, list) and len(one) == 1 else dict(one)
    values = _flat(one) if isinstance(one, list) else [one]
    return dict(zip(_names(len(values), names, prefix), values, strict=True))


def _names(size: int, names: Sequence[str], prefix: str) -> Sequence[str]:
    if names:
        if len(names) != size:
            raise NoInference(f"{size} values, and {len(names)} names for them: {', '.join(names[:10])}")
        return names
    if prefix == "output":
        return [prefix] if size == 1 else [f"{prefix}_{i}" for i in range(size)]
    return [f"{prefix}{i}" for i in range(size)]


def _flat(value: Any) -> list[Any]:
    return [v for one in value for v in _flat(one)] if isinstance(value, list) else [value]


def _seldon(payload: Mapping[str, Any], names: Sequence[str], prefix: str) -> list[Row] | None:
    data = payload.get("data")
    if not isinstance(data, Mapping):
        return None
    own = data.get("names")
    names = names or (own if isinstance(own, list) and all(isinstance(n, str) for n in own) else ())
    if isinstance(rows := data.get("ndarray"), list):
        return [_named(row, names, prefix) for row in rows]
    tensor = data.get("tensor")
    if isinstance(tensor, Mapping) and isinstance(tensor.get("values"), list):
        shape = tensor.get("shape") or [len(tensor["values"])]
        return [_named(row, names, prefix) for row in _rows(tensor["values"], shape, "data.tensor")]
    return None


def _tensors(tensors: Sequence[Any], names: Sequence[str]) -> list[Row]:
    """Tensors of V2: the first dimension is the instance; what lies beyond is that many values of it."""
    columns: list[tuple[str, list[list[Any]]]] = []
    for tensor in tensors:
        if not isinstance(tensor, Mapping) or not isinstance(tensor.get("data"), list):
            raise NoInference("a tensor without data; binary tensors are not logged in a readable form")
        name = str(tensor.get("name", "tensor"))
        values = _flat(tensor["data"])
        columns.append((name, _rows(values, tensor.get("shape") or [len(values)], name)))
    sizes = {len(rows) for _, rows in columns}
    if len(sizes) != 1:
        raise NoInference(f"tensors of different first dimensions: {', '.join(f'{n} {len(r)}' for n, r in columns)}")
    width = sum(len(rows[0]) for _, rows in columns if rows)
    own = [name if len(rows[0]) == 1 else f"{name}_{i}" for name, rows in columns if rows for i in range(len(rows[0]))]
    if names and set(names) == set(own):
        pass  # it says itself which is which, in whatever order
    elif names and len(names) == width:
        own = list(names)
    elif names:
        raise NoInference(f"{width} values, and {len(names)} names for them: {', '.join(names[:10])}")
    return [dict(zip(own, [v for _, rows in columns for v in rows[i]], strict=True)) for i in range(sizes.pop())]


def _rows(values: list[Any], shape: Sequence[Any], name: str) -> list[list[Any]]:
    if not shape or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise NoInference(f"{name}: {shape!r} is no shape")
    width = 1
    for n in shape[1:]:
        width *= n
    if shape[0] * width != len(values):
        raise NoInference(f"{name}: {len(values)} values do not fill the shape {list(shape)}")
    return [values[i * width : (i + 1) * width] for i in range(shape[0])]
