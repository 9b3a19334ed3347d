"""Scores into probabilities: isotonic regression on a reference with labels, where that helps.

NannyML 0.13.1 decides so (`nannyml.calibration.needs_calibration`): over ten seeded splits, is the calibration error of what was
held out smaller after than before?
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detectors.contract import FloatArray
from detectors.quality import BoolArray
from detectors.quality.binary import roc_auc

BINS, SPLITS, HELD_OUT, SEED = 10, 10, 0.1, 42
SEPARATED = 0.999
"""ROC AUC beyond which there is nothing to calibrate."""

Calibrate = Callable[[FloatArray], FloatArray]


def fitted(score: FloatArray, label: BoolArray) -> Calibrate:
    """What makes a probability of a score: isotonic where that is better calibrated, else the score itself."""
    if not needed(score, label):
        return np.asarray
    return isotonic(score, label)


def isotonic(score: FloatArray, label: BoolArray) -> Calibrate:
    from sklearn.isotonic import IsotonicRegression  # whose import takes a second

    model = IsotonicRegression(out_of_bounds="clip", increasing=True).fit(score, label.astype(np.float64))
    return lambda scores: np.asarray(model.predict(scores), dtype=np.float64)


def needed(score: FloatArray, label: BoolArray) -> bool:
    """Whether isotonic regression makes these scores better probabilities, of rows it has not seen."""
    area = roc_auc(label, score)
    if area is None or area > SEPARATED or min(np.bincount(label, minlength=2)) < 2 or len(label) < 2 * BINS:
        return False
    from sklearn.model_selection import StratifiedShuffleSplit

    labels, before, after = [], [], []
    splits = StratifiedShuffleSplit(n_splits=SPLITS, test_size=HELD_OUT, random_state=SEED)
    for train, test in splits.split(score, label):
        labels.append(label[test])
        before.append(score[test])
        after.append(isotonic(score[train], label[train])(score[test]))
    held_out = np.concatenate(labels)
    return _error(held_out, np.concatenate(before)) > _error(held_out, np.concatenate(after))


def _error(label: BoolArray, probability: FloatArray) -> float:
    """Expected calibration error over `BINS` bins of equally many rows; the last takes what is left over."""
    order = probability.argsort()
    p, y = probability[order], label[order]
    bins = BINS if len(p) > 2 * BINS else len(p) // 2
    edges = np.arange(0, len(p) + 1, len(p) // bins)
    edges[-1] = len(p)
    rows = np.diff(edges)
    sums = [np.add.reduceat(values, edges[:-1]) for values in (p, y.astype(np.float64))]
    return float(np.abs(sums[0] - sums[1]).sum() / rows.sum())
