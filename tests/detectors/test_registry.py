"""The registry: finds detectors by name, and says what there is where it finds none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from detectors import registry
from detectors.data_drift import DataDrift
from detectors.registry import UnknownDetector
from detectors.testing import check_detector
from tests.detectors.minilm import resources

# Settings without which a detector does not start.
SETTINGS: dict[str, dict[str, Any]] = {
    "evidently": {"metric": "ValueDrift", "arguments": {"column": "amount"}},
    "fairness": {"attributes": ["city"]},
    "judge": {"metric": "quoted_spans_alignment"},  # which asks nobody
    "score_drift": {"column": "amount"},
    "stream_drift": {"column": "amount"},
}


@pytest.mark.parametrize("name", sorted(registry.SHIPPED))
def test_every_shipped_detector_keeps_the_contract_under_its_own_name(name: str) -> None:
    detector = registry.load(name)
    assert detector.name == name
    check_detector(detector, SETTINGS.get(name), resources=resources())


def test_names_are_sorted_and_hold_what_is_shipped() -> None:
    assert registry.names() == sorted(registry.names())
    assert set(registry.SHIPPED) <= set(registry.names())


def test_a_detector_may_be_named_by_module_and_class() -> None:
    found: type = registry.load("detectors.data_drift:DataDrift")
    assert found is DataDrift


def test_an_entry_point_is_found_by_its_name(tmp_path: Path) -> None:
    info = tmp_path / "somebodys-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[modelwatch.detectors]\nsomebodys_drift = detectors.data_drift:DataDrift\n")
    code = "from detectors import registry; print('somebodys_drift' in registry.names(), registry.load('somebodys_drift').name)"
    path = os.pathsep.join((str(tmp_path), str(Path(registry.__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["True", "data_drift"]


@pytest.mark.parametrize(
    ("name", "message"),
    (
        ("data_drfit", "no detector 'data_drfit'; there are .*data_drift.*, or name one as module:Class"),
        ("no.such.module:Drift", "cannot load no.such.module:Drift: No module named"),
        ("detectors.data_drift:Drift", "cannot load .* has no attribute 'Drift'"),
        ("detectors.contract:Frame", "has no name, version, inputs, worse, Config"),
        ("detectors.distances:", "cannot load|has no name"),
    ),
)
def test_what_is_no_detector_is_said_to_be_none(name: str, message: str) -> None:
    with pytest.raises(UnknownDetector, match=message):
        registry.load(name)


def test_rows_and_windows_are_told_apart() -> None:
    assert registry.is_window(DataDrift)
    assert not registry.is_row(DataDrift)
