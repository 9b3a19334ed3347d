"""Rows rebuilt from the principal components of a reference, and how well by chance.

As NannyML 0.13.1 has it (`DataReconstructionDriftCalculator`): its imputers, count encoder, scaler and components.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detectors import calibration
from detectors.calibration import Null, Plan, Rows
from detectors.contract import Categories, ColumnKind, FloatArray, NotEvaluable, Window
from detectors.nullsizes import drawn_at
from detectors.summary import content_seed

LARGEST = 1e150
"""Numbers beyond it count as missing: their squares would be infinite."""

NULLS_KEPT = 32
"""Of one reference, by size of the window."""

Block = tuple[str, ColumnKind]


class Reconstruction:
    """Fitted to a reference. `errors` (rows,) are its own reconstruction errors, `mean_squares` (features,) its mean squared
    residuals.

    Raises:
        NotEvaluable: nothing varies, or there are fewer features than components, or no more.
    """

    def __init__(self, used: Sequence[Block], reference: Window, wanted: float, block_rows: int | None, resamples: int) -> None:
        """`wanted`: a share of the variance below 1, else how many components."""
        self._encoder = Encoder(used, reference)
        self._block_rows, self._resamples = block_rows, resamples
        self._nulls: dict[Plan, Null] = {}
        x = self._encoder.rows(reference)
        self.components = principal_components(x, wanted)
        if (kept := len(self.components)) == x.shape[1]:  # what is lost then is rounding, and rounding would be called drift
            raise NotEvaluable("no_features", f"{kept} components rebuild {kept} features whole; set n_components below {kept}")
        lost = residuals(x, self.components)
        self.mean_squares: FloatArray = (lost**2).mean(axis=0)
        self.errors: FloatArray = np.sqrt((lost**2).sum(axis=1))

    def residuals(self, window: Window) -> FloatArray:
        """What is lost of each row, (rows, features)."""
        return residuals(self._encoder.rows(window), self.components)

    def null(self, window_rows: int) -> Null:
        """Of |mean error of a window - mean error of the reference|, from the reference's errors in time. Drawn once for windows
        of about one size: chance alone makes the difference between two sizes, and that is a factor.

        Raises:
            NotEnoughData: the reference is too small.
        """
        values = self.errors
        plan = calibration.plan(len(values), drawn_at(window_rows), self._length, self._resamples, self._seed)
        if (null := self._nulls.pop(plan, None)) is None:
            drawn = self._apart(plan.draws())
            if plan.seamed:
                drawn = drawn * np.sqrt(plan.widening(drawn**2, self._apart(plan.stretches()) ** 2))
            null = Null.of(drawn, plan.smallest)
        self._nulls[plan] = null
        while len(self._nulls) > NULLS_KEPT:
            self._nulls.pop(next(iter(self._nulls)))
        return null.scaled(math.sqrt(1 / len(values) + 1 / window_rows))

    def _apart(self, draws: Iterable[Rows]) -> FloatArray:
        """How far the mean errors of such rows are from those of the rest, as it would be with one row on either side."""
        values, total = self.errors, float(self.errors.sum())
        sums = [(values[rows].sum(axis=1), rows.shape[1]) for rows in draws]
        means = [(drawn / m - (total - drawn) / (len(values) - m), m) for drawn, m in sums]
        return np.concatenate([np.abs(apart) / math.sqrt(1 / m + 1 / (len(values) - m)) for apart, m in means])

    @cached_property
    def _length(self) -> int | None:
        return self._block_rows if self._block_rows is not None else calibration.dependence([self.errors])

    @cached_property
    def _seed(self) -> int:
        return content_seed({"values": np.ascontiguousarray(self.errors).view(np.int64)})


@dataclass(frozen=True, slots=True)
class Scale:
    """How one feature becomes a number: what stands for a missing one, a category's share, then mean and deviation."""

    fill: float
    shares: dict[str, float]
    mean: float
    deviation: float


class Encoder:
    """Rows as numbers, by the reference: NannyML's imputers, count encoder and scaler in one."""

    def __init__(self, used: Sequence[Block], reference: Window) -> None:
        self._used = used
        self._scales = [self._scale(name, kind, reference) for name, kind in used]

    def rows(self, window: Window) -> FloatArray:
        """(rows, features)."""
        return np.stack(list(self._columns(window)), axis=1)

    def _columns(self, window: Window) -> Iterator[FloatArray]:
        for (name, kind), scale in zip(self._used, self._scales, strict=True):
            yield (self._numbers(window, name, kind, scale) - scale.mean) / scale.deviation

    def _numbers(self, window: Window, name: str, kind: ColumnKind, scale: Scale) -> FloatArray:
        if kind == "number":
            values = window.numbers(name)
            return np.where(np.abs(values) <= LARGEST, values, scale.fill)
        column = window.categories(name)
        shares = np.array([*(scale.shares.get(text, 0.0) for text in column.names), scale.fill])
        return shares[column.codes]

    def _scale(self, name: str, kind: ColumnKind, reference: Window) -> Scale:
        if kind == "number":
            values = reference.numbers(name)
            blank = Scale(float(values[np.abs(values) <= LARGEST].mean()), {}, 0.0, 1.0)
        else:
            blank = self._shares(reference.categories(name))
        numbers = self._numbers(reference, name, kind, blank)
        mean, deviation = float(numbers.mean()), float(numbers.std())
        # As scikit-learn's scaler: what does not vary but by rounding is not blown up.
        still = deviation <= 10 * np.finfo(np.float64).eps * max(abs(mean), deviation * math.sqrt(len(numbers)), 1e-300)
        return Scale(blank.fill, blank.shares, mean, 1.0 if still or not deviation else deviation)

    @staticmethod
    def _shares(column: Categories) -> Scale:
        there = column.codes[column.codes >= 0]
        counts = np.bincount(there, minlength=len(column.names))
        # Missing ones count as the most frequent; of equals the first by name.
        most = min((i for i in range(len(counts)) if counts[i] == counts.max()), key=lambda i: column.names[i])
        counts[most] += len(column.codes) - len(there)
        shares = counts / len(column.codes)
        return Scale(float(shares[most]), dict(zip(column.names, shares.tolist(), strict=True)), 0.0, 1.0)


def principal_components(x: FloatArray, wanted: float) -> FloatArray:
    """(components, features), of scaled rows. A share below 1 takes as many as have more than that share of the variance.

    Raises:
        NotEvaluable: nothing varies, or there are fewer features than components.
    """
    variance, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    variance, vectors = np.maximum(variance[::-1], 0.0), vectors[:, ::-1]
    if not (np.isfinite(variance).all() and variance.sum() > 0):
        raise NotEvaluable("constant", "no feature of the reference varies")
    if wanted >= 1:
        count = int(wanted)
        if count > len(variance):
            raise NotEvaluable("no_features", f"{len(variance)} features have no {count} components")
    else:
        count = int(np.searchsorted(np.cumsum(variance / variance.sum()), wanted, side="right")) + 1
    found: FloatArray = vectors[:, : min(count, len(variance))].T
    return found


def residuals(x: FloatArray, components: FloatArray) -> FloatArray:
    """What is lost of each row. Rows are centred already: the scaler's mean is the components' own."""
    return x - x @ components.T @ components
