"""Vectors of a window's rows: those that were sent along, and those of texts, which the scorer's encoder makes when a check
reads them.

    embedding                    what a prediction or a pushed generation carries under that name: a list of numbers
    embedding.question, .response, .system
                                 of that text, made by the encoder
    embedding.image, .audio, .video, .file
                                 sent with the first part of a message that is one (`vector`, or its dialect's word)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from detectors.contract import NotEvaluable
from monitor.child import Child
from monitor.helpers import EmbedRequest

Vectors = NDArray[np.float32]
Decode = Callable[[Sequence[str | None]], Vectors]
"""The column as it was read -> float32 (rows, dimension), NaN where a row has none."""

SENT = "embedding"
TEXTS = ("question", "response", "system")
MEDIA = ("image", "audio", "video", "file")

BATCH_TEXTS = 64  # at once: between two batches others are scored
SECONDS = 300.0
MAX_CHARACTERS = 20_000  # of a text; the encoder reads its beginning anyway
MAX_DIMENSION = 4096


class Encoding:
    """Texts to vectors, by the scorer. Each distinct text of a window is asked for once, and the encoder remembers them."""

    def __init__(self, scorer: Child) -> None:
        self._scorer = scorer

    def __call__(self, texts: Sequence[str | None]) -> Vectors:
        """
        Raises:
            ChildFailed: the scorer is away.
            Remote: the encoder cannot be loaded.
            NotEvaluable: no row has a text.
        """
        said = list(dict.fromkeys(text[:MAX_CHARACTERS] for text in texts if text and text.strip()))
        if not said:
            raise NotEvaluable("content_off", "no row of the window has this text")
        batches = (tuple(said[start : start + BATCH_TEXTS]) for start in range(0, len(said), BATCH_TEXTS))
        vectors = np.concatenate([self._scorer.call(EmbedRequest(batch), SECONDS) for batch in batches])
        place = {text: i for i, text in enumerate(said)}
        empty = np.full((1, vectors.shape[1]), np.nan, dtype=np.float32)
        chosen = [place.get(text[:MAX_CHARACTERS], len(said)) if text else len(said) for text in texts]
        return np.asarray(np.concatenate([vectors, empty])[chosen], dtype=np.float32)


def sent(column: Sequence[str | None]) -> Vectors:
    """Of JSON lists of numbers. What is no such list is no vector.

    Raises:
        NotEvaluable: no row has one, or type_changed: not all are of one length.
    """
    return stacked([_numbers(_parsed(text)) for text in column])


def of_media(kind: str) -> Decode:
    """Of JSON lists of messages: the vector of the first part of this kind that has one."""

    def decode(column: Sequence[str | None]) -> Vectors:
        return stacked([_first(_parsed(text), kind) for text in column])

    return decode


def stacked(rows: Sequence[Vectors | None]) -> Vectors:
    there = [row for row in rows if row is not None]
    if not there:
        raise NotEvaluable("missing_column", "no row of the window has a vector there")
    dimensions = sorted({len(row) for row in there})
    if len(dimensions) > 1:
        raise NotEvaluable("type_changed", f"vectors of {' and '.join(map(str, dimensions[:5]))} numbers in one window")
    empty = np.full(dimensions[0], np.nan, dtype=np.float32)
    return np.stack([empty if row is None else row for row in rows])


def _parsed(text: str | None) -> Any:
    if not text:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _numbers(value: Any) -> Vectors | None:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_DIMENSION:
        return None
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in value):
        return None
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and detectors leave that out
        return np.asarray(value, dtype=np.float64).astype(np.float32)


def _first(messages: Any, kind: str) -> Vectors | None:
    for message in messages if isinstance(messages, list) else ():
        parts = message.get("parts", message.get("content")) if isinstance(message, Mapping) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, Mapping) and part.get("type") == kind and (found := _numbers(part.get("vector"))) is not None:
                return found
    return None
