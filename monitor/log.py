"""One line per event, `key=value` after the message. Nothing is logged per record: that is counted."""

from __future__ import annotations

import logging
import sys
from typing import Any

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


def _line(message: str, keys: dict[str, Any]) -> str:
    # A newline inside a value would forge a second log line.
    return " ".join([message, *(f"{k}={str(v)!r}" if " " in str(v) or "\n" in str(v) else f"{k}={v}" for k, v in keys.items())])
