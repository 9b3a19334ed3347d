"""What is new in the traffic of a model, said once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from monitor.inbox import Batch
from monitor.transaction import Transaction
from tests.monitor.support import NOON, Held, World, generation, prediction, sample
from tests.monitor.tracing import chat


def changes(world: World, model: str = "bot") -> list[tuple[str, str, str]]:
    return [(row["what"], row["value"], row["previous"]) for row in world.rows("changes", model)]


def test_the_first_value_is_no_change_and_each_new_one_is_one(world: World) -> None:
    for i, version in enumerate(["1", "1", "2", "1", "2", "3"]):
        world.send("generations", generation(f"g{i}", model_version=version))
    assert changes(world) == [("model_version", "2", "1"), ("model_version", "3", "2")]
    assert sample(world.metrics, "modelwatch_changes_total", model="bot", what="model_version") == 2


def test_in_a_batch_the_earliest_record_with_a_value_is_named(world: World) -> None:
    said = enumerate([(9, "2"), (0, "1"), (5, "2")])
    world.send("generations", *(generation(f"g{i}", NOON + timedelta(seconds=s), model_version=v) for i, (s, v) in said))
    row = world.rows("changes", "bot")[0]
    assert (row["value"], row["previous"], row["record_id"], row["event_time"]) == ("2", "1", "g2", NOON + timedelta(seconds=5))


def test_a_prompt_is_its_name_and_version_and_is_compared_with_its_own_version_before(world: World) -> None:
    for i, (name, version) in enumerate([("hello", "1"), ("other", None), ("hello", "2"), ("other", "1")]):
        world.send("generations", generation(f"g{i}", prompt_name=name, prompt_version=version))
    assert changes(world) == [("prompt", "other", "hello@1"), ("prompt", "hello@2", "hello@1"), ("prompt", "other@1", "other")]


def test_spans_and_predictions_have_them_as_well(world: World) -> None:
    world.send("predictions", prediction("a", model_version="1"), prediction("b", model_version="2"))
    assert changes(world, "houses") == [("model_version", "2", "1")]
    world.send("spans", *(chat(f"t{n}", "c", start=n, end=n + 1, gen_ai__response__model=f"m-{n}") for n in (1, 2)))
    assert ("llm_model", "m-2", "m-1") in changes(world)


def test_what_was_seen_is_known_after_a_restart(world: World) -> None:
    world.send("generations", generation("a", llm_model="x"))
    world.restart()
    world.send("generations", generation("b", llm_model="x"), generation("c", llm_model="y"))
    assert changes(world) == [("llm_model", "y", "x")]


def test_a_batch_that_was_not_stored_leaves_nothing_seen(world: World) -> None:
    def fail(transaction: Transaction) -> None:
        raise RuntimeError("this job's own fault")

    world.send("generations", generation("a", llm_model="x"))
    held = Held(world.store)
    both = world.inbox.put(Batch("generations", [generation("b", llm_model="y")], "test"))
    broken = world.store.submit(fail)  # takes the group with it, after which each is done by itself
    held.release()
    with pytest.raises(RuntimeError):
        broken.result(10)
    assert both.result(10).accepted == 1
    assert changes(world) == [("llm_model", "y", "x")]


def test_a_name_that_changes_with_every_call_is_given_up(world: World) -> None:
    world.send("generations", *(generation(f"g{i}", model_version=f"v{i}") for i in range(1200)))
    world.send("generations", generation("more", model_version="yet another"))
    assert len(changes(world)) == 999
