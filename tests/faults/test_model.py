"""Random interleavings of sending, losing the answer, sending again, crashing, restarting, sealing, scoring and coming late,
against a model of the store that is three dictionaries."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from monitor import faultpoints
from tests.monitor.support import World, check, contexts, generation, label, prediction

pytestmark = pytest.mark.faults

IDS = st.integers(0, 7)
SOME = st.lists(IDS, min_size=1, max_size=4)
POINT = st.integers(0, 12)
"""The how many-th point to crash at. One commit passes two, sealing a segment nine."""
BARE = check("bare", "Bareness", model="bot", threshold={"upper": 0.9})


class StoreAgainstModel(RuleBasedStateMachine):
    """A crash is a copy of the files as they lie at a point, which is all that a kill leaves, opened as a new store."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.stores = 0
        self.world = self._world()
        self.stored: dict[str, dict[str, Any]] = {"predictions": {}, "labels": {}, "generations": {}, "contexts": {}}
        self.conflicts = 0

    def _world(self) -> World:
        return World(self.folder / f"store{self.stores}", checks=[BARE], scoring={"settle_seconds": 0})

    def teardown(self) -> None:
        faultpoints.arm(None)
        self.world.close()
        shutil.rmtree(self.folder)

    # --- what clients do ---

    def send(self, kind: str, records: list[dict[str, Any]]) -> None:
        """Each batch is sent twice, as after a lost answer, and the second time must change nothing."""
        self._expect(kind, records)
        first = self.world.send(kind, *records)
        again = self.world.send(kind, *records)
        assert again.accepted == 0
        assert again.duplicates == len(records) - len(again.rejects)
        assert len(first.rejects) == len(again.rejects)
        self.conflicts += len(first.rejects) + len(again.rejects)

    def _expect(self, kind: str, records: list[dict[str, Any]]) -> None:
        for record in records:
            name = record["record_id"]
            if kind == "contexts":
                for text in record["contexts"]:
                    self.stored["contexts"].setdefault(f"{name} {text}", True)
                continue
            key = f"{name}/{record.get('revision', 0)}" if kind == "labels" else name
            self.stored[kind].setdefault(key, record.get("prediction") or record.get("label") or record.get("response"))
            for text in record.get("contexts", ()):
                self.stored["contexts"].setdefault(f"{name} {text}", True)

    @rule(ids=SOME, value=st.integers(1, 2))
    def predictions(self, ids: list[int], value: int) -> None:
        self.send("predictions", [prediction(f"p{i}", prediction=float(value), features={"x": value}) for i in ids])

    @rule(ids=SOME, revision=st.integers(0, 1))
    def late_labels(self, ids: list[int], revision: int) -> None:
        self.send("labels", [label(f"p{i}", 1.0, revision=revision) for i in ids])

    @rule(ids=SOME, passages=st.integers(0, 2))
    def generations(self, ids: list[int], passages: int) -> None:
        self.send("generations", [generation(f"g{i}", contexts=[f"c{n}" for n in range(passages)]) for i in ids])

    @rule(one=IDS, texts=st.lists(st.sampled_from(("c0", "c1", "late")), min_size=1, max_size=2, unique=True))
    def late_contexts(self, one: int, texts: list[str]) -> None:
        self.send("contexts", [contexts(f"g{one}", *texts)])

    # --- what happens to the daemon ---

    @rule()
    def seal(self) -> None:
        self.world.seal()

    @rule()
    def score(self) -> None:
        self.world.score()

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(ids=SOME, at=POINT)
    def crash_while_storing_and_send_again(self, ids: list[int], at: int) -> None:
        records = [prediction(f"p{i}", prediction=1.0, features={"x": 1}) for i in ids]
        self._crash(at % 2, lambda: self.world.send("predictions", *records))
        self.conflicts = len(self.world.letters())  # of the lost batch, as far as it got
        self.send("predictions", records)

    @rule(one=IDS, at=POINT)
    def crash_while_sealing(self, one: int, at: int) -> None:
        self.late_labels([one], 0)
        self._crash(at, self.world.seal)

    @rule(at=st.integers(0, 3))
    def crash_while_scoring(self, at: int) -> None:
        self.send("generations", [generation(f"new{len(self.stored['generations'])}")])
        self._crash(at, self.world.score)

    def _crash(self, at: int, work: Callable[[], Any]) -> None:
        """Do the work, and go on with the files as they lay when so many points had been passed, where they were."""
        passed: list[str] = []

        def copy(name: str) -> None:
            if len(passed) == at:
                shutil.copytree(self.world.store.root, self.folder / f"store{self.stores + 1}")
            passed.append(name)

        faultpoints.arm(copy)
        try:
            work()
        finally:
            faultpoints.arm(None)
        if len(passed) > at:
            self.world.close()
            self.stores += 1
            self.world = self._world()

    # --- what must hold ---

    @invariant()
    def everything_acknowledged_is_stored_once_without_a_gap(self) -> None:
        for kind, model, key in (
            ("predictions", "houses", lambda r: r["record_id"]),
            ("labels", "houses", lambda r: f"{r['record_id']}/{r['revision']}"),
            ("generations", "bot", lambda r: r["record_id"]),
            ("contexts", "bot", lambda r: f"{r['record_id']} {r['text']}"),
        ):
            rows = self.world.rows(kind, model)
            assert sorted(map(key, rows)) == sorted(self.stored[kind])
            assert [r["seq"] for r in rows] == list(range(1, len(rows) + 1))
        values = {r["record_id"]: r["prediction"] for r in self.world.rows("predictions")}
        assert values == self.stored["predictions"], "the first content stands"
        assert len(self.world.letters()) == self.conflicts

    @invariant()
    def every_input_has_one_outcome_or_waits_for_one(self) -> None:
        scored = [(r["record_id"], r["revision"]) for r in self.world.rows("scores", "bot")]
        assert len(scored) == len(set(scored))
        inputs = {(g, 1) for g in self.stored["generations"]}
        inputs |= {
            (r["record_id"], r["revision"])
            for r in self.world.rows("contexts", "bot")
            if r["record_id"] in self.stored["generations"]
        }
        waiting = self.world.state("SELECT record_id, revision FROM work WHERE due_at IS NOT NULL")
        assert sorted([*scored, *((w["record_id"], w["revision"]) for w in waiting)]) == sorted(inputs)


StoreAgainstModel.TestCase.settings = settings(
    max_examples=10, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoreAgainstModel = StoreAgainstModel.TestCase
