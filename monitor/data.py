"""Where the files lie that travel with the program: Prometheus rules and Grafana dashboards.

In a checkout they are the folders `rules/` and `dashboards/` beside the package; a wheel carries them inside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Folder = Literal["rules", "dashboards"]


def folder(name: Folder, *, package: Path | None = None) -> Path:
    """The folder `name`, for reading.

    A checkout comes first: an editable install leaves a copy in site-packages that is as old as the install.

    Raises:
        FileNotFoundError: the installation is not whole.
    """
    here = package or Path(__file__).resolve().parent
    beside, inside = here.parent / name, here / "_data" / name
    checkout = (here.parent / "pyproject.toml").is_file()
    found = beside if checkout else inside
    if not found.is_dir():
        raise FileNotFoundError(f"{found}: not there; install modelwatch again, from a wheel or a whole checkout")
    return found
