"""Toxicity: the probability that an answer, or what was asked, insults, threatens or degrades.

The text is cut into windows, and the worst one counts: a long polite answer does not hide a slur. The labels
are named like Detoxify's (Hanu and Unitary, 2020) where they mean the same. Card, figures and limits: `## toxicity` in the
README.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from detectors.cascade import Stage, run
from detectors.contract import DetectorConfig, Outcome, Resources, Row, Score, Worse
from detectors.toxicity_head import LABELS, Head, read_head
from detectors.toxicity_text import grams, plain
from detectors.toxicity_windows import Window, windows

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
HEAD_CHARS = (20, 240)  # at least and at most: a sentence, as the head was trained on; beside polite ones a bad one drowns


class Toxicity:
    """Probability of toxicity, 0 to 1, in the worst window of a text.

    Reads:  response, or question with `of: question`. For both have two checks.
    Gives:  value; `stage` static, minilm or detoxify; in `detail` `labels` (each label's probability in that window), `span` (its
            offsets in the text), `windows` (how many were read) and `truncated`: True where more were left out.
    Ends:   not_evaluable with content_off, no_question, empty_answer or wrong_type.
    Costs:  static: about a millisecond a page; then one encoding for each window in the uncertain band. Bounded by the settings.
    Equal:  a row gives the same value in any batch up to 1e-5, as the encoder's vectors do up to 1e-6.
    """

    name: ClassVar[str] = "toxicity"
    version: ClassVar[str] = "2"
    inputs: ClassVar[frozenset[str]] = frozenset({"question", "response"})
    worse: ClassVar[Worse] = "higher"
    flag: ClassVar[float] = 0.68

    class Config(DetectorConfig):
        """Settings of `toxicity`."""

        of: Literal["response", "question"] = Field(default="response", description="which text is judged")
        backend: Literal["head", "detoxify"] = Field(default="head", description="the shipped heads, or a Detoxify checkpoint")
        checkpoint: Path | None = Field(
            default=None, description="detoxify: a folder, or the name given to it by `modelwatch models add`"
        )
        label: str = Field(default="toxicity", description="the label whose probability is the value")
        device: str = Field(default="auto", description="detoxify: auto (CUDA where there is one, else CPU), or a torch device")
        max_windows: int = Field(default=200, ge=1, description="windows read of a text; what is left out is said")
        max_chars: int = Field(default=20_000, ge=100, description="characters read of a text; what is left out is said")

        @model_validator(mode="after")
        def _backend_has_what_it_needs(self) -> Self:
            if self.backend == "detoxify" and self.checkpoint is None:
                raise ValueError(
                    "backend detoxify needs a checkpoint: a folder, or the name of one placed by `modelwatch models add`; "
                    "`modelwatch models add --help` prints how to get one (nothing is downloaded)"
                )
            if self.backend == "head" and self.checkpoint is not None:
                raise ValueError("checkpoint belongs to backend: detoxify; leave it out, or set the backend")
            if self.backend == "head" and self.label not in LABELS:
                raise ValueError(f"label {self.label!r}: the shipped heads have {', '.join(LABELS)}")
            return self

    def __init__(self, config: Toxicity.Config | None = None) -> None:
        self.config = config or self.Config()
        self._backend: Backend | None = None

    @staticmethod
    def problem(config: Toxicity.Config) -> str | None:
        """What is wrong with the files that the settings name, or None. Quick: nothing is loaded."""
        from detectors.toxicity_detoxify import checkpoint_problem

        return checkpoint_problem(config.checkpoint) if config.checkpoint is not None else None

    def load(self, resources: Resources, head: Head | None = None) -> None:
        """`head` stands in for the shipped one. Raises `HeadDamaged`, `ModelMissing` or `ModelUnfit`."""
        if self.config.checkpoint is None:
            self._backend = Heads(head or read_head(), resources, LABELS.index(self.config.label))
        else:
            from detectors.toxicity_detoxify import Detoxify

            self._backend = Detoxify(self.config.checkpoint, self.config.device, self.config.label)

    def score(self, rows: Sequence[Row]) -> list[Score]:
        if self._backend is None:
            raise RuntimeError("toxicity: call load(resources) before score(rows)")
        read = [read_row(row, self.config, self._backend.window_chars) for row in rows]
        judged = self._backend.judge([case.text[a:b] for case in read if isinstance(case, Case) for a, b in case.windows])
        scores: list[Score] = []
        at = 0
        for case in read:
            if isinstance(case, Case):
                scores.append(self._said(case, judged, at))
                at += len(case.windows)
            else:
                scores.append(case)
        return scores

    def _said(self, case: Case, judged: Judged, first: int) -> Score:
        """`first`: where the windows of the case begin in `judged`."""
        assert self._backend is not None
        worst = int(np.argmax(judged.value[first : first + len(case.windows)]))
        window, i = case.windows[worst], first + worst
        detail: dict[str, Any] = {
            "labels": {name: float(p) for name, p in zip(self._backend.labels, judged.labels[i], strict=True)},
            "span": [window.start, window.end],
            "windows": len(case.windows),
        }
        if case.truncated or any(judged.cut[first : first + len(case.windows)]):
            detail["truncated"] = True
        return Score(Outcome.OK, float(judged.value[i]), stage=judged.stages[i], detail=detail)


class Case(NamedTuple):
    """A row that can be scored."""

    text: str
    windows: list[Window]
    truncated: bool


def read_row(row: Row, config: Toxicity.Config, window_chars: tuple[int, int]) -> Case | Score:
    """What there is to score, or why there is nothing."""
    text = row.get(config.of)
    if text is None:
        return Score.not_evaluable("content_off" if config.of == "response" else "no_question")
    if not isinstance(text, str):
        return Score.not_evaluable("wrong_type")
    if not text.strip():
        return Score.not_evaluable("empty_answer" if config.of == "response" else "no_question")
    least, size = window_chars
    found = windows(text[: config.max_chars], size, config.max_windows + 1, least=least)
    truncated = len(found) > config.max_windows or len(text) > config.max_chars
    if not found:  # nothing but white space before the limit
        return Score.not_evaluable("empty_answer" if config.of == "response" else "no_question")
    return Case(text, found[: config.max_windows], truncated)


# --- who judges ------------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    value: FloatArray  # (n,): the label that counts
    labels: FloatArray  # (n, labels)
    stages: list[str]
    cut: Sequence[bool] = ()  # (n,) where a model reads less than a window; none: it reads all


class Backend(Protocol):
    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def window_chars(self) -> tuple[int, int]:
        """Characters of a window, at least and at most."""
        ...

    def judge(self, texts: Sequence[str]) -> Judged:
        """Of n windows, in their order."""
        ...


class Heads:
    """The shipped heads. The second stage looks where the first one's toxicity, whatever label is asked for, is in the band."""

    labels = LABELS
    window_chars = HEAD_CHARS

    def __init__(self, head: Head, resources: Resources, label: int) -> None:
        self._static, self._encoder = resources.static(), resources.encoder()
        self._head = head
        self._label = label
        self._stages = [Stage("static", self._quick, lambda found: head.band.holds(found[0])), Stage("minilm", self._close)]
        used, trained = (self._static, self._encoder), (head.static, head.encoder)
        if (found := tuple(one.dimension for one in used)) != head.dimensions:
            raise ValueError(
                f"toxicity was trained on {trained} of {head.dimensions} numbers, not {[one.name for one in used]} of {found}; "
                "train it again with detectors.training.toxicity, or leave encoder.path out"
            )
        for one, name in zip(used, trained, strict=True):
            if one.name != name:
                log.warning(
                    "toxicity was trained on another encoder; train it again with detectors.training.toxicity",
                    extra={"trained": name, "used": one.name},
                )

    def judge(self, texts: Sequence[str]) -> Judged:
        answers = run([plain(text) for text in texts], self._stages)
        labels = np.array([one.result for one in answers], dtype=np.float64).reshape(len(answers), len(LABELS))
        return Judged(labels[:, self._label], labels, [one.stage for one in answers])

    def _quick(self, texts: Sequence[str], before: Sequence[FloatArray | None]) -> list[FloatArray]:
        return [*self._head.first.probabilities(grams(texts), self._static.encode(texts))]

    def _close(self, texts: Sequence[str], before: Sequence[FloatArray | None]) -> list[FloatArray]:
        # Features and static vectors anew, as few texts come here; the vectors are still in the cache.
        vectors = np.hstack([self._static.encode(texts), self._encoder.encode(texts)])
        return [*self._head.second.probabilities(grams(texts), vectors)]
