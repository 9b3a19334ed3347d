"""Messages that are in canonical form already take a shorter way, to the same place."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from monitor.genai import messages

TEXTS = st.one_of(
    st.text(max_size=5), st.just("data:image/png;base64,iVBORw0KGgo="), st.none(), st.integers(), st.lists(st.text(max_size=3))
)
PARTS = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "image", "tool_call", None]), "content": TEXTS}),
    st.fixed_dictionaries({"type": st.just("text"), "content": st.text(max_size=5)}, optional={"text": TEXTS}),
    st.text(max_size=5),
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "human", "", None])},
    optional={"parts": st.one_of(st.lists(PARTS, max_size=3), TEXTS), "finish_reason": TEXTS, "content": TEXTS, "name": TEXTS},
)


@given(MESSAGES)
def test_the_short_way_gives_what_the_long_one_gives(value: dict[str, Any]) -> None:
    short = messages._canonical(value)
    assert short is None or short == messages.message(value, "user")


def test_text_of_a_known_speaker_takes_the_short_way() -> None:
    plain = {"role": "user", "parts": [{"type": "text", "content": "why?"}, {"type": "text", "content": ""}]}
    assert messages._canonical(plain) == {"role": "user", "parts": [{"type": "text", "content": "why?"}]}
    assert messages._canonical({**plain, "role": "tool"}) is None
