"""Finds a source by its type: shipped ones, entry points of the group `modelwatch.sources`, or "module:Class"."""

from __future__ import annotations

from detectors.plugins import Plugins
from monitor.config import SourceConfig
from monitor.sources.contract import Source

SHIPPED = {
    "follow": "monitor.sources.follow:FollowSource",
    "folder": "monitor.sources.folder:FolderSource",
    "kafka": "monitor.sources.kafka:KafkaSource",
    "mlflow": "monitor.sources.mlflow:MlflowSource",
}


class UnknownSource(LookupError):
    """No source of that type, or what the name points to is none. The message says what there is."""


PLUGINS = Plugins("source", "modelwatch.sources", SHIPPED, UnknownSource)


def names() -> list[str]:
    """Every type that `load` knows without a "module:Class"."""
    return PLUGINS.names()


def load(name: str) -> type[Source]:
    """The class of the sources of type `name`. Imports its module.

    Raises:
        UnknownSource: see there.
    """
    found, where = PLUGINS.find(name)
    missing = [a for a in ("Config", "start", "stop") if not hasattr(found, a)]
    if missing:
        raise UnknownSource(f"{where} has no {', '.join(missing)}")
    if not issubclass(found.Config, SourceConfig):
        raise UnknownSource(f"{where}.Config must be a monitor.config.SourceConfig")
    return found  # type: ignore[no-any-return]
