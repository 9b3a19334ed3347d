"""Faithfulness: the share of an answer's claims that its contexts support.

The answer is split into claims, each is looked up in the sentences of the contexts (`support.Evidence`), and a small
logistic regression, trained by `detectors.training.faithfulness`, turns what was found into a probability of support. The
value is the mean of these probabilities: the share of supported claims to be expected. Claim by claim against retrieved
evidence as in FActScore (Min et al., EMNLP 2023), without a language model. Card, figures and limits: `## faithfulness` in
the README.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from detectors.claims import Span, split_claims
from detectors.contract import Claim, DetectorConfig, Encoder, Resources, Row, Score, Worse
from detectors.support import FEATURES, Evidence, wording

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]


class Faithfulness:
    """Expected share of the answer's claims that the contexts support, 0 to 1.

    Reads:  response, contexts, and question where there is one.
    Gives:  value; a `Claim` for each claim, with its support and its best context; in `detail` `claims_total`,
            `supported` (claims at or over `claim_threshold`), `share` (supported / claims_total), `lowest` (support of the
            weakest claim), and True under `claims_truncated` or `contexts_truncated` where something was left out.
    Ends:   not_evaluable with content_off, wrong_type, empty_answer, no_context or no_claims.
    Costs:  one encoding for each new sentence of answer and contexts; bounded by the settings.
    Equal:  a row gives the same value in any batch up to 1e-5, as the encoder's vectors do up to 1e-6.
    """

    name: ClassVar[str] = "faithfulness"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"response", "contexts", "question"})
    worse: ClassVar[Worse] = "lower"
    # At most one supported answer in ten is flagged on dev, the sources weighing equally; see the card.
    flag: ClassVar[float] = 0.39

    class Config(DetectorConfig):
        """Settings of `faithfulness`."""

        claim_threshold: float = Field(default=0.49, gt=0, lt=1, description="a claim counts as supported from here on")
        max_claims: int = Field(default=64, ge=1, description="claims scored of an answer; further ones are left out")
        max_passages: int = Field(default=20, ge=1, description="contexts read, in the order given")
        max_context_chars: int = Field(default=20_000, ge=100, description="characters read of all contexts together")

    def __init__(self, config: Faithfulness.Config | None = None) -> None:
        self.config = config or self.Config()
        self._encoder: Encoder | None = None
        self._head: Head | None = None

    def load(self, resources: Resources) -> None:
        """Take the shared encoder and read the head. Raises `HeadDamaged`."""
        head, encoder = read_head(), resources.encoder()
        if encoder.name != head.encoder:
            log.warning(
                "faithfulness was trained on another encoder; train it again with detectors.training.faithfulness",
                extra={"trained": head.encoder, "used": encoder.name},
            )
        self._encoder, self._head = encoder, head

    def score(self, rows: Sequence[Row]) -> list[Score]:
        if self._encoder is None or self._head is None:
            raise RuntimeError("faithfulness: call load(resources) before score(rows)")
        read = [read_row(row, self.config) for row in rows]
        found = look_up([case for case in read if isinstance(case, Case)], self._encoder)
        results = iter(found)
        return [case if isinstance(case, Score) else self._judge(case, next(results)) for case in read]

    def _judge(self, case: Case, found: Found) -> Score:
        assert self._head is not None
        support = self._head.probabilities(found.features)
        supported = int((support >= self.config.claim_threshold).sum())
        return Score.ok(
            float(support.mean()),
            stage="minilm",
            claims=[
                Claim(span.start, span.end, float(p), context)
                for span, p, context in zip(case.spans, support, found.contexts, strict=True)
            ],
            claims_total=len(support),
            supported=supported,
            share=supported / len(support),
            lowest=float(support.min()),
            **case.truncated,
        )


class Case(NamedTuple):
    """A row that can be scored."""

    response: str
    question: str
    spans: tuple[Span, ...]
    evidence: Evidence
    truncated: dict[str, bool]


class Found(NamedTuple):
    features: FloatArray  # (claims, features)
    contexts: list[int]


def read_row(row: Row, config: Faithfulness.Config) -> Case | Score:
    """What there is to score, or why there is nothing."""
    response, contexts, question = row.get("response"), row.get("contexts"), row.get("question")
    if response is None:
        return Score.not_evaluable("content_off")
    if not isinstance(response, str) or not isinstance(contexts, list | tuple | None):
        return Score.not_evaluable("wrong_type")
    if not response.strip():
        return Score.not_evaluable("empty_answer")
    kept, contexts_truncated = cut_contexts(contexts or (), config)
    evidence = Evidence(kept)
    if not evidence.texts:
        return Score.not_evaluable("no_context")
    claims = split_claims(response, config.max_claims)
    if not claims.spans:
        return Score.not_evaluable("no_claims")
    truncated = {"claims_truncated": claims.truncated, "contexts_truncated": contexts_truncated}
    asked = question if isinstance(question, str) else ""
    return Case(response, asked, claims.spans, evidence, {name: True for name, is_so in truncated.items() if is_so})


def cut_contexts(contexts: Sequence[Any], config: Faithfulness.Config) -> tuple[list[tuple[int, str]], bool]:
    """The contexts that will be read, with their indices, and whether anything was left out."""
    kept: list[tuple[int, str]] = []
    left = config.max_context_chars
    truncated = False
    for index, text in enumerate(contexts):
        if not isinstance(text, str) or not text.strip():
            continue
        if len(kept) == config.max_passages or not left:
            return kept, True
        truncated = truncated or len(text) > left
        kept.append((index, text[:left]))
        left -= len(kept[-1][1])
    return kept, truncated


def look_up(cases: Sequence[Case], encoder: Encoder) -> list[Found]:
    """Features of every claim of every case. All texts go to the encoder at once, so that it can fill its batches."""
    texts: list[str] = []
    for case in cases:
        texts += [case.response[start:end] for start, end in case.spans]
        texts += case.evidence.texts
    vectors = encoder.encode(texts)
    found: list[Found] = []
    at = 0
    for case in cases:
        claims = vectors[at : (at := at + len(case.spans))]
        case.evidence.vectors = vectors[at : (at := at + len(case.evidence.texts))]
        asked = wording(case.question) if case.question.strip() else None
        pairs = [
            case.evidence.find(case.response[start:end], vector, asked)
            for (start, end), vector in zip(case.spans, claims, strict=True)
        ]
        found.append(Found(np.array([features for features, _ in pairs]), [context for _, context in pairs]))
    return found


# --- the head --------------------------------------------------------------------------------------------------------


class HeadDamaged(ValueError):
    """The trained weights are not the ones the card describes, or not for this code."""


@dataclass(frozen=True, slots=True)
class Head:
    """A logistic regression over standardised features."""

    mean: FloatArray  # (features,)
    scale: FloatArray  # (features,)
    weights: FloatArray  # (features,)
    bias: float
    encoder: str

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Support of each claim, (claims,), from its features, (claims, features)."""
        # Row by row, because a matrix product may sum in another order for another number of rows.
        logits = ((features - self.mean) / self.scale * self.weights).sum(axis=1) + self.bias
        return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float64)


def read_head(folder: Traversable | None = None) -> Head:
    """The head in `folder`, by default the one that is shipped. Raises `HeadDamaged`."""
    from safetensors.numpy import load

    folder = folder or files("detectors") / "weights"
    card = json.loads((folder / "faithfulness.json").read_text(encoding="utf-8"))
    content = (folder / "faithfulness.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise HeadDamaged("faithfulness.safetensors is not the file its card describes; reinstall modelwatch")
    if card["features"] != list(FEATURES):
        raise HeadDamaged("faithfulness.safetensors was trained on other features; run detectors.training.faithfulness")
    arrays = load(content)
    return Head(arrays["mean"], arrays["scale"], arrays["weights"], float(arrays["bias"][0]), card["encoder"])
