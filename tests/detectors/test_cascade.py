"""The cascade: who goes on, who answers, and that a batch is its rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.cascade import EVERYWHERE, NOWHERE, Answer, Band, Stage, run
from detectors.training.bands import choose, losses, macro_auroc


def stage(name: str, factor: float, band: Band, seen: list[list[float]] | None = None) -> Stage[float, float]:
    def judge(items: Sequence[float], before: Sequence[float | None]) -> list[float]:
        if seen is not None:
            seen.append(list(items))
        return [item * factor for item in items]

    return Stage(name, judge, band.holds)


def test_only_what_a_stage_leaves_open_goes_on() -> None:
    seen: list[list[float]] = []
    answers = run(
        [0.1, 0.5, 0.9],
        [stage("quick", 1.0, Band(0.4, 0.6)), stage("close", 10.0, NOWHERE, seen), stage("slow", 100.0, NOWHERE, seen)],
    )
    assert answers == [Answer(0.1, "quick", False), Answer(5.0, "close", False), Answer(0.9, "quick", False)]
    assert seen == [[0.5]]


def test_what_the_last_stage_leaves_open_is_said_so() -> None:
    [answer] = run([0.5], [stage("quick", 1.0, EVERYWHERE), stage("close", 1.0, Band(0.4, 0.6))])
    assert answer == Answer(0.5, "close", True)


def test_a_stage_is_told_what_the_one_before_said() -> None:
    told: list[float | None] = []

    def judge(items: Sequence[float], before: Sequence[float | None]) -> list[float]:
        told.extend(before)
        return list(items)

    run([1.0, 2.0], [stage("quick", 2.0, Band(4.0, 4.0)), Stage("close", judge)])
    assert told == [4.0]


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_batch_gives_what_its_items_alone_give(items: list[float], low: float, high: float) -> None:
    stages = [stage("quick", 1.0, Band(low, high)), stage("close", 0.5, Band(0.2, 0.3)), stage("slow", 2.0, NOWHERE)]
    assert run(items, stages) == [run([item], stages)[0] for item in items]


def test_a_stage_that_loses_an_item_is_a_failure() -> None:
    with pytest.raises(ValueError, match="stage broken gave 0 results for 1 items"):
        run([1.0], [Stage("broken", lambda items, before: [])])
    with pytest.raises(ValueError, match="needs a stage"):
        run([1.0], [])


# --- bands -----------------------------------------------------------------------------------------------------------


def labelled(n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, sources, and a good and a poor score that agree on what is easy."""
    rng = np.random.default_rng(0)
    positive = rng.random(n) < 0.5
    source = np.where(rng.random(n) < 0.5, "a", "b")
    good = np.clip(0.5 + np.where(positive, 0.25, -0.25) + rng.normal(0, 0.22, n), 0, 1)
    poor = np.clip(good + rng.normal(0, 0.15, n), 0, 1)
    return positive, source, good, poor


def test_the_band_is_the_narrowest_that_keeps_the_loss_within_bounds() -> None:
    positive, source, good, poor = labelled()
    group = np.arange(len(positive)).astype(str)
    found = choose(positive, source, group, first=poor, second=good, full=good, flag=0.5, most_loss=0.01, draws=100)
    wider, narrower = found.width, round(found.width - 0.01, 2)
    assert 0 < found.share < 1
    for width, within in ((wider, True), (narrower, False)):
        mixed = np.where(np.abs(poor - 0.5) <= width, good, poor)
        assert (losses(positive, source, group, good, mixed, draws=100).macro[1] <= 0.01) is within
    assert found.band == pytest.approx((0.5 - wider, 0.5 + wider))


def test_where_the_first_stage_is_as_good_nothing_goes_on() -> None:
    positive, source, good, _ = labelled()
    group = np.arange(len(positive)).astype(str)
    found = choose(positive, source, group, first=good, second=good, full=good, flag=0.5, draws=20)
    assert (found.width, found.share, found.band) == (0.0, 0.0, NOWHERE)


def test_the_macro_figure_is_the_mean_within_sources() -> None:
    positive = np.array([True, False, True, False])
    source = np.array(["a", "a", "b", "b"])
    assert macro_auroc(positive, source, np.array([0.9, 0.1, 0.2, 0.3])) == 0.5
