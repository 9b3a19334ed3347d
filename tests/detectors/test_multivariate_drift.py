"""Multivariate drift: NannyML's reconstruction error, and features that only together have moved."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from detectors.contract import ColumnKind, Frame, NotEnoughData, NotEvaluable, Reading
from detectors.multivariate_drift import MultivariateDrift
from detectors.testing import check_detector
from tests.data.multivariate_nannyml import NUMBERS, frames
from tests.detectors.samples import DATA

MADE = json.loads((DATA / "multivariate_nannyml.json").read_text(encoding="utf-8"))


def measure(reference: Frame, current: Frame, **config: Any) -> Reading:
    return MultivariateDrift(MultivariateDrift.Config(**config)).compare(reference, current)


def as_frame(table: pd.DataFrame) -> Frame:
    kinds: dict[str, ColumnKind] = {str(name): "number" if name in NUMBERS else "category" for name in table.columns}
    return Frame({n: table[n].to_numpy(dtype=float if k == "number" else object) for n, k in kinds.items()}, features=kinds)


def together(seed: int, rows: int, correlation: float) -> Frame:
    """Two normal features whose correlation alone says which window it is, and two that are noise."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, rows))
    values = {"x": x, "y": correlation * x + np.sqrt(1 - correlation**2) * y}
    return Frame({**values, "noise": rng.normal(size=rows), "city": rng.choice(np.array(["a", "b", "c"], dtype=object), rows)})


@pytest.mark.parametrize("expected", MADE["expected"], ids=lambda e: f"{e['window']}, {e['n_components']}")
def test_the_reconstruction_error_is_nannymls(expected: dict[str, Any]) -> None:
    """Holes, categories never seen, a share of the variance or a number of components: value and boundaries."""
    windows = {name: as_frame(table) for name, table in frames().items()}
    reading = measure(windows["reference"], windows[expected["window"]], n_components=expected["n_components"])
    assert (reading.value, reading.metrics["sampling_error"], reading.lower, reading.upper) == pytest.approx(
        (expected["value"], expected["sampling_error"], expected["lower"], expected["upper"]), abs=1e-9
    )


@pytest.mark.parametrize("method", ("pca", "domain_classifier"))
def test_features_that_parted_are_found_though_each_alone_is_the_same(method: str) -> None:
    reference = together(1, 2000, 0.9)
    unmoved, moved = (measure(reference, together(seed, 600, rho), method=method) for seed, rho in ((2, 0.9), (3, -0.2)))
    assert unmoved.metrics["p_value"] > 0.01
    assert moved.metrics["p_value"] < 0.001
    assert {part.name for part in moved.parts[:2]} == {"x", "y"}


def test_p_values_of_unmoved_windows_are_spread_evenly() -> None:
    p_values = np.array(
        [
            measure(together(10 + i, 1500, 0.5), together(500 + i, 300, 0.5), reading="p_value", resamples=200).value
            for i in range(60)
        ]
    )
    assert (p_values <= 0.05).sum() <= 10
    assert 0.35 < p_values.mean() < 0.65


def test_the_classifier_of_slow_rows_does_not_take_neighbours_for_drift() -> None:
    """Rows in time: with shuffled folds, each would be recognised by the ones beside it."""
    rng = np.random.default_rng(4)
    slow = np.cumsum(rng.normal(size=(4000, 2)) * 0.05, axis=0) % 1.0
    parts = [Frame({"x": slow[rows, 0], "y": slow[rows, 1]}) for rows in (slice(0, 4000, 2), slice(1, 4000, 2))]
    assert measure(parts[0], parts[1], method="domain_classifier").value < 0.6


@pytest.mark.parametrize(
    "config", ({}, {"method": "domain_classifier"}, {"n_components": 2}, {"reading": "p_value", "min_rows": 10})
)
def test_it_keeps_the_contract(config: dict[str, Any]) -> None:
    check_detector(MultivariateDrift, config)


def test_features_that_cannot_be_used_are_left_out_and_named() -> None:
    reference, current = together(5, 500, 0.5), together(6, 500, 0.5)
    columns = {name: current.numbers(name) for name in ("x", "y")}
    changed = Frame({**columns, "noise": np.array(["text"] * 500, dtype=object), "late": np.zeros(500)})
    reading = measure(reference, changed)
    assert reading.metrics["evaluated_features"] == 2
    assert {part.name: part.reason for part in reading.parts if part.reason} == {
        "noise": "type_changed",
        "city": "missing_column",
        "late": "missing_column",
    }
    with pytest.raises(NotEvaluable, match="no_features: 1 of 2"):
        measure(reference, changed, features=("x", "city"))


def test_too_few_rows_and_features_that_never_vary_say_so() -> None:
    with pytest.raises(NotEnoughData, match="50 rows, min_rows is 100"):
        measure(together(7, 500, 0), together(8, 50, 0))
    still = Frame({"x": np.ones(300), "y": np.zeros(300)})
    with pytest.raises(NotEvaluable, match="constant"):
        measure(still, still)
    with pytest.raises(NotEvaluable, match="4 features have no 5 components"):
        measure(together(7, 500, 0), together(8, 300, 0), n_components=5)
    with pytest.raises(NotEvaluable, match="4 components rebuild 4 features whole"):
        measure(together(7, 500, 0), together(8, 300, 0), n_components=4)
    with pytest.raises(ValidationError, match="whole number"):
        MultivariateDrift.Config(n_components=2.5)
