"""Is the judge asked about what was configured, and not once more? Counted where it is asked, in an endpoint of our own.

200 rows of dev go through the store, the local `faithfulness` and the judge's real process with real ragas. What was chosen is
compared with what the settings say, recomputed here from ids and local scores; calls are counted by the endpoint.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from detectors.judging.sampling import sampled
from monitor.child import Child
from monitor.embeddings import Encoding
from monitor.judging import process
from monitor.judging.judging import Judging
from tests.judge import INPUT_TOKENS, OUTPUT_TOKENS, JudgeServer
from tests.monitor.support import World, generation

ROWS, RATE = 200, 0.1
EACH = 2  # calls of response_groundedness
PRICE = {"input": 1.0, "output": 10.0}  # USD per million tokens
COST = (INPUT_TOKENS * PRICE["input"] + OUTPUT_TOKENS * PRICE["output"]) / 1e6
MAX_TOKENS = 4096
CHECK = {"model": "bot", "every": "1h", "threshold": {"upper": 0.5}}


@dataclass(frozen=True, slots=True)
class Counted:
    """Of one run."""

    sampled: set[str]
    escalated: set[str]
    judged: set[str]
    unspent: set[str]  # for want of budget
    unclear: set[str]  # by the local check
    calls: int  # the endpoint's count
    booked: int  # the store's
    cost: float


def run(rows: list[dict[str, Any]], budget: dict[str, Any], escalate: bool) -> Counted:
    """All rows through a daemon of their own."""
    settings = {"metric": "response_groundedness", "rate": RATE, "escalate": [{"check": "local"}] if escalate else []}
    checks = [{**CHECK, "name": "local", "detector": "faithfulness"}]
    checks += [{**CHECK, "name": "judged", "detector": "judge", "settings": settings}]
    with JudgeServer() as server, tempfile.TemporaryDirectory() as folder:
        endpoint = {"base_url": server.url, "model": "tiny-judge", "price": PRICE, "budget": budget, "max_tokens": MAX_TOKENS}
        world = World(Path(folder) / "store", checks=checks, judge=endpoint, scoring={"settle_seconds": 0})
        try:
            with _judging(world) as judging:
                world.send("generations", *rows)
                world.score()
                while world.state("SELECT count(*) AS n FROM judging")[0]["n"]:
                    judging.step()
            scores = world.rows("scores", "bot", "record_id, detector, stage, outcome, reason, detail")
            of_judge = [row for row in scores if row["detector"] == "judge"]
            spent = world.state("SELECT sum(calls) AS calls, sum(cost_usd) AS cost FROM judge_spending")[0]
        finally:
            world.close()

        def ids(**wanted: Any) -> set[str]:
            return {row["record_id"] for row in of_judge if all(row[name] == value for name, value in wanted.items())}

        return Counted(
            ids(stage="sampled"),
            ids(stage="escalated"),
            ids(outcome="ok"),
            ids(reason="judge_budget_spent"),
            {
                row["record_id"]
                for row in scores
                if row["detector"] == "faithfulness" and '"unclear":true' in (row["detail"] or "")
            },
            len(server.asked),
            int(spent["calls"] or 0),
            float(spent["cost"] or 0.0),
        )


@contextmanager
def _judging(world: World) -> Iterator[Judging]:
    assert world.config.judge is not None
    setup = process.setup(world.config.judge)
    child = Child("judge", process.TARGET, setup, nice=0, clock=world.clock, metrics=world.metrics)
    try:
        encode = Encoding(cast(Child, world.scorer))
        yield Judging(world.config, world.store, child, encode, clock=world.clock, metrics=world.metrics)
    finally:
        child.stop()


def read(path: Path) -> list[dict[str, Any]]:
    """The first rows of dev, as records."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line, _ in zip(file, range(ROWS), strict=False)]
    return [
        generation(one["id"], question=one["question"] or "Is it so?", response=one["response"], contexts=one["context"])
        for one in found
    ]


def section(path: Path) -> str:
    """The section of RESULTS.md. `path` is dev.jsonl.gz of `faithfulness`."""
    rows = read(path)
    ids = {row["record_id"] for row in rows}
    drawn = {i for i in ids if sampled(i, RATE)}
    calls, usd = 31, 0.06
    free, both = run(rows, {}, escalate=False), run(rows, {}, escalate=True)
    few, cheap = run(rows, {"calls_per_day": calls}, escalate=True), run(rows, {"usd_per_day": usd}, escalate=True)
    dearest = MAX_TOKENS * PRICE["output"] / 1e6
    lines = [
        ("sampled", len(drawn), len(free.sampled), free.sampled == drawn and not free.escalated),
        ("calls of the sample", EACH * len(drawn), free.calls, free.calls == free.booked == EACH * len(drawn)),
        ("escalated: unclear and not in the sample", len(both.unclear - drawn), len(both.escalated),
         both.sampled == drawn and both.escalated == both.unclear - drawn),
        ("calls of both", EACH * len(both.unclear | drawn), both.calls, both.calls == EACH * len(both.unclear | drawn)),
        (f"judged within {calls} calls", calls // EACH, len(few.judged),
         len(few.judged) == calls // EACH and few.judged | few.unspent == both.unclear | drawn),
        (f"calls within {calls}", calls - calls % EACH, few.calls, few.calls == few.booked == calls - calls % EACH),
        # A call is made while the dearest it may become is left: its whole answer, and the prompt that comes to it.
        (f"USD within {usd}, of which a call may take over {dearest:.3f}", f"at most {usd}", f"{cheap.cost:.4f}",
         cheap.cost <= usd and abs(cheap.cost - cheap.calls * COST) < 1e-9 and cheap.calls > 0),
    ]  # fmt: skip
    table = "".join(f"| {what} | {wanted} | {counted} | {'yes' if same else 'NO'} |\n" for what, wanted, counted, same in lines)
    return (
        "## Quality: judge\n\n"
        f"{len(rows)} rows of dev through the store, the local `faithfulness` and the judge's process with ragas; "
        f"`response_groundedness`, rate {RATE}, escalated from what `faithfulness` calls unclear ({len(both.unclear)} rows). "
        "Calls are those that the endpoint saw. Sets of records are compared, not their numbers alone.\n\n"
        f"`python -m tests.bench.quality judge --data DIR` · {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"| | configured | counted | as configured |\n| --- | --- | --- | --- |\n{table}"
    )
