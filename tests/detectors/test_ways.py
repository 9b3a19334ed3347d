"""Samples, log-probabilities and earlier turns: what they say of an answer, and what they are read from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.agreement import agrees, answer, clusters, entropy
from detectors.support import wording
from detectors.ways import LOGPROBS, SAMPLES, TURNS, choices, earlier, of_logprobs, of_samples, of_turns, tokens_of

ASKED = "When was the tower built?"


def said(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}], **more}


def unit(*rows: list[float]) -> np.ndarray:
    found = np.array(rows, dtype=np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "cosine", "same"),
    (
        ("In 1889.", "The tower was built in 1889.", 0.5, True),
        ("It was built in 1889.", "It was built in 1890.", 0.99, False),
        ("Gustave Eiffel built it.", "It was built by the engineer Eiffel.", 0.6, True),
        ("Gustave Eiffel built it.", "Napoleon built it.", 0.9, False),
        ("It was finished.", "It was not finished.", 0.99, False),
        ("The tower was built.", "When the tower was built.", 0.9, True),
        ("The tower was built.", "When the tower was built.", 0.3, False),
    ),
)
def test_answers_agree_in_what_they_say_beyond_the_question(one: str, other: str, cosine: float, same: bool) -> None:
    asked = wording(ASKED)
    a, b = answer(wording(one), asked), answer(wording(other), asked)
    assert agrees(a, b, cosine) is same
    assert agrees(b, a, cosine) is same


def test_entropy_is_none_where_all_say_the_same_and_one_where_nobody_does() -> None:
    assert entropy([0, 0, 0, 0]) == 0.0
    assert entropy([0, 1, 2, 3]) == pytest.approx(1.0)
    assert entropy([0, 0, 1, 1]) == pytest.approx(math.log(2) / math.log(4))
    assert entropy([0]) == 0.0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_clusters_are_those_that_are_alike(kinds: list[int]) -> None:
    alike = np.array([[a == b for b in kinds] for a in kinds])
    found = clusters(alike)
    assert [[a == b for b in found] for a in found] == alike.tolist()
    assert 0.0 <= entropy(found) <= 1.0 + 1e-12


def test_samples_that_say_something_else_raise_every_feature() -> None:
    same, detail = of_samples(["In 1889.", "It was built in 1889.", "In 1889, it was."], ASKED, unit([1, 0], [1, 0.1], [1, 0.1]))
    other, more = of_samples(["In 1889.", "It was built in 1920.", "By Napoleon in 1701."], ASKED, unit([1, 0], [1, 1], [0, 1]))
    assert (detail, more) == (
        {"samples": 2, "clusters": 1, "agreeing": 2},
        {"samples": 2, "clusters": 3, "agreeing": 0},
    )
    assert dict(zip(SAMPLES, same, strict=True)) == pytest.approx(
        {"entropy": 0.0, "disagreeing": 0.0, "elsewhere": 0.0, "distance": 1 - 1 / math.sqrt(1.01)}, abs=1e-6
    )
    assert (other > same).all()


# --- log-probabilities -----------------------------------------------------------------------------------------------

CONTENT = [
    {
        "token": "In",
        "logprob": -0.1,
        "bytes": None,
        "top_logprobs": [{"token": "In", "logprob": -0.1}, {"token": "By", "logprob": -3.0}],
    },
    {"token": " 1889", "logprob": -2.0, "top_logprobs": 3},
]


def test_log_probabilities_are_read_from_each_form_they_come_in() -> None:
    numbers = [-0.1, -2.0]
    older = {
        "tokens": ["a", "In", " 1889"],
        "token_logprobs": [None, -0.1, -2.0],
        "top_logprobs": [None, {"In": -0.1, "By": -3.0}, {}],
    }
    for given_ in ({"content": CONTENT, "refusal": None}, CONTENT, older, numbers):
        found = tokens_of(given_, 100)
        assert found is not None
        assert [token.logprob for token in found[0]] == numbers
        assert found[0][0].alternatives == (() if given_ is numbers else (-0.1, -3.0))
        assert not found[1]
    assert tokens_of(CONTENT, 1) == ([tokens_of(CONTENT, 9)[0][0]], True)  # type: ignore[index]


@pytest.mark.parametrize(
    "given_", (None, {}, [], {"content": None}, "text", [None, "a"], [0.5, float("nan")], [True], {"content": 3})
)
def test_what_is_no_log_probability_is_none(given_: Any) -> None:
    assert tokens_of(given_, 100) is None


def test_unsure_tokens_raise_every_feature_and_perplexity_is_that_of_the_mean() -> None:
    sure, _ = of_logprobs(tokens_of([-0.01, -0.02, -0.01], 9)[0])  # type: ignore[index]
    unsure, detail = of_logprobs(tokens_of([-0.01, -4.0, -1.0], 9)[0])  # type: ignore[index]
    assert (unsure > sure).all()
    assert detail["perplexity"] == pytest.approx(math.exp(5.01 / 3))
    assert (detail["tokens"], detail["logprob_lowest"]) == (3, -4.0)
    # Two tokens of one half each: an entropy of log 2, and nothing left for others.
    even = [{"logprob": math.log(0.5), "top_logprobs": [{"logprob": math.log(0.5)}, {"logprob": math.log(0.5)}]}]
    features, more = of_logprobs(tokens_of(even, 9)[0])  # type: ignore[index]
    assert more["alternatives_entropy"] == pytest.approx(math.log(2)) == features[list(LOGPROBS).index("alternatives")]


def test_a_token_without_any_probability_is_finite() -> None:
    features, detail = of_logprobs(tokens_of([-9999.0, -math.inf, 0.0], 9)[0])  # type: ignore[index]
    assert np.isfinite(features).all()
    assert all(math.isfinite(value) for value in detail.values())


# --- earlier turns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "differs"),
    (
        ("The tower was completed by Eiffel in 1890.", {"number"}),
        ("The tower was completed in 1889 by Napoleon.", {"name"}),
        ("The tower was not completed in 1889 by Eiffel.", {"negation"}),
        ("The tower was completed in 1889 by Eiffel.", set()),
        ("Bananas are not yellow in 1920.", set()),
        ("It is so.", set()),
    ),
)
def test_a_claim_differs_from_the_earlier_statement_on_the_same_thing(claim: str, differs: set[str]) -> None:
    statements = [wording(text) for text in ("Birds sing in Paris.", "The tower was completed in 1889 by Eiffel.")]
    features, worst = of_turns([wording("Birds sing."), wording(claim)], statements)
    found = dict(zip(TURNS, features, strict=True))
    assert {name for name in ("number", "name", "negation") if found[name]} == differs
    assert worst == (1 if differs else 0)


def test_earlier_turns_are_those_of_the_assistant_before_the_last_question() -> None:
    messages = [
        said("system", "Be kind."),
        said("user", "Hello?"),
        said("assistant", "It was built in 1889."),
        said("tool", "a result"),
        {"role": "assistant", "content": [{"type": "text", "text": "Really."}, {"type": "tool_call", "name": "f"}]},
        said("user", "Sure?"),
        said("assistant", "Yes."),
    ]
    assert earlier(messages, "Yes.") == ["It was built in 1889.", "Really."]
    for nothing in (None, "text", [], [3, None], [said("user", "Hello?"), said("assistant", "Yes.")]):
        assert earlier(nothing, "Yes.") == []


def test_choices_of_a_call_are_told_from_turns_of_an_agent() -> None:
    asked = said("user", "Hello?")
    of_n = [asked, *(said("assistant", text, finish_reason="stop") for text in "abc")]
    assert choices(of_n) == ["a", "b", "c"]
    in_steps = [asked, said("assistant", "Let me see."), said("assistant", "Yes.", finish_reason="stop")]
    assert choices(in_steps) == ["Yes."]
    for nothing in (None, "text", [], [asked], [asked, said("assistant", "Yes.")], [3]):
        assert choices(nothing) == []
