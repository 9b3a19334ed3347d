"""What a feature is, and which features have a column: the first record stored with one decides, on the writer thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from monitor.config import ModelConfig
from monitor.fields import Rejected, columnable
from monitor.records import Reject, Rows, same_kind

if TYPE_CHECKING:
    from monitor.transaction import Transaction


class FeatureKinds:
    """Of the models of one config. Any thread may ask."""

    def __init__(self, columns_of: Callable[[str], Mapping[str, str]], models: Mapping[str, ModelConfig]) -> None:
        """`columns_of`: model -> features that have a column, name -> kind."""
        self._columns_of = columns_of
        self._models = models
        self._lower: dict[str, tuple[Mapping[str, str], frozenset[str]]] = {}  # by model: columns, and their names

    def kind_of(self, model: str, feature: str, seen: str) -> str | None:
        """What a feature is; one without a column is what it looks like, until the writer decides."""
        columns = self._columns_of(model)
        if (known := columns.get(feature)) is not None:
            return known  # a column keeps its type, whatever a later config says
        if columns and feature.lower() in self._taken(model, columns):
            return None  # DuckDB's column names differ in more than case or not at all
        if (declared := self._models[model].features) is not None:
            return declared.get(feature)
        return seen if len(columns) < self._models[model].max_features and columnable(feature) else None

    def _taken(self, model: str, columns: Mapping[str, str]) -> frozenset[str]:
        found = self._lower.get(model)
        if found is None or found[0] is not columns:
            found = self._lower[model] = columns, frozenset(map(str.lower, columns))
        return found[1]


class FeatureColumns:
    """Of the models of one config. Belongs to the writer."""

    def __init__(self, models: Mapping[str, ModelConfig]) -> None:
        self._models = models

    def settle(
        self, transaction: Transaction, model: str, rows: Rows, new: Sequence[int], items: Sequence[Any]
    ) -> tuple[list[int], list[Reject]]:
        """Decide on features that have no column yet, and return the places that stay and what was refused. What gets no
        column moves to `extra`."""
        kinds = dict(transaction.feature_columns(model))
        config = self._models.get(model)  # gone when a reload removed it while the batch was in hand
        limit = 0 if config is None else config.max_features if config.features is None else len(kinds) + len(config.features)
        stay, refused = [], []
        for i in new:
            item = items[rows.index[i]]
            try:
                fresh, spare = _fit(rows.features[i], item.get("features", {}), kinds, limit)
            except Rejected as exc:
                refused.append(Reject(rows.index[i], exc.reason, str(exc), rows.columns["record_id"][i], item))
                continue
            kinds |= fresh
            stay.append(i)
            if spare:
                extra = orjson.loads(rows.columns["extra"][i] or "{}")
                extra.setdefault("features", {}).update({name: item["features"][name] for name in spare})
                rows.columns["extra"][i] = orjson.dumps(extra).decode()
                rows.features[i] = {n: v for n, v in rows.features[i].items() if n not in spare}
        transaction.add_features(model, kinds)
        return stay, refused


def _fit(
    features: Mapping[str, Any], sent: Mapping[str, Any], kinds: Mapping[str, str], limit: int
) -> tuple[dict[str, str], set[str]]:
    """The columns that a record's features begin, and the features that get none."""
    taken = {f.lower() for f in kinds}  # DuckDB's column names differ in more than case or not at all
    fresh: dict[str, str] = {}
    spare: set[str] = set()
    for name, value in features.items():
        kind = "number" if isinstance(value, float) else "category"
        if (has := kinds.get(name)) is not None:
            same_kind(name, sent.get(name, value), kind, has)
        elif len(taken) >= limit or name.lower() in taken:
            spare.add(name)
        else:
            fresh[name] = kind
            taken.add(name.lower())
    return fresh, spare
