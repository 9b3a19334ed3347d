"""The latest reading and verdict of each check, in memory, ready to be scraped. A scrape never asks the store.

Filled from the store before the first scrape is answered: a firing check that showed 0 after a restart would resolve a
page that is true. A check without a verdict yet has no series.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from detectors.contract import Part
from monitor.family import Spec, label
from monitor.thresholds import Rate

ERROR_METRICS = frozenset({"mae", "rmse", "mape", "smape", "bias", "log_loss", "brier", "ece"})
COVERAGE, ESTIMATED = "label_coverage", "estimated_"
RATIO_METRICS = frozenset(
    {
        "accuracy",
        "balanced_accuracy",
        "precision",
        "recall",
        "f1",
        "roc_auc",
        "r2",
        "flagged_ratio",
        "average_precision",
        "context_precision",
    }
)

RATES = {"nominal": "nominal", "achieved": "achieved", "lower": "achieved_lower", "upper": "achieved_upper"}
SPECS = {
    s.name: s
    for s in (
        Spec("modelwatch_reading", "gauge", "Latest reading of a check", ("model", "check", "detector", "slice")),
        Spec("modelwatch_reading_lower_bound", "gauge", "Lower end of its interval", ("model", "check", "slice")),
        Spec("modelwatch_reading_upper_bound", "gauge", "Upper end of its interval", ("model", "check", "slice")),
        Spec("modelwatch_threshold", "gauge", "Threshold in force", ("model", "check", "slice", "bound", "severity")),
        Spec("modelwatch_threshold_missing", "gauge", "1 where nothing can fire", ("model", "check", "slice", "reason")),
        Spec("modelwatch_false_alarm_ratio", "gauge", "Slots that fire by chance", ("model", "check", "slice", "kind")),
        Spec("modelwatch_slices", "gauge", "Slices of a check that have been read", ("model", "check")),
        Spec("modelwatch_firing", "gauge", "1 while the check fires", ("model", "check", "slice", "severity", "owner")),
        Spec("modelwatch_window_records", "gauge", "Rows compared", ("model", "check", "slice", "side")),
        Spec("modelwatch_window_end_timestamp_seconds", "gauge", "End of the window", ("model", "check", "slice")),
        Spec("modelwatch_feature_reading", "gauge", "Largest parts of it", ("model", "check", "slice", "feature")),
        Spec("modelwatch_features_not_shown", "gauge", "Parts beyond top_features", ("model", "check", "slice")),
        Spec("modelwatch_incidents_open", "gauge", "Open incidents", ("model", "check")),
        Spec("modelwatch_quality_ratio", "gauge", "Quality, 1 is best", ("model", "check", "slice", "metric")),
        Spec("modelwatch_quality_error", "gauge", "Error, 0 is best", ("model", "check", "slice", "metric")),
        Spec("modelwatch_quality_estimated_ratio", "gauge", "Quality to expect", ("model", "check", "slice", "metric")),
        Spec("modelwatch_quality_estimated_error", "gauge", "Error to expect", ("model", "check", "slice", "metric")),
        Spec("modelwatch_quality_label_coverage_ratio", "gauge", "Share labelled", ("model", "check", "slice")),
    )
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one (check, slice) stands: its latest verdict and, where there is one, its latest value."""

    model: str
    check: str
    slice: str
    detector: str
    severity: str
    slot: datetime | None  # None where nothing has been judged yet: a rule on single records
    firing: bool
    value: float | None = None
    interval: tuple[float | None, float | None] = (None, None)
    bounds: tuple[float | None, float | None] = (None, None)
    n_current: int = 0
    n_reference: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    open_incidents: int = 0
    missing: str | None = None  # why there is no threshold it could be judged by, as a word
    rate: Rate = field(default_factory=Rate)
    owner: str = ""


class Board(Collector):
    """All standings. The runner puts them, the exposition collects them."""

    def __init__(
        self, *, max_series: int, top_features: int, beyond: Callable[[str, int], None] = lambda metric, count: None
    ) -> None:
        """`beyond` is told of series that are left out: of which metric, and how many, at every scrape."""
        self._beyond = beyond
        self._lock = threading.Lock()
        self._standings: dict[tuple[str, str], Standing] = {}
        self._max_series = max_series
        self._top = top_features

    def put(self, standing: Standing) -> None:
        with self._lock:
            self._standings[standing.check, standing.slice] = standing

    def get(self, check: str, slice_name: str = "all") -> Standing | None:
        return self._standings.get((check, slice_name))

    def standings(self) -> list[Standing]:
        with self._lock:
            return sorted(self._standings.values(), key=lambda s: (s.model, s.check, s.slice))

    def forget(self, check: str) -> None:
        """The check is gone from the config, and so are its series."""
        with self._lock:
            self._standings = {k: s for k, s in self._standings.items() if k[0] != check}

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield from self._empty().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = self._empty()
        size = dict.fromkeys(families, 0)
        dropped: Counter[str] = Counter()

        def add(name: str, labels: tuple[str, ...], value: float | None) -> None:
            if value is None or math.isnan(value):
                return
            # Firing is exempt from the limit: a page must not depend on how many other checks there are.
            if size[name] >= self._max_series and name != "modelwatch_firing":
                dropped[name] += 1
                return
            size[name] += 1
            families[name].add_metric(labels, value)

        opened: Counter[tuple[str, str]] = Counter()
        read: Counter[tuple[str, str]] = Counter()
        for s in self.standings():
            key = (s.model, s.check, label(s.slice))
            add("modelwatch_firing", (*key, s.severity, s.owner), float(s.firing))
            add("modelwatch_reading", (s.model, s.check, s.detector, key[2]), s.value)
            add("modelwatch_reading_lower_bound", key, s.interval[0])
            add("modelwatch_reading_upper_bound", key, s.interval[1])
            for bound, value in zip(("lower", "upper"), s.bounds, strict=True):
                add("modelwatch_threshold", (*key, bound, s.severity), value)
            if s.missing is not None:
                add("modelwatch_threshold_missing", (*key, s.missing), 1.0)
            for kind in ("nominal", "achieved", "lower", "upper"):
                add("modelwatch_false_alarm_ratio", (*key, RATES[kind]), getattr(s.rate, kind))
            if s.slot is not None:
                add("modelwatch_window_records", (*key, "current"), s.n_current)
                add("modelwatch_window_end_timestamp_seconds", key, s.slot.timestamp())
            if s.n_reference:
                add("modelwatch_window_records", (*key, "reference"), s.n_reference)
            opened[s.model, s.check] += s.open_incidents
            read[s.model, s.check] += 1
            once: dict[str, Part] = {}
            for part in s.parts:
                once.setdefault(part.name, part)  # a series twice would spoil the page
            for part in islice(once.values(), self._top):
                add("modelwatch_feature_reading", (*key, label(part.name)), part.value)
            if once:
                add("modelwatch_features_not_shown", key, max(0, len(once) - self._top))
            for said, value in s.metrics.items():
                # What is expected has a name of its own, so that nobody averages it with what came true.
                kind, name = ("quality_estimated" if said.startswith(ESTIMATED) else "quality"), said.removeprefix(ESTIMATED)
                if said == COVERAGE:
                    add("modelwatch_quality_label_coverage_ratio", key, value)
                elif name in RATIO_METRICS:
                    add(f"modelwatch_{kind}_ratio", (*key, name), value)
                elif name in ERROR_METRICS:
                    add(f"modelwatch_{kind}_error", (*key, name), value)
        for check, count in opened.items():
            add("modelwatch_incidents_open", check, count)
        for check, count in read.items():
            add("modelwatch_slices", check, count)
        for name, count in dropped.items():
            self._beyond(name, count)
        yield from families.values()

    @staticmethod
    def _empty() -> dict[str, GaugeMetricFamily]:
        return {name: GaugeMetricFamily(name, spec.about, labels=spec.labels) for name, spec in SPECS.items()}
