"""Scores that come along with a trace, as feedback: annotations, evaluations, `gen_ai.evaluation.result` events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from monitor.genai.media import lean_text


def indexed(tree: Mapping[int, Any], scope: str) -> list[dict[str, Any]]:
    """OpenInference: {0: {"annotation": {name, score, label, explanation, annotator_kind, identifier}}, ...}."""
    out = []
    for one in tree.values():
        inner = (one.get("annotation") or one.get("evaluation")) if isinstance(one, dict) else None
        if isinstance(inner, dict) and (
            made := _feedback(
                inner.get("name"), inner.get("score"), inner.get("label"), inner.get("explanation"),
                inner.get("annotator_kind") or inner.get("identifier"), scope,
            )
        ):  # fmt: skip
            out.append(made)
    return out


def evaluation(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The OTel event; the same attributes on a span mean the same."""
    read = attributes.get
    source = read("gen_ai.evaluation.evaluator.type") or read("gen_ai.evaluation.evaluator.id") or "otel"
    return _feedback(
        read("gen_ai.evaluation.name"), read("gen_ai.evaluation.score.value"), read("gen_ai.evaluation.score.label"),
        read("gen_ai.evaluation.explanation"), source, "span",
    )  # fmt: skip


def _feedback(name: Any, value: Any, label: Any, comment: Any, source: Any, scope: str) -> dict[str, Any] | None:
    if not isinstance(name, str) or not name:
        return None
    number = float(value) if isinstance(value, (int, float)) and -1e308 < value < 1e308 else None
    text = label if isinstance(label, str) and label else None
    if text is None and isinstance(value, str):
        text = value
    said = lean_text(comment) if isinstance(comment, str) and comment else None
    if number is None and text is None and said is None:
        return None  # an evaluator that failed has no score
    return {
        "name": name, "value": number if number is not None and math.isfinite(number) else None, "label": text, "comment": said,
        "source": source if isinstance(source, str) else None, "scope": scope, "trace_id": None, "span_id": None,
    }  # fmt: skip
