"""What most likely caused a case: its checks, features and slices, each ranked. Pure functions of the incidents' evidence.

A ranking is no proof: it says where to look first. What counts for an incident is how far it is beyond its threshold, how early
it began among those of the case, and how severe it is; what counts for a feature or a slice is its share in the change of each
incident, weighed by that. The numbers are comparable within a case and mean nothing outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from monitor.cases.case import Episode, rank

MOST = 20
SEVERITY_WEIGHTS = (1.0, 0.6, 0.3)
HALVED_AFTER = timedelta(hours=1)  # an incident that begins so long after the first one counts half


@dataclass(frozen=True, slots=True)
class Found:
    """An incident of the case with what is told of it."""

    episode: Episode
    peak: float | None
    evidence: Mapping[str, Any]


def excess(number: float | None, lower: float | None, upper: float | None, *, p_value: bool = False) -> float | None:
    """How far beyond its threshold: 0 on it, 1 at twice the distance of the threshold from 0, 2 at three times. Of a p-value:
    powers of ten below its level. None where it is not known.

    >>> excess(0.6, None, 0.3), excess(0.75, 1.0, None), round(excess(1e-5, 1e-3, None, p_value=True), 6)
    (1.0, 0.25, 2.0)
    """
    if number is None or not math.isfinite(number) or (lower is None and upper is None):
        return None
    if p_value:
        return max(0.0, math.log10(lower / max(number, 1e-300))) if lower else None
    beyond = max(
        number - upper if upper is not None else -math.inf,
        lower - number if lower is not None else -math.inf,
    )
    bound = upper if upper is not None and (lower is None or number > upper) else lower
    scale = abs(bound) if bound else 1.0
    return max(0.0, beyond) / scale


def ranked(found: Sequence[Found]) -> dict[str, list[dict[str, Any]]]:
    """Lists by what is ranked, each with the likeliest first and a `share` of all of its kind."""
    if not found:
        return {"checks": [], "features": [], "slices": []}
    first = min(one.episode.opened for one in found)
    checks, features, slices = [], {}, {}  # type: ignore[var-annotated]
    for one in found:
        strength = _strength(one)
        late = (one.episode.opened - first) / HALVED_AFTER
        weight = SEVERITY_WEIGHTS[min(rank(one.episode.severity), 2)] * (0.1 + strength) * 0.5**late
        checks.append(
            {
                "check": one.episode.check,
                "slice": one.episode.slice,
                "incident_id": one.episode.incident_id,
                "opened": one.episode.opened.isoformat(),
                "excess": _excess(one),
                "weight": weight,
            }
        )
        for name, share in feature_shares(one.evidence):
            features[name] = features.get(name, 0.0) + weight * share
        for name, share in slice_shares(one):
            slices[name] = slices.get(name, 0.0) + weight * share
    return {
        "checks": _shared(checks),
        "features": _shared([{"feature": name, "weight": weight} for name, weight in features.items()]),
        "slices": _shared([{"slice": name, "weight": weight} for name, weight in slices.items()]),
    }


def feature_shares(evidence: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Features with their share of what changed, the largest first: as explained, else by how far the parts of the reading are
    beyond their own thresholds."""
    why = evidence.get("why")
    if isinstance(why, dict) and why.get("features"):
        sign = -1.0 if (why.get("change") or 0.0) < 0 else 1.0
        return _normal((c["feature"], sign * _known(c["contribution"])) for c in why["features"])
    parts = evidence.get("parts") or ()
    return _normal((p["name"], _part(p)) for p in parts if p.get("flagged") and p.get("name"))


def slice_shares(one: Found) -> list[tuple[str, float]]:
    """Parts of the traffic: the incident's own slice, or those that its explanation found in the whole."""
    if one.episode.slice != "all":
        return [(one.episode.slice, 1.0)]
    why = one.evidence.get("why")
    pieces = why.get("pieces", ()) if isinstance(why, dict) else ()
    return [(p["name"], min(1.0, max(0.0, p["share"]))) for p in pieces if p.get("share") is not None]


def _excess(one: Found) -> float | None:
    bounds = one.evidence.get("threshold") or {}
    peak = one.peak if one.peak is not None else one.evidence.get("judged")
    calibrated = one.evidence.get("threshold_kind") == "calibrated"
    return excess(peak, bounds.get("lower"), bounds.get("upper"), p_value=calibrated)


def _strength(one: Found) -> float:
    """In [0, 1): one of a thousand times its threshold must not hide all others."""
    found = _excess(one)
    return 0.5 if found is None else found / (1.0 + found)


def _part(part: Mapping[str, Any]) -> float:
    value, threshold = part.get("value"), part.get("threshold")
    if not isinstance(value, float | int) or not isinstance(threshold, float | int) or not threshold:
        return 1.0
    return abs(threshold) / max(abs(value), 1e-12) if part.get("judges") == "p_value" else abs(value) / abs(threshold)


def _known(number: float | None) -> float:
    """JSON has null for what is not finite."""
    return math.nan if number is None else number


def _normal(found: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    there = [(name, value) for name, value in found if math.isfinite(value) and value > 0]
    total = sum(value for _, value in there)
    return sorted(((name, value / total) for name, value in there), key=lambda one: (-one[1], one[0]))


def _shared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    total = sum(row["weight"] for row in rows) or 1.0
    ordered = sorted(rows, key=lambda row: (-row["weight"], str(sorted(map(str, row.values())))))
    return [{**{k: v for k, v in row.items() if k != "weight"}, "share": row["weight"] / total} for row in ordered[:MOST]]
