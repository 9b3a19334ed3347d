"""Finds a source by its type: shipped ones, entry points of the group `modelwatch.sources`, or "module:Class"."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from monitor.config import SourceConfig
from monitor.sources.contract import Source

SHIPPED = {
    "follow": "monitor.sources.follow:FollowSource",
    "folder": "monitor.sources.folder:FolderSource",
    "kafka": "monitor.sources.kafka:KafkaSource",
    "mlflow": "monitor.sources.mlflow:MlflowSource",
}
GROUP = "modelwatch.sources"


class UnknownSource(LookupError):
    """No source of that type, or what the name points to is none. The message says what there is."""


def names() -> list[str]:
    """Every type that `load` knows without a "module:Class"."""
    return sorted({*SHIPPED, *(e.name for e in entry_points(group=GROUP))})


def load(name: str) -> type[Source]:
    """The class of the sources of type `name`. Imports its module.

    Raises:
        UnknownSource: see there.
    """
    # Entry points last: finding them reads the metadata of everything that is installed.
    target = SHIPPED.get(name) or (name if ":" in name else None)
    target = target or next((e.value for e in entry_points(group=GROUP, name=name)), None)
    if target is None:
        raise UnknownSource(f"no source {name!r}; there are {', '.join(names())}, or name one as module:Class")
    module, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as exc:  # whatever the module of a plug-in raises while it is imported
        raise UnknownSource(f"source {name!r}: cannot load {target}: {exc}") from exc
    missing = [a for a in ("Config", "start", "stop") if not hasattr(found, a)]
    if missing:
        raise UnknownSource(f"source {name!r}: {target} has no {', '.join(missing)}")
    if not issubclass(found.Config, SourceConfig):
        raise UnknownSource(f"source {name!r}: {target}.Config must be a monitor.config.SourceConfig")
    return found  # type: ignore[no-any-return]
