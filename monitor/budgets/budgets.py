"""Keeps in memory what was spent of each budget, and exports it; a scrape asks no store."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from detectors.contract import NotEvaluable
from monitor import log
from monitor.budgets.config import BudgetConfig, Period, Unit
from monitor.budgets.period import around
from monitor.budgets.spending import Spending, Spent
from monitor.clock import Clock
from monitor.errors import StoreError
from monitor.metrics import Spec
from monitor.store import Store

EVERY_SECONDS = 5.0

LABELS = ("model", "environment", "prompt", "period")

SPECS = {
    spec.name: spec
    for spec in (
        Spec("modelwatch_budget_limit_usd", "gauge", "What may be spent in the period", LABELS),
        Spec("modelwatch_budget_limit_tokens", "gauge", "Tokens that may be used in the period", LABELS),
        Spec("modelwatch_budget_spent_usd", "gauge", "Spent in the period so far, at the least", LABELS),
        Spec("modelwatch_budget_spent_tokens", "gauge", "Tokens used in the period so far, at the least", LABELS),
        Spec("modelwatch_budget_unknown_calls", "gauge", "Calls nobody knows the cost or tokens of", (*LABELS, "unit")),
        Spec("modelwatch_budget_period_start_timestamp_seconds", "gauge", "When the period began", LABELS),
        Spec("modelwatch_budget_period_end_timestamp_seconds", "gauge", "When the period ends", LABELS),
    )
}


@dataclass(frozen=True, slots=True)
class Standing:
    """One period of one budget. `spent` is None where rows it is made of cannot be read."""

    budget: BudgetConfig
    period: Period
    start: datetime
    end: datetime
    limits: dict[Unit, float]
    spent: Spent | None


class Budgets(Collector):
    """`step` brings the sums up to date, on one thread; `configure` and the exposition come from others."""

    def __init__(self, budgets: Sequence[BudgetConfig], store: Store, *, clock: Clock) -> None:
        self._budgets = tuple(budgets)
        self._store = store
        self._clock = clock
        self._spending: dict[str, Spending] = {}
        self._summed: tuple[BudgetConfig, ...] = ()  # those that `_spending` is for
        self._standings: tuple[Standing, ...] = ()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="budgets", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def configure(self, budgets: Sequence[BudgetConfig]) -> None:
        """From the next step on. What is no longer budgeted is not exported from now on."""
        self._budgets = tuple(budgets)
        self._standings = tuple(one for one in self._standings if one.budget in self._budgets)

    def standings(self) -> tuple[Standing, ...]:
        return self._standings

    def _run(self) -> None:
        failing = log.Lasting(self._clock.monotonic)
        while not self._stop.is_set():
            began = self._clock.monotonic()
            try:
                self.step()
                failing.over("budgets are summed again")
            except (StoreError, duckdb.Error) as exc:
                failing.warning("budgets wait for the store", error=exc)
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                log.error("summing budgets failed and is tried again", exc)
            # Where so many calls come that a look takes long, there are fewer of them: a tenth of the time at most.
            self._stop.wait(max(EVERY_SECONDS, 9 * (self._clock.monotonic() - began)))

    def step(self) -> None:
        """
        Raises:
            StoreError, duckdb.Error: the store is away; what was known stands.
        """
        budgets, now = self._budgets, self._clock.now()
        if budgets != self._summed:
            models = {b.model: [o for o in budgets if o.model == b.model] for b in budgets}
            self._spending = {model: Spending(model, of) for model, of in models.items()}
            self._summed = budgets
        periods = [(b, period, *around(now, period, b.timezone)) for b in budgets for period in _periods(b)]
        unreadable = set()
        for model, spending in self._spending.items():
            since = min(start for b, _, start, _ in periods if b.model == model)
            with self._store.read() as reader:
                try:
                    spending.look(reader, since)
                except NotEvaluable:  # a segment is damaged: a sum of the rest would look like any other
                    unreadable.add(model)
        found = tuple(
            Standing(
                budget,
                period,
                start,
                end,
                {unit: limit for (of, unit), limit in budget.limits.items() if of == period},
                None
                if budget.model in unreadable
                else self._spending[budget.model].between(start, end, budget.environment, budget.prompt),
            )
            for budget, period, start, end in periods
        )
        self._standings = tuple(one for one in found if one.budget in self._budgets)  # as of the last reload

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield from _empty().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families, now = _empty(), self._clock.now()
        for one in self._standings:
            if one.end <= now:  # the store is away, and what was spent of a day that is over is no news of today
                continue
            labels = (*one.budget.labels, one.period)
            families["modelwatch_budget_period_start_timestamp_seconds"].add_metric(labels, one.start.timestamp())
            families["modelwatch_budget_period_end_timestamp_seconds"].add_metric(labels, one.end.timestamp())
            for unit, limit in one.limits.items():
                families[f"modelwatch_budget_limit_{unit}"].add_metric(labels, limit)
                if one.spent is None:
                    continue
                spent, unknown = _of(one.spent, unit)
                families["modelwatch_budget_unknown_calls"].add_metric((*labels, unit), unknown)
                if spent is not None:
                    families[f"modelwatch_budget_spent_{unit}"].add_metric(labels, spent)
        yield from families.values()


def _of(spent: Spent, unit: Unit) -> tuple[float | None, int]:
    """What was spent, and of how many calls that is not known. None: of none of them it is, and to say 0 would be untrue."""
    value, unknown = (spent.usd, spent.unpriced) if unit == "usd" else (float(spent.tokens), spent.uncounted)
    return (None if value == 0 and unknown else value), unknown


def _periods(budget: BudgetConfig) -> list[Period]:
    return list(dict.fromkeys(period for period, _ in budget.limits))


def _empty() -> dict[str, GaugeMetricFamily]:
    return {name: GaugeMetricFamily(name, spec.about, labels=spec.labels) for name, spec in SPECS.items()}
