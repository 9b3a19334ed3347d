"""Classes found by name: shipped ones, entry points of a group, or "module:Class"."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any


@dataclass(frozen=True, slots=True)
class Plugins:
    """Of one kind. `what` it is called in messages; `shipped`: name -> "module:Class"; `unknown` is raised with the reason."""

    what: str
    group: str
    shipped: Mapping[str, str]
    unknown: type[LookupError]

    def names(self) -> list[str]:
        """Every name that `find` knows without a "module:Class"."""
        return sorted({*self.shipped, *(e.name for e in entry_points(group=self.group))})

    def find(self, name: str) -> tuple[Any, str]:
        """What the name points to, and how a message about it begins. Imports its module.

        Raises:
            self.unknown: there is nothing of that name, or it cannot be imported.
        """
        # Entry points last: finding them reads the metadata of everything that is installed.
        target = self.shipped.get(name) or (name if ":" in name else None)
        target = target or next((e.value for e in entry_points(group=self.group, name=name)), None)
        if target is None:
            there = ", ".join(self.names())
            raise self.unknown(f"no {self.what} {name!r}; there are {there}, or name one as module:Class")
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute), f"{self.what} {name!r}: {target}"
        except Exception as exc:  # whatever the module of a plug-in raises while it is imported
            raise self.unknown(f"{self.what} {name!r}: cannot load {target}: {exc}") from exc
