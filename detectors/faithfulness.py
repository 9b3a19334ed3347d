"""Faithfulness: the share of an answer's claims that its contexts support.

The answer is split into claims, each is looked up in the sentences of the contexts (`support.Evidence`), and a small
logistic regression, trained by `detectors.training.faithfulness`, turns what was found into a probability of support. The
value is the mean of these probabilities: the share of supported claims to be expected. Claim by claim against retrieved
evidence as in FActScore (Min et al., EMNLP 2023), without a language model.

A cascade: the static encoder reads everything; where its value lies near the flag, MiniLM reads the claims that are unclear and
the sentences nearest to them. Card, figures and limits: `## faithfulness` in the README.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from detectors.cascade import Answer, Band, Stage, run
from detectors.claims import Span, split_claims
from detectors.contract import Claim, DetectorConfig, Encoder, Resources, Row, Score, Worse
from detectors.entailment import Asked, Judge, checkpoint_problem
from detectors.entailment import Backend as Checkpoint
from detectors.entailment import load as load_checkpoint
from detectors.support import FEATURES, Evidence, Look, Wording, wording

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

MAX_QUESTION_CHARS = 4_000


class Faithfulness:
    """Expected share of the answer's claims that the contexts support, 0 to 1.

    Reads:  response, contexts, and question where there is one.
    Gives:  value; stage `static` or `minilm`; a `Claim` for each claim, with its support and its best context; in `detail`
            `claims_total`, `supported` (claims at or over `claim_threshold`), `share` (supported / claims_total), `lowest`
            (support of the weakest claim), `claims_closer` (read by the encoder, too) where there were any, True under
            `unclear` where the value is near the flag even so, and under `claims_truncated` or `contexts_truncated` where
            something was left out.
    Ends:   not_evaluable with content_off, wrong_type, empty_answer, no_context or no_claims.
    Costs:  12 ms of processor time for a page of contexts, and one encoding for each text that is looked at closer; bounded by
            the settings.
    Equal:  a row gives the same value in any batch up to 1e-5, as the encoder's vectors do up to 1e-6, and by the same stage:
            the static encoder is exact.
    """

    name: ClassVar[str] = "faithfulness"
    version: ClassVar[str] = "2"
    inputs: ClassVar[frozenset[str]] = frozenset({"response", "contexts", "question"})
    worse: ClassVar[Worse] = "lower"
    # At most one supported answer in ten is flagged on dev, the sources weighing equally; see the card.
    flag: ClassVar[float] = 0.37

    class Config(DetectorConfig):
        """Settings of `faithfulness`."""

        claim_threshold: float = Field(default=0.55, gt=0, lt=1, description="a claim counts as supported from here on")
        unsure_width: float = Field(
            default=0.08, ge=0, le=1, description="values so far from the flag or nearer are looked at closer; 0: none, 1: all"
        )
        unsure_around: float = Field(default=0.37, ge=0, le=1, description="the flag, where the check has another")
        closer_claims: int = Field(default=4, ge=1, description="claims looked at closer in an answer, the unclear first")
        max_claims: int = Field(default=64, ge=1, description="claims scored of an answer; further ones are left out")
        max_passages: int = Field(default=20, ge=1, description="contexts read, in the order given")
        max_context_chars: int = Field(default=20_000, ge=100, description="characters read of all contexts together")
        backend: Literal["head"] | Checkpoint = Field(
            default="head", description="the shipped heads, or the kind of a checkpoint"
        )
        checkpoint: Path | None = Field(
            default=None, description="of the other backends: a folder, or the name given to it by `modelwatch models add`"
        )
        device: str = Field(default="auto", description="of a checkpoint: auto (CUDA where there is one), or a torch device")

        @model_validator(mode="after")
        def _backend_has_what_it_needs(self) -> Self:
            if self.backend != "head" and self.checkpoint is None:
                raise ValueError(
                    f"backend {self.backend} needs a checkpoint: a folder, or the name of one placed by `modelwatch models add`; "
                    f"`modelwatch models how {self.backend}` prints how to get one (nothing is downloaded)"
                )
            if self.backend == "head" and self.checkpoint is not None:
                raise ValueError("checkpoint belongs to another backend (nli, hhem, lettucedetect): set that, or leave it out")
            return self

    def __init__(self, config: Faithfulness.Config | None = None) -> None:
        self.config = config or self.Config()
        self.band = Band.around(self.config.unsure_around, self.config.unsure_width)
        self._resources: Resources | None = None
        self._heads: Heads | None = None
        self._judge: Judge | None = None

    @staticmethod
    def problem(config: Faithfulness.Config) -> str | None:
        """What is wrong with the files that the settings name, or None. Quick: nothing is loaded."""
        return checkpoint_problem(config.checkpoint) if config.checkpoint is not None else None

    def load(self, resources: Resources) -> None:
        """Take the shared encoders and read the heads, or the checkpoint. Raises `HeadDamaged`, `ModelMissing`, `ModelUnfit`."""
        if self.config.backend != "head" and self.config.checkpoint is not None:
            self._judge = load_checkpoint(self.config.backend, self.config.checkpoint, self.config.device)
            self._resources = resources
            return
        heads, static = read_heads(), resources.static()
        used = {"static": static.name} | ({"minilm": resources.encoder().name} if self.config.unsure_width else {})
        for stage, name in used.items():
            if name != getattr(heads, stage).encoder:
                log.warning(
                    "faithfulness was trained on another encoder; train it again with detectors.training.faithfulness",
                    extra={"trained": getattr(heads, stage).encoder, "used": name},
                )
        self._resources, self._heads = resources, heads

    def score(self, rows: Sequence[Row]) -> list[Score]:
        if self._resources is None:
            raise RuntimeError("faithfulness: call load(resources) before score(rows)")
        # `hallucination` asks for the same rows.
        maker = f"{self.name} {self.version} {self.config.model_dump_json()}"
        return self._resources.memo.of(maker, rows, sorted(self.inputs), self._score)

    def _score(self, rows: Sequence[Row]) -> list[Score]:
        read = [read_row(row, self.config) for row in rows]
        cases = [case for case in read if isinstance(case, Case)]
        scores = iter(self._by_checkpoint(cases) if self._judge else map(self._say, cases, self.judged(cases)))
        return [case if isinstance(case, Score) else next(scores) for case in read]

    def _by_checkpoint(self, cases: Sequence[Case]) -> list[Score]:
        """What a checkpoint says of each claim and the sentences nearest to it."""
        assert self._resources is not None
        assert self._judge is not None
        looks = look_up(cases, self._resources.static())
        asked = [
            Asked(
                case.response,
                case.asked,
                case.spans,
                [" ".join(case.evidence.texts[k] for k in look.near) for look in found],
                case.passages,
            )
            for case, found in zip(cases, looks, strict=True)
        ]
        scores = []
        for case, found, judged in zip(cases, looks, self._judge.support(asked), strict=True):
            seen = np.flatnonzero(np.isfinite(judged.support))  # of a long answer a model may not read every claim
            if not len(seen):
                scores.append(Score.not_evaluable("no_claims", truncated=True))
                continue
            kept = case._replace(
                spans=tuple(case.spans[i] for i in seen),
                truncated=case.truncated
                | ({"claims_truncated": True} if len(seen) < len(found) else {})
                | ({"truncated": True} if judged.truncated else {}),
            )
            answer = Answer(Judged(tuple(found[i] for i in seen), judged.support[seen]), self._judge.stage, False)
            scores.append(self._say(kept, answer))
        return scores

    def judged(self, cases: Sequence[Case]) -> list[Answer[Judged]]:
        """Each case through the stages it needs."""
        if self._resources is None or self._heads is None:
            raise RuntimeError("faithfulness: call load(resources) before score(rows)")
        resources, heads, config = self._resources, self._heads, self.config

        def quick(cases: Sequence[Case], before: Sequence[Judged | None]) -> list[Judged]:
            return [judge(found, heads.static) for found in look_up(cases, resources.static())]

        def close(cases: Sequence[Case], before: Sequence[Judged | None]) -> list[Judged]:
            assert resources is not None
            seen = [one for one in before if one is not None]
            chosen = [unclear(one.support, config.claim_threshold, config.closer_claims) for one in seen]
            found = look_closer(cases, seen, chosen, resources.encoder())
            return [merge(one, claims, closer, heads.minilm) for one, claims, closer in zip(seen, chosen, found, strict=True)]

        return run(cases, [Stage("static", quick, self._unsure), Stage("minilm", close, self._unsure)])

    def _unsure(self, judged: Judged) -> bool:
        return self.band.holds(judged.value)

    def _say(self, case: Case, answer: Answer[Judged]) -> Score:
        support = answer.result.support
        supported = int((support >= self.config.claim_threshold).sum())
        more = {"claims_closer": answer.result.closer} if answer.result.closer else {}
        return Score.ok(
            answer.result.value,
            stage=answer.stage,
            claims=[
                Claim(span.start, span.end, float(p), look.context)
                for span, p, look in zip(case.spans, support, answer.result.looks, strict=True)
            ],
            claims_total=len(support),
            supported=supported,
            share=supported / len(support),
            lowest=float(support.min()),
            **more,
            **({"unclear": True} if answer.unclear and answer.stage == "minilm" else {}),
            **case.truncated,
        )


class Case(NamedTuple):
    """A row that can be scored."""

    response: str
    question: Wording | None
    spans: tuple[Span, ...]
    claims: tuple[str, ...]
    evidence: Evidence
    truncated: dict[str, bool]
    asked: str | None
    passages: tuple[str, ...]


class Judged(NamedTuple):
    """What was found for each claim of a case, and the probability that it is supported. `closer`: claims the encoder read."""

    looks: tuple[Look, ...]
    support: FloatArray
    closer: int = 0

    @property
    def value(self) -> float:
        return float(self.support.mean())


def read_row(row: Row, config: Faithfulness.Config) -> Case | Score:
    """What there is to score, or why there is nothing."""
    response, contexts, question = row.get("response"), row.get("contexts"), row.get("question")
    if response is None:
        return Score.not_evaluable("content_off")
    if not isinstance(response, str) or not isinstance(contexts, list | tuple | None):
        return Score.not_evaluable("wrong_type")
    if not response.strip():
        return Score.not_evaluable("empty_answer")
    kept, contexts_truncated = cut_contexts(contexts or (), config.max_passages, config.max_context_chars)
    evidence = Evidence(kept)
    if not evidence.texts:
        return Score.not_evaluable("no_context")
    claims = split_claims(response, config.max_claims)
    if not claims.spans:
        return Score.not_evaluable("no_claims")
    truncated = {"claims_truncated": claims.truncated, "contexts_truncated": contexts_truncated}
    asked = question[:MAX_QUESTION_CHARS] if isinstance(question, str) else ""
    return Case(
        response,
        wording(asked) if asked.strip() else None,
        claims.spans,
        tuple(response[start:end] for start, end in claims.spans),
        evidence,
        {name: True for name, is_so in truncated.items() if is_so},
        asked if asked.strip() else None,
        tuple(text for _, text in kept),
    )


def cut_contexts(contexts: Sequence[Any], max_passages: int, max_chars: int) -> tuple[list[tuple[int, str]], bool]:
    """The contexts that will be read, with their indices, and whether anything was left out."""
    kept: list[tuple[int, str]] = []
    left = max_chars
    truncated = False
    for index, text in enumerate(contexts):
        if not isinstance(text, str) or not text.strip():
            continue
        if len(kept) == max_passages or not left:
            return kept, True
        truncated = truncated or len(text) > left
        kept.append((index, text[:left]))
        left -= len(kept[-1][1])
    return kept, truncated


def look_up(cases: Sequence[Case], encoder: Encoder) -> list[tuple[Look, ...]]:
    """Every claim of every case in all sentences. All texts go to the encoder at once, so that it can fill its batches."""
    vectors = encoder.encode([text for case in cases for text in (*case.claims, *case.evidence.texts)])
    found: list[tuple[Look, ...]] = []
    at = 0
    for case in cases:
        claims = vectors[at : (at := at + len(case.claims))].astype(np.float64)
        there = vectors[at : (at := at + len(case.evidence.texts))].astype(np.float64)
        # Claim by claim: one product of matrices may sum in another order for another number of claims.
        found.append(
            tuple(
                case.evidence.find(wording(claim), there @ vector, case.question)
                for claim, vector in zip(case.claims, claims, strict=True)
            )
        )
    return found


def look_closer(
    cases: Sequence[Case], seen: Sequence[Judged], chosen: Sequence[NDArray[np.intp]], encoder: Encoder
) -> list[tuple[Look, ...]]:
    """The chosen claims of each case once more, in the sentences that were near to them."""
    texts: list[str] = []
    for case, judged, claims in zip(cases, seen, chosen, strict=True):
        for i in claims:
            texts += [case.claims[i], *(case.evidence.texts[k] for k in judged.looks[i].near)]
    vectors = encoder.encode(texts).astype(np.float64)
    found: list[tuple[Look, ...]] = []
    at = 0
    for case, judged, claims in zip(cases, seen, chosen, strict=True):
        looks = []
        for i in claims:
            near = judged.looks[i].near
            claim, there = vectors[at], vectors[at + 1 : at + 1 + len(near)]
            at += 1 + len(near)
            looks.append(case.evidence.find(wording(case.claims[i]), there @ claim, case.question, near))
        found.append(tuple(looks))
    return found


def unclear(support: FloatArray, threshold: float, most: int) -> NDArray[np.intp]:
    """Indices of the claims whose support is nearest to the threshold, in order."""
    return np.sort(np.argsort(np.abs(support - threshold), kind="stable")[:most])


def judge(looks: tuple[Look, ...], head: Head) -> Judged:
    return Judged(looks, head.probabilities(np.array([look.features for look in looks])))


def merge(seen: Judged, claims: NDArray[np.intp], closer: tuple[Look, ...], head: Head) -> Judged:
    """What was seen, with the closer look at some claims in place of the first."""
    looks, support = list(seen.looks), seen.support.copy()
    support[claims] = head.probabilities(np.array([look.features for look in closer]))
    for i, look in zip(claims, closer, strict=True):
        looks[i] = look
    return Judged(tuple(looks), support, len(closer))


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


class Heads(NamedTuple):
    """One for each stage, named as the stage is."""

    static: Head
    minilm: Head


def read_heads(folder: Traversable | None = None) -> Heads:
    """The heads in `folder`, by default those that are shipped. Raises `HeadDamaged`."""
    from safetensors.numpy import load

    folder = folder or files("detectors") / "weights"
    card = json.loads((folder / "faithfulness.json").read_text(encoding="utf-8"))
    content = (folder / "faithfulness.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise HeadDamaged("faithfulness.safetensors is not the file its card describes; reinstall modelwatch")
    if card["features"] != list(FEATURES):
        raise HeadDamaged("faithfulness.safetensors was trained on other features; run detectors.training.faithfulness")
    arrays = load(content)

    def head(stage: str) -> Head:
        mean, scale, weights = (arrays[f"{stage}.{part}"] for part in ("mean", "scale", "weights"))
        return Head(mean, scale, weights, float(arrays[f"{stage}.bias"][0]), card["encoders"][stage])

    return Heads(head("static"), head("minilm"))
