"""Context relevance: are the passages about the question, and did the answer use them.

Each passage is looked up for the question by meaning and wording, and a logistic regression, trained on passages that people or
the makers of a data set put to a question and on others, makes a probability of it. A cascade: the static encoder reads
everything; where the row's value lies near the flag, MiniLM reads the nearest sentence of the best passages. Card, figures and
limits: `## context_relevance` in the README.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from detectors.cascade import Answer, Band
from detectors.claims import split_claims
from detectors.contract import DetectorConfig, Resources, Row, Score, Worse
from detectors.faithfulness import cut_contexts
from detectors.relevance import Cascade, Judged, Pair, asked, pair
from detectors.support import Wording, share, wording

FloatArray = NDArray[np.float64]

MAX_CLAIMS = 64
USED = 0.3  # share of a claim's content words in one sentence of a passage from which on the passage counts as used; see the card
LEAST_WORDS = 3  # a claim of fewer content words stands in many passages by chance


class ContextRelevance:
    """Probability that the best passage is about the question, or the mean of these probabilities over passages, 0 to 1.

    Reads:  question and contexts, and response where there is one.
    Gives:  value; stage `static` or `minilm`; in `detail` `passages` (the probability of each that was read, None for empty
            ones), `best_passage` (its index), `best`, `mean`, `irrelevant` (how many are at or below `unsure_around`) and, where
            the answer has a claim to tell by, `unused`: how many passages none of its claims stands in. True under `unclear`
            where the value is near the flag even so, and under `contexts_truncated` where something was left out.
    Ends:   not_evaluable with no_question, no_context or wrong_type.
    Costs:  six milliseconds of processor time for five passages of 1,500 characters, mostly shared with `faithfulness`; three
            short encodings where they are looked at closer. Bounded by the settings.
    Equal:  a row gives the same value in any batch up to 1e-5, as the encoder's vectors do up to 1e-6.
    """

    name: ClassVar[str] = "context_relevance"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"question", "contexts", "response"})
    worse: ClassVar[Worse] = "lower"
    # At most one relevant passage in ten is flagged on dev, the sources weighing equally; see the card.
    flag: ClassVar[float] = 0.35

    class Config(DetectorConfig):
        """Settings of `context_relevance`."""

        value: Literal["best", "mean"] = Field(default="best", description="of the passages' probabilities, which is the value")
        unsure_width: float = Field(
            default=0.12, ge=0, le=1, description="values so far from the flag or nearer are looked at closer; 0: none, 1: all"
        )
        unsure_around: float = Field(default=0.35, ge=0, le=1, description="the flag, where the check has another")
        closer_passages: int = Field(default=2, ge=1, description="passages looked at closer in a row, the best first")
        max_passages: int = Field(default=20, ge=1, description="contexts read, in the order given")
        max_context_chars: int = Field(default=20_000, ge=100, description="characters read of all contexts together")

    def __init__(self, config: ContextRelevance.Config | None = None) -> None:
        self.config = config or self.Config()
        self.band = Band.around(self.config.unsure_around, self.config.unsure_width)
        self._cascade: Cascade | None = None

    def load(self, resources: Resources) -> None:
        """Take the shared encoders and read the heads. Raises `HeadDamaged`."""
        closer = self.config.closer_passages
        self._cascade = Cascade(self.name, resources, self._unsure, closer=closer, asks=bool(self.config.unsure_width))

    def score(self, rows: Sequence[Row]) -> list[Score]:
        if self._cascade is None:
            raise RuntimeError("context_relevance: call load(resources) before score(rows)")
        read = [read_row(row, self.config) for row in rows]
        answers = iter(self._cascade([case.pairs for case in read if isinstance(case, Case)]))
        return [case if isinstance(case, Score) else self._say(case, next(answers)) for case in read]

    def _value(self, judged: Judged) -> float:
        return float(judged.values.max() if self.config.value == "best" else judged.values.mean())

    def _unsure(self, judged: Judged) -> bool:
        return self.band.holds(self._value(judged))

    def _say(self, case: Case, answer: Answer[Judged]) -> Score:
        values = answer.result.values
        passages: list[float | None] = [None] * (case.indices[-1] + 1)
        for index, value in zip(case.indices, values, strict=True):
            passages[index] = float(value)
        more: dict[str, Any] = {} if case.unused is None else {"unused": case.unused}
        marks: dict[str, bool] = {"unclear": answer.unclear and answer.stage == "minilm", "contexts_truncated": case.truncated}
        return Score.ok(
            self._value(answer.result),
            stage=answer.stage,
            passages=passages,
            best_passage=case.indices[int(values.argmax())],
            best=float(values.max()),
            mean=float(values.mean()),
            irrelevant=int((values <= self.config.unsure_around).sum()),
            **(more | {name: True for name, is_so in marks.items() if is_so}),
        )


class Case(NamedTuple):
    """A row that can be scored: a pair for each passage that says something, and its index in the row."""

    pairs: tuple[Pair, ...]
    indices: tuple[int, ...]
    unused: int | None
    truncated: bool


def read_row(row: Row, config: ContextRelevance.Config) -> Case | Score:
    """What there is to score, or why there is nothing."""
    question, contexts, response = row.get("question"), row.get("contexts"), row.get("response")
    if not isinstance(question, str | None) or not isinstance(contexts, list | tuple | None):
        return Score.not_evaluable("wrong_type")
    wanted = asked(question)
    if wanted is None:
        return Score.not_evaluable("no_question")
    kept, truncated = cut_contexts(contexts or (), config.max_passages, config.max_context_chars)
    found = [(index, one) for index, text in kept if (one := pair(wanted, text, config.max_context_chars)) is not None]
    if not found:
        return Score.not_evaluable("no_context")
    pairs = tuple(one for _, one in found)
    claims = claims_of(response) if isinstance(response, str) else []
    return Case(
        pairs,
        tuple(index for index, _ in found),
        sum(used(claims, one.sentences) < USED for one in pairs) if claims else None,
        truncated or any(one.truncated for one in pairs),
    )


def claims_of(response: str) -> list[Wording]:
    """The answer's claims that say enough to be recognised. None: it cannot be told what it used."""
    spans = split_claims(response, MAX_CLAIMS).spans
    said = [wording(response[start:end]) for start, end in spans]
    return [claim for claim in said if len(claim.content) >= LEAST_WORDS]


def used(claims: Sequence[Wording], sentences: Sequence[str]) -> float:
    """The largest share of a claim's content words that stands in one sentence."""
    there = [wording(text).content for text in sentences]
    return max((share(claim.content, one) for claim in claims for one in there), default=0.0)
