"""`python -m tests.faults.armed ARM... -- ARGUMENTS`: modelwatch with something prepared that goes wrong while it runs.

    point:NAME:N     kill -9 of itself when it passes a point of monitor.faultpoints for the Nth time
    file:BYTES       the kernel ends it in the middle of the first write that makes any file longer than that
    clock:FILE       its wall clock is off by the seconds that the file holds, whenever that changes

A program of its own, so that nothing in the daemon as it is shipped can be told to die.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from monitor import cli, faultpoints, log
from monitor.app import App
from monitor.clock import Clock, SystemClock


def die_at(name: str, number: int) -> Callable[[str], None]:
    lock, left = threading.Lock(), [number]

    def passed(point: str) -> None:
        if point != name:
            return
        with lock:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return passed


def die_beyond(size: int) -> None:
    """No file of ours may grow beyond `size` bytes. Python ignores the signal, so that such a write fails; given back its own
    way, it ends the process in the middle of the write, as a kill would."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


class WrongClock(SystemClock):
    """Off by what `file` says; the steady clock stays, as it does when somebody sets the time."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=float(self._file.read_text() or 0))


def arm(words: Sequence[str]) -> Clock | None:
    off: Clock | None = None
    for word in words:
        what, _, rest = word.partition(":")
        first, _, second = rest.partition(":")
        if what == "point":
            assert first in faultpoints.POINTS, first
            faultpoints.arm(die_at(first, int(second)))
        elif what == "file":
            die_beyond(int(first))
        elif what == "clock":
            off = WrongClock(Path(rest))
        else:
            raise SystemExit(f"{word}: nothing of that name can go wrong")
    return off


def main() -> None:
    end = sys.argv.index("--")
    off = arm(sys.argv[1:end])
    arguments = sys.argv[end + 1 :]
    if off is None:
        cli.main(arguments)
    # The command line has no use for another clock: the same steps, with one.
    command, config = arguments
    assert command == "run"
    signals = cli.Signals()
    log.configure()
    daemon = App(Path(config), clock=off)
    daemon.start()
    while signals.wait() == {signal.SIGHUP}:
        daemon.reload()
    daemon.stop()


if __name__ == "__main__":
    main()
