"""Ctrl-C as a flag that every wait looks at: nothing is cut in the middle, and whatever was started is known."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.05


class Stopped(Exception):
    """Somebody wants all of it to end."""


class Late(Exception):
    """What was waited for has not come."""


class Stop:
    """Set once, by a signal or a call, and looked at by any thread."""

    def __init__(self) -> None:
        # Not a threading.Event: its lock may be held by the very code that a signal interrupts.
        self._wanted = False

    def listen(self) -> None:
        """Have Ctrl-C, a closed terminal and SIGTERM set it."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._wanted = True

    def set(self) -> None:
        self._wanted = True

    def wait(self, seconds: float = math.inf) -> None:
        """Wait that long.

        Raises:
            Stopped: as soon as it is set.
        """
        until = time.monotonic() + seconds
        while True:
            if self._wanted:
                raise Stopped
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, LOOK_SECONDS))

    def wait_for(self, what: str, look: Callable[[], T | None], seconds: float) -> T:
        """The first thing that `look` gives that is not None or False.

        Raises:
            Late: it gave none in `seconds`. The message names `what`.
            Stopped: meanwhile.
        """
        deadline = time.monotonic() + seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                raise Late(f"{what}: not within {seconds:g} s")
            self.wait(LOOK_SECONDS)
        return found
