"""How two JSON values differ, in lines that a person reads: where, what is there, what is wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = 120  # characters of a value
NOTHING = object()


def differences(there: Any, wanted: Any, where: str = "") -> Iterator[str]:
    """What has to change for `wanted` to be there. What only is there is left out: Grafana adds defaults of its own.

    Items of a list that have a title or a name are told by it.

    >>> list(differences({"a": 1, "more": 0, "panels": [{"title": "x", "y": 1}]}, {"a": 2, "panels": [{"title": "x", "y": 2}]}))
    ['a: 1 -> 2', 'panels[x].y: 1 -> 2']
    """
    if isinstance(there, Mapping) and isinstance(wanted, Mapping):
        for key, value in wanted.items():
            yield from differences(there.get(key, NOTHING), value, f"{where}.{key}" if where else str(key))
    elif isinstance(there, list) and isinstance(wanted, list) and _named(there) and _named(wanted):
        olds, news = _by_name(there), _by_name(wanted)
        yield from (f"{where}[{name}]: is removed" for name in olds if name not in news)
        for name, value in news.items():
            if name not in olds:
                yield f"{where}[{name}]: is added"
            else:
                yield from differences(olds[name], value, f"{where}[{name}]")
        if olds.keys() == news.keys() and list(olds) != list(news):
            yield f"{where}: in another order"
    elif isinstance(there, list) and isinstance(wanted, list) and len(there) == len(wanted):
        for i, (old, new) in enumerate(zip(there, wanted, strict=True)):
            yield from differences(old, new, f"{where}[{i}]")
    elif not _equal(there, wanted):
        yield f"{where}: {_shown(there)} -> {_shown(wanted)}"


def _equal(there: Any, wanted: Any) -> bool:
    """In JSON 1 and 1.0 are one number, and true is none."""
    if isinstance(there, bool) or isinstance(wanted, bool):
        return there is wanted
    return bool(there == wanted)


def _named(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, Mapping) and _name(item) for item in items)


def _name(item: Mapping[str, Any]) -> str:
    return str(item.get("title") or item.get("name") or item.get("refId") or "")


def _by_name(items: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        name, n = _name(item), 1
        while name in found:
            n += 1
            name = f"{_name(item)} {n}"
        found[name] = item
    return found


def _shown(value: Any) -> str:
    if value is NOTHING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
