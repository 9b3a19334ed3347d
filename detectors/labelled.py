"""Which rows of a window can be judged, and as what: predictions and labels of any task, out of columns.

How they come:

    binary      label, prediction: numbers, booleans or text; probability of the positive class, where it is there
    multiclass  label, prediction: a class; probabilities: JSON {class: probability}, or a column `probability:CLASS` for each
    multilabel  label, prediction: a JSON list of classes
    regression  label, prediction: numbers
    ranking     label: how relevant; prediction: the score it was ranked by; a column that names the query
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.contract import Categories, FloatArray, NotEnoughData, NotEvaluable, Window
from detectors.quality import BoolArray, Sample, Task
from detectors.quality.binary import Binary
from detectors.quality.multiclass import Multiclass
from detectors.quality.multilabel import Multilabel
from detectors.quality.ranking import Rankings
from detectors.quality.regression import Numbers

LARGEST = 1e150
"""Numbers beyond it count as infinite: their squares would be."""

SUM_TOLERANCE = 1e-3
"""How far the probabilities of a row may be from adding up to one: they are often rounded."""

MOST_CLASSES = 200


@dataclass(frozen=True, slots=True)
class Reading:
    """How a window is to be read. See the settings of `performance`."""

    task: Task = "binary"
    positive: str = "1"
    classes: tuple[str, ...] = ()
    query: str = "query"
    min_labels: int = 30
    min_label_coverage: float = 0.0
    bins: int = 10
    k: int = 10
    relevant: float = 1.0
    quantile: float = 0.5

    def inputs(self) -> frozenset[str]:
        extra = {"binary": {"probability"}, "multiclass": {"probabilities"}, "ranking": {self.query}}.get(self.task, set())
        return frozenset({"prediction", "label"} | extra)


def read(window: Window, how: Reading) -> tuple[Sample, BoolArray]:
    """The labelled rows, and which of the window's rows those are.

    Raises:
        NotEnoughData: fewer than `min_labels` labelled and usable rows, or too small a share of the rows is labelled.
        NotEvaluable: no_labels, wrong_type, missing_column, not_numeric.
    """
    if not window.has("label"):
        raise NotEvaluable("no_labels", "the window has no column label")
    with np.errstate(over="ignore", invalid="ignore"):
        found: tuple[Sample, BoolArray] = _READERS[how.task](window, how)
        return found


def _binary(window: Window, how: Reading) -> tuple[Binary, BoolArray]:
    labels, predictions = Classes(window.categories("label")), Classes(window.categories("prediction"))
    used, coverage = usable(labels.there, labels.usable & predictions.usable, how)
    two_classes(labels.seen(used) | predictions.seen(used), how.positive)
    probability = np.full(int(used.sum()), np.nan)
    if window.has("probability"):
        given = window.numbers("probability")[used]
        probability = np.where((given >= 0) & (given <= 1), given, np.nan)
        coverage["probability_coverage"] = float((~np.isnan(probability)).mean())
    label, prediction = labels.are(how.positive)[used], predictions.are(how.positive)[used]
    return Binary(label, prediction, probability, coverage, how.min_labels, how.bins), used


def _multiclass(window: Window, how: Reading) -> tuple[Multiclass, BoolArray]:
    labels = Classes(window.categories("label"))
    named = class_probabilities(window, [*how.classes, *labels.every()])
    if window.has("prediction"):
        predictions = Classes(window.categories("prediction"))
    elif named is not None and named[0]:
        likeliest = np.where(np.isnan(named[1][:, 0]), -1, named[1].argmax(1)).astype(np.int32)
        predictions = Classes(Categories(likeliest, named[0]))
    else:
        predictions = Classes(window.categories("prediction"))  # says that there is none
    used, coverage = usable(labels.there, labels.usable & predictions.usable, how)
    seen = labels.seen(used) | predictions.seen(used)
    if len(seen) > MOST_CLASSES:
        raise NotEvaluable("wrong_type", f"{len(seen)} classes among labels and predictions; at most {MOST_CLASSES}")
    classes = tuple(sorted(seen | set(how.classes) | set(named[0] if named else ())))
    label, prediction = labels.index(classes)[used], predictions.index(classes)[used]
    probability = None
    if named is not None:
        probability = np.zeros((int(used.sum()), len(classes)))
        for name, column in zip(named[0], named[1][used].T, strict=True):
            probability[:, classes.index(name)] = column
        probability[np.isnan(probability).any(1)] = np.nan
        total = probability.sum(1)
        off = np.abs(total - 1) > SUM_TOLERANCE
        coverage["probability_coverage"] = float((~np.isnan(total) & ~off).mean())
        coverage["probabilities_not_one"] = float(off.sum())
        probability[off] = np.nan
    return Multiclass(classes, label, prediction, probability, coverage, how.min_labels, how.bins), used


def _multilabel(window: Window, how: Reading) -> tuple[Multilabel, BoolArray]:
    labels, predictions = (Sets(window.categories(name)) for name in ("label", "prediction"))
    used, coverage = usable(labels.there, labels.usable & predictions.usable, how)
    classes = tuple(sorted(labels.seen(used) | predictions.seen(used) | set(how.classes)))
    if len(classes) > MOST_CLASSES:
        raise NotEvaluable("wrong_type", f"{len(classes)} classes among labels and predictions; at most {MOST_CLASSES}")
    return Multilabel(classes, labels.matrix(classes)[used], predictions.matrix(classes)[used], coverage), used


def _regression(window: Window, how: Reading) -> tuple[Numbers, BoolArray]:
    label, prediction = window.numbers("label"), window.numbers("prediction")
    fine = (np.abs(label) <= LARGEST) & (np.abs(prediction) <= LARGEST)
    used, coverage = usable(~np.isnan(label), fine, how)
    return Numbers(label[used], prediction[used], coverage, how.quantile), used


def _ranking(window: Window, how: Reading) -> tuple[Rankings, BoolArray]:
    relevance, score = window.numbers("label"), window.numbers("prediction")
    query = window.categories(how.query).codes
    fine = (relevance >= 0) & (relevance <= LARGEST) & ~np.isnan(score) & (query >= 0)
    used, coverage = usable(~np.isnan(relevance), fine, how)
    numbers = np.unique(query[used], return_inverse=True)[1].astype(np.int64)
    return Rankings(numbers, score[used], relevance[used], coverage, how.k, how.relevant), used


_READERS: Any = {
    "binary": _binary,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
    "ranking": _ranking,
}


def usable(labelled: BoolArray, fine: BoolArray, how: Reading) -> tuple[BoolArray, dict[str, float]]:
    """The rows to use, and the metrics that say how many those are."""
    used = labelled & fine
    n, n_labelled = int(used.sum()), int(labelled.sum())
    if n < how.min_labels:
        raise NotEnoughData(f"{n} labelled rows with a prediction (of {n_labelled} labelled), min_labels is {how.min_labels}")
    coverage = n_labelled / len(labelled)
    if coverage < how.min_label_coverage:
        raise NotEnoughData(f"labels for {coverage:.0%} of {len(labelled)} rows, min_label_coverage is {how.min_label_coverage}")
    return used, {"label_coverage": coverage, "unusable_rows": float(n_labelled - n)}


def two_classes(seen: set[str], positive: str) -> None:
    """Raises NotEvaluable (wrong_type) unless these are the positive class and at most one other."""
    if len(seen) > 2 or (len(seen) == 2 and positive not in seen):
        raise NotEvaluable(
            "wrong_type", f"classes {', '.join(sorted(seen)[:5])}: binary needs {positive} (setting positive) and one other"
        )


# --- classes ---------------------------------------------------------------------------------------------------------


class Classes:
    """A column of classes under names that do not depend on how a class was written."""

    def __init__(self, column: Categories) -> None:
        self._codes = column.codes
        self._names = [same_class(name) for name in column.names]
        self.there: BoolArray = column.codes >= 0
        self.usable: BoolArray = self._where([name not in NOT_A_CLASS for name in self._names])

    def are(self, name: str) -> BoolArray:
        return self._where([other == name for other in self._names])

    def seen(self, used: BoolArray) -> set[str]:
        return {self._names[code] for code in np.unique(self._codes[used])}

    def every(self) -> set[str]:
        return set(self._names)

    def index(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Each row's place in `classes`, -1 where it is not there."""
        places = {name: i for i, name in enumerate(classes)}
        return np.array([*(places.get(name, -1) for name in self._names), -1])[self._codes]

    def _where(self, of_names: list[bool]) -> BoolArray:
        # The last entry answers for -1, a missing value.
        return np.array([*of_names, False])[self._codes]


NOT_A_CLASS = frozenset({"inf", "-inf", "nan"})


def same_class(name: str) -> str:
    """One name for the ways to write a class.

    >>> [same_class(name) for name in ("1.0", "True", "false", "01", "yes")]
    ['1', '1', '0', '01', 'yes']
    """
    if name.lower() in ("true", "false"):
        return str(int(name.lower() == "true"))
    return name[:-2] if name.endswith(".0") and name[:-2].lstrip("-").isdecimal() else name


class Sets:
    """A column of JSON lists of classes. What is no such list is not usable."""

    def __init__(self, column: Categories) -> None:
        self._codes = column.codes
        self._sets = [as_set(name) for name in column.names]
        self.there: BoolArray = column.codes >= 0
        self.usable: BoolArray = np.array([*(one is not None for one in self._sets), False])[self._codes]

    def seen(self, used: BoolArray) -> set[str]:
        return set().union(*(self._sets[code] or () for code in np.unique(self._codes[used])))

    def matrix(self, classes: Sequence[str]) -> BoolArray:
        """bool (rows, classes): which are in the row's set."""
        rows = [[name in (one or ()) for name in classes] for one in self._sets]
        return np.array([*rows, [False] * len(classes)], dtype=bool).reshape(len(rows) + 1, len(classes))[self._codes]


def as_set(text: str) -> frozenset[str] | None:
    """
    >>> sorted(as_set('["b", 1, true]')), as_set('[]'), as_set('"b"')
    (['1', 'b'], frozenset(), None)
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(one, str | int | float) for one in found):
        return None
    return frozenset(same_class(str(one)) for one in found)


# --- probabilities ---------------------------------------------------------------------------------------------------


def class_probabilities(window: Window, classes: Sequence[str]) -> tuple[tuple[str, ...], FloatArray] | None:
    """The classes that have probabilities, and those as float64 (rows, classes): NaN in every class of a row that has none, or
    one outside 0..1. Without a column `probabilities`, those of `classes` that have a column of their own. None where there
    are none."""
    if window.has("probabilities"):
        column = window.categories("probabilities")
        found = [as_probabilities(name) for name in column.names]
        names = tuple(sorted({name for one in found if one for name in one}))
        if len(names) > MOST_CLASSES:
            raise NotEvaluable("wrong_type", f"{len(names)} classes in probabilities; at most {MOST_CLASSES}")
        if not names:
            return None
        # A class that a row does not name has the probability 0 there.
        rows = [[one.get(name, 0.0) for name in names] if one else [math.nan] * len(names) for one in found]
        return names, np.array([*rows, [math.nan] * len(names)])[column.codes]
    own = {name: f"probability:{name}" for name in dict.fromkeys(classes) if window.has(f"probability:{name}")}
    if not own:
        return None
    matrix = np.column_stack([window.numbers(column) for column in own.values()])
    matrix[~((matrix >= 0) & (matrix <= 1)).all(1)] = np.nan
    return tuple(own), matrix


def as_probabilities(text: str) -> dict[str, float] | None:
    """
    >>> as_probabilities('{"a": 0.25, "b": 0.75}'), as_probabilities('{"a": 2}'), as_probabilities('[1]')
    ({'a': 0.25, 'b': 0.75}, None, None)
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not found:
        return None
    if not all(isinstance(p, int | float) and 0 <= p <= 1 for p in found.values()):
        return None
    return {same_class(name): float(p) for name, p in found.items()}
