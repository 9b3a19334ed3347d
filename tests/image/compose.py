"""The compose file with a real container engine: built, started, told its story, asked what Grafana shows, restarted, taken down.

make compose-test        needs Docker with the compose plugin, and the network for the images
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.image import story

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = "http://127.0.0.1:3000"


def main() -> None:
    if shutil.which("docker") is None:
        sys.exit("tests.image.compose: docker is not installed; without an engine, as root: make rehearsal")
    try:
        compose("up", "--build", "--wait")
        story.tell(story.LOCAL)
        dashboards()
        compose("restart", "modelwatch")
        story.told_before(story.LOCAL)
    finally:
        compose("down", "--volumes")


def compose(*words: str) -> None:
    # A project of its own: its volumes are thrown away at the end, and nobody else's.
    command = ["docker", "compose", "-p", "modelwatch-test", "-f", str(ROOT / "docker/compose.yaml"), *words]
    print("==", *command, flush=True)
    subprocess.run(command, check=True)


def dashboards() -> None:
    """Every dashboard is there, and its data sources reach Prometheus and the daemon."""
    wanted = {path.stem for path in (ROOT / "dashboards").glob("*.json")}
    found = story.ask(f"{GRAFANA}/api/search?type=dash-db")
    assert len(found) == len(wanted), (wanted, found)
    login = base64.b64encode(f"admin:{os.environ.get('GRAFANA_PASSWORD', 'admin')}".encode()).decode()
    for source in ("modelwatch-prometheus", "modelwatch-records"):
        url = f"{GRAFANA}/api/datasources/uid/{source}/health"
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Authorization": f"Basic {login}"}), timeout=10
        ) as response:
            assert response.status == 200
    print(f"== Grafana has {len(found)} dashboards, and its data sources answer", flush=True)


if __name__ == "__main__":
    main()
