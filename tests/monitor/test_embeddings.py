"""Vectors in windows: sent with predictions and in messages, or made of questions; and checks that fire when they move."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from detectors.contract import NotEvaluable
from monitor import embeddings
from monitor.errors import ChildAway
from tests.monitor.support import NOON, World, check, generation, prediction

DAWN = NOON - timedelta(hours=6)
MINUTE = timedelta(minutes=1)

PARCELS = ("Where is my parcel {}?", "When does order {} arrive?", "Can you track shipment {}?", "Is delivery {} delayed?")
COOKING = ("How long do I boil {} eggs?", "A recipe for {} pancakes?", "How to bake {} loaves of bread?", "Salt for {} potatoes?")


def drift(model: str, column: str, **settings: Any) -> dict[str, Any]:
    """Of the distance of the means, by its p-value."""
    return check(
        "moved",
        model=model,
        reference={"start": DAWN.isoformat(), "end": (DAWN + 10 * MINUTE).isoformat()},
        threshold={"lower": 0.01},
    ) | {
        "detector": "embedding_drift",
        "settings": {"column": column, "method": "distance", "reading": "p_value", "permutations": 200, **settings},
    }


def ask(world: World, minute: float, templates: tuple[str, ...], n: int = 40) -> None:
    questions = [templates[i % len(templates)].format(i) for i in range(n)]
    world.send("generations", *(generation(f"{minute}-{i}", DAWN + minute * MINUTE, question=q) for i, q in enumerate(questions)))


def outcomes(world: World, model: str) -> dict[float, str]:
    return {(s - DAWN) / MINUTE: outcome for s, (outcome, _, _) in world.readings("moved", model).items()}


def fires(world: World, model: str) -> list[float]:
    return [(s - DAWN) / MINUTE for s, firing in world.firing("moved", model).items() if firing]


def test_a_check_on_questions_fires_when_people_ask_of_something_else(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[drift("bot", "embedding.question")])
    ask(world, 1, PARCELS)
    ask(world, 11, PARCELS[::-1])
    ask(world, 21, COOKING)
    world.send("generations", generation("last", DAWN + 31 * MINUTE))
    world.settle(40)
    world.look()
    assert outcomes(world, "bot") == {10: "ok", 20: "ok", 30: "ok"}
    assert fires(world, "bot") == [30]
    batches = [request for request in world.scorer.asked if hasattr(request, "texts")]
    assert max(len(request.texts) for request in batches) <= embeddings.BATCH_TEXTS


def test_while_the_scorer_is_away_the_window_waits(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[drift("bot", "embedding.question")])
    ask(world, 1, PARCELS)
    ask(world, 11, PARCELS)
    world.send("generations", generation("last", DAWN + 21 * MINUTE))
    world.settle(40)

    def away(request: Any) -> None:
        raise ChildAway("scorer: being restarted")

    world.scorer.before = away
    with pytest.raises(ChildAway):
        world.look()
    assert outcomes(world, "bot") == {}
    world.scorer.before = lambda request: None
    world.look()
    assert outcomes(world, "bot") == {10: "ok", 20: "ok"}


def test_without_content_there_is_nothing_to_make_vectors_of(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[drift("bot", "embedding.question")])
    for minute in (1, 11, 21):
        rows = [generation(f"{minute}-{i}", DAWN + minute * MINUTE, question=None) for i in range(40)]
        world.send("generations", *rows)
    world.settle(40)
    world.look()
    reasons = {row["reason"] for row in world.rows("readings", "bot")}
    assert reasons <= {"0 records, min_records is 1", "content_off: no row of the window has this text"}
    assert "ok" not in outcomes(world, "bot").values()


def vectors(n: int, shift: float, seed: int) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    found: list[list[float]] = (rng.normal(0, 1, (n, 8)) + shift * np.eye(8)[0]).round(4).tolist()
    return found


def test_vectors_sent_with_predictions_are_compared(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[drift("houses", "embedding")])
    for minute, shift in ((1, 0.0), (11, 0.0), (21, 3.0), (31, 0.0)):
        sent = vectors(60, shift, int(minute))
        world.send("predictions", *(prediction(f"{minute}-{i}", DAWN + minute * MINUTE, embedding=v) for i, v in enumerate(sent)))
        world.seal()
    world.look()
    assert fires(world, "houses") == [30]


def test_of_many_a_sample_is_taken_by_id_and_those_without_a_vector_are_no_part_of_it(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[drift("houses", "embedding", max_rows=30)])
    sent: list[list[float] | None] = [*vectors(60, 0.0, 1), *([None] * 10)]
    world.send("predictions", *(prediction(f"r{i}", DAWN + MINUTE, embedding=v) for i, v in enumerate(sent)))
    traffic = world.runners["moved"]._meter._traffic

    def look() -> Any:
        with world.store.read() as reader:
            return traffic.between(reader, DAWN, DAWN + 10 * MINUTE, world.store.feature_columns("houses"))  # type: ignore[arg-type]

    first = look()
    assert first.rows == 30
    assert np.isfinite(first.vectors("embedding")).all()
    world.seal()
    assert np.array_equal(look().vectors("embedding"), first.vectors("embedding"))


def test_columns_of_numbers_are_a_vector_as_before(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[drift("houses", "v")])
    for minute, shift in ((1, 0.0), (11, 3.0), (21, 0.0)):
        rows = [{f"v.{j}": x for j, x in enumerate(v)} for v in vectors(60, shift, int(minute))]
        world.send("predictions", *(prediction(f"{minute}-{i}", DAWN + minute * MINUTE, features=f) for i, f in enumerate(rows)))
    world.look()
    assert fires(world, "houses") == [20]


def test_vectors_of_pictures_come_with_their_messages(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[drift("bot", "embedding.image")])
    for minute, shift in ((1, 0.0), (11, 3.0), (21, 0.0)):
        messages = [
            [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image", "vector": v}]}]
            for v in vectors(40, shift, int(minute))
        ]
        rows = [generation(f"{minute}-{i}", DAWN + minute * MINUTE, messages=m) for i, m in enumerate(messages)]
        world.send("generations", *rows)
    world.settle(40)
    world.look()
    assert fires(world, "bot") == [20]


@pytest.mark.parametrize(
    ("column", "expected"),
    (
        (["[1, 2]", None, "[3, 4]"], [[1.0, 2.0], None, [3.0, 4.0]]),
        (["[1, 2]", '["a", 2]', "{}", "[]", "[true, 1]", "not JSON"], [[1.0, 2.0], None, None, None, None, None]),
    ),
)
def test_what_is_no_list_of_numbers_is_no_vector(column: list[str | None], expected: list[list[float] | None]) -> None:
    found = embeddings.sent(column)
    assert [None if np.isnan(row).all() else row.tolist() for row in found] == expected


@pytest.mark.parametrize(
    ("column", "reason"),
    (
        (["[1, 2]", "[1, 2, 3]"], "type_changed: vectors of 2 and 3 numbers"),
        ([None, "x"], "missing_column"),
        ([], "missing_column"),
    ),
)
def test_vectors_that_cannot_be_compared_say_why(column: list[str | None], reason: str) -> None:
    with pytest.raises(NotEvaluable, match=reason):
        embeddings.sent(column)


def test_the_first_part_of_a_kind_counts_and_numbers_beyond_float32_are_infinite() -> None:
    parts = [{"type": "audio", "vector": [9]}, {"type": "image"}, {"type": "image", "vector": [1e300, 2]}, {"type": "image"}]
    column = [json.dumps([{"role": "user", "parts": parts}]), json.dumps({"no": "list"}), None]
    found = embeddings.of_media("image")(column)
    assert found[0].tolist() == [float("inf"), 2.0]
    assert np.isnan(found[1:]).all()
