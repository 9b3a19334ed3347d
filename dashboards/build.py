"""Writes the Grafana dashboards beside it: classic JSON, checked in, the same for the same code.

python -m dashboards.build
"""

from __future__ import annotations

import json
from pathlib import Path

from dashboards.daemon import DAEMON
from dashboards.llm import LLM_DASHBOARD
from dashboards.overview import OVERVIEW
from dashboards.quality import QUALITY

DASHBOARDS = {"overview.json": OVERVIEW, "quality.json": QUALITY, "llm.json": LLM_DASHBOARD, "daemon.json": DAEMON}


def render(name: str) -> str:
    return json.dumps(DASHBOARDS[name], indent=2) + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        Path(__file__).with_name(name).write_text(render(name), encoding="utf-8")
