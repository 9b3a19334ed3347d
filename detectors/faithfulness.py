"""Faithfulness: the share of an answer's claims that its contexts support.

The answer is split into claims, each is looked up in the sentences of the contexts (`support.Evidence`), and a small
logistic regression, trained by `detectors.training.faithfulness`, turns what was found into a probability of support. The
value is the mean of these probabilities: the share of supported claims to be expected. Claim by claim against retrieved
evidence as in FActScore (Min et al., EMNLP 2023), without a language model.

A cascade: the static encoder looks at everything; where that leaves the flag open, a cross-encoder (`reader`) reads the claims
that are unclear, each with the sentences nearest to it. Card, figures and limits: `## faithfulness` in the README.
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
from detectors.contract import Claim, ClaimReader, DetectorConfig, Encoder, Resources, Row, Score, Worse
from detectors.entailment import Asked, Judge, checkpoint_problem
from detectors.entailment import Backend as Checkpoint
from detectors.entailment import load as load_checkpoint
from detectors.support import FEATURES, Evidence, Look, Wording, wording

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

MAX_QUESTION_CHARS = 4_000
# What the second head weighs, and the signs. The last two: how much more the reader is for "supported" than for the others.
# With all of `FEATURES` it finds less: they say more than a few hundred answers can teach it to weigh beside the reader.
SEEN = ("words", "content", "number_missing", "name_missing", "negation_mismatch", "speaker")
READING = {name: FEATURES[name] for name in SEEN} | {"read_contradicted": 1, "read_neither": 1}


class Faithfulness:
    """Expected share of the answer's claims that the contexts support, 0 to 1.

    Reads:  response, contexts, and question where there is one.
    Gives:  value; stage `static` or `cross_encoder`; a `Claim` for each claim, with its support and its best context; in `detail`
            `claims_total`, `supported` (claims at or over `claim_threshold`), `share` (supported / claims_total), `lowest`
            (support of the weakest claim), `claims_closer` (read by the cross-encoder, too) where there were any, True under
            `unclear` where the value is near the flag even so, and under `claims_truncated` or `contexts_truncated` where
            something was left out.
    Ends:   not_evaluable with content_off, wrong_type, empty_answer, no_context or no_claims.
    Costs:  12 ms of processor time for a page of contexts, and 40 to 50 ms for each claim that is read closer, on a core;
            bounded by the settings.
    Equal:  a row gives the same value in any batch up to 1e-5, as the reader's logits do up to 1e-4, and by the same stage:
            the static encoder is exact.
    """

    name: ClassVar[str] = "faithfulness"
    version: ClassVar[str] = "3"
    inputs: ClassVar[frozenset[str]] = frozenset({"response", "contexts", "question"})
    worse: ClassVar[Worse] = "lower"
    every_claim: ClassVar[bool] = True
    # At most one supported answer in ten is flagged on dev, the sources weighing equally; see the card.
    flag: ClassVar[float] = 0.34

    class Config(DetectorConfig):
        """Settings of `faithfulness`."""

        claim_threshold: float = Field(default=0.5, gt=0, lt=1, description="a claim counts as supported from here on")
        unsure_width: float = Field(
            default=0.6, ge=0, le=1, description="an answer of one claim so far from the flag or nearer is read closer; 0: none"
        )
        unsure_around: float = Field(default=0.34, ge=0, le=1, description="the flag, where the check has another")
        closer_claims: int = Field(default=1, ge=1, description="claims read closer in an answer, the unclear first")
        unclear_width: float = Field(
            default=0.08, ge=0, le=1, description="values so far from the flag or nearer are unclear even when read closer"
        )
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
        self._resources: Resources | None = None
        self._heads: Heads | None = None
        self._judge: Judge | None = None

    @staticmethod
    def problem(config: Faithfulness.Config) -> str | None:
        """What is wrong with the files that the settings name, or None. Quick: nothing is loaded."""
        return checkpoint_problem(config.checkpoint) if config.checkpoint is not None else None

    def load(self, resources: Resources) -> None:
        """Take the shared models and read the heads, or the checkpoint.

        Raises: HeadDamaged, `reader.ReaderDamaged`, ModelMissing, ModelUnfit.
        """
        if self.config.backend != "head" and self.config.checkpoint is not None:
            self._judge = load_checkpoint(self.config.backend, self.config.checkpoint, self.config.device)
            self._resources = resources
            return
        heads = read_heads()
        used = {"static": resources.static().name}
        if self.config.unsure_width:
            used["cross_encoder"] = resources.reader().name
        for stage, name in used.items():
            if name != getattr(heads, stage).model:
                log.warning(
                    "faithfulness was trained on another model; train it again with detectors.training.faithfulness",
                    extra={"trained": getattr(heads, stage).model, "used": name},
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
                [case.evidence.passage(look.near) for look in found],
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
            seen = [one for one in before if one is not None]
            chosen = [unclear(one.support, config.claim_threshold, config.closer_claims) for one in seen]
            return read_closer(cases, seen, chosen, resources.reader(), heads.cross_encoder)

        return run(cases, [Stage("static", quick, self._unsure), Stage("cross_encoder", close, self._unclear)])

    def _unsure(self, judged: Judged) -> bool:
        config = self.config
        reach = float(reaches(np.array([len(judged.support)], dtype=np.float64), config.closer_claims)[0])
        return Band.around(config.unsure_around, config.unsure_width * reach).holds(judged.value)

    def _unclear(self, judged: Judged) -> bool:
        return Band.around(self.config.unsure_around, self.config.unclear_width).holds(judged.value)

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
            **({"unclear": True} if answer.unclear and answer.stage == "cross_encoder" else {}),
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
    """What was found for each claim of a case, and the probability that it is supported. `closer`: claims read closer."""

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


def read_closer(
    cases: Sequence[Case], seen: Sequence[Judged], chosen: Sequence[NDArray[np.intp]], reader: ClaimReader, head: Head
) -> list[Judged]:
    """The chosen claims of each case read, each together with the sentences that were nearest to it."""
    pairs = [
        (case.claims[i], case.evidence.passage(judged.looks[i].near))
        for case, judged, claims in zip(cases, seen, chosen, strict=True)
        for i in claims
    ]
    logits = reader.read(pairs).astype(np.float64)
    found: list[Judged] = []
    at = 0
    for judged, claims in zip(seen, chosen, strict=True):
        features = np.array([judged.looks[i].features for i in claims])
        support = judged.support.copy()
        support[claims] = head.probabilities(with_reading(features, logits[at : (at := at + len(claims))]))
        found.append(Judged(judged.looks, support, len(claims)))
    return found


def with_reading(features: FloatArray, logits: FloatArray) -> FloatArray:
    """(claims, features of `READING`), from those of `FEATURES` and the logits of `reader.ANSWERS`, (claims, 3)."""
    seen = features[:, [list(FEATURES).index(name) for name in SEEN]]
    return np.concatenate([seen, logits[:, :1] - logits[:, 1:]], axis=1)


def reaches(claims: FloatArray, closer_claims: int) -> FloatArray:
    """How far reading `closer_claims` of so many claims can move their mean, as a share of what it moves one claim by."""
    return np.minimum(1.0, closer_claims / claims)


def unclear(support: FloatArray, threshold: float, most: int) -> NDArray[np.intp]:
    """Indices of the claims whose support is nearest to the threshold, in order."""
    return np.sort(np.argsort(np.abs(support - threshold), kind="stable")[:most])


def judge(looks: tuple[Look, ...], head: Head) -> Judged:
    return Judged(looks, head.probabilities(np.array([look.features for look in looks])))


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
    model: str
    """Whose numbers it was trained on."""

    def probabilities(self, features: FloatArray) -> FloatArray:
        """Support of each claim, (claims,), from its features, (claims, features)."""
        # Row by row, because a matrix product may sum in another order for another number of rows.
        logits = ((features - self.mean) / self.scale * self.weights).sum(axis=1) + self.bias
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -700.0, 700.0))), dtype=np.float64)


class Heads(NamedTuple):
    """One for each stage, named as the stage is."""

    static: Head
    cross_encoder: Head


def read_heads(folder: Traversable | None = None) -> Heads:
    """The heads in `folder`, by default those that are shipped. Raises `HeadDamaged`."""
    from safetensors.numpy import load

    folder = folder or files("detectors") / "weights"
    card = json.loads((folder / "faithfulness.json").read_text(encoding="utf-8"))
    content = (folder / "faithfulness.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise HeadDamaged("faithfulness.safetensors is not the file its card describes; reinstall modelwatch")
    if card["features"] != {"static": list(FEATURES), "cross_encoder": list(READING)}:
        raise HeadDamaged("faithfulness.safetensors was trained on other features; run detectors.training.faithfulness")
    arrays = load(content)

    def head(stage: str) -> Head:
        mean, scale, weights = (arrays[f"{stage}.{part}"] for part in ("mean", "scale", "weights"))
        return Head(mean, scale, weights, float(arrays[f"{stage}.bias"][0]), card["models"][stage])

    return Heads(head("static"), head("cross_encoder"))
