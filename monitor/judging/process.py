"""The judge's process: one event loop with ragas, where many scores are under way at once.

The daemon exchanges words with it several times a second: it hands over what is new, and hears what is done. Vectors of texts are
made by the scorer, which has the encoder: what is wanted goes out with one exchange, and comes back with a later one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectors.judge import Judge
from detectors.judging.book import Used
from detectors.judging.endpoint import EndpointConfig, Rates
from detectors.judging.engine import Engine, PutOff, Verdict
from detectors.judging.loop import Loop

TARGET = "monitor.judging.process:Serve"
Key = tuple[str, str, str, int]
"""Model, settings hash, record and input revision."""


@dataclass(frozen=True, slots=True)
class Item:
    key: Key
    settings: str  # of `Judge`, as JSON
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """`born` names the process that the limits are meant for: they are on its totals. None: whoever answers."""

    born: str | None
    new: tuple[Item, ...] = ()
    most_calls: float = 0.0
    most_usd: float = 0.0
    prices: Mapping[str, Rates] | None = None
    vectors: Mapping[int, Sequence[Sequence[float]] | None] | None = None  # None in it: there are none to be had
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """`used`, `calls` and `cost_usd` are totals since the process was born."""

    born: str
    done: tuple[tuple[Key, Verdict], ...]
    under_way: frozenset[Key]
    used: Mapping[str, Used]
    calls: int
    cost_usd: float
    wanted: Mapping[int, tuple[str, ...]]
    closed_seconds: float
    up: bool


def setup(endpoint: EndpointConfig) -> dict[str, Any]:
    """What `Serve` is given. It holds the key, and goes through a pipe."""
    given = endpoint.model_dump(mode="json", include=set(EndpointConfig.model_fields))
    if endpoint.api_key is not None:
        given["api_key"] = endpoint.api_key.get_secret_value()
    return given


class Serve:
    """Answers one exchange at a time."""

    def __init__(self, given: Mapping[str, Any], monotonic: Callable[[], float] = time.monotonic) -> None:
        """`given`: see `setup`."""
        self._loop = Loop("judge")

        async def made() -> Desk:
            return Desk(EndpointConfig.model_validate(given), monotonic)

        self._desk = self._loop.run(made())

    def __call__(self, exchange: Exchange) -> Progress:
        return self._loop.run(self._desk.exchange(exchange))

    def close(self) -> None:
        """For one in the process of somebody else."""
        self._loop.run(self._desk.close())
        self._loop.close()


class Desk:
    """Lives in the loop."""

    def __init__(self, endpoint: EndpointConfig, monotonic: Callable[[], float]) -> None:
        self._born = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._engine = Engine(endpoint, embed=self._embed, monotonic=monotonic)
        self._engine.book.most_calls = self._engine.book.most_usd = 0.0  # until somebody says more
        self._tasks: dict[Key, asyncio.Task[Verdict]] = {}
        self._wanted: dict[int, tuple[tuple[str, ...], asyncio.Future[Any]]] = {}
        self._count = 0
        self._something = asyncio.Event()

    async def exchange(self, given: Exchange) -> Progress:
        if given.born == self._born:
            self._engine.book.most_calls, self._engine.book.most_usd = given.most_calls, given.most_usd
            self._engine.book.prices = given.prices or {}
            for number, vectors in (given.vectors or {}).items():
                if number in self._wanted and not (found := self._wanted.pop(number)[1]).done():
                    found.set_result(vectors)
            for item in given.new:
                self._begin(item)
        if self._tasks and given.wait_seconds and not self._wanted:
            self._something.clear()
            if not any(task.done() for task in self._tasks.values()):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._something.wait(), given.wait_seconds)
        done = [key for key, task in self._tasks.items() if task.done()]
        book = self._engine.book
        return Progress(
            self._born,
            tuple((key, _verdict(self._tasks.pop(key))) for key in done),
            frozenset(self._tasks),
            {model: _copy(used) for model, used in book.used.items()},
            book.calls,
            book.cost_usd,
            {number: texts for number, (texts, _) in self._wanted.items()},
            book.closed_for(),
            book.up,
        )

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._engine.aclose()

    def _begin(self, item: Item) -> None:
        if item.key in self._tasks:
            return
        config = Judge.Config.model_validate(json.loads(item.settings))
        task = self._tasks[item.key] = asyncio.get_running_loop().create_task(self._engine.judge(config, item.row))
        task.add_done_callback(lambda _: self._something.set())

    async def _embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        self._count += 1
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._wanted[self._count] = (tuple(texts), found)
        self._something.set()
        vectors: Sequence[Sequence[float]] | None = await found
        if vectors is None:
            raise RuntimeError("there is no encoder to make vectors of texts")
        return vectors


def _copy(used: Used) -> Used:
    return Used(used.calls, used.input_tokens, used.output_tokens, used.cost_usd, Counter(used.codes))


def _verdict(task: asyncio.Task[Verdict]) -> Verdict:
    if (exc := task.exception()) is not None:  # a fault of ours: seen, tried again, and no end of the others
        return Verdict(PutOff("time_limit", f"{type(exc).__name__}: {exc}"[:300], 1.0), 0, 0.0)
    return task.result()
