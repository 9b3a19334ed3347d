"""Embedding drift: have the vectors moved? Of texts, images, audio, whatever the client sends.

Four methods, as Evidently 0.7.23's `EmbeddingsDrift` defines them:
distance between the centroids, area under the ROC curve of a linear domain classifier, share of drifted components, and squared
maximum mean discrepancy (Gretton et al., JMLR 13 (2012)). Equal in value; Evidently's thresholds are known not to hold (its share
of drifted components flags 63 % of unmoved windows of 500, its discrepancy misses a shift by one deviation), so each comes with
a p-value of its own, by permutation of the rows, or by Mann and Whitney for the classifier.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from detectors import distances
from detectors.contract import DetectorConfig, FloatArray, NotEnoughData, NotEvaluable, Part, Reading, Window, Worse, vectors_of
from detectors.text_drift import area_under_curve, p_value_of_area

if TYPE_CHECKING:
    import torch

Method = Literal["mmd", "domain_classifier", "distance", "ratio"]
Distance = Literal["euclidean", "cosine", "cityblock", "chebyshev"]

THRESHOLDS: dict[Method, float] = {"distance": 0.2, "domain_classifier": 0.55, "ratio": 0.2, "mmd": 0.015}
COMPONENT_THRESHOLD = 0.1
MEDIAN_ROWS = 1000
PARTS = 20
ORACLE = "evidently 0.7.23"


class EmbeddingDrift:
    """Whether a column of vectors is distributed otherwise than in the reference.

    Reads:  the column of the setting `column` (`contract.vectors_of`), float32 (rows, dimension). Rows with a missing or infinite
            number are left out; `metrics` say how many vectors there were.
    Gives:  `mmd`               squared discrepancy under a Gaussian kernel, 0 or more; 0 for no drift
            `distance`          between the means, in the unit of the vectors; cosine: 0..2
            `domain_classifier` area under the ROC curve on a half that was held out, 0.5 for no drift
            `ratio`             share of the components whose Wasserstein distance is 0.1 deviations or more; those are the parts
            `metrics` have `p_value` and `drifted`, 1 where the value is above Evidently's threshold for the method.
    Costs:  mmd: a kernel of (2 * `max_rows`)^2 entries; the others a few passes. Computed with torch in float64, on a GPU where
            there is one. It takes windows of at most `max_rows` rows a side, and of more a seeded sample.
    Raises: NotEnoughData, when either side has fewer than `min_rows` vectors.
            NotEvaluable: no_reference; missing_column; not_numeric; type_changed, when the dimension is another; constant, where
            the statistic is not defined.

    Permutation takes rows as independent; those of a conversation or a video are not, and its p-value is then too small.
    """

    name: ClassVar[str] = "embedding_drift"
    version: ClassVar[str] = "1"
    inputs: frozenset[str] = frozenset({"features"})
    worse: Worse = "higher"
    isolated: ClassVar[bool] = True  # torch stays out of the process that owns the store

    class Config(DetectorConfig):
        column: str = Field("embedding", min_length=1, description="of vectors, or the beginning of column.0, column.1 ...")
        method: Method = "mmd"
        reading: Literal["value", "p_value"] = Field("value", description="what the threshold of the check judges")
        distance: Distance = Field("euclidean", description="for method distance")
        pca_components: int | None = Field(None, ge=1, description="reduce both sides to so many components of the reference")
        permutations: int = Field(500, ge=50, description="for the p-value")
        min_rows: int = Field(30, ge=4, description="on either side")
        max_rows: int = Field(2000, ge=30, description="on either side")
        device: str = Field("auto", description="CUDA where there is one, else CPU; or a torch device")
        seed: int = Field(0, ge=0, description="of the sample and the permutations")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.worse = "lower" if config.reading == "p_value" else "higher"
        self.inputs = frozenset({config.column})
        self.sample_rows = config.max_rows

    def compare(self, reference: Window | None, current: Window) -> Reading:
        c = self.config
        if reference is None:
            raise NotEvaluable("no_reference", "embedding_drift compares with one")
        sides = [vectors_of(window, c.column) for window in (reference, current)]
        if sides[0].shape[1] != sides[1].shape[1]:
            raise NotEvaluable("type_changed", f"vectors of {sides[1].shape[1]} numbers, {sides[0].shape[1]} in the reference")
        there = [side[np.isfinite(side).all(axis=1)].astype(np.float64) for side in sides]
        if (fewest := min(len(side) for side in there)) < c.min_rows:
            raise NotEnoughData(f"embedding_drift: {fewest} vectors, min_rows is {c.min_rows}")
        x, y = (_sampled(side, c.max_rows, c.seed + i) for i, side in enumerate(there))
        if c.pca_components is not None:
            x, y = reduced(x, y, c.pca_components)
        with np.errstate(over="ignore", invalid="ignore"):
            found = METHODS[c.method](x, y, c)
        if not (math.isfinite(found.value) and math.isfinite(found.p_value)):
            raise NotEvaluable("constant", f"{c.method} is not defined on these vectors")
        by_p = c.reading == "p_value"
        return Reading(
            found.p_value if by_p else found.value,
            "p_value" if by_p else c.method,
            n_current=len(there[1]),
            n_reference=len(there[0]),
            parts=found.parts,
            metrics={
                c.method: found.value,
                "p_value": found.p_value,
                "drifted": float(found.value > THRESHOLDS[c.method]),
                "dimension": float(x.shape[1]),
                "rows_compared": float(len(x) + len(y)),
            },
        )


class Found(NamedTuple):
    value: float
    p_value: float
    parts: tuple[Part, ...] = ()


def _sampled(vectors: FloatArray, most: int, seed: int) -> FloatArray:
    if len(vectors) <= most:
        return vectors
    return vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), most, replace=False))]


def reduced(x: FloatArray, y: FloatArray, components: int) -> tuple[FloatArray, FloatArray]:
    from sklearn.decomposition import PCA

    if components > min(x.shape):
        raise NotEvaluable("wrong_type", f"{components} components of {x.shape[0]} vectors of {x.shape[1]} numbers")
    model: Any = PCA(n_components=components, random_state=0)
    return model.fit_transform(x), model.transform(y)


def on_device(c: EmbeddingDrift.Config, *arrays: FloatArray) -> list[torch.Tensor]:
    import torch

    device = ("cuda" if torch.cuda.is_available() else "cpu") if c.device == "auto" else c.device
    # Half the machine's digits are lost in float32 where vectors are long and alike, and parity with them.
    return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]


def permuted(rows: int, n: int, c: EmbeddingDrift.Config) -> FloatArray:
    """(permutations, rows): 1 where a row is on the reference's side this time, n of them each time."""
    rng = np.random.default_rng([c.seed, rows, n])
    sides = np.zeros((c.permutations, rows))
    np.put_along_axis(sides, np.argsort(rng.random((c.permutations, rows)), axis=1)[:, :n], 1.0, axis=1)
    return sides


def reached(value: float, by_chance: torch.Tensor) -> float:
    """The share of permutations, this one included, that come as far; ties by rounding count."""
    slack = 1e-9 * max(abs(value), 1e-12)
    return (int((by_chance >= value - slack).sum().item()) + 1) / (len(by_chance) + 1)


# --- methods -----------------------------------------------------------------------------------------------------------


def mmd(x: FloatArray, y: FloatArray, c: EmbeddingDrift.Config) -> Found:
    import torch

    n, m = len(x), len(y)
    # The median over a sample that pandas' `sample(random_state=0)` would draw: part of Evidently's value.
    some = [side[np.random.RandomState(0).choice(len(side), min(len(side), MEDIAN_ROWS), replace=False)] for side in (x, y)]
    a, b, both, sides = on_device(c, *some, np.concatenate([x, y]), permuted(n + m, n, c))
    middle = _median(torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").flatten())
    if middle == 0:
        raise NotEvaluable("constant", "half of the vectors are equal")
    kernel = torch.exp(-(torch.cdist(both, both) ** 2) / middle**2)
    kernel.fill_diagonal_(0.0)  # no vector is compared with itself
    first = torch.zeros((1, n + m), dtype=sides.dtype, device=sides.device)
    first[0, :n] = 1.0
    left = torch.cat([first, sides])
    # Only which rows are on which side changes, so each permutation is a quadratic form and not a new kernel.
    rows = left @ kernel
    xx = (rows * left).sum(dim=1)
    across = rows.sum(dim=1) - xx
    yy = kernel.sum() - 2 * across - xx
    found = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * across / (n * m)
    value = float(found[0].item())  # the host waits for the device here
    return Found(max(value, 0.0), reached(value, found[1:]))


def _median(values: torch.Tensor) -> float:
    """The middle, or the mean of the two in the middle: torch's own takes the lower one."""
    ordered, half = values.sort().values, len(values) // 2
    return float(ordered[half].item()) if len(values) % 2 else float((ordered[half - 1] + ordered[half]).item()) / 2


def centroids(x: FloatArray, y: FloatArray, c: EmbeddingDrift.Config) -> Found:
    import torch

    n, m = len(x), len(y)
    both, sides = on_device(c, np.concatenate([x, y]), permuted(n + m, n, c))
    first = torch.zeros((1, n + m), dtype=sides.dtype, device=sides.device)
    first[0, :n] = 1.0
    sums = torch.cat([first, sides]) @ both
    p, q = sums / n, (both.sum(dim=0) - sums) / m
    match c.distance:
        case "euclidean":
            found = (p - q).norm(dim=1)
        case "cityblock":
            found = (p - q).abs().sum(dim=1)
        case "chebyshev":
            found = (p - q).abs().max(dim=1).values
        case "cosine":
            found = 1 - (p * q).sum(dim=1) / (p.norm(dim=1) * q.norm(dim=1))
    value = float(found[0].item())
    return Found(value, reached(value, found[1:]))


def domain_classifier(x: FloatArray, y: FloatArray, c: EmbeddingDrift.Config) -> Found:
    """Evidently's own model: logistic regression by stochastic gradient, on a random half, seeded by 42."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import train_test_split

    side = np.array([1] * len(x) + [0] * len(y))
    train, test, of_train, of_test = train_test_split(np.concatenate([x, y]), side, test_size=0.5, random_state=42, shuffle=True)
    if min(len(set(of_train.tolist())), len(set(of_test.tolist()))) < 2:
        raise NotEnoughData("too few vectors: one half of them is of one side")
    model: Any = SGDClassifier(loss="log_loss", random_state=42)
    try:
        model.fit(train, of_train)
        scores: FloatArray = model.predict_proba(test)[:, 1]
    except ValueError as exc:  # it diverged: numbers near the largest float
        raise NotEvaluable("constant", str(exc)) from exc
    if not np.isfinite(scores).all():
        raise NotEvaluable("constant", "the classifier diverged")
    positive: NDArray[np.bool_] = of_test == 1
    area = area_under_curve(positive, scores)
    return Found(area, p_value_of_area(area, int(positive.sum()), int((~positive).sum())))


def ratio(x: FloatArray, y: FloatArray, c: EmbeddingDrift.Config) -> Found:
    """Share of the components that drifted by Wasserstein. In windows of hundreds it is near 1 by chance alone, so the p-value is
    that of the mean distance of the components, by permutations of whole rows, which keep the components together."""
    import torch

    n, m = len(x), len(y)
    far = np.array([distances.wasserstein(a, b) for a, b in zip(x.T, y.T, strict=True)])
    both, sides = on_device(c, np.concatenate([x, y]), permuted(n + m, n, c))
    together = torch.zeros(len(sides), dtype=sides.dtype, device=sides.device)
    for i in range(both.shape[1]):
        ordered, order = both[:, i].sort()
        left = sides[:, order]  # (permutations, rows)
        gap = (left.cumsum(dim=1) / n - (1 - left).cumsum(dim=1) / m).abs()[:, :-1] @ ordered.diff()
        mean = left @ ordered / n
        deviation = ((left @ ordered**2) / n - mean**2).clamp(min=0).sqrt().clamp(min=0.001)
        together += gap / deviation
    value = float((far >= COMPONENT_THRESHOLD).mean())
    furthest = np.argsort(-far, kind="stable")[:PARTS]
    parts = tuple(
        Part(
            f"{c.column}.{i}",
            "wasserstein",
            value=float(far[i]),
            threshold=COMPONENT_THRESHOLD,
            flagged=bool(far[i] >= COMPONENT_THRESHOLD),
            n_reference=n,
            n_current=m,
            library=ORACLE,
        )
        for i in furthest
    )
    return Found(value, reached(float(far.sum()), together), parts)


METHODS = {"mmd": mmd, "distance": centroids, "domain_classifier": domain_classifier, "ratio": ratio}
