"""Records of models that nothing scores do not stand in the way of those that something does."""

from __future__ import annotations

from collections.abc import Callable

from tests.monitor.support import World, generation, sample

MODELS = ({"name": "bot", "task": "llm"}, {"name": "watched", "task": "llm"})
CHECK = {
    "name": "bare",
    "model": "watched",
    "detector": "tests.plugins:Bareness",
    "every": "10m",
    "threshold": {"upper": 0.5},
}


def test_a_model_that_nothing_scores_keeps_nobody_waiting(make_world: Callable[..., World]) -> None:
    world = make_world(models=MODELS, checks=[CHECK], scoring={"settle_seconds": 0, "batch_records": 2})
    world.send("generations", *(generation(f"u{i}", model="bot") for i in range(50)))
    world.clock.move(1)
    world.send("generations", *(generation(f"w{i}", model="watched") for i in range(3)))
    world.clock.move(1)
    assert world.scoring.step() == 50  # older, and gone at once
    assert sample(world.metrics, "modelwatch_queue_records", queue="scoring") == 53
    assert world.score() == 3
    assert [row["record_id"] for row in world.rows("scores", "watched")] == ["w0", "w1", "w2"]
    assert world.rows("scores", "bot") == []
    assert world.state("SELECT * FROM work") == []
