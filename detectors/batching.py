"""Texts to numbers in batches of like length, within the memory of the device."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence, Sized
from contextlib import nullcontext
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

# Texts of a call differ in length, and what a core saves by a larger batch it loses to padding: of the sentences of 32 rows
# 2,048 makes twice the tokens and takes twice as long as 256. Other devices want to be filled.
BATCH_TOKENS_CPU = 256
BATCH_TOKENS = 32_768


class OutOfDeviceMemory(RuntimeError):
    """The device has no room for this batch; a smaller one may fit."""


Input = TypeVar("Input")
Tokens = TypeVar("Tokens", bound=Sized)


class Model(Protocol[Input, Tokens]):
    """What batching needs of a loaded model: `width` numbers for each input, which is a text or a pair of them."""

    width: int
    device: str

    def tokenize(self, texts: list[Input]) -> list[Tokens]:
        """The tokens of each input, cut to what the model reads; none is without any."""
        ...

    def compute(self, tokens: list[Tokens]) -> NDArray[np.float32]:
        """float32 (len(tokens), width). Raises `OutOfDeviceMemory`."""
        ...

    def to_cpu(self) -> None: ...


class Batches(Generic[Input, Tokens]):
    """Runs a model over any number of texts. Safe to use from several threads: on a CPU they compute side by side, on another
    device one after another, as they share its memory. Texts are tokenized by one at a time.

    Where the device has no memory for a batch it is halved; where it has none for a single text the model moves to the CPU
    for good and `fallback_active` is True. `out_of_memory` counts how often there was none.
    """

    def __init__(self, model: Model[Input, Tokens], batch_tokens: int | None) -> None:
        self.model = model
        self.fallback_active = False
        self.out_of_memory = 0
        self._batch_tokens = batch_tokens
        self._tokenizing = threading.Lock()  # a tokenizer of transformers keeps its settings in itself
        self._device = threading.Lock()

    def run(self, texts: list[Input]) -> NDArray[np.float32]:
        out = np.empty((len(texts), self.model.width), dtype=np.float32)
        if texts:
            with self._tokenizing:
                tokens = self.model.tokenize(texts)
            limit = self._batch_tokens or (BATCH_TOKENS_CPU if self.model.device == "cpu" else BATCH_TOKENS)
            for batch in batches([len(one) for one in tokens], limit):
                with nullcontext() if self.model.device == "cpu" else self._device:
                    out[batch] = self._compute([tokens[i] for i in batch])
        return out

    def _compute(self, tokens: list[Tokens]) -> NDArray[np.float32]:
        try:
            return self.model.compute(tokens)
        except OutOfDeviceMemory:
            if self.model.device == "cpu":
                raise
            self.out_of_memory += 1
        # Out of the except clause, so that the failed attempt's tensors are not held by its traceback.
        if len(tokens) == 1:
            self.model.to_cpu()
            self.fallback_active = True
            return self._compute(tokens)
        middle = len(tokens) // 2
        return np.concatenate([self._compute(tokens[:middle]), self._compute(tokens[middle:])])


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of texts of like length together, the longest first, each batch at most `batch_tokens` with its padding.

    >>> list(batches([3, 90, 2, 100], 256))
    [[3, 1], [0, 2]]
    """
    # Longest first: a device with too little memory shows it at once, not after an hour.
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for i in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
