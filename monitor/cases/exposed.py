"""What a scrape sees of cases and of maintenance, from memory. Of a model without an open case there is no series: a 0 that a
restart shows for a moment would resolve a page that is true, and so would a gauge that is taken away and put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from monitor.clock import Clock
from monitor.maintenance.book import Book
from monitor.metrics import Spec

SPECS = {
    s.name: s
    for s in (
        Spec("modelwatch_case_open", "gauge", "1 while a case is open and not held back", ("model", "severity", "owner")),
        Spec("modelwatch_case_held", "gauge", "1 while maintenance holds the page of a case back, else 0", ("model",)),
        Spec("modelwatch_maintenance_active", "gauge", "1 while such a window is in force", ("model", "kind")),
        Spec("modelwatch_freeze_violations", "gauge", "Deployments during the freeze in force", ("model",)),
        Spec("modelwatch_external_url_info", "gauge", "What links begin with, always 1", ("url",)),
    )
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What the page of a model's open case names."""

    severity: str
    owner: str


class CaseBoard(Collector):
    """The keeper puts, the exposition collects. There is at most one open case of a model: one that is open takes in whatever
    opens after it."""

    def __init__(self, book: Book, *, clock: Clock, violations: Callable[[str, datetime], int], url: str) -> None:
        """`violations`: how many a model has in the freeze that is in force at a time."""
        self._book = book
        self._clock = clock
        self._violations = violations
        self._lock = threading.Lock()
        self._open: dict[str, Standing] = {}
        self._held: set[str] = set()
        self._models: tuple[str, ...] = ()
        self.url = url

    def put(self, model: str, standing: Standing | None, *, held: bool = False) -> None:
        with self._lock:
            if standing is None:
                self._open.pop(model, None)
            else:
                self._open[model] = standing
            (self._held.add if held else self._held.discard)(model)

    def keep(self, models: Collection[str]) -> None:
        """The others are gone from the config, and so are their series."""
        with self._lock:
            self._models = tuple(models)
            self._open = {model: one for model, one in self._open.items() if model in models}
            self._held.intersection_update(models)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield from self._empty().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families, now = self._empty(), self._clock.now()
        with self._lock:
            opened, held, models = dict(self._open), set(self._held), self._models
        for model, one in sorted(opened.items()):
            families["modelwatch_case_open"].add_metric((model, one.severity, one.owner), 1.0)
        windows = self._book.in_force(now)  # once: there may be a thousand models
        for model in models:
            # Always there: by it a daemon that is up says that it has the word on this model.
            families["modelwatch_case_held"].add_metric((model,), float(model in held))
            kinds = {window.kind for window in windows if window.concerns(model)}
            for kind in sorted(kinds):
                families["modelwatch_maintenance_active"].add_metric((model, kind), 1.0)
            violations = self._violations(model, now) if "freeze" in kinds else 0
            families["modelwatch_freeze_violations"].add_metric((model,), violations)
        families["modelwatch_external_url_info"].add_metric((self.url,), 1.0)
        yield from families.values()

    @staticmethod
    def _empty() -> dict[str, GaugeMetricFamily]:
        return {name: GaugeMetricFamily(name, spec.about, labels=spec.labels) for name, spec in SPECS.items()}
