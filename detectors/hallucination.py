"""Hallucination: the probability that an answer says something that nothing supports.

Which evidence there is decides the way. With passages it is the support that `faithfulness` finds for each claim. Without them it
is the disagreement among answers sampled for the same prompt, else how unsure the LLM was of its tokens, else contradiction
with earlier turns of the conversation (`ways.py` has the papers). For each way a small calibrated model makes that a probability.

A way that was measured as too weak is stored and does not alert. Card, figures and limits: `## hallucination` in the README.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from detectors.claims import sentences, split_claims
from detectors.contract import Claim, Outcome, Resources, Row, Score, Worse
from detectors.faithfulness import MAX_QUESTION_CHARS, Faithfulness
from detectors.hallucination_head import Head, read_heads
from detectors.support import Wording, wording
from detectors.ways import MAX_STATEMENTS, Token, choices, earlier, of_logprobs, of_samples, of_turns, tokens_of

FloatArray = NDArray[np.float64]
Way = Literal["context", "samples", "logprobs", "turns"]
WAYS: tuple[Way, ...] = ("context", "samples", "logprobs", "turns")
ALSO_SAID = ("claims_closer", "unclear", "claims_truncated", "contexts_truncated", "truncated")
"""Of the detail of faithfulness."""
MAX_TURNS = 50  # of the assistant, the latest
MAX_TURN_CHARS = 4_000


class Hallucination:
    """Probability that the answer contains unsupported content, 0 to 1.

    Reads:  response; contexts and question, as `faithfulness` does; `samples` (other answers to the same prompt, or those that
            `messages` ends with), `logprobs` (of the answer's tokens, as OpenAI writes them), `messages` (earlier turns). The
            first of `ways` that a row has evidence for is used.
    Gives:  value; `stage`: that of faithfulness for the way `context`, else the way's name; the claims that are unsupported, or
            contradict; in `detail` `way`, what was seen (see the README), `truncated` where something was left out, and
            `cannot_alert` where the way may not alert.
    Ends:   not_evaluable with content_off, wrong_type, empty_answer, no_claims, or no_context where there is no evidence of any
            kind: `detail["missing"]` lists the ways.
    Costs:  next to nothing beside a `faithfulness` with the same settings, which looks the same claims up; alone what that costs.
            One encoding for the answer and each sample. Bounded by the settings.
    Equal:  as faithfulness.
    """

    name: ClassVar[str] = "hallucination"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = Faithfulness.inputs | {"samples", "logprobs", "messages"}
    worse: ClassVar[Worse] = "higher"
    # At most one supported answer in ten is flagged on dev, the sources weighing equally; see the card.
    flag: ClassVar[float] = 0.69

    class Config(Faithfulness.Config):
        """Settings of `hallucination`: those of `faithfulness`, and its own."""

        ways: tuple[Way, ...] = Field(
            default=WAYS, min_length=1, description="ways that may be used; of those a row has the first"
        )
        prior: float = Field(
            default=0.5, gt=0, lt=1, description="share of unsupported answers in this traffic; trained at one half"
        )
        max_samples: int = Field(default=10, ge=1, description="samples compared with an answer, the first ones")
        max_sample_chars: int = Field(default=4_000, ge=100, description="characters read of an answer and each sample")
        max_logprobs: int = Field(default=8_192, ge=1, description="tokens whose log-probability is read")

        @field_validator("ways")
        @classmethod
        def _each_once(cls, ways: tuple[Way, ...]) -> tuple[Way, ...]:
            if len({*ways}) < len(ways):
                raise ValueError(f"names a way twice; choose of {', '.join(WAYS)}")
            return ways

    def __init__(self, config: Hallucination.Config | None = None) -> None:
        self.config = config or self.Config()
        # Equal settings are the same detector to the memo, so a check of faithfulness shares its work with this one.
        own = {name: getattr(self.config, name) for name in Faithfulness.Config.model_fields}
        self._faithfulness = Faithfulness(Faithfulness.Config(**own))
        self._resources: Resources | None = None
        self._heads: Mapping[str, Head] = {}

    @staticmethod
    def problem(config: Hallucination.Config) -> str | None:
        """As that of `Faithfulness`."""
        return Faithfulness.problem(config)

    def load(self, resources: Resources) -> None:
        """Raises `HeadDamaged`, and what `Faithfulness.load` raises."""
        self._heads = read_heads()
        if "context" in self.config.ways:
            self._faithfulness.load(resources)
        self._resources = resources

    def score(self, rows: Sequence[Row]) -> list[Score]:
        if self._resources is None:
            raise RuntimeError("hallucination: call load(resources) before score(rows)")
        found: list[Score | None] = [unfit(row) for row in rows]
        looked_up = self._look_up(rows, found)
        sampled: list[tuple[int, Sampled]] = []
        for i, row in enumerate(rows):
            if found[i] is not None:
                continue
            chosen = self._choose(row, looked_up.get(i))
            if isinstance(chosen, Sampled):
                sampled.append((i, chosen))  # all of the batch are encoded together
            else:
                found[i] = chosen
        for (i, _), score in zip(sampled, self._of_samples([one for _, one in sampled]), strict=True):
            found[i] = score
        return [score for score in found if score is not None]

    def _look_up(self, rows: Sequence[Row], found: Sequence[Score | None]) -> dict[int, Score]:
        """What faithfulness says of the rows that have passages."""
        if "context" not in self.config.ways:
            return {}
        here = [i for i, row in enumerate(rows) if found[i] is None and row.get("contexts")]
        return dict(zip(here, self._faithfulness.score([rows[i] for i in here]), strict=True)) if here else {}

    def _choose(self, row: Row, looked_up: Score | None) -> Score | Sampled:
        """The score by the first way there is evidence for, or what has yet to be encoded for it."""
        for way in self.config.ways:
            one: Score | Sampled | None = None
            if way == "context":
                # Passages without a word in them are none; whatever else is wrong with a row, it is wrong with passages.
                one = None if looked_up is None or looked_up.reason == "no_context" else self._of_context(looked_up)
            elif way == "samples":
                one = read_samples(row, self.config)
            elif way == "logprobs":
                tokens = tokens_of(row.get("logprobs"), self.config.max_logprobs)
                one = None if tokens is None else self._of_logprobs(*tokens)
            elif way == "turns":
                one = self._of_turns(row)
            if one is not None:
                return one
        return Score.not_evaluable("no_context", missing=[*self.config.ways])

    def _of_context(self, score: Score) -> Score:
        if score.outcome is not Outcome.OK:
            return score
        supports = np.array([claim.support for claim in score.claims])
        threshold = self.config.claim_threshold
        unsupported = [claim for claim in score.claims if claim.support < threshold]
        weakest = float(supports.min())
        detail = {
            "claims_total": len(supports),
            "unsupported": len(unsupported),
            "weakest": weakest,
            **{name: score.detail[name] for name in ALSO_SAID if name in score.detail},
        }
        if self.config.backend != "head":
            # What it says of the weakest claim, as it says it: we have calibrated our own heads only.
            return Score.ok(1.0 - weakest, stage=score.stage, claims=unsupported, way="context", uncalibrated=True, **detail)
        return self._say("context", of_supports(supports), score.stage, unsupported, detail)

    def _of_samples(self, cases: Sequence[Sampled]) -> list[Score]:
        if not cases:
            return []
        assert self._resources is not None
        vectors = self._resources.encoder().encode([text for case in cases for text in case.texts])
        scores, at = [], 0
        for case in cases:
            features, detail = of_samples(case.texts, case.question, vectors[at : (at := at + len(case.texts))])
            scores.append(self._say("samples", features, "samples", [], detail | ({"truncated": True} if case.truncated else {})))
        return scores

    def _of_logprobs(self, tokens: Sequence[Token], truncated: bool) -> Score:
        features, detail = of_logprobs(tokens)
        return self._say("logprobs", features, "logprobs", [], detail | ({"truncated": True} if truncated else {}))

    def _of_turns(self, row: Row) -> Score | None:
        case = read_turns(row, self.config.max_claims)
        if case is None or isinstance(case, Score):
            return case
        features, worst = of_turns(case.claims, case.statements)
        claims = [Claim(*case.spans[worst], support=float(1.0 - features[:3].max()))] if features[:3].any() else []
        detail: dict[str, Any] = {"claims_total": len(case.claims), "statements": len(case.statements)}
        return self._say("turns", features, "turns", claims, detail | ({"truncated": True} if case.truncated else {}))

    def _say(self, way: Way, features: FloatArray, stage: str, claims: Sequence[Claim], detail: Mapping[str, Any]) -> Score:
        head = self._heads[way]
        return Score(
            Outcome.OK,
            head.probability(features, self.config.prior),
            stage=stage,
            claims=tuple(claims),
            detail={"way": way, **detail, **({} if head.may_alert else {"cannot_alert": True})},
            may_alert=head.may_alert,
        )


def unfit(row: Row) -> Score | None:
    """Why there is nothing to judge, or None."""
    response, contexts = row.get("response"), row.get("contexts")
    if response is None:
        return Score.not_evaluable("content_off")
    if not isinstance(response, str) or not isinstance(contexts, list | tuple | None):
        return Score.not_evaluable("wrong_type")
    return None if response.strip() else Score.not_evaluable("empty_answer")


# --- with passages ---------------------------------------------------------------------------------------------------


def of_supports(supports: FloatArray) -> FloatArray:
    """Features in the order of `hallucination_head.CONTEXT`, of the supports of an answer's claims, (claims,)."""
    odds = log_odds(np.array([supports.min(), supports.mean()]))
    return np.asarray(odds, dtype=np.float64)


def log_odds(p: FloatArray) -> FloatArray:
    held = np.clip(p, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(held / (1 - held)), dtype=np.float64)


# --- samples ---------------------------------------------------------------------------------------------------------


class Sampled(NamedTuple):
    """An answer and its samples, to be encoded."""

    texts: tuple[str, ...]
    question: str | None
    truncated: bool


def read_samples(row: Row, config: Hallucination.Config) -> Sampled | None:
    """The answer first. None where there is no other answer to the same prompt."""
    response, given, question = row["response"], row.get("samples"), row.get("question")
    samples = [one for one in given if isinstance(one, str)] if isinstance(given, list | tuple) else []
    if not samples:
        samples = choices(row.get("messages"))
        if response in samples:
            samples.remove(response)  # itself, once: another one like it is a sample that agrees
    samples = [one for one in samples if one.strip()]
    if not samples:
        return None
    kept = (response, *samples[: config.max_samples])
    truncated = len(samples) > config.max_samples or max(map(len, kept)) > config.max_sample_chars
    asked = question[:MAX_QUESTION_CHARS] if isinstance(question, str) else None
    return Sampled(tuple(text[: config.max_sample_chars] for text in kept), asked, truncated)


# --- earlier turns ---------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """The claims of an answer, and what was stated before."""

    spans: tuple[tuple[int, int], ...]
    claims: tuple[Wording, ...]
    statements: tuple[Wording, ...]
    truncated: bool


def read_turns(row: Row, max_claims: int) -> Told | Score | None:
    """None where the assistant has said nothing before."""
    turns = earlier(row.get("messages"), row["response"])
    said = turns[-MAX_TURNS:]
    texts = [text[start:end] for text in (turn[:MAX_TURN_CHARS] for turn in said) for start, end in sentences(text)]
    if not texts:
        return None
    found = split_claims(row["response"], max_claims)
    if not found.spans:
        return Score.not_evaluable("no_claims")
    return Told(
        tuple(found.spans),
        tuple(wording(row["response"][start:end]) for start, end in found.spans),
        tuple(wording(text) for text in texts[-MAX_STATEMENTS:]),
        found.truncated
        or len(turns) > MAX_TURNS
        or len(texts) > MAX_STATEMENTS
        or any(len(turn) > MAX_TURN_CHARS for turn in said),
    )
