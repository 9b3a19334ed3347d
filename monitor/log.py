"""One line per event, `key=value` after the message. Nothing is logged per record: that is counted."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

REMINDER_SECONDS = 60.0

_logger = logging.getLogger("modelwatch")


def configure(level: str = "INFO") -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _logger.handlers[:] = [handler]
    _logger.setLevel(level)
    _logger.propagate = False
    # It warns of every waking that finds the last run still going; that is counted, and no fault.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def info(message: str, **keys: Any) -> None:
    _logger.info("%s", _line(message, keys))


def warning(message: str, **keys: Any) -> None:
    _logger.warning("%s", _line(message, keys))


def error(message: str, exc: BaseException | None = None, **keys: Any) -> None:
    _logger.error("%s", _line(message, keys), exc_info=exc)


class Lasting:
    """A trouble that is met again and again: a line when it begins, one a minute while it lasts, and one when it is over."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now`: seconds on a clock that is never set."""
        self._now = now
        self._told_at: dict[str, float] = {}
        self._open: set[str] = set()

    def warning(self, message: str, what: str = "", **keys: Any) -> None:
        """`what`: of several that may be in the same trouble, which."""
        now = self._now()
        if now - self._told_at.get(what, float("-inf")) >= REMINDER_SECONDS:
            self._told_at[what] = now
            self._open.add(what)
            warning(message, **keys)

    def over(self, message: str, what: str = "", **keys: Any) -> None:
        if what in self._open:
            self._open.discard(what)
            info(message, **keys)


def _line(message: str, keys: dict[str, Any]) -> str:
    # A newline inside a value would forge a second log line.
    return " ".join([message, *(f"{k}={str(v)!r}" if " " in str(v) or "\n" in str(v) else f"{k}={v}" for k, v in keys.items())])
