"""Thresholds that are tried on the past, and what they came to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from monitor import thresholds
from monitor.config import Check, Config, Threshold
from monitor.errors import ModelwatchError
from monitor.track import Track
from monitor.verdicts import Incident, Judged

MONTH = timedelta(days=30)


class Unreplayable(ModelwatchError):
    """Nothing of what was asked can be replayed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A threshold to be tried. `check` is the check with it; `alpha`: how often a slot may fire by chance, where it says so."""

    name: str
    check: Check
    alpha: float | None = None


@dataclass(slots=True)
class Trial:
    """What a rule made of the windows of one slice. `track` also has those before the range that lead up to it."""

    rule: Rule
    track: Track
    slots: list[datetime] = field(default_factory=list)

    @property
    def slice(self) -> str:
        return self.track.part.name

    @property
    def verdicts(self) -> Iterator[Judged]:
        return (verdict for slot in self.slots if (verdict := self.track.history.at(slot)) is not None)

    @property
    def evaluable(self) -> int:
        """Windows that were compared with a threshold."""
        return sum(verdict.beyond is not None for verdict in self.verdicts)

    @property
    def beyond(self) -> int:
        return sum(verdict.beyond is True for verdict in self.verdicts)

    @property
    def firing(self) -> int:
        return sum(verdict.firing for verdict in self.verdicts)

    @property
    def incidents(self) -> list[Incident]:
        """Those that were open in the range."""
        first = self.slots[0] if self.slots else None
        return [one for one in self.track.history.incidents(first) if first is not None and one.last >= first]

    @property
    def expected(self) -> float | None:
        """Windows that would fire by chance alone, where the rule says how often that may be."""
        return None if self.rule.alpha is None else self.rule.alpha * self.evaluable

    @property
    def note(self) -> str | None:
        """Why windows could not be judged, or not as asked; the latest word."""
        return next((v.note for v in reversed(list(self.verdicts)) if v.note and not v.empty), None)

    def a_month(self, count: int) -> float | None:
        """So many in these windows are how many in thirty days."""
        time = len(self.slots) * timedelta(seconds=self.rule.check.every)
        return count * (MONTH / time) if time else None


def rules(
    config: Config, check: Check, given: Sequence[Threshold], alphas: Sequence[float], budgets: Sequence[float]
) -> list[Rule]:
    """The check's own threshold first, then those given, then calibrated ones: at these levels, and with these false alarms a
    month for the check alone."""
    found = [Rule("as configured", check, thresholds.alphas(config).get(check.name))]

    def tried(name: str, threshold: Threshold, alpha: float | None) -> Rule:
        if threshold.kind != "constant" and threshold.baseline is None and check.threshold.baseline is not None:
            threshold = threshold.model_copy(update={"baseline": check.threshold.baseline})
        return Rule(name, check.model_copy(update={"threshold": threshold}), alpha)

    slots = thresholds.slots_per_month(check)
    for one in given:
        alpha = one.alpha
        if one.kind == "calibrated" and alpha is None:
            raise Unreplayable(
                "--threshold kind=calibrated: say how often a slot may fire by chance, as kind=calibrated,alpha=0.001"
            )
        keys = [
            key for key in ("lower", "upper", "margin", "alpha") if getattr(one, key) is not None and key in one.model_fields_set
        ]
        said = ", ".join(f"{key} {getattr(one, key):g}" for key in keys)
        rule = tried(f"{one.kind} {said}", one, alpha)
        if one.kind in ("quantile", "std") and rule.check.baseline is None:
            raise Unreplayable(
                f"--threshold kind={one.kind}: check {check.name} has no baseline to learn it from; give it threshold.baseline "
                "with start and end, in the config or in --check-file"
            )
        found.append(rule)
    levels = {f"calibrated, alpha {alpha:g}": alpha for alpha in alphas}
    levels |= {f"calibrated, {budget:g} a month": budget / slots for budget in budgets}
    for name, alpha in levels.items():
        if not 0 < alpha < 0.5:
            raise Unreplayable(f"{name}: that is {alpha:.3g} a slot, of {slots:g} slots a month; alpha lies between 0 and 0.5")
        found.append(tried(name, Threshold(kind="calibrated", alpha=alpha), alpha))
    return found
