"""What a bare machine is set up from: declared requirements, the lock, and what the wheel carries."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()

# grafana-client would pull a replacement of urllib3; it is installed on its own, see pyproject.toml.
NOT_LOCKED = {"grafana"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def declared() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    texts = [*PROJECT["project"]["dependencies"], *(t for e in extras.keys() - NOT_LOCKED for t in extras[e])]
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


def test_the_wheel_is_told_to_carry_rules_and_dashboards_where_they_are_looked_for() -> None:
    carried = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert carried == {name: f"monitor/_data/{name}" for name in ("rules", "dashboards")}
