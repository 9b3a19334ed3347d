"""Finds a detector by name: shipped ones, entry points of the group `modelwatch.detectors`, or "module:Class"."""

from __future__ import annotations

from typing import TypeGuard

from detectors.contract import DetectorConfig, RowDetector, WindowDetector
from detectors.plugins import Plugins

DetectorClass = type[RowDetector] | type[WindowDetector]

SHIPPED = {
    "answer_relevance": "detectors.answer_relevance:AnswerRelevance",
    "attribution_drift": "detectors.attribution_drift:AttributionDrift",
    "context_relevance": "detectors.context_relevance:ContextRelevance",
    "data_drift": "detectors.data_drift:DataDrift",
    "data_quality": "detectors.data_quality:DataQuality",
    "embedding_drift": "detectors.embedding_drift:EmbeddingDrift",
    "estimate_gap": "detectors.estimate_gap:EstimateGap",
    "evidently": "detectors.evidently_metric:EvidentlyMetric",
    "fairness": "detectors.fairness:Fairness",
    "faithfulness": "detectors.faithfulness:Faithfulness",
    "hallucination": "detectors.hallucination:Hallucination",
    "judge": "detectors.judge:Judge",
    "label_drift": "detectors.label_drift:LabelDrift",
    "llm_operations": "detectors.llm_operations:LlmOperations",
    "multivariate_drift": "detectors.multivariate_drift:MultivariateDrift",
    "performance": "detectors.performance:Performance",
    "performance_estimate": "detectors.performance_estimate:PerformanceEstimate",
    "prediction_drift": "detectors.prediction_drift:PredictionDrift",
    "probability_calibration": "detectors.probability_calibration:ProbabilityCalibration",
    "retrieval": "detectors.retrieval:Retrieval",
    "score_drift": "detectors.score_drift:ScoreDrift",
    "stream_drift": "detectors.stream_drift:StreamDrift",
    "toxicity": "detectors.toxicity:Toxicity",
}


class UnknownDetector(LookupError):
    """No detector of that name, or what the name points to is not a detector. The message says what there is."""


PLUGINS = Plugins("detector", "modelwatch.detectors", SHIPPED, UnknownDetector)


def names() -> list[str]:
    """Every name that `load` knows without a "module:Class"."""
    return PLUGINS.names()


def load(name: str) -> DetectorClass:
    """The detector class called `name`. Imports its module, so it may take a moment; it loads no model.

    Raises:
        UnknownDetector: see there.
    """
    found, where = PLUGINS.find(name)
    needed = ["name", "version", "inputs", "worse", "Config", *(["flag"] if is_row(found) else [])]
    missing = [a for a in needed if not hasattr(found, a)]
    if missing or not (is_row(found) or is_window(found)):
        raise UnknownDetector(f"{where} has no {', '.join(missing) or 'score or compare method'}")
    if not issubclass(found.Config, DetectorConfig):
        raise UnknownDetector(f"{where}.Config must be a detectors.contract.DetectorConfig")
    return found


def is_row(detector: type) -> TypeGuard[type[RowDetector]]:
    return callable(getattr(detector, "score", None))


def is_window(detector: type) -> TypeGuard[type[WindowDetector]]:
    return callable(getattr(detector, "compare", None))
