"""Every metric there is, whoever exports it: what the README documents and what rules and dashboards may ask for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from monitor import board, gpu
from monitor.budgets import budgets
from monitor.cases import exposed
from monitor.metrics import Metrics, Spec


def specs() -> dict[str, Spec]:
    """By name."""
    return {**Metrics(CollectorRegistry()).specs, **board.SPECS, **budgets.SPECS, **exposed.SPECS, **gpu.SPECS}
