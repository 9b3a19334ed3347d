"""Another config of a model, as a change: what its section and its checks say, as a hash. Noted at a start and at each reload."""

from __future__ import annotations

import hashlib

from monitor.config import Config
from monitor.metrics import Metrics
from monitor.store import Store
from monitor.transaction import Transaction

WHAT = "config"


def fingerprints(config: Config) -> dict[str, str]:
    """By model, of all that the file says of it. Words of it that change nothing that is read or judged are left out."""
    found = {}
    for model in config.models:
        parts = [model.model_dump_json(exclude={"owner"})]
        parts += sorted(c.model_dump_json(exclude={"owner", "severity"}) for c in config.checks if c.model == model.name)
        found[model.name] = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return found


def note(config: Config, store: Store, metrics: Metrics) -> list[str]:
    """Store which models have another config than when this was last called, and return them. The first one is no change.

    Raises:
        StoreUnavailable, duckdb.Error: the store is away.
    """
    now = fingerprints(config)

    def work(transaction: Transaction) -> list[str]:
        known = {r["model"]: r["value"] for r in transaction.query("SELECT model, value FROM seen WHERE what = ?", [WHAT])}
        fresh = {model: value for model, value in now.items() if known.get(model) != value}
        rows = [{"model": model, "what": WHAT, "value": value, "first_at": transaction.now} for model, value in fresh.items()]
        transaction.put("seen", ("model", "what"), rows)
        changed = [model for model in fresh if model in known]
        for model in changed:
            columns = {"event_time": [transaction.now], "what": WHAT, "value": fresh[model], "previous": known[model]}
            transaction.append("changes", model, {**columns, "received_at": transaction.now})
            transaction.count_on_commit(lambda model=model: metrics.changes.labels(model, WHAT).inc())  # type: ignore[misc]
        return changed

    return store.run(work)
