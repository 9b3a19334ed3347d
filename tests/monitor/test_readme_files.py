"""The README goes through the daemon file by file, and leaves none out."""

from __future__ import annotations

import re
from pathlib import Path

import monitor

FOLDER = Path(monitor.__file__).parent
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8").partition("## Words")[0]
NAMED = re.findall(r"`([\w/]+(?:\.py|/))", TEXT)


def test_every_file_and_folder_is_named() -> None:
    files = {path.name for path in FOLDER.glob("*.py")} - {"__init__.py", "__main__.py"}
    folders = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    assert files | folders <= {part for name in NAMED for part in (name, name.partition("/")[0])}


def test_no_file_is_named_that_is_gone() -> None:
    assert [name for name in NAMED if not (FOLDER / name).exists()] == []
