"""From readings to verdicts to incidents: thresholds, hysteresis, and that the order of arrival does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.contract import Outcome
from monitor.verdicts import Bounds, History, Incident, Judged
from tests.monitor.support import NOON

HOUR = timedelta(hours=1)
Values = Sequence[float | None]


def slot(n: int) -> datetime:
    return NOON + n * HOUR


class Told(History):
    """A history whose readings are all judged by the same bounds."""

    def __init__(self, bounds: Bounds, clear: int) -> None:
        super().__init__(clear=clear, reach=bounds.reach)
        self.bounds = bounds

    def take(self, at: datetime, outcome: Outcome, low: float | None, high: float | None) -> list[Judged]:
        return self.put(at, outcome, low, high, self.bounds)


def history(threshold: dict[str, float], breaches: int = 1, clear: int = 1, **rule: Any) -> Told:
    return Told(Bounds(**{"needed": breaches, "of": breaches, **threshold, **rule}), clear)


def feed(one: Told, values: Values, order: Sequence[int] | None = None) -> Told:
    """None is a window that could not be read."""
    for n in order if order is not None else range(len(values)):
        value = values[n]
        one.take(slot(n), Outcome.OK if value is not None else Outcome.NOT_ENOUGH_DATA, value, value)
    return one


def firing(one: History) -> list[bool]:
    return [one._verdicts[s].firing for s in one._slots]


STORIES: dict[str, tuple[dict[str, Any], Values, str]] = {
    # name: (how it is judged, readings, where it fires)
    "above the upper bound": ({"upper": 2}, [1, 3, 1], "-*-"),
    "on the bound is not beyond it": ({"upper": 2}, [2, 2.0000001, 2], "-*-"),
    "below the lower bound": ({"lower": 2}, [3, 1, 3], "-*-"),
    "on either side": ({"lower": 1, "upper": 3}, [2, 0, 2, 4, 2], "-*-*-"),
    "inside by the margin or not at all": ({"upper": 2, "margin": 0.5}, [3, 1.6, 1.5, 1.6], "**--"),
    "the margin of a lower bound": ({"lower": 2, "margin": 0.5}, [1, 2.4, 2.5, 2.4], "**--"),
    "three in a row": ({"upper": 2, "breaches": 3}, [3, 3, 1, 3, 3, 3, 3, 1], "-----**-"),
    "two in a row to resolve": ({"upper": 2, "clear": 2}, [3, 1, 3, 1, 1, 1], "****--"),
    "a window that could not be read fires nothing": ({"upper": 2}, [None, 1, None], "---"),
    "nor resolves anything": ({"upper": 2}, [3, None, None, 1], "***-"),
    "nor breaks a row": ({"upper": 2, "breaches": 2}, [3, None, 3, None, 1], "--**-"),
    "two of the last three": ({"upper": 2, "breaches": 2, "of": 3}, [3, 1, 3, 1, 1, 3, 1, 1, 3], "--*------"),
    "of which the latest has to be one": ({"upper": 2, "breaches": 2, "of": 3, "clear": 2}, [3, 3, 1, 1, 1, 3], "-**---"),
    "every other window": ({"upper": 2, "breaches": 2, "stride": 2}, [3, 3, 1, 3, 1, 1, 3, 1, 3], "---*----*"),
    "a p-value on the bound counts": ({"lower": 0.01, "inclusive": True}, [0.02, 0.01, 0.02], "-*-"),
    "nothing could ever be read": ({"upper": 2}, [None, None], "--"),
}


@pytest.mark.parametrize("name", STORIES)
def test_a_check_fires_and_resolves_as_told(name: str) -> None:
    told, values, expected = STORIES[name]
    rule = {k: v for k, v in told.items() if k not in ("breaches", "clear")}
    one = feed(history(rule, told.get("breaches", 1), told.get("clear", 1)), values)
    assert "".join("*" if f else "-" for f in firing(one)) == expected


@pytest.mark.parametrize("outcome", (Outcome.NOT_ENOUGH_DATA, Outcome.NOT_EVALUABLE, Outcome.FAILED))
def test_only_what_could_be_judged_opens_or_closes_anything(outcome: Outcome) -> None:
    one = history({"upper": 2})
    one.take(slot(0), Outcome.OK, 3, 3)
    (verdict,) = one.take(slot(1), outcome, None, None)
    assert (verdict.firing, verdict.beyond, verdict.number) == (True, None, None)


def test_the_whole_interval_has_to_be_beyond_before_anybody_is_woken() -> None:
    one = history({"lower": 1, "upper": 3})
    judged = [one.take(slot(n), Outcome.OK, low, high)[0] for n, (low, high) in enumerate([(2, 5), (3.5, 5), (0, 2), (0, 0.5)])]
    assert [v.beyond for v in judged] == [False, True, False, True]
    assert [v.number for v in judged] == [2, 3.5, 2, 0.5]


def test_a_verdict_that_did_not_change_is_not_said_again() -> None:
    one = feed(history({"upper": 2}), [1, 3, 3, 1])
    assert one.take(slot(1), Outcome.OK, 3, 3) == []
    changed = one.take(slot(1), Outcome.OK, 1, 1)
    assert [(v.slot, v.firing, v.revision) for v in changed] == [(slot(1), False, 2)]
    changed = one.take(slot(0), Outcome.OK, 9, 9)
    assert [(v.slot, v.firing, v.revision) for v in changed] == [(slot(0), True, 2)]


def test_a_restated_reading_changes_all_that_follows_from_it() -> None:
    one = feed(history({"upper": 2}, breaches=2), [1, 3, 3, 3, 1])
    assert firing(one) == [False, False, True, True, False]
    changed = one.take(slot(2), Outcome.OK, 1, 1)
    assert [v.slot for v in changed] == [slot(2), slot(3)]
    assert firing(one) == [False, False, False, False, False]


def incidents(one: History, since: datetime | None = None) -> list[tuple[int, int, int | None, float]]:
    def number(when: datetime) -> int:
        return (when - NOON) // HOUR

    return [(number(i.opened), number(i.last), number(i.resolved) if i.resolved else None, i.peak) for i in one.incidents(since)]


def test_an_incident_lasts_from_the_first_firing_slot_to_the_one_that_resolves_it() -> None:
    one = feed(history({"upper": 2}), [1, 3, 5, None, 4, 1, 1, 7])
    assert incidents(one) == [(1, 4, 5, 5), (7, 7, None, 7)]
    assert incidents(one, slot(5)) == incidents(one)
    assert incidents(one, slot(6)) == [(7, 7, None, 7)]


def test_the_peak_is_the_worst_in_the_direction_that_fires() -> None:
    assert incidents(feed(history({"lower": 2}), [1, 0, 1, 3])) == [(0, 2, 3, 0)]
    assert incidents(feed(history({"lower": 2, "upper": 9}), [10, 12, 5])) == [(0, 1, 2, 12)]
    both = incidents(feed(history({"lower": 2, "upper": 9}), [10, 1, 5]))
    assert both == [(0, 1, 2, 10)], "one unit beyond on either side: the first of them"
    assert incidents(feed(history({"lower": 2, "upper": 9}), [0, -5, 5])) == [(0, 1, 2, -5)]


def test_an_incident_has_the_same_id_in_every_replay() -> None:
    one, same = Incident(NOON, NOON, None, 1.0), Incident(NOON, NOON + HOUR, NOON + HOUR, 7.0)
    assert one.id("c", "all") == same.id("c", "all")
    assert len({one.id("c", "all"), one.id("d", "all"), one.id("c", "x"), replace(one, opened=NOON + HOUR).id("c", "all")}) == 4


VALUES = st.lists(st.none() | st.integers(0, 4).map(float), min_size=1, max_size=12)
RULES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, 0.5, 1.0]))


@given(st.data(), VALUES, RULES)
def test_readings_give_the_same_verdicts_in_whatever_order_they_come(data: st.DataObject, values: Values, rules: Any) -> None:
    breaches, clear, margin = rules
    told = {"upper": 2.0, "margin": margin}
    order = data.draw(st.permutations(range(len(values))))
    straight = feed(history(told, breaches, clear), values)
    shuffled = feed(history(told, breaches, clear), values, order)
    assert firing(shuffled) == firing(straight)
    assert incidents(shuffled) == incidents(straight)


@given(VALUES, VALUES, RULES, st.integers(0, 11))
def test_a_restored_history_goes_on_as_the_one_that_was_stored(before: Values, after: Values, rules: Any, restated: int) -> None:
    breaches, clear, margin = rules
    told = {"upper": 2.0, "margin": margin}
    whole = feed(history(told, breaches, clear), before)
    stored = [replace(whole._verdicts[s], recent=0, good=0) for s in whole._slots]
    restored = history(told, breaches, clear)
    restored.restore(stored)
    for one in (whole, restored):
        for n, value in enumerate(after, len(before)):
            one.take(slot(n), Outcome.OK if value is not None else Outcome.FAILED, value, value)
        one.take(slot(restated % len(before)), Outcome.OK, 2.5, 2.5)
    assert [restored._verdicts[s] for s in restored._slots] == [whole._verdicts[s] for s in whole._slots]


@given(VALUES, RULES, st.integers(0, 11), st.none() | st.integers(0, 4).map(float))
def test_what_is_said_to_have_changed_is_all_that_changed(values: Values, rules: Any, at: int, value: float | None) -> None:
    breaches, clear, margin = rules
    one = feed(history({"upper": 2.0, "margin": margin}, breaches, clear), values)
    before = {s: one._verdicts[s].same_word for s in one._slots}
    changed = one.take(slot(at), Outcome.OK if value is not None else Outcome.FAILED, value, value)
    after = {s: one._verdicts[s].same_word for s in one._slots}
    assert {v.slot for v in changed} == {s for s in after if after[s] != before.get(s)}
