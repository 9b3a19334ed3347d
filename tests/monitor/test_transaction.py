"""Rows of state tables by their keys, put down together for all that is committed at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from monitor.transaction import Transaction
from tests.monitor.support import NOON, World

KEYS = ("check_name", "slot")


def slot(minutes: int, not_before: int | None = None, name: str = "m/c") -> dict[str, Any]:
    later = None if not_before is None else NOON + timedelta(minutes=not_before)
    return {"check_name": name, "slot": NOON + timedelta(minutes=minutes), "touched_at": NOON, "not_before": later}


def stored(world: World) -> list[dict[str, Any]]:
    return world.state("SELECT * FROM check_slots ORDER BY check_name, slot")


def test_a_row_takes_the_place_of_the_one_with_its_keys_and_of_no_other(world: World) -> None:
    world.store.run(lambda t: t.put("check_slots", KEYS, [slot(0), slot(1), slot(0, name="m/d")]))
    world.store.run(lambda t: t.put("check_slots", KEYS, [slot(0, not_before=5)]))
    world.store.run(lambda t: t.remove("check_slots", KEYS, [("m/c", slot(1)["slot"]), ("m/c", slot(9)["slot"])]))
    assert stored(world) == [slot(0, not_before=5), slot(0, name="m/d")]


def test_in_one_transaction_the_last_word_on_a_key_stands(world: World) -> None:
    def several(transaction: Transaction) -> None:
        transaction.put("check_slots", KEYS, [slot(0), slot(1), slot(2)])
        transaction.remove("check_slots", KEYS, [("m/c", slot(1)["slot"])])
        transaction.put("check_slots", KEYS, [slot(2, not_before=7)])
        assert len(transaction.query("FROM check_slots")) == 2, "what is asked next sees it"
        transaction.remove("check_slots", KEYS, [("m/c", slot(0)["slot"])])

    world.store.run(several)
    assert stored(world) == [slot(2, not_before=7)]


@pytest.mark.parametrize("keyed_first", (True, False))
def test_rows_by_key_and_rows_without_are_put_down_in_the_order_they_were_given(world: World, keyed_first: bool) -> None:
    def several(transaction: Transaction) -> None:
        def keyed() -> None:
            transaction.put("check_slots", KEYS, [slot(0, not_before=1)])

        def plain() -> None:
            transaction.delete("check_slots", "check_name", ["m/c"])
            transaction.insert("check_slots", {name: [value] for name, value in slot(0).items() if value is not None})

        first, second = (keyed, plain) if keyed_first else (plain, keyed)
        first()
        second()

    world.store.run(several)
    assert stored(world) == [slot(0, not_before=None if keyed_first else 1)]


def test_nothing_of_it_outlives_a_rollback(world: World) -> None:
    def fails(transaction: Transaction) -> None:
        transaction.put("check_slots", KEYS, [slot(0)])
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        world.store.run(fails)
    assert stored(world) == []
