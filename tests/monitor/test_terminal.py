"""What strangers wrote, shown on a terminal."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from monitor.terminal import harmless, table


@given(st.text(st.characters()))
def test_nothing_that_is_shown_can_steer_a_terminal(text: str) -> None:
    shown = harmless(text)
    assert shown.isprintable()
    assert not {"Cc", "Cf", "Cs", "Zl", "Zp"} & {unicodedata.category(c) for c in shown}
    shown.encode()


def test_letters_of_all_scripts_stay_as_they_are() -> None:
    assert harmless("Grüße, 世界 ✓") == "Grüße, 世界 ✓"


def test_a_table_stands_in_columns_and_cuts_what_is_long() -> None:
    shown = table(("id", "name", "said"), [(1, "x" * 50, "a\nb"), (22, None, "y" * 90)], widest=40).split("\n")
    assert shown[0].split() == ["id", "name", "said"]
    assert shown[1] == "1   " + "x" * 39 + "…  a\\nb"
    assert shown[2] == "22  " + " " * 40 + "  " + "y" * 79 + "…"
