"""What was retrieved for answers: columns of a window, and checks of retrieval from records to firing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from detectors.contract import Claim, DetectorConfig, Row, Score, Window, Worse
from monitor.answers import Answers, Scored
from monitor.config import Config
from tests.monitor.support import NOON, World, contexts, generation
from tests.monitor.test_answers import DAWN, at, on_answers, read, settled
from tests.monitor.tracing import chat, record_id, reranker, retriever

SCORED = {"name": "judged", "model": "bot", "detector": f"{__name__}:ByWords", "every": "10m", "threshold": {"upper": 2}}


class ByWords:
    """A passage is as relevant as its last word says; a claim of the answer stands in each passage that it names by number."""

    name: ClassVar[str] = "by_words"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"question", "response", "contexts"})
    worse: ClassVar[Worse] = "lower"
    flag: ClassVar[float] = 0.5
    every_claim: ClassVar[bool] = True

    class Config(DetectorConfig):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def score(self, rows: Sequence[Row]) -> list[Score]:
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Score:
        if not row["contexts"]:
            return Score.not_evaluable("no_context")
        passages = [float(text.split()[-1]) for text in row["contexts"]]
        named = [int(word) for word in row["response"].split() if word.isdigit()]
        claims = [Claim(0, 1, 0.9 if i < len(passages) else 0.1, min(i, len(passages) - 1)) for i in named]
        cut = ("contexts_truncated", "claims_truncated")
        more: dict[str, Any] = {name: True for name in cut if name in row["response"]}
        return Score.ok(max(passages), claims=claims, passages=passages, **more)


def retrieval(name: str = "found", **fields: Any) -> dict[str, Any]:
    by = {"relevance_by": "by_words", "support_by": "judged", "min_rows": 1}
    return on_answers(name, "retrieval", **{**fields, "settings": {**by, **fields.get("settings", {})}})


def window(world: World, name: str, start: datetime = DAWN, minutes: float = 60) -> Window:
    traffic = world.runners[name]._meter._traffic
    with world.store.read() as reader:
        return traffic.between(reader, start, start + timedelta(minutes=minutes), {})


def lists(found: Window, column: str) -> list[Any]:
    column_ = found.categories(column)
    return [None if code < 0 else json.loads(column_.names[code]) for code in column_.codes]


def test_columns_say_what_an_answer_was_given_and_what_it_made_of_it(make_world: Callable[..., World]) -> None:
    world = make_world(
        checks=[SCORED, retrieval(settings={"metric": "unused_ratio"}), retrieval("by", settings={"metric": "irrelevant_ratio"})]
    )
    scored = [{"text": "about it 0.9", "score": 0.75}, {"text": "about something else 0.1", "score": 0.25}]
    world.send(
        "generations",
        generation("a", at(1), contexts=scored, response="it is in 1"),
        generation("b", at(2), contexts=["alone 0.4"], response="it is nowhere: 7"),
        generation("c", at(3), contexts=["alone 0.4"], response="contexts_truncated 0"),
        generation("d", at(4)),
        generation("e", at(5), contexts=["first 0.9", "named by the rest of it 0.4"], response="0 claims_truncated"),
    )
    settled(world)
    used, relevant = window(world, "found"), window(world, "by")
    assert used.numbers("retrieval.passages").tolist() == [2, 1, 1, 0, 2]
    assert used.numbers("retrieval.searches").tolist() == [0, 0, 0, 0, 0]
    assert lists(used, "support.judged") == [[None, 0.9], [0.1], None, None, None], "of the last two only a part was read"
    assert lists(relevant, "relevance.by_words") == [[0.9, 0.1], [0.4], [0.4], None, [0.9, 0.4]]


def test_scores_of_the_retriever_are_columns_whose_drift_fires(make_world: Callable[..., World]) -> None:
    drift = on_answers(
        "drift",
        "score_drift",
        settings={"column": "retrieval.best_score", "policy": "evidently", "method": "wasserstein"},
        reference={"start": DAWN.isoformat(), "end": at(10).isoformat()},
        threshold={"upper": 0.5},
    )
    world = make_world(checks=[drift])
    for minute, shift in ((1, 0.0), (11, 0.0), (21, 0.4)):
        for i in range(40):
            texts = [{"text": "one", "score": i / 100 + shift}, {"text": "two", "score": -1.0}]
            world.send("generations", generation(f"{minute}-{i}", at(minute), contexts=texts))
    world.send("generations", generation("last", at(31)))
    settled(world)
    world.look()
    found = window(world, "drift", minutes=10).numbers("retrieval.best_score")
    assert sorted(found.tolist()) == [i / 100 for i in range(40)]
    assert {s: f for s, f in world.firing("drift", "bot").items() if s > at(10)} == {at(20): False, at(30): True}


def test_a_retrieval_that_found_nothing_leaves_an_answer_empty_and_one_without_is_none(
    make_world: Callable[..., World],
) -> None:
    world = make_world(checks=[retrieval()])
    world.send(
        "spans",
        retriever("t", "r", "one", "two", end=0.5), chat("t", "c", start=0.6, end=1.0),
        retriever("u", "s", end=0.5), chat("u", "d", start=0.6, end=1.0),
        chat("v", "e", start=0.6, end=1.0),
        chat("w", "f", start=0.6, end=1.0), retriever("w", "x", "late", start=1.0, end=1.5),
    )  # fmt: skip
    settled(world)
    found = window(world, "found", NOON)
    by_passages = sorted(zip(found.numbers("retrieval.searches"), found.numbers("retrieval.passages"), strict=True))
    assert by_passages == [(0, 0), (0, 0), (1, 0), (1, 2)]


def test_what_a_reranker_left_is_in_force_and_what_was_joined_anew_replaces_it(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[SCORED, retrieval(settings={"metric": "irrelevant_ratio"})])
    world.send("spans", retriever("t", "r", "one 0.1", "two 0.9", end=0.5), chat("t", "c", start=0.9, end=1.0))
    settled(world)
    assert window(world, "found", NOON).numbers("retrieval.passages").tolist() == [2]
    world.send("spans", reranker("t", "k", "two 0.9"))
    settled(world)
    found = window(world, "found", NOON)
    assert found.numbers("retrieval.passages").tolist() == [1]
    assert lists(found, "relevance.by_words") == [[0.9]]
    world.send("contexts", contexts(record_id("t", "c"), "sent 0.2", "by hand 0.3"))
    settled(world)
    found = window(world, "found", NOON)
    assert found.numbers("retrieval.passages").tolist() == [2], "what the sender gave stands instead"
    assert lists(found, "relevance.by_words") == [[0.2, 0.3]]


def test_empty_retrievals_fire_from_spans_to_incident(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[retrieval(every="1m", threshold={"upper": 0.5}, settings={"min_rows": 30})])
    for i in range(40):
        world.send("spans", retriever(f"t{i}", f"r{i}", "one", end=0.5), chat(f"t{i}", f"c{i}", start=0.6, end=1.0))
        found = ["one"] if i < 5 else []
        world.send(
            "spans",
            retriever(f"u{i}", f"s{i}", *found, start=60, end=60.5), chat(f"u{i}", f"d{i}", start=60.6, end=61.0),
        )  # fmt: skip
    world.send("spans", chat("z", "z", start=130, end=131))
    settled(world)
    world.look()
    minute = timedelta(minutes=1)
    assert world.firing("found", "bot") == {NOON + minute: False, NOON + 2 * minute: True}
    found_ = {s: (outcome, value) for s, (outcome, value, _) in world.readings("found", "bot").items()}
    assert found_ == {NOON + minute: ("ok", 0.0), NOON + 2 * minute: ("ok", 35 / 40)}
    (incident,) = world.rows("incidents", "bot")
    assert "empty_ratio" in incident["evidence"]


@pytest.mark.parametrize("judged", (True, False))
def test_passages_that_come_late_restate_the_window_of_their_answer(make_world: Callable[..., World], judged: bool) -> None:
    world = make_world(checks=[*([SCORED] if judged else []), retrieval(settings={"among": "all"})])
    world.send("generations", *(generation(f"a{i}", at(1)) for i in range(4)), generation("b", at(12)))
    settled(world)
    world.look()
    assert read(world, "found")[10] == 1.0
    world.send("contexts", contexts("a0", "found late 0.5"))
    settled(world)
    world.look()
    assert read(world, "found")[10] == 3 / 4
    revisions = [r["revision"] for r in world.rows("readings", "bot", where="check_name = 'found'") if r["slot"] == at(10)]
    assert revisions == [1, 2]


@pytest.mark.parametrize("by", ("hallucination", "toxicity"))
def test_passages_are_not_called_unused_by_claims_of_which_some_are_left_out(by: str) -> None:
    models = [{"name": "bot", "task": "llm"}]
    judged = {**SCORED, "detector": by}
    unused = on_answers("found", "retrieval", settings={"metric": "unused_ratio", "support_by": "judged"})
    with pytest.raises(ValidationError, match=r"reads 'support.judged', but 'judged' does not say of every claim"):
        Config.model_validate({"models": models, "checks": [judged, unused]})


def test_late_passages_are_noticed_beside_a_score_that_only_a_sample_has() -> None:
    scores = {"asked": Scored("a", 0.5, "lower", every_answer=False), "all": Scored("b", 0.5, "lower")}
    inputs = frozenset({"score.asked", "retrieval.passages"})
    both = Answers("bot", inputs, {}, scores, every_call=False)
    assert (both.kinds, both.hashes) == (("calls", "scores"), ("a", "b"))
    alone = Answers("bot", inputs, {}, {"asked": scores["asked"]}, every_call=False)
    assert (alone.kinds, alone.hashes) == (("calls", "scores", "contexts"), ("a",))


def test_precision_is_read_after_sealing_as_before(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[SCORED, retrieval(settings={"metric": "context_precision"})])
    texts = [["right 0.9", "wrong 0.1"], ["wrong 0.1", "right 0.9"], ["wrong 0.1"]]
    world.send(
        "generations", *(generation(f"a{i}", at(1 + i), contexts=one) for i, one in enumerate(texts)), generation("b", at(12))
    )
    settled(world)
    before = window(world, "found")
    world.seal()
    after = window(world, "found")
    assert lists(after, "relevance.by_words") == lists(before, "relevance.by_words")
    assert np.array_equal(after.numbers("retrieval.passages"), before.numbers("retrieval.passages"))
    world.look()
    assert read(world, "found")[10] == 0.5


def test_a_check_that_is_not_there_is_named_with_those_that_are() -> None:
    models = [{"name": "bot", "task": "llm"}]
    one = on_answers("found", "retrieval", settings={"metric": "context_precision"})
    message = "reads 'relevance.context_relevance', but bot has no row check 'context_relevance'; there are by_words, judged"
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"models": models, "checks": [SCORED, one]})
