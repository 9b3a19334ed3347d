"""Time and memory that a piece of work may take, inside the process that does it. What passes them is called off; the process
stays, unless the work does not listen: for that its owner has a longer patience (`child.Child.call`)."""

from __future__ import annotations

import contextlib
import math
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

STATUS = Path("/proc/self/status")


class TooLong(Exception):
    """The work was called off when its time was over."""


@contextlib.contextmanager
def limited(seconds: float | None, memory_bytes: int | None) -> Iterator[None]:
    """
    Raises:
        TooLong: `seconds` of the wall clock have passed. Only the main thread can be called off.
        MemoryError: more than `memory_bytes` were asked for, beyond what the process has at the beginning.
    """
    with _alarm(seconds), _ceiling(memory_bytes):
        yield


@contextlib.contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(signum: int, frame: FrameType | None) -> None:
        raise TooLong(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _ceiling(memory_bytes: int | None) -> Iterator[None]:
    taken = data_bytes() if memory_bytes is not None else None
    if memory_bytes is None or taken is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = taken + memory_bytes
    limit = min(wanted, *(one for one in (soft, hard) if one != resource.RLIM_INFINITY), wanted)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def allow_processor(seconds: float) -> None:
    """Have the kernel end this process (SIGXCPU) once it has computed for `seconds` from now, a second more at most, whatever it
    is in the middle of. Time in which others have the processor does not count. Replaces what was allowed before."""
    soft, hard = math.ceil(time.process_time() + seconds), resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # what it holds is not for a disk


def data_bytes() -> int | None:
    """What counts against RLIMIT_DATA: private memory that can be written to. None where the kernel does not say."""
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), None)
