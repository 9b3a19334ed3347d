"""Reads tables in YAML: hundreds of lines that come along, and are read at each start and reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # that of C takes a tenth of the time, where PyYAML was built with it


def read(file: Path) -> Any:
    """
    Raises:
        OSError, UnicodeDecodeError, yaml.YAMLError: it cannot be read.
    """
    return yaml.load(file.read_text(encoding="utf-8"), _LOADER)
