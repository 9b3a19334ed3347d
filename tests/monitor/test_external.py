"""`external_url`: what it may be, what links begin with, and the warning that they lead nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from monitor import external
from monitor.config import Config
from tests.monitor.test_cli import run


def config(**sections: Any) -> Config:
    return Config.model_validate(sections)


@pytest.mark.parametrize(
    ("given", "base"),
    (
        ({"external_url": "https://watch.example.org/modelwatch/"}, "https://watch.example.org/modelwatch"),
        ({}, "http://127.0.0.1:9710"),
        ({"server": {"listen": "[::1]:80"}}, "http://[::1]:80"),
        ({"server": {"listen": "0.0.0.0:80", "insecure": True}}, "http://127.0.0.1:80"),
    ),
)
def test_links_begin_with_it_else_with_the_address_of_the_api(given: dict[str, Any], base: str) -> None:
    assert external.base(config(**given)) == base


@pytest.mark.parametrize(
    "url",
    (
        "watch.example.org",
        "ftp://watch.example.org",
        "https://",
        "https://u:p@x",
        "https://x/?q=1",
        "https://x:99999",
        'https://x/"><b>',
    ),
)
def test_what_is_no_url_of_pages_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="external_url"):
        config(external_url=url)


@pytest.mark.parametrize(
    ("url", "warned"),
    (
        (None, "not set"),
        ("http://localhost:9710", "is a loopback address"),
        ("http://127.0.0.2", "is a loopback address"),
        ("http://[::1]:9710", "is a loopback address"),
        ("https://watch.example.org", None),
        ("http://10.0.0.1:9710", None),
    ),
)
def test_check_config_warns_when_its_links_lead_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str | None, warned: str | None
) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text(yaml.safe_dump({"models": [], **({"external_url": url} if url else {})}))
    assert run("check-config", path) == 0
    said = capsys.readouterr().err
    assert ("warning: external_url: " in said, warned is None or warned in said) == (warned is not None, True)


def test_ids_of_strangers_stay_one_part_of_a_path() -> None:
    assert external.trace_path("a/../b?c#d") == "/traces/a%2F..%2Fb%3Fc%23d"
