"""Embedding drift: the values of Evidently's own method objects, and p-values that its thresholds lack."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from detectors.contract import FloatArray, Frame, NotEnoughData, NotEvaluable, Reading, vectors_of
from detectors.embedding_drift import EmbeddingDrift, Method
from detectors.testing import check_detector

METHODS: tuple[Method, ...] = ("mmd", "distance", "domain_classifier", "ratio")


def measure(reference: FloatArray, current: FloatArray, **config: Any) -> Reading:
    detector = EmbeddingDrift(EmbeddingDrift.Config(**config))
    return detector.compare(Frame({"embedding": reference}), Frame({"embedding": current}))


def vectors(seed: int, rows: int, shift: float = 0.0, size: int = 16) -> FloatArray:
    found = np.random.default_rng(seed).normal(size=(rows, size))
    found[:, 0] += shift
    unit: FloatArray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit.astype(np.float32).astype(np.float64)


def theirs(method: Method, reference: FloatArray, current: FloatArray, **arguments: Any) -> tuple[float, bool]:
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently.legacy.metrics.data_drift import embedding_drift_methods as methods

        made = {"mmd": methods.mmd, "distance": methods.distance, "domain_classifier": methods.model, "ratio": methods.ratio}
        state = np.random.get_state()
        score, drifted, _ = made[method](**arguments)(pd.DataFrame(current), pd.DataFrame(reference))
        np.random.set_state(state)
    return float(score), bool(drifted)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shift", (0.0, 1.0))
@pytest.mark.parametrize("sizes", ((300, 200), (1200, 80)))
def test_values_are_evidentlys(method: Method, shift: float, sizes: tuple[int, int]) -> None:
    x, y = vectors(1, sizes[0]), vectors(2, sizes[1], shift)
    score, drifted = theirs(method, x, y)
    reading = measure(x, y, method=method)
    assert reading.value == pytest.approx(score, abs=1e-9)
    assert reading.metrics["drifted"] == drifted


@pytest.mark.parametrize("distance", ("euclidean", "cosine", "cityblock", "chebyshev"))
def test_every_distance_of_centroids_is_evidentlys(distance: str) -> None:
    x, y = vectors(3, 200), vectors(4, 150, 0.5)
    assert measure(x, y, method="distance", distance=distance).value == pytest.approx(
        theirs("distance", x, y, dist=distance)[0], abs=1e-9
    )


@pytest.mark.parametrize("method", METHODS)
def test_after_reduction_values_are_evidentlys(method: Method) -> None:
    x, y = vectors(5, 300), vectors(6, 200, 0.7)
    found = measure(x, y, method=method, pca_components=4)
    assert found.value == pytest.approx(theirs(method, x, y, pca_components=4)[0], abs=1e-9)
    assert found.metrics["dimension"] == 4


@pytest.mark.parametrize("method", METHODS)
def test_p_values_ring_as_seldom_as_said_and_see_what_thresholds_miss(method: Method) -> None:
    alarms = {0.0: 0, 1.5: 0}
    for shift in alarms:
        for run in range(40):
            x, y = vectors(100 + run, 150), vectors(200 + run, 100, shift)
            alarms[shift] += measure(x, y, method=method, permutations=99, reading="p_value").value <= 0.05
    assert alarms[0.0] <= 7  # 2 are expected; more than 7 is one run in 1,000
    assert alarms[1.5] >= 36


def test_the_components_that_moved_are_the_parts() -> None:
    reading = measure(vectors(7, 400), vectors(8, 400, 1.0), method="ratio")
    assert reading.parts[0].name == "embedding.0"
    assert reading.parts[0].flagged
    assert reading.value == sum(part.flagged for part in reading.parts) / 16


def test_large_windows_are_sampled_and_say_how_many_there_were() -> None:
    reading = measure(vectors(9, 900), vectors(10, 500), max_rows=200, permutations=50)
    assert (reading.n_reference, reading.n_current, reading.metrics["rows_compared"]) == (900, 500, 400)
    assert measure(vectors(9, 900), vectors(10, 500), max_rows=200, permutations=50) == reading


def test_vectors_come_as_a_matrix_as_lists_or_as_columns() -> None:
    x = vectors(11, 50, size=3)
    lists = np.empty(50, dtype=object)
    lists[:] = [row.tolist() for row in x]
    columns = Frame({f"embedding.{i}": x[:, i] for i in range(3)})
    for frame in (Frame({"embedding": x}), Frame({"embedding": lists}), columns):
        found = vectors_of(frame, "embedding")
        assert found.shape == (50, 3)
        assert found.dtype == np.float32
        assert np.allclose(found, x)
    assert dict(Frame({"embedding": x, "age": np.zeros(50)}).features) == {"age": "number"}


def test_what_cannot_be_compared_says_why() -> None:
    x = vectors(12, 60)
    holes = x.copy()
    holes[5:, 2] = np.nan
    for current, reason in (
        (Frame({"embedding": vectors(1, 60, size=8)}), "type_changed"),
        (Frame({"age": np.zeros(60)}), "missing_column"),
        (Frame({"embedding": np.array(["a"] * 60, dtype=object)}), "not_numeric"),
    ):
        with pytest.raises(NotEvaluable) as caught:
            EmbeddingDrift(EmbeddingDrift.Config()).compare(Frame({"embedding": x}), current)
        assert caught.value.reason == reason
    with pytest.raises(NotEnoughData, match="5 vectors, min_rows is 30"):
        measure(x, holes)
    with pytest.raises(NotEvaluable, match="constant"):
        measure(np.ones((60, 4)), np.ones((60, 4)))


@pytest.mark.parametrize("method", METHODS)
def test_it_keeps_the_contract(method: Method) -> None:
    check_detector(EmbeddingDrift, {"method": method, "permutations": 50})
    check_detector(EmbeddingDrift, {"method": method, "permutations": 50, "column": "amount"})


def test_it_keeps_the_contract_on_vectors() -> None:
    """The suite has no vectors, so its windows get some: a column of numbers under the name of a component."""

    class OfAmount(EmbeddingDrift):
        def compare(self, reference: Any, current: Any) -> Reading:
            return super().compare(
                *(Frame({"embedding.0": f.numbers("amount"), "embedding.1": f.numbers("visits")}) for f in (reference, current))
            )

    for method in METHODS:
        check_detector(OfAmount, {"method": method, "permutations": 50})
