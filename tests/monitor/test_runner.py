"""Checks: which windows are read and when, what is stored and shown, and that every way there gives the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from monitor.errors import ChildAway, ChildFailed, StoreUnavailable
from tests.monitor.support import NOON, FakeClock, World, check, generation, label, prediction, sample

MINUTE = timedelta(minutes=1)
DAWN = NOON - timedelta(hours=6)  # nothing here comes from the future


def at(minutes: float) -> datetime:
    return DAWN + minutes * MINUTE


def values(world: World, *pairs: tuple[float, float], prefix: str = "r") -> None:
    """Predictions as (minute, value)."""
    items = [prediction(f"{prefix}{minute}-{n}", at(minute), prediction=value) for n, (minute, value) in enumerate(pairs)]
    world.send("predictions", *items)


def read(world: World, name: str = "mean") -> dict[float, Any]:
    """Value by the minute of the slot; the outcome where there is none."""
    found = world.readings(name)
    return {(s - DAWN) / MINUTE: value if value is not None else outcome for s, (outcome, value, _) in found.items()}


def fires(world: World, name: str = "mean") -> list[float]:
    return [(s - DAWN) / MINUTE for s, firing in world.firing(name).items() if firing]


# --- when a window is read -------------------------------------------------------------------------------------------


def test_a_window_is_read_once_the_watermark_has_passed_its_end(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean")])
    values(world, (1, 2.0), (2, 4.0), (9.99, 6.0))
    assert (world.look(), read(world)) == (0, {})
    values(world, (10, 100.0))
    assert (world.look(), read(world)) == (1, {10: 4.0})
    row = world.rows("readings")[0]
    assert (row["window_start"], row["window_end"], row["n_current"], row["revision"]) == (DAWN, at(10), 3, 1)
    assert (row["detector"], row["statistic"], row["outcome"]) == ("mean", "mean", "ok")
    assert world.look() == 0


def test_lateness_is_waited_for(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", lateness="5m")])
    values(world, (1, 2.0), (14.9, 9.0))
    assert world.look() == 0
    values(world, (2, 4.0))
    values(world, (15, 9.0))
    world.look()
    assert read(world) == {10: 3.0}
    assert len(world.rows("readings")) == 1


def test_a_model_that_went_quiet_has_its_last_window_read(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", lateness="1m", idle_timeout="5m")])
    world.send("predictions", prediction("a", NOON + MINUTE, prediction=2.0))
    assert world.look() == 0
    world.clock.move(10 * 60)
    assert world.look() == 0, "nothing came for long, but the end of the window and its lateness are not past"
    world.clock.move(60)
    assert world.look() == 1
    assert list(world.readings("mean").values()) == [("ok", 2.0, 1)]
    world.send("predictions", prediction("b", NOON + 2 * MINUTE, prediction=4.0))
    assert world.look() == 0, "something has just come for it"
    world.clock.move(300)
    assert world.look() == 1
    assert list(world.readings("mean").values()) == [("ok", 3.0, 2)]


def test_a_record_from_1970_is_one_window_and_not_half_a_million(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean"), check("sliding", window="1h")])
    world.send("predictions", prediction("old", datetime.fromisoformat("1970-01-01T00:05:00Z"), prediction=5))
    values(world, (1, 2.0), (11, 4.0))
    world.look()
    assert world.state("SELECT count(*) AS n FROM check_slots")[0]["n"] <= 8
    assert [s.year for s in world.readings("mean")] == [1970, 2026]
    assert read(world)[10] == 2.0


def test_a_record_from_2100_closes_nothing_and_hides_nothing(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean")])
    values(world, (1, 2.0))
    world.send("predictions", prediction("far", datetime.fromisoformat("2100-01-01T00:00:00Z"), prediction=5))
    assert world.look() == 0
    values(world, (11, 4.0))
    world.look()
    assert read(world) == {10: 2.0}
    standing = world.board.get("mean")
    assert standing is not None
    assert standing.slot == at(10)


@pytest.mark.parametrize("window", ("10m", "25m", "30m", "4m"))
def test_every_window_has_the_rows_it_should_whatever_its_length(make_world: Callable[..., World], window: str) -> None:
    world = make_world(checks=[check("mean", window=window)])
    length = int(window[:-1])
    points = [(minute, float(minute)) for minute in (1, 3, 7, 8, 15, 19, 21, 29, 35, 101, 108)]
    values(world, *points)
    values(world, (200, 0.0))
    world.look()
    expected = {}
    for slot in range(10, 190, 10):
        if inside := [v for minute, v in points if slot - length <= minute < slot]:
            expected[slot] = sum(inside) / len(inside)
    assert {s: v for s, v in read(world).items() if s < 200} == pytest.approx(expected)


def test_too_few_records_are_an_outcome_of_their_own(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", min_records=2, threshold={"upper": 5})])
    values(world, (1, 9.0), (2, 9.0), (11, 9.0), (21, 1.0), (22, 1.0), (31, 9.0), (41, 1.0))
    world.look()
    assert read(world) == {10: 9.0, 20: "not_enough_data", 30: 1.0, 40: "not_enough_data"}
    assert fires(world) == [10, 20], "it neither fires nor resolves"
    assert (
        world.rows("readings", where="slot = TIMESTAMPTZ '2026-03-01 06:20:00+00'")[0]["reason"] == "1 records, min_records is 2"
    )
    assert sample(world.metrics, "modelwatch_verdicts_total", model="houses", check="mean", outcome="not_enough_data") == 2
    assert sample(world.metrics, "modelwatch_verdicts_total", model="houses", check="mean", outcome="ok") == 2


# --- late records ----------------------------------------------------------------------------------------------------


def test_a_late_label_restates_a_reading_and_the_old_word_stays(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("error", "Error", threshold={"upper": 3})])
    values(world, (1, 1.0), (2, 1.0), (11, 0.0))
    world.look()
    assert read(world, "error") == {10: "not_enough_data"}
    world.clock.move(86400)
    world.send("labels", label("r1-0", 11.0))
    world.seal()
    world.look()
    assert (read(world, "error"), fires(world, "error")) == ({10: 10.0, 20: "not_enough_data"}, [10, 20])
    world.send("labels", label("r2-1", 1.0), label("r11-2", 0.0))
    world.look()
    world.send("labels", label("r1-0", 1.0, revision=1))
    world.look()
    world.look(300)
    assert (read(world, "error"), fires(world, "error")) == ({10: 0.0, 20: 0.0}, [])
    history = [(r["revision"], r["outcome"], r["value"]) for r in world.rows("readings") if r["slot"] == at(10)]
    assert history == [(1, "not_enough_data", None), (2, "ok", 10.0), (3, "ok", 5.0), (4, "ok", 0.0)]
    states = [(r["revision"], r["state"]) for r in world.rows("incidents")]
    assert states[0] == (1, "open")
    assert states[-1][1] == "withdrawn"
    assert world.incidents("error") == []


def test_a_label_that_came_first_is_joined_when_its_prediction_comes(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("error", "Error")])
    world.send("labels", label("r1-0", 4.0))
    assert world.look() == 0
    values(world, (1, 1.0), (11, 0.0))
    world.look()
    assert read(world, "error") == {10: 3.0}


def test_nothing_new_is_said_where_a_late_record_changes_nothing(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("error", "Error")])
    values(world, (1, 1.0), (11, 0.0))
    world.send("predictions", prediction("unsaid", at(2), prediction=None, features={"x": 1}))
    world.send("labels", label("r1-0", 4.0))
    world.look()
    world.send("labels", label("unsaid", 4.0))
    assert world.look() == 1
    assert [(r["revision"], r["value"]) for r in world.rows("readings") if r["slot"] == at(10)] == [(1, 3.0)]


# --- verdicts and incidents ------------------------------------------------------------------------------------------


def test_an_incident_opens_grows_and_is_resolved(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", breaches=2, clear=2, severity="critical")])
    for n, value in enumerate((1, 20, 30, 25, 1, 2, 3)):
        values(world, (10 * n + 1, value))
        world.look()
    assert fires(world) == [30, 40, 50]
    assert world.incidents("mean") == [(at(30), "resolved", at(60))]
    rows = world.rows("incidents")
    assert [(r["revision"], r["state"], r["peak"]) for r in rows] == [(1, "open", 30.0), (2, "resolved", 30.0)]
    assert {r["incident_id"] for r in rows} == {rows[0]["incident_id"]}
    assert rows[0]["severity"] == "critical"
    verdicts = world.rows("verdicts")
    assert [(r["beyond"], r["judged"], r["upper"]) for r in verdicts[:3]] == [(False, 1, 10), (True, 20, 10), (True, 30, 10)]


def test_restated_readings_can_split_merge_and_withdraw_incidents(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("error", "Error", threshold={"upper": 5})])
    values(world, *((10 * n + 1, 0.0) for n in range(6)))

    def truth(revision: int, *errors: float) -> list[tuple[float, str, float | None]]:
        world.send("labels", *(label(f"r{10 * n + 1}-{n}", e, revision=revision) for n, e in enumerate(errors)))
        world.look()
        return [((o - DAWN) / MINUTE, s, (r - DAWN) / MINUTE if r else None) for o, s, r in world.incidents("error")]

    assert truth(0, 9, 9, 9, 0) == [(10, "resolved", 40)]
    assert truth(1, 9, 0, 9, 0) == [(10, "resolved", 20), (30, "resolved", 40)]
    assert truth(2, 9, 9, 9, 9) == [(10, "open", None)]
    assert truth(3, 0, 9, 0, 9) == [(20, "resolved", 30), (40, "open", None)]
    assert truth(4, 0, 0, 0, 0) == []
    assert truth(5, 9, 0, 0, 0) == [(10, "resolved", 20)]
    world.restart()
    assert truth(6, 0, 0, 0, 0) == []
    standing = world.board.get("error")
    assert standing is not None
    assert (standing.firing, standing.open_incidents) == (False, 0)


def test_what_an_incident_shows_finds_its_records_again(make_world: Callable[..., World]) -> None:
    row = check("bare", "Bareness", model="bot", threshold={"upper": 0.2}, min_records=2)
    world = make_world(checks=[check("mean"), check("bare", "Bareness") | row])
    values(world, (1, 50.0), (2, 30.0), (11, 0.0))
    world.send("generations", *(generation(f"g{i}", at(i), contexts=["x"] * 1 if i == 3 else []) for i in range(1, 9)))
    world.send("generations", generation("last", at(11), contexts=["x"]))
    world.clock.move(30)
    world.score()
    world.look()
    world.seal()
    world.audit.refresh()
    shown = {r["check_name"]: json.loads(r["evidence"]) for m in ("houses", "bot") for r in world.rows("incidents", m)}
    assert (shown["mean"]["value"], shown["mean"]["n_current"], shown["mean"]["threshold"]) == (
        40.0,
        2,
        {"lower": None, "upper": 10.0},
    )
    assert [r["record_id"] for r in shown["bare"]["worst_records"]] == [f"g{i}" for i in (1, 2, 4, 5, 6, 7, 8, 3)]
    with duckdb.connect(str(world.store.root / "audit.duckdb"), read_only=True) as connection:
        connection.execute(f"SET file_search_path = '{world.store.root}'")
        found = connection.execute(f"SELECT record_id FROM ({shown['mean']['sql']})").fetchall()
        worst = connection.execute(shown["bare"]["sql"]).fetchall()
    assert found == [("r1-0",), ("r2-1",)]
    assert [r[0] for r in worst] == [r["record_id"] for r in shown["bare"]["worst_records"]]


def test_a_verdict_of_an_interval_needs_the_whole_interval(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", settings={"half_width": 2.0}, threshold={"upper": 10})])
    values(world, (1, 11.0), (11, 13.0), (21, 9.0), (31, 0.0))
    world.look()
    assert fires(world) == [20]
    standing = world.board.get("mean")
    assert standing is not None
    assert standing.interval == (7.0, 11.0)


# --- what a detector may do ------------------------------------------------------------------------------------------


def test_a_detector_that_raises_fails_its_own_check_and_no_other(make_world: Callable[..., World]) -> None:
    world = make_world(
        checks=[check("bad", settings={"raise_above": 0}), check("mean"), check("no", settings={"decline_above": 0})]
    )
    values(world, (1, 5.0), (11, -1.0), (21, 0.0))
    world.look()
    assert read(world) == {10: 5.0, 20: -1.0}
    assert read(world, "bad") == {10: "failed", 20: -1.0}
    assert read(world, "no") == {10: "not_evaluable", 20: -1.0}
    reasons = {r["check_name"]: r["reason"] for r in world.rows("readings") if r["slot"] == at(10)}
    assert reasons == {"bad": "RuntimeError: 5.0 is too much for me", "no": "constant: as told", "mean": None}
    assert sample(world.metrics, "modelwatch_scheduler_run_failures_total", check="bad", reason="detector") == 1
    assert sample(world.metrics, "modelwatch_scheduler_run_failures_total", check="mean", reason="detector") is None


@pytest.mark.parametrize("detector", ("Mean", "IsolatedMean"))
def test_a_detector_that_exits_has_failed_and_ends_nothing(make_world: Callable[..., World], detector: str) -> None:
    world = make_world(checks=[check("mean", detector)])
    values(world, (1, 999.0), (11, 3.0), (21, 0.0))
    world.look()
    assert read(world) == {10: "failed", 20: 3.0}


def test_a_reading_of_numpys_numbers_is_stored_and_shown_like_any_other(make_world: Callable[..., World]) -> None:
    reference = {"start": "2026-03-01T05:00:00Z", "end": "2026-03-01T06:00:00Z"}
    world = make_world(checks=[check("shift", "Shift", reference=reference, threshold={"upper": 1})])
    world.send("predictions", *(prediction(f"ref{i}", at(-i), features={"x": 1, "y": 2}) for i in range(1, 20)))
    world.send("predictions", prediction("a", at(1), features={"x": 5, "y": 3}), prediction("b", at(11), features={"x": 1}))
    world.look()
    assert read(world, "shift")[10] == 2.5
    before = world.board.get("shift")
    assert before is not None
    assert [(p.name, p.value) for p in before.parts] == [("x", 4.0), ("y", 1.0)]
    world.restart()
    assert world.board.get("shift") == before
    late = prediction("late", at(1), features={"x": 5, "y": 3})
    world.send("predictions", late)
    assert world.look() == 1
    assert [r["revision"] for r in world.rows("readings") if r["slot"] == at(10)] == [1, 2]  # n_current is another


def test_a_reading_that_cannot_be_stored_is_a_failure_of_its_check(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("odd", "Odd"), check("mean")])
    values(world, (1, 5.0), (11, 6.0))
    world.look()
    assert (read(world, "odd"), read(world)) == ({10: "failed"}, {10: 5.0})
    world.restart()
    values(world, (21, 6.0))
    world.look()
    assert read(world, "odd") == {10: "failed", 20: "failed"}


def test_an_isolated_detector_runs_in_the_worker(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", "IsolatedMean"), check("here")])
    values(world, (1, 5.0), (11, 6.0))
    world.look()
    assert read(world) == read(world, "here") == {10: 5.0}
    assert len(world.worker.asked) == 1


def test_a_window_that_kills_the_worker_is_tried_again_and_then_has_failed(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", "IsolatedMean")])
    values(world, (1, 5.0), (11, 666.0), (21, 6.0), (31, 7.0))

    def dies(request: Any) -> None:
        if request.current.numbers("prediction").mean() == 666:
            raise ChildFailed("worker: died while it was asked")

    world.worker.before = dies
    for _ in range(2):
        with pytest.raises(ChildFailed):
            world.look()
        assert read(world) == {10: 5.0}, "what was read before is kept, what comes after waits"
    world.look()
    assert read(world) == {10: 5.0, 20: "failed", 30: 6.0}


def test_a_worker_that_is_away_for_long_is_no_fault_of_the_window(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", "IsolatedMean")])
    values(world, (1, 5.0), (11, 6.0))

    def away(request: Any) -> None:
        raise ChildAway("worker: being restarted")

    world.worker.before = away
    for _ in range(5):
        with pytest.raises(ChildFailed):
            world.look()
    world.worker.before = lambda request: None
    world.look()
    assert read(world) == {10: 5.0}


def test_features_that_are_declared_and_have_not_come_yet_are_no_failure(make_world: Callable[..., World]) -> None:
    features = {"x": "number", "never": "number"}
    world = make_world(
        models=[{"name": "houses", "task": "regression", "features": features}],
        checks=[check("shift", "Shift", reference={"trailing": "1h"})],
    )
    world.send("predictions", *(prediction(f"r{i}", at(i), features={"x": i}) for i in range(-20, 12)))
    world.look()
    assert read(world, "shift")[10] == pytest.approx(4.5 + 10.5)


# --- references ------------------------------------------------------------------------------------------------------


def test_a_fixed_reference_is_frozen_and_stays_what_it_was(make_world: Callable[..., World]) -> None:
    reference = {"start": "2026-03-01T05:00:00Z", "end": "2026-03-01T06:00:00Z"}
    world = make_world(checks=[check("shift", "Shift", reference=reference)])
    world.send("predictions", *(prediction(f"ref{i}", at(-i), features={"x": 1}) for i in range(1, 20)))
    assert world.look() == 0, "the reference is not complete yet"
    world.send("predictions", prediction("a", at(1), features={"x": 5}), prediction("b", at(11), features={"x": 5}))
    world.look()
    assert read(world, "shift")[10] == 4.0
    assert len(list((world.store.root / "references").glob("houses-*.parquet"))) == 1
    world.send("predictions", *(prediction(f"late{i}", at(-i), features={"x": 100}) for i in range(1, 20)))
    world.restart()
    world.send("predictions", prediction("c", at(21), features={"x": 5}))
    world.look()
    assert read(world, "shift")[20] == 4.0


def test_a_reference_that_has_no_rows_yet_is_looked_for_again(make_world: Callable[..., World]) -> None:
    reference = {"start": "2026-03-01T04:00:00Z", "end": "2026-03-01T05:00:00Z"}
    world = make_world(checks=[check("shift", "Shift", reference=reference)])
    world.send("predictions", prediction("a", at(1), features={"x": 5}), prediction("b", at(11), features={"x": 5}))
    world.look()
    assert read(world, "shift") == {10: "not_evaluable"}
    assert "no_reference" in world.rows("readings")[0]["reason"]
    world.send("predictions", *(prediction(f"ref{i}", at(-90 - i), features={"x": 1}) for i in range(1, 9)))
    world.send("predictions", prediction("c", at(21), features={"x": 5}))
    world.look()
    assert read(world, "shift")[20] == 4.0


def test_a_trailing_reference_ends_where_the_window_begins(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("shift", "Shift", reference={"trailing": "10m"})])
    world.send("predictions", *(prediction(f"r{i}", at(i), features={"x": i // 10}) for i in range(40)))
    world.look()
    assert read(world, "shift") == {10: "not_evaluable", 20: 1.0, 30: 1.0}


def test_a_reference_from_a_file_is_compared_with_by_name(make_world: Callable[..., World], tmp_path: Path) -> None:
    path = tmp_path / "reference.csv"
    path.write_text("x,when\n1,2026-01-01\n3,2026-01-02\n")
    world = make_world(checks=[check("shift", "Shift", reference={"file": path})])
    world.send("predictions", prediction("a", at(1), features={"x": 5}), prediction("b", at(11), features={"x": 5}))
    world.look()
    assert read(world, "shift") == {10: 3.0}


def test_a_reference_file_that_is_gone_or_broken_is_said_to_be(make_world: Callable[..., World], tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_text("this is no Parquet")
    files = {"gone": tmp_path / "gone.csv", "broken": tmp_path / "broken.parquet"}
    world = make_world(checks=[check(name, "Shift", reference={"file": path}) for name, path in files.items()])
    world.send("predictions", prediction("a", at(1), features={"x": 5}), prediction("b", at(11), features={"x": 5}))
    world.look()
    assert read(world, "gone") == read(world, "broken") == {10: "not_evaluable"}
    assert {r["reason"].partition(":")[0] for r in world.rows("readings")} == {"no_reference"}


# --- shares of flagged answers ---------------------------------------------------------------------------------------


def test_a_share_of_flagged_answers_is_a_reading_with_its_interval(make_world: Callable[..., World]) -> None:
    bare = check("bare", "Bareness", model="bot", threshold={"upper": 0.1}, min_records=10)
    strict = check("strict", "Bareness", model="bot", threshold={"upper": 0.9}, flag=0.5, min_records=10)
    world = make_world(checks=[bare, strict], scoring={"settle_seconds": 0})
    world.send("generations", *(generation(f"g{i}", at(1 + i / 10), contexts=["x"] if i % 2 else []) for i in range(20)))
    world.send("generations", generation("next", at(11), contexts=["x"]))
    world.score()
    world.look()
    row = world.rows("readings", "bot", where="check_name = 'bare'")[0]
    assert (row["value"], row["n_current"], row["statistic"]) == (0.5, 20, "flagged_ratio")
    assert row["lower"] < 0.5 < row["upper"]
    metrics = json.loads(row["metrics"])
    assert metrics == {"flagged_ratio": 0.5, "mean_score": pytest.approx(0.75), "evaluated_ratio": 1.0}
    assert world.firing("bare", "bot") == {at(10): True}
    assert [r["value"] for r in world.rows("readings", "bot", where="check_name = 'strict'")] == [1.0]
    assert world.incidents("strict", "bot") == []


def test_a_window_of_answers_waits_until_they_are_scored(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("bare", "Bareness", model="bot")], scoring={"batch_records": 2})
    world.send("generations", *(generation(f"g{i}", at(i), contexts=["x"]) for i in range(1, 13)))
    world.scoring.step()
    assert world.look() == 0, "two of nine are scored"
    world.score()
    world.look()
    assert world.readings("bare", "bot") == {at(10): ("ok", 0.0, 9)}
    assert len(world.rows("readings", "bot")) == 1


def test_scores_that_come_after_the_window_has_closed_are_not_kept_waiting(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("bare", "Bareness", model="bot")])
    world.send("generations", *(generation(f"g{i}", at(i), contexts=["x"]) for i in range(1, 13)))
    assert world.look() == 0, "none of them is scored"
    world.score()
    assert world.look(1) == 1
    assert world.readings("bare", "bot") == {at(10): ("ok", 0.0, 9)}
    assert world.look(1) == 0


def test_a_late_context_restates_the_share(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("bare", "Bareness", model="bot", threshold={"upper": 0.1})], scoring={"settle_seconds": 0})
    world.send("generations", *(generation(f"g{i}", at(i)) for i in (1, 2, 11)))
    world.score()
    world.look()
    assert world.readings("bare", "bot") == {at(10): ("ok", 1.0, 2)}
    world.send("contexts", {"record_id": "g1", "model": "bot", "contexts": ["x"]})
    world.score()
    world.look()
    assert world.readings("bare", "bot") == {at(10): ("ok", 0.5, 2)}


# --- a store that is away, and a restart -----------------------------------------------------------------------------


class Flaky:
    """A store of which one write fails."""

    def __init__(self, world: World) -> None:
        self._store = world.store
        self.before_failing = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def run(self, work: Any) -> Any:
        self.before_failing -= 1
        if self.before_failing == -1:
            raise StoreUnavailable("being reopened")
        return self._store.run(work)


def test_what_could_not_be_stored_is_read_again(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", threshold={"upper": 1})])
    flaky: Any = Flaky(world)
    one = world.runners["mean"]
    one._store = one._agenda._store = flaky
    values(world, (1, 5.0), (11, 6.0))
    flaky.before_failing = 0  # the one write of a run: what new rows touch, and the readings
    with pytest.raises(StoreUnavailable):
        world.look()
    assert (read(world), world.board.get("mean")) == ({}, None)
    assert world.look() == 1
    assert (read(world), fires(world)) == ({10: 5.0}, [10])
    assert sample(world.metrics, "modelwatch_verdicts_total", model="houses", check="mean", outcome="ok") == 1
    world.restart()
    assert (read(world), fires(world)) == ({10: 5.0}, [10])
    assert [r["revision"] for r in world.rows("readings")] == [1]


def test_the_board_is_back_before_anything_runs(make_world: Callable[..., World]) -> None:
    world = make_world(
        checks=[check("mean", threshold={"upper": 1}, settings={"half_width": 0.5}), check("quiet", "Bareness", model="bot")]
    )
    values(world, (1, 5.0), (11, 6.0))
    world.look()
    before = world.board.standings()
    assert [(s.check, s.firing, s.value, s.open_incidents) for s in before] == [("mean", True, 5.0, 1)]
    world.seal()
    world.restart()
    assert world.board.standings() == before


def test_a_new_check_reads_what_there_is_already(make_world: Callable[..., World]) -> None:
    world = make_world()
    values(world, *((10 * n + 1, float(n)) for n in range(8)))
    world.seal()
    world.config = world.config.model_validate({**world.config.model_dump(), "checks": [check("mean")]})
    world.restart()
    world.look()
    assert read(world) == {10.0 * n + 10: float(n) for n in range(7)}


def test_a_check_that_moves_to_another_model_reads_what_there_is_of_that(make_world: Callable[..., World]) -> None:
    models = [{"name": "houses", "task": "regression"}, {"name": "flats", "task": "regression"}]
    world = make_world(models=models, checks=[check("mean")])
    values(world, *((m, 1.0) for m in range(0, 40, 5)))
    world.look()
    world.send("predictions", *({**prediction(f"f{m}", at(m), prediction=2.0), "model": "flats"} for m in (1, 11)))
    world.config = world.config.model_validate({**world.config.model_dump(), "checks": [check("mean", model="flats")]})
    world.restart()
    world.look()
    assert [(r["slot"], r["value"]) for r in world.rows("readings", "flats")] == [(at(10), 2.0)]


# --- every way there gives the same ----------------------------------------------------------------------------------

CHECKS = [
    check("mean", threshold={"upper": 12, "margin": 1}, breaches=2, clear=2),
    check("sliding", window="25m", settings={"half_width": 0.5}, threshold={"lower": 4, "upper": 13}, lateness="3m"),
    check("error", "Error", threshold={"upper": 4}),
    check("shift", "Shift", reference={"start": "2026-03-01T08:30:00Z", "end": "2026-03-01T09:00:00Z"}, threshold={"upper": 3}),
    check("isolated", "IsolatedMean", every="30m", min_records=20),
    check("bare", "Bareness", model="bot", threshold={"upper": 0.3}, window="20m", min_records=3),
]
STORY_MINUTES = 210


def story() -> list[tuple[str, dict[str, Any]]]:
    """Hours of records with shifts and a gap; labels come up to an hour and a half late, and some are corrected."""
    rng = random.Random(7)
    found: list[tuple[float, str, dict[str, Any]]] = []
    for minute in range(-STORY_MINUTES, 0):
        if -110 < minute < -95:
            continue  # nobody asked
        level = 5 + 10 * (-170 < minute < -135) + 10 * (-80 < minute < -65) - 4 * (minute > -25)
        when, value = NOON + (minute + rng.random() / 2) * MINUTE, level + rng.gauss(0, 2)
        name = f"r{minute}"
        found.append((minute, "predictions", prediction(name, when, prediction=value, features={"x": level, "y": rng.random()})))
        truth = value + (6 if -60 < minute < -40 else rng.random())
        found.append((minute + rng.randrange(90), "labels", label(name, truth)))
        if rng.random() < 0.1:
            found.append((minute + 100, "labels", label(name, truth + 1, revision=1)))
        contexts = ["one"] if rng.random() < (0.3 if -95 < minute < -70 else 0.9) else []
        found.append((minute, "generations", generation(name, when, contexts=contexts)))
    return [(kind, item) for _, kind, item in sorted(found, key=lambda f: f[0])]


def send(world: World, records: list[tuple[str, dict[str, Any]]]) -> None:
    for kind in ("labels", "predictions", "generations"):
        world.send(kind, *(item for k, item in records if k == kind))


def settle(world: World) -> None:
    world.clock.move(60)
    world.score()
    world.look()
    world.look(3600)  # nothing came for an hour: the last windows close


def outcome(world: World) -> dict[str, Any]:
    models = {c.name: c.model for c in world.config.checks}
    return {n: (world.readings(n, m), world.firing(n, m), world.incidents(n, m)) for n, m in models.items()}


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    world = World(tmp_path_factory.mktemp("one") / "store", checks=CHECKS)
    send(world, story())
    settle(world)
    found = outcome(world)
    world.close()
    # The story is worth comparing: every check has read, has fired and has resolved.
    assert all(len(readings) >= 5 and any(firing.values()) and incidents for readings, firing, incidents in found.values())
    return found


def test_a_replay_in_chunks_with_restarts_and_seals_gives_the_same(
    make_world: Callable[..., World], in_one_go: dict[str, Any]
) -> None:
    world = make_world(checks=CHECKS)
    records = story()
    for n, start in enumerate(range(0, len(records), 150)):
        send(world, records[start : start + 150])
        world.clock.move(31)
        world.score()
        world.look()
        if n % 2:
            world.seal()
        if n % 3 == 2:
            world.restart()
    settle(world)
    assert outcome(world) == in_one_go


def test_the_same_records_in_any_order_give_the_same(make_world: Callable[..., World], in_one_go: dict[str, Any]) -> None:
    world = make_world(checks=CHECKS)
    records = story()
    first = [r for r in records if r[0] == "predictions" and r[1]["timestamp"] < (NOON - 179 * MINUTE).isoformat()]
    send(world, first)  # the fixed reference is frozen once it is complete
    rest = [r for r in records if r not in first]
    random.Random(3).shuffle(rest)
    rest.sort(key=lambda r: r[0])  # each kind in another order; labels before their predictions
    for start in range(0, len(rest), 200):
        send(world, rest[start : start + 200])
        world.clock.move(31)
        world.score()
        world.look()
        world.seal()
    settle(world)
    assert outcome(world) == in_one_go


def test_a_backfill_a_month_later_gives_the_same(tmp_path: Path, in_one_go: dict[str, Any]) -> None:
    world = World(tmp_path / "store", FakeClock(NOON + timedelta(days=30)), checks=CHECKS)
    try:
        records = story()
        for start in range(0, len(records), 250):
            send(world, records[start : start + 250])
            world.clock.move(31)
            world.score()
            world.look()
        settle(world)
        assert outcome(world) == in_one_go
    finally:
        world.close()
