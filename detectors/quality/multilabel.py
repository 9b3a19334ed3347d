"""Several classes, any number of them for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from detectors.contract import FloatArray, Part
from detectors.intervals import Interval, Uncertainty, bootstrap_rows, mean_loss_interval, wilson, within
from detectors.quality import BoolArray


@dataclass(frozen=True, slots=True)
class Multilabel:
    """Rows of any number of classes. `label` and `prediction` are bool (rows, classes)."""

    classes: tuple[str, ...]
    label: BoolArray
    prediction: BoolArray
    coverage: Mapping[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(self.label)

    def metrics(self) -> dict[str, float | None]:
        tp, fp, fn = self._counts(np.ones(self.rows))
        return {
            **{name: of(tp, fp, fn) for name, of in OF_COUNTS.items()},
            "subset_accuracy": float(self._exact().mean()),
            "hamming_loss": float(self._wrong().mean()) if self.classes else 0.0,
        }

    def interval(self, metric: str, sure: Uncertainty) -> Interval | None:
        match metric:
            case "subset_accuracy":
                return wilson(int(self._exact().sum()), self.rows, sure.confidence)
            case "hamming_loss":
                found = mean_loss_interval(self._wrong(), sure.confidence)
                return found and within(found)
            case name if name in OF_COUNTS:
                return bootstrap_rows(lambda weights: OF_COUNTS[name](*self._counts(weights)), self.rows, sure)
        return None

    def parts(self) -> tuple[Part, ...]:
        """The F1 of each class that was there or predicted."""
        scores = f1s(*self._counts(np.ones(self.rows)))
        there = np.flatnonzero(~np.isnan(scores))
        worst = sorted(there, key=lambda c: (scores[c], self.classes[c]))
        return tuple(Part(self.classes[c], "f1", value=float(scores[c]), n_current=int(self.label[:, c].sum())) for c in worst)

    def _counts(self, weights: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Right, wrongly there and wrongly missing: float64 (classes,) each."""
        return (
            weights @ (self.label & self.prediction),
            weights @ (~self.label & self.prediction),
            weights @ (self.label & ~self.prediction),
        )

    def _exact(self) -> BoolArray:
        return np.asarray((self.label == self.prediction).all(1))

    def _wrong(self) -> FloatArray:
        """For each row, the share of the classes that are wrong."""
        return np.asarray((self.label != self.prediction).mean(1), dtype=np.float64)


def f1s(tp: FloatArray, fp: FloatArray, fn: FloatArray) -> FloatArray:
    """For each class; NaN for one that is neither label nor prediction."""
    size = 2 * tp + fp + fn
    return np.asarray(2 * tp / np.where(size > 0, size, np.nan), dtype=np.float64)


def f1_macro(tp: FloatArray, fp: FloatArray, fn: FloatArray) -> float | None:
    defined = f1s(tp, fp, fn)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if len(defined) else None


def f1_micro(tp: FloatArray, fp: FloatArray, fn: FloatArray) -> float | None:
    return _share(2 * tp.sum(), 2 * tp.sum() + fp.sum() + fn.sum())


def precision_micro(tp: FloatArray, fp: FloatArray, fn: FloatArray) -> float | None:
    return _share(tp.sum(), tp.sum() + fp.sum())


def recall_micro(tp: FloatArray, fp: FloatArray, fn: FloatArray) -> float | None:
    return _share(tp.sum(), tp.sum() + fn.sum())


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


OF_COUNTS: dict[str, Callable[[FloatArray, FloatArray, FloatArray], float | None]] = {
    "f1_micro": f1_micro,
    "f1_macro": f1_macro,
    "precision_micro": precision_micro,
    "recall_micro": recall_micro,
}
