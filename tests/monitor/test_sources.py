"""Sources as plug-ins: found by name, checked before anything starts, and documented."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import monitor
from monitor import configfile
from monitor.config import Config, SourceConfig
from monitor.errors import ConfigError
from monitor.sources import registry
from tests.monitor.test_metrics import keys

README = (Path(monitor.__file__).parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", registry.SHIPPED)
def test_every_key_of_a_shipped_source_is_in_the_readme_with_its_default(name: str) -> None:
    section = re.search(rf"^### {name}\n(.*?)(?=^##)", README.partition("## Sources")[2], re.DOTALL | re.MULTILINE)
    assert section, f"monitor/README.md has no heading ### {name} under ## Sources"
    rows = re.findall(r"^\| `([a-z_.]+)` \| ?(.*?) ?\| .*\|$", section[1], re.MULTILINE)
    config = registry.load(name).Config
    assert dict(rows) == {k: v for k, v in keys(config).items() if k not in SourceConfig.model_fields}


def problems(tmp_path: Path, source: dict[str, Any]) -> list[str]:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"models": [{"name": "m", "task": "binary"}], "sources": [source]}))
    with pytest.raises(ConfigError) as caught:
        configfile.load(file)
    return [p.removeprefix(f"{file}: ") for p in caught.value.problems]


def test_an_unknown_source_is_answered_with_those_there_are(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, {"type": "carrier-pigeon", "name": "a"})
    assert found.startswith(f"sources.0.type: no source 'carrier-pigeon'; there are {', '.join(registry.names())}, or name one")
    (found,) = problems(tmp_path, {"type": "tests.plugins:Mean", "name": "a"})
    assert found.startswith("sources.0.type: source 'tests.plugins:Mean': tests.plugins:Mean has no start, stop")
    (found,) = problems(tmp_path, {"type": "tests.nowhere:Thing", "name": "a"})
    assert "cannot load tests.nowhere:Thing" in found


def test_a_source_is_checked_by_its_own_class_and_its_model_by_the_config(tmp_path: Path) -> None:
    good = {"type": "follow", "name": "a", "path": "x", "kind": "labels"}
    assert problems(tmp_path, {**good, "pth": 1}) == ["sources.0.pth: no such key; remove it or correct its spelling ('1')"]
    assert problems(tmp_path, {**good, "model": "other"}) == ["sources.0.model: no model 'other'; there are m"]
    assert problems(tmp_path, {"name": "a"}) == ["sources.0.type: Field required"]


class Ticker:
    """A source of nothing, as a plug-in would be written."""

    class Config(SourceConfig):
        every: int = 1

    def __init__(self, config: Config, inbox: object, store: object, *, clock: object, metrics: object) -> None:
        self.config = config

    def start(self) -> None: ...

    def stop(self) -> None: ...


def test_a_source_may_be_named_by_module_and_class() -> None:
    name = "tests.monitor.test_sources:Ticker"
    config = Config.model_validate({"sources": [{"type": name, "name": "t", "every": 3}]})
    (one,) = config.sources
    assert one.model_dump() == {"type": name, "name": "t", "model": None, "every": 3}
    made: Any = registry.load(one.type)
    assert made(one, None, None, clock=None, metrics=None).config == one
