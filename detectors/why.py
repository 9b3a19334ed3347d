"""Why: which features, and which parts of the traffic, account for what changed between two windows.

Two questions have the same shape. What has drifted: a classifier is taught to tell the window from the reference, and its score
of each row, by a model that has not seen it, is the number that changed. What got worse: the loss of each row is that number.

Features of a drift are ranked by Shapley values of the classifier's area under the ROC curve, each absent feature taken from
another row: Covert, Lundberg and Lee, "Understanding Global Feature Contributions With Additive Importance Measures" (SAGE),
NeurIPS 2020. They add up to the area above one half. Features of a loss are ranked by how much of the change their own shift
explains, by Kitagawa's decomposition of a difference of rates, J. Am. Stat. Assoc. 50 (1955).

Parts of the traffic with a share in the change are found by `detectors.pieces`. None of this says what caused what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import rankdata

from detectors.contract import ColumnKind, DetectorConfig, FloatArray, NotEnoughData, NotEvaluable, Window
from detectors.labelled import Classes
from detectors.multivariate_drift import raw, usable
from detectors.pieces import Bins, Piece, cut, find, halves

BoolArray = NDArray[np.bool_]


class WhyConfig(DetectorConfig):
    """How far it looks. All bounds are on the work, not on the clock: equal windows give equal answers."""

    max_rows: int = Field(4_000, ge=200, description="rows on either side; of more, every k-th")
    max_features: int = Field(30, ge=2, description="those that differ most by themselves")
    permutations: int = Field(16, ge=2, description="orders of the features that Shapley values are averaged over")
    folds: int = Field(3, ge=2)
    min_rows: int = Field(30, ge=2, description="of a part of the traffic, on one side")
    most_parts: int = Field(10, ge=1, description="parts that are handed to the other half to confirm")
    alpha: float = Field(0.05, gt=0, lt=1, description="that any part is confirmed by chance")
    seed: int = Field(0, ge=0)


@dataclass(frozen=True, slots=True)
class Cause:
    """A feature's share in the change. `contribution` is in the units of the change; `error` is its sampling error over orders of
    the features, where there are any. `within` is the change at equal values of the feature, which it does not explain."""

    feature: str
    contribution: float
    error: float | None = None
    within: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What changed and why. `change` is the number: the classifier's `area_above_half`, or the mean loss less the reference's.
    `searched`: parts of the traffic that were looked at."""

    statistic: str
    change: float
    features: tuple[Cause, ...]
    pieces: tuple[Piece, ...]
    searched: int
    n_reference: int
    n_current: int
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        found = asdict(self)
        found["pieces"] = [{"name": piece.name, **asdict(piece)} for piece in self.pieces]
        return found


def drift(reference: Window, current: Window, config: WhyConfig | None = None) -> Explanation:
    """Why the window can be told from the reference. Rows are taken to be in the order of time.

    Costs: `folds` fits of boosted trees over at most 2 * `max_rows` rows and `folds` + 1 over half of them, and `permutations`
    predictions a feature.

    Raises:
        NotEnoughData: fewer than 200 rows on a side.
        NotEvaluable: fewer than two features can be used.

    >>> import numpy as np
    >>> from detectors.contract import Frame
    >>> rng = np.random.default_rng(0)
    >>> before, now = ({"age": rng.normal(40, 10, 2000), "pay": rng.normal(30, 5, 2000)} for _ in range(2))
    >>> now["pay"] += 5
    >>> found = drift(Frame(before), Frame(now))
    >>> [cause.feature for cause in found.features], found.change > 0.2
    (['pay', 'age'], True)
    >>> found.pieces[0].conditions[0][0]
    'pay'
    """
    c = config or WhyConfig()
    sides = _sides(reference, current, c)
    x = sides.matrix
    area, shares, errors, scores = _told_apart(x, sides.n, sides.kinds, c)
    causes = [Cause(name, float(v), float(e)) for name, v, e in zip(sides.names, shares, errors, strict=True)]
    causes.sort(key=lambda cause: (-cause.contribution, cause.feature))
    pieces, searched = _pieces(sides, scores, c)
    if area <= 0.5:  # nobody can tell the sides apart, so there is nothing to account for
        pieces = ()
    return Explanation("area_above_half", area - 0.5, tuple(causes), pieces, searched, sides.n, sides.m, tuple(sides.left_out))


def worse(
    reference: Window,
    current: Window,
    losses: tuple[FloatArray, FloatArray],
    *,
    name: str = "loss",
    config: WhyConfig | None = None,
) -> Explanation:
    """Why the mean of `losses` changed: one number for each row of the reference and of the window, NaN where none is known.

    Raises:
        NotEnoughData: fewer than 200 rows with a loss on a side.
        NotEvaluable: fewer than two features can be used.
    """
    c = config or WhyConfig()
    there = [np.isfinite(side) for side in losses]
    sides = _sides(reference, current, c, there)
    both = np.concatenate([loss[rows] for loss, rows in zip(losses, sides.rows, strict=True)])
    n = sides.n
    change = float(both[n:].mean() - both[:n].mean())
    causes = []
    for feature in sides.names:
        between, within = kitagawa(sides.bins.of(feature), both, n)
        causes.append(Cause(feature, between, within=within))
    sign = 1.0 if change >= 0 else -1.0
    causes.sort(key=lambda cause: (-sign * cause.contribution, cause.feature))
    pieces, searched = _pieces(sides, both, c)
    return Explanation(name, change, tuple(causes), pieces, searched, n, sides.m, tuple(sides.left_out))


def errors_of(window: Window, *, regression: bool) -> FloatArray:
    """The loss of each row: absolute error, or 1 for a wrong class; NaN without a label or a prediction."""
    if regression:
        return np.abs(window.numbers("label") - window.numbers("prediction"))
    given, said = (Classes(window.categories(name)) for name in ("label", "prediction"))
    names = sorted(given.every() | said.every())
    wrong = (given.index(names) != said.index(names)).astype(np.float64)
    return np.where(given.usable & said.usable, wrong, np.nan)


def expected_errors_of(window: Window) -> FloatArray:
    """The loss to be expected of each row of a binary model before its label is known: how likely, by its own probability, the
    likelier class is wrong. NaN without a probability."""
    p = window.numbers("probability")
    return np.where((p >= 0) & (p <= 1), np.minimum(p, 1 - p), np.nan)


# --- rows and bins -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both sides in one, the reference's `n` rows first."""

    names: list[str]
    kinds: list[ColumnKind]
    matrix: FloatArray
    bins: Bins
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    left_out: list[str]

    @property
    def n(self) -> int:
        return len(self.rows[0])

    @property
    def m(self) -> int:
        return len(self.rows[1])


def _sides(reference: Window, current: Window, c: WhyConfig, there: Sequence[BoolArray] | None = None) -> _Sides:
    names = tuple(dict.fromkeys((*reference.features, *current.features)))
    used, unusable = usable(names, reference, current)
    rows = []
    for i, window in enumerate((reference, current)):
        found = np.arange(window.rows) if there is None else np.flatnonzero(there[i])
        rows.append(found[:: max(-(-len(found) // c.max_rows), 1)])
    if (fewest := min(len(side) for side in rows)) < 200:
        raise NotEnoughData(f"why: {fewest} rows on one side, 200 are needed")
    if len(used) < 2:
        raise NotEvaluable("no_features", f"{len(used)} of {len(names)} can be used, two are needed")
    matrix = np.concatenate([raw(used, reference, w)[r] for w, r in zip((reference, current), rows, strict=True)])
    kept = _most_different(matrix, len(rows[0]), c.max_features)
    chosen = [used[i] for i in kept]
    bins = cut(chosen, reference, current, rows)
    left_out = [part.name for part in unusable] + sorted({name for name, _ in used} - {name for name, _ in chosen})
    return _Sides([n for n, _ in chosen], [k for _, k in chosen], matrix[:, kept], bins, (rows[0], rows[1]), left_out)


def _most_different(matrix: FloatArray, n: int, most: int) -> list[int]:
    """Columns whose values, as ranks, differ most between the sides; in their own order."""
    if matrix.shape[1] <= most:
        return list(range(matrix.shape[1]))
    apart = []
    for column in matrix.T:
        ranks = rankdata(np.nan_to_num(column, nan=-math.inf))
        cells = np.minimum((ranks * 10 / (len(ranks) + 1)).astype(int), 9)
        shares = [np.bincount(side, minlength=10) / len(side) for side in (cells[:n], cells[n:])]
        apart.append(float(np.abs(shares[0] - shares[1]).sum()))
    return sorted(sorted(range(len(apart)), key=lambda i: (-apart[i], i))[:most])


def _pieces(sides: _Sides, values: FloatArray, c: WhyConfig) -> tuple[tuple[Piece, ...], int]:
    return find(sides.bins, values, sides.n, min_rows=c.min_rows, most=c.most_parts, alpha=c.alpha)


# --- features ------------------------------------------------------------------------------------------------------------


def _told_apart(x: FloatArray, n: int, kinds: list[ColumnKind], c: WhyConfig) -> tuple[float, FloatArray, FloatArray, FloatArray]:
    """Area under the curve, each feature's Shapley value with its error, and each row's score by a model that has not seen it."""
    import sklearn.ensemble  # noqa: F401 (before the limit, which finds only what is loaded)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="openmp"):  # as in multivariate_drift: threads that wait for each other take minutes
        return *_shapley(x, n, kinds, c), _apart(x, n, kinds, c)


def _fitted(x: FloatArray, current: BoolArray, kinds: list[ColumnKind], c: WhyConfig) -> Any:
    """A classifier for which both sides count alike."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=50, categorical_features=[kind == "category" for kind in kinds], early_stopping=False, random_state=c.seed
    )
    weights = np.where(current, 1 / current.sum(), 1 / (~current).sum())
    return model.fit(x, current, sample_weight=weights * len(x) / 2)


def _apart(x: FloatArray, n: int, kinds: list[ColumnKind], c: WhyConfig) -> FloatArray:
    """Each row's score, for the search of parts: of the half that confirms by a model of the half that is searched, and of that
    one by models of the rest of it. What confirms must have had no say in what is searched, not even through a model."""
    m = len(x) - n
    current = np.arange(len(x)) >= n
    half = halves(n, m)
    fold = np.concatenate([np.arange(side) * c.folds // side for side in (n, m)])
    scores = np.empty(len(x))
    for k in range(c.folds):
        asked = (half == 0) & (fold == k)
        seen = (half == 0) & (fold != k)
        scores[asked] = _fitted(x[seen], current[seen], kinds, c).predict_proba(x[asked])[:, 1]
    seen = half == 0
    scores[~seen] = _fitted(x[seen], current[seen], kinds, c).predict_proba(x[~seen])[:, 1]
    return scores


def _shapley(x: FloatArray, n: int, kinds: list[ColumnKind], c: WhyConfig) -> tuple[float, FloatArray, FloatArray]:
    m, d = len(x) - n, x.shape[1]
    current = np.arange(len(x)) >= n
    fold = np.concatenate([np.arange(side) * c.folds // side for side in (n, m)])
    models = []
    scores = np.empty(len(x))
    for k in range(c.folds):
        seen = fold != k
        model = _fitted(x[seen], current[seen], kinds, c)
        scores[~seen] = model.predict_proba(x[~seen])[:, 1]
        models.append(model)
    area = _area(scores, current)
    # A thousand rows a side tell the shares well enough, and each of them is asked for d + 1 times.
    asked = np.concatenate([np.arange(n)[:: -(-n // 1000)], n + np.arange(m)[:: -(-m // 1000)]])
    rng = np.random.default_rng([c.seed, n, m, d])
    of_asked = current[asked]
    whole = _area(scores[asked], of_asked)
    gains = np.empty((c.permutations, d))
    for p in range(c.permutations):
        order = rng.permutation(d)
        strangers = x[rng.integers(0, len(x), len(asked))]
        values = np.empty((d, len(asked)))
        for k, model in enumerate(models):
            rows = np.flatnonzero(fold[asked] == k)
            known = np.repeat(strangers[rows][None], d, axis=0)  # (step, row, feature)
            for step in range(d - 1):
                known[step + 1 :, :, order[step]] = x[asked[rows], order[step]]
            # Step 0 knows nothing, which is an area of one half; so what is asked are the steps in between.
            told = model.predict_proba(known[1:].reshape(-1, d))[:, 1] if d > 1 else np.empty(0)
            values[:-1, rows] = told.reshape(d - 1, len(rows))
        areas = [0.5, *(_area(step, of_asked) for step in values[:-1]), whole]
        gains[p, order] = np.diff(areas)
    # What the thousand rows differ from all is spread evenly, so that the shares add up to the area that is told.
    shares = gains.mean(axis=0) + (area - whole) / d
    return area, shares, gains.std(axis=0, ddof=1) / math.sqrt(c.permutations)


def _area(scores: FloatArray, current: BoolArray) -> float:
    ranks = rankdata(scores)
    m = int(current.sum())
    n = len(current) - m
    return float((ranks[current].sum() - m * (m + 1) / 2) / (n * m))


def kitagawa(bins: BoolArray, values: FloatArray, n: int) -> tuple[float, float]:
    """The change of the mean of `values` (n rows before, the others after), in two terms that add up to it: by other shares of
    the bins at the mean of both sides' rates, and by other rates within them. A bin that one side has not got has the rate of
    the other.

    >>> bins = np.eye(2, dtype=bool)[[0, 0, 0, 1, 0, 1, 1, 1]]
    >>> kitagawa(bins, np.array([0, 0, 0, 1, 0, 1, 1, 1.0]), 4)
    (0.5, 0.0)
    """
    sides = [slice(0, n), slice(n, None)]
    shares = [bins[side].mean(axis=0) for side in sides]
    sums = [(bins[side] * values[side, None]).mean(axis=0) for side in sides]
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = [total / share for total, share in zip(sums, shares, strict=True)]
    before, after = (np.where(np.isfinite(one), one, other) for one, other in (rates, rates[::-1]))
    before, after = np.nan_to_num(before), np.nan_to_num(after)
    between = float(((shares[1] - shares[0]) * (before + after) / 2).sum())
    within = float(((after - before) * (shares[0] + shares[1]) / 2).sum())
    return between, within
