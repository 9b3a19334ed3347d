"""The contract: outcomes without made-up numbers, frames, hashes, and arrows between packages."""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import detectors
from detectors.contract import (
    NOT_EVALUABLE_REASONS,
    DetectorConfig,
    Frame,
    NotEvaluable,
    Outcome,
    Reading,
    Score,
    Window,
    encode_categories,
    settings_hash,
)

# --- outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", (math.nan, math.inf, -math.inf))
def test_a_number_that_is_not_finite_is_neither_a_score_nor_a_reading(value: float) -> None:
    with pytest.raises(ValueError, match="cannot have the value"):
        Score.ok(value)
    with pytest.raises(ValueError, match="value must be finite"):
        Reading(value, "x", n_current=1)
    with pytest.raises(ValueError, match="lower must be finite"):
        Reading(0.0, "x", n_current=1, lower=value)
    with pytest.raises(ValueError, match="f1 must be finite"):
        Reading(0.0, "x", n_current=1, metrics={"f1": value})


def test_a_score_has_a_value_exactly_when_it_is_ok() -> None:
    with pytest.raises(ValueError, match="ok cannot have the value None"):
        Score(Outcome.OK)
    with pytest.raises(ValueError, match=r"failed cannot have the value 0\.5"):
        Score(Outcome.FAILED, 0.5)
    assert Score.ok(0.25, stage="head", tokens=3) == Score(Outcome.OK, 0.25, stage="head", detail={"tokens": 3})


def test_a_reason_comes_from_the_list() -> None:
    for reason in NOT_EVALUABLE_REASONS:
        assert Score.not_evaluable(reason).reason == reason
    with pytest.raises(ValueError, match="unknown reason 'bad_weather'; known: constant, content_off"):
        NotEvaluable("bad_weather")
    assert str(NotEvaluable("constant", "one value")) == "constant: one value"


# --- frames ----------------------------------------------------------------------------------------------------------


def test_a_frame_is_a_window() -> None:
    frame = Frame({"age": [31, 45], "city": ["Oslo", None], "member": [True, False]})
    assert isinstance(frame, Window)
    assert frame.features == {"age": "number", "city": "category", "member": "category"}
    assert frame.numbers("age").tolist() == [31.0, 45.0]
    assert frame.categories("city").codes.tolist() == [0, -1]


def test_a_column_that_is_not_there_or_not_of_numbers_is_not_evaluable() -> None:
    frame = Frame({"city": ["Oslo"]})
    for call, reason in (
        (frame.numbers, "not_numeric"),
        (Frame({}).numbers, "missing_column"),
        (Frame({}).categories, "missing_column"),
    ):
        with pytest.raises(NotEvaluable) as caught:
            call("city")
        assert caught.value.reason == reason


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unequal length: \[1, 2\]"):
        Frame({"a": [1], "b": [1, 2]})


def test_a_number_has_one_name_as_a_category_whatever_else_is_in_its_column() -> None:
    for column in ([1.0, 2.0], [1.0, 2.5], [1.0, math.nan], [1.0, math.inf], [1, 2], [True, 1.5]):
        assert "1" in encode_categories(np.asarray(column)).names, column


@given(st.lists(st.none() | st.text(max_size=3), min_size=1))
def test_categories_decode_to_what_was_encoded(values: list[str | None]) -> None:
    encoded = encode_categories(np.array([*values, None], dtype=object)[:-1])
    assert [None if code < 0 else encoded.names[code] for code in encoded.codes] == values
    assert list(encoded.names) == sorted({v for v in values if v is not None})


@given(st.lists(st.floats(allow_subnormal=False), min_size=1))
def test_numbers_decode_to_what_was_encoded(values: list[float]) -> None:
    encoded = encode_categories(np.array(values))
    decoded = [math.nan if code < 0 else float(encoded.names[code]) for code in encoded.codes]
    assert np.array_equal(decoded, values, equal_nan=True)


# --- hashes ----------------------------------------------------------------------------------------------------------


class Example:
    name = "example"
    version = "1"

    class Config(DetectorConfig):
        low: float = 0.0
        high: float = 1.0


def test_equal_settings_have_an_equal_hash_and_others_have_another() -> None:
    detector: Any = Example

    def digest(of: Any = detector, **settings: float) -> str:
        return settings_hash(of, Example.Config(**settings))

    assert digest(low=0.2, high=0.7) == digest(high=0.7, low=0.2)
    assert digest() == digest(high=1.0)
    newer = type("Newer", (Example,), {"version": "2"})
    assert len({digest(), digest(high=0.9), digest(low=1.0), digest(newer)}) == 4


def test_settings_whose_files_have_another_content_are_other_settings() -> None:
    detector: Any = Example
    one, other = Example.Config().of_files("1"), Example.Config().of_files("2")
    assert one != other
    assert one == Example.Config().of_files("1")
    assert len({settings_hash(detector, config) for config in (one, other, Example.Config())}) == 3


def test_a_hash_does_not_change_between_releases_by_accident() -> None:
    detector: Any = Example
    assert settings_hash(detector, Example.Config()) == "586018e209eb0017"


# --- arrows ----------------------------------------------------------------------------------------------------------

PACKAGE = Path(detectors.__file__).parent


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_detectors_never_import_the_daemon_or_its_store(path: Path) -> None:
    assert not imported(path) & {"monitor", "duckdb"}


def test_importing_a_detector_is_light() -> None:
    modules = (
        "contract", "registry", "testing", "data_drift", "performance", "evidently_metric", "performance_estimate",
        "estimate_gap", "fairness", "probability_calibration",
    )  # fmt: skip
    code = f"import sys, {', '.join(f'detectors.{module}' for module in modules)}; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True)
    imported_at_once = set(done.stdout.split())
    assert "detectors.data_drift" in imported_at_once
    assert not imported_at_once & {"torch", "transformers", "sentence_transformers", "evidently", "pandas", "sklearn"}
