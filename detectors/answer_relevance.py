"""Answer relevance: the probability that an answer is about what was asked.

The answer's sentences are looked up for the question by meaning and wording, and a logistic regression, trained on questions with
their own answers and with others', makes a probability of it. A cascade: the static encoder reads everything; where its value
lies near the flag, MiniLM reads the question and the sentence nearest to it. Nothing is generated and no judge is asked, other
than by the answer relevancy of ragas (Es et al., EACL 2024). Card, figures and limits: `## answer_relevance` in the README.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from detectors.cascade import Answer, Band
from detectors.contract import DetectorConfig, Resources, Row, Score, Worse
from detectors.relevance import Cascade, Judged, Pair, asked, pair


class AnswerRelevance:
    """Probability that the answer addresses the question, 0 to 1.

    Reads:  question and response.
    Gives:  value; stage `static` or `minilm`; in `detail` `span` (offsets of the sentence nearest to the question), True under
            `unclear` where the value is near the flag even so, and under `truncated` where something was left out.
    Ends:   not_evaluable with content_off, no_question, empty_answer or wrong_type.
    Costs:  a millisecond of processor time for eight sentences; two short encodings where they are looked
            at closer. Bounded by the settings.
    Equal:  a row gives the same value in any batch up to 1e-5, as the encoder's vectors do up to 1e-6.
    """

    name: ClassVar[str] = "answer_relevance"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"question", "response"})
    worse: ClassVar[Worse] = "lower"
    # At most one real answer in ten is flagged on dev, the sources weighing equally; see the card.
    flag: ClassVar[float] = 0.31

    class Config(DetectorConfig):
        """Settings of `answer_relevance`."""

        unsure_width: float = Field(
            default=0.22, ge=0, le=1, description="values so far from the flag or nearer are looked at closer; 0: none, 1: all"
        )
        unsure_around: float = Field(default=0.31, ge=0, le=1, description="the flag, where the check has another")
        max_chars: int = Field(default=20_000, ge=100, description="characters read of an answer; what is left out is said")

    def __init__(self, config: AnswerRelevance.Config | None = None) -> None:
        self.config = config or self.Config()
        self.band = Band.around(self.config.unsure_around, self.config.unsure_width)
        self._cascade: Cascade | None = None

    def load(self, resources: Resources) -> None:
        """Take the shared encoders and read the heads. Raises `HeadDamaged`."""
        self._cascade = Cascade(self.name, resources, self._unsure, closer=1, asks=bool(self.config.unsure_width))

    def score(self, rows: Sequence[Row]) -> list[Score]:
        if self._cascade is None:
            raise RuntimeError("answer_relevance: call load(resources) before score(rows)")
        read = [read_row(row, self.config) for row in rows]
        answers = iter(self._cascade([(one,) for one in read if isinstance(one, Pair)]))
        return [one if isinstance(one, Score) else say(one, next(answers)) for one in read]

    def _unsure(self, judged: Judged) -> bool:
        return self.band.holds(float(judged.values[0]))


def read_row(row: Row, config: AnswerRelevance.Config) -> Pair | Score:
    """What there is to score, or why there is nothing."""
    question, response = row.get("question"), row.get("response")
    if response is None:
        return Score.not_evaluable("content_off")
    if not isinstance(response, str) or not isinstance(question, str | None):
        return Score.not_evaluable("wrong_type")
    if not response.strip():
        return Score.not_evaluable("empty_answer")
    wanted = asked(question)
    if wanted is None:
        return Score.not_evaluable("no_question")
    return pair(wanted, response, config.max_chars) or Score.not_evaluable("empty_answer")


def say(one: Pair, answer: Answer[Judged]) -> Score:
    nearest = one.spans[answer.result.looks[0].nearest]
    marks: dict[str, Any] = {"unclear": answer.unclear and answer.stage == "minilm", "truncated": one.truncated}
    return Score.ok(
        float(answer.result.values[0]),
        stage=answer.stage,
        span=[nearest.start, nearest.end],
        **{name: is_so for name, is_so in marks.items() if is_so},
    )
