"""Multivariate drift: do the features still go together as they did, though each alone looks the same?

Two methods. The reconstruction error of a principal component analysis fitted to the reference, as NannyML 0.13.1 defines it
(`DataReconstructionDriftCalculator`). And a domain classifier: how well gradient-boosted trees tell rows of the window from rows
of the reference, of those that they have not seen.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from detectors.contract import (
    ColumnKind,
    DetectorConfig,
    FloatArray,
    NotEnoughData,
    NotEvaluable,
    Outcome,
    Part,
    Reading,
    Window,
    Worse,
)
from detectors.reconstruction import LARGEST, Block, Reconstruction
from detectors.sides import of_features
from detectors.text_drift import area_under_curve, p_value_of_area

SAMPLING_ERRORS = 3.0
"""How many of them NannyML's confidence boundaries lie from the value."""


class MultivariateDrift:
    """How badly the reference's principal components rebuild the window's rows, or how well a model tells the two apart.

    Reads:  features, those that both windows have, of the same kind. Missing values become the reference's mean or most frequent
            category, categories their frequency in the reference, a new one 0; all are then scaled as the reference is.
    Gives:  `pca`: `reconstruction_error`, the mean distance between a row and its rebuilt self, with bounds three sampling errors
            away, as NannyML's. It can fall as well as rise. `metrics` have the reference's own error, and `p_value`: how often
            chance moves the error of windows of this size as far, either way, by block resampling of the reference. Parts:
            how much each feature's mean squared residual changed, the largest first.
            `domain_classifier`: `auc`, 0.5 where the two cannot be told apart, over rows each scored by a model that has not seen
            it, with a normal interval, and `p_value` by Mann and Whitney. Folds are runs of rows in time, so that a row's
            neighbours do not give it away. Parts: by how much the area falls when a feature is shuffled.
    Costs:  pca: a pass and a product of features x features. domain_classifier: five fits over at most 2 * `max_rows` rows.
    Raises: NotEnoughData, when either side has fewer than `min_rows` rows, or the reference is too small to calibrate.
            NotEvaluable, when there is no reference, fewer than two features are left, or none varies.

    Features that are missing, of another kind, or text where numbers were, are left out, and a part says so.
    """

    name: ClassVar[str] = "multivariate_drift"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"features"})
    worse: Worse = "higher"

    class Config(DetectorConfig):
        method: Literal["pca", "domain_classifier"] = "pca"
        reading: Literal["value", "p_value"] = Field("value", description="what the threshold of the check judges")
        features: tuple[str, ...] | None = Field(None, min_length=2, description="none: all features of the model")
        n_components: float = Field(0.65, gt=0, description="pca: share of the variance to keep; from 1 on, how many components")
        min_rows: int = Field(100, ge=10, description="on either side")
        resamples: int = Field(1000, ge=100, description="pca: splits of the reference")
        block_rows: int | None = Field(None, ge=1, description="pca: rows drawn together; none: by their autocorrelation")
        max_rows: int = Field(20_000, ge=100, description="domain_classifier: rows on either side; of more, every k-th")
        folds: int = Field(5, ge=2, description="domain_classifier")
        seed: int = Field(0, ge=0, description="domain_classifier")

        @model_validator(mode="after")
        def _components_are_a_share_or_a_number(self) -> MultivariateDrift.Config:
            if self.n_components > 1 and self.n_components != int(self.n_components):
                raise ValueError(f"n_components ({self.n_components}) is a share below 1 or a whole number")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = "lower" if config.reading == "p_value" else "higher"
        self._fitted: tuple[Window, list[Block], Reconstruction] | None = None  # to the last reference

    def compare(self, reference: Window | None, current: Window) -> Reading:
        c = self.config
        if reference is None:
            raise NotEvaluable("no_reference", "multivariate_drift compares with one")
        if (fewest := min(reference.rows, current.rows)) < c.min_rows:
            raise NotEnoughData(f"multivariate_drift: {fewest} rows, min_rows is {c.min_rows}")
        names = c.features or tuple(dict.fromkeys((*reference.features, *current.features)))
        used, left_out = usable(names, reference, current)
        if len(used) < 2:
            raise NotEvaluable("no_features", f"{len(used)} of {len(names)} can be used, two are needed")
        with np.errstate(over="ignore", invalid="ignore"):
            value, bounds, parts, metrics = (self._pca if c.method == "pca" else self._classifier)(used, reference, current)
        statistic = "reconstruction_error" if c.method == "pca" else "auc"
        metrics = {**metrics, statistic: value, "features": len(names), "evaluated_features": len(used)}
        by_p = c.reading == "p_value"
        return Reading(
            metrics["p_value"] if by_p else value,
            "p_value" if by_p else statistic,
            n_current=current.rows,
            n_reference=reference.rows,
            lower=None if by_p else bounds[0],
            upper=None if by_p else bounds[1],
            parts=(*parts, *left_out),
            metrics=metrics,
        )

    def _pca(
        self, used: list[Block], reference: Window, current: Window
    ) -> tuple[float, tuple[float, float], list[Part], dict[str, float]]:
        before = self._before(used, reference)
        now = before.residuals(current)
        errors = np.sqrt((now**2).sum(axis=1))
        n, m = len(before.errors), len(errors)
        value, error = float(errors.mean()), float(errors.std(ddof=1)) / math.sqrt(m)
        null = before.null(m)
        moved = (now**2).mean(axis=0) - before.mean_squares
        parts = sorted(
            (
                Part(name, "squared_residual_change", value=float(change), n_reference=n, n_current=m, library=None)
                for (name, _), change in zip(used, moved, strict=True)
            ),
            key=lambda part: (-(part.value or 0.0), part.name),
        )
        mean = float(before.errors.mean())
        metrics = {
            "reference_error": mean,
            "sampling_error": error,
            "components": float(len(before.components)),
            "p_value": null.p_value(abs(value - mean)),
            "p_value_floor": null.floor,
        }
        return value, (max(value - SAMPLING_ERRORS * error, 0.0), value + SAMPLING_ERRORS * error), parts, metrics

    def _before(self, used: list[Block], reference: Window) -> Reconstruction:
        """Fitted once to a reference that stays the same from window to window."""
        if (kept := self._fitted) is None or kept[0] is not reference or kept[1] != used:
            c = self.config
            self._fitted = kept = reference, used, Reconstruction(used, reference, c.n_components, c.block_rows, c.resamples)
        return kept[2]

    def _classifier(
        self, used: list[Block], reference: Window, current: Window
    ) -> tuple[float, tuple[float, float], list[Part], dict[str, float]]:
        c = self.config
        sides = []
        for window in (reference, current):
            step = -(-window.rows // c.max_rows)
            sides.append(raw(used, reference, window)[::step])
        area, drops, n, m = out_of_fold(np.concatenate(sides), len(sides[0]), [k for _, k in used], c.folds, c.seed)
        half = 1.96 * math.sqrt(max(area * (1 - area), 1e-12) / min(n, m))  # an upper bound: Birnbaum and Klose (1957)
        parts = sorted(
            (
                Part(name, "area_without", value=float(drop), n_reference=n, n_current=m)
                for (name, _), drop in zip(used, drops, strict=True)
            ),
            key=lambda part: (-(part.value or 0.0), part.name),
        )
        return area, (max(area - half, 0.0), min(area + half, 1.0)), parts, {"p_value": p_value_of_area(area, m, n)}


def usable(names: tuple[str, ...], reference: Window, current: Window) -> tuple[list[Block], list[Part]]:
    """The features that can stand in a matrix, and a part for each that cannot."""
    kinds, used, left_out = of_features(reference, current), [], []
    for name in names:
        try:
            kind = kinds(name)
            if kind == "number":
                there = [np.abs(window.numbers(name)) <= LARGEST for window in (reference, current)]
            else:
                there = [window.categories(name).codes >= 0 for window in (reference, current)]
            if not all(side.any() for side in there):
                raise NotEvaluable("no_features", "no value")
        except NotEvaluable as exc:
            left_out.append(Part(name, "multivariate", outcome=Outcome.NOT_EVALUABLE, reason=exc.reason))
            continue
        used.append((name, kind))
    return used, left_out


# --- domain classifier -----------------------------------------------------------------------------------------------------


def raw(used: list[Block], reference: Window, window: Window) -> FloatArray:
    """(rows, features) as trees take them: NaN where missing, categories by the place of their name in the reference. The 254
    most frequent have one, the others share the last."""
    columns = []
    for name, kind in used:
        if kind == "number":
            values = window.numbers(name)
            columns.append(np.where(np.abs(values) <= LARGEST, values, np.nan))
            continue
        known, column = reference.categories(name), window.categories(name)
        counts = np.bincount(known.codes[known.codes >= 0], minlength=len(known.names))
        kept = sorted(np.lexsort((np.arange(len(counts)), -counts))[:254].tolist())
        place = {known.names[i]: float(rank) for rank, i in enumerate(kept)}
        codes = np.array([*(place.get(text, float(len(kept))) for text in column.names), np.nan])
        columns.append(codes[column.codes])
    return np.stack(columns, axis=1)


def out_of_fold(x: FloatArray, n: int, kinds: list[ColumnKind], folds: int, seed: int) -> tuple[float, FloatArray, int, int]:
    """Area under the ROC curve over all rows, each scored by a model that has not seen its fold; by how much it falls with each
    feature shuffled, on the last fold; and how many rows are the reference's (the first `n` of x) and the window's."""
    import sklearn.ensemble  # noqa: F401 (before the limit, which finds only what is loaded)
    from threadpoolctl import threadpool_limits

    # One thread: on a machine that is busy, threads that wait for each other take minutes for what one does in a second.
    with threadpool_limits(1, user_api="openmp"):
        return _out_of_fold(x, n, kinds, folds, seed)


def _out_of_fold(x: FloatArray, n: int, kinds: list[ColumnKind], folds: int, seed: int) -> tuple[float, FloatArray, int, int]:
    from sklearn.ensemble import HistGradientBoostingClassifier

    m = len(x) - n
    current = np.arange(len(x)) >= n
    fold = np.concatenate([np.arange(side) * folds // side for side in (n, m)])
    scores = np.empty(len(x))
    model: Any = None
    for k in range(folds):
        seen: NDArray[np.bool_] = fold != k
        model = HistGradientBoostingClassifier(
            categorical_features=[kind == "category" for kind in kinds], early_stopping=False, random_state=seed
        )
        # Both sides weigh the same, so a small window is not lost beside a large reference.
        weights = np.where(current[seen], 1 / max(current[seen].sum(), 1), 1 / max((~current[seen]).sum(), 1))
        model.fit(x[seen], current[seen], sample_weight=weights * seen.sum() / 2)
        scores[~seen] = model.predict_proba(x[~seen])[:, 1]
    held, rng = fold == folds - 1, np.random.default_rng(seed)
    rows, side = x[held], current[held]
    area = area_under_curve(side, scores[held])
    drops = np.zeros(x.shape[1])
    for i in range(x.shape[1]):
        shuffled = rows.copy()
        shuffled[:, i] = rng.permutation(rows[:, i])
        drops[i] = area - area_under_curve(side, model.predict_proba(shuffled)[:, 1])
    return area_under_curve(current, scores), drops, n, m
