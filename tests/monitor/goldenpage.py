"""A scripted daemon, with a clock that only the script moves, and the page it shows.

What the page says is the contract with everybody's dashboards and rules. tests/golden/metrics.txt holds it, so a change shows
in a diff; after one that is meant, print it anew:

    .venv/bin/python -m tests.monitor.goldenpage > tests/golden/metrics.txt
"""

from __future__ import annotations

import re
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from prometheus_client import disable_created_metrics, generate_latest

from monitor import rowchecks
from tests.monitor.support import NOON, World, check, generation, label, prediction
from tests.monitor.tracing import chat

OFTEN = "store_size|store_disk_free|store_commits|store_commit_duration|seal_duration|detector_batch_duration"
VOLATILE = re.compile(rf"^(modelwatch_(?:{OFTEN})_\S+) .*$", re.MULTILINE)
"""What depends on the machine, or on how work is put together."""


def scripted(root: Path) -> World:
    """Predictions with labels, one of which cannot be read; answers that are scored, and traces with errors and a retry."""
    bare = {"name": "bare", "model": "bot", "detector": "tests.plugins:Bareness", "every": "10m", "threshold": {"upper": 0.9}}
    world = World(
        root, checks=[check("mean", owner="forecasts"), {**bare, "flag": 0.6, "min_records": 1}], scoring={"settle_seconds": 30}
    )
    world.metrics.hold_scores_to(rowchecks.score_edges(world.config))
    world.metrics.only(rowchecks.known(world.config))
    early = NOON - timedelta(minutes=15)
    world.send("predictions", *(prediction(f"p{n}", early, prediction=20.0) for n in range(40)))
    world.send("predictions", prediction("p0", early, prediction=20.0), {"model": "houses"})
    world.send("labels", *(label(f"p{n}") for n in range(30)))
    tokens = {"provider": "openai", "llm_model": "gpt-4o", "input_tokens": 6400, "output_tokens": 101}
    times = {"duration_seconds": 3.0, "time_to_first_token_seconds": 1.0}
    world.send("generations", generation("g0", early, contexts=["one"], **tokens, **times))
    world.send("generations", generation("g1", early, contexts=["one", "two"], llm_model="of-our-own", error_type="429"))
    world.send(
        "spans",
        chat("t", "root", end=9),
        chat("t", "first", "root", 1, 2, failed=True, http__response__status_code=503),
        chat("t", "again", "root", 3, 4),
    )
    world.settle()
    world.score()
    world.look()
    world.look(600)
    world.cases.step()
    world.seal()
    return world


def page(world: World) -> str:
    """As Prometheus reads it, without what depends on the machine."""
    world.metrics.registry.register(world.board)
    world.metrics.registry.register(world.cases.board)
    return VOLATILE.sub(r"\1 ...", generate_latest(world.metrics.registry).decode())


if __name__ == "__main__":
    disable_created_metrics()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        found = scripted(Path(folder) / "store")
        sys.stdout.write(page(found))
        found.close()
