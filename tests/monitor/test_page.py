"""The whole page, against the one that is checked in; and what Prometheus' own linter says of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import disable_created_metrics, enable_created_metrics

from tests.monitor.goldenpage import page, scripted

GOLDEN = Path(__file__).parent.parent / "golden" / "metrics.txt"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    disable_created_metrics()  # type: ignore[no-untyped-call]
    world = scripted(tmp_path_factory.mktemp("page") / "store")
    yield page(world)
    world.close()
    enable_created_metrics()  # type: ignore[no-untyped-call]


def test_the_page_is_the_one_that_is_checked_in(shown: str) -> None:
    assert shown.splitlines() == GOLDEN.read_text(encoding="utf-8").splitlines(), "see tests/monitor/goldenpage.py"


def test_the_linter_of_prometheus_finds_nothing(shown: str) -> None:
    clean = shown.replace(" ...\n", " 1.0\n")
    told = subprocess.run(["promtool", "check", "metrics"], input=clean, capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stdout + told.stderr) == (0, "")
