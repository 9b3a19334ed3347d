"""What the GPUs do, and how much of their memory is ours: asked of NVIDIA's driver where there is one, by nvidia-ml-py.

The driver may take long to answer, or hang with its device, so a thread asks it and a scrape sees what was said last.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from monitor import log
from monitor.clock import Clock
from monitor.family import Spec

EVERY_SECONDS = 10.0
STALE_SECONDS = 60.0  # after so long without an answer nothing is known
STOP_SECONDS = 1.0

SPECS = {
    s.name: s
    for s in (
        Spec("modelwatch_gpu_memory_total_bytes", "gauge", "Memory of a GPU", ("gpu",)),
        Spec("modelwatch_gpu_memory_used_bytes", "gauge", "Memory in use, by whomever", ("gpu",)),
        Spec("modelwatch_gpu_process_memory_bytes", "gauge", "Memory in use by the daemon and its helpers", ("gpu",)),
        Spec("modelwatch_gpu_utilisation_ratio", "gauge", "Share of the time in which a kernel ran, of whomever", ("gpu",)),
    )
}


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one GPU. None: the driver does not say."""

    total: int
    used: int
    ours: int | None
    busy: float | None


def driver(load: Callable[[str], Any] = importlib.import_module) -> Any | None:
    """NVIDIA's library, begun; None where there is none, no driver or no GPU."""
    try:
        nvml = load("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        return nvml if nvml.nvmlDeviceGetCount() > 0 else None
    except nvml.NVMLError:
        return None


class Gpus(Collector):
    """From `start` to `stop`. `pids`: our processes, as the driver counts them; in a container it may count otherwise, and then
    none of the memory is known to be ours."""

    def __init__(self, nvml: Any, pids: Callable[[], Collection[int]], *, clock: Clock) -> None:
        self._nvml = nvml
        self._pids = pids
        self._clock = clock
        self._seen: dict[str, Seen] = {}
        self._seen_at = float("-inf")
        self._trouble = log.Lasting(clock.monotonic)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(EVERY_SECONDS)

    def look(self) -> None:
        """Ask the driver."""
        nvml, pids = self._nvml, frozenset(self._pids())
        try:
            found = {str(i): self._one(nvml.nvmlDeviceGetHandleByIndex(i), pids) for i in range(nvml.nvmlDeviceGetCount())}
        except nvml.NVMLError as exc:
            self._trouble.warning("the GPU's driver does not answer", error=exc)
            return
        self._trouble.over("the GPU's driver answers again")
        self._seen, self._seen_at = found, self._clock.monotonic()

    def _one(self, handle: Any, pids: Collection[int]) -> Seen:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        running = self._said(self._nvml.nvmlDeviceGetComputeRunningProcesses, handle)
        rates = self._said(self._nvml.nvmlDeviceGetUtilizationRates, handle)
        ours = None if running is None else [p.usedGpuMemory for p in running if p.pid in pids]
        known = ours is not None and None not in ours
        return Seen(
            int(memory.total),
            int(memory.used),
            sum(ours) if ours is not None and known else None,
            None if rates is None else min(max(rates.gpu / 100, 0.0), 1.0),
        )

    def _said(self, ask: Callable[[Any], Any], handle: Any) -> Any | None:
        """None where this device does not know it: a slice of one by MIG has no utilisation."""
        try:
            return ask(handle)
        except self._nvml.NVMLError:
            return None

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield from self._empty().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = self._empty()
        fresh = self._clock.monotonic() - self._seen_at <= STALE_SECONDS
        for gpu, seen in self._seen.items() if fresh else ():
            for name, value in zip(SPECS, (seen.total, seen.used, seen.ours, seen.busy), strict=True):
                if value is not None:
                    families[name].add_metric((gpu,), value)
        yield from families.values()

    @staticmethod
    def _empty() -> dict[str, GaugeMetricFamily]:
        return {name: GaugeMetricFamily(name, spec.about, labels=spec.labels) for name, spec in SPECS.items()}
