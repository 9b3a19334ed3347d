"""Files of certificates that the config names as `ca_file`: whether they can be used, told before anybody is asked anything."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

from monitor.config import Config


def problems(config: Config, folder: Path) -> Iterator[str]:
    """Of those that are there, each as `path.to.key: what is wrong; what to do`. Relative paths begin at `folder`."""
    given = {f"webhooks.{i}": one.ca_file for i, one in enumerate(config.webhooks)}
    if config.grafana is not None:
        given["grafana"] = config.grafana.ca_file
    for where, file in given.items():
        if file is None or not (folder / file).exists():
            continue
        try:
            ssl.create_default_context(cafile=folder / file)
        except OSError as exc:  # also what is no certificate
            told = exc.strerror or "there is no certificate in it"
            yield f"{where}.ca_file: {folder / file} cannot be used ({told}); give certificates in PEM"
