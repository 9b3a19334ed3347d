"""Results that several detectors want are made once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from detectors.memo import Memo

Rows = Sequence[dict[str, Any]]
INPUTS = ("response", "contexts")


def row(response: Any, *contexts: str) -> dict[str, Any]:
    return {"record_id": "any", "response": response, "contexts": [*contexts]}


class Counting:
    """Counts the rows that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __call__(self, rows: Rows) -> list[str]:
        self.asked += [one["response"] for one in rows]
        return [f"{one['response']!r} {len(one['contexts'])}" for one in rows]


def test_a_row_is_made_once_however_often_and_by_whomever_it_is_asked_for() -> None:
    memo, make = Memo[str](), Counting()
    first = memo.of("a", [row("x"), row("y"), row("x")], INPUTS, make)
    again = memo.of("a", [row("y"), row("z"), row("x")], INPUTS, make)
    assert (first, again) == (["'x' 0", "'y' 0", "'x' 0"], ["'y' 0", "'z' 0", "'x' 0"])
    assert make.asked == ["x", "y", "z"]


def test_another_maker_and_other_texts_are_other_results() -> None:
    memo, make = Memo[str](), Counting()
    asked = [row("x"), row("x", "a"), row("x", "a", "b"), row("x", "ab"), row(None), row("None"), row(7), row("\ud800")]
    memo.of("a", asked, INPUTS, make)
    memo.of("b", asked[:1], INPUTS, make)
    assert make.asked == ["x", "x", "x", "x", None, "None", 7, "\ud800", "x"]


def test_it_keeps_no_more_than_it_is_told_and_the_latest_of_them() -> None:
    memo, make = Memo[str](2), Counting()
    for response in "xyxzxy":
        memo.of("a", [row(response)], INPUTS, make)
    assert make.asked == ["x", "y", "z", "y"]
    forgets = Memo[str](0)
    assert forgets.of("a", [row("x")], INPUTS, make) == forgets.of("a", [row("x")], INPUTS, make)
    assert make.asked[4:] == ["x", "x"]


def test_of_two_threads_that_ask_at_once_one_makes_it() -> None:
    memo, make, both = Memo[str](), Counting(), threading.Barrier(2)

    def ask() -> list[str]:
        both.wait(10)
        return memo.of("a", [row(str(i)) for i in range(100)], INPUTS, make)

    with ThreadPoolExecutor(2) as pool:
        one, other = [future.result() for future in (pool.submit(ask), pool.submit(ask))]
    assert one == other
    assert make.asked == [str(i) for i in range(100)]


def test_what_could_not_be_made_is_tried_again() -> None:
    memo, make = Memo[str](), Counting()

    def fails(rows: Rows) -> list[str]:
        raise OSError("no disk")

    for _ in range(2):
        with pytest.raises(OSError, match="no disk"):
            memo.of("a", [row("x")], INPUTS, fails)
    assert memo.of("a", [row("x")], INPUTS, make) == ["'x' 0"]
