"""The machine a figure was measured on, and how much of it others were using meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psutil

SYNCS = 50
QUIET_LOOK_SECONDS = 2.0
QUIET_SHARE = 0.1


def describe(folder: Path) -> str:
    """One line: processor, cores, memory, what a sync costs in `folder`, and the versions that matter."""
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{_processor()}, {cores} cores, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}, "
        f"{_sync_milliseconds(folder):.2f} ms to sync 4 KiB; Python {platform.python_version()}, DuckDB {duckdb.__version__}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _sync_milliseconds(folder: Path) -> float:
    # A commit is a sync: figures from a disk that syncs in 0.05 ms say little about one that takes 5 ms.
    path = folder / "sync"
    with path.open("wb", buffering=0) as file:
        started = time.perf_counter()
        for _ in range(SYNCS):
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
        seconds = time.perf_counter() - started
    path.unlink()
    return seconds / SYNCS * 1000


@dataclass(frozen=True, slots=True)
class Usage:
    """Processor seconds so far: of the whole machine, and of us with every child that has ended."""

    at: float
    all: float
    ours: float

    @staticmethod
    def now() -> Usage:
        times = psutil.cpu_times()
        ours = sum(
            usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )
        return Usage(time.monotonic(), sum(times) - times.idle - getattr(times, "iowait", 0.0), ours)

    def others_since(self) -> tuple[float, float]:
        """Processor seconds that other programs took since then, and how long that was."""
        now = Usage.now()
        return max(0.0, (now.all - self.all) - (now.ours - self.ours)), now.at - self.at


def wait_for_quiet(seconds: float) -> None:
    """Until other programs keep less than a tenth of the cores busy, at most so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = Usage.now()
        time.sleep(QUIET_LOOK_SECONDS)
        if is_quiet(*before.others_since()):
            return


def is_quiet(taken: float, lasted: float) -> bool:
    return taken < lasted * len(os.sched_getaffinity(0)) * QUIET_SHARE
