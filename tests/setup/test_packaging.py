"""What a bare machine is set up from: declared requirements, the lock, and what the wheel carries."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def declared() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    texts = [*PROJECT["project"]["dependencies"], *(t for e in extras for t in extras[e])]
    return [Requirement(text) for text in texts]


def test_the_lock_has_a_version_that_each_declared_requirement_allows() -> None:
    versions = locked()
    for requirement in declared():
        assert versions[plain(requirement.name)] in requirement.specifier, requirement


def test_the_lock_names_versions_and_no_place_to_get_them_from() -> None:
    for name, version in locked().items():
        assert name == plain(name)
        assert re.fullmatch(r"[\w.!]+", version), "no local part: which build of torch it is, is the machine's affair"
    assert "//" not in LOCK


def test_urllib3_is_what_its_name_says_although_grafanas_client_is_there() -> None:
    # urllib3-future, where it is installed from its wheel, puts itself in the place of urllib3: everybody who sends anything here
    # would send it with the other.
    assert metadata.version("grafana-client")
    asked = "import grafana_client, urllib3; print(urllib3.__version__)"
    seen = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    assert seen == metadata.version("urllib3") == locked()["urllib3"]


def test_the_wheel_is_told_to_carry_rules_and_dashboards_where_they_are_looked_for() -> None:
    carried = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert carried == {name: f"monitor/_data/{name}" for name in ("rules", "dashboards")}
