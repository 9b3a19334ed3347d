"""Which answers a judge is asked about: a sample by a hash of their id, and those that a local check calls unclear.

What is chosen is queued in the transaction that writes the local scores, so that nothing is chosen twice or forgotten. What is
not chosen has no row in `scores`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from detectors import registry
from detectors.contract import Score
from detectors.judge import Judge
from detectors.judging.sampling import sampled
from monitor.config import Check, Config
from monitor.metrics import Metrics
from monitor.rowchecks import RowCheck, is_judged
from monitor.transaction import Transaction

SAMPLED, ESCALATED = "sampled", "escalated"
Scored = Sequence[tuple[RowCheck, Sequence[Score]]]


class JudgeCheck(RowCheck):
    """The detector `judge` as configured on a model. Checks that differ only in threshold share one."""

    def __init__(self, check: Check) -> None:
        super().__init__(check.detector, check.settings)
        assert isinstance(check.settings, Judge.Config)
        self.config = check.settings


def judge_checks(config: Config) -> dict[str, list[JudgeCheck]]:
    """By model, each of equal settings once."""
    found: dict[str, dict[str, JudgeCheck]] = {}
    for check in config.checks:
        if is_judged(check.detector):
            one = JudgeCheck(check)
            found.setdefault(check.model, {})[one.hash] = one
    return {model: list(checks.values()) for model, checks in found.items()}


class Selection:
    """Of one config."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._checks = judge_checks(config)
        self._metrics = metrics
        # By model and name: checks by theirs, and all of a detector by its.
        self._hashes: dict[tuple[str, str], set[str]] = {}
        for check in config.checks:
            if check.model in self._checks and not is_judged(check.detector) and (row := _row_check(check)) is not None:
                for name in (check.name, row.name):
                    self._hashes.setdefault((check.model, name), set()).add(row.hash)
        for model, checks in self._checks.items():
            for one in checks:
                for why in (SAMPLED, ESCALATED):
                    metrics.judge_selected.labels(model, one.config.metric, why).inc(0)

    def models(self) -> frozenset[str]:
        return frozenset(self._checks)

    def queue(
        self,
        transaction: Transaction,
        model: str,
        work: Sequence[Mapping[str, Any]],
        rows: Sequence[Mapping[str, Any]],
        scored: Scored,
        places: Sequence[int],
    ) -> None:
        """Queue what is chosen of the rows at `places`, of which these are the scores."""
        if model not in self._checks or not places:
            return
        # What waits under an earlier input would be judged on that.
        transaction.delete("judging", "place", [_place(model, work[i]["record_id"]) for i in places])
        chosen = [
            (check, work[i], why)
            for check in self._checks[model]
            for i in places
            if (why := self._why(model, check, i, work[i]["record_id"], scored)) is not None
        ]
        if not chosen:
            return
        now = transaction.now
        transaction.insert(
            "judging",
            {
                "model": [model] * len(chosen),
                "settings_hash": [check.hash for check, _, _ in chosen],
                "record_id": [one["record_id"] for _, one, _ in chosen],
                "place": [_place(model, one["record_id"]) for _, one, _ in chosen],
                "seq": [one["seq"] for _, one, _ in chosen],
                "revision": [one["revision"] for _, one, _ in chosen],
                "contexts_from": pa.array([one["contexts_from"] for _, one, _ in chosen], pa.int64()),
                "event_time": [one["event_time"] for _, one, _ in chosen],
                "why": [why for _, _, why in chosen],
                "attempts": [0] * len(chosen),
                "queued_at": [now] * len(chosen),
                "due_at": [now] * len(chosen),
            },
        )
        counts = Counter((check.config.metric, why) for check, _, why in chosen)
        transaction.count_on_commit(self._count(model, counts))

    def _why(self, model: str, check: JudgeCheck, i: int, record_id: str, scored: Scored) -> str | None:
        config = check.config
        if sampled(record_id, config.rate, config.seed):
            return SAMPLED
        for escalation in config.escalate:
            hashes = self._hashes.get((model, escalation.check), set())
            for other, scores in scored:
                if other.hash in hashes and escalation.holds(scores[i].value, scores[i].detail):
                    return ESCALATED
        return None

    def _count(self, model: str, counts: Counter[tuple[str, str]]) -> Callable[[], None]:
        def count() -> None:
            for (metric, why), n in counts.items():
                self._metrics.judge_selected.labels(model, metric, why).inc(n)

        return count


def _place(model: str, record_id: str) -> str:
    return f"{model}/{record_id}"


def _row_check(check: Check) -> RowCheck | None:
    return RowCheck(check.detector, check.settings) if registry.is_row(registry.load(check.detector)) else None
