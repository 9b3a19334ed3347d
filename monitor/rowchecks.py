"""Row detectors as checks configure them."""

from __future__ import annotations

from typing import Any

import orjson

from detectors import registry
from detectors.contract import RowDetector, Score, Worse, settings_hash
from monitor.config import Config
from monitor.family import Known
from monitor.helpers import DetectorSpec


class RowCheck:
    """A row detector as configured on a model. Checks that differ only in threshold share one."""

    def __init__(self, name: str, config: Any) -> None:
        detector = registry.load(name)
        assert registry.is_row(detector)
        settings = orjson.dumps(config.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS).decode()
        self.spec = DetectorSpec(name, settings, config.files_hash)
        self.name = detector.name
        self.version = detector.version
        self.inputs = detector.inputs
        self.hash = settings_hash(detector, config)
        self.flag, self.worse = flagging(detector, config)

    def flagged(self, score: Score) -> bool | None:
        """None where there is nothing to flag: no value, or one that may not alert."""
        if score.value is None or not score.may_alert:
            return None
        return score.value >= self.flag if self.worse == "higher" else score.value <= self.flag


def flagging(detector: type[RowDetector], config: Any) -> tuple[float, Worse]:
    """Where a score is flagged unless the check says so, and in which direction."""
    told = getattr(detector, "flagging", None)  # of one whose settings decide
    return told(config) if told is not None else (detector.flag, detector.worse)


def is_judged(name: str) -> bool:
    """Whether this detector asks somebody who takes long, and is no part of the local scoring: see `monitor.judging`."""
    return getattr(registry.load(name), "remote", False) is True


def row_checks(config: Config) -> dict[str, list[RowCheck]]:
    """By model, each (detector, settings) once: the local ones. A model that is only judged has none."""
    found: dict[str, dict[str, RowCheck]] = {}
    for check in config.checks:
        if is_judged(check.detector):
            found.setdefault(check.model, {})
        elif registry.is_row(registry.load(check.detector)):
            one = RowCheck(check.detector, check.settings)
            found.setdefault(check.model, {})[one.hash] = one
    return {model: list(checks.values()) for model, checks in found.items()}


def score_edges(config: Config) -> frozenset[float]:
    """Where scores are flagged, and where rules on single records look."""
    found: set[float] = set()
    for check in config.checks:
        detector = registry.load(check.detector)
        if registry.is_row(detector):
            found.add(flagging(detector, check.settings)[0] if check.flag is None else check.flag)
    for rule in config.record_rules:
        found |= {edge for edge in (rule.at_least, rule.at_most) if edge is not None}
    return frozenset(found)


def known(config: Config) -> Known:
    """Whose series there may be."""
    rules = {rule.name for rule in config.record_rules}
    return Known(
        frozenset(model.name for model in config.models),
        frozenset(check.name for check in config.checks) | rules,
        frozenset((check.model, getattr(registry.load(check.detector), "name", check.detector)) for check in config.checks),
    )
