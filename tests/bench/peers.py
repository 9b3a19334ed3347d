"""Other tools that ours are measured beside, each in an environment of its own, made by pip when it is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def environment(folder: Path, *requirements: str) -> Path:
    """The Python of an environment in `folder` that has `requirements` (pinned, the first names the folder)."""
    name = re.split(r"[=<>\[]", requirements[0])[0]
    python = folder / name / "bin" / "python"
    done = folder / name / ".installed"
    wanted = "\n".join(requirements)
    if not done.exists() or done.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text(wanted)
    return python


# It takes neither pandas 3 nor its own word for what it needs: statsmodels is not among its requirements.
NANNYML = ("nannyml==0.13.1", "pandas<3", "statsmodels")
