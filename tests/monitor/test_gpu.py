"""What the driver says of the GPUs, by a small one of our own with the names of NVIDIA's."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from monitor.gpu import Gpus, driver
from tests.monitor.support import FakeClock

GIB = 2**30


class NVMLError(Exception):
    """As theirs is called."""


@dataclass
class Nvml:
    """Two GPUs; the second is a slice that knows nothing of utilisation."""

    NVMLError = NVMLError
    count: int = 2
    fails: bool = False
    begins: bool = True
    processes: list[Any] = field(default_factory=lambda: [(1, 2 * GIB), (7, GIB), (99, 30 * GIB)])

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.begins:
            raise NVMLError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if self.fails:
            raise NVMLError("lost")
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=80 * GIB, used=(handle + 1) * 10 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=p, usedGpuMemory=m) for p, m in self.processes] if handle == 0 else []

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle == 1:
            raise NVMLError("not supported")
        return SimpleNamespace(gpu=43)


def page(gpus: Gpus) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(gpus)
    return {(s.name.removeprefix("modelwatch_gpu_"), s.labels["gpu"]): s.value for f in registry.collect() for s in f.samples}


def test_each_gpu_shows_its_memory_what_of_it_is_ours_and_how_busy_it_is(clock: FakeClock) -> None:
    gpus = Gpus(Nvml(), lambda: {1, 7}, clock=clock)
    assert page(gpus) == {}
    gpus.look()
    assert page(gpus) == {
        ("memory_total_bytes", "0"): 80 * GIB,
        ("memory_used_bytes", "0"): 10 * GIB,
        ("process_memory_bytes", "0"): 3 * GIB,
        ("utilisation_ratio", "0"): 0.43,
        ("memory_total_bytes", "1"): 80 * GIB,
        ("memory_used_bytes", "1"): 20 * GIB,
        ("process_memory_bytes", "1"): 0,
    }


def test_memory_that_the_driver_keeps_to_itself_is_absent_and_not_0(clock: FakeClock) -> None:
    gpus = Gpus(Nvml(processes=[(1, None)]), lambda: {1}, clock=clock)
    gpus.look()
    assert ("process_memory_bytes", "0") not in page(gpus)
    assert page(gpus)["memory_used_bytes", "0"] == 10 * GIB


def test_a_driver_that_fails_is_asked_again_and_what_it_said_long_ago_is_not_shown(clock: FakeClock) -> None:
    nvml = Nvml()
    gpus = Gpus(nvml, lambda: (), clock=clock)
    gpus.look()
    nvml.fails = True
    clock.move(30)
    gpus.look()
    assert page(gpus)
    clock.move(31)
    assert page(gpus) == {}
    nvml.fails = False
    gpus.look()
    assert page(gpus)


def test_a_driver_that_hangs_keeps_no_scrape_and_no_stop_waiting(clock: FakeClock) -> None:
    go, asked = threading.Event(), threading.Event()

    class Hanging(Nvml):
        def nvmlDeviceGetCount(self) -> int:  # noqa: N802
            asked.set()
            go.wait(20)
            return 0

    gpus = Gpus(Hanging(), lambda: (), clock=clock)
    gpus.start()
    assert asked.wait(10)
    assert page(gpus) == {}
    gpus.stop()
    assert not go.is_set()
    go.set()


def test_without_library_driver_or_gpu_there_is_nothing() -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    assert driver(missing) is None
    assert driver(lambda name: Nvml(begins=False)) is None
    assert driver(lambda name: Nvml(count=0)) is None
    nvml = Nvml()
    assert driver(lambda name: nvml) is nvml
