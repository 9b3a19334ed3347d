"""The README is true: its examples run, its settings exist, its figures are the card's."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

import detectors
from detectors import registry
from detectors.columnconfig import ColumnConfig
from detectors.embedding import EncoderConfig
from detectors.faithfulness import Faithfulness

FOLDER = Path(detectors.__file__).parent
SOURCES = ("begin_cmu", "begin_wow", "factcheck_gpt", "fm2")
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    found = re.search(rf"^(#+) {heading}\n(.*?)(?=^#{{1,2}} |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found, f"no heading {heading!r}"
    return found[2]


def documented(text: str) -> dict[str, str]:
    """Settings and their defaults, from the tables."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))


def test_the_examples_run() -> None:
    found = doctest.testfile(str(FOLDER / "README.md"), module_relative=False)
    assert found.attempted > 20
    assert found.failed == 0


@pytest.mark.parametrize("page", (FOLDER / "README.md", FOLDER.parent / "README.md"), ids=("detectors", "first page"))
def test_every_detector_stands_in_the_table(page: Path) -> None:
    first = re.findall(r"^\| ([^|]*`[^|]*) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(registry.SHIPPED) <= {name for cell in first for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("name", sorted(registry.SHIPPED))
def test_every_setting_of_a_detector_stands_under_its_heading(name: str) -> None:
    text = section(name).partition("### Encoder")[0]
    others: dict[str, type[BaseModel]] = {"data_drift": ColumnConfig, "faithfulness": Faithfulness.Config}
    said = " ".join(text.split())
    shared = {
        field
        for other, config in others.items()
        if f"All settings of [`{other}`](#{other})" in said
        for field in config.model_fields
    }
    assert set(documented(text)) | shared == set(registry.load(name).Config.model_fields)


def test_every_setting_of_the_encoder_is_documented() -> None:
    assert set(documented(section("Encoder"))) == set(EncoderConfig.model_fields)


@pytest.mark.parametrize("name", sorted(registry.SHIPPED))
def test_numbers_given_as_defaults_are_the_defaults(name: str) -> None:
    fields = registry.load(name).Config.model_fields
    for setting, default in documented(section(name).partition("### Encoder")[0]).items():
        if re.fullmatch(r"[\d.,]+", default):
            assert float(default.replace(",", "")) == fields[setting].default, setting


def test_the_figures_are_the_cards() -> None:
    card = json.loads((FOLDER / "weights" / "faithfulness.json").read_text(encoding="utf-8"))
    text = section("faithfulness")
    for name in ("auroc", "best_single_rule", "length_alone"):
        figures = card[name]
        for kind in ("macro", "pooled"):
            low, high = figures[f"{kind}_95"]
            assert f"{figures[kind]:.3f} ({low:.3f} to {high:.3f})" in text, (name, kind)
        sources = " | ".join(f"{figures[s]:.3f}" for s in SOURCES)
        assert sources in text, name
    left_out = card["auroc_leave_one_source_out"]
    assert f"| {left_out['macro']:.3f} | | " + " | ".join(f"{left_out[s]:.3f}" for s in SOURCES) in text
    assert f"{card['rows']['train']:,} labelled answers, and {card['rows']['dev']:,} of dev" in text
    assert f"flagged at {card['flag']} or below" in text
    for label in ("supported", "unsupported"):
        shares = " | ".join(f"{100 * card['flagged'][s][label]:.3g} %" for s in SOURCES)
        assert f"| of the {label} | {shares} |" in text
