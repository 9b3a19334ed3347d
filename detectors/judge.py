"""A judge: an LLM is asked how good an answer is, by a metric of ragas or a rubric of one's own.

Es et al., "RAGAS: Automated Evaluation of Retrieval Augmented Generation", EACL 2024; Zheng et al., "Judging LLM-as-a-Judge with
MT-Bench and Chatbot Arena", NeurIPS 2023. A call costs money and seconds, so it is asked about a sample of the records, and
about those that a local detector calls unclear. Metrics, settings and limits: `## judge` in the README.
"""

from __future__ import annotations

import asyncio
import json
import math
import string
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from detectors.contract import DetectorConfig, Resources, Row, Score, Worse
from detectors.judging.catalogue import FIELDS, METRICS, OWN, names
from detectors.judging.engine import Engine, PutOff, Verdict
from detectors.judging.inputs import PLAIN
from detectors.judging.loop import Loop

WHAT_IS_ASKED = ("metric", "options", "prompt", "values", "range", "llm_model")
SLACK = 1e-6  # beyond the bounds of a metric, where floats are summed


class Escalation(DetectorConfig):
    """A row check of the same model, whose doubt is a reason to ask the judge."""

    check: str = Field(min_length=1, description="name of the check, or of its detector")
    low: float | None = Field(None, allow_inf_nan=False, description="values from here")
    high: float | None = Field(None, allow_inf_nan=False, description="to here; without both: what it calls unclear itself")

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("give low and high, or neither")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")
        return self

    def holds(self, value: float | None, detail: Mapping[str, Any]) -> bool:
        """Whether a score of that check lies where it is unclear."""
        if value is None:
            return False
        if self.low is None or self.high is None:
            return detail.get("unclear") is True
        return self.low <= value <= self.high


class Judge:
    """What a judge says of an answer, 0 to 1.

    Reads:  what its metric reads: question, response, contexts, and of the attributes a reference and the like (`fields`).
    Gives:  value, brought to 0..1 where the metric has another range; in `detail` `metric`, `ragas` (its version), `llm_model`
            (that answered), `prompt_hash`, `calls`, `input_tokens`, `output_tokens`, `cost_usd`; `raw` where the value was
            brought to 0..1, or `answer` of a discrete rubric; `judge_reason` where it gives one; `truncated`: what was cut.
    Ends:   not_evaluable with content_off, empty_answer, no_question, no_context, no_reference, wrong_type, judge_undecided (no
            number came of its answers), judge_budget_spent, judge_unavailable, not_installed; failed with bad_json, no_answer,
            truncated, refused, rejected, call_limit, time_limit, out_of_range, bad_settings.
    Costs:  the calls of its metric for each row, within the limits of the endpoint; no metric asks without an end.
    """

    name: ClassVar[str] = "judge"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"question", "response", "contexts"})
    worse: ClassVar[Worse] = "lower"
    flag: ClassVar[float] = 0.5
    remote: ClassVar[bool] = True  # asks somebody else, who takes long: not among the local detectors

    class Config(DetectorConfig):
        """Settings of `judge`."""

        metric: str = Field("faithfulness", description="of ragas, or discrete or numeric: a rubric of one's own")
        options: dict[str, Any] = Field({}, description="of the metric, as ragas calls them")
        prompt: str | None = Field(None, min_length=1, description="of a rubric of one's own, with {response} and the like")
        values: dict[str, float] = Field({}, description="discrete: each answer it may give, and its value from 0 to 1")
        range: tuple[float, float] = Field((0.0, 1.0), description="numeric: its least and its greatest number")
        worse: Literal["lower", "higher"] | None = Field(None, description="which values are bad; default: by the metric")
        fields: dict[str, str] = Field({}, description="argument of the metric: question, response, contexts or attributes.KEY")
        rate: float = Field(0.05, ge=0, le=1, description="share of the records that is judged, by a hash of their id")
        seed: int = Field(0, description="of that hash")
        escalate: tuple[Escalation, ...] = Field((), description="checks whose unclear records are judged besides")
        llm_model: str | None = Field(None, min_length=1, description="the LLM that judges; default: that of the endpoint")
        max_chars: int = Field(20_000, ge=100, description="characters read of each text, and of all contexts together")
        max_contexts: int = Field(20, ge=1, description="contexts read, in the order given")

        @field_validator("metric")
        @classmethod
        def _known(cls, value: str) -> str:
            if value not in METRICS and value not in OWN:
                if value.startswith("multi_modal"):
                    raise ValueError(f"{value!r} opens the files and addresses that contexts name, and is not offered for that")
                raise ValueError(f"no metric {value!r}; there are {', '.join(names())}")
            return value

        @field_validator("values")
        @classmethod
        def _shares(cls, value: dict[str, float]) -> dict[str, float]:
            if wrong := [name for name, number in value.items() if not 0 <= number <= 1]:
                raise ValueError(f"{wrong[0]!r} has the value {value[wrong[0]]}; give each answer a value from 0 to 1")
            return value

        @field_validator("fields")
        @classmethod
        def _sources(cls, value: dict[str, str]) -> dict[str, str]:
            for name, source in value.items():
                if source not in PLAIN and not (source.startswith("attributes.") and source != "attributes."):
                    raise ValueError(f"{name}: no field {source!r}; there are {', '.join(PLAIN)}, attributes.KEY")
            return value

        @model_validator(mode="after")
        def _fits_the_metric(self) -> Self:
            if self.metric in OWN:
                self._own_rubric()
            else:
                if self.prompt is not None or self.values:
                    raise ValueError("prompt and values belong to the metrics discrete and numeric")
                if unknown := set(self.options) - set(METRICS[self.metric].options):
                    there = ", ".join(METRICS[self.metric].options) or "none"
                    raise ValueError(f"options.{min(unknown)}: {self.metric} has no such option; there are {there}")
            if self.metric != "numeric" and self.range != (0.0, 1.0):
                raise ValueError("range belongs to the metric numeric")
            if unknown := set(self.fields) - {*self.reads, *self.may_read}:
                there = ", ".join((*self.reads, *self.may_read))
                raise ValueError(f"fields.{min(unknown)}: {self.metric} reads no such argument; it reads {there}")
            if not self.rate and not self.escalate:
                raise ValueError("nothing would be judged: give a rate above 0, or checks to escalate from")
            return self

        def _own_rubric(self) -> None:
            if self.prompt is None:
                raise ValueError(f"metric {self.metric} needs a prompt; write it with the arguments in braces, as {{response}}")
            if self.options:
                raise ValueError(f"metric {self.metric} has no options")
            if not placeholders(self.prompt):
                raise ValueError("the prompt names no argument, so that all records are one to it; write {response} into it")
            if strange := [name for name in placeholders(self.prompt) if name not in {**FIELDS, **self.fields, **_ROW}]:
                raise ValueError(
                    f"the prompt has {{{strange[0]}}}; say under fields what it is, or write one of {', '.join(FIELDS)}"
                )
            if self.metric == "discrete" and len(self.values) < 2:
                raise ValueError("metric discrete needs values, as {pass: 1, fail: 0}")
            if self.metric == "numeric" and self.values:
                raise ValueError("values belong to the metric discrete; numeric has a range")
            if not self.range[0] < self.range[1]:
                raise ValueError(f"range: {self.range[0]:g} must be below {self.range[1]:g}")

        @property
        def own(self) -> str | None:
            return self.prompt if self.metric in OWN else None

        @property
        def reads(self) -> tuple[str, ...]:
            """Arguments without which there is no score."""
            return tuple(dict.fromkeys(placeholders(self.prompt or ""))) if self.metric in OWN else METRICS[self.metric].reads

        @property
        def may_read(self) -> tuple[str, ...]:
            return () if self.metric in OWN else METRICS[self.metric].may_read

        @property
        def conversation(self) -> bool:
            return self.metric in METRICS and METRICS[self.metric].messages

        @property
        def asks(self) -> bool:
            """Whether it asks an LLM."""
            return self.metric in OWN or METRICS[self.metric].asks

        @property
        def identity(self) -> str:
            """Equal for settings that build equal metrics."""
            return json.dumps(
                self.model_dump(include={"metric", "options", "prompt", "values", "range", "llm_model"}, mode="json")
            )

        def source(self, argument: str) -> str:
            if self.conversation and argument == "user_input":
                return self.fields.get(argument, "messages")
            return {**_ROW, **FIELDS, **self.fields}[argument]

        def calls(self, contexts: int) -> int:
            """That one score takes when nothing goes wrong."""
            return 1 if self.metric in OWN else METRICS[self.metric].calls(contexts, self.options)

        def score_of(self, value: Any, reason: Any, *, unread: int) -> Score:
            """What the metric gave, as a score. `unread`: so many of the judge's answers were not of the wanted form."""
            detail: dict[str, Any] = {"judge_reason": reason[:1000]} if isinstance(reason, str) and reason else {}
            if self.metric == "discrete":
                return Score.ok(self.values[value], answer=value, **detail)
            number = finite(value)
            if number is None:
                return Score.failed("bad_json", **detail) if unread else Score.not_evaluable("judge_undecided", **detail)
            low, high = self.bounds
            share = (number - low) / (high - low)
            if not -SLACK <= share <= 1 + SLACK and not (self.metric in METRICS and METRICS[self.metric].embeddings):
                return Score.failed("out_of_range", error=f"{number:g} is not in {low:g} to {high:g}", **detail)
            # A cosine may lie below 0, and means nothing there.
            share = min(max(share, 0.0), 1.0)
            if share != number:
                detail["raw"] = number
            return Score.ok(share, **detail)

        @property
        def bounds(self) -> tuple[float, float]:
            return self.range if self.metric in OWN else (METRICS[self.metric].low, METRICS[self.metric].high)

    def __init__(self, config: Judge.Config | None = None) -> None:
        self.config = config or self.Config()
        self._loop: Loop | None = None
        self._engine: Engine | None = None

    @staticmethod
    def flagging(config: Judge.Config) -> tuple[float, Worse]:
        """Where a score is flagged unless the check says so, and in which direction."""
        by_metric = METRICS[config.metric].worse if config.metric in METRICS else Judge.worse
        return Judge.flag, config.worse or by_metric

    def load(self, resources: Resources) -> None:
        """
        Raises:
            ValueError: the metric asks an LLM, and there is no endpoint.
        """
        if self.config.asks and resources.judge is None:
            raise ValueError(
                f"judge: {self.config.metric} asks an LLM; give Resources(judge=EndpointConfig(base_url=..., model=...)), or the "
                "section `judge` in a config"
            )

        async def embed(texts: Sequence[str]) -> Sequence[Sequence[float]]:
            vectors: list[list[float]] = (await asyncio.to_thread(resources.encoder().encode, texts)).tolist()
            return vectors

        self._loop = Loop("judge")
        prices = {resources.judge.model: resources.judge.price} if resources.judge and resources.judge.price else {}
        self._engine = self._loop.run(_made(resources, prices, embed))

    def close(self) -> None:
        """Let go of connections and thread, where the process goes on without it."""
        if self._engine is not None and self._loop is not None:
            self._loop.run(self._engine.aclose())
            self._loop.close()
            self._engine = self._loop = None

    def score(self, rows: Sequence[Row]) -> list[Score]:
        if self._engine is None or self._loop is None:
            raise RuntimeError("judge: call load(resources) before score(rows)")
        found: list[Verdict] = self._loop.run(_all(self._engine, self.config, rows))
        return [
            Score.not_evaluable("judge_unavailable", error=f"{one.score.reason}: {one.score.said}")
            if isinstance(one.score, PutOff)
            else one.score
            for one in found
        ]


_ROW = {name: name for name in PLAIN}


async def _made(resources: Resources, prices: Any, embed: Any) -> Engine:
    return Engine(resources.judge, prices, embed=embed)


async def _all(engine: Engine, config: Judge.Config, rows: Sequence[Row]) -> list[Verdict]:
    return await asyncio.gather(*(engine.judge(config, row) for row in rows))


def placeholders(prompt: str) -> list[str]:
    """Names in braces.

    Raises:
        ValueError: the braces do not match, or hold more than a name.
    """
    found = []
    for _, name, spec, conversion in string.Formatter().parse(prompt):
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise ValueError(f"{{{name}}} is not the name of an argument; write a brace of the text itself twice")
        found.append(name)
    return found


def finite(value: Any) -> float | None:
    """The number that ragas gave, None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        try:
            value = float(value)
        except (TypeError, ValueError):
            return None
    return float(value) if math.isfinite(value) else None
