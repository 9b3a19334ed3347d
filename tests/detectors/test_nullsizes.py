"""Windows of about one size share a null: it keeps its level, and nothing else depends on what was asked before."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from detectors.contract import Frame
from detectors.multivariate_drift import MultivariateDrift
from detectors.nullsizes import SIZES, drawn_at
from detectors.score_drift import ScoreDrift

ROWS = 1_590  # drawn at 1,250: as far from it as any


def frame(rng: np.random.Generator, rows: int) -> Frame:
    x = rng.exponential(size=rows)
    return Frame({"x": x, "y": x + rng.normal(size=rows), "z": rng.normal(size=rows)})


def test_sizes_are_a_quarter_apart_at_most() -> None:
    assert all(larger / smaller <= 1.28 for smaller, larger in itertools.pairwise(SIZES))
    assert [drawn_at(size) for size in SIZES] == list(SIZES)
    assert drawn_at(ROWS) / ROWS < 0.79


@pytest.mark.parametrize("method", ("anderson", "wasserstein", "ks"))
def test_the_null_of_another_size_keeps_its_level(method: str) -> None:
    rng = np.random.default_rng(7)
    detector = ScoreDrift(ScoreDrift.Config(column="x", method=method, reading="p_value", block_rows=1))
    reference = frame(rng, 40_000)
    found = np.array([detector.compare(reference, frame(rng, ROWS)).value for _ in range(300)])
    # Of 300 at 5 and 20 %: the exact binomial interval of 99.9 %.
    assert 4 <= (found <= 0.05).sum() <= 29
    assert 38 <= (found <= 0.2).sum() <= 84


@pytest.mark.parametrize("rows", (300, ROWS, 4_000))
def test_a_reading_does_not_depend_on_the_windows_before(rows: int) -> None:
    rng = np.random.default_rng(8)
    reference, before, now = frame(rng, 5_000), frame(rng, ROWS + 5), frame(rng, rows)
    detector = MultivariateDrift(MultivariateDrift.Config(resamples=200))
    detector.compare(reference, before)
    detector.compare(frame(rng, 2_000), before)
    detector.compare(reference, before)
    assert detector.compare(reference, now) == MultivariateDrift(detector.config).compare(reference, now)


def test_the_p_values_of_reconstruction_errors_keep_their_level_at_another_size() -> None:
    rng = np.random.default_rng(9)
    detector = MultivariateDrift(MultivariateDrift.Config(reading="p_value", block_rows=1))
    reference = frame(rng, 40_000)
    found = np.array([detector.compare(reference, frame(rng, ROWS)).value for _ in range(300)])
    assert 4 <= (found <= 0.05).sum() <= 29
    assert 38 <= (found <= 0.2).sum() <= 84
