from __future__ import annotations

from pathlib import Path

import pytest

from monitor import data


def test_a_checkout_reads_its_own_folders() -> None:
    root = Path(data.__file__).resolve().parents[1]
    assert data.folder("rules") == root / "rules"
    assert data.folder("dashboards") == root / "dashboards"


def test_an_installed_wheel_reads_what_it_carries(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "monitor"
    (package / "_data" / "rules").mkdir(parents=True)
    # A folder that happens to be called rules, of another distribution.
    (tmp_path / "site-packages" / "rules").mkdir()
    assert data.folder("rules", package=package) == package / "_data" / "rules"


def test_an_installation_that_is_not_whole_says_which_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="_data/dashboards"):
        data.folder("dashboards", package=tmp_path / "monitor")
