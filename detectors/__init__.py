"""Detectors: the maths of modelwatch, usable in a notebook without the daemon.

`detectors.compare(reference, current)` and `detectors.estimate(reference, analysis, task=...)` do in one line what the daemon's
checks do by window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectors.comparison import compare as compare
    from detectors.estimates import estimate as estimate

_AT = {"compare": "detectors.comparison", "estimate": "detectors.estimates"}


def __getattr__(name: str) -> Any:
    # On first use, since whoever wants one detector need not wait for all they import.
    if name not in _AT:
        raise AttributeError(f"module 'detectors' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_AT[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_AT})
