"""The demo's answers, as shipped: what nothing supports is named in the store, with its offsets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monitor.demo.data import answers
from tests.monitor.support import NOON, World, check

EACH = 2
UNSUPPORTED = "Its steel was given by the city of Lyon."


def test_an_unsupported_claim_of_a_demo_trace_is_in_the_store_with_its_offsets(make_world: Callable[..., World]) -> None:
    checks: list[dict[str, Any]] = [
        check(name, model="support-bot", threshold={"upper": 0.5}) | {"detector": name}
        for name in ("faithfulness", "hallucination")
    ]
    world = make_world(checks=checks, models=[{"name": "support-bot", "task": "llm"}], scoring={"settle_seconds": 0})
    for batch in (batch for release in answers(NOON, each=EACH) for batch in release):
        world.send("generations", *batch.records, model="support-bot")
    world.score()
    [row] = world.rows("generations", "support-bot", where="record_id = 'written-0'")
    passages = {passage["seq"]: passage["text"] for passage in world.rows("contexts", "support-bot")}
    claims = world.rows("claims", "support-bot", where="record_id = 'written-0' AND detector = 'faithfulness'")
    said = [(row["response"][c["start_offset"] : c["end_offset"]], c["support"] > 0.5) for c in claims]
    assert said == [
        ("The Eiffel Tower was completed in 1889.", True),
        ("It is 330 metres tall.", True),
        (UNSUPPORTED, False),
    ]
    assert "completed in March 1889" in passages[claims[0]["context_seq"]]
    [named] = world.rows("claims", "support-bot", where="record_id = 'written-0' AND detector = 'hallucination'")
    assert row["response"][named["start_offset"] : named["end_offset"]] == UNSUPPORTED
    assert named["support"] == claims[2]["support"]
