"""Thresholds that are learned, p-values against a budget, and what becomes of either where too little is known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detectors import false_alarms
from detectors.contract import Outcome, Reading
from monitor import configfile, thresholds
from monitor.cli import main
from monitor.config import Check, Config
from monitor.errors import ConfigError
from monitor.readings import Measured
from monitor.thresholds import Judge, Learned
from monitor.verdicts import Bounds, History
from tests.monitor.support import MODELS, World, check, label, prediction
from tests.monitor.test_runner import DAWN, MINUTE, at, fires, read, values
from tests.monitor.test_verdicts import slot

HOURS = {"start": (DAWN - timedelta(hours=4)).isoformat(), "end": DAWN.isoformat()}  # 24 windows of ten minutes


def before(world: World, numbers: list[float], prefix: str = "b") -> None:
    """One prediction in each window of the baseline."""
    items = [prediction(f"{prefix}{n}", DAWN + (10 * n - 240 + 5) * MINUTE, prediction=value) for n, value in enumerate(numbers)]
    world.send("predictions", *items)


def verdicts(world: World, name: str = "mean") -> dict[float, dict[str, Any]]:
    last = "row_number() OVER (PARTITION BY slot ORDER BY revision DESC) = 1"
    rows = world.rows("verdicts", where=f"check_name = '{name}' AND slot > TIMESTAMPTZ '{DAWN.isoformat()}' QUALIFY {last}")
    return {(row["slot"] - DAWN) / MINUTE: row for row in rows}


def since_dawn(found: list[float]) -> list[float]:
    return [minute for minute in found if minute > 0]


NUMBERS = [random.Random(n).gauss(100, 5) for n in range(24)]


# --- quantile and std --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "lower", "upper"),
    (
        ({"kind": "std", "upper": 3}, None, np.mean(NUMBERS) + 3 * np.std(NUMBERS)),
        ({"kind": "std", "lower": 2, "upper": 3}, np.mean(NUMBERS) - 2 * np.std(NUMBERS), np.mean(NUMBERS) + 3 * np.std(NUMBERS)),
        ({"kind": "quantile", "upper": 0.9}, None, np.quantile(NUMBERS, 0.9)),
        ({"kind": "quantile", "lower": 0.05}, np.quantile(NUMBERS, 0.05), None),
    ),
    ids=("std", "std either way", "quantile", "lower quantile"),
)
def test_bounds_are_those_of_the_baselines_own_windows(
    make_world: Callable[..., World], threshold: dict[str, Any], lower: float | None, upper: float | None
) -> None:
    world = make_world(checks=[check("mean", threshold={**threshold, "baseline": HOURS})])
    before(world, NUMBERS)
    values(world, (1, 100.0), (11, 200.0 if upper is not None else 1.0), (21, 100.0), (31, 0.0))
    world.look()
    found = verdicts(world)
    for row in found.values():
        assert (row["lower"], row["upper"]) == (pytest.approx(lower), pytest.approx(upper))
    assert since_dawn(fires(world)) == [20]
    standing = world.board.get("mean")
    assert standing is not None
    assert list(standing.bounds) == pytest.approx([lower, upper])
    (learned,) = world.rows("thresholds")
    assert json.loads(learned["numbers"]) == pytest.approx(NUMBERS)
    assert (learned["windows"], learned["reason"], len(learned["numbers_hash"])) == (24, None, 16)
    assert learned["achieved_lower"] <= learned["achieved"] <= learned["achieved_upper"]


def test_a_learned_threshold_is_frozen_through_late_records_and_restarts(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", threshold={"kind": "std", "upper": 3, "baseline": HOURS})])
    before(world, NUMBERS)
    values(world, (1, 100.0), (11, 100.0))
    world.look()
    first = verdicts(world)[10]["upper"]
    before(world, [1000.0] * 24, "late")
    world.look()
    assert read(world)[-230] > 500, "the reading of that window is restated"
    world.seal()
    world.restart()
    values(world, (21, 200.0), (31, 0.0))
    world.look()
    assert verdicts(world)[30]["upper"] == first
    assert since_dawn(fires(world)) == [30]
    assert len(world.rows("thresholds")) == 1


def test_a_threshold_is_learned_anew_where_other_features_are_declared(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", threshold={"kind": "std", "upper": 3, "baseline": HOURS})])
    before(world, NUMBERS)
    values(world, (1, 100.0), (11, 100.0))
    world.look()
    models = [model.model_copy(update={"features": {"size": "number"}}) for model in world.config.models]
    world.config = world.config.model_copy(update={"models": tuple(models)})
    world.restart()
    values(world, (21, 100.0), (31, 100.0))
    world.look()
    assert len({row["definition"] for row in world.rows("thresholds")}) == 2


def test_restated_labels_do_not_move_a_threshold(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("error", "Error", threshold={"kind": "std", "upper": 3, "baseline": HOURS})])
    before(world, [0.0] * 24)
    world.send("labels", *(label(f"b{n}", 1.0 + n % 3) for n in range(24)))
    values(world, (1, 0.0), (11, 0.0))
    world.send("labels", label("r1-0", 2.0), label("r11-1", 2.0))
    world.look()
    first = verdicts(world, "error")[10]["upper"]
    assert first == pytest.approx(2 + 3 * np.std([1, 2, 3]))
    world.send("labels", *(label(f"b{n}", 100.0, revision=1) for n in range(24)))
    world.look()
    world.restart()
    values(world, (21, 0.0))
    world.look()
    assert {row["upper"] for row in verdicts(world, "error").values()} == {first}


def test_too_little_to_learn_from_is_said_and_fires_nothing_until_more_comes(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", threshold={"kind": "std", "upper": 3, "baseline": HOURS})])
    before(world, NUMBERS[:6])
    values(world, (1, 1e6), (11, 0.0))
    world.look()
    row = verdicts(world)[10]
    assert (row["outcome"], row["beyond"], row["firing"], row["upper"]) == ("ok", None, False, None)
    assert row["note"].startswith("not_enough_data: 6 windows of the baseline gave a reading, min_windows is 10")
    standing = world.board.get("mean")
    assert standing is not None
    assert (standing.missing, standing.bounds) == ("not_enough_data", (None, None))
    before(world, NUMBERS, "more")
    values(world, (21, 1e6), (31, 0.0))
    world.look()
    assert since_dawn(fires(world)) == [30], "what was judged without a threshold is not judged anew"
    assert [json.loads(r["numbers"])[:1] != [] for r in world.rows("thresholds")] == [True, True]


def test_a_far_quantile_asks_for_as_many_windows_as_tell_it() -> None:
    threshold = Check.model_validate(check("c", threshold={"kind": "quantile", "upper": 0.99, "baseline": HOURS})).threshold
    assert thresholds.enough(threshold, [0.0] * 100) is None
    assert "100 are needed for the quantile upper: 0.99" in (thresholds.enough(threshold, [0.0] * 99) or "")


def test_nothing_is_judged_before_the_baseline_is_over(make_world: Callable[..., World]) -> None:
    later = {"start": DAWN.isoformat(), "end": at(120).isoformat()}
    world = make_world(checks=[check("mean", threshold={"kind": "std", "upper": 3, "baseline": later})])
    values(world, *((10 * n + 1, 5.0 + n % 2) for n in range(11)))
    assert world.look() == 0
    values(world, (111, 5.0), (121, 50.0), (131, 0.0))
    world.look()
    assert fires(world) == [130]


def test_learning_goes_on_where_it_was_called_off(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("mean", threshold={"kind": "std", "upper": 3, "baseline": HOURS})])
    before(world, NUMBERS)
    values(world, (1, 100.0), (11, 100.0))
    runner = world.runners["mean"]
    meter, seen = runner._meter, []
    look = meter.look

    def slow(*arguments: Any) -> Any:
        seen.append(arguments[1])
        world.clock.move(15)
        return look(*arguments)

    meter.look = slow  # type: ignore[assignment, method-assign]
    rounds = 0
    while not verdicts(world):
        world.look(1)
        rounds += 1
        assert rounds < 50
    assert rounds > 5
    assert len(world.rows("thresholds")) == 1
    learned = [s for s in seen if s <= DAWN]
    assert len(learned) == len(set(learned)) + 24, "each window was read once to learn, and once as a slot"


def test_a_window_does_not_stand_in_what_it_is_compared_with(make_world: Callable[..., World]) -> None:
    reference = {"start": HOURS["start"], "end": HOURS["end"]}
    world = make_world(checks=[check("shift", "Shift", reference=reference, threshold={"kind": "std", "upper": 3})])
    items = [prediction(f"b{n}", DAWN + (10 * n - 235) * MINUTE, features={"x": float(n // 5 * 10)}) for n in range(24)]
    world.send("predictions", *items)
    world.send("predictions", *(prediction(f"n{n}", at(10 * n + 1), features={"x": 20.0}) for n in range(3)))
    world.look()
    (learned,) = world.rows("thresholds")
    # Five runs of five windows (the last has four), each of one value: against the mean of the others.
    runs = [[0.0] * 5, [10.0] * 5, [20.0] * 5, [30.0] * 5, [40.0] * 4]
    expected = [
        abs(v - np.mean([u for j, other in enumerate(runs) if j != i for u in other])) for i, r in enumerate(runs) for v in r
    ]
    assert json.loads(learned["numbers"]) == pytest.approx(expected)


# --- calibrated --------------------------------------------------------------------------------------------------------


def calibrated(**fields: Any) -> Check:
    return Check.model_validate(check("c", threshold={"kind": "calibrated", "baseline": HOURS}, **fields))


def measured(p_value: float, floor: float = 0.0) -> Measured:
    reading = Reading(0.5, "share", n_current=10, metrics={"p_value": p_value, "p_value_floor": floor})
    return Measured(Outcome.OK, reading=reading)


def story(judge: Judge, p_values: list[float], floor: float = 0.0) -> str:
    one = History(reach=judge.reach)
    for n, p_value in enumerate(p_values):
        word = judge.word(measured(p_value, floor))
        one.put(slot(n), Outcome.OK, word.low, word.high, word.bounds, word.note)
    return "".join("*" if one._verdicts[s].firing else "-" for s in one._slots)


def test_a_p_value_of_alpha_or_less_fires() -> None:
    judge = Judge(calibrated(), 0.01, "higher")
    assert story(judge, [0.5, 0.0101, 0.01, 0.2, 0.001]) == "--*-*"


def test_below_the_floor_a_row_of_windows_is_asked_for() -> None:
    judge = Judge(calibrated(), 0.0001, "higher")
    word = judge.word(measured(0.001, 0.001))
    assert word.bounds == Bounds(0.0001**0.5, None, 0.0, True, 2, 2, 1)
    assert word.note is None
    assert story(judge, [0.001, 0.5, 0.001, 0.009, 0.5], 0.001) == "---*-"


def test_windows_that_overlap_do_not_count_as_two() -> None:
    judge = Judge(calibrated(window="30m"), 0.0001, "higher")
    bounds = judge.word(measured(0.001, 0.001)).bounds
    assert bounds is not None
    assert bounds.stride == 3
    assert story(judge, [0.001, 0.001, 0.001, 0.5, 0.5, 0.5], 0.001) == "------", "one bad half hour is one window"
    assert story(judge, [0.001, 0.5, 0.5, 0.001, 0.5], 0.001) == "---*-"


def test_with_k_of_m_in_the_config_the_level_is_theirs() -> None:
    judge = Judge(calibrated(breaches=2, of=4), 0.001, "higher")
    bounds = judge.word(measured(0.5)).bounds
    assert bounds is not None
    assert bounds.lower == pytest.approx(false_alarms.level(0.001, 2, 4))
    assert story(judge, [0.005, 0.5, 0.5, 0.005, 0.5]) == "---*-"
    assert story(judge, [0.005, 0.5, 0.5, 0.5, 0.005]) == "-----"


def test_a_budget_that_no_rule_can_keep_fires_nothing_and_says_so() -> None:
    judge = Judge(calibrated(), 1e-9, "higher")
    word = judge.word(measured(0.2, 0.2))
    assert word.note is not None
    assert word.note.startswith("budget_unreachable: 1 of 1 windows at 1e-09 a slot ask for a p-value of 1e-09")
    assert story(judge, [0.2] * 8, 0.2) == "--------"


def test_a_detector_without_p_values_is_judged_by_the_baselines_windows() -> None:
    for worse, far in (("higher", 200.0), ("lower", 0.0)):
        judge = Judge(calibrated(), 0.05, worse)  # type: ignore[arg-type]
        reading = Measured(Outcome.OK, reading=Reading(far, "mean", n_current=1))
        assert (judge.word(reading).note or "").startswith("not_evaluable: tests.plugins:Mean gives no p-value")
        judge.learn(Learned(tuple(NUMBERS)))
        word = judge.word(reading)
        assert word.low == pytest.approx(1 / 25)
        assert word.bounds is not None
        assert word.bounds.beyond(1 / 25, 1 / 25, False)
        middle = judge.word(Measured(Outcome.OK, reading=Reading(100.0, "mean", n_current=1)))
        assert middle.low is not None
        assert 0.2 < middle.low < 0.8


def test_what_was_calibrated_is_stored_shown_and_goes_on_after_a_restart(make_world: Callable[..., World]) -> None:
    threshold = {"kind": "calibrated", "alpha": 0.002, "baseline": HOURS}
    world = make_world(checks=[check("mean", threshold=threshold)])
    before(world, NUMBERS)
    values(world, (1, 100.0), (11, 200.0), (21, 200.0), (31, 200.0))
    world.look()
    world.restart()
    values(world, (41, 200.0), (51, 100.0), (61, 0.0))
    world.look()
    found = verdicts(world)
    # One of 25 is the least that 24 windows tell: two in a row at the root of alpha.
    assert {(row["needed"], row["of_windows"]) for row in found.values()} == {(2, 2)}
    assert found[20]["lower"] == pytest.approx(0.002**0.5)
    assert found[20]["judged"] == pytest.approx(1 / 25)
    assert since_dawn(fires(world)) == [30, 40, 50]
    standing = world.board.get("mean")
    assert standing is not None
    assert standing.rate.nominal == 0.002
    (incident,) = [r for r in world.rows("incidents") if r["revision"] == 1]
    proof = json.loads(incident["evidence"])
    assert (proof["threshold_kind"], proof["windows"], proof["judged"]) == ("calibrated", [2, 2], pytest.approx(1 / 25))


# --- the budget ----------------------------------------------------------------------------------------------------------


def config(*checks: dict[str, Any], budget: float | None = 3.0) -> Config:
    model = {**MODELS[0], "false_alarms_per_month": budget}
    return Config.model_validate({"models": [model, MODELS[1]], "checks": checks})


CALIBRATED = {"kind": "calibrated", "baseline": HOURS}


def test_a_budget_is_shared_out_over_slots_slices_and_weights() -> None:
    found = thresholds.alphas(
        config(
            check("a", every="1h", threshold=CALIBRATED),
            check("b", every="1d", window="1h", threshold={**CALIBRATED, "weight": 4}),
            check("c", every="1h", threshold=CALIBRATED, slices=[{"by": "country", "top": 3}, {"name": "x", "where": {"y": 1}}]),
            check("d", every="1h", threshold={**CALIBRATED, "alpha": 0.001}),
            check("e", every="1h"),
        )
    )
    slots = {"a": 720, "b": 30, "c": 720 * 6, "d": 720}
    assert set(found) == set(slots)
    assert sum(found[name] * count for name, count in slots.items()) == pytest.approx(3.0)
    assert found["a"] == pytest.approx((3.0 - 0.72) / (720 + 4 * 30 + 720 * 6))
    assert [found["b"] / found["a"], found["c"] / found["a"], found["d"]] == pytest.approx([4, 1, 0.001])


def test_a_budget_that_cannot_be_kept_is_warned_of() -> None:
    reference = {"start": HOURS["start"], "end": HOURS["end"]}
    drift = check("drift", every="10m", reference=reference, threshold={"kind": "calibrated"}) | {"detector": "data_drift"}
    (warning,) = thresholds.warnings(config(drift, budget=0.5))
    assert warning.startswith(
        "checks.0.threshold: budget_unreachable by one window: alpha is 0.000116 a slot, and 1000 resamples"
    )
    assert "2 windows in a row at 0.0108" in warning
    (warning,) = thresholds.warnings(config({**drift, "breaches": 1}, budget=0.5))
    assert "raise models.houses.false_alarms_per_month, alpha or resamples" in warning
    assert thresholds.warnings(config({**drift, "every": "1d", "reference": {"trailing": "30d"}}, budget=0.5)) == []


def test_what_a_reload_changes_of_one_check_changes_what_the_others_may_come_to() -> None:
    one = check("a", threshold=CALIBRATED)
    alone, both = (thresholds.alphas(config(*checks)) for checks in ((one,), (one, check("b", threshold=CALIBRATED))))
    assert alone["a"] == pytest.approx(2 * both["a"])


def test_check_config_warns_of_a_budget_and_ends_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = {"start": HOURS["start"], "end": HOURS["end"]}
    drift = check("drift", reference=reference, threshold={"kind": "calibrated"}) | {"detector": "data_drift"}
    file = tmp_path / "monitor.yaml"
    file.write_text(yaml.safe_dump({"models": [{**MODELS[0], "false_alarms_per_month": 0.5}], "checks": [drift]}))
    with pytest.raises(SystemExit) as ended:
        main(["check-config", str(file)])
    out, err = capsys.readouterr()
    assert ended.value.code == 0
    assert f"{file}: warning: checks.0.threshold: budget_unreachable by one window" in err
    assert out.endswith(f"{file}: ok, 1 models, 1 checks, 0 sources\n")


PROBLEMS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # name: (of the model, of the check, the problem)
    "neither alpha nor budget": ({}, {"threshold": {"kind": "calibrated"}}, "checks.0.threshold: kind calibrated needs alpha, or "
        "models.houses.false_alarms_per_month"),
    "a budget that is spent": (
        {"false_alarms_per_month": 1}, {"threshold": {"kind": "calibrated", "alpha": 0.01}},
        "models.0.false_alarms_per_month: 1, but checks with an alpha of their own come to 43.2; raise it, or lower those",
    ),
    "no time to learn from": (
        {}, {"threshold": {"kind": "std", "upper": 3}},
        "checks.0: threshold of kind std learns from the windows of a fixed range; give threshold.baseline with start and end, "
        "or a reference that has them",
    ),
    "bounds of p-values": (
        {}, {"threshold": {"kind": "calibrated", "upper": 1}},
        "checks.0.threshold: kind calibrated judges p-values; leave lower, upper and margin out, give alpha or a budget",
    ),
    "a quantile that is none": (
        {}, {"threshold": {"kind": "quantile", "upper": 3, "baseline": HOURS}},
        "checks.0.threshold: upper (3.0) is a quantile: between 0 and 1",
    ),
    "two of none": ({}, {"of": 3}, "checks.0: of (3) needs breaches: how many of these windows"),
    "more than there are": ({}, {"of": 3, "breaches": 4}, "checks.0: of (3) must not be below breaches (4)"),
    "a slice both ways": (
        {}, {"slices": [{"by": "x", "where": {"y": 1}}]}, "checks.0.slices.0: give exactly one of where and by",
    ),
    "a slice without a name": ({}, {"slices": [{"where": {"y": 1}}]}, "checks.0.slices.0: give the slice a name"),
    "too many slices": (
        {}, {"slices": [{"by": "x", "top": 100}, {"by": "y", "top": 100}]}, "checks.0.slices: 202 slices; at most 200, lower top",
    ),
    "a field that is none": (
        {"features": {"size": "number"}}, {"slices": [{"by": "sise"}]},
        "checks.0.slices.0.by: houses has no field 'sise'; there are size, model_version, attributes.KEY",
    ),
    "another task": (
        {}, {"detector": "performance", "settings": {"task": "binary"}},
        "checks.0.settings.task: binary, but houses has task regression; leave it out",
    ),
    "a task it cannot read": (
        {"task": "ranking"}, {"detector": "fairness", "settings": {"attributes": ["region"]}},
        "checks.0.detector: fairness reads tasks binary, regression, but houses has task ranking",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_config_is_told_what_is_wrong_with_it(tmp_path: Path, name: str) -> None:
    model, fields, problem = PROBLEMS[name]
    file = tmp_path / "monitor.yaml"
    file.write_text(yaml.safe_dump({"models": [{**MODELS[0], **model}], "checks": [{**check("c"), **fields}]}))
    with pytest.raises(ConfigError) as caught:
        configfile.load(file)
    assert [p.removeprefix(f"{file}: ") for p in caught.value.problems] == [problem]


@pytest.mark.parametrize("task", ("regression", "binary", "multiclass", "ranking"))
def test_a_detector_is_told_the_task_of_its_model(task: str) -> None:
    told = Config.model_validate({"models": [{**MODELS[0], "task": task}], "checks": [check("c") | {"detector": "performance"}]})
    assert told.checks[0].settings.task == task  # type: ignore[attr-defined]
