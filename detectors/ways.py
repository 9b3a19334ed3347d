"""Three looks at an answer that came without passages: other answers to the prompt, the log-probabilities of its tokens, and
what was said before in the conversation. Features for `hallucination`, as plain functions of texts and arrays.

Samples: discrete semantic entropy (Farquhar et al., Nature 630, 2024; Kuhn et al., ICLR 2023) with `agreement` in the place of
an entailment model, and the share of samples that agree with the answer (Manakul et al., "SelfCheckGPT", EMNLP 2023).
Log-probabilities: mean and lowest, and the entropy of the alternatives (Malinin and Gales, ICLR 2021; Manakul et al.). Turns:
the statement of an earlier answer that is nearest to a claim, and whether number, name or negation differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from detectors.agreement import agrees, answer, clusters, entropy, overlap
from detectors.support import Wording, wording

FloatArray = NDArray[np.float64]

# --- samples ---------------------------------------------------------------------------------------------------------

SAMPLES = {"entropy": 1, "disagreeing": 1, "elsewhere": 1, "distance": 1}
"""Feature -> sign of its weight: each can only raise the probability."""


def of_samples(texts: Sequence[str], question: str | None, vectors: NDArray[np.float32]) -> tuple[FloatArray, dict[str, Any]]:
    """`texts` are the answer and its samples, one at least; `vectors` are theirs, (texts, dimension), of unit length.

    Gives the features in the order of `SAMPLES`, and for the record: how many samples there are, how many clusters, and how
    many samples are in the answer's.
    """
    asked = wording(question) if question else None
    said = [answer(wording(text), asked) for text in texts]
    # Row by row: one product of matrices may sum in another order for another number of rows.
    cosines = np.array([vectors.astype(np.float64) @ vector for vector in vectors.astype(np.float64)])
    agree = np.array([[agrees(a, b, cosines[i, j]) for j, b in enumerate(said)] for i, a in enumerate(said)])
    members = clusters(agree)
    others = len(texts) - 1
    shared = [overlap(said[0], one) for one in said[1:]]
    values = {
        "entropy": entropy(members),
        "disagreeing": float((~agree[0, 1:]).mean()),
        "elsewhere": 1.0 - float(np.mean([1.0 if one is None else one for one in shared])),
        "distance": 1.0 - float(cosines[0, 1:].mean()),
    }
    detail = {"samples": others, "clusters": max(members) + 1, "agreeing": int(agree[0, 1:].sum())}
    return np.array([values[name] for name in SAMPLES], dtype=np.float64), detail


# --- log-probabilities -----------------------------------------------------------------------------------------------

LOGPROBS = {"mean": 1, "lowest": 1, "alternatives": 1, "surprising": 1}
SURPRISING = math.log(0.5)  # a token that something else may as well have been
FLOOR = -20.0  # OpenAI writes -9999 for a token that it gives no probability


class Token(NamedTuple):
    logprob: float
    alternatives: tuple[float, ...]


def tokens_of(given: Any, most: int) -> tuple[list[Token], bool] | None:
    """The tokens of an answer, at most `most`, and whether there were more; None where `given` is nothing of the kind.

    Read are OpenAI's `logprobs` (an object with `content`, or that list: `logprob`, `top_logprobs`), those of its older
    completions (`token_logprobs`, `top_logprobs`), and a plain list of numbers.

    >>> tokens_of({"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}, 10)
    ([Token(logprob=-0.5, alternatives=())], False)
    """
    if isinstance(given, Mapping):
        if isinstance(older := given.get("token_logprobs"), list | tuple):
            tops = given.get("top_logprobs")
            tops = tops if isinstance(tops, list | tuple) and len(tops) == len(older) else [None] * len(older)
            given = [{"logprob": one, "top_logprobs": top} for one, top in zip(older, tops, strict=True)]
        else:
            given = given.get("content")
    if not isinstance(given, list | tuple):
        return None
    found: list[Token] = []
    for one in given:
        value = one.get("logprob") if isinstance(one, Mapping) else one
        if not _is_log(value):  # the first token of a completion has none
            continue
        if len(found) == most:
            return found, True
        top = one.get("top_logprobs") if isinstance(one, Mapping) else None
        found.append(Token(max(FLOOR, float(value)), _alternatives(top)))
    return (found, False) if found else None


def _alternatives(top: Any) -> tuple[float, ...]:
    if isinstance(top, Mapping):  # the older form: token -> log-probability
        top = list(top.values())
    if not isinstance(top, list | tuple):
        return ()
    logs: list[Any] = [one.get("logprob") if isinstance(one, Mapping) else one for one in top]
    return tuple(max(FLOOR, float(log)) for log in logs if _is_log(log))


def _is_log(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= 0 and not math.isnan(value)


def of_logprobs(tokens: Sequence[Token]) -> tuple[FloatArray, dict[str, Any]]:
    """Features in the order of `LOGPROBS`; for the record: tokens, mean and lowest log-probability, perplexity and, where there
    are alternatives, their mean entropy in nats."""
    logs = np.array([token.logprob for token in tokens])
    entropies = [_entropy(token.alternatives) for token in tokens if token.alternatives]
    values = {
        "mean": -float(logs.mean()),
        "lowest": -float(logs.min()),
        # Without alternatives, what a token alone says of them: the entropy of it against all others.
        "alternatives": float(np.mean(entropies or [_entropy((token.logprob,)) for token in tokens])),
        "surprising": float((logs < SURPRISING).mean()),
    }
    detail = {
        "tokens": len(tokens),
        "logprob_mean": float(logs.mean()),
        "logprob_lowest": float(logs.min()),
        "perplexity": float(np.exp(-logs.mean())),
    }
    if entropies:
        detail["alternatives_entropy"] = float(np.mean(entropies))
    return np.array([values[name] for name in LOGPROBS], dtype=np.float64), detail


def _entropy(logs: Sequence[float]) -> float:
    """Entropy of the tokens that are listed and, as one, of all others: what is left of the probability."""
    shares = np.exp(np.array(logs, dtype=np.float64))
    shares = np.append(shares, max(0.0, 1.0 - shares.sum()))
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log(shares)).sum())


# --- earlier turns ---------------------------------------------------------------------------------------------------

TURNS = {"number": 1, "name": 1, "negation": 1, "near": 0}
"""How near the earlier statement is, 0 to 1; each of the first three is that where it differs so, else 0."""
NEAR_ENOUGH = 0.4  # of the claim's content words: with less in common it is about something else
MAX_STATEMENTS = 200  # of earlier answers that are read, the latest


def of_turns(claims: Sequence[Wording], statements: Sequence[Wording]) -> tuple[FloatArray, int]:
    """Features in the order of `TURNS` of the claim that differs most from what was said before, and its index.

    Each claim is held against the earlier statement that has most of its content words.
    """
    found = np.array([_turn(claim, statements) for claim in claims])
    worst = int(np.argmax(found[:, :3].sum(axis=1)))
    return found[worst], worst


def _turn(claim: Wording, statements: Sequence[Wording]) -> FloatArray:
    if not claim.content or not statements:
        return np.zeros(len(TURNS))
    shared = [len(claim.content & one.content) / len(claim.content) for one in statements]
    # Of equally near ones the last: it is what was said last.
    there = statements[len(shared) - 1 - int(np.argmax(shared[::-1]))]
    near = max(shared) if max(shared) >= NEAR_ENOUGH else 0.0
    values = {
        "number": near * (bool(claim.numbers - there.numbers) and bool(there.numbers - claim.numbers)),
        "name": near * (bool(claim.names - there.content) and bool(there.names - claim.content)),
        "negation": near * (claim.negated != there.negated),
        "near": near,
    }
    return np.array([values[name] for name in TURNS], dtype=np.float64)


def earlier(messages: Any, response: str) -> list[str]:
    """Texts of the assistant's turns before the answer, in their order. `messages` as `monitor.genai.messages` writes them, or
    of {role, content}; what has another form is passed over."""
    if not isinstance(messages, list | tuple):
        return []
    turns = [(one.get("role"), text_of(one)) for one in messages if isinstance(one, Mapping)]
    asked = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=-1)
    return [text for role, text in turns[: max(asked, 0)] if role == "assistant" and text.strip() and text != response]


def choices(messages: Any) -> list[str]:
    """Texts of the answers that one call gave (`n` in OpenAI's request): the last turns of the assistant, where each says why
    it ended. What an agent says bit by bit has one reason at its end, or user and tools between."""
    if not isinstance(messages, list | tuple):
        return []
    found: list[str] = []
    for one in reversed(messages):
        if not isinstance(one, Mapping) or one.get("role") != "assistant" or not one.get("finish_reason"):
            break
        if text := text_of(one):
            found.append(text)
    return found[::-1]


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("parts", message.get("content"))
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    parts = [p.get("content", p.get("text")) for p in content if isinstance(p, Mapping) and p.get("type", "text") == "text"]
    return "\n".join(part for part in parts if isinstance(part, str))
