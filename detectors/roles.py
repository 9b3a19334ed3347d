"""Which column is the prediction, which the label: as somebody says, or by the names that people give them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from detectors.estimation.estimators import Task
from detectors.tables import UNCOMPARABLE, ColumnType

NAMES: Mapping[str, tuple[str, ...]] = {
    "prediction": ("prediction", "y_pred", "predicted", "pred", "predicted_label", "prediction_label"),
    "probability": (
        "probability", "y_pred_proba", "predicted_probability", "prediction_probability", "proba", "prob", "y_proba", "y_prob",
        "score", "y_score",
    ),
    "label": ("label", "target", "y_true", "actual", "ground_truth", "y", "outcome"),
    "timestamp": ("timestamp", "event_time", "time", "datetime", "ts", "date"),
    "id": ("id", "record_id", "identifier", "row_id"),
}  # fmt: skip
"""What a column of each role is called where nobody says, the likeliest first, in any case."""

BY_CLASS = ("probability:", "y_pred_proba_", "probability_", "proba_", "prob_")
"""What stands before the class in the name of its column of probabilities."""


class RoleUnknown(ValueError):
    """No column of a role can be told. The message names the columns there are and what to say."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Column by role. `probabilities` is by class; `features` are what direct loss estimation learns from. `guessed` says which
    roles nobody had named, `left_out` what would be a feature, were it not called as another role is: it may hold the truth."""

    prediction: str | None
    label: str | None
    probability: str | None = None
    probabilities: Mapping[str, str] = field(default_factory=dict)
    timestamp: str | None = None
    id: str | None = None
    features: tuple[str, ...] = ()
    guessed: frozenset[str] = frozenset()
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        found: dict[str, object] = {"prediction": self.prediction, "label": self.label, "probability": self.probability}
        found |= {"probabilities": dict(self.probabilities), "timestamp": self.timestamp, "id": self.id}
        return {**found, "features": list(self.features), "guessed": sorted(self.guessed)}


def roles(
    task: Task,
    reference: Mapping[str, ColumnType],
    analysis: Mapping[str, ColumnType],
    *,
    given: Mapping[str, str | None],
    probabilities: Mapping[str, str] | None = None,
    features: Sequence[str] | None = None,
    needs: Collection[str] = (),
) -> Roles:
    """Those of the task. `given` is by role what somebody said; `needs` are further roles without which it will not do.

    Raises:
        RoleUnknown: see there; also where what was said is no column of the reference.
    """
    guessed: set[str] = set()

    def one(role: str, needed: bool) -> str | None:
        if (said := given.get(role)) is not None:
            if said not in reference:
                raise RoleUnknown(f"{role}: no column {said!r} in the reference; there are {', '.join(reference)}")
            return said
        found = by_name(role, reference)
        if len(found) > 1 and needed:
            raise RoleUnknown(f"{role}: could be {' or '.join(found)}; say which")
        if len(found) == 1:
            guessed.add(role)
            return found[0]
        if needed:
            raise RoleUnknown(
                f"{role}: no column is called as one ({', '.join(NAMES[role][:4])}); say which of {', '.join(reference)}"
            )
        return None

    by_class = dict(probabilities or {})
    if task == "multiclass":
        if unknown := [f"{name} ({column})" for name, column in by_class.items() if column not in reference]:
            raise RoleUnknown(f"probabilities: no such columns in the reference: {', '.join(unknown)}")
        if not by_class:
            by_class = _by_class(reference)
            guessed.add("probabilities")
        if not by_class and "probabilities" not in reference:
            raise RoleUnknown(
                "probabilities: say which column has those of which class, or have one column called probabilities with "
                f"JSON objects of them; there are {', '.join(reference)}"
            )
    label = one("label", True)
    probability = one("probability", True) if task == "binary" else None
    prediction = one("prediction", task != "multiclass")
    timestamp, key = one("timestamp", "timestamp" in needs), one("id", False)
    chosen: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    if task == "regression":
        chosen, left_out = _features(reference, analysis, {label, prediction, timestamp, key})
        if features is not None:
            chosen, left_out = tuple(features), ()
        if unknown := [name for name in chosen if name not in reference]:
            raise RoleUnknown(f"features: not in the reference: {', '.join(unknown)}; there are {', '.join(reference)}")
        if features is None:
            guessed.add("features")
    return Roles(prediction, label, probability, by_class, timestamp, key, chosen, frozenset(guessed), left_out)


def by_name(role: str, columns: Collection[str]) -> list[str]:
    """The columns that are called as the role is, the likeliest name only.

    >>> by_name("label", ["Target", "x"]), by_name("label", ["y_true", "label"]), by_name("label", ["a"])
    (['Target'], ['label'], [])
    """
    for name in NAMES[role]:
        if found := [column for column in columns if column.lower() == name]:
            return found
    return []


def _by_class(columns: Collection[str]) -> dict[str, str]:
    for beginning in BY_CLASS:
        found = {
            column[len(beginning) :]: column for column in columns if column.lower().startswith(beginning) and column != beginning
        }
        if len(found) > 1:
            return found
    return {}


def _features(
    reference: Mapping[str, ColumnType], analysis: Mapping[str, ColumnType], taken: Collection[str | None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What both sides have and is no time, nothing nested and no role's; and what is called as a role is that another took."""
    others = {name for role in NAMES for name in NAMES[role]}
    there = [
        name for name, found in reference.items() if name not in taken and name in analysis and found.family not in UNCOMPARABLE
    ]
    return tuple(n for n in there if n.lower() not in others), tuple(n for n in there if n.lower() in others)
