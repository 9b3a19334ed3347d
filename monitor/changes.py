"""What is new in a model's traffic: another version, LLM, prompt or fingerprint than any before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from monitor import log
from monitor.metrics import Metrics
from monitor.store import Store
from monitor.transaction import Transaction

WHAT = ("model_version", "llm_model", "prompt", "fingerprint")
MOST = 1_000  # of one kind and model: beyond it, something that changes with every call was taken for a name


class Changes:
    """Used on the writer thread, inside a transaction. The first value of all is the beginning, not a change."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._metrics = metrics
        self._seen: dict[tuple[str, str], list[str]] = {}  # oldest first
        with store.read() as reader:
            for row in reader.query("SELECT model, what, value FROM seen ORDER BY first_at, rowid"):
                self._seen.setdefault((row["model"], row["what"]), []).append(row["value"])

    def note(self, transaction: Transaction, model: str, columns: Mapping[str, Sequence[Any]], received_at: datetime) -> None:
        """`columns`: rows that are being stored, by column; what has no column there is not looked at."""
        for what in WHAT:
            values = columns.get(what) if what != "prompt" else _prompts(columns)
            if values is None:
                continue
            known = self._seen.get((model, what), [])
            fresh = {value for value in values if value is not None}.difference(known)
            if fresh and len(known) < MOST:
                self._add(transaction, model, what, values, fresh, columns, received_at)

    def _add(
        self,
        transaction: Transaction,
        model: str,
        what: str,
        values: Sequence[Any],
        fresh: set[str],
        columns: Mapping[str, Sequence[Any]],
        received_at: datetime,
    ) -> None:
        known = self._seen.setdefault((model, what), [])
        times, ids = columns["event_time"], columns["record_id"]
        first: dict[str, int] = {}
        for place in sorted((i for i, v in enumerate(values) if v in fresh), key=lambda i: (times[i], ids[i])):
            first.setdefault(values[place], place)
        found = list(first)[: MOST - len(known)]
        if len(known) + len(found) == MOST:
            log.warning("no more changes of this kind are noted for the model; is it a name?", model=model, what=what, limit=MOST)
        before = [*known, *found]
        previous = [_previous(what, value, before[: len(known) + i]) for i, value in enumerate(found)]
        transaction.insert(
            "seen",
            {
                "model": [model] * len(found),
                "what": [what] * len(found),
                "value": found,
                "first_at": [received_at] * len(found),
            },
        )
        known += found
        transaction.on_rollback(lambda: known.__delitem__(slice(len(known) - len(found), None)))
        changed = [(value, before) for value, before in zip(found, previous, strict=True) if before is not None]
        if not changed:
            return
        places = [first[value] for value, _ in changed]
        transaction.append(
            "changes",
            model,
            {
                "event_time": [times[p] for p in places],
                "what": what,
                "value": [value for value, _ in changed],
                "previous": [before for _, before in changed],
                "record_id": [ids[p] for p in places],
                "received_at": received_at,
            },
        )
        transaction.count_on_commit(lambda: self._metrics.changes.labels(model, what).inc(len(changed)))


def _prompts(columns: Mapping[str, Sequence[Any]]) -> list[str | None] | None:
    names = columns.get("prompt_name")
    if names is None:
        return None
    versions = columns.get("prompt_version") or [None] * len(names)
    return [None if n is None else n if v is None else f"{n}@{v}" for n, v in zip(names, versions, strict=True)]


def _previous(what: str, value: str, known: Sequence[str]) -> str | None:
    """What was new before it; of a prompt, its own version before, where there is one."""
    if what == "prompt":
        name = value.rpartition("@")[0] or value
        for one in reversed(known):
            if (one.rpartition("@")[0] or one) == name:
                return one
    return known[-1] if known else None
