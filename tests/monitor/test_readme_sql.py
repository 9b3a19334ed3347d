"""The questions that the README asks the store have answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.monitor.support import World, generation
from tests.monitor.test_cli import run

README = Path(__file__).parents[2] / "README.md"
QUESTIONS = re.findall(r'^ +modelwatch sql "(.*?)" --', README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
CLAIMS = next(question for question in QUESTIONS if "FROM claims" in question)
CHECK = {"name": "kept-to", "model": "bot", "detector": "faithfulness", "every": "10m", "threshold": {"upper": 0.5}}

# Characters that take two or more bytes, or two code points, stand before the claims: offsets count code points.
PASSAGE = "Ærø 🦜: goods may be returned within 14 days of the delivery."
SUPPORTED, MADE_UP = "Goods may be returned within 14 days of the delivery.", "Parrots from Zanzibar come free with order 4711."


@pytest.mark.parametrize("question", QUESTIONS)
def test_it_can_be_asked(
    question: str,
    make_world: Callable[..., World],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # the command moves to the store
    world = make_world(checks=[CHECK])
    world.send("generations", generation("a", response=f"🦜 e\u0301: {SUPPORTED} {MADE_UP}", contexts=["Nothing.", PASSAGE]))
    world.settle(40)
    world.score()
    world.audit.refresh()
    assert run("sql", question, "--store", world.store.root, "--format", "json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    if question == CLAIMS:
        [found] = rows
        assert (found["record_id"], found["claim"], found["detector"]) == ("a", MADE_UP, "faithfulness")
        assert found["end_offset"] - found["start_offset"] == len(MADE_UP)
        assert found["nearest"] in ("Nothing.", PASSAGE)
