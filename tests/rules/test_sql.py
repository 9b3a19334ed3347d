"""What alerts and their runbook ask the store can be asked."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor import auditsql
from tests.monitor.support import World, generation
from tests.rules.reading import RULES, alerts


def questions() -> list[str]:
    runbook = re.findall(r"`(SELECT [^`]*)`", (RULES / "RUNBOOK.md").read_text(encoding="utf-8"))
    notes = [text for alert in alerts() for name, text in alert["annotations"].items() if name.endswith("_sql")]
    asked = [re.fullmatch(r'modelwatch sql "(.*)"', note) for note in notes]
    assert all(asked)
    found = [*runbook, *(one[1] for one in asked if one)]
    return sorted({re.sub(r"{{ \$labels\.\w+ }}", "x", question) for question in found})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    world = World(tmp_path_factory.mktemp("sql") / "store")
    world.send("generations", generation("a", input_tokens=1, output_tokens=1))
    world.audit.refresh()
    yield world.store.root
    world.close()


@pytest.mark.parametrize("question", questions())
def test_it_can_be_asked(question: str, store: Path) -> None:
    auditsql.ask(store, question, "json", io.StringIO())
